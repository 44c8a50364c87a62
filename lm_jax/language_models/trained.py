"""The parts of a trained module, from which adapters make language models."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import jax
from flax import linen as nn
from jax.sharding import Mesh

from lm_jax.models.base import ModelConfig
from lm_jax.ngram.spelling import Speller
from lm_jax.parallel.sharding import by_rows
from lm_jax.tasks.base import Task
from lm_jax.text.base import Tokenizer

_Made = TypeVar("_Made")


def shared(make: Callable[[nn.Module], _Made], module: nn.Module) -> _Made:
    """`make(module)`: one object for equal modules, so that models of one shape share compiled programs."""
    try:
        hash(module)
    except TypeError:  # a field of a module outside this package may have no hash
        return make(module)
    return _shared(make, module)


@lru_cache(maxsize=64)
def _shared(make: Callable[[nn.Module], _Made], module: nn.Module) -> _Made:
    return make(module)


class Trained(NamedTuple):
    """A module with its parameters, its tokenizer, and its origin.

    Attributes:
        config: the model's config, resolved.
        module: the linen module.
        params: its variables, on the devices of `mesh`.
        tokenizer: from text to ids.
        task: the task that it was trained for; None for a published model.
        documents: how its training text was cut into documents: file, line or paragraph.
        step: the number of updates; None for a published model.
        mesh: the devices that share the parameters and the rows; None: one device.
        length: the tokens of a row in training; 0 for a published model.
        speller: gives the bytes of words a probability; None of a model whose tokens are no words.
        generation: options of `generate` that a published model brings, where the caller gives none.
    """

    config: ModelConfig
    module: nn.Module
    params: Any
    tokenizer: Tokenizer
    task: Task | None = None
    documents: str = "file"
    step: int | None = None
    mesh: Mesh | None = None
    length: int = 0
    speller: Speller | None = None
    generation: Mapping[str, Any] = MappingProxyType({})

    def num_rows(self, num_texts: int, most: int) -> int:
        """Rows of a batch for so many texts: one of few sizes, a multiple of the number of devices."""
        rows = min(1 << (num_texts - 1).bit_length(), most)
        shares = 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        return -(-rows // shares) * shares

    def placed(self, rows: Any) -> Any:
        """Arrays of rows, sharded over the devices."""
        if self.mesh is None or self.mesh.size == 1:
            return rows
        return jax.device_put(rows, by_rows(self.mesh))
