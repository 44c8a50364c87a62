"""Variety, repetition and length of generated text against plain Python."""

import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.metrics import generation

TEXTS = [[1, 2, 1, 2, 1, 2], [1, 2, 3, 4], [5], [], [7] * 9]
IDS = np.array([text + [-1] * (10 - len(text)) for text in TEXTS])


def _ngrams(text, n):
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_distinct_and_repeated_ngrams(n):
    distinct, repeated = generation.distinct_n(IDS, n), generation.repetition_rate(IDS, n)
    grams = [_ngrams(text, n) for text in TEXTS]
    assert distinct.total.tolist() == [len(set(g)) for g in grams]
    assert repeated.total.tolist() == [len(g) - len(set(g)) for g in grams]
    assert distinct.weight.tolist() == repeated.weight.tolist() == [len(g) for g in grams]
    corpus = generation.corpus_distinct_n(IDS, n)
    assert corpus.total == len({gram for g in grams for gram in g})
    assert corpus.weight == sum(map(len, grams))


def test_texts_shorter_than_n():
    sums = generation.corpus_distinct_n(IDS[:, :2], 4)
    assert (sums.total, sums.weight) == (0, 0)


def test_length_statistics():
    statistics = generation.length_statistics(IDS)
    assert statistics == pytest.approx((4, np.std([6, 4, 1, 0, 9]), 0, 4, 9))
    with pytest.raises(UserError):
        generation.length_statistics(np.zeros((0, 3), int))
