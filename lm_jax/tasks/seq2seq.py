"""The task of writing a target from left to right, given a source: translation, summaries, answers."""

import itertools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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
from lm_jax.tasks.base import Figure, Process, Task, check_length
from lm_jax.tasks.frames import PairBatch, PairFrame, draw_documents

NATS = "nats"
READS = "source and target"


@dataclass(frozen=True)
class TargetTask(Task[PairBatch]):
    """What tasks share whose batches have targets: the sum of -log p of their tokens, in nats."""

    label_smoothing: float = 0.0  # share of the target's probability spread over the vocabulary, in training

    def check_smoothing(self) -> None:
        """Raises UserError for an invalid share."""
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"task.label_smoothing={self.label_smoothing}", "it must lie in [0, 1)")

    def weights(self, batch: PairBatch) -> dict[str, jax.Array]:
        """The number of target tokens."""
        return {NATS: jnp.sum(batch.weights)}

    def losses(
        self,
        module: nn.Module,
        params: Any,
        batch: PairBatch,
        carry: Any = None,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> tuple[dict[str, Sums], Any]:
        """Nats of the target tokens."""
        logits_BTV = target_logits(module, params, batch, rngs)
        smoothing = self.label_smoothing if rngs is not None else 0.0
        nats = likelihood.cross_entropy(logits_BTV, batch.targets, batch.weights, label_smoothing=smoothing)
        return {NATS: nats}, carry

    def figures(self, sums: Mapping[str, Sums], split: Split, data: Data) -> list[Figure]:
        """Nats per target token."""
        return [Figure("valid_loss", float(sums[NATS].mean), "nats/target token")]


@dataclass(frozen=True)
class Seq2Seq(TargetTask):
    """Minimises the sum of -log p(y_t | y_<t, source) in nats, divided by the number of target tokens.

    The source is a document's text, the target another field of it. Both are framed as `PairFrame` says and
    cut to `data.sequence_length` tokens. A model that reads from left to right reads the source, its end
    token, and the target, and learns the target alone.
    """

    name: ClassVar[str] = "seq2seq"
    adapter: ClassVar[str] = "seq2seq"
    evaluator: ClassVar[str] = "seq2seq"

    target: str = "target"  # the field with the target
    num_examples: int = 0  # training pairs that are read, chosen by train.seed, for learning curves; 0: all

    def check(self, model: ModelConfig, data: DataConfig) -> None:
        """Raises UserError for an invalid value, or one that does not fit the model or the data."""
        check_generates(self, model)
        if model.reads == "left to right":
            _check_context(model, data)
        else:
            check_length(model, data)
        check_rows(self, data)
        if not self.target:
            raise UserError("task.target is empty", "name the field with the target")
        self.check_smoothing()
        if self.num_examples < 0:
            raise UserError(f"task.num_examples={self.num_examples}", "it must be 0 or more")

    def fields(self) -> Fields:
        """The target."""
        return Fields(texts=(self.target,))

    def source(self, split: Split, data: DataConfig, batch_size: int, seed: int) -> Source:
        """Each pair once an epoch; rows of similar length meet."""
        pairs = _Pairs(split, self.target, draw_documents(split.num_documents, self.num_examples, seed), data)
        pairs.warn_of_cut_targets()
        return Examples(pairs.lengths, pairs.limits, pairs.assemble, batch_size, seed)

    def held_out(
        self, split: Split, data: DataConfig, model: ModelConfig, batch_size: int, process: Process
    ) -> Iterator[PairBatch]:
        """Each pair once."""
        pairs = _Pairs(split, self.target, np.arange(split.num_documents), data)
        return held_out_examples(
            pairs.lengths, pairs.limits, pairs.assemble, batch_size, process.index, process.count
        )

    def shapes(self, data: DataConfig, batch_size: int) -> PairBatch:
        """The largest batch; rows of other batches are shorter."""
        tokens: Any = jax.ShapeDtypeStruct((batch_size, data.sequence_length), jnp.int32)
        return PairBatch(tokens, tokens, tokens, tokens, tokens.update(dtype=jnp.float32))


def target_logits(
    module: nn.Module, params: Any, batch: PairBatch, rngs: Mapping[str, jax.Array] | None = None
) -> jax.Array:
    """Logits of each target token, float32 [B, T, V], by teacher forcing; with dropout if there are keys."""
    keys: dict[str, Any] = {} if rngs is None else {"rngs": dict(rngs)}
    made: Any = module.apply(params, batch, rngs is not None, method=_logits_of_pairs, **keys)
    return made


def _logits_of_pairs(module: Any, batch: PairBatch, train: bool) -> jax.Array:
    if hasattr(module, "decode"):
        memory_BSD = module.encode(batch.source, batch.source_segments, train=train)
        hidden_BTD = module.decode(batch.inputs, memory_BSD, batch.source_segments, train=train)
        return module.logits(hidden_BTD)
    # The target follows the source without a gap, so that positions are those of one text.
    length_B1 = jnp.sum(batch.source_segments >= 0, axis=1, keepdims=True)
    S, T = batch.source.shape[1], batch.inputs.shape[1]
    place_1P = jnp.arange(S + T)[None]
    from_target_BP = place_1P - length_B1
    is_source_BP = from_target_BP < 0
    source_BP = jnp.take_along_axis(batch.source, jnp.minimum(place_1P, S - 1), axis=1)
    # The first input of the target is the end of the source, which stands there already.
    inputs_BP = jnp.take_along_axis(batch.inputs, jnp.clip(from_target_BP + 1, 0, T - 1), axis=1)
    tokens_BP = jnp.where(is_source_BP, source_BP, inputs_BP)
    hidden_BPD, _ = module.hidden(tokens_BP, None, train=train)
    place_BT = length_B1 - 1 + jnp.arange(T)[None]
    return module.logits(jnp.take_along_axis(hidden_BPD, place_BT[:, :, None], axis=1))


def check_generates(task: Task, model: ModelConfig) -> None:
    """Raises UserError for a model that neither has a decoder nor reads left to right."""
    if model.reads not in (READS, "left to right"):
        raise UserError(
            f"task={task.name} with model={model.family}, which reads {model.reads}",
            "choose model=bart, or a model that reads left to right, such as gpt",
        )


def _check_context(model: ModelConfig, data: DataConfig) -> None:
    """Raises UserError for a left-to-right model without room for a source and a target."""
    needed = 2 * data.sequence_length
    if model.context_length is not None and model.context_length < needed:
        raise UserError(
            f"model.max_length={model.context_length} with task=seq2seq: a {model.family} reads a source"
            f" and a target of up to data.sequence_length={data.sequence_length} tokens in one row",
            f"set model.max_length={needed}, or data.sequence_length to half of model.max_length",
        )


def check_rows(task: Task, data: DataConfig) -> None:
    """Raises UserError for fields of the data that do not fit rows of single texts."""
    if data.order == "contiguous" or data.separate_documents:
        wrong = "data.order=contiguous" if data.order == "contiguous" else "data.separate_documents"
        raise UserError(f"{wrong} with task={task.name}, whose rows are single texts", "leave it out")
    if data.sequence_length < 4:
        raise UserError(f"data.sequence_length={data.sequence_length}", "give 4 or more")


class _Pairs:
    """The pairs of a part.

    Attributes:
        lengths: int64 [N, 2], the tokens of sources and targets that are not cut, special ones included.
        limits: the largest number of tokens that is read of a source and of a target.
    """

    def __init__(self, split: Split, target: str, chosen_N: np.ndarray, data: DataConfig):
        self._frame = PairFrame.of(split.tokenizer)
        self._sources, self._targets = split.stream, split.field_tokens(target)
        self._chosen_N = chosen_N
        _check_sides(split, self._sources.lengths, self._targets.lengths, target, chosen_N)
        self.lengths = np.stack(
            [
                self._sources.lengths[chosen_N] + self._frame.source_extra,
                self._targets.lengths[chosen_N] + self._frame.target_extra,
            ],
            axis=1,
        )
        self.limits = (data.sequence_length, data.sequence_length)

    def warn_of_cut_targets(self) -> None:
        """Warns if targets do not fit: a model learns to end where they are cut."""
        if num_cut := int((self.lengths[:, 1] > self.limits[1]).sum()):
            warnings.warn(
                f"{num_cut} of {len(self.lengths)} targets have more than data.sequence_length="
                f"{self.limits[1]} tokens and are cut; the longest has {self.lengths[:, 1].max()}",
                stacklevel=3,
            )

    def assemble(self, rows: Rows) -> PairBatch:
        """The batch of these pairs; a pure function."""
        chosen = self._chosen_N[rows.indices].tolist()
        sources = [self._frame.source(self._sources.document(i), self.limits[0]) for i in chosen]
        targets = [self._frame.target(self._targets.document(i), self.limits[1]) for i in chosen]
        S, T = rows.lengths
        return self._frame.batch(sources, targets, (S, T), rows.weights)


def _check_sides(
    split: Split, sources_D: np.ndarray, targets_D: np.ndarray, target: str, chosen_N: np.ndarray
) -> None:
    """Raises UserError for a pair with an empty side."""
    empty_N = chosen_N[(sources_D[chosen_N] == 0) | (targets_D[chosen_N] == 0)]
    if len(empty_N):
        first = next(itertools.islice(split.documents(), int(empty_N[0]), None)).name
        side = "its text" if sources_D[empty_N[0]] == 0 else f"its field {target!r}"
        raise UserError(
            f"{len(empty_N)} of {len(chosen_N)} pairs of the {split.name} part have a side without tokens; "
            f"the first is document {first}, in {side}",
            "leave them out of the corpus, or choose another data.tokenizer",
        )
