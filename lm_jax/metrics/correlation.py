"""Correlation of two lists of numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lm_jax.batch import Array
from lm_jax.errors import UserError


def pearson(x_N: Array, y_N: Array) -> jax.Array:
    """Pearson's correlation of two arrays [N], from -1 to 1; NaN where one of them is constant.

    Raises:
        UserError: arrays of other shapes.
    """
    x_N, y_N = _check(x_N, y_N)
    x_N, y_N = x_N - x_N.mean(), y_N - y_N.mean()
    return (x_N * y_N).sum() / jnp.sqrt(jnp.square(x_N).sum() * jnp.square(y_N).sum())


def spearman(x_N: Array, y_N: Array) -> jax.Array:
    """Spearman's rank correlation of two arrays [N]: `pearson` of their ranks.

    Equal numbers have the mean of their ranks, as in SciPy.

    Raises:
        UserError: arrays of other shapes.
    """
    x_N, y_N = _check(x_N, y_N)
    return pearson(ranks(x_N), ranks(y_N))


def ranks(x_N: Array) -> jax.Array:
    """The rank of each number, from 1; equal numbers have the mean of their ranks."""
    x_N = jnp.asarray(x_N)
    ordered_N = jnp.sort(x_N)
    below_N = jnp.searchsorted(ordered_N, x_N, side="left")
    up_to_N = jnp.searchsorted(ordered_N, x_N, side="right")
    return (below_N + up_to_N + 1) / 2


def _check(x_N: Array, y_N: Array) -> tuple[jax.Array, jax.Array]:
    x_N, y_N = jnp.asarray(x_N), jnp.asarray(y_N)
    if x_N.ndim != 1 or x_N.shape != y_N.shape:
        raise UserError(
            f"a correlation of shapes {x_N.shape} and {y_N.shape}", "give two lists of one length"
        )
    wide = jnp.promote_types(jnp.promote_types(x_N.dtype, y_N.dtype), jnp.float32)
    return x_N.astype(wide), y_N.astype(wide)
