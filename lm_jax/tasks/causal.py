"""The task of predicting each token from those before it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm_jax.batch import Batch, Sums
from lm_jax.data import pipeline
from lm_jax.data.batches import Source, evaluation_batches
from lm_jax.data.pipeline import Data, DataConfig
from lm_jax.data.store import Split
from lm_jax.errors import UserError
from lm_jax.metrics import likelihood
from lm_jax.metrics.chunked import chunked_cross_entropy
from lm_jax.models.base import ModelConfig
from lm_jax.tasks.base import Figure, Process, Task, check_length, check_reads

_NATS = "nats"


@dataclass(frozen=True)
class Causal(Task[Batch]):
    """Minimises the sum of -log p(x_t | x_<t) in nats, divided by the number of tokens."""

    name: ClassVar[str] = "causal"
    adapter: ClassVar[str] = "causal"
    evaluator: ClassVar[str] = "causal"

    label_smoothing: float = 0.0  # share of the target's probability spread over the vocabulary, in training
    z_loss: float = 0.0  # of the squared log of the softmax's denominator, in training; 1e-4 in PaLM
    chunk_length: int = (
        0  # positions of each row whose logits exist at a time, for large vocabularies; 0: all
    )
    activation_penalty: float = 0.0  # of the mean square of what the head reads, in training (AWD-LSTM)
    temporal_penalty: float = 0.0  # of the mean square of the last layer's steps in time (AWD-LSTM)

    @property
    def _penalties(self) -> dict[str, float]:
        names = ("activation_penalty", "temporal_penalty")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    def check(self, model: ModelConfig, data: DataConfig) -> None:
        """Raises UserError for an invalid value, or one that does not fit the model or the data."""
        check_reads(self, model, "left to right")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"task.label_smoothing={self.label_smoothing}", "it must lie in [0, 1)")
        if self.chunk_length < 0:
            raise UserError(f"task.chunk_length={self.chunk_length}", "it must be 0 or more")
        for name in ("z_loss", "activation_penalty", "temporal_penalty"):
            if not getattr(self, name) >= 0:
                raise UserError(f"task.{name}={getattr(self, name)}", "it must be 0 or more")
        if self._penalties and not model.sows_output:
            raise UserError(
                f"task.activation_penalty and temporal_penalty with a {model.family} model",
                "they are for recurrent networks: set both to 0",
            )
        check_length(model, data)

    def init_carry(self, module: nn.Module, model: ModelConfig, data: DataConfig, batch_size: int) -> Any:
        """The state of a model that carries one through contiguous rows."""
        if data.order == "contiguous" and model.carries_state:
            return module.init_state(batch_size, data.sequence_length)
        return None

    def source(self, split: Split, data: DataConfig, batch_size: int, seed: int) -> Source:
        """Windows or streams of the part's tokens, as `data.order` says."""
        return pipeline.make_source(split, data, batch_size, seed)

    def held_out(
        self, split: Split, data: DataConfig, model: ModelConfig, batch_size: int, process: Process
    ) -> Iterator[Batch]:
        """Each token and end of a part once; a carried state goes through each document."""
        return evaluation_batches(
            split,
            batch_size,
            data.sequence_length,
            process.index,
            process.count,
            separate_documents=data.separate_documents,
            carried=data.order == "contiguous" and model.carries_state,
        )

    def shapes(self, data: DataConfig, batch_size: int) -> Batch:
        """Rows of `data.sequence_length` tokens; with segments where documents are separate."""
        tokens: Any = jax.ShapeDtypeStruct((batch_size, data.sequence_length), jnp.int32)
        return Batch(
            tokens, tokens, tokens.update(dtype=jnp.float32), tokens if data.separate_documents else None
        )

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of targets that count, for each loss."""
        return dict.fromkeys((_NATS, *self._penalties), jnp.sum(batch.weights))

    def losses(
        self,
        module: nn.Module,
        params: Any,
        batch: Batch,
        carry: Any = None,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> tuple[dict[str, Sums], Any]:
        """Nats over the targets that count and, in training, each penalty times their number."""
        penalties = self._penalties if rngs is not None else {}
        (hidden_BTD, carry), sown = module.apply(
            params,
            batch.inputs,
            carry,
            segments=batch.segments,
            train=rngs is not None,
            rngs=None if rngs is None else dict(rngs),
            method="hidden",
            mutable=["intermediates"] if penalties else [],
        )
        nats = self._nats(module, params, hidden_BTD, batch, rngs is not None)
        sums = {_NATS: nats}
        if penalties:
            [output_BTD] = sown["intermediates"]["output"]
            values = {
                "activation_penalty": _mean_square(hidden_BTD),
                "temporal_penalty": _mean_square_of_steps(output_BTD),
            }
            sums |= {n: Sums(rate * values[n] * nats.weight, nats.weight) for n, rate in penalties.items()}
        return sums, carry

    def _nats(self, module: nn.Module, params: Any, hidden_BTD: jax.Array, batch: Batch, train: bool) -> Sums:
        def head(params: Any, hidden_BTD: jax.Array) -> Any:
            return module.apply(params, hidden_BTD, method="logits")

        terms: dict[str, Any] = (
            {"label_smoothing": self.label_smoothing, "z_loss": self.z_loss} if train else {}
        )
        if not self.chunk_length:
            return likelihood.cross_entropy(head(params, hidden_BTD), batch.targets, batch.weights, **terms)
        return chunked_cross_entropy(
            head, params, hidden_BTD, batch.targets, batch.weights, chunk_length=self.chunk_length, **terms
        )

    def rate_factor(self, batch: Batch, data: DataConfig) -> float | None:
        """Where rows vary in length, the rate is in proportion to it (Merity et al. 2017, section 4.1)."""
        return batch.inputs.shape[1] / data.sequence_length if data.vary_length else None

    def figures(self, sums: Mapping[str, Sums], split: Split, data: Data) -> list[Figure]:
        """Nats per token and, if the scores are complete, bits per byte."""
        nats, tokens = float(sums[_NATS].total), float(sums[_NATS].weight)
        loss = nats / tokens if tokens else float(np.nan)
        figures = [Figure("valid_loss", loss, "nats/token")]
        if data.tokenizer.lossless:
            bits = float(likelihood.bits_per_byte(nats, split.num_bytes))
            figures.append(Figure("valid_bits_per_byte", bits, "bits/byte"))
        return figures


def _mean_square(hidden_BTD: jax.Array) -> jax.Array:
    """Activation regularisation (Merity et al. 2017, section 4.6), of the output after dropout."""
    return jnp.square(hidden_BTD.astype(jnp.float32)).mean()


def _mean_square_of_steps(output_BTD: jax.Array) -> jax.Array:
    """Temporal activation regularisation (Merity et al. 2017, section 4.6), before dropout; 0 for T = 1."""
    if output_BTD.shape[1] < 2:
        return jnp.zeros(())
    return jnp.square(jnp.diff(output_BTD.astype(jnp.float32), axis=1)).mean()
