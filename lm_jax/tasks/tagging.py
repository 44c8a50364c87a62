"""The task of giving each word of a text a label, such as its part of speech."""

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
from lm_jax.models.base import ModelConfig
from lm_jax.models.heads import LabelModel
from lm_jax.tasks.base import Figure, Process, Task
from lm_jax.tasks.classification import (
    check_classes,
    check_head,
    class_figures,
    class_losses,
    resolve_classes,
)
from lm_jax.tasks.frames import Frame, LabelBatch, draw_documents, windows


@dataclass(frozen=True)
class Tagging(Task[LabelBatch]):
    """Minimises the mean of −ln p(tag | text) over words, in nats.

    A word's tag is predicted at its first token (Devlin et al. 2019, section 5.3); a word without a token has
    none. A text that is longer than `data.sequence_length` is read in several rows, each word in one.
    """

    name: ClassVar[str] = "tagging"
    adapter: ClassVar[str] = "tagger"
    evaluator: ClassVar[str] = "tagging"
    predicts_tokens: ClassVar[bool] = False

    label: str = "tags"  # the field with the list of tags, one for each word
    classes: tuple[str, ...] = ()  # the names of the tags, sorted; those of the training part by default
    hidden_layer: bool = False  # a dense layer with tanh in the head
    dropout: float = 0.1  # in the head
    num_examples: int = 0  # training texts that are read, chosen by train.seed, for learning curves; 0: all
    label_smoothing: float = 0.0  # share of the tag's probability spread over all tags, in training

    def check(self, model: ModelConfig, data: DataConfig) -> None:
        """Raises UserError for an invalid value, or one that does not fit the model or the data."""
        check_head(self, model, data)
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"task.label_smoothing={self.label_smoothing}", "it must lie in [0, 1)")
        if data.sequence_length < 3:
            raise UserError(f"data.sequence_length={data.sequence_length}", "give 3 or more")

    def fields(self) -> Fields:
        """The tags."""
        return Fields(tags=(self.label,))

    def resolved(self, classes: Mapping[str, Sequence[str]]) -> Self:
        """The task with the tags of the data; see `resolve_classes`."""
        return replace(self, classes=resolve_classes(self.classes, classes, self.label))

    def make(self, model: ModelConfig) -> nn.Module:
        """The model with a head of scores at each position."""
        return LabelModel(
            model.make(),
            len(check_classes(self.classes)),
            "each",
            has_pooler=getattr(model, "pooler", False),
            hidden_layer=self.hidden_layer,
            dropout=self.dropout,
            dtype=jnp.dtype(getattr(model, "dtype", "float32")),
            mix=getattr(model, "mix", "top"),
        )

    def source(self, split: Split, data: DataConfig, batch_size: int, seed: int) -> Source:
        """Each text once an epoch; rows of similar length meet."""
        chosen = draw_documents(split.num_documents, self.num_examples, seed)
        texts = _Texts(split, self.label, data.sequence_length, chosen)
        return Examples(texts.lengths, (data.sequence_length,), texts.assemble, batch_size, seed)

    def held_out(
        self, split: Split, data: DataConfig, model: ModelConfig, batch_size: int, process: Process
    ) -> Iterator[LabelBatch]:
        """Each text once."""
        texts = _Texts(split, self.label, data.sequence_length, np.arange(split.num_documents))
        limits = (data.sequence_length,)
        return held_out_examples(
            texts.lengths, limits, texts.assemble, batch_size, process.index, process.count
        )

    def shapes(self, data: DataConfig, batch_size: int) -> LabelBatch:
        """The largest batch; rows of other batches are shorter."""
        tokens: Any = jax.ShapeDtypeStruct((batch_size, data.sequence_length), jnp.int32)
        return LabelBatch(tokens, tokens, tokens, tokens, tokens.update(dtype=jnp.float32))

    def weights(self, batch: LabelBatch) -> dict[str, jax.Array]:
        """The number of words that have a token."""
        return {"nats": jnp.sum(batch.weights)}

    def losses(
        self,
        module: nn.Module,
        params: Any,
        batch: LabelBatch,
        carry: Any = None,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> tuple[dict[str, Sums], Any]:
        """Nats of the tags, and in evaluation the number of words whose most probable tag is right."""
        return class_losses(module, params, batch, rngs, self.label_smoothing), carry

    def figures(self, sums: Mapping[str, Sums], split: Split, data: Data) -> list[Figure]:
        """Nats per word, and accuracy."""
        return class_figures(sums, "nats/word")


class _Texts:
    """Texts of a part as rows of at most a number of tokens, with the tags of their words.

    Attributes:
        lengths: int64 [N], of the rows.
    """

    def __init__(self, split: Split, field: str, length: int, chosen: np.ndarray):
        self._frame, self._stream, self._tags = Frame.of(split.tokenizer), split.stream, split.tags(field)
        rows, lengths = [], self._stream.lengths
        for i in chosen.tolist():
            places_W = self._tags.places[self._tags.offsets[i] : self._tags.offsets[i + 1]]
            rows += [(i, *window) for window in windows(int(lengths[i]), places_W, length - 2)]
        self._rows_N3 = np.array(rows, np.int64)
        self.lengths = self._frame.lengths(self._rows_N3[:, 2] - self._rows_N3[:, 1])

    def assemble(self, rows: Rows) -> LabelBatch:
        """The batch of these rows; a pure function."""
        [length] = rows.lengths
        labels_BT = np.zeros((len(rows.indices), length), np.int32)
        weights_BT, texts = np.zeros(labels_BT.shape, np.float32), []
        for row, index in enumerate(rows.indices):
            document, start, end = self._rows_N3[index].tolist()
            texts.append(self._stream.document(document)[start:end])
            words = slice(*self._tags.offsets[document : document + 2])
            places_W, classes_W = self._tags.places[words], self._tags.classes[words]
            inside_W = (places_W >= start) & (places_W < end)
            labels_BT[row, places_W[inside_W] - start + 1] = classes_W[inside_W]
            weights_BT[row, places_W[inside_W] - start + 1] = rows.weights[row]
        return LabelBatch(*self._frame.rows(texts, None, length), labels_BT, weights_BT)
