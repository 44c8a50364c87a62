"""Calibration of next-token predictions: how often the most probable token follows, by its probability."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.evaluation.base import Evaluation, Statistics, measure
from lm_jax.evaluation.breakdown import Breakdown
from lm_jax.evaluation.row import DOCUMENTS
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import Expects, require
from lm_jax.metrics import ratios, significance
from lm_jax.metrics.likelihood import ReliabilityBins, confidence_bins, expected_calibration_error
from lm_jax.text.base import grouped

_NUM_BINS = 15
_CHARACTERS_PER_GROUP = 1 << 20  # asked about at a time


class Calibration(NamedTuple):
    """The most probable token at each place of a text, by its probability.

    Attributes:
        model: the model's name in its row.
        correct_DB: float64, of each document and range of probabilities how often that token follows.
        weight_DB: float64, the number of places.
    """

    model: str
    correct_DB: np.ndarray
    weight_DB: np.ndarray


def calibrate(
    model: Any, evaluation: Evaluation, text: Text, stride: int | None, report: Progress
) -> tuple[Evaluation, Calibration]:
    """Reads a text once more, and gives the model's evaluation with two metrics of next-token predictions.

    `token_accuracy` is the share of places, the ends of documents among them, where the most probable token
    follows; `calibration_error` the expected calibration error of its probability in 15 bins (Guo et al.
    2017). Both are of tokens, and compare between models that have the same.

    Args:
        model: reads left to right.
        evaluation: of the model on the text; its row gets the metrics.
        text: the text.
        stride: tokens from window to window; None: the model's default.
        report: called with (description, documents done, documents in all).

    Raises:
        UserError: a model that does not read left to right.
    """
    reader = require(model, Expects, "tell the most probable next token")
    bins_D: list[ReliabilityBins] = []
    for group in grouped(text.documents, lambda document: len(document.text), _CHARACTERS_PER_GROUP):
        for expected in reader.expect([document.text for document in group], stride=stride):
            bins_D.append(_count(np.exp(expected.log_best), expected.best))
        report(f"predicting {text.name}", len(bins_D), len(text.documents))
    confidence_DB, correct_DB, weight_DB = map(np.stack, zip(*bins_D, strict=True))
    totals, same = (correct_DB.sum(axis=1), weight_DB.sum(axis=1)), ("tokens", "oov")
    statistics = {
        "token_accuracy": Statistics(totals, significance.ratio, less_is_better=False, same=same),
        "calibration_error": Statistics((confidence_DB, correct_DB, weight_DB), _error, same=same),
    }
    measured = measure(statistics, {})
    if evaluation.row.resampled != DOCUMENTS:
        why = "no interval: the text is resampled in blocks, and predictions are counted by document"
        measured = {name: one._replace(interval=None, why=why) for name, one in measured.items()}
    evaluation.row.metrics.update(measured)
    extended = evaluation._replace(statistics={**evaluation.statistics, **statistics})
    return extended, Calibration(evaluation.row.model, correct_DB, weight_DB)


def _count(confidence_T: np.ndarray, is_right_T: np.ndarray) -> ReliabilityBins:
    """The sums over the tokens of one document."""
    bins_T = confidence_bins(confidence_T, _NUM_BINS)
    sums = (np.bincount(bins_T, values, _NUM_BINS) for values in (confidence_T, is_right_T, None))
    return ReliabilityBins(*(np.asarray(one, float) for one in sums))


def _error(confidence_B: Any, correct_B: Any, weight_B: Any) -> Any:
    return expected_calibration_error(ReliabilityBins(confidence_B, correct_B, weight_B))


def reliability(calibrations: Sequence[Calibration]) -> Breakdown:
    """The reliability diagram of several models: their accuracies by the probability of their predictions."""
    edges = [number / _NUM_BINS for number in range(_NUM_BINS + 1)]
    counts = np.sum([one.weight_DB.sum(axis=0) for one in calibrations], axis=0)
    with np.errstate(invalid="ignore"):
        values = {one.model: one.correct_DB.sum(axis=0) / one.weight_DB.sum(axis=0) for one in calibrations}
    return Breakdown(
        "probability of the most probable token",
        "Places of the text by the probability that a model gives to its most probable token, and how often "
        "that token follows; in a calibrated model, as often as the probability says. The tokens are each "
        "model's own, and the counts those of all models together.",
        "accuracy of the most probable token",
        tuple(f"{low:.2f}–{high:.2f}" for low, high in itertools.pairwise(edges)),
        counts.astype(np.int64),
        values,
        {one.model: _intervals(one) for one in calibrations},
    )


def _intervals(one: Calibration) -> np.ndarray:
    if len(one.weight_DB) < 2:
        return np.full((_NUM_BINS, 2), np.nan)
    return ratios.ratio_intervals(one.correct_DB, one.weight_DB)
