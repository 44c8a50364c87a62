"""Metrics of predicted classes; the metrics of scores in `curves.py` can be imported from here, too.

Labels come first, then predictions; both are array-likes [N] of class ids 0 to C − 1 (or booleans), or of
names: their ids are then their places among `classes`, by default all names that occur, sorted. All metrics
are functions of the confusion matrix, the sum over examples that adds up over batches and hosts:

    confusion = sum(confusion_matrix(labels, predictions, num_classes=C) for labels, predictions in batches)
    precision_recall_f(confusion, average="macro").f

Concrete arrays are counted on the host, in float64, and wrong values are errors. Under `jax.jit` give
`num_classes`; elsewhere it is the largest id plus one, and at least 2. There a wrong value (a negative
weight, a label without a column, what is no probability) gives NaN; wrong shapes and types are errors
everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.metrics.curves import average_precision, precision_recall_curve, roc_auc, roc_curve
from lm_jax.metrics.host import array, example_weights, f_weights, floating, is_traced, library, real, whole
from lm_jax.metrics.names import are_names, checked, numbered, place_of

_AVERAGES = ("binary", "micro", "macro", "weighted")
_NOT_ONE = 0.01  # how far a sum of probabilities may be from 1, so that bfloat16 passes
_MAX_CELLS = 1 << 27  # of a confusion matrix: 1 GB

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
    labels: Any,
    predictions: Any,
    *,
    num_classes: int | None = None,
    weights: Any = None,
    classes: Sequence[str] | None = None,
) -> Any:
    """[C, C]: how many examples of each label (row) were given each prediction (column).

    Counts are integers, or sums of `weights` [N] where these are given. An id outside [0, C) is an error, and
    under `jax.jit`, where none can be raised, is not counted.
    """
    if classes is not None and num_classes is None:
        num_classes = len(checked(classes))
    labels, predictions = _class_ids(labels, predictions, classes=classes)
    C = _num_classes(labels, predictions) if num_classes is None else whole(num_classes, "num_classes", 1)
    if C**2 > _MAX_CELLS:
        raise UserError(f"a confusion matrix of {C} classes has {C**2} cells", "number the classes from 0")
    _check_range([labels, predictions], C)
    weights = example_weights(weights, labels.shape)
    if not is_traced(labels, predictions, weights):
        return np.bincount(labels * C + predictions, weights, C**2).reshape(C, C)
    in_range = (labels >= 0) & (labels < C) & (predictions >= 0) & (predictions < C)
    row = jnp.where(in_range, labels, C)
    counts = jnp.zeros((C, C), int if weights is None else float)
    return counts.at[row, predictions].add(1 if weights is None else weights, mode="drop")


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
        beta: recall weighs β times as much as precision; at least 0. F is recall where it is inf.
        positive: the class of interest in "binary", 0 or 1.
        zero_division: the value of 0 / 0. With NaN the means leave such classes out.
    """
    xp, confusion = library(confusion), _confusion(confusion)
    of_recall, of_precision = f_weights(beta)
    if whole(positive, "positive", 0) > 1:
        raise UserError(f"positive={positive}", "choose class 0 or 1")
    if not isinstance(zero_division, int | float | np.number):
        raise UserError(f"zero_division={zero_division!r}", "give a number; NaN leaves such classes out")
    if average is not None and not (isinstance(average, str) and average in _AVERAGES):
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
        _divide(
            (of_recall + of_precision) * true_positives,
            of_recall * support + of_precision * predicted,
            zero_division,
        ),
    )
    if average == "binary":
        by_class = PrecisionRecallF(*(x[..., positive] for x in by_class))
    elif average in ("macro", "weighted"):
        weights = support if average == "weighted" else (support + predicted > 0).astype(support.dtype)
        by_class = PrecisionRecallF(*(_mean(x, weights, zero_division) for x in by_class))
    unknown = xp.isnan(confusion).any(axis=(-2, -1), keepdims=True)[..., 0]
    unknown = unknown if average is None else unknown[..., 0]
    return PrecisionRecallF(*(xp.where(unknown, xp.nan, x)[()] for x in by_class))


def macro_f1_of_sums(hits: Any, labels: Any, predictions: Any) -> Any:
    """The mean of 2 TP / (labels + predictions) over the classes that occur as either, in [0, 1].

    `precision_recall_f(confusion, average="macro").f` of sums by class, each [..., C]: the numbers of right
    predictions, of labels and of predictions. NaN without any.
    """
    xp, hits, both = library(hits, labels, predictions), array(hits), array(labels) + array(predictions)
    occurs = both > 0
    f = xp.where(occurs, 2 * hits / xp.where(occurs, both, 1), 0)
    number = occurs.sum(axis=-1)
    return xp.where(number > 0, f.sum(axis=-1) / xp.maximum(number, 1), xp.nan)[()]


def precision(labels: Any, predictions: Any, **options: Any) -> Any:
    """TP / (TP + FP), the share of the predictions of a class that are right.

    Options are those of `confusion_matrix` and `precision_recall_f`; `positive` may be the name of a class.
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
    xp, are_ids = library(labels, predictions), (labels >= 0) & (predictions >= 0)
    if not is_traced(are_ids):
        _check_range([labels, predictions], None)
    return _weighted_mean(xp.where(are_ids, labels == predictions, xp.nan), weights)


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
    xp, confusion = library(confusion), _confusion(confusion)
    hits = xp.diagonal(confusion, axis1=-2, axis2=-1)
    return matthews_correlation_of_sums(hits, confusion.sum(axis=-1), confusion.sum(axis=-2))


def matthews_correlation_of_sums(hits: Any, labels: Any, predictions: Any) -> Any:
    """`matthews_correlation` of the numbers of right predictions, of labels and of predictions by class.

    Each is [..., C]. With N examples, N² (Σ c_kk − t · p) is Σ_k (TP_k TN_k − FP_k FN_k), and N² (1 − t · t)
    is Σ_k (row_k · the other rows). Neither subtracts nearly equal numbers where one class is rare.
    """
    xp, hits, t, p = library(hits, labels, predictions), *map(array, (hits, labels, predictions))
    total = t.sum(axis=-1)[..., None]
    total_2 = xp.where(total == 0, 1, total)[..., 0] ** 2
    covariance = (hits * (total - t - p + hits) - (p - hits) * (t - hits)).sum(axis=-1) / total_2
    variances = [(x * (total - x)).sum(axis=-1) / total_2 for x in (t, p)]
    is_constant = ~((variances[0] > 0) & (variances[1] > 0))
    deviations = xp.sqrt(xp.where(is_constant, 1, variances[0] * variances[1]))
    unknown = xp.isnan(total[..., 0]) | (total[..., 0] == 0)
    return xp.where(unknown, xp.nan, xp.where(is_constant, 0.0, covariance / deviations))[()]


def log_loss(
    labels: Any, probabilities: Any, *, weights: Any = None, classes: Sequence[str] | None = None
) -> Any:
    """−Σ w_i ln p_i(label_i) / Σ w_i, in nats, at least 0.

    Args:
        labels: class ids [N].
        probabilities: [N, C] summing to 1 within 0.01, or [N] of class 1. They are clipped to [ε, 1 − ε]
            with the epsilon of their type, as in scikit-learn; `likelihood.cross_entropy` is exact.
        weights: [N]; None: ones.
        classes: where labels are names, the names of the columns, or of (0, 1).
    """
    if classes is None and are_names(labels):
        raise UserError("names of classes without an order", "give classes, the names of the columns")
    (labels,) = _class_ids(labels, classes=classes)
    xp, p = library(labels, probabilities), real(probabilities, "probabilities")
    p = p.astype(jnp.promote_types(p.dtype, jnp.float32))
    if p.ndim == 1:
        p = xp.stack([1 - p, p], axis=-1)
    if p.ndim != 2 or p.shape[0] != labels.shape[0] or p.shape[1] < 2:
        raise UserError(
            f"probabilities of shape {p.shape} for {labels.shape[0]} labels",
            "give a row for each label with a column for each class, or the probability of class 1 alone",
        )
    C = p.shape[1]
    _check_range([labels], C)
    are_probabilities = ((p >= 0) & (p <= 1)).all(axis=-1) & (abs(p.sum(axis=-1) - 1) < _NOT_ONE)
    if not is_traced(p) and not are_probabilities.all():
        raise UserError(
            f"row {are_probabilities.argmin()} does not hold probabilities that sum to 1",
            "apply a softmax to logits first, or use likelihood.cross_entropy",
        )
    epsilon = float(jnp.finfo(p.dtype).eps)
    p_label = xp.take_along_axis(p, xp.clip(labels, 0, C - 1)[:, None], axis=-1)[:, 0]
    nats = -xp.log(xp.clip(p_label, epsilon, 1 - epsilon))
    if is_traced(labels, p):
        nats = jnp.where(are_probabilities & (labels >= 0) & (labels < C), nats, jnp.nan)
    return _weighted_mean(nats, weights)


def _from_predictions(
    labels: Any,
    predictions: Any,
    *,
    num_classes: int | None = None,
    weights: Any = None,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> PrecisionRecallF:
    if isinstance(positive := options.get("positive"), str):
        options["positive"] = place_of(positive, labels, predictions, classes)
    elif positive is None and are_names(labels) and _is_binary(**options):
        raise UserError("which name is the positive class?", "give positive=NAME, or average='macro'")
    confusion = confusion_matrix(
        labels, predictions, num_classes=num_classes, weights=weights, classes=classes
    )
    return precision_recall_f(confusion, **options)


def _is_binary(average: str | None = "binary", **options: Any) -> bool:
    return isinstance(average, str) and average == "binary"


def _class_ids(*arrays: Any, classes: Sequence[str] | None = None) -> list[Any]:
    """Arrays [N] of integers or names, of one length, as integers that no product of theirs leaves."""
    ids = [array(x) for x in numbered(arrays, classes)]
    shapes = [x.shape for x in ids]
    if any(shape != shapes[0] for shape in shapes) or len(shapes[0]) != 1 or not shapes[0][0]:
        raise UserError(
            f"labels and predictions of shapes {shapes} do not pair",
            "give as many labels as predictions, at least one",
        )
    for x in ids:
        if x.dtype != bool and not jnp.issubdtype(x.dtype, jnp.integer):
            remedy = "give integers or texts; of scores take the argmax first"
            raise UserError(f"{x.dtype} are not class ids", remedy)
    # Sums and products of small or unsigned integers would wrap around.
    return [x.astype(int) for x in ids]


def _num_classes(*ids: Any) -> int:
    if is_traced(*ids):
        raise UserError("the number of classes is not known under jax.jit", "give num_classes")
    return max(2, *(int(x.max()) + 1 for x in ids))


def _check_range(ids: list[Any], num_classes: int | None) -> None:
    for x in ids:
        if not is_traced(x) and not 0 <= x.min() <= x.max() < (num_classes or np.inf):
            wanted = "from 0 on" if num_classes is None else f"over 0 to {num_classes - 1}"
            raise UserError(
                f"class ids range from {x.min()} to {x.max()}, not {wanted}",
                "number the classes from 0, and give num_classes where some are missing",
            )


def _confusion(confusion: Any) -> Any:
    """A confusion matrix [..., C, C] in floating point."""
    confusion = real(confusion, "counts")
    if confusion.ndim < 2 or confusion.shape[-1] != confusion.shape[-2] or not confusion.shape[-1]:
        raise UserError(f"{confusion.shape} is not the shape of a confusion matrix", "give [C, C]")
    if not is_traced(confusion) and (confusion < 0).any():
        raise UserError("a confusion matrix with negative counts", "give what confusion_matrix returns")
    return floating(confusion)


def _weighted_mean(values: Any, weights: Any) -> Any:
    """Σ w x / Σ w, in float64 on the host; NaN where all weights are 0."""
    xp, weights = library(values, weights), example_weights(weights, values.shape)
    values = values if is_traced(values, weights) else values.astype(float)
    weights = xp.ones_like(values) if weights is None else weights
    return _divide(xp.where(weights != 0, values * weights, 0).sum(), weights.sum(), xp.nan)[()]


def _divide(numerator: Any, denominator: Any, zero_division: float) -> Any:
    xp, divides = library(numerator, denominator), denominator != 0
    return xp.where(divides, numerator / xp.where(divides, denominator, 1), zero_division)


def _mean(values: Any, weights: Any, zero_division: float) -> Any:
    """The mean over the last axis, without NaN; `zero_division` where all weights are 0."""
    xp = library(values, weights)
    weights = xp.where(xp.isnan(values), 0, weights)
    total = (xp.where(weights > 0, values, 0) * weights).sum(axis=-1)
    return _divide(total, weights.sum(axis=-1), zero_division)
