"""The evaluator of models that predict a number for each text or pair of texts."""

from typing import Any

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.evaluation.base import Evaluation, Statistics
from lm_jax.evaluation.labelled import item, make_row, predicted
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import LanguageModel, Predicts, require
from lm_jax.metrics import correlation, significance


def evaluate(model: LanguageModel, text: Text, name: str, stride: int | None, report: Progress) -> Evaluation:
    """Predicts the number that is in a field of each text; see `evaluation.base.evaluate`.

    The metrics are Pearson's and Spearman's correlation, and the mean squared error.
    """
    predictor: Any = require(model, Predicts, "predict a number for a text")
    documents = text.documents
    truth_D = np.array([document.number(predictor.label_field) for document in documents])
    items = [item(document, predictor.second_field) for document in documents]
    found = list(predicted(predictor.predict, items, text, report))
    statistics = number_statistics(truth_D, np.array([one.value for one in found]))
    counts = {"examples": len(found), "truncated": sum(one.truncated for one in found)}
    truth, second = truth_D.tolist(), predictor.second_field
    return Evaluation(make_row(predictor, name, text, truth, counts, statistics, {}, second), statistics)


def number_statistics(truth_D: np.ndarray, predictions_D: np.ndarray) -> dict[str, Statistics]:
    """The statistics of each metric, Pearson's correlation first."""
    centred = [x - x.mean() for x in (truth_D, predictions_D)]
    errors_D = np.square(truth_D - predictions_D)
    return {
        "pearson": Statistics(correlation.moments(*centred), correlation.pearson_of_sums, False),
        "spearman": Statistics((truth_D, predictions_D), correlation.spearman, False, of_rows=True),
        "mean_squared_error": Statistics((errors_D, np.ones_like(errors_D)), significance.ratio),
    }
