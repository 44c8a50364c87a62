"""The batch of a left-to-right model, and the sums that a loss returns."""

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
        segments: int32; each run of equal numbers in a row is a text of its own, whose positions see each
            other and nothing else. A negative number marks padding, here and in every other batch of the
            project: there is no second mask. None: a row is one text, padded at most on the right.
    """

    inputs: Array
    targets: Array
    weights: Array
    segments: Array | None = None


class Sums(NamedTuple):
    """A metric before its division, so that sums over batches, devices and hosts can be added.

    Attributes:
        total: the weighted sum; nats for a loss.
        weight: the sum of the weights; tokens for a loss over tokens.
    """

    total: Array
    weight: Array

    @property
    def mean(self) -> Array:
        """total / weight: nats per token for a loss. NaN where the weight is 0."""
        return self.total / self.weight
