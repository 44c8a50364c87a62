"""Metrics of predictions: cross entropy, perplexity, bits per byte, accuracy, Brier score, calibration.

Every function of `logits` takes them as [..., V] with `targets` and `weights` of shape [...];
log-probabilities are logits too, so an n-gram model's distributions need no change. The results are `Sums`,
to be added over batches, devices and hosts and divided once; `jax.vmap` over the examples gives the sums of
each example. Arithmetic is in float32, or in the logits' own type where that is wider. Positions of weight 0
(padding) and of target `ignore_index` contribute neither value nor gradient, whatever their logits, NaN
included. At the others a target outside [0, V) and a negative weight give NaN. Targets may be integers of any
size.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import fast
from lm_jax.batch import Array, Sums
from lm_jax.errors import UserError
from lm_jax.metrics.host import array, check_real, non_negative, real, whole

Number = float | Array
_MOST_BINS = 1 << 20


def token_log_probs(logits: Array, targets: Array) -> jax.Array:
    """Natural-log probability of each target, log softmax(logits)[target], of shape [...].

    At most 0; -inf where the model excludes the target. A target outside [0, V) gives NaN.
    """
    logits, targets = _check(logits, targets)
    return fast.target_logits(logits, targets) - jax.nn.logsumexp(logits, axis=-1)


def cross_entropy(
    logits: Array,
    targets: Array,
    weights: Array | None = None,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    ignore_index: int | None = None,
) -> Sums:
    """Cross entropy in nats: total = Σ w_i · −log p_i(target_i), weight = Σ w_i.

    With `label_smoothing` ε the target distribution is (1 − ε) on the target plus ε / V on each of the V
    tokens whose logit is not -inf (Szegedy et al. 2016, section 7). `z_loss` times (log Σ exp logits)² is
    added at each position, which keeps logits from drifting (Chowdhery et al. 2022, section 5). With either,
    `mean` is no longer a log-likelihood.
    """
    for name, value in (("label_smoothing", label_smoothing), ("z_loss", z_loss)):
        non_negative(value, name)
    logits, targets, weights = _count(logits, targets, weights, ignore_index)
    return _weighted(token_nats(logits, targets, weights != 0, label_smoothing, z_loss), weights)


@fast.replaced_by(fast.token_nats)
def token_nats(
    logits: jax.Array, targets: jax.Array, counts: jax.Array, label_smoothing: float, z_loss: float
) -> jax.Array:
    """Nats of each target with the terms of `cross_entropy`; any number where the weight is 0."""
    logits = jnp.where(counts[..., None], logits, 0)
    log_total = jax.nn.logsumexp(logits, axis=-1)
    nats = log_total - fast.target_logits(logits, targets)
    if label_smoothing:
        nats = (1 - label_smoothing) * nats + label_smoothing * (log_total - fast.mean_of_possible(logits))
    if z_loss:
        nats += z_loss * jnp.square(log_total)
    return nats


def accuracy(
    logits: Array,
    targets: Array,
    weights: Array | None = None,
    k: int = 1,
    *,
    ignore_index: int | None = None,
) -> Sums:
    """Top-k accuracy: total = Σ w_i · [the target is among the k largest logits], weight = Σ w_i.

    Among equal logits the lower id ranks first, as in `jnp.argmax` and `jax.lax.top_k`, so that equal logits
    do not count as always right. A NaN logit outranks every other.
    """
    k = whole(k, "k", 1)
    logits, targets, weights, is_unknown = _mask(logits, targets, weights, ignore_index)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    # Negated comparisons, because a NaN compares as False either way.
    ahead = jnp.where(ids < targets[..., None], ~(logits < target_logits), ~(logits <= target_logits))
    is_right = (ahead.sum(axis=-1) < k).astype(logits.dtype)
    return _weighted(jnp.where(is_unknown, jnp.nan, is_right), weights)


def brier_score(
    logits: Array, targets: Array, weights: Array | None = None, *, ignore_index: int | None = None
) -> Sums:
    """Brier score: total = Σ w_i · Σ_v (p_iv − [v = target_i])², weight = Σ w_i (Brier 1950, equation 2).

    The mean lies in [0, 2]; 0 is certain and right, 2 certain and wrong, and uniform p gives 1 − 1/V.
    """
    logits, targets, weights, is_unknown = _mask(logits, targets, weights, ignore_index)
    p = jax.nn.softmax(logits, axis=-1)
    p_target = jnp.take_along_axis(p, targets[..., None], axis=-1)[..., 0]
    errors = jnp.square(p).sum(axis=-1) - 2 * p_target + 1
    return _weighted(jnp.where(is_unknown, jnp.nan, errors), weights)


def perplexity(nats: Number, tokens: Number) -> Any:
    """exp(nats / tokens), from sums. At least 1 for a probability; NaN for 0 / 0.

    Takes numbers, numpy arrays (float64, on the host) and jax arrays. For the perplexity per word pass the
    number of words.
    """
    with np.errstate(over="ignore"):
        return _library(nats, tokens).exp(_divide(nats, tokens))


def bits_per_byte(nats: Number, num_bytes: Number) -> Any:
    """nats / (num_bytes · ln 2), from sums. At least 0 for a probability; NaN for 0 / 0.

    Takes what `perplexity` takes. It compares models with different tokens, provided that each scores all
    bytes of the same text.
    """
    return _divide(nats, num_bytes) / math.log(2)


bits_per_character = bits_per_word = bits_per_byte  # the same division by another count


class ReliabilityBins(NamedTuple):
    """A reliability diagram before its division, each [num_bins]: sums over predictions by confidence.

    Bin b holds the confidences in (b / num_bins, (b + 1) / num_bins]. The mean confidence of a bin is
    confidence / weight, its accuracy correct / weight. Bins add up over batches like `Sums`.
    """

    confidence: Array
    correct: Array
    weight: Array


def reliability_bins(
    logits: Array,
    targets: Array,
    weights: Array | None = None,
    *,
    num_bins: int = 15,
    ignore_index: int | None = None,
) -> ReliabilityBins:
    """Bins the predictions (the most probable token, the lowest id among equals) by their probability."""
    num_bins = whole(num_bins, "num_bins", 1, _MOST_BINS)
    logits, targets, weights, is_unknown = _mask(logits, targets, weights, ignore_index)
    confidence = jnp.exp(logits.max(axis=-1) - jax.nn.logsumexp(logits, axis=-1))
    correct = jnp.where(is_unknown, jnp.nan, logits.argmax(axis=-1) == targets)
    bins = confidence_bins(confidence, num_bins)

    def by_bin(values):
        return jnp.zeros(num_bins, values.dtype).at[bins].add(values)

    return ReliabilityBins(by_bin(weights * confidence), by_bin(weights * correct), by_bin(weights))


def confidence_bins(confidence: Any, num_bins: int = 15) -> Any:
    """The bin of `ReliabilityBins` of each confidence; of numpy arrays on the host."""
    library = _library(confidence)
    return library.clip(library.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)


def expected_calibration_error(bins: ReliabilityBins) -> jax.Array:
    """Σ_b weight_b / weight · |accuracy_b − confidence_b|, in [0, 1]; NaN if all weights are 0.

    Guo et al. 2017, equation 3 (Naeini et al. 2015).
    """
    return jnp.abs(jnp.asarray(bins.correct) - bins.confidence).sum() / jnp.asarray(bins.weight).sum()


def calibration_error(
    logits: Array,
    targets: Array,
    weights: Array | None = None,
    *,
    num_bins: int = 15,
    ignore_index: int | None = None,
) -> jax.Array:
    """Expected calibration error of one set of predictions, in [0, 1].

    Over several batches add up their `reliability_bins` and divide by `expected_calibration_error`.
    """
    return expected_calibration_error(
        reliability_bins(logits, targets, weights, num_bins=num_bins, ignore_index=ignore_index)
    )


def _check(logits: Array, targets: Array) -> tuple[jax.Array, jax.Array]:
    logits, targets = _numbers(logits, "logits"), token_ids(targets)
    if logits.ndim == 0 or logits.shape[:-1] != targets.shape or not logits.shape[-1]:
        raise UserError(
            f"logits of shape {logits.shape} do not fit targets of shape {targets.shape}",
            "give logits one axis more than targets, the vocabulary, last",
        )
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), targets


def _numbers(x: Array, name: str) -> jax.Array:
    """An array of real numbers, which stays on its device."""
    x = x if isinstance(x, jax.Array) else array(x)
    check_real(x, name)
    return jnp.asarray(x)


def token_ids(targets: Array) -> jax.Array:
    """Targets as integers of jax's default size: in fewer bits V, or a negative id, would wrap around.

    Raises:
        UserError: no integers.
    """
    targets = targets if isinstance(targets, jax.Array) else array(targets)
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise UserError(f"targets are {targets.dtype}", "give token ids as integers")
    if isinstance(targets, np.ndarray) and targets.dtype.itemsize == 8:
        bounds = jnp.iinfo(jnp.result_type(int))
        targets = np.clip(targets, bounds.min, bounds.max)
    return jnp.asarray(targets).astype(int)


def _mask(
    logits: Array, targets: Array, weights: Array | None, ignore_index: int | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Checks, and gives positions that do not count zero logits and weight 0; an unknown target becomes 0.

    Returns:
        Logits, targets, weights, and which positions count and have a target outside [0, V).
    """
    logits, targets, weights = _count(logits, targets, weights, ignore_index)
    counts, is_known = weights != 0, (targets >= 0) & (targets < logits.shape[-1])
    logits = jnp.where(counts[..., None], logits, 0)
    return logits, jnp.where(is_known, targets, 0), weights, counts & ~is_known


def _count(
    logits: Array, targets: Array, weights: Array | None, ignore_index: int | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Checks, and gives positions that do not count weight 0."""
    logits, targets = _check(logits, targets)
    if weights is None:
        weights = jnp.ones(targets.shape, logits.dtype)
    else:
        weights = _numbers(weights, "weights").astype(logits.dtype)
    if weights.shape != targets.shape:
        raise UserError(
            f"weights of shape {weights.shape} do not fit targets of shape {targets.shape}",
            "give one weight for each target",
        )
    if ignore_index is not None:
        weights = jnp.where(targets == whole(ignore_index, "ignore_index", -(2**31)), 0, weights)
    return logits, targets, jnp.where(weights < 0, jnp.nan, weights)


def _weighted(values: jax.Array, weights: jax.Array) -> Sums:
    return Sums(jnp.where(weights != 0, weights * values, 0).sum(), weights.sum())


def _library(*values: Number) -> Any:
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def _divide(numerator: Number, denominator: Number) -> Any:
    numerator, denominator = (
        x if isinstance(x, jax.Array) else real(x, "sums").astype(float) for x in (numerator, denominator)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return _library(numerator, denominator).divide(numerator, denominator)
