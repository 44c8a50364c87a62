"""The task of ELMo: predicting each word from those before it and, apart from that, from those after it."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm_jax.batch import Batch, Sums
from lm_jax.data import pipeline
from lm_jax.data.batches import Source, evaluation_batches
from lm_jax.data.mirror import mirrored
from lm_jax.data.pipeline import Data, DataConfig
from lm_jax.data.store import Split
from lm_jax.errors import UserError
from lm_jax.metrics import likelihood
from lm_jax.metrics.chunked import chunked_cross_entropy
from lm_jax.metrics.sampled import draw, sampled_cross_entropy
from lm_jax.models.base import ModelConfig
from lm_jax.tasks.base import Figure, Process, Task, check_reads, check_words

_NATS = "nats"
_DIRECTIONS = ("forward", "backward")


class BothWays(NamedTuple):
    """Rows for the two directions, each in the order in which it reads.

    Attributes:
        ahead: from the left: each token's target is the next one of the text.
        back: from the right: each token's target is the one before it in the text.
    """

    ahead: Batch
    back: Batch


@dataclass(frozen=True)
class Bidirectional(Task[BothWays]):
    """Minimises the mean of −log p(x_t | x_<t) and −log p(x_t | x_>t), in nats per token.

    Peters et al. 2018, section 3.1, without the factor of 2. With `data.order` "contiguous" states go on from
    batch to batch: the forward direction's from the left, and the backward one's, which reads the text from
    its end on, from the right.
    """

    name: ClassVar[str] = "bidirectional"
    adapter: ClassVar[str] = "bidirectional"
    evaluator: ClassVar[str] = "bidirectional"

    num_sampled: int = 0  # draws of a sampled softmax in training, for large vocabularies; 0: the full one
    chunk_length: int = 0  # positions of each row whose logits exist at a time; 0: all

    def check(self, model: ModelConfig, data: DataConfig) -> None:
        """Raises UserError for an invalid value, or one that does not fit the model or the data."""
        check_reads(self, model, "each side")
        for name in ("num_sampled", "chunk_length"):
            if getattr(self, name) < 0:
                raise UserError(f"task.{name}={getattr(self, name)}", "it must be 0 or more")
        for name in ("tied_head", "adaptive_cutoffs"):
            if self.num_sampled and getattr(model, name, None):
                raise UserError(f"task.num_sampled with model.{name}", "leave one of them out")
        check_words(model, data)

    def init_carry(self, module: nn.Module, model: ModelConfig, data: DataConfig, batch_size: int) -> Any:
        """The states of both directions, where rows are contiguous."""
        if data.order != "contiguous":
            return None
        one: Any = module.init_state(batch_size)
        return one, one

    def source(self, split: Split, data: DataConfig, batch_size: int, seed: int) -> Source[BothWays]:
        """Windows of the text, the same for both directions; or streams, the backward ones from the end."""
        ahead = pipeline.make_source(split, data, batch_size, seed)
        if data.order != "contiguous":
            return _Windows(ahead)
        return _Streams(ahead, pipeline.make_source(mirrored(split), data, batch_size, seed))

    def held_out(
        self, split: Split, data: DataConfig, model: ModelConfig, batch_size: int, process: Process
    ) -> Iterator[BothWays]:
        """Each token and end of a part once for each direction; carried states go through each document."""
        options = (batch_size, data.sequence_length, process.index, process.count)
        how = {"separate_documents": True, "carried": data.order == "contiguous"}
        pairs = itertools.zip_longest(
            *(evaluation_batches(part, *options, **how) for part in (split, mirrored(split)))
        )
        for ahead, back in pairs:
            yield BothWays(_empty(back) if ahead is None else ahead, _empty(ahead) if back is None else back)

    def shapes(self, data: DataConfig, batch_size: int) -> BothWays:
        """Rows of `data.sequence_length` tokens; with segments where documents are separate."""
        tokens: Any = jax.ShapeDtypeStruct((batch_size, data.sequence_length), jnp.int32)
        segments = tokens if data.separate_documents else None
        one = Batch(tokens, tokens, tokens.update(dtype=jnp.float32), segments)
        return BothWays(one, one)

    def weights(self, batch: BothWays) -> dict[str, jax.Array]:
        """The number of targets that count, the mean of both directions."""
        return {_NATS: (jnp.sum(batch.ahead.weights) + jnp.sum(batch.back.weights)) / 2}

    def losses(
        self,
        module: nn.Module,
        params: Any,
        batch: BothWays,
        carry: Any = None,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> tuple[dict[str, Sums], Any]:
        """The mean of both directions' nats; in evaluation, by the full softmax, those of each, too."""
        train = rngs is not None
        hidden, after = module.apply(
            params,
            batch.ahead.inputs,
            batch.back.inputs,
            carry,
            (batch.ahead.segments, batch.back.segments),
            train,
            rngs=None if rngs is None else dict(rngs),
            method="hidden_both",
        )
        key = rngs["dropout"] if rngs is not None else None
        sums = {}
        for number, (name, hidden_BTP, part) in enumerate(zip(_DIRECTIONS, hidden, batch, strict=True)):
            if key is not None and self.num_sampled:
                own_key = jax.random.fold_in(key, number)
                sums[name] = self._sampled(module, params, hidden_BTP, part, own_key)
            else:
                sums[name] = self._full(module, params, hidden_BTP, part)
        both = Sums(*(sum(values) / 2 for values in zip(*sums.values(), strict=True)))
        return ({_NATS: both} if train else {_NATS: both, **sums}), None if carry is None else after

    def _full(self, module: nn.Module, params: Any, hidden_BTP: jax.Array, part: Batch) -> Sums:
        def head(params: Any, hidden: jax.Array) -> Any:
            return module.apply(params, hidden, method="logits")

        own = {"params": params["params"]}  # not the constants, which have no gradient
        if not self.chunk_length:
            return likelihood.cross_entropy(head(own, hidden_BTP), part.targets, part.weights)
        length = self.chunk_length
        return chunked_cross_entropy(head, own, hidden_BTP, part.targets, part.weights, chunk_length=length)

    def _sampled(
        self, module: nn.Module, params: Any, hidden_BTP: jax.Array, part: Batch, key: jax.Array
    ) -> Sums:
        config: ModelConfig = getattr(module, "config")  # noqa: B009 (a linen module's field)
        sample_K = draw(key, self.num_sampled, config.known_tokens)
        logits: Any = module.apply(params, hidden_BTP, sample_K, part.targets, method="logits_of")
        of_sample, of_targets = logits
        targets, weights = jnp.asarray(part.targets), jnp.asarray(part.weights)
        return sampled_cross_entropy(of_targets, of_sample, targets, sample_K, weights, config.known_tokens)

    def figures(self, sums: Mapping[str, Sums], split: Split, data: Data) -> list[Figure]:
        """Nats per token, the mean of both directions, and the perplexity of each."""
        figures = [Figure("valid_loss", _mean(sums[_NATS]), "nats/token")]
        for name in _DIRECTIONS:
            value = float(likelihood.perplexity(float(sums[name].total), float(sums[name].weight)))
            figures.append(Figure(f"valid_{name}_perplexity", value, f"{name} perplexity"))
        return figures


def _mean(sums: Sums) -> float:
    return float(sums.total) / float(sums.weight) if float(sums.weight) else float(np.nan)


def _empty(batch: Batch) -> Batch:
    """A batch of the same shape in which nothing counts."""
    assert batch.segments is not None
    return batch._replace(weights=np.zeros_like(batch.weights), segments=np.full_like(batch.segments, -1))


def reversed_windows(ahead: Batch) -> BothWays:
    """The same windows for both directions: what is a target of the one is read by the other."""
    back = ahead._replace(inputs=ahead.targets, targets=ahead.inputs)
    return BothWays(ahead, Batch(*(None if x is None else x[:, ::-1] for x in back)))  # type: ignore[arg-type]


class _Windows:
    """A `Source` of windows that both directions read, independent of each other."""

    def __init__(self, ahead: Source[Batch]):
        self._ahead, self.steps_per_epoch = ahead, ahead.steps_per_epoch

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> BothWays:
        """The rows of one process in the batch of a step."""
        return reversed_windows(self._ahead.batch(step, process_index, process_count))


class _Streams:
    """A `Source` of contiguous rows, from the left for the one direction and from the right for the other."""

    def __init__(self, ahead: Source[Batch], back: Source[Batch]):
        self._parts, self.steps_per_epoch = (ahead, back), ahead.steps_per_epoch

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> BothWays:
        """The rows of one process in the batch of a step."""
        return BothWays(*(part.batch(step, process_index, process_count) for part in self._parts))
