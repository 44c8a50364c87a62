"""What a task must offer, and the names of the tasks there are.

A task owns its batch: how documents become batches, what is minimised over a batch and by what it is divided,
and which kind of language model comes out. The training step, checkpoints and the mesh treat batches as
pytrees whose leaves have the row first.

To add a task: a frozen dataclass that extends `Task`, and `@TASKS.register("NAME")` above it.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax.batch import Sums
from lm_jax.data.batches import Source
from lm_jax.data.documents import NO_FIELDS, Fields
from lm_jax.data.pipeline import Data, DataConfig
from lm_jax.data.store import Split
from lm_jax.errors import UserError, with_article
from lm_jax.models.base import ModelConfig
from lm_jax.registry import Registry

B = TypeVar("B")


@dataclass(frozen=True)
class Process:
    """The share of each batch's rows that a process reads, of several equal shares."""

    index: int = 0
    count: int = 1


class Figure(NamedTuple):
    """A number measured on the validation part.

    Attributes:
        name: its key in metrics.jsonl.
        value: the number.
        unit: such as "nats/token".
    """

    name: str
    value: float
    unit: str


@dataclass(frozen=True)
class Task(abc.ABC, Generic[B]):
    """A frozen dataclass whose fields are those of its part `task` in a recipe. B is the type of a batch.

    Attributes:
        name: the task's name in recipes, run directories and reports.
        adapter: the kind of language model that a run of this task holds; see
            `language_models.load.ADAPTERS`.
        evaluator: how such a model is evaluated; see `evaluation.EVALUATORS`.
        free_heads: parts of the head that no other part depends on: a run that starts from a model of the
            task takes the rest where either lacks them.
        predicts_tokens: whether the head belongs to the tokens of a vocabulary.
    """

    name: ClassVar[str]
    adapter: ClassVar[str]
    evaluator: ClassVar[str]
    free_heads: ClassVar[tuple[str, ...]] = ()
    predicts_tokens: ClassVar[bool] = True

    def check(self, model: ModelConfig, data: DataConfig) -> None:
        """Raises UserError for an invalid value, or one that does not fit the model or the data."""

    def fields(self) -> Fields:
        """The fields of documents that the task reads beside their text."""
        return NO_FIELDS

    def resolved(self, classes: Mapping[str, Sequence[str]]) -> Self:
        """The task with the fields filled in that it leaves to the data.

        Args:
            classes: by label field, the names of the classes that the training part has.
        """
        return self

    def make(self, model: ModelConfig) -> nn.Module:
        """The module that is trained: the model's own, or one with an additional head."""
        return model.make()

    def init(self, module: nn.Module, key: jax.Array, length: int) -> Any:
        """The first variables of the module for rows of `length` tokens; pure."""
        return module.init(key, jnp.zeros((1, length), jnp.int32))

    def init_carry(self, module: nn.Module, model: ModelConfig, data: DataConfig, batch_size: int) -> Any:
        """What `losses` carries from batch to batch before the first one: a pytree of rows; None: nothing."""
        return None

    @abc.abstractmethod
    def source(self, split: Split, data: DataConfig, batch_size: int, seed: int) -> Source:
        """Batches for training: a pure function of the seed, the step and the row.

        Raises:
            UserError: a part from which no batch can be made.
        """

    @abc.abstractmethod
    def held_out(
        self, split: Split, data: DataConfig, model: ModelConfig, batch_size: int, process: Process
    ) -> Iterator[B]:
        """Batches that hold each example of a part once, always in the same order and with the same noise."""

    @abc.abstractmethod
    def shapes(self, data: DataConfig, batch_size: int) -> B:
        """The shapes and dtypes of a batch of `source`, as `jax.ShapeDtypeStruct`s."""

    def num_tokens(self, data: DataConfig, batch_size: int) -> int:
        """The number of tokens in a batch, by which speed is reported."""
        return batch_size * data.sequence_length

    @abc.abstractmethod
    def weights(self, batch: B) -> Mapping[str, jax.Array]:
        """The denominator of each loss, a sum over the rows of a batch that needs no model; the main loss
        first.
        """

    @abc.abstractmethod
    def losses(
        self,
        module: nn.Module,
        params: Any,
        batch: B,
        carry: Any = None,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> tuple[dict[str, Sums], Any]:
        """The losses over the rows of a batch, by the names that `weights` gives, and the next carry.

        The training step minimises the sum over losses k of total_k / W_k, where W_k is the denominator
        summed over the whole batch of all devices, hosts and accumulated parts.

        Args:
            module: what `make` gives.
            params: its variables.
            batch: any number of rows.
            carry: see `init_carry`.
            rngs: keys for dropout; None: evaluation, with the reported losses only.
        """

    def rate_factor(self, batch: B, data: DataConfig) -> float | None:
        """The factor of the learning rate for a batch of this shape; None: 1."""
        return None

    @abc.abstractmethod
    def figures(self, sums: Mapping[str, Sums], split: Split, data: Data) -> list[Figure]:
        """The figures of the validation part, from its summed losses; the best checkpoint minimises the
        first.
        """


# By `ModelConfig.reads`.
_NO_WORDS = ("byte", "char", "bpe", "bpe-bart", "wordpiece", "wordpiece-uncased")
_TASK_OF = {"left to right": "causal", "both sides": "masked", "each side": "bidirectional"}


def check_reads(task: Task, model: ModelConfig, wanted: str) -> None:
    """Raises UserError for a model that does not read as the task needs it: see `ModelConfig.reads`."""
    if model.reads != wanted:
        other = _TASK_OF.get(model.reads, "seq2seq")
        raise UserError(
            f"task={task.name} with model={model.family}, which reads {model.reads}",
            f"choose another model, or task={other}",
        )


def check_words(model: ModelConfig, data: DataConfig) -> None:
    """Raises UserError for a model that reads the characters of words, with tokens that are no words."""
    if model.spells and data.tokenizer in _NO_WORDS:
        kind = with_article(model.family)
        raise UserError(
            f"{kind} model reads the characters of words, and data.tokenizer={data.tokenizer}",
            "set data.tokenizer=word",
        )


def check_length(model: ModelConfig, data: DataConfig) -> None:
    """Raises UserError for rows that are longer than the model's context."""
    if model.context_length and model.context_length < data.sequence_length:
        raise UserError(
            f"data.sequence_length={data.sequence_length} exceeds the model's context",
            f"set it to at most model.max_length={model.context_length}, or raise that",
        )


TASKS: Registry[type[Task]] = Registry(
    "task",
    {
        "bidirectional": "lm_jax.tasks.bidirectional:Bidirectional",
        "causal": "lm_jax.tasks.causal:Causal",
        "classification": "lm_jax.tasks.classification:Classification",
        "denoising": "lm_jax.tasks.denoising:Denoising",
        "masked": "lm_jax.tasks.masked:Masked",
        "regression": "lm_jax.tasks.classification:Regression",
        "seq2seq": "lm_jax.tasks.seq2seq:Seq2Seq",
        "tagging": "lm_jax.tasks.tagging:Tagging",
    },
)
