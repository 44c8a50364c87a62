"""The evaluator of models that classify texts or pairs of texts."""

from typing import Any

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.evaluation.base import Evaluation, Predictions, Statistics
from lm_jax.evaluation.labelled import class_number, item, make_row, predicted
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import Labels, LanguageModel, require
from lm_jax.metrics import classification, likelihood, significance

_BINS = 15  # of confidence


def evaluate(model: LanguageModel, text: Text, name: str, stride: int | None, report: Progress) -> Evaluation:
    """Classifies texts whose class is in a field; see `evaluation.base.evaluate`.

    The metrics are accuracy, macro F1, Matthews's correlation, with two classes the area under the ROC curve
    of the second one's probability, log loss in nats per text, and the expected calibration error in 15 bins.
    """
    labeller: Any = require(model, Labels, "classify texts")
    documents = text.documents
    names = [document.label(labeller.label_field) for document in documents]
    labels_D = np.array([class_number(labeller, d, n) for d, n in zip(documents, names, strict=True)])
    items = [item(document, labeller.second_field) for document in documents]
    found = list(predicted(labeller.label, items, text, report))
    probabilities_DK = np.array([one.probabilities for one in found])
    statistics = classifier_statistics(labels_D, probabilities_DK)
    counts = {"examples": len(found), "truncated": sum(one.truncated for one in found)}
    row = make_row(labeller, name, text, names, counts, statistics, {}, labeller.second_field)
    return Evaluation(row, statistics, Predictions(labeller.classes, labels_D, probabilities_DK))


def classifier_statistics(labels_D: np.ndarray, probabilities_DK: np.ndarray) -> dict[str, Statistics]:
    """The statistics of each metric, accuracy first.

    Args:
        labels_D: the class of each text.
        probabilities_DK: that of each class.
    """
    num_classes = probabilities_DK.shape[1]
    predictions_D, confidence_D = probabilities_DK.argmax(axis=1), probabilities_DK.max(axis=1)
    right_D = (predictions_D == labels_D).astype(float)
    labels_DK, predictions_DK = np.eye(num_classes)[labels_D], np.eye(num_classes)[predictions_D]
    by_class = (labels_DK * predictions_DK, labels_DK, predictions_DK)
    with np.errstate(divide="ignore"):
        nats_D = -np.log(np.take_along_axis(probabilities_DK, labels_D[:, None], axis=1)[:, 0])
    bins_DB = np.eye(_BINS)[np.clip(np.ceil(confidence_D * _BINS).astype(int) - 1, 0, _BINS - 1)]
    reliability = (bins_DB * confidence_D[:, None], bins_DB * right_D[:, None], bins_DB)
    ones_D = np.ones_like(right_D)
    statistics = {
        "accuracy": Statistics((right_D, ones_D), significance.ratio, less_is_better=False),
        "macro_f1": Statistics(by_class, classification.macro_f1_of_sums, less_is_better=False),
        "mcc": Statistics(by_class, classification.matthews_correlation_of_sums, less_is_better=False),
        "log_loss": Statistics((nats_D, ones_D), significance.ratio),
        "calibration_error": Statistics(reliability, _calibration_error),
    }
    if num_classes == 2:
        scores = (labels_D, probabilities_DK[:, 1])
        statistics["auc"] = Statistics(scores, classification.roc_auc, less_is_better=False, of_rows=True)
    return statistics


def _calibration_error(confidence: Any, correct: Any, weight: Any) -> Any:
    return likelihood.expected_calibration_error(likelihood.ReliabilityBins(confidence, correct, weight))
