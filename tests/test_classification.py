"""Classification metrics against scikit-learn, and the tutorial's rows."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.metrics import classification
from lm_jax.metrics.significance import bootstrap_interval

EDGES = {
    "one example": ([1], [1]),
    "all right": ([0, 1, 1], [0, 1, 1]),
    "all wrong": ([0, 1, 1], [1, 0, 0]),
    "one label": ([0, 0, 0], [0, 1, 0]),
    "one label, one prediction": ([0, 0], [0, 0]),
    "no positive predicted": ([0, 1, 1], [0, 0, 0]),
}


@pytest.fixture(scope="module")
def sklearn_metrics():
    return pytest.importorskip("sklearn.metrics")


def _random_classes(seed, num_classes, n=400):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, n)
    predictions = np.where(rng.random(n) < 0.6, labels, rng.integers(0, num_classes, n))
    return labels, predictions, rng.random(n)


def test_tutorial_precision_recall_f1():
    # Erratum: the tutorial prints recall 0.8 and F1 0.8889.
    labels, predictions = [0, 1, 1, 1, 0, 1], [0, 0, 1, 1, 0, 1]
    assert classification.precision(labels, predictions) == 1
    assert classification.recall(labels, predictions) == 0.75
    assert classification.f1(labels, predictions) == pytest.approx(0.857143, abs=1e-6)


def test_tutorial_auc():
    # Erratum: the tutorial prints 0.8333 for six labels and four scores, which is an error.
    with pytest.raises(UserError, match="do not pair"):
        classification.roc_auc([0, 1, 1, 1, 0, 1], [0.1, 0.4, 0.35, 0.8])
    assert classification.roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_confusion_matrix(sklearn_metrics, num_classes, weighted):
    labels, predictions, weights = _random_classes(0, num_classes)
    weights = weights if weighted else None
    confusion = classification.confusion_matrix(labels, predictions, weights=weights)
    expected = sklearn_metrics.confusion_matrix(labels, predictions, sample_weight=weights)
    np.testing.assert_allclose(confusion, expected, rtol=1e-12)
    halves = [
        classification.confusion_matrix(
            labels[s],
            predictions[s],
            num_classes=num_classes,
            weights=None if weights is None else weights[s],
        )
        for s in (slice(150), slice(150, None))
    ]
    np.testing.assert_allclose(sum(halves), confusion, rtol=1e-12)


@pytest.mark.parametrize("zero_division", [0.0, 1.0, np.nan])
@pytest.mark.parametrize("average", ["binary", "micro", "macro", "weighted", None])
def test_precision_recall_f(sklearn_metrics, average, zero_division):
    cases = [np.array(case) for case in EDGES.values()]
    cases += [np.array(_random_classes(seed, 2, 9)[:2]) for seed in range(30)]
    if average != "binary":
        cases += [np.array(_random_classes(seed, 4, 9)[:2]) for seed in range(30)]
    for labels, predictions in cases:
        num_classes = max(2, labels.max() + 1, predictions.max() + 1)
        for beta in (1.0, 0.5):
            expected = sklearn_metrics.precision_recall_fscore_support(
                labels,
                predictions,
                beta=beta,
                average=average,
                zero_division=zero_division,
                # All classes where each has its number; those that occur where they are averaged.
                labels=np.arange(num_classes) if average is None else None,
            )
            confusion = classification.confusion_matrix(labels, predictions)
            ours = classification.precision_recall_f(
                confusion, average=average, beta=beta, zero_division=zero_division
            )
            np.testing.assert_allclose(np.array(ours), np.array(expected[:3], float), rtol=1e-12)


def test_functions_of_predictions(sklearn_metrics):
    labels, predictions, weights = _random_classes(1, 3)
    options = {"average": "macro", "weights": weights}
    expected = {"average": "macro", "sample_weight": weights}
    for ours, theirs in [
        (classification.precision(labels, predictions, **options), sklearn_metrics.precision_score),
        (classification.recall(labels, predictions, **options), sklearn_metrics.recall_score),
        (classification.f1(labels, predictions, **options), sklearn_metrics.f1_score),
        (
            classification.f_beta(labels, predictions, 2.0, **options),
            functools.partial(sklearn_metrics.fbeta_score, beta=2.0),
        ),
    ]:
        np.testing.assert_allclose(ours, theirs(labels, predictions, **expected), rtol=1e-12)
    np.testing.assert_allclose(
        classification.accuracy(labels, predictions, weights=weights),
        sklearn_metrics.accuracy_score(labels, predictions, sample_weight=weights),
        rtol=1e-12,
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int64, np.uint64])
def test_small_integers_do_not_wrap_around(sklearn_metrics, dtype):
    num_classes = min(300, np.iinfo(dtype).max + 1)  # 300² exceeds 16 bits
    labels, predictions, _ = _random_classes(7, num_classes, 2000)
    ids = labels.astype(dtype), predictions.astype(dtype)
    expected = sklearn_metrics.confusion_matrix(labels, predictions, labels=np.arange(num_classes))
    count = functools.partial(classification.confusion_matrix, num_classes=num_classes)
    np.testing.assert_array_equal(count(*ids), expected)
    np.testing.assert_array_equal(jax.jit(count)(*ids), expected)
    for ours, theirs in [
        (classification.f1, sklearn_metrics.f1_score),
        (classification.precision, sklearn_metrics.precision_score),
        (classification.recall, sklearn_metrics.recall_score),
    ]:
        wanted = theirs(labels, predictions, average="macro", zero_division=0)
        assert ours(*ids, average="macro") == pytest.approx(wanted, rel=1e-12)
    wanted = sklearn_metrics.matthews_corrcoef(labels, predictions)
    assert classification.matthews_correlation(*ids) == pytest.approx(wanted, rel=1e-12)


def test_rare_classes_in_float32(sklearn_metrics):
    labels = np.zeros(100_000, int)
    labels[:7] = 1
    predictions = np.roll(labels, 2)
    expected = sklearn_metrics.matthews_corrcoef(labels, predictions)
    correlate = jax.jit(functools.partial(classification.matthews_correlation, num_classes=2))
    assert float(correlate(labels, predictions)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1e-200, 1e200, np.inf])
def test_extreme_betas(sklearn_metrics, beta):
    labels, predictions, _ = _random_classes(8, 3)
    expected = sklearn_metrics.fbeta_score(labels, predictions, beta=min(beta, 1e100), average="macro")
    assert classification.f_beta(labels, predictions, beta, average="macro") == pytest.approx(expected)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_matthews_correlation(sklearn_metrics, num_classes):
    for seed in range(10):
        labels, predictions, weights = _random_classes(seed, num_classes, 50)
        np.testing.assert_allclose(
            classification.matthews_correlation(labels, predictions, weights=weights),
            sklearn_metrics.matthews_corrcoef(labels, predictions, sample_weight=weights),
            atol=1e-12,
        )
    assert classification.matthews_correlation([0, 1], [1, 1]) == 0
    assert classification.matthews_correlation([0, 1], [0, 1]) == 1


def test_log_loss(sklearn_metrics):
    labels, _, weights = _random_classes(2, 3)
    p = np.random.default_rng(0).dirichlet(np.ones(3), len(labels))
    np.testing.assert_allclose(
        classification.log_loss(labels, p, weights=weights),
        sklearn_metrics.log_loss(labels, p, sample_weight=weights),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        classification.log_loss([0, 1, 1], [0.2, 0.7, 0.6]),
        sklearn_metrics.log_loss([0, 1, 1], [0.2, 0.7, 0.6]),
        rtol=1e-12,
    )
    assert np.isfinite(classification.log_loss([0, 1], [1.0, 0.0]))


def _random_scores(seed, n):
    """Labels of which at least one is 1 and one 0, and scores with some ties, or all tied."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    labels[:2] = 0, 1
    scores = [
        rng.normal(size=n),
        rng.integers(0, 4, n) / 4,
        np.zeros(n),
        rng.normal(size=n).astype(np.float32),
    ]
    return labels, scores[seed % 4], rng.integers(0, 3, n) + rng.random(n) * (seed % 2)


@pytest.mark.parametrize("weighted", [False, True])
def test_curves_and_areas(sklearn_metrics, weighted):
    for seed in range(40):
        labels, scores, weights = _random_scores(seed, 5 + seed)
        if weighted and not (weights[:2] > 0).all():
            continue
        ours, theirs = ({"weights": weights}, {"sample_weight": weights}) if weighted else ({}, {})
        for drop in (False, True):
            curve = classification.roc_curve(labels, scores, drop_intermediate=drop, **ours)
            expected = sklearn_metrics.roc_curve(labels, scores, drop_intermediate=drop, **theirs)
            for a, b in zip(curve, expected):
                np.testing.assert_allclose(a, b, rtol=1e-12)
        curve = classification.precision_recall_curve(labels, scores, **ours)
        expected = sklearn_metrics.precision_recall_curve(labels, scores, **theirs)
        for a, b in zip(curve, expected):
            np.testing.assert_allclose(a, b, rtol=1e-12)
        area = classification.roc_auc(labels, scores, **ours)
        assert area == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores, **theirs), rel=1e-12)
        area = classification.average_precision(labels, scores, **ours)
        assert area == pytest.approx(
            sklearn_metrics.average_precision_score(labels, scores, **theirs), rel=1e-12
        )


@pytest.mark.parametrize("average", ["macro", "weighted", None])
def test_one_versus_rest(sklearn_metrics, average):
    labels, _, weights = _random_classes(3, 4)
    scores = np.random.default_rng(1).dirichlet(np.ones(4), len(labels))
    expected = sklearn_metrics.roc_auc_score(
        labels, scores, multi_class="ovr", average=average, sample_weight=weights
    )
    area = classification.roc_auc(labels, scores, average=average, weights=weights)
    np.testing.assert_allclose(area, expected, rtol=1e-12)
    traced = jax.jit(functools.partial(classification.roc_auc, average=average))(
        labels, scores, weights=weights
    )
    np.testing.assert_allclose(traced, expected, rtol=1e-5)


def test_areas_under_jit_equal_those_of_the_host():
    roc_auc, average_precision = map(jax.jit, (classification.roc_auc, classification.average_precision))
    for seed in range(4):
        labels, scores, weights = _random_scores(seed, 64)
        scores = scores.astype(np.float32)
        scores[:8] = [0.0, -0.0, -1.0, -1e-30, 1e30, -np.inf, np.inf, 0.0]
        for jitted, host in [
            (roc_auc, classification.roc_auc),
            (average_precision, classification.average_precision),
        ]:
            np.testing.assert_allclose(jitted(labels, scores), host(labels, scores), rtol=1e-5)
            np.testing.assert_allclose(
                jitted(labels, scores, weights=weights), host(labels, scores, weights=weights), rtol=1e-5
            )


def test_float64_scores_near_one_keep_their_order():
    scores = 1 - np.array([4.0, 3.0, 2.0, 1.0]) * 1e-12
    assert len(set(scores.astype(np.float32))) == 1
    assert classification.roc_auc([0, 0, 1, 1], scores) == 1


def test_one_class_only_has_no_area(sklearn_metrics):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isnan(classification.roc_auc([1, 1], [0.1, 0.2]))
        assert np.isnan(classification.roc_auc([0, 0], [0.1, 0.2]))
        expected = sklearn_metrics.average_precision_score([0, 0], [0.1, 0.2])
    assert classification.average_precision([0, 0], [0.1, 0.2]) == expected == 0
    assert classification.average_precision([1, 1], [0.1, 0.2]) == 1
    assert np.isnan(classification.roc_curve([1, 1], [0.1, 0.2]).false_positive_rates).all()


def test_under_jit_the_same():
    labels, predictions, weights = _random_classes(5, 3)
    p = np.random.default_rng(0).dirichlet(np.ones(3), len(labels))
    for function, last, options in [
        (classification.f1, predictions, {"average": "macro", "num_classes": 3}),
        (classification.recall, predictions, {"average": "weighted", "num_classes": 3}),
        (classification.matthews_correlation, predictions, {"num_classes": 3}),
        (classification.accuracy, predictions, {}),
        (classification.log_loss, p, {}),
    ]:
        host = function(labels, last, weights=weights, **options)
        traced = jax.jit(functools.partial(function, **options))(labels, last, weights=weights)
        np.testing.assert_allclose(traced, host, rtol=1e-5)


def test_confusion_matrix_under_jit_and_its_interval():
    labels, predictions, _ = _random_classes(4, 3)
    count = jax.jit(functools.partial(classification.confusion_matrix, num_classes=3))
    np.testing.assert_array_equal(
        count(labels, predictions), classification.confusion_matrix(labels, predictions)
    )
    by_example = jax.vmap(lambda a, b: count(a[None], b[None]))(labels, predictions)
    interval = bootstrap_interval(by_example, metric=_macro_f1, num_resamples=200)
    assert interval.estimate == pytest.approx(
        float(classification.f1(labels, predictions, average="macro")), rel=1e-5
    )
    assert interval.low < interval.estimate < interval.high
    assert (
        count(jnp.array([-1, 3, 1]), jnp.array([0, 0, 1])) == jnp.zeros((3, 3), int).at[1, 1].set(1)
    ).all()


def _macro_f1(confusion):
    return classification.precision_recall_f(confusion, average="macro").f


@pytest.mark.parametrize(
    "call",
    [
        lambda: classification.precision([0, 1], [0, 1, 1]),
        lambda: classification.precision([], []),
        lambda: classification.precision([0, 1, 2], [0, 1, 2]),
        lambda: classification.precision([0, -1], [0, 1]),
        lambda: classification.precision([0, 1], [0.3, 0.6]),
        lambda: classification.confusion_matrix([0, 2], [0, 1], num_classes=2),
        lambda: classification.confusion_matrix([0, 1], [0, 1], weights=[1.0]),
        lambda: classification.f1([0, 1], [0, 1], average="samples"),
        lambda: classification.roc_auc([0, 1], [0.1, np.nan]),
        lambda: classification.roc_auc([0, 2], [0.1, 0.2]),
        lambda: classification.roc_auc([], []),
        lambda: classification.roc_auc([0, 1], [[0.1], [0.9]]),
        lambda: classification.average_precision([0, 1], [[0.1], [0.9]]),
        lambda: classification.roc_auc([0, 1], [0.1j, 0.2]),
        lambda: classification.roc_auc([0, 1], ["a", "b"]),
        lambda: classification.roc_auc([0, 1], [0.1, 0.2], weights=[1.0]),
        lambda: classification.roc_auc([0, 1], [0.1, 0.2], weights=[-1.0, 1.0]),
        lambda: classification.roc_auc([0, 1, 2], [[0.5, 0.5]] * 3),
        lambda: classification.average_precision([0, -1], [[0.5, 0.5]] * 2),
        lambda: classification.roc_auc([0.0, 1.0], [[0.5, 0.5]] * 2),
        lambda: jax.jit(classification.roc_auc)(np.array([0, 1]), np.array([[0.1], [0.9]])),
        lambda: jax.jit(lambda s: classification.roc_curve([0, 1], s))(np.array([0.1, 0.2])),
        lambda: classification.accuracy([0, 1], [0, 1], weights=[2.0]),
        lambda: classification.accuracy([0, 1], [0, 1], weights=[[2.0], [1.0]]),
        lambda: classification.accuracy([0, 1], [0, 1], weights=[-1.0, 2.0]),
        lambda: classification.accuracy([0, 1], [0, 1], weights=[np.nan, 2.0]),
        lambda: classification.accuracy([-1, 1], [-1, 1]),
        lambda: classification.log_loss([0, 1], [[3.0, -2.0], [0.5, 0.5]]),
        lambda: classification.log_loss([0, 1], [2.5, 0.5]),
        lambda: classification.log_loss([0, 1], [[0.5, 0.9], [0.5, 0.5]]),
        lambda: classification.log_loss([0, 1], [[1.0], [1.0]]),
        lambda: classification.log_loss([0, 1], [[0.5, 0.5]] * 2, weights=[[1.0], [1.0]]),
        lambda: classification.confusion_matrix([0, 10**9], [0, 1]),
        lambda: classification.confusion_matrix([0, 1], [0, 1], num_classes=2.5),
        lambda: classification.confusion_matrix([[0], [0, 1]], [0, 1]),
        lambda: classification.f_beta([0, 1], [0, 1], -1.0),
        lambda: classification.f_beta([0, 1], [0, 1], np.nan),
        lambda: classification.precision_recall_f(np.ones((2, 3))),
        lambda: classification.precision_recall_f(np.eye(2), positive=-1),
        lambda: classification.log_loss([0, 1, 2], [[0.5, 0.5]] * 3),
        lambda: jax.jit(classification.confusion_matrix)(np.array([0, 1]), np.array([0, 1])),
    ],
)
def test_wrong_requests_raise_errors(call):
    with pytest.raises(UserError):
        call()


@pytest.mark.parametrize(
    ("function", "arguments", "weights"),
    [
        (classification.accuracy, ([0, 1], [0, 1]), [-1.0, 2.0]),
        (classification.accuracy, ([0, -1], [0, -1]), None),
        (functools.partial(classification.f1, num_classes=2), ([0, 1], [0, 1]), [-1.0, 2.0]),
        (classification.roc_auc, ([0, 2], [0.1, 0.2]), None),
        (classification.roc_auc, ([0, 1], [0.1, np.nan]), None),
        (classification.roc_auc, ([0, 1], [0.1, 0.2]), [-1.0, 2.0]),
        (classification.average_precision, ([0, 1, 3], [[0.1, 0.9]] * 3), None),
        (classification.log_loss, ([0, 2], [[0.5, 0.5]] * 2), None),
        (classification.log_loss, ([0, 1], [[3.0, -2.0], [0.5, 0.5]]), None),
    ],
)
def test_under_jit_wrong_values_give_nan(function, arguments, weights):
    weights = None if weights is None else np.array(weights)
    assert np.isnan(jax.jit(function)(*map(np.array, arguments), weights=weights)).all()
