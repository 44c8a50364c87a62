"""ROC and precision-recall: metrics of scores that rank examples.

Labels come first, then scores; both are array-likes [N], labels 0 or 1 (or booleans). For several classes
labels are ids [N] and scores [N, C], and each class is compared with the rest. Concrete scores are ranked on
the host in the type they have, so that float64 keeps its order and its ties; results are then exact to
float64. Under `jax.jit` the areas are computed in jnp; what is an error elsewhere (a score that is NaN, a
label other than 0 and 1 or without a column, a negative weight) gives NaN there. The curves have as many
points as there are different scores, and are host functions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.metrics.host import array, example_weights, is_traced, library, real


class RocCurve(NamedTuple):
    """Rates at each threshold, [K], descending from inf; scores >= the threshold are predicted positive."""

    false_positive_rates: np.ndarray
    true_positive_rates: np.ndarray
    thresholds: np.ndarray


class PrecisionRecallCurve(NamedTuple):
    """Precision and recall [K + 1] at thresholds [K] ascending, ending in precision 1 and recall 0."""

    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray


def roc_curve(labels: Any, scores: Any, *, weights: Any = None, drop_intermediate: bool = True) -> RocCurve:
    """True positives / positives over false positives / negatives, in [0, 1] (Fawcett 2006, algorithm 1).

    Starts at (0, 0) and ends at (1, 1). A rate is NaN where there are no positives or no negatives.

    Args:
        labels: [N] of 0 and 1. scores: [N], larger where label 1 is more likely. weights: [N]; None: ones.
        drop_intermediate: leaves out the points between others on a line.
    """
    fp, tp, thresholds = _thresholds(*_check_concrete(labels, scores, weights))
    if drop_intermediate and len(fp) > 2:
        corner = (np.diff(fp, 2) != 0) | (np.diff(tp, 2) != 0)
        keep = np.concatenate([[True], corner, [True]])
        fp, tp, thresholds = fp[keep], tp[keep], thresholds[keep]
    fp, tp = np.concatenate([[0.0], fp]), np.concatenate([[0.0], tp])
    return RocCurve(_ratio(fp, fp[-1]), _ratio(tp, tp[-1]), np.concatenate([[np.inf], thresholds]))


def precision_recall_curve(labels: Any, scores: Any, *, weights: Any = None) -> PrecisionRecallCurve:
    """True positives / predicted positives, and true positives / positives, each in [0, 1].

    Recall is 1 throughout where there are no positives. The arguments are those of `roc_curve`.
    """
    fp, tp, thresholds = _thresholds(*_check_concrete(labels, scores, weights))
    precision = tp / np.where(tp + fp > 0, tp + fp, 1)
    recall = tp / tp[-1] if tp[-1] > 0 else np.ones_like(tp)
    return PrecisionRecallCurve(
        np.concatenate([precision[::-1], [1.0]]), np.concatenate([recall[::-1], [0.0]]), thresholds[::-1]
    )


def roc_auc(labels: Any, scores: Any, *, weights: Any = None, average: str | None = "macro") -> Any:
    """Area under the ROC curve, in [0, 1]: P(score of a positive > of a negative) + ½ P(they tie).

    Chance gives 1/2 (Hanley and McNeil 1982). NaN where positives or negatives are missing.

    Args:
        labels: [N] of 0 and 1, or class ids.
        scores: [N], larger where label 1 is more likely; or [N, C], one-vs-rest.
        weights: [N]; None: ones.
        average: over classes: "macro", "weighted" by the labels, or None for [C].
    """
    return _by_class(_roc_area, labels, scores, weights, average)


def average_precision(labels: Any, scores: Any, *, weights: Any = None, average: str | None = "macro") -> Any:
    """Σ_k (recall_k − recall_{k−1}) · precision_k over descending thresholds, in [0, 1].

    Chance gives the share of positives; 0 where there are none. The arguments are those of `roc_auc`.
    """
    return _by_class(_average_precision, labels, scores, weights, average)


def _by_class(area: Any, labels: Any, scores: Any, weights: Any, average: str | None) -> Any:
    labels, scores = array(labels), real(scores, "scores")
    if scores.ndim < 2:
        return _binary(area, labels, scores, weights)
    if average not in ("macro", "weighted", None):
        raise UserError(f"no average {average!r} of areas", "use 'macro', 'weighted' or None")
    _check_columns(labels, scores)
    xp, C = library(labels, scores, weights), scores.shape[1]
    weights = example_weights(weights, labels.shape)
    is_class_NC = labels[:, None] == np.arange(C)[None]
    areas_C = xp.stack([_binary(area, is_class_NC[:, c], scores[:, c], weights) for c in range(C)])
    if is_traced(labels):
        areas_C = jnp.where(((labels >= 0) & (labels < C)).all(), areas_C, jnp.nan)
    if average is None:
        return areas_C
    if average == "macro":
        return areas_C.mean()
    share_N = xp.ones(labels.shape) if weights is None else weights
    share_C = (is_class_NC * share_N[:, None]).sum(axis=0)
    return (areas_C * share_C).sum() / share_C.sum()


def _check_columns(labels: Any, scores: Any) -> None:
    """Raises UserError unless labels [N] are ids of the columns of scores [N, C]."""
    if scores.ndim != 2 or scores.shape[1] < 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise UserError(
            f"labels of shape {labels.shape} and scores of shape {scores.shape} do not pair",
            "give scores [N] for labels 0 and 1, or [N, C] with a column for each class",
        )
    if labels.dtype != bool and not jnp.issubdtype(labels.dtype, jnp.integer):
        raise UserError(f"{labels.dtype} are not class ids", "give integers")
    if not is_traced(labels) and not 0 <= labels.min() <= labels.max() < scores.shape[1]:
        raise UserError(
            f"class ids from {labels.min()} to {labels.max()} for scores with {scores.shape[1]} columns",
            "give a column for each class, numbered from 0",
        )


def _binary(area: Any, labels: Any, scores: Any, weights: Any) -> Any:
    labels, scores, weights = _check(labels, scores, weights)
    if not is_traced(labels, scores, weights):
        fp, tp, _ = _thresholds(labels == 1, scores, weights)
        return area(fp, tp, np)
    is_valid = ((labels == 0) | (labels == 1)).all() & ~jnp.isnan(scores).any()
    return jnp.where(is_valid, area(*_points(labels == 1, scores, weights), jnp), jnp.nan)


def _roc_area(fp: Any, tp: Any, xp: Any) -> Any:
    """The trapezoids between points of the curve; points that repeat add none."""
    # Differences first: counts are exact, and rates near 1 are rounded.
    before_fp, before_tp = (xp.concatenate([xp.zeros(1, x.dtype), x[:-1]]) for x in (fp, tp))
    area = ((fp - before_fp) * (tp / tp[-1] + before_tp / tp[-1])).sum() / 2
    return area / fp[-1]


def _average_precision(fp: Any, tp: Any, xp: Any) -> Any:
    steps = tp - xp.concatenate([xp.zeros(1, tp.dtype), tp[:-1]])
    predicted = tp + fp
    return (steps * (tp / xp.where(predicted > 0, predicted, 1))).sum() / xp.where(tp[-1] > 0, tp[-1], 1)


def _thresholds(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """False positives, true positives and the threshold at each different score, descending; on the host."""
    order = np.argsort(scores)[::-1]
    scores, labels = scores[order], labels[order]
    last_of_tie = np.flatnonzero(np.concatenate([scores[1:] != scores[:-1], [True]]))
    weights = np.ones(len(labels)) if weights is None else weights[order]
    tp = np.cumsum(weights * labels)[last_of_tie]
    fp = np.cumsum(weights * ~labels)[last_of_tie]
    return fp, tp, scores[last_of_tie]


def _points(labels: jax.Array, scores: jax.Array, weights: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The same false and true positives, but [N]: within a tie those before it."""
    weights = jnp.ones(labels.shape, int) if weights is None else weights  # integers are exact
    key, labels, weights = jax.lax.sort((~_order_key(scores), labels, weights), num_keys=1)
    last_of_tie = jnp.concatenate([key[1:] != key[:-1], jnp.ones(1, bool)])

    def cumulative(x):
        return jax.lax.cummax(jnp.where(last_of_tie, jnp.cumsum(x), 0))

    return cumulative(weights * ~labels), cumulative(weights * labels)


def _order_key(scores: jax.Array) -> jax.Array:
    """Integers in the order of the scores: XLA on a CPU sorts them faster than floats."""
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        return scores
    if scores.dtype.itemsize == 1:
        scores = scores.astype(jnp.float32)
    bits = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[scores.dtype.itemsize]
    x = jax.lax.bitcast_convert_type(jnp.where(scores == 0, 0, scores), bits)  # −0 and 0 tie
    sign = jnp.asarray(1 << (8 * scores.dtype.itemsize - 1), bits)
    return jnp.where(x >= sign, ~x, x | sign)


def _check_concrete(labels: Any, scores: Any, weights: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """`_check` of arrays that are not traced, with labels as booleans."""
    labels, scores, weights = _check(labels, scores, weights)
    if is_traced(labels, scores, weights):
        raise UserError("a curve has no fixed number of points under jax.jit", "call it outside")
    return labels == 1, scores, weights


def _check(labels: Any, scores: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Labels, scores and weights of the same length; on the host without NaN and weights of 0."""
    labels, scores = real(labels, "labels"), real(scores, "scores")
    if labels.shape != scores.shape or labels.ndim != 1 or not len(labels):
        raise UserError(
            f"labels of shape {labels.shape} and scores of shape {scores.shape} do not pair",
            "give one label and one score for each of at least one example",
        )
    weights = example_weights(weights, labels.shape)
    if not is_traced(labels) and not np.isin(labels, (0, 1)).all():
        raise UserError(
            "labels are not 0 and 1", "for several classes give scores [N, C], one column for each"
        )
    if not is_traced(scores) and np.isnan(scores).any():
        raise UserError("scores contain NaN, which has no rank", "leave these examples out")
    if weights is None or is_traced(labels, scores, weights):
        return labels, scores, weights
    counts = weights != 0
    return labels[counts], scores[counts], weights[counts]


def _ratio(counts: np.ndarray, total: float) -> np.ndarray:
    return counts / total if total > 0 else np.full_like(counts, np.nan)
