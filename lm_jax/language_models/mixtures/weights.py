"""The weights of mixtures, fitted by expectation maximisation (Jelinek and Mercer 1980).

The likelihood is concave in the weights, so that EM finds the largest one from any positive start.
"""

from typing import NamedTuple

import numpy as np

TOLERANCE = 1e-7  # nats a token: how far from the largest likelihood a fit may stop
_MOST_ITERATIONS = 10_000
STRENGTH = 10.0  # tokens that the weights of all situations count for in each of them


class Fit(NamedTuple):
    """Fitted weights.

    Attributes:
        weights: float64 [K], or [S, K] by situation; each row sums to one.
        iterations: how many EM took.
        nats: the mean negative log-likelihood of a token, before each iteration; of `fit` also at the end.
    """

    weights: np.ndarray
    iterations: int
    nats: list[float]


class Weights(NamedTuple):
    """The weights of a mixture's components.

    Attributes:
        all_K: float64, in every situation, or where there are no weights by situation.
        by_situation_SK: float64, in each situation; None: the same in all.
        how: where they come from, for the record.
    """

    all_K: np.ndarray
    by_situation_SK: np.ndarray | None = None
    how: str = "fixed"

    def log(self, situations_T: np.ndarray) -> np.ndarray:
        """Natural logs of the weights at places in these situations, float64 [T, K]."""
        with np.errstate(divide="ignore"):
            if self.by_situation_SK is None:
                return np.broadcast_to(np.log(self.all_K), (len(situations_T), len(self.all_K)))
            return np.log(self.by_situation_SK)[situations_T]


def mixed(log_weights_TK: np.ndarray, log_probs_TK: np.ndarray) -> np.ndarray:
    """log Σ_k w_k p_k, float64 [T]."""
    return np.logaddexp.reduce(log_weights_TK + log_probs_TK, axis=1)


def fit(log_probs_NK: np.ndarray, tolerance: float = TOLERANCE) -> Fit:
    """The weights with the largest likelihood.

    It stops where the likelihood is within `tolerance` of the largest one: with g_k the mean over tokens of
    p_k / Σ_j w_j p_j, which is what EM multiplies w_k by, no weights do better by more than max g_k − 1 nats
    a token.

    Args:
        log_probs_NK: natural log of the probability that each of K components gives to each of N tokens.
        tolerance: nats a token.
    """
    shifts_N, probs_NK = _scaled(log_probs_NK)
    weights_K = np.full(probs_NK.shape[1], 1 / probs_NK.shape[1])
    nats: list[float] = []
    while True:
        mixed_N = probs_NK @ weights_K
        nats.append(-float((np.log(mixed_N) + shifts_N).mean()))
        gains_K = (probs_NK / mixed_N[:, None]).mean(axis=0)
        if gains_K.max() - 1 <= tolerance or len(nats) > _MOST_ITERATIONS:
            return Fit(weights_K, len(nats) - 1, nats)
        weights_K = weights_K * gains_K
        weights_K /= weights_K.sum()


def fit_by_situation(
    log_probs_NK: np.ndarray,
    situations_N: np.ndarray,
    num_situations: int,
    prior_K: np.ndarray,
    strength: float = STRENGTH,
    tolerance: float = TOLERANCE,
) -> Fit:
    """Weights in each situation, which back off to those of all: a rare situation keeps about `prior_K`.

    They maximise the likelihood times a Dirichlet prior, as if each situation had `strength` tokens more that
    belong to the components by `prior_K`: w_k = (Σ_n r_nk + strength · prior_k) / (N + strength), r_nk being
    the share of component k in token n.

    Args:
        log_probs_NK: as for `fit`.
        situations_N: the situation of each token.
        num_situations: how many there are.
        prior_K: the weights of `fit`.
        strength: see above; above 0.
        tolerance: it stops when no weight changes by more than the square root of it.
    """
    shifts_N, probs_NK = _scaled(log_probs_NK)
    counts_S = np.bincount(situations_N, minlength=num_situations)
    weights_SK = np.tile(prior_K, (num_situations, 1))
    nats: list[float] = []
    change = np.inf
    while change > np.sqrt(tolerance) and len(nats) < _MOST_ITERATIONS:
        shares_NK = probs_NK * weights_SK[situations_N]
        mixed_N = shares_NK.sum(axis=1)
        nats.append(-float((np.log(mixed_N) + shifts_N).mean()))
        shares_NK /= mixed_N[:, None]
        sums_SK = np.stack([np.bincount(situations_N, r_N, num_situations) for r_N in shares_NK.T], axis=1)
        updated_SK = (sums_SK + strength * prior_K) / (counts_S[:, None] + strength)
        change, weights_SK = np.abs(updated_SK - weights_SK).max(), updated_SK
    return Fit(weights_SK, len(nats), nats)


def _scaled(log_probs_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest log-probability of each token, [N], and probabilities divided by the largest, [N, K]."""
    shifts_N = log_probs_NK.max(axis=1)
    shifts_N = np.where(np.isfinite(shifts_N), shifts_N, 0.0)
    return shifts_N, np.exp(log_probs_NK - shifts_N[:, None])
