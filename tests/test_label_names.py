"""Metrics of labels that are texts, against scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics

from lm_jax.errors import UserError
from lm_jax.metrics import classification as ours

NAMES = ["spam", "ham", "eggs"]
DRAW = np.random.default_rng(0)
LABELS = DRAW.choice(NAMES, 50)
PREDICTIONS = np.where(DRAW.random(50) < 0.6, LABELS, DRAW.choice(NAMES, 50))


@pytest.mark.parametrize("kind", [list, np.asarray, lambda x: np.asarray(x, object)])
def test_names_give_the_numbers_of_scikit_learn(kind):
    labels, predictions = kind(LABELS.tolist()), kind(PREDICTIONS.tolist())
    np.testing.assert_array_equal(
        ours.confusion_matrix(labels, predictions), sklearn.metrics.confusion_matrix(LABELS, PREDICTIONS)
    )
    assert ours.accuracy(labels, predictions) == sklearn.metrics.accuracy_score(LABELS, PREDICTIONS)
    for average in ("micro", "macro", "weighted"):
        expected = sklearn.metrics.f1_score(LABELS, PREDICTIONS, average=average)
        assert ours.f1(labels, predictions, average=average) == pytest.approx(expected)
    expected = sklearn.metrics.matthews_corrcoef(LABELS, PREDICTIONS)
    assert ours.matthews_correlation(labels, predictions) == pytest.approx(expected)


@pytest.mark.parametrize("positive", ["ham", "spam"])
def test_the_positive_class_has_a_name(positive):
    two = [np.where(x == "eggs", "ham", x) for x in (LABELS, PREDICTIONS)]
    for metric in ("precision", "recall", "f1"):
        expected = getattr(sklearn.metrics, f"{metric}_score" if metric != "f1" else "f1_score")(
            *two, pos_label=positive
        )
        assert getattr(ours, metric)(*two, positive=positive) == pytest.approx(expected)


def test_classes_set_the_order_of_rows_and_columns():
    order = ["spam", "ham", "bacon", "eggs"]
    found = ours.confusion_matrix(LABELS, PREDICTIONS, classes=order)
    np.testing.assert_array_equal(found, sklearn.metrics.confusion_matrix(LABELS, PREDICTIONS, labels=order))
    probabilities = DRAW.dirichlet(np.ones(3), 50)
    expected = sklearn.metrics.log_loss(LABELS, probabilities, labels=sorted(NAMES))
    assert ours.log_loss(LABELS, probabilities, classes=sorted(NAMES)) == pytest.approx(expected)
    assert ours.log_loss(LABELS, probabilities[:, ::-1], classes=sorted(NAMES)[::-1]) == pytest.approx(
        expected
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ours.f1(["a", "b"], ["a", "b"]), "which name is the positive class?; give positive=NAME"),
        (lambda: ours.f1(["a", "b"], ["a", "b"], positive="c"), "positive='c' is none of the classes"),
        (lambda: ours.f1([0, 1], [0, 1], positive="a"), "positive='a' of labels that are no texts"),
        (lambda: ours.accuracy(["a", "b"], [0, 1]), "labels and predictions are not both texts"),
        (lambda: ours.confusion_matrix(["a"], ["c"], classes=["a", "b"]), "'c' is none of the classes 'a'"),
        (lambda: ours.confusion_matrix(["a"], ["a"], classes=["a", "a"]), "classes=['a', 'a'] has a"),
        (lambda: ours.confusion_matrix(["a"], ["a"], classes="ab"), "classes='ab'; give a list of names"),
        (lambda: ours.confusion_matrix([0], [1], classes=["a", "b"]), "classes of labels that are no texts"),
        (lambda: ours.log_loss(["a"], [[0.5, 0.5]]), "names of classes without an order; give classes"),
        (lambda: ours.accuracy(["a"], ["a", "b"]), "labels and predictions of shapes"),
    ],
)  # fmt: skip
def test_wrong_names_are_one_line_errors(call, said):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value).startswith(said)
