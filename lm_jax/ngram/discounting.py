"""The counts that a smoothing uses, and the discounts that it subtracts from them."""

from __future__ import annotations

import numpy as np

from lm_jax.errors import UserError
from lm_jax.ngram.counts import NGramCounts
from lm_jax.ngram.vocabulary import BOS

_PIECE = 1 << 13


def occurrences(counts: NGramCounts, n: int) -> np.ndarray:
    """int32 counts of the n-grams; 0 for the unigram `<s>`, which is never predicted."""
    values = counts.counts[n - 1]
    if n == 1:
        values = values.copy()
        values[BOS] = 0
    return values


def continuations(counts: NGramCounts, n: int) -> np.ndarray:
    """int32 numbers of different words before each n-gram (Chen and Goodman 1998, equation 20).

    N-grams that begin with `<s>`, before which there is no word, and those of the highest order keep their
    counts.
    """
    if n == counts.order:
        return occurrences(counts, n)
    values = np.zeros_like(counts.counts[n - 1])
    ones = np.ones(_PIECE, np.int32)
    for low in range(0, len(counts.suffixes[n - 1]), _PIECE):
        suffixes = counts.suffixes[n - 1][low : low + _PIECE]
        np.add.at(values, suffixes, ones[: len(suffixes)])
    if n > 1:
        begin = counts.trie.beginning_with(BOS, n)
        values[begin] = counts.counts[n - 1][begin]
    return values


def absolute(values: np.ndarray, n: int, fallback: tuple[float, ...]) -> np.ndarray:
    """One discount for all counts: Ney, Essen and Kneser (1994); Chen and Goodman (1998), equation 15.

    Raises:
        UserError: no n-gram has a count of 1, and there is no fallback.
    """
    once, twice = np.count_nonzero(values == 1), np.count_nonzero(values == 2)
    if once:
        return np.array([0, *[once / (once + 2 * twice)] * 3], np.float32)
    return _fall_back(f"none of the {n}-grams has a count of 1", n, fallback)


def modified(counts: NGramCounts, values: np.ndarray, n: int, fallback: tuple[float, ...]) -> np.ndarray:
    """Discounts D(0) = 0, D(1), D(2), D(3 and more): Chen and Goodman (1998), equation 26.

    Raises:
        UserError: a discount is undefined or not between 0 and its count, and there is no fallback.
    """
    times = [int(np.count_nonzero(values == k)) for k in range(5)]
    if n < counts.order and n <= len(counts.last):
        # lmplz takes the occurrences of the last n-gram of each lower order for its continuations.
        last = counts.last[n - 1]
        for count, change in ((values[last], -1), (counts.counts[n - 1][last], 1)):
            if count < 5:
                times[count] += change
    if 0 in times[1:4]:
        return _fall_back(f"none of the {n}-grams has a count of {times.index(0, 1)}", n, fallback)
    single = np.float32
    y = single(times[1]) / single(times[1] + 2.0 * times[2])
    discounts = np.zeros(4, single)
    for k in (1, 2, 3):
        discounts[k] = single(k) - single(k + 1) * y * single(times[k + 1]) / single(times[k])
        if not 0 <= discounts[k] <= k:
            return _fall_back(
                f"the discount of {n}-grams with a count of {k} would be {discounts[k]:.3g}", n, fallback
            )
    return discounts


def _fall_back(cause: str, n: int, fallback: tuple[float, ...]) -> np.ndarray:
    if not fallback:
        raise UserError(
            f"Kneser-Ney discounts of order {n} cannot be estimated: {cause}",
            "give more text, or for small or character data set discount_fallback=(0.5, 1.0, 1.5)",
        )
    return np.array([0, *fallback, *[fallback[-1]] * (3 - len(fallback))], np.float32)
