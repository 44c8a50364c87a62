"""ROC and precision-recall: metrics of scores that rank examples.

Labels come first, then scores; both are array-likes [N], labels 0 or 1 (or booleans). For several classes
labels are ids [N] and scores [N, C], and each class is compared with the rest. Concrete scores are ranked on
the host in the type they have, so that float64 keeps its order and its ties; results are then exact to
float64. Under `jax.jit` the areas are computed in jnp. The curves have as many points as there are different
scores, and are host functions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.metrics.host import array, is_traced, library


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
    fp, tp, thresholds = _thresholds(*_check(labels, scores, weights))
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
    fp, tp, thresholds = _thresholds(*_check(labels, scores, weights))
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
    labels, scores = array(labels), array(scores)
    if scores.ndim < 2:
        return _binary(area, labels, scores, weights)
    if average not in ("macro", "weighted", None):
        raise UserError(f"no average {average!r} of areas", "use 'macro', 'weighted' or None")
    xp = library(labels, scores)
    classes = np.arange(scores.shape[1])
    is_class_NC = labels[:, None] == classes[None]
    areas_C = xp.stack([_binary(area, is_class_NC[:, c], scores[:, c], weights) for c in classes])
    if average is None:
        return areas_C
    if average == "macro":
        return areas_C.mean()
    share_N = xp.ones(labels.shape) if weights is None else xp.asarray(weights)
    share_C = (is_class_NC * share_N[:, None]).sum(axis=0)
    return (areas_C * share_C).sum() / share_C.sum()


def _binary(area: Any, labels: Any, scores: Any, weights: Any) -> Any:
    labels, scores, weights = _check(labels, scores, weights)
    if is_traced(labels, scores, weights):
        return area(*_points(labels, scores, weights), jnp)
    fp, tp, _ = _thresholds(labels, scores, weights)
    return area(fp, tp, np)


def _roc_area(fp: Any, tp: Any, xp: Any) -> Any:
    """The trapezoids between points of the curve; points that repeat add none."""
    fp, tp = (xp.concatenate([xp.zeros(1), x]) / x[-1] for x in (fp, tp))
    return ((fp[1:] - fp[:-1]) * (tp[1:] + tp[:-1])).sum() / 2


def _average_precision(fp: Any, tp: Any, xp: Any) -> Any:
    steps = tp - xp.concatenate([xp.zeros(1), tp[:-1]])
    predicted = tp + fp
    return (steps * tp / xp.where(predicted > 0, predicted, 1)).sum() / xp.where(tp[-1] > 0, tp[-1], 1)


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
    weights = jnp.ones(labels.shape) if weights is None else weights
    key, labels, weights = jax.lax.sort((~_order_key(scores), labels, weights), num_keys=1)
    last_of_tie = jnp.concatenate([key[1:] != key[:-1], jnp.ones(1, bool)])

    def cumulative(x):
        return jax.lax.cummax(jnp.where(last_of_tie, jnp.cumsum(x), 0))

    return cumulative(weights * ~labels), cumulative(weights * labels)


def _order_key(scores: jax.Array) -> jax.Array:
    """Integers in the order of the scores: XLA on a CPU sorts them faster than floats."""
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        return scores
    bits = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[scores.dtype.itemsize]
    x = jax.lax.bitcast_convert_type(jnp.where(scores == 0, 0, scores), bits)  # −0 and 0 tie
    sign = jnp.asarray(1 << (8 * scores.dtype.itemsize - 1), bits)
    return jnp.where(x >= sign, ~x, x | sign)


def _check(labels: Any, scores: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Labels as booleans, scores and weights of the same length; without NaN and weights of 0 on the host."""
    labels, scores = array(labels), array(scores)
    weights = None if weights is None else array(weights)
    lengths = [x.shape for x in (labels, scores, weights) if x is not None]
    if len(set(lengths)) != 1 or len(lengths[0]) != 1 or not lengths[0][0]:
        raise UserError(
            f"labels of shape {labels.shape} and scores of shape {scores.shape} do not pair"
            + ("" if weights is None else f" with weights of shape {weights.shape}"),
            "give one label and one score for each of at least one example",
        )
    if is_traced(labels, scores, weights):
        return labels.astype(bool), scores, weights
    if not np.isin(labels, (0, 1)).all():
        raise UserError(
            "labels are not 0 and 1", "for several classes give scores [N, C], one column for each"
        )
    if np.isnan(scores).any():
        raise UserError("scores contain NaN, which has no rank", "leave these examples out")
    labels = labels.astype(bool)
    if weights is None:
        return labels, scores, None
    counts = weights != 0
    return labels[counts], scores[counts], weights[counts].astype(float)


def _ratio(counts: np.ndarray, total: float) -> np.ndarray:
    return counts / total if total > 0 else np.full_like(counts, np.nan)
