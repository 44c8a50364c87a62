"""The precision that BLEU takes for an n-gram order without matches.

"none", "floor", "add-k" and "exp" are sacrebleu's names and values; the last three are methods 1 to 3 of Chen
and Cherry 2014, "A Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU", and of NLTK.
"method0" is what NLTK does by default: the smallest positive float64.

Functions return logarithms of precisions: float32 holds those of numbers that are 0 in it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from lm_jax.batch import Array
from lm_jax.metrics.host import library


class Counts(NamedTuple):
    """The input of a smoothing function, in floating point, for N orders of n-grams.

    Attributes:
        matches: clipped matches, [..., N].
        totals: n-grams of the hypothesis, [..., N].
    """

    matches: Array
    totals: Array


def _replaced(c: Counts, log_of_no_match: Any) -> Any:
    """ln(matches / totals), and `log_of_no_match` where there is none; -inf for an order without n-grams."""
    xp = library(*c)
    has_match = c.matches > 0
    precisions = xp.where(has_match, c.matches, 1) / xp.maximum(c.totals, 1)
    return xp.where(c.totals > 0, xp.where(has_match, xp.log(precisions), log_of_no_match), -math.inf)


def _none(c: Counts, _: float) -> Any:
    return _replaced(c, -math.inf)


def _floor(c: Counts, value: float) -> Any:
    return _replaced(c, _log(value) - library(*c).log(library(*c).maximum(c.totals, 1)))


def _add_k(c: Counts, value: float) -> Any:
    xp = library(*c)
    added = xp.where(xp.arange(c.matches.shape[-1]) > 0, value, 0.0)  # not to the unigrams (Lin and Och 2004)
    added = xp.broadcast_to(added.reshape((1,) * (c.matches.ndim - 1) + (-1,)), c.matches.shape)
    matches, totals = c.matches + added, c.totals + added
    has_match = matches > 0
    logs = xp.log(xp.where(has_match, matches, 1) / xp.where(totals > 0, totals, 1))
    return xp.where(has_match & (totals > 0), logs, -math.inf)


def _exp(c: Counts, _: float) -> Any:
    xp = library(*c)
    halvings = xp.cumsum(c.matches == 0, axis=-1)
    return _replaced(c, -math.log(2) * halvings - xp.log(xp.maximum(c.totals, 1)))


def _smallest(c: Counts, _: float) -> Any:
    xp = library(*c)
    return xp.where(c.matches == 0, math.log(sys.float_info.min), _replaced(c, 0.0))


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


SMOOTHINGS: dict[str, tuple[Callable[[Counts, float], Any], float]] = {
    "none": (_none, 0.0),
    "floor": (_floor, 0.1),
    "add-k": (_add_k, 1.0),
    "exp": (_exp, 0.0),
    "method0": (_smallest, 0.0),
}
"""The smoothings by name: (counts, value) -> ln of the precisions [..., N], and the default value."""
