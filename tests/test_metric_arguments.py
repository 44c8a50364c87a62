"""What is no argument of a metric is a one-line error, whatever it is."""

import functools
import warnings

import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.metrics import classification, generation, likelihood, significance, text

ODD = [
    None, "ab", b"ab", 3, [], [None, 1], ["a", "b"], [[0], [1, 2]], [1j, 2], [2**70, 1], {"a": 1},
    np.array(["a"], object), np.zeros((0, 3)), np.zeros((2, 2, 2)), np.array(5), [0.5, np.nan],
]  # fmt: skip
LOGITS, IDS = np.zeros((2, 3)), [0, 1]
OF_TWO = {
    **{name: getattr(classification, name) for name in classification.__all__ if name not in
       ("PrecisionRecallF", "f_beta", "precision_recall_f")},
    "sign_test": significance.sign_test,
    "mcnemar": significance.mcnemar,
    "bootstrap": functools.partial(significance.bootstrap_interval, num_resamples=2),
    "paired_bootstrap": functools.partial(significance.paired_bootstrap, num_resamples=2),
    "randomization": functools.partial(significance.approximate_randomization, num_trials=2),
    "corpus_bleu": text.corpus_bleu,
    "rouge": text.rouge,
}  # fmt: skip
OF_ONE = {
    "perplexity": lambda x: likelihood.perplexity(x, 2),
    "holm": significance.holm,
    "mean_interval": significance.mean_interval,
    "mean_p_value": significance.mean_p_value,
    "precision_recall_f": classification.precision_recall_f,
    "distinct_n": lambda x: generation.distinct_n(x, 2),
    "corpus_distinct_n": lambda x: generation.corpus_distinct_n(x, 2),
    "length_statistics": generation.length_statistics,
    "token_ids": text.token_ids,
    "weights": lambda x: classification.accuracy(IDS, IDS, weights=x),
    "num_classes": lambda x: classification.confusion_matrix(IDS, IDS, num_classes=x),
    "beta": lambda x: classification.f_beta(IDS, IDS, x),
    "average": lambda x: classification.f1(IDS, IDS, average=x),
    "zero_division": lambda x: classification.f1(IDS, IDS, zero_division=x),
    "positive": lambda x: classification.f1(IDS, IDS, positive=x),
    "targets": lambda x: likelihood.accuracy(LOGITS, x),
    "logits": lambda x: likelihood.accuracy(x, IDS),
    "weights of targets": lambda x: likelihood.accuracy(LOGITS, IDS, x),
    "k": lambda x: likelihood.accuracy(LOGITS, IDS, k=x),
    "label_smoothing": lambda x: likelihood.cross_entropy(LOGITS, IDS, label_smoothing=x),
    "num_bins": lambda x: likelihood.calibration_error(LOGITS, IDS, num_bins=x),
    "confidence": lambda x: significance.bootstrap_interval([1.0, 2], num_resamples=2, confidence=x),
    "seed": lambda x: significance.bootstrap_interval([1.0, 2], num_resamples=2, seed=x),
    "resamples": lambda x: significance.bootstrap_interval([1.0, 2], resamples=x),
    "profile": lambda x: text.corpus_bleu(["a b"], ["a c"], x),
    "smoothing": lambda x: text.corpus_bleu(["a b"], ["a c"], smoothing=x),
    "max_order": lambda x: text.corpus_bleu(["a b"], ["a c"], max_order=x),
    "types": lambda x: text.rouge("a", "b", types=x),
}


def refused(function, *arguments):
    """Whether a call is refused; anything but a result or a UserError is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function(*arguments)
        except UserError as error:
            return "\n" not in str(error)
    return False


@pytest.mark.parametrize("name", OF_TWO)
def test_two_odd_arguments(name):
    calls = [(x, y) for x in ODD for y in (*ODD[:3], x, IDS)]
    assert sum(refused(OF_TWO[name], *call) for call in calls) > len(calls) // 2


@pytest.mark.parametrize("name", OF_ONE)
def test_an_odd_argument(name):
    assert sum(refused(OF_ONE[name], x) for x in ODD) >= len(ODD) // 2


@pytest.mark.parametrize("size", [10**9, 10**30])
@pytest.mark.parametrize(
    "function",
    [
        OF_ONE["max_order"], OF_ONE["num_classes"], OF_ONE["num_bins"],
        lambda n: text.rouge("a", "b", types=[f"rouge{n}"]),
        lambda n: text.rouge("a", "b", types=["rouge" + "9" * 5000]),
        lambda n: generation.distinct_n([[1, 2]], n),
        lambda n: significance.bootstrap_interval([1.0, 2], num_resamples=n),
        lambda n: significance.approximate_randomization([1.0, 2], [2.0, 3], num_trials=n),
    ],
)  # fmt: skip
def test_an_absurd_size_is_refused_at_once(function, size):
    assert refused(function, size)


def test_every_k_up_to_the_largest_integer_is_taken():
    assert likelihood.accuracy(LOGITS, np.array(IDS), k=2**31 - 1).mean == 1
    assert refused(OF_ONE["k"], 2**31)
