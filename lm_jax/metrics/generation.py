"""Metrics of generated text without references: variety, repetition, length.

Texts are integers [B, T], padded at the end with negative ids; `text.token_ids` makes them from strings.
Metrics that can be summed are `Sums` [B], one for each text: add them up and divide once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lm_jax.batch import Array, Sums
from lm_jax.errors import UserError
from lm_jax.metrics.host import array
from lm_jax.metrics.matching import are_ngrams, lengths
from lm_jax.metrics.overlap import distinct_ngrams


def distinct_n(ids_BT: Array, n: int) -> Sums:
    """The number of distinct n-grams of each text over that of its n-grams; the mean lies in (0, 1].

    Li et al. 2016, section 5, except that their denominator is the number of tokens. Every text counts its
    own n-grams; `corpus_distinct_n` counts those of all texts together.
    """
    return Sums(distinct_ngrams(ids_BT, n), are_ngrams(ids_BT, n).sum(axis=-1))


def repetition_rate(ids_BT: Array, n: int = 4) -> Sums:
    """n-grams that occurred before in the same text over all its n-grams; the mean lies in [0, 1).

    1 − distinct-n: seq-rep-n of Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training".
    """
    different, ngrams = distinct_n(ids_BT, n)
    return Sums(ngrams - different, ngrams)


def corpus_distinct_n(ids_BT: Array, n: int) -> Sums:
    """The number of distinct n-grams of all texts together over that of all their n-grams, on the host.

    It falls as texts are added: compare only corpora of equal size.
    """
    ids_BT = array(ids_BT)
    if ids_BT.ndim != 2:
        raise UserError(f"ids of shape {ids_BT.shape} are not texts", "give [B, T], padded with negative ids")
    if ids_BT.shape[1] < n:
        return Sums(np.zeros(()), np.zeros(()))
    grams = np.lib.stride_tricks.sliding_window_view(ids_BT, n, axis=1).reshape(-1, n)
    grams = grams[(grams >= 0).all(axis=1)]
    return Sums(np.array(len(np.unique(grams, axis=0))), np.array(len(grams)))


class LengthStatistics(NamedTuple):
    """Mean, standard deviation, minimum, median and maximum of the numbers of tokens of texts."""

    mean: float
    standard_deviation: float
    shortest: int
    median: float
    longest: int


def length_statistics(ids_BT: Array) -> LengthStatistics:
    """Statistics of the lengths of texts, on the host."""
    num_tokens = np.asarray(lengths(ids_BT))
    if not num_tokens.size:
        raise UserError("there are no texts to measure", "give at least one")
    return LengthStatistics(
        float(num_tokens.mean()),
        float(num_tokens.std()),
        int(num_tokens.min()),
        float(np.median(num_tokens)),
        int(num_tokens.max()),
    )
