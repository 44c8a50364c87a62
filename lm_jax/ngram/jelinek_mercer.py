"""Fits the weights of Jelinek-Mercer smoothing to held-out text."""

from __future__ import annotations

import numpy as np

from lm_jax.errors import UserError
from lm_jax.ngram.counts import NGramCounts
from lm_jax.ngram.discounting import occurrences
from lm_jax.ngram.query import Matcher
from lm_jax.ngram.vocabulary import BOS

_BUCKETS = 20  # histories that occur 1, 2-3, 4-7, ... times share a weight
_CLIP = 1e-4  # no weight is nearer to 0 or 1, so that every word keeps some probability


def bucket(totals: np.ndarray) -> np.ndarray:
    """The index of the weight for histories with these counts."""
    return np.minimum(np.log2(np.maximum(totals, 1)).astype(np.int64), _BUCKETS - 1)


def fit(
    counts: NGramCounts, held_out: np.ndarray, iterations: int = 100, tolerance: float = 1e-7
) -> np.ndarray:
    """Fits the weights λ of p(w | h) = λ(h) c(hw) / c(h) + (1 - λ(h)) p(w | h') to held-out text.

    By expectation-maximisation (Jelinek and Mercer 1980; Chen and Goodman 1998, section 2.3), with histories
    bucketed by their counts (Bahl, Jelinek and Mercer 1983).

    Args:
        counts: of the training text.
        held_out: a stream of other text.
        iterations: the maximum number of steps.
        tolerance: stop when the log-likelihood of the held-out text, in nats per word, grows by less.

    Returns:
        Weights of shape [order, buckets].

    Raises:
        UserError: the held-out text is empty.
    """
    is_word = held_out != BOS
    if not is_word.any():
        raise UserError("the held-out text is empty", "give some text that is not in the training text")
    shares, buckets = _relative_frequencies(counts, held_out, is_word)
    weights = np.full((counts.order, _BUCKETS), 0.5)
    uniform, before = 1.0 / (len(counts.vocabulary) - 1), -np.inf
    for _ in range(iterations):
        weights, log_likelihood = _step(weights, shares, buckets, uniform)
        if log_likelihood - before < tolerance:
            break
        before = log_likelihood
    return weights


def _relative_frequencies(
    counts: NGramCounts, held_out: np.ndarray, is_word: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """c(hw) / c(h) by order and word, and the bucket of c(h), -1 where h does not occur."""
    shares = np.zeros((counts.order, len(held_out)))
    buckets = np.full((counts.order, len(held_out)), -1)
    values = [occurrences(counts, n) for n in range(1, counts.order + 1)]
    before = [np.concatenate([[0], np.cumsum(level)]) for level in values]
    for piece, ids in Matcher(counts.trie).match(held_out):
        shares[0, piece] = values[0][ids[0][1:]] / before[0][-1]
        buckets[0, piece] = bucket(before[0][-1])
        for n in range(2, counts.order + 1):
            starts, history, found = counts.trie.first_child[n - 2], ids[n - 2][:-1], ids[n - 1][1:]
            rows = np.flatnonzero(history >= 0)
            total = np.zeros(len(history))
            total[rows] = before[n - 1][starts[history[rows] + 1]] - before[n - 1][starts[history[rows]]]
            rows = np.flatnonzero(total)
            buckets[n - 1, piece][rows] = bucket(total[rows])
            rows = np.flatnonzero(found >= 0)
            shares[n - 1, piece][rows] = values[n - 1][found[rows]] / total[rows]
    return shares[:, is_word], buckets[:, is_word]


def _step(
    weights: np.ndarray, shares: np.ndarray, buckets: np.ndarray, uniform: float
) -> tuple[np.ndarray, float]:
    """One step of expectation-maximisation: the new weights, and the log-likelihood per word of the old."""
    chosen = np.where(buckets >= 0, np.take_along_axis(weights, buckets, axis=1), 0.0)
    probs = [np.full(shares.shape[1], uniform)]
    for weight, share in zip(chosen, shares, strict=True):
        probs.append(weight * share + (1 - weight) * probs[-1])
    new = np.empty_like(weights)
    reached = 1.0 / probs[-1]  # times the probability that the higher orders back off
    for n in range(len(weights) - 1, -1, -1):
        rows = np.flatnonzero(buckets[n] >= 0)
        here = (reached * chosen[n] * shares[n])[rows]  # the posterior probability of this order
        there = (reached * probs[n + 1])[rows]  # of this or a lower order
        taken = np.bincount(buckets[n][rows], weights=here, minlength=_BUCKETS)
        total = np.bincount(buckets[n][rows], weights=there, minlength=_BUCKETS)
        pooled = taken.sum() / max(total.sum(), 1e-300)
        new[n] = np.where(total > 0, taken / np.maximum(total, 1e-300), pooled)
        reached = reached * (1 - chosen[n])
    return np.clip(new, _CLIP, 1 - _CLIP), float(np.log(probs[-1]).mean())
