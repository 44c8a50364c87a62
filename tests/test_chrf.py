"""chrF and chrF++ against sacrebleu."""

import random

import numpy as np
import pytest
import sacrebleu

from lm_jax.errors import UserError
from lm_jax.metrics.chrf import chrf, chrf_statistics, corpus_chrf

HYPOTHESES = [
    "The cat sat on the mat.", "", "completely different", "日本語 の 文", "(a) 'b' c!", "a",
    "  spaces   between ", "The the the the", "ein Haus, zwei Häuser", "x" * 40,
]  # fmt: skip
REFERENCES = [
    "The cat is on the mat.", "not empty", "qwzk", "日本語の文章", "'a' (b) c?", "b", "spaces between",
    "the The", "zwei Haus, ein Häuser", "x" * 30,
]  # fmt: skip


@pytest.mark.parametrize("words", [0, 2])
@pytest.mark.parametrize("beta", [2, 1])
def test_scores_are_those_of_sacrebleu(words, beta):
    theirs = sacrebleu.CHRF(word_order=words, beta=beta)
    wanted = theirs.corpus_score(HYPOTHESES, [REFERENCES]).score / 100
    made = corpus_chrf(HYPOTHESES, REFERENCES, words=words, beta=beta)
    assert made == pytest.approx(wanted, abs=1e-6)
    assert made.signature.startswith(f"nrefs:1|case:mixed|eff:yes|nc:6|nw:{words}|space:no")
    statistics = chrf_statistics(HYPOTHESES, REFERENCES, words=words, beta=beta)
    sentences = [theirs.sentence_score(h, [r]).score / 100 for h, r in zip(HYPOTHESES, REFERENCES)]
    np.testing.assert_allclose(chrf(*statistics, beta=beta), sentences, atol=1e-6)


def test_of_several_references_the_best_one_of_each_sentence_counts():
    draw, letters = random.Random(0), "abcde "
    texts = [["".join(draw.choices(letters, k=20)) for _ in range(50)] for _ in range(4)]
    wanted = sacrebleu.CHRF(word_order=2).corpus_score(texts[0], texts[1:]).score / 100
    made = corpus_chrf(texts[0], list(zip(*texts[1:])), words=2)
    assert made == pytest.approx(wanted, abs=1e-6)
    assert made.signature.startswith("nrefs:3")


def test_equal_texts_score_1_and_wrong_settings_are_refused():
    assert corpus_chrf(["abc def"], ["abc def"]) == pytest.approx(1)
    for settings in ({"characters": 0}, {"words": -1}, {"beta": 0}):
        with pytest.raises(UserError):
            corpus_chrf(["a"], ["a"], **settings)
