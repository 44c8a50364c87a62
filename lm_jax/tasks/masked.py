"""The task of BERT: predicting masked tokens from both sides, and whether one text follows another."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm_jax.batch import Array, Sums
from lm_jax.data import pairs as sentence_pairs
from lm_jax.data.batches import Windows, evaluation_batches, share
from lm_jax.data.corruption import UNITS, Masking, mask_rows
from lm_jax.data.pairs import PairTable
from lm_jax.data.pipeline import Data, DataConfig
from lm_jax.data.store import Split
from lm_jax.errors import UserError
from lm_jax.metrics import likelihood
from lm_jax.models.base import ModelConfig
from lm_jax.models.heads import MaskedModel
from lm_jax.models.layers import gelu, gelu_exact
from lm_jax.tasks.base import Figure, Process, Task, check_length, check_reads
from lm_jax.tasks.frames import framed

_MASKED, _PAIRS = "masked_nats", "pair_nats"
_ACCURACIES = {_MASKED: "masked_accuracy", _PAIRS: "pair_accuracy"}
_TABLES = {"next": sentence_pairs.next_sentence_pairs, "order": sentence_pairs.sentence_order_pairs}
_KINDS_OF_PAIRS = ("none", *_TABLES)
_STREAM = 1  # of random numbers, another one than that of the windows
_HELD_OUT_SEED = 0  # of the noise in held-out text, the same for every run
HELD_OUT = Masking()  # of held-out text: that of the published model, so that all models are asked alike


class MaskedBatch(NamedTuple):
    """Rows of text in which some tokens are to be predicted.

    Attributes:
        inputs: int32 [B, T] token ids, some of them masked.
        segments: int32 [B, T]; negative at padding; None: no padding, and each row is one text.
        positions: int32 [B, P] of the tokens to predict; 0 where a row has fewer than P.
        targets: int32 [B, P], these tokens.
        weights: float32 [B, P]; 0 where there is no token to predict.
        types: int32 [B, T]; 1 for the second text of a pair; None: no pairs.
        pair_labels: int32 [B]; 1 if the second text does not follow the first one; None: no pairs.
        pair_weights: float32 [B]; 0 for a row without a pair.
    """

    inputs: Array
    segments: Array | None
    positions: Array
    targets: Array
    weights: Array
    types: Array | None = None
    pair_labels: Array | None = None
    pair_weights: Array | None = None


@dataclass(frozen=True)
class Masked(Task[MaskedBatch]):
    """Minimises -log p of each masked token, and of each pair's label, each in nats divided by their number.

    Devlin et al. 2019, section 3.1 and appendix A; whole words: their later release; spans: Joshi et al.
    2020 (SpanBERT), section 3.1; sentence order: Lan et al. 2020 (ALBERT), section 3.1; packed rows without
    pairs: Liu et al. 2019 (RoBERTa), section 4.2. The noise is drawn anew at each step.
    """

    name: ClassVar[str] = "masked"
    adapter: ClassVar[str] = "masked"
    evaluator: ClassVar[str] = "masked"
    free_heads: ClassVar[tuple[str, ...]] = ("pairs",)

    rate: float = 0.15  # share of the tokens that are predicted
    unit: str = "token"  # what is masked together: token, word or span
    exact: bool = True  # the rate decides the number of predictions in each row, or each one's probability
    max_predictions: int = 0  # most predictions in a row; 0: as many as the rate gives
    mask_share: float = 0.8  # share of the predicted tokens that become [MASK]
    random_share: float = 0.1  # share of the predicted tokens that become a random token; the rest stay
    pairs: str = "none"  # none: packed rows; next: does B follow A; order: are A and B in their order
    short_share: float = 0.1  # share of the documents whose pairs are shorter than the row

    @property
    def masking(self) -> Masking:
        """How tokens are chosen and replaced."""
        names = [field.name for field in dataclasses.fields(Masking)]
        return Masking(**{name: getattr(self, name) for name in names if hasattr(self, name)})

    def check(self, model: ModelConfig, data: DataConfig) -> None:
        """Raises UserError for an invalid value, or one that does not fit the model or the data."""
        check_reads(self, model, "both sides")
        for name, options in (("unit", UNITS), ("pairs", _KINDS_OF_PAIRS)):
            if getattr(self, name) not in options:
                raise UserError(f"task.{name}={getattr(self, name)!r}", f"choose one of {', '.join(options)}")
        for name in ("mask_share", "random_share", "short_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"task.{name}={getattr(self, name)}", "it must lie in [0, 1]")
        if not 0 < self.rate < 1:
            raise UserError(f"task.rate={self.rate}", "it must lie between 0 and 1")
        if self.mask_share + self.random_share > 1:
            raise UserError(
                f"task.mask_share={self.mask_share} and task.random_share={self.random_share} exceed 1",
                "make their sum 1 or less",
            )
        if self.max_predictions < 0:
            raise UserError(f"task.max_predictions={self.max_predictions}", "it must be 0 or more")
        if data.order != "shuffled":
            raise UserError(f"data.order={data.order} with task=masked", "set data.order=shuffled")
        least = 4 if self.pairs == "none" else 8
        if data.sequence_length < least:
            raise UserError(
                f"data.sequence_length={data.sequence_length} with [CLS] and [SEP]",
                f"set it to {least} or more",
            )
        if self.pairs != "none":
            self._check_pairs(model, data)
        check_length(model, data)

    def _check_pairs(self, model: ModelConfig, data: DataConfig) -> None:
        if not getattr(model, "pooler", False) or getattr(model, "num_types", 0) < 2:
            raise UserError(
                f"task.pairs={self.pairs} with a model that has no pooler or no types",
                "set model.pooler=true and model.num_types=2, or task.pairs=none",
            )
        if data.separate_documents:
            raise UserError(
                f"data.separate_documents with task.pairs={self.pairs}, whose texts attend to each other",
                "set data.separate_documents=false",
            )

    def make(self, model: ModelConfig) -> nn.Module:
        """The encoder with the head for masked tokens and, if there are pairs, the one for them."""
        c: Any = model
        return MaskedModel(
            c.make(),
            c.d_model,
            c.vocab_size,
            c.known_tokens,
            gelu if c.mlp == "gelu" else gelu_exact,
            c.layer_norm_epsilon,
            jnp.dtype(c.dtype),
            self.pairs != "none",
        )

    def source(self, split: Split, data: DataConfig, batch_size: int, seed: int) -> "_MaskedSource":
        """Packed rows, or pairs, with new noise at each step."""
        noise = _Noise(self.masking, split, seed)
        if self.pairs == "none":
            return _MaskedSource(_PackedRows(split, data, batch_size, seed), noise, batch_size)
        pairs = _PairRows(split, data, self.pairs, self.short_share, batch_size, seed)
        return _MaskedSource(pairs, noise, batch_size)

    def held_out(
        self, split: Split, data: DataConfig, model: ModelConfig, batch_size: int, process: Process
    ) -> Iterator[MaskedBatch]:
        """Each token of a part once, or each pair of one epoch; the noise is `HELD_OUT` for every run."""
        noise = _Noise(HELD_OUT, split, _HELD_OUT_SEED)
        rows = share(batch_size, process.index, process.count)
        if self.pairs == "none":
            clean = _held_out_rows(split, data, batch_size, process)
        else:
            pairs = _PairRows(split, data, self.pairs, self.short_share, batch_size, _HELD_OUT_SEED)
            clean = pairs.in_order(rows)
        for number, batch in enumerate(clean):
            yield noise.add(batch, 0, number * batch_size + rows)

    def shapes(self, data: DataConfig, batch_size: int) -> MaskedBatch:
        """Rows of `data.sequence_length` tokens; with segments where documents are separate or in pairs."""
        P = self.masking.num_predictions(data.sequence_length)
        tokens: Any = jax.ShapeDtypeStruct((batch_size, data.sequence_length), jnp.int32)
        predictions: Any = jax.ShapeDtypeStruct((batch_size, P), jnp.int32)
        row: Any = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        are_pairs = self.pairs != "none"
        return MaskedBatch(
            tokens,
            tokens if are_pairs or data.separate_documents else None,
            predictions,
            predictions,
            predictions.update(dtype=jnp.float32),
            *((tokens, row, row.update(dtype=jnp.float32)) if are_pairs else ()),
        )

    def weights(self, batch: MaskedBatch) -> dict[str, jax.Array]:
        """The number of predicted tokens and, if there are pairs, of pairs."""
        weights = {_MASKED: jnp.sum(batch.weights)}
        return weights | ({} if batch.pair_weights is None else {_PAIRS: jnp.sum(batch.pair_weights)})

    def losses(
        self,
        module: nn.Module,
        params: Any,
        batch: MaskedBatch,
        carry: Any = None,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> tuple[dict[str, Sums], Any]:
        """Nats of the masked tokens and of the pairs' labels; in evaluation also how many are right."""
        apply: Any = partial(module.apply, params)
        hidden_BTD = apply(
            batch.inputs,
            batch.segments,
            batch.types,
            rngs is not None,
            rngs=None if rngs is None else dict(rngs),
            method="encode",
        )
        # Logits of the whole vocabulary are computed at the predicted positions only.
        hidden_BPD = jnp.take_along_axis(hidden_BTD, jnp.asarray(batch.positions)[:, :, None], axis=1)
        predictions: dict[str, tuple[Any, ...]]
        predictions = {_MASKED: (apply(hidden_BPD, method="logits"), batch.targets, batch.weights)}
        if batch.pair_labels is not None:
            logits_B2 = apply(hidden_BTD, method="pair_logits")
            predictions[_PAIRS] = (logits_B2, batch.pair_labels, batch.pair_weights)
        sums = {name: likelihood.cross_entropy(*of_loss) for name, of_loss in predictions.items()}
        if rngs is None:
            right = {_ACCURACIES[n]: likelihood.accuracy(*of_loss) for n, of_loss in predictions.items()}
            sums |= right
        return sums, carry

    def figures(self, sums: Mapping[str, Sums], split: Split, data: Data) -> list[Figure]:
        """Nats per masked token, the shares of right predictions, and nats per pair."""
        units = {_MASKED: "nats/masked token", _PAIRS: "nats/pair"}
        names = {_MASKED: "valid_loss", _PAIRS: "valid_pair_loss"}
        figures = [Figure(names[n], _mean(sums[n]), units[n]) for n in (_MASKED, _PAIRS) if n in sums]
        shares = [name for name in _ACCURACIES.values() if name in sums]
        return [*figures, *(Figure(f"valid_{name}", _mean(sums[name]), "of 1") for name in shares)]


def _mean(sums: Sums) -> float:
    return float(sums.total) / float(sums.weight) if float(sums.weight) else float(np.nan)


class _Rows(NamedTuple):
    """Rows of clean text: see `MaskedBatch`, whose fields these are before the noise."""

    tokens: np.ndarray
    segments: np.ndarray | None
    types: np.ndarray | None = None
    pair_labels: np.ndarray | None = None
    pair_weights: np.ndarray | None = None


class _Noise:
    """Masks rows: a pure function of the seed, the step and the number of the row."""

    def __init__(self, masking: Masking, split: Split, seed: int):
        tokenizer = split.tokenizer
        self._masking, self._seed = masking, seed
        self._mask_id, self._vocab_size = tokenizer.require_special("mask"), tokenizer.vocab_size
        self._is_special = np.zeros(tokenizer.vocab_size, bool)
        kept = [i for name, i in tokenizer.special_ids.items() if name != "unk"]
        self._is_special[kept] = True
        self._starts_word = tokenizer.starts_word

    def add(self, clean: _Rows, step: int, rows: np.ndarray) -> MaskedBatch:
        """The rows numbered `rows` of a step, with noise."""
        tokens_BT = clean.tokens
        maskable_BT = ~self._is_special[tokens_BT]
        if clean.segments is not None:
            maskable_BT &= clean.segments >= 0
        lengths_B = np.full(len(tokens_BT), tokens_BT.shape[1])
        if clean.segments is not None:
            lengths_B = (clean.segments >= 0).sum(axis=1)
        inputs, positions, targets, weights = mask_rows(
            self._masking,
            tokens_BT,
            maskable_BT,
            self._starts_word[tokens_BT],
            lengths_B,
            self._mask_id,
            self._vocab_size,
            [self._seed, step, _STREAM],
            int(rows[0]),
        )
        return MaskedBatch(inputs, clean.segments, positions, targets, weights, *clean[2:])


class _MaskedSource:
    """A `Source` of rows with noise."""

    def __init__(self, clean: Any, noise: _Noise, batch_size: int):
        self._clean, self._noise, self._batch_size = clean, noise, batch_size
        self.steps_per_epoch: int = clean.steps_per_epoch

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> MaskedBatch:
        """The rows of one process in the batch of a step."""
        rows = share(self._batch_size, process_index, process_count)
        return self._noise.add(self._clean.rows(step, process_index, process_count), step, rows)


class _PackedRows:
    """[CLS], a window of the text, [SEP]; documents follow one another within a row."""

    def __init__(self, split: Split, data: DataConfig, batch_size: int, seed: int):
        self._frame = _Frame(split)
        self._windows = Windows(split, batch_size, data.sequence_length - 2, seed, data.separate_documents)
        self.steps_per_epoch = self._windows.steps_per_epoch

    def rows(self, step: int, process_index: int, process_count: int) -> _Rows:
        """The rows of one process in the batch of a step."""
        batch = self._windows.batch(step, process_index, process_count)
        lengths_B = np.full(len(batch.inputs), batch.inputs.shape[1])
        segments = None if batch.segments is None else np.asarray(batch.segments)
        return self._frame.around(np.asarray(batch.inputs), lengths_B, segments)


class _Frame:
    """Puts [CLS] and [SEP] around rows."""

    def __init__(self, split: Split):
        self._cls, self._sep, self._pad = map(split.tokenizer.require_special, ("cls", "sep", "pad"))

    def around(
        self, tokens_BT: np.ndarray, lengths_B: np.ndarray, segments_BT: np.ndarray | None = None
    ) -> _Rows:
        """Rows two tokens longer: [CLS], the first `lengths_B` tokens, [SEP], padding.

        Segments, where given, go on to [CLS] and [SEP], and are -1 at padding.
        """
        B, T = tokens_BT.shape
        framed_BT, padding_BT = framed(tokens_BT, lengths_B, (self._cls,), self._sep, self._pad, T + 2)
        if segments_BT is None:
            return _Rows(framed_BT, None)
        wide_BT = np.pad(segments_BT, ((0, 0), (1, 1)), mode="edge").astype(np.int32)
        last_B = np.maximum(lengths_B, 1)
        wide_BT[np.arange(B), lengths_B + 1] = wide_BT[np.arange(B), last_B]
        return _Rows(framed_BT, np.where(padding_BT < 0, -1, wide_BT))


def _held_out_rows(split: Split, data: DataConfig, batch_size: int, process: Process) -> Iterator[_Rows]:
    """The windows of a part one after the other, each token once."""
    frame, length = _Frame(split), data.sequence_length - 2
    batches = evaluation_batches(
        split, batch_size, length, process.index, process.count, separate_documents=data.separate_documents
    )
    for batch in batches:
        lengths_B = np.asarray(batch.weights).sum(axis=1).astype(int)
        is_real_BT = np.asarray(batch.weights) > 0
        segments = np.where(is_real_BT, 0, -1) if batch.segments is None else np.asarray(batch.segments)
        rows = frame.around(np.asarray(batch.inputs), lengths_B, segments)
        is_empty_B1 = (lengths_B == 0)[:, None]
        assert rows.segments is not None
        yield rows._replace(segments=np.where(is_empty_B1, -1, rows.segments))


class _PairRows:
    """[CLS] A [SEP] B [SEP], from a table of pairs that is made for each epoch."""

    def __init__(
        self, split: Split, data: DataConfig, kind: str, short_share: float, batch_size: int, seed: int
    ):
        tokenizer = split.tokenizer
        self._tokens, self._length, self._batch_size = split.tokens, data.sequence_length, batch_size
        self._specials = [tokenizer.require_special(name) for name in ("cls", "sep", "pad")]
        ends = sentence_pairs.sentence_ends(tokenizer)
        self._sentences = sentence_pairs.find_sentences(split.stream, ends, self._length)
        if kind == "next" and len(self._sentences.documents) < 2:
            raise UserError(
                f"the {split.name} part has {len(self._sentences.documents)} document, and pairs of sentences"
                " need two",
                "let documents be smaller (data.documents=paragraph or line), hold out more, or set "
                "task.pairs=order",
            )
        self._make, self._short_share, self._seed = _TABLES[kind], short_share, seed
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)
        # The number of pairs differs from epoch to epoch: an epoch has as many batches as the first one.
        self._num_pairs = len(self._epoch(0)[0].labels)
        if not self._num_pairs:
            raise UserError(
                f"the {split.name} part gives no pair of sentences", "give more text, or set task.pairs=none"
            )
        self.steps_per_epoch = -(-self._num_pairs // batch_size)

    def rows(self, step: int, process_index: int, process_count: int) -> _Rows:
        """The rows of one process in the batch of a step; pairs are in a shuffled order."""
        epoch, number = divmod(step, self.steps_per_epoch)
        table, order = self._epoch(epoch)
        rows = number * self._batch_size + share(self._batch_size, process_index, process_count)
        return self._read(table, order[rows % len(order)], np.ones(len(rows), np.float32))

    def in_order(self, rows: np.ndarray) -> Iterator[_Rows]:
        """The pairs of the first epoch, each once."""
        table, _ = self._epoch(0)
        for first in range(0, self._num_pairs, self._batch_size):
            numbers = first + rows
            is_pair = numbers < self._num_pairs
            yield self._read(table, np.minimum(numbers, self._num_pairs - 1), is_pair.astype(np.float32))

    def _read(self, table: PairTable, numbers: np.ndarray, weights: np.ndarray) -> _Rows:
        made = sentence_pairs.read_pairs(table, numbers, self._tokens, self._length, *self._specials)
        segments = np.where(weights[:, None] > 0, made.segments_BT, -1)
        return _Rows(made.tokens_BT, segments, made.types_BT, table.labels[numbers], weights)

    def _make_epoch(self, epoch: int) -> tuple[PairTable, np.ndarray]:
        """The pairs of an epoch, and their order in training."""
        table = self._make(self._sentences, self._length, self._seed, epoch, self._short_share)
        return table, np.random.default_rng([self._seed, epoch, 1]).permutation(len(table.labels))
