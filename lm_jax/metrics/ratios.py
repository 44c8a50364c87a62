"""Bootstrap intervals of many ratios of the same documents at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.batch import Array
from lm_jax.metrics import significance
from lm_jax.metrics.significance import RESAMPLES, ratio

_CONFIDENCE = 0.95


def ratio_intervals(
    totals_DP: Array, weights_DP: Array, num_resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """The ends of the 95 % interval of each of P ratios, float64 [P, 2].

    Those of `significance.bootstrap_interval` but for rounding, and much faster: a draw is a product of how
    often it has each document with all columns. NaN where a ratio is not a finite number on some of the
    draws, as where few documents have what a column is about.

    Args:
        totals_DP: a numerator for each document and ratio.
        weights_DP: its denominator.
        num_resamples: R.
        seed: of `jax.random`.
    """
    stacked = significance._stack(ratio, [totals_DP, weights_DP])
    draws = significance._draws(None, num_resamples, seed, len(totals_DP))
    values_RP = significance._evaluate(ratio, _product, stacked, draws)[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        estimates_P = ratio(*(x.sum(axis=(0, 1)) for x in stacked))
    ends = []
    for estimate, values_R in zip(estimates_P, values_RP.T, strict=True):
        tolerance = significance._rounding(values_R, stacked)
        ends.append(significance._interval(estimate, values_R, tolerance, _CONFIDENCE)[1:])
    return np.array(ends, float).reshape(-1, 2)


def _product(x_DK: jax.Array, draw: jax.Array) -> jax.Array:
    """`significance._rows_sum` as a product, [K, ...]."""
    rows_D = significance._rows(len(x_DK), draw)
    times_D = jnp.zeros(len(x_DK), x_DK.dtype).at[rows_D].add(1)
    return jnp.tensordot(times_D, x_DK, axes=1)
