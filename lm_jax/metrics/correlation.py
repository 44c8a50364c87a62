"""Correlation of two variables, of their values or of their ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from lm_jax.errors import UserError
from lm_jax.metrics.host import floating, library, real


def pearson(x: Any, y: Any) -> Any:
    """Pearson's correlation of two arrays [N], in [−1, 1]; NaN where either is constant.

    Σ (x − mean x) (y − mean y) / √(Σ (x − mean x)² · Σ (y − mean y)²).
    """
    x, y = _pair(x, y)
    return pearson_of_sums(*(column.sum() for column in moments(x - x.mean(), y - y.mean())))


def moments(x: Any, y: Any) -> tuple[Any, ...]:
    """What `pearson_of_sums` takes, of each pair of numbers: six arrays [N].

    Values far from 0 relative to their spread lose precision: subtract their means before.
    """
    xp = library(x, y)
    return xp.ones_like(x), x, y, x * x, y * y, x * y


def pearson_of_sums(n: Any, x: Any, y: Any, xx: Any, yy: Any, xy: Any) -> Any:
    """Pearson's correlation from the sums of `moments`."""
    xp = library(n, x, y, xx, yy, xy)
    variances = (n * xx - x * x) * (n * yy - y * y)
    varies = variances > 0
    return xp.where(varies, (n * xy - x * y) / xp.sqrt(xp.where(varies, variances, 1)), xp.nan)[()]


def spearman(x: Any, y: Any) -> Any:
    """Spearman's correlation of two arrays [N]: Pearson's of their ranks, ties having their mean rank."""
    x, y = _pair(x, y)
    return pearson(ranks(x), ranks(y))


def ranks(x: Any) -> Any:
    """The ranks of the values of an array [N] from 1 on; equal values have the mean of their ranks."""
    xp = library(x)
    ordered = xp.sort(x)
    below, upto = (xp.searchsorted(ordered, x, side=side) for side in ("left", "right"))
    return (below + upto + 1) / 2


def _pair(x: Any, y: Any) -> tuple[Any, Any]:
    x, y = floating(real(x, "values")), floating(real(y, "values"))
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise UserError(
            f"values of shapes {x.shape} and {y.shape} do not pair", "give two rows of one length"
        )
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and np.isnan(x + y).any():
        raise UserError("values contain NaN", "leave these pairs out")
    return x, y
