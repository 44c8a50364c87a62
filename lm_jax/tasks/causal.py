"""What is trained for: `objective(model, params, batch, state, rngs) -> (Sums, state)`.

An objective is a frozen dataclass that is called: its fields are its recipe. `rngs` None means no dropout.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.batch import Batch, Sums
from lm_jax.errors import UserError
from lm_jax.metrics.chunked import chunked_cross_entropy
from lm_jax.metrics.likelihood import cross_entropy


@dataclass(frozen=True)
class Causal:
    """Each token from those before it: the sum of -log p(x_t | x_<t) in nats."""

    name: ClassVar[str] = "causal"

    label_smoothing: float = 0.0  # share of the target's probability spread over the vocabulary, in training
    z_loss: float = 0.0  # of the squared log of the softmax's denominator, in training; 1e-4 in PaLM
    chunk_length: int = (
        0  # positions of each row whose logits exist at a time, for large vocabularies; 0: all
    )
    activation_penalty: float = 0.0  # of the mean square of what the head reads, in training (AWD-LSTM)
    temporal_penalty: float = 0.0  # of the mean square of the last layer's steps in time (AWD-LSTM)

    @property
    def penalises(self) -> bool:
        """Whether it asks of a model more than its hidden states."""
        return bool(self.activation_penalty or self.temporal_penalty)

    def check(self) -> None:
        """Raises UserError for a value that no run can use."""
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"objective.label_smoothing={self.label_smoothing}", "it must lie in [0, 1)")
        if self.chunk_length < 0:
            raise UserError(f"objective.chunk_length={self.chunk_length}", "it must be 0 or more")
        for name in ("z_loss", "activation_penalty", "temporal_penalty"):
            if not getattr(self, name) >= 0:
                raise UserError(f"objective.{name}={getattr(self, name)}", "it must be 0 or more")

    def __call__(
        self, model: nn.Module, params: Any, batch: Batch, state: Any = None, rngs: dict | None = None
    ) -> tuple[Sums, Any]:
        """Sums of nats over the batch's weighted targets, and the model's next state.

        In training penalties are in the total, times the weight; the extra sum "nats" is without them.
        """
        train = rngs is not None
        (hidden_BTD, state), sown = model.apply(
            params,
            batch.inputs,
            state,
            segments=batch.segments,
            train=train,
            rngs=rngs,
            method="hidden",
            mutable=["intermediates"] if train and self.penalises else [],
        )

        def head(params: Any, hidden_BTD: jax.Array) -> Any:
            return model.apply(params, hidden_BTD, method="logits")

        terms: dict[str, Any] = (
            {"label_smoothing": self.label_smoothing, "z_loss": self.z_loss} if train else {}
        )
        if self.chunk_length:
            sums = chunked_cross_entropy(
                head,
                params,
                hidden_BTD,
                batch.targets,
                batch.weights,
                chunk_length=self.chunk_length,
                **terms,
            )
        else:
            logits_BTV = head(params, hidden_BTD)
            sums = cross_entropy(logits_BTV, batch.targets, batch.weights, **terms)
        if train and self.penalises:
            [output_BTD] = sown["intermediates"]["output"]
            penalty = self._penalty(hidden_BTD, output_BTD)
            sums = Sums(sums.total + penalty * sums.weight, sums.weight, {"nats": sums})
        return sums, state

    def _penalty(self, hidden_BTD: jax.Array, output_BTD: jax.Array) -> jax.Array:
        """Activation and temporal activation regularisation (Merity et al. 2017, section 4.6).

        The first sees what dropout has left, the second what was there before.
        """
        hidden_BTD, output_BTD = hidden_BTD.astype(jnp.float32), output_BTD.astype(jnp.float32)
        penalty = self.activation_penalty * jnp.square(hidden_BTD).mean()
        if self.temporal_penalty and output_BTD.shape[1] > 1:
            penalty += self.temporal_penalty * jnp.square(jnp.diff(output_BTD, axis=1)).mean()
        return penalty
