"""The interpolation formula that all smoothings share.

With c the counts of an order, h' the history h without its first word, and sums over the words w that were
seen after h:

    p(w | h) = (c(hw) - D(c(hw))) / Z(h) + γ(h) p(w | h')
    Z(h)     = Σ c(hw) + T(h)
    γ(h)     = (Σ D(c(hw)) + T(h)) / Z(h)

D are discounts, and T is additional mass. The whole count of a pruned n-gram goes to γ(h). For T = 0 the
operations, their order and their single precision are those of lmplz (Heafield et al., "Scalable Modified
Kneser-Ney Language Model Estimation", 2013, section 3.3), and the probabilities are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lm_jax.ngram.trie import pieces

_PIECE = 1 << 14  # n-grams at a time, so that the arrays stay in a core's cache

ExtraMass = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray | float]
"""T of histories, from the sum of counts of each, all counts, and the index of each count's history."""


def interpolate(
    values: np.ndarray,
    starts: np.ndarray,
    kept: np.ndarray | None,
    discounts: np.ndarray,
    extra_mass: ExtraMass,
    lower: Callable[[slice], np.ndarray | np.float32],
) -> tuple[np.ndarray, np.ndarray]:
    """float32 p of all n-grams of an order and γ of their histories; γ is 1 for a history without n-grams.

    Args:
        values: int32 counts c of the n-grams.
        starts: the first n-gram of each history, and the number of n-grams at the end.
        kept: which n-grams are not pruned; None: all.
        discounts: float32 D of the counts 0, 1, 2, and of 3 and more.
        extra_mass: returns T.
        lower: returns p(w | h') of a slice of the n-grams.
    """
    probs, gammas = np.empty(len(values), np.float32), np.ones(len(starts) - 1, np.float32)
    for first, end in pieces(starts, _PIECE):
        here = slice(int(starts[first]), int(starts[end]))
        count, keep = values[here], None if kept is None else kept[here]
        history = np.repeat(np.arange(end - first), np.diff(starts[first : end + 1]))
        z, gamma = _normalisers(count, history, end - first, keep, discounts, extra_mass)
        own = (count.astype(np.float32) - discounts.take(np.minimum(count, 3))) / z.take(history)
        probs[here] = own + gamma.take(history) * lower(here)
        gammas[first:end] = gamma
    return probs, gammas


def _normalisers(
    count: np.ndarray,
    history: np.ndarray,
    histories: int,
    keep: np.ndarray | None,
    discounts: np.ndarray,
    extra_mass: ExtraMass,
) -> tuple[np.ndarray, np.ndarray]:
    """float32 Z and γ of the histories of some n-grams; `history` numbers them from 0."""
    total = np.bincount(history, weights=count, minlength=histories)
    capped = np.minimum(count, 3)
    # Of each history, how many of its n-grams have a count of 0, 1, 2, and 3 or more; pruned ones count as 0.
    kinds = history * 4 + (capped if keep is None else capped * keep)
    times = np.bincount(kinds, minlength=4 * histories).reshape(histories, 4).astype(np.float32)
    left = (discounts[1] * times[:, 1] + discounts[2] * times[:, 2]) + discounts[3] * times[:, 3]
    if keep is not None:
        left += np.bincount(history, weights=count * ~keep, minlength=histories).astype(np.float32)
    extra = extra_mass(total, count, history)
    z = (total + extra).astype(np.float32)
    gamma = np.ones(histories, np.float32)
    np.divide(left + extra, z, out=gamma, where=total > 0)
    return z, gamma
