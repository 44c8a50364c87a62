"""The parts of a trained module, from which adapters make language models."""

from typing import Any, NamedTuple

from flax import linen as nn
from jax.sharding import Mesh

from lm_jax.models.base import ModelConfig
from lm_jax.tasks.base import Task
from lm_jax.text.base import Tokenizer


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
    """

    config: ModelConfig
    module: nn.Module
    params: Any
    tokenizer: Tokenizer
    task: Task | None = None
    documents: str = "file"
    step: int | None = None
    mesh: Mesh | None = None
