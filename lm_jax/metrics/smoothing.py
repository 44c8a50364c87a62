"""What BLEU takes for the precision of an n-gram order that has no matches.

"none", "floor", "add-k" and "exp" are sacrebleu's names; "method0" to "method7" are NLTK's, after Chen and
Cherry 2014, "A Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU", and as NLTK computes
them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm_jax.batch import Array


class Counts(NamedTuple):
    """What a smoothing reads, in floating point, for N orders of n-grams.

    Attributes:
        matches: clipped matches, [..., N].
        totals: n-grams of the hypothesis, [..., N].
        length: tokens of the hypothesis, [..., 1].
        five_gram_precision: [..., 1], where 5-grams were counted.
        ngrams: what method 6 divides by, [..., N].
    """

    matches: Array
    totals: Array
    length: Array
    five_gram_precision: Array
    ngrams: Array


def _none(c: Counts, _: float = 0.0) -> jax.Array:
    return jnp.where(c.totals > 0, c.matches / jnp.maximum(c.totals, 1), 0)


def _floor(c: Counts, value: float) -> jax.Array:
    return _none(c._replace(matches=jnp.where(c.matches == 0, value, c.matches)))


def _add_k(c: Counts, value: float) -> jax.Array:
    order = jax.lax.broadcasted_iota(int, c.matches.shape, c.matches.ndim - 1)
    added = jnp.where(order > 0, value, 0)  # but to the unigrams (Lin and Och 2004)
    return jnp.where(c.totals + added > 0, (c.matches + added) / (c.totals + added), 0)


def _exp(c: Counts, _: float) -> jax.Array:
    halvings = jnp.cumsum(c.matches == 0, axis=-1)
    return _none(c._replace(matches=jnp.where(c.matches == 0, 0.5**halvings, c.matches)))


def _smallest(c: Counts, _: float) -> jax.Array:
    return jnp.where(c.matches == 0, sys.float_info.min, _none(c))


def _by_length(c: Counts, value: float) -> jax.Array:
    """Method 4: the k-th order without matches counts ln(length) / (2^k · value)."""
    doublings = 2.0 ** jnp.cumsum(c.matches == 0, axis=-1)
    count = jnp.log(jnp.maximum(c.length, 1)) / (doublings * value)
    return _none(c._replace(matches=jnp.where(c.matches == 0, count, c.matches)))


def _neighbours(c: Counts, precisions: jax.Array) -> jax.Array:
    """Method 5: the mean of the smoothed precision one order below, the order's own, and that above."""
    following = jnp.concatenate([precisions[..., 1:], c.five_gram_precision], axis=-1)
    smoothed, before = [], precisions[..., 0] + 1
    for n in range(precisions.shape[-1]):
        before = (before + precisions[..., n] + following[..., n]) / 3
        smoothed.append(before)
    return jnp.stack(smoothed, axis=-1)


def _extrapolated(c: Counts, value: float) -> jax.Array:
    """Method 6: from trigrams on, `value` further n-grams of the precision p²_{n−1} / p_{n−2}."""
    precisions = _none(c)
    p: list[Array] = [precisions[..., 0], precisions[..., 1]]
    for n in range(2, precisions.shape[-1]):
        prior = jnp.square(p[n - 1]) / p[n - 2]
        p.append((c.matches[..., n] + value * prior) / (c.ngrams[..., n] + value))
    undefined = precisions[..., 2] == 0
    return jnp.where(undefined[..., None], jnp.nan, jnp.stack(p, axis=-1))


SMOOTHINGS: dict[str, tuple[Callable[[Counts, float], jax.Array], float]] = {
    "none": (_none, 0.0),
    "floor": (_floor, 0.1),
    "add-k": (_add_k, 1.0),
    "exp": (_exp, 0.0),
    "method0": (_smallest, 0.0),
    "method1": (_floor, 0.1),
    "method2": (_add_k, 1.0),
    "method3": (_exp, 0.0),
    "method4": (_by_length, 5.0),
    "method5": (lambda c, _: _neighbours(c, _none(c)), 0.0),
    "method6": (_extrapolated, 5.0),
    "method7": (lambda c, value: _neighbours(c, _by_length(c, value)), 5.0),
}
"""The smoothings by name, (counts, value) -> precisions [..., N], with the value that is taken by default."""


def orders_read(order: int, smoothing: str) -> int:
    """How many orders of n-grams must be counted for BLEU of that order."""
    return max(order, 5) if smoothing in ("method5", "method7") else order
