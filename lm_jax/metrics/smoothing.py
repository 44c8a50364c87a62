"""The precision that BLEU takes for an n-gram order without matches.

"none", "floor", "add-k" and "exp" are sacrebleu's names and values; the last three are methods 1 to 3 of Chen
and Cherry 2014, "A Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU", and of NLTK.
"method0" is what NLTK does by default.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm_jax.batch import Array


class Counts(NamedTuple):
    """The input of a smoothing function, in floating point, for N orders of n-grams.

    Attributes:
        matches: clipped matches, [..., N].
        totals: n-grams of the hypothesis, [..., N].
    """

    matches: Array
    totals: Array


def _none(c: Counts, _: float = 0.0) -> jax.Array:
    return jnp.where(c.totals > 0, c.matches / jnp.maximum(c.totals, 1), 0)


def _floor(c: Counts, value: float) -> jax.Array:
    return _none(c._replace(matches=jnp.where(c.matches == 0, value, c.matches)))


def _add_k(c: Counts, value: float) -> jax.Array:
    order = jax.lax.broadcasted_iota(int, c.matches.shape, c.matches.ndim - 1)
    added = jnp.where(order > 0, value, 0)  # not to the unigrams (Lin and Och 2004)
    return jnp.where(c.totals + added > 0, (c.matches + added) / (c.totals + added), 0)


def _exp(c: Counts, _: float) -> jax.Array:
    halvings = jnp.cumsum(c.matches == 0, axis=-1)
    return _none(c._replace(matches=jnp.where(c.matches == 0, 0.5**halvings, c.matches)))


def _smallest(c: Counts, _: float) -> jax.Array:
    return jnp.where(c.matches == 0, sys.float_info.min, _none(c))


SMOOTHINGS: dict[str, tuple[Callable[[Counts, float], jax.Array], float]] = {
    "none": (_none, 0.0),
    "floor": (_floor, 0.1),
    "add-k": (_add_k, 1.0),
    "exp": (_exp, 0.0),
    "method0": (_smallest, 0.0),
}
"""The smoothings by name: (counts, value) -> precisions [..., N], and the default value."""
