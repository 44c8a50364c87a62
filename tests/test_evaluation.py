"""Rows of results: sums of the right things, and null with a reason where a number would mislead."""

import hashlib
import math

import numpy as np
import pytest

from lm_jax.data.corpora import Document
from lm_jax.errors import UserError
from lm_jax.evaluation import causal as evaluation
from lm_jax.language_models.base import Scores


class Uniform:
    """Every byte has probability 2^-bits; the word "?" is unknown."""

    family, objective, documents, step = "uniform", "causal", "file", None

    def __init__(self, bits: float, complete: bool = True, noise: float = 0.0):
        self.bits, self.complete, self.noise = bits, complete, noise
        self.random = np.random.default_rng(0)

    def score(self, texts, stride=None):
        scores = []
        for text in texts:
            data = text.encode()
            spans = np.array([[i, i + 1] for i in range(len(data))] + [[len(data)] * 2])
            bits = self.bits + self.noise * self.random.standard_normal()
            log_probs = np.append(np.full(len(data), -bits * math.log(2)), 0.0)
            unknown = np.array([c == ord("?") for c in data] + [False])
            scores.append(
                Scores(data, spans, log_probs, unknown, "nothing", self.complete and not unknown.any())
            )
        return scores

    def describe_context(self, stride=None):
        return {}


def text(*documents):
    return evaluation.Text("test", [Document(str(i), d) for i, d in enumerate(documents)])


def test_bits_per_byte_of_a_uniform_model_is_its_bits():
    row = evaluation.evaluate(Uniform(3.0), text("one two\n", "drei café\n", "x" * 50), "m").row
    assert row.bits_per_byte == pytest.approx(3.0, abs=1e-12)
    assert row.bits_per_byte_ci == pytest.approx([3.0, 3.0], abs=1e-5)
    assert (row.documents, row.words, row.bytes, row.oov) == (3, 5, 8 + 11 + 50, 0)
    assert row.tokens == row.bytes + row.documents
    assert row.perplexity == pytest.approx(math.exp(row.nats / row.tokens))
    assert row.word_perplexity == pytest.approx(math.exp(row.nats / 5))
    assert row.text_sha256 == hashlib.sha256("one two\ndrei café\n".encode() + b"x" * 50).hexdigest()


def test_what_was_not_paid_for_has_no_bits_per_byte():
    row = evaluation.evaluate(Uniform(3.0), text("a ?", "b"), "m").row
    assert row.bits_per_byte is None
    assert "1 unknown" in row.why
    assert row.oov == 1
    tokens_known, nats_known = 3 + 1 + 2 - 1, 3 * 3.0 * math.log(2)
    assert row.perplexity_without_oov == pytest.approx(math.exp(nats_known / tokens_known))
    row = evaluation.evaluate(Uniform(3.0, complete=False), text("a", "b"), "m").row
    assert row.bits_per_byte is None
    assert "white space" in row.why


def test_one_document_has_no_interval():
    row = evaluation.evaluate(Uniform(2.0), text("alone"), "m").row
    assert row.bits_per_byte == pytest.approx(2.0)
    assert row.bits_per_byte_ci is None
    assert "there is one" in row.why


def test_impossible_text_is_written_as_null_with_the_reason():
    row = evaluation.evaluate(Uniform(math.inf), text("a", "b"), "m").row
    values = row.as_json()
    assert values["perplexity"] is None
    assert values["bits_per_byte"] is None
    assert "probability 0" in values["why"]


def test_models_are_compared_document_by_document():
    texts = text(*("word " * n for n in range(1, 60)))
    noisy, better, same = Uniform(3.0, noise=0.1), Uniform(2.0, noise=0.1), Uniform(3.0, noise=0.1)
    evaluations = [evaluation.evaluate(m, texts, str(i)) for i, m in enumerate((noisy, better, same))]
    evaluation.compare(evaluations)
    first, second, third = (e.row.difference for e in evaluations)
    assert first is None
    assert second["bits_per_byte"] == pytest.approx(-1.0, abs=0.1)
    assert second["p_value"] < 0.01
    assert third == {"to": "0", "bits_per_byte": 0.0, "p_value": 1.0}


def test_models_of_other_texts_are_not_compared():
    one = evaluation.evaluate(Uniform(3.0), text("a", "b"), "m")
    other = evaluation.evaluate(Uniform(2.0), text("a", "c"), "n")
    evaluation.compare([one, other])
    assert other.row.difference is None


def test_no_document_is_an_error():
    with pytest.raises(UserError, match="nothing to score"):
        evaluation.evaluate(Uniform(1.0), evaluation.Text("test", []), "m")
