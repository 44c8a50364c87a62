"""The tasks of classifying texts or pairs of texts, and of predicting a number for each."""

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm_jax.batch import Sums
from lm_jax.data.batches import Source
from lm_jax.data.documents import Fields
from lm_jax.data.examples import Examples, Rows, held_out_examples
from lm_jax.data.pipeline import Data, DataConfig
from lm_jax.data.store import Split
from lm_jax.errors import UserError
from lm_jax.metrics import likelihood
from lm_jax.models.base import ModelConfig
from lm_jax.models.heads import LabelModel
from lm_jax.tasks.base import Figure, Process, Task, check_length, check_words
from lm_jax.tasks.frames import Frame, LabelBatch, draw_documents

_POOLINGS = ("", "first", "last", "mean")
_NATS, _ACCURACY, _ERROR = "nats", "accuracy", "squared_error"


@dataclass(frozen=True)
class _OfTexts(Task[LabelBatch]):
    """What tasks share that give each text, or pair of texts, a label.

    A row is [CLS] a [SEP], or [CLS] a [SEP] b [SEP] for a pair, with the end token in place of both where the
    tokenizer lacks them. Texts are cut to `data.sequence_length` tokens (see `Frame.rows`).
    """

    label: str = "label"  # the field with the label
    second: str = ""  # the field with the second text of a pair; "": there is none
    pooling: str = ""  # which positions are read: first, last, or the mean; "": as the model does
    hidden_layer: bool = False  # a dense layer with tanh in the head, as in RoBERTa's
    dropout: float = 0.1  # in the head
    num_examples: int = 0  # training texts that are read, chosen by train.seed, for learning curves; 0: all

    def check(self, model: ModelConfig, data: DataConfig) -> None:
        """Raises UserError for an invalid value, or one that does not fit the model or the data."""
        check_head(self, model, data)
        if self.pooling not in _POOLINGS:
            raise UserError(f"task.pooling={self.pooling!r}", "choose first, last or mean, or leave it empty")
        least = 5 if self.second else 3
        if data.sequence_length < least:
            raise UserError(f"data.sequence_length={data.sequence_length}", f"give {least} or more")
        if self.second and getattr(model, "num_types", 2) == 1:
            raise UserError("task.second with model.num_types=1", "set model.num_types to 2, or to 0")

    def _model(self, model: ModelConfig, num_outputs: int) -> nn.Module:
        return LabelModel(
            model.make(),
            num_outputs,
            self.pooling or model.pooling,
            has_pooler=getattr(model, "pooler", False),
            hidden_layer=self.hidden_layer,
            dropout=self.dropout,
            dtype=jnp.dtype(getattr(model, "dtype", "float32")),
            mix=getattr(model, "mix", "top"),
        )

    def source(self, split: Split, data: DataConfig, batch_size: int, seed: int) -> Source:
        """Each text once an epoch; rows of similar length meet."""
        chosen = draw_documents(split.num_documents, self.num_examples, seed)
        labels_N = self._labels(split)[chosen]
        texts = _Texts(split, self.second, chosen, labels_N, self._example_weights(labels_N))
        return Examples(texts.lengths, (data.sequence_length,), texts.assemble, batch_size, seed)

    def held_out(
        self, split: Split, data: DataConfig, model: ModelConfig, batch_size: int, process: Process
    ) -> Iterator[LabelBatch]:
        """Each text once, with the weight 1."""
        all_of_it, weights = np.arange(split.num_documents), np.ones(split.num_documents, np.float32)
        texts = _Texts(split, self.second, all_of_it, self._labels(split), weights)
        limits = (data.sequence_length,)
        return held_out_examples(
            texts.lengths, limits, texts.assemble, batch_size, process.index, process.count
        )

    @abc.abstractmethod
    def _labels(self, split: Split) -> np.ndarray:
        """The label of each text, [D]."""

    def _example_weights(self, labels_N: np.ndarray) -> np.ndarray:
        return np.ones(len(labels_N), np.float32)

    def shapes(self, data: DataConfig, batch_size: int) -> LabelBatch:
        """The largest batch; rows of other batches are shorter."""
        tokens: Any = jax.ShapeDtypeStruct((batch_size, data.sequence_length), jnp.int32)
        number: Any = jax.ShapeDtypeStruct((batch_size,), jnp.float32)
        labels: Any = jax.ShapeDtypeStruct((batch_size,), self._labels_dtype)
        return LabelBatch(tokens, tokens, tokens, labels, number)

    _labels_dtype: ClassVar[Any] = jnp.float32


@dataclass(frozen=True)
class Classification(_OfTexts):
    """Minimises Σ w_i · −ln p(class_i | text_i) / Σ w_i, in nats, where w_i is the weight of the class."""

    name: ClassVar[str] = "classification"
    adapter: ClassVar[str] = "classifier"
    evaluator: ClassVar[str] = "classification"
    predicts_tokens: ClassVar[bool] = False
    _labels_dtype: ClassVar[Any] = jnp.int32

    classes: tuple[str, ...] = ()  # the names of the classes, sorted; those of the training part by default
    class_weights: str = "none"  # none, balanced (1 / frequency), or a number for each class, in training
    label_smoothing: float = 0.0  # share of the class's probability spread over all classes, in training

    def check(self, model: ModelConfig, data: DataConfig) -> None:
        """Raises UserError for an invalid value, or one that does not fit the model or the data."""
        super().check(model, data)
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"task.label_smoothing={self.label_smoothing}", "it must lie in [0, 1)")
        self._numbers()

    def fields(self) -> Fields:
        """The label, and the second text where there is one."""
        return Fields(texts=(self.second,) if self.second else (), labels=(self.label,))

    def resolved(self, classes: Mapping[str, Sequence[str]]) -> Self:
        """The task with the classes of the data; see `resolve_classes`."""
        names = resolve_classes(self.classes, classes, self.label)
        if any(not _is_whole(name) for name in names) and all(map(_is_number, names)):
            raise UserError(
                f"the labels in the field {self.label!r} are numbers, such as {names[-1]}",
                "set task=regression, or give whole numbers or names as classes",
            )
        if (numbers := self._numbers()) and len(numbers) != len(names):
            raise UserError(
                f"task.class_weights has {len(numbers)} numbers for {len(names)} classes",
                f"give one for each of {', '.join(names)}",
            )
        return replace(self, classes=names)

    def make(self, model: ModelConfig) -> nn.Module:
        """The model with a head of class scores."""
        return self._model(model, len(check_classes(self.classes)))

    def _labels(self, split: Split) -> np.ndarray:
        return split.labels(self.label)

    def _numbers(self) -> list[float]:
        """The numbers that `class_weights` gives; none for "none" and "balanced"."""
        if self.class_weights in ("none", "balanced"):
            return []
        try:
            numbers = [float(part) for part in self.class_weights.split(",")]
        except ValueError:
            numbers = [-1.0]
        if not all(0 < number < np.inf for number in numbers):
            raise UserError(
                f"task.class_weights={self.class_weights!r}",
                "choose none, balanced, or numbers above 0 with commas between them",
            )
        return numbers

    def _example_weights(self, labels_N: np.ndarray) -> np.ndarray:
        """The weight of each text's class: for "balanced" N / (C · N_class), whose mean over texts is 1."""
        weights = np.ones(len(self.classes))
        if self.class_weights == "balanced":
            counts = np.bincount(labels_N, minlength=len(self.classes))
            weights = len(labels_N) / (len(self.classes) * np.maximum(counts, 1))
        return np.asarray(self._numbers() or weights, np.float32)[labels_N]

    def weights(self, batch: LabelBatch) -> dict[str, jax.Array]:
        """The sum of the weights of the texts."""
        return {_NATS: jnp.sum(batch.weights)}

    def losses(
        self,
        module: nn.Module,
        params: Any,
        batch: LabelBatch,
        carry: Any = None,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> tuple[dict[str, Sums], Any]:
        """Nats of the classes, and in evaluation the number of texts whose most probable class is right."""
        return class_losses(module, params, batch, rngs, self.label_smoothing), carry

    def figures(self, sums: Mapping[str, Sums], split: Split, data: Data) -> list[Figure]:
        """Nats per text, and accuracy."""
        return class_figures(sums, "nats/text")


@dataclass(frozen=True)
class Regression(_OfTexts):
    """Minimises the mean of (number − prediction)², in the units of the number."""

    name: ClassVar[str] = "regression"
    adapter: ClassVar[str] = "regressor"
    evaluator: ClassVar[str] = "regression"
    predicts_tokens: ClassVar[bool] = False

    def fields(self) -> Fields:
        """The number, and the second text where there is one."""
        return Fields(texts=(self.second,) if self.second else (), numbers=(self.label,))

    def make(self, model: ModelConfig) -> nn.Module:
        """The model with a head of one number."""
        return self._model(model, 1)

    def _labels(self, split: Split) -> np.ndarray:
        return split.numbers(self.label).astype(np.float32)

    def weights(self, batch: LabelBatch) -> dict[str, jax.Array]:
        """The number of texts."""
        return {_ERROR: jnp.sum(batch.weights)}

    def losses(
        self,
        module: nn.Module,
        params: Any,
        batch: LabelBatch,
        carry: Any = None,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> tuple[dict[str, Sums], Any]:
        """The sum of squared errors."""
        errors_B = apply(module, params, batch, rngs)[:, 0] - batch.labels
        total = jnp.sum(jnp.square(errors_B) * batch.weights)
        return {_ERROR: Sums(total, jnp.sum(batch.weights))}, carry

    def figures(self, sums: Mapping[str, Sums], split: Split, data: Data) -> list[Figure]:
        """The mean squared error."""
        return [Figure("valid_loss", float(sums[_ERROR].mean), "squared error")]


class _Texts:
    """Texts of a part, or pairs, with labels and weights.

    Attributes:
        lengths: int64 [N], of the rows of texts that are not cut.
    """

    def __init__(
        self, split: Split, second: str, chosen_N: np.ndarray, labels_N: np.ndarray, weights_N: np.ndarray
    ):
        self._frame = Frame.of(split.tokenizer)
        self._first = split.stream
        self._second = split.field_tokens(second) if second else None
        self._chosen_N, self._labels_N, self._weights_N = chosen_N, labels_N, weights_N
        seconds = None if self._second is None else self._second.lengths[chosen_N]
        self.lengths = self._frame.lengths(self._first.lengths[chosen_N], seconds)

    def assemble(self, rows: Rows) -> LabelBatch:
        """The batch of these texts; a pure function."""
        [length] = rows.lengths
        indices = self._chosen_N[rows.indices].tolist()
        firsts = [self._first.document(i) for i in indices]
        seconds = None if self._second is None else [self._second.document(i) for i in indices]
        framed = self._frame.rows(firsts, seconds, length)
        weights_B = rows.weights * self._weights_N[rows.indices]
        return LabelBatch(*framed, self._labels_N[rows.indices], weights_B)


def check_head(task: Task, model: ModelConfig, data: DataConfig) -> None:
    """Raises UserError for fields that do not fit a task with a head of its own and rows of one text."""
    check_length(model, data)
    check_words(model, data)
    if data.order == "contiguous" or data.separate_documents:
        wrong = "data.order=contiguous" if data.order == "contiguous" else "data.separate_documents"
        raise UserError(f"{wrong} with task={task.name}, whose rows are single texts", "leave it out")
    num_examples: Any = getattr(task, "num_examples", 0)
    if num_examples < 0:
        raise UserError(f"task.num_examples={num_examples}", "it must be 0 or more")
    dropout: Any = getattr(task, "dropout", 0.0)
    if not 0 <= dropout < 1:
        raise UserError(f"task.dropout={dropout}", "it must lie in [0, 1)")


def resolve_classes(
    given: Sequence[str], classes: Mapping[str, Sequence[str]], field: str
) -> tuple[str, ...]:
    """The classes of a field in the training data.

    Args:
        given: the recipe's; none are left to the data.
        classes: by field, those of the data.
        field: the field.

    Raises:
        UserError: there is only one class, or others than are given.
    """
    names = tuple(classes.get(field, given))
    if len(names) == 1:
        raise UserError(
            f"all training documents have the label {names[0]!r} in the field {field!r}",
            "give documents of two classes or more, or name another field",
        )
    if given and tuple(given) != names:
        raise UserError(
            f"task.classes={','.join(given)}, but the training documents have {','.join(names)}",
            "leave task.classes out",
        )
    return names


def check_classes(classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes. Raises UserError if there are none."""
    if not classes:
        raise UserError("task.classes is empty", "name the classes, with commas between them")
    return classes


def apply(module: nn.Module, params: Any, batch: LabelBatch, rngs: Mapping[str, jax.Array] | None) -> Any:
    """The module's outputs for a batch; with dropout if there are keys."""
    train = rngs is not None
    keys = None if rngs is None else dict(rngs)
    return module.apply(params, batch.tokens, batch.segments, batch.types, train=train, rngs=keys)


def class_losses(
    module: nn.Module,
    params: Any,
    batch: LabelBatch,
    rngs: Mapping[str, jax.Array] | None,
    label_smoothing: float,
) -> dict[str, Sums]:
    """Nats of the labels, over texts or words, and without keys for dropout the number of right ones."""
    logits = apply(module, params, batch, rngs)
    if rngs is not None:
        smoothing = label_smoothing
        return {
            _NATS: likelihood.cross_entropy(logits, batch.labels, batch.weights, label_smoothing=smoothing)
        }
    right = (jnp.argmax(logits, axis=-1) == batch.labels) * batch.weights
    return {
        _NATS: likelihood.cross_entropy(logits, batch.labels, batch.weights),
        _ACCURACY: Sums(jnp.sum(right), jnp.sum(batch.weights)),
    }


def class_figures(sums: Mapping[str, Sums], unit: str) -> list[Figure]:
    """Nats and accuracy."""
    return [
        Figure("valid_loss", float(sums[_NATS].mean), unit),
        Figure("valid_accuracy", float(sums[_ACCURACY].mean), "accuracy"),
    ]


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _is_whole(name: str) -> bool:
    return _is_number(name) and "." not in name and "e" not in name.lower()
