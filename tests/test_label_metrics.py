"""Metrics of labels, with their intervals and tests, against scikit-learn, SciPy and cases made by hand."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from lm_jax.errors import UserError
from lm_jax.evaluation.base import Evaluation, Statistics, measure
from lm_jax.evaluation.classification import classifier_statistics
from lm_jax.evaluation.compare import compare
from lm_jax.evaluation.regression import number_statistics
from lm_jax.evaluation.row import Row, read_rows, write_rows
from lm_jax.evaluation.tagging import tag_statistics
from lm_jax.metrics import correlation, significance
from lm_jax.metrics.classification import (
    confusion_matrix,
    macro_f1_of_sums,
    matthews_correlation_of_sums,
    precision_recall_f,
    roc_auc,
)
from lm_jax.metrics.spans import mark_spans, spans
from lm_jax.report.table import difference as shown_difference


def draw(num_classes, seed=0, number=60):
    """Labels, and probabilities that are better than chance."""
    random = np.random.default_rng(seed)
    labels = random.integers(num_classes, size=number)
    logits = random.normal(size=(number, num_classes)) + np.eye(num_classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_metrics_of_a_classifier_are_scikit_learns(num_classes):
    labels, probabilities = draw(num_classes)
    predictions = probabilities.argmax(axis=1)
    statistics = classifier_statistics(labels, probabilities)
    metrics = measure(statistics, {})
    wanted = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
        "macro_f1": sklearn.metrics.f1_score(labels, predictions, average="macro"),
        "mcc": sklearn.metrics.matthews_corrcoef(labels, predictions),
        "log_loss": sklearn.metrics.log_loss(labels, probabilities),
    }
    if num_classes == 2:
        wanted["auc"] = sklearn.metrics.roc_auc_score(labels, probabilities[:, 1])
    for name, value in wanted.items():
        assert metrics[name].value == pytest.approx(value, abs=1e-12), name
        low, high = metrics[name].interval
        assert low < value < high
    assert next(iter(metrics)) == "accuracy"
    assert set(metrics) == {*wanted, "calibration_error"}
    assert {name for name, m in metrics.items() if m.less_is_better} == {"log_loss", "calibration_error"}


def test_calibration_error_is_the_mean_gap_of_the_bins():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    statistics = classifier_statistics(np.array([0, 1, 1]), probabilities)
    value = measure(statistics, {})["calibration_error"].value
    assert value == pytest.approx((abs(1 - 1.8) + abs(1 - 0.6)) / 3)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_metrics_of_sums_are_those_of_the_confusion_matrix(pairs):
    confusion = confusion_matrix(*zip(*pairs, strict=True), num_classes=4)
    sums = (np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0))
    assert macro_f1_of_sums(*sums) == pytest.approx(precision_recall_f(confusion, average="macro").f)
    labels, predictions = (list(x) for x in zip(*pairs, strict=True))
    assert matthews_correlation_of_sums(*sums) == pytest.approx(
        sklearn.metrics.matthews_corrcoef(labels, predictions), abs=1e-9
    )


def test_correlations_are_scipys():
    random = np.random.default_rng(0)
    x = random.integers(5, size=80) / 2  # ties
    y = 1000 + x + random.normal(size=80)
    metrics = measure(number_statistics(x, y), {})
    assert list(metrics) == ["pearson", "spearman", "mean_squared_error"]
    assert metrics["pearson"].value == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-12)
    assert metrics["spearman"].value == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    assert metrics["mean_squared_error"].value == pytest.approx(np.mean((x - y) ** 2))
    for name in ("pearson", "spearman"):
        assert metrics[name].interval[0] < metrics[name].value < metrics[name].interval[1]
    assert np.isnan(correlation.spearman([1, 1], [1, 2]))
    with pytest.raises(UserError, match="do not pair"):
        correlation.pearson([1, 2], [1])


def test_metrics_of_ranks_are_computed_of_the_rows_that_are_drawn():
    random = np.random.default_rng(1)
    labels, scores = random.integers(2, size=30), random.normal(size=(2, 30)).round(1)
    rows = random.integers(30, size=(50, 30))
    for metric, oracle, x in (
        (roc_auc, sklearn.metrics.roc_auc_score, labels),
        (correlation.spearman, lambda a, b: scipy.stats.spearmanr(a, b).statistic, scores[1]),
    ):
        values = np.array([oracle(x[r], scores[0][r]) for r in rows])
        interval = significance.bootstrap_interval(
            x, scores[0], metric=metric, resamples=rows, method="percentile", of_rows=True
        )
        assert interval == pytest.approx((oracle(x, scores[0]), *np.quantile(values, [0.025, 0.975])))
        others = np.array([oracle(x[r], -scores[0][r]) for r in rows])
        test = significance.paired_bootstrap(
            (x, scores[0]), (x, -scores[0]), metric=metric, resamples=rows, method="shifted", of_rows=True
        )
        differences = values - others
        extreme = np.abs(differences - differences.mean()) >= abs(test.difference) - 1e-9
        assert test.difference == pytest.approx(oracle(x, scores[0]) - oracle(x, -scores[0]))
        assert test.p_value == pytest.approx((1 + extreme.sum()) / 51)


def evaluation(name, statistics):
    [number] = {len(s.arrays[0]) for s in statistics.values()}
    row = Row(name, "f", "t", None, "test", number, "0", "", {}, {}, {}, measure(statistics, {}))
    return Evaluation(row, statistics)


def test_two_classifiers_are_compared_by_mcnemars_test_too(tmp_path):
    labels, first = draw(2)
    second = draw(2, seed=1)[1]
    evaluations = [
        evaluation(name, classifier_statistics(labels, p)) for name, p in zip("ab", (first, second))
    ]
    compare(evaluations)
    difference = evaluations[1].row.difference
    right = [(p.argmax(axis=1) == labels) for p in (first, second)]
    wins, losses = (right[1] & ~right[0]).sum(), (right[0] & ~right[1]).sum()
    assert difference.metric == "accuracy"
    assert difference.mcnemar_p_value == pytest.approx(scipy.stats.binomtest(wins, wins + losses).pvalue)
    assert difference.p_value < 0.01
    assert f"McNemar's test, p = {difference.mcnemar_p_value:.2g})" in shown_difference(evaluations[1].row)
    write_rows(tmp_path / "results.json", [evaluations[1].row])
    assert read_rows(tmp_path / "results.json")[0].difference == difference
    shares = {"accuracy": Statistics((np.array([2.0, 1.0]), np.array([3.0, 1.0])), significance.ratio, False)}
    taggers = [evaluation(name, shares) for name in "ab"]
    taggers[1] = taggers[1]._replace(row=dataclasses.replace(taggers[1].row, difference=None))
    compare(taggers)
    assert taggers[1].row.difference.mcnemar_p_value is None  # sentences, of which parts are right


def test_models_that_predict_other_tokens_are_not_compared():
    numbers = np.array([3.0, 2.0, 4.0]), np.array([5.0, 5.0, 6.0])
    same = ("masked_tokens", "unit")
    one = evaluation("a", {"accuracy": Statistics(numbers, significance.ratio, False, same)})
    for units, counts, wanted in ((("token", "token"), (16, 16), True), (("token", "word"), (16, 16), False),
                                  (("token", "token"), (16, 15), False)):  # fmt: skip
        pair = [
            one._replace(row=dataclasses.replace(one.row, context={"unit": u}, counts={"masked_tokens": n}))
            for u, n in zip(units, counts)
        ]
        compare(pair)
        assert (pair[1].row.difference is not None) == wanted


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("B-X I-X O", {(0, 2, "X")}),
        ("O I-X I-X", {(1, 3, "X")}),  # IOB1
        ("B-X B-X", {(0, 1, "X"), (1, 2, "X")}),
        ("B-X I-Y I-Y", {(0, 1, "X"), (1, 3, "Y")}),
        ("I-X B-Y O I-X", {(0, 1, "X"), (1, 2, "Y"), (3, 4, "X")}),
        ("B-X E-X I-X S-X I-X", {(0, 2, "X"), (2, 3, "X"), (3, 4, "X"), (4, 5, "X")}),
        ("O O", set()),
    ],
)
def test_spans_follow_the_rules_of_conlleval(tags, wanted):
    assert spans(tags.split()) == wanted


def test_tags_that_mark_spans():
    assert mark_spans(["O", "B-X"])
    for tags in (["NN", "B-X"], ["O"], ["B", "I"], []):
        assert not mark_spans(tags)


def test_the_f1_of_spans_needs_words_and_type():
    truth = [["B-X", "I-X", "O", "B-Y"], ["O", "O"]]
    guesses = [["B-X", "O", "O", "B-Y"], ["B-Y", "O"]]
    metrics = measure(tag_statistics(truth, guesses), {})
    assert list(metrics) == ["span_f1", "accuracy"]
    assert metrics["span_f1"].value == pytest.approx(2 * 1 / (2 + 3))  # one right, two there, three found
    assert metrics["accuracy"].value == pytest.approx(4 / 6)
    assert list(tag_statistics([["NN"]], [["NN"]])) == ["accuracy"]
