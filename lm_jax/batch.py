"""What a model reads and a loss scores, and what a loss returns."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray


class Batch(NamedTuple):
    """Rows of tokens. Every field has shape [B, T].

    Attributes:
        inputs: int32 token ids that the model reads.
        targets: int32 token ids that the loss scores at the same positions.
        weights: float32; 0 where a target does not count (padding, or scored in another window).
        segments: int32; where it changes within a row, attention and state start anew. None: one segment.
    """

    inputs: Array
    targets: Array
    weights: Array
    segments: Array | None = None


class Sums(NamedTuple):
    """A metric before its one division, so that sums over batches, devices and hosts add up.

    Attributes:
        total: the weighted sum; nats for a loss.
        weight: the sum of the weights; tokens for a loss over tokens.
        extras: further sums by name, each a `Sums` of its own.
    """

    total: Array
    weight: Array
    extras: dict[str, Sums] = {}  # noqa: RUF012 (a NamedTuple's default, never written to)

    @property
    def mean(self) -> Array:
        """total / weight: nats per token for a loss. NaN where nothing was weighed."""
        return self.total / self.weight
