"""Metrics of predicted classes; those of scores, in `curves.py`, are offered here too.

Labels come first, then predictions; both are array-likes [N] of class ids 0 to C − 1 (or booleans). All
metrics are functions of the confusion matrix, the sum over examples that adds up over batches and hosts:

    confusion = sum(confusion_matrix(labels, predictions, num_classes=C) for labels, predictions in batches)
    precision_recall_f(confusion, average="macro").f

Under `jax.jit` give `num_classes`; elsewhere it is the largest id plus one, and at least 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lm_jax.errors import UserError
from lm_jax.metrics.curves import average_precision, precision_recall_curve, roc_auc, roc_curve

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
) -> jax.Array:
    """[C, C]: how many examples of each label (row) were given each prediction (column).

    Counts are integers, or sums of `weights` [N] where these are given. An id outside [0, C) is an error, and
    under `jax.jit`, where none can be raised, is not counted.
    """
    ids = _class_ids(labels, predictions)
    if num_classes is None:
        num_classes = _num_classes(*ids)
    _check_range(ids, num_classes)
    labels, predictions = (jnp.where(jnp.asarray(x) < 0, num_classes, x) for x in ids)
    weights = jnp.ones(labels.shape, int) if weights is None else jnp.asarray(weights, float)
    if weights.shape != labels.shape:
        raise UserError(
            f"{weights.shape} weights for {labels.shape} labels", "give one weight for each label"
        )
    return (
        jnp.zeros((num_classes, num_classes), weights.dtype).at[labels, predictions].add(weights, mode="drop")
    )


class PrecisionRecallF(NamedTuple):
    """Each a scalar, or [C] without averaging."""

    precision: jax.Array
    recall: jax.Array
    f: jax.Array


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
        zero_division: what 0 / 0 is. With NaN the means leave such classes out.
    """
    confusion = jnp.asarray(confusion, float)
    if average not in ("binary", "micro", "macro", "weighted", None):
        raise UserError(f"no average {average!r}", "use 'binary', 'micro', 'macro', 'weighted' or None")
    if average == "binary" and confusion.shape[-1] != 2:
        raise UserError(
            f"average='binary' of {confusion.shape[-1]} classes",
            "use average='macro', 'micro', 'weighted' or None",
        )
    true_positives = jnp.diagonal(confusion, axis1=-2, axis2=-1)
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


def precision(labels: Any, predictions: Any, **options: Any) -> jax.Array:
    """TP / (TP + FP), the share of the predictions of a class that are right.

    Options are those of `confusion_matrix` and `precision_recall_f`.
    """
    return _from_predictions(labels, predictions, **options).precision


def recall(labels: Any, predictions: Any, **options: Any) -> jax.Array:
    """TP / (TP + FN), the share of the labels of a class that are found. Options as for `precision`."""
    return _from_predictions(labels, predictions, **options).recall


def f_beta(labels: Any, predictions: Any, beta: float, **options: Any) -> jax.Array:
    """The weighted harmonic mean of precision and recall. Options as for `precision`."""
    return _from_predictions(labels, predictions, beta=beta, **options).f


def f1(labels: Any, predictions: Any, **options: Any) -> jax.Array:
    """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall. Options as for `precision`."""
    return f_beta(labels, predictions, 1.0, **options)


def accuracy(labels: Any, predictions: Any, *, weights: Any = None) -> jax.Array:
    """The share of the predictions that equal the label, in [0, 1]."""
    labels, predictions = (jnp.asarray(x) for x in _class_ids(labels, predictions))
    correct = (labels == predictions).astype(float)
    return correct.mean() if weights is None else jnp.average(correct, weights=jnp.asarray(weights, float))


def matthews_correlation(
    labels: Any, predictions: Any, *, num_classes: int | None = None, weights: Any = None
) -> jax.Array:
    """Correlation of labels and predictions, in [−1, 1]; 0 where either is constant.

    With the shares c_kl of the confusion matrix, its row sums t and column sums p,
    (Σ c_kk − t · p) / √((1 − t · t) (1 − p · p)) (Gorodkin 2004, equation 8).
    """
    return matthews_correlation_of(
        confusion_matrix(labels, predictions, num_classes=num_classes, weights=weights)
    )


def matthews_correlation_of(confusion: Any) -> jax.Array:
    """`matthews_correlation` of a confusion matrix [..., C, C]."""
    shares = jnp.asarray(confusion, float)
    shares = shares / shares.sum(axis=(-2, -1), keepdims=True)
    t, p = shares.sum(axis=-1), shares.sum(axis=-2)
    covariance = jnp.trace(shares, axis1=-2, axis2=-1) - (t * p).sum(axis=-1)
    variances = (1 - jnp.square(t).sum(axis=-1)) * (1 - jnp.square(p).sum(axis=-1))
    return jnp.where(variances > 0, covariance / jnp.sqrt(jnp.where(variances > 0, variances, 1)), 0)


def log_loss(labels: Any, probabilities: Any, *, weights: Any = None) -> jax.Array:
    """−Σ w_i ln p_i(label_i) / Σ w_i, in nats, at least 0.

    Args:
        labels: class ids [N].
        probabilities: [N, C] summing to 1, or [N] of class 1. They are kept from 0 and 1 by the epsilon of
            their type, as in scikit-learn; `likelihood.cross_entropy` is exact.
        weights: [N]; None: ones.
    """
    (labels,) = _class_ids(labels)
    p = jnp.asarray(probabilities)
    p = p.astype(jnp.promote_types(p.dtype, jnp.float32))
    if p.ndim == 1:
        p = jnp.stack([1 - p, p], axis=-1)
    if p.shape[:-1] != labels.shape:
        raise UserError(f"{p.shape} probabilities for {labels.shape} labels", "give a row for each label")
    _check_range([labels], p.shape[-1])
    epsilon = float(jnp.finfo(p.dtype).eps)
    p_label = jnp.take_along_axis(p, jnp.asarray(labels)[:, None], axis=-1)[:, 0]
    nats = -jnp.log(jnp.clip(p_label, epsilon, 1 - epsilon))
    return nats.mean() if weights is None else jnp.average(nats, weights=jnp.asarray(weights, p.dtype))


def _from_predictions(
    labels: Any, predictions: Any, *, num_classes: int | None = None, weights: Any = None, **options: Any
) -> PrecisionRecallF:
    confusion = confusion_matrix(labels, predictions, num_classes=num_classes, weights=weights)
    return precision_recall_f(confusion, **options)


def _class_ids(*arrays: Any) -> list[Any]:
    """Arrays [N] of integers, of one length."""
    ids = [x if isinstance(x, Tracer) else np.asarray(x) for x in arrays]
    shapes = [x.shape for x in ids]
    if any(shape != shapes[0] for shape in shapes) or len(shapes[0]) != 1 or not shapes[0][0]:
        raise UserError(
            f"labels and predictions of shapes {shapes} do not pair",
            "give as many labels as predictions, at least one",
        )
    ids = [x.astype(np.int32) if x.dtype == bool else x for x in ids]
    for x in ids:
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise UserError(f"{x.dtype} are no class ids", "give integers; of scores take the argmax first")
    return ids


def _num_classes(*ids: Any) -> int:
    if any(isinstance(x, Tracer) for x in ids):
        raise UserError("the number of classes is not known under jax.jit", "give num_classes")
    return max(2, *(int(x.max()) + 1 for x in ids))


def _check_range(ids: list[Any], num_classes: int) -> None:
    for x in ids:
        if not isinstance(x, Tracer) and not 0 <= x.min() <= x.max() < num_classes:
            raise UserError(
                f"class ids range from {x.min()} to {x.max()}, not over 0 to {num_classes - 1}",
                "number the classes from 0, and give num_classes where some are missing",
            )


def _divide(numerator: jax.Array, denominator: jax.Array, zero_division: float) -> jax.Array:
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), zero_division)


def _mean(values: jax.Array, weights: jax.Array, zero_division: float) -> jax.Array:
    """The mean over the last axis, without NaN; `zero_division` where nothing is weighed."""
    weights = jnp.where(jnp.isnan(values), 0, weights)
    return _divide(
        (jnp.where(weights > 0, values, 0) * weights).sum(axis=-1), weights.sum(axis=-1), zero_division
    )
