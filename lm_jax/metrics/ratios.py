"""Bootstrap intervals of many ratios of the same documents at once."""

from __future__ import annotations

import numpy as np

from lm_jax.batch import Array
from lm_jax.metrics import resampling
from lm_jax.metrics.resampling import RESAMPLES, ratio

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
    stacked = resampling.stack(ratio, [totals_DP, weights_DP])
    draws = resampling.draw(None, num_resamples, seed, len(totals_DP))
    values_RP = resampling.evaluate(ratio, resampling.rows_product, stacked, draws)[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        estimates_P = ratio(*(x.sum(axis=(0, 1)) for x in stacked))
    ends = []
    for place, (estimate, values_R) in enumerate(zip(estimates_P, values_RP.T, strict=True)):
        column = [x[..., place] for x in stacked]
        tail = resampling.SmallSample(column).tail(_CONFIDENCE)
        tolerance = resampling.rounding(values_R, column)
        ends.append(resampling.interval(estimate, values_R, tolerance, tail)[1:])
    return np.array(ends, float).reshape(-1, 2)
