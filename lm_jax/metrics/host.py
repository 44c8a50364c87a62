"""Metrics run in numpy on the host for concrete arrays, and in jnp for traced ones (`jax.jit`, `vmap`).

The host keeps float64, compiles nothing, and raises errors for wrong values. Under tracing the values are not
known: wrong shapes and types still raise errors, and wrong values give NaN, unless a function says otherwise.
"""

from __future__ import annotations

import operator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lm_jax.errors import UserError


def is_traced(*arrays: Any) -> bool:
    """Whether any is inside `jax.jit`, `vmap` or `grad`."""
    return any(isinstance(x, Tracer) for x in arrays)


def array(x: Any) -> Any:
    """A traced array unchanged, anything else as a numpy array.

    Raises:
        UserError: lists of different lengths.
    """
    if is_traced(x):
        return x
    try:
        return np.asarray(x)
    except ValueError as error:
        raise UserError(f"values that make no array ({error})", "give rows of equal length") from None


def library(*arrays: Any) -> Any:
    """jax.numpy where any is traced, else numpy."""
    return jnp if is_traced(*arrays) else np


def real(x: Any, name: str) -> Any:
    """`array`, if its values are real numbers or booleans. Errors as for `check_real`."""
    x = array(x)
    check_real(x, name)
    return x


def check_real(x: Any, name: str) -> None:
    """Raises UserError for an array of complex numbers, texts or other objects."""
    if not (x.dtype == bool or jnp.issubdtype(x.dtype, jnp.integer) or jnp.issubdtype(x.dtype, jnp.floating)):
        raise UserError(f"{name} are {x.dtype}", "give real numbers")


def floating(x: Any) -> Any:
    """Real numbers in float64 on the host; traced ones in jax's default precision, or in theirs if wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.result_type(float)) if is_traced(x) else float)


def whole(x: Any, name: str, least: int, most: int = 2**31 - 1) -> int:
    """A whole number that is known when a program is traced, of Python, NumPy or JAX.

    Raises:
        UserError: another type, less than `least`, or more than `most`.
    """
    try:
        value = operator.index(x)
    except TypeError:
        raise UserError(f"{name}={x!r}", "give a whole number") from None
    if isinstance(x, bool) or value < least:
        raise UserError(f"{name}={x!r}", f"give a whole number of {least} or more")
    if value > most:
        raise UserError(f"{name}={x!r}", f"give a whole number of {most:,} at most")
    return value


def non_negative(x: Any, name: str) -> float:
    """A number of 0 or more, inf included, that is known when a program is traced.

    Raises:
        UserError: no number, a negative one, or NaN.
    """
    try:
        value = float(x)
    except (TypeError, ValueError):  # tracers, too
        value = -1.0
    if not value >= 0:
        raise UserError(f"{name}={x}", "give a number of 0 or more")
    return value


def f_weights(beta: Any) -> tuple[float, float]:
    """(of recall's denominator, of precision's) in F_β: β² and 1, divided by β² where β is large or inf."""
    beta = non_negative(beta, "beta")
    return (1.0, beta**-2) if beta > 1 else (beta**2, 1.0)


def example_weights(weights: Any, shape: tuple[int, ...]) -> Any:
    """Weights of examples in floating point, NaN for traced ones below 0; None stays None.

    Raises:
        UserError: another shape than that of the labels, no real numbers, or concrete weights that are
            negative or not finite.
    """
    if weights is None:
        return None
    weights = real(weights, "weights")
    if weights.shape != shape:
        raise UserError(
            f"weights of shape {weights.shape} for labels of shape {shape}", "give one weight for each label"
        )
    weights = floating(weights)
    if is_traced(weights):
        return jnp.where(weights < 0, jnp.nan, weights)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise UserError("weights that are negative or not finite", "give finite weights of 0 or more")
    return weights
