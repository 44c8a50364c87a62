"""The evaluator of models that label each word of a text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.evaluation.base import Evaluation, Predictions, Statistics
from lm_jax.evaluation.labelled import class_number, item, make_row, predicted
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import Labels, LanguageModel, require
from lm_jax.metrics import significance
from lm_jax.metrics.spans import mark_spans, spans


def evaluate(model: LanguageModel, text: Text, name: str, stride: int | None, report: Progress) -> Evaluation:
    """Labels the words of texts whose tags are in a field; see `evaluation.base.evaluate`.

    Where the tags mark spans (see `metrics.spans`), the metrics are the F1 of spans, of which the words and
    the type must be right, and the accuracy of tags; else the accuracy alone.
    """
    tagger: Any = require(model, Labels, "label words")
    documents = text.documents
    truth = [document.tags(tagger.label_field) for document in documents]
    items = [item(document, "") for document in documents]
    known = {tag: class_number(tagger, d, tag) for d, tags in zip(documents, truth) for tag in set(tags)}
    found = list(predicted(tagger.label, items, text, report))
    guesses = [[tagger.classes[k] for k in one.probabilities.argmax(axis=-1)] for one in found]
    statistics = tag_statistics(truth, guesses)
    counts = {"tags": sum(map(len, truth))}
    if "span_f1" in statistics:
        counts["spans"] = sum(len(spans(tags)) for tags in truth)
    row = make_row(tagger, name, text, truth, counts, statistics, {})
    labels_W = np.array([known[tag] for tags in truth for tag in tags])
    probabilities_WK = np.concatenate([one.probabilities for one in found])
    return Evaluation(row, statistics, Predictions(tagger.classes, labels_W, probabilities_WK))


def tag_statistics(truth: Sequence[Sequence[str]], guesses: Sequence[Sequence[str]]) -> dict[str, Statistics]:
    """The statistics of each metric, from the tags of each sentence; F1 first where they mark spans."""
    right_D = np.array(
        [sum(a == b for a, b in zip(*pair, strict=True)) for pair in zip(truth, guesses)], float
    )
    number_D = np.array([len(tags) for tags in truth], float)
    accuracy = {"accuracy": Statistics((right_D, number_D), significance.ratio, less_is_better=False)}
    if not mark_spans(tag for tags in truth for tag in tags):
        return accuracy
    found = [(spans(a), spans(b)) for a, b in zip(truth, guesses)]
    hits_D = np.array([2 * len(ours & theirs) for ours, theirs in found], float)
    both_D = np.array([len(ours) + len(theirs) for ours, theirs in found], float)
    return {"span_f1": Statistics((hits_D, both_D), significance.ratio, less_is_better=False)} | accuracy
