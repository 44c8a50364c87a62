"""Metrics of predicted classes; the metrics of scores in `curves.py` can be imported from here, too.

Labels come first, then predictions; both are array-likes [N] of class ids 0 to C − 1 (or booleans). All
metrics are functions of the confusion matrix, the sum over examples that adds up over batches and hosts:

    confusion = sum(confusion_matrix(labels, predictions, num_classes=C) for labels, predictions in batches)
    precision_recall_f(confusion, average="macro").f

Concrete arrays are counted on the host, in float64. Under `jax.jit` give `num_classes`; elsewhere it is the
largest id plus one, and at least 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.metrics.curves import average_precision, precision_recall_curve, roc_auc, roc_curve
from lm_jax.metrics.host import array, is_traced, library

__all__ = [
    "PrecisionRecallF",
    "accuracy",
    "average_precision",
    "confusion_matrix",
    "f1",
    "f_beta",
    "log_loss",
    "matthews_correlation",
    "precision",
    "precision_recall_curve",
    "precision_recall_f",
    "recall",
    "roc_auc",
    "roc_curve",
]


def confusion_matrix(
    labels: Any, predictions: Any, *, num_classes: int | None = None, weights: Any = None
) -> Any:
    """[C, C]: how many examples of each label (row) were given each prediction (column).

    Counts are integers, or sums of `weights` [N] where these are given. An id outside [0, C) is an error, and
    under `jax.jit`, where none can be raised, is not counted.
    """
    labels, predictions = _class_ids(labels, predictions)
    if num_classes is None:
        num_classes = _num_classes(labels, predictions)
    _check_range([labels, predictions], num_classes)
    weights = None if weights is None else array(weights)
    if weights is not None and weights.shape != labels.shape:
        raise UserError(
            f"{weights.shape} weights for {labels.shape} labels", "give one weight for each label"
        )
    cells = labels * num_classes + predictions
    num_cells = num_classes**2
    if not is_traced(cells, weights):
        return np.bincount(cells, weights, num_cells).reshape(num_classes, num_classes)
    in_range = (labels >= 0) & (labels < num_classes) & (predictions >= 0) & (predictions < num_classes)
    counts = jnp.zeros(num_cells, int) if weights is None else jnp.zeros(num_cells)
    counts = counts.at[jnp.where(in_range, cells, num_cells)].add(
        1 if weights is None else weights, mode="drop"
    )
    return counts.reshape(num_classes, num_classes)


class PrecisionRecallF(NamedTuple):
    """Each a scalar, or [C] without averaging."""

    precision: Any
    recall: Any
    f: Any


def precision_recall_f(
    confusion: Any,
    *,
    average: str | None = "binary",
    beta: float = 1.0,
    positive: int = 1,
    zero_division: float = 0.0,
) -> PrecisionRecallF:
    """Precision TP / (TP + FP), recall TP / (TP + FN), and F = (1 + β²) TP / ((1 + β²) TP + FP + β² FN).

    In [0, 1] (van Rijsbergen 1979, chapter 7).

    Args:
        confusion: [C, C], or [..., C, C].
        average: "binary", of the class `positive`; "micro", of the sums over classes; "macro", the mean over
            the classes that occur as label or prediction; "weighted", the mean weighted by labels; None: [C].
        beta: recall weighs β times as much as precision.
        positive: the class of interest in "binary".
        zero_division: the value of 0 / 0. With NaN the means leave such classes out.
    """
    xp, confusion = library(confusion), array(confusion).astype(float)
    if average not in ("binary", "micro", "macro", "weighted", None):
        raise UserError(f"no average {average!r}", "use 'binary', 'micro', 'macro', 'weighted' or None")
    if average == "binary" and confusion.shape[-1] != 2:
        raise UserError(
            f"average='binary' of {confusion.shape[-1]} classes",
            "use average='macro', 'micro', 'weighted' or None",
        )
    true_positives = xp.diagonal(confusion, axis1=-2, axis2=-1)
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    if average == "micro":
        true_positives, support, predicted = (x.sum(axis=-1) for x in (true_positives, support, predicted))
    by_class = PrecisionRecallF(
        _divide(true_positives, predicted, zero_division),
        _divide(true_positives, support, zero_division),
        _divide((1 + beta**2) * true_positives, beta**2 * support + predicted, zero_division),
    )
    if average == "binary":
        return PrecisionRecallF(*(x[..., positive] for x in by_class))
    if average in ("micro", None):
        return by_class
    weights = support if average == "weighted" else (support + predicted > 0).astype(support.dtype)
    return PrecisionRecallF(*(_mean(x, weights, zero_division) for x in by_class))


def precision(labels: Any, predictions: Any, **options: Any) -> Any:
    """TP / (TP + FP), the share of the predictions of a class that are right.

    Options are those of `confusion_matrix` and `precision_recall_f`.
    """
    return _from_predictions(labels, predictions, **options).precision


def recall(labels: Any, predictions: Any, **options: Any) -> Any:
    """TP / (TP + FN), the share of the labels of a class that are found. Options as for `precision`."""
    return _from_predictions(labels, predictions, **options).recall


def f_beta(labels: Any, predictions: Any, beta: float, **options: Any) -> Any:
    """The weighted harmonic mean of precision and recall. Options as for `precision`."""
    return _from_predictions(labels, predictions, beta=beta, **options).f


def f1(labels: Any, predictions: Any, **options: Any) -> Any:
    """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall. Options as for `precision`."""
    return f_beta(labels, predictions, 1.0, **options)


def accuracy(labels: Any, predictions: Any, *, weights: Any = None) -> Any:
    """The share of the predictions that equal the label, in [0, 1]."""
    labels, predictions = _class_ids(labels, predictions)
    return _weighted_mean((labels == predictions).astype(float), weights)


def matthews_correlation(
    labels: Any, predictions: Any, *, num_classes: int | None = None, weights: Any = None
) -> Any:
    """Correlation of labels and predictions, in [−1, 1]; 0 where either is constant.

    With the shares c_kl of the confusion matrix, its row sums t and column sums p,
    (Σ c_kk − t · p) / √((1 − t · t) (1 − p · p)) (Gorodkin 2004).
    """
    return matthews_correlation_of(
        confusion_matrix(labels, predictions, num_classes=num_classes, weights=weights)
    )


def matthews_correlation_of(confusion: Any) -> Any:
    """`matthews_correlation` of a confusion matrix [..., C, C]."""
    xp, shares = library(confusion), array(confusion).astype(float)
    shares = shares / shares.sum(axis=(-2, -1), keepdims=True)
    t, p = shares.sum(axis=-1), shares.sum(axis=-2)
    covariance = xp.trace(shares, axis1=-2, axis2=-1) - (t * p).sum(axis=-1)
    variances = (1 - xp.square(t).sum(axis=-1)) * (1 - xp.square(p).sum(axis=-1))
    return xp.where(variances > 0, covariance / xp.sqrt(xp.where(variances > 0, variances, 1)), 0)


def log_loss(labels: Any, probabilities: Any, *, weights: Any = None) -> Any:
    """−Σ w_i ln p_i(label_i) / Σ w_i, in nats, at least 0.

    Args:
        labels: class ids [N].
        probabilities: [N, C] summing to 1, or [N] of class 1. They are clipped to [ε, 1 − ε] with the epsilon
            of their type, as in scikit-learn; `likelihood.cross_entropy` is exact.
        weights: [N]; None: ones.
    """
    (labels,) = _class_ids(labels)
    xp, p = library(labels, probabilities), array(probabilities)
    p = p.astype(jnp.promote_types(p.dtype, jnp.float32))
    if p.ndim == 1:
        p = xp.stack([1 - p, p], axis=-1)
    if p.shape[:-1] != labels.shape:
        raise UserError(f"{p.shape} probabilities for {labels.shape} labels", "give a row for each label")
    _check_range([labels], p.shape[-1])
    epsilon = float(jnp.finfo(p.dtype).eps)
    p_label = xp.take_along_axis(p, labels[:, None], axis=-1)[:, 0]
    return _weighted_mean(-xp.log(xp.clip(p_label, epsilon, 1 - epsilon)), weights)


def _from_predictions(
    labels: Any, predictions: Any, *, num_classes: int | None = None, weights: Any = None, **options: Any
) -> PrecisionRecallF:
    confusion = confusion_matrix(labels, predictions, num_classes=num_classes, weights=weights)
    return precision_recall_f(confusion, **options)


def _class_ids(*arrays: Any) -> list[Any]:
    """Arrays [N] of integers, of one length."""
    ids = [array(x) for x in arrays]
    shapes = [x.shape for x in ids]
    if any(shape != shapes[0] for shape in shapes) or len(shapes[0]) != 1 or not shapes[0][0]:
        raise UserError(
            f"labels and predictions of shapes {shapes} do not pair",
            "give as many labels as predictions, at least one",
        )
    ids = [x.astype(np.int32) if x.dtype == bool else x for x in ids]
    for x in ids:
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise UserError(f"{x.dtype} are not class ids", "give integers; of scores take the argmax first")
    return ids


def _num_classes(*ids: Any) -> int:
    if is_traced(*ids):
        raise UserError("the number of classes is not known under jax.jit", "give num_classes")
    return max(2, *(int(x.max()) + 1 for x in ids))


def _check_range(ids: list[Any], num_classes: int) -> None:
    for x in ids:
        if not is_traced(x) and not 0 <= x.min() <= x.max() < num_classes:
            raise UserError(
                f"class ids range from {x.min()} to {x.max()}, not over 0 to {num_classes - 1}",
                "number the classes from 0, and give num_classes where some are missing",
            )


def _weighted_mean(values: Any, weights: Any) -> Any:
    if weights is None:
        return values.mean()
    weights = array(weights)
    return (values * weights).sum() / weights.sum()


def _divide(numerator: Any, denominator: Any, zero_division: float) -> Any:
    xp, divides = library(numerator, denominator), denominator > 0
    return xp.where(divides, numerator / xp.where(divides, denominator, 1), zero_division)


def _mean(values: Any, weights: Any, zero_division: float) -> Any:
    """The mean over the last axis, without NaN; `zero_division` where all weights are 0."""
    xp = library(values, weights)
    weights = xp.where(xp.isnan(values), 0, weights)
    total = (xp.where(weights > 0, values, 0) * weights).sum(axis=-1)
    return _divide(total, weights.sum(axis=-1), zero_division)
