"""n-gram models by the protocol of every family: recipes, scores, texts, ARPA files, bad input."""

import dataclasses
import math

import numpy as np
import pytest
import tiny

import lm_jax
from lm_jax import config as config_module
from lm_jax import experiment, fields
from lm_jax.config import CountConfig
from lm_jax.data.corpora import Document
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation.texts import Text
from lm_jax.language_models import ngram
from lm_jax.language_models.ngram import NGramLanguageModel
from lm_jax.ngram import arpa, counts, smoothing
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.ngram.vocabulary import BOS, EOS
from lm_jax.text import load as tokenizers

FALLBACK = (0.5, 1.0, 1.5)


def recipe(text, tokenizer="byte", **model):
    data = DataConfig(corpus=f"text:{text}", documents="line", split="hash:0.1,0.1", tokenizer=tokenizer)
    return CountConfig(data=data, model=NGramConfig(**{"order": 3, "discount_fallback": FALLBACK} | model))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ngram")
    config = recipe(tiny.write_text(directory / "text.txt"))
    return config, directory / "run", experiment.run(config, directory / "run")


def test_samples_of_short_texts_have_a_minimum_length(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{a}{b}\n" for a in "abcdefgh" for b in "ijklmnop"))
    config = dataclasses.replace(recipe(text), sample_tokens=40)
    experiment.run(config, tmp_path / "run")
    assert len((tmp_path / "run" / "sample.txt").read_bytes()) > 10, (
        "a quarter of sample_tokens, and a newline"
    )


def make_model(texts, tokenizer, **config):
    vocabulary = ngram.make_vocabulary(tokenizer)
    word_of = ngram.word_ids(tokenizer, vocabulary)
    end = [tokenizer.end_id]
    tokens = np.concatenate([end, *(part for ids in tokenizer.encode_ids(texts) for part in (ids, end))])
    counted = counts.count(ngram.make_stream(tokens, word_of), vocabulary, config["order"])
    return NGramLanguageModel(smoothing.estimate(counted, NGramConfig(**config)), tokenizer)


def test_the_tutorials_bigram():
    texts = ["I love language models and I love coding"]
    model = make_model(texts, tokenizers.train("word", texts), order=2, smoothing="maximum_likelihood")
    [scores] = model.score(["I love language"])
    p_love, p_language = np.exp(scores.log_probs[1:3])
    assert p_love == pytest.approx(1.0), "P(love|I)"
    assert p_language == pytest.approx(0.5), "P(language|love)"


def test_a_stream_has_a_sentence_for_each_document_and_each_line_of_words():
    tokenizer = tokenizers.train("word", ["a b\nc"])
    vocabulary = ngram.make_vocabulary(tokenizer)
    word_of = ngram.word_ids(tokenizer, vocabulary)
    a, b, c = vocabulary.ids(["a", "b", "c"])
    ids, end = tokenizer.encode("a b\nc").ids, tokenizer.end_id
    stream = ngram.make_stream(np.array([end, *ids, end, *ids[:1], end]), word_of)
    assert stream.tolist() == [BOS, a, b, EOS, BOS, c, EOS, BOS, a, EOS]


def test_a_run_has_the_counts_and_context_of_its_order(run):
    _, workdir, rows = run
    assert [row.family for row in rows] == ["ngram", "ngram"]
    assert rows[1].counts["tokens"] == rows[1].counts["bytes"] + rows[1].documents
    assert 0 < rows[1].metrics["bits_per_byte"].value < 1, "there is much order in this text"
    assert rows[1].context == {"order": 3}
    assert (workdir / "sample.txt").read_text().strip()
    assert experiment.run(run[0], workdir) == rows, "a finished run prints its results again"


def test_the_probabilities_of_all_tokens_and_the_end_add_up_to_one(run):
    model = lm_jax.load(run[1])
    unknown = model.model.next_distribution([BOS])[0]  # a byte model never meets it
    total = sum(math.exp(model.score(["the " + chr(c)])[0].log_probs[4]) for c in range(128))
    total += math.exp(model.score(["the "])[0].log_probs[-1])
    rest = sum(np.exp(model._log_probs(np.array([[ord("e"), ord(" ")]]))[0][128:256]))
    assert total + rest + unknown == pytest.approx(1, abs=1e-3)


def test_scores_do_not_depend_on_the_texts_beside(run):
    model = lm_jax.load(run[1])
    texts = ["", "the model", "café\nreads", "x"]
    for alone, together in zip((model.score([t])[0] for t in texts), model.score(texts), strict=True):
        np.testing.assert_array_equal(alone.log_probs, together.log_probs)
        assert together.complete


def test_generated_tokens_have_the_probabilities_that_scores_give(run):
    model = lm_jax.load(run[1])
    prompt = "the model reads a prompt much longer than the order "
    [made, _] = model.generate([prompt, "the "], 12, seed=1)
    [scores] = model.score([prompt + made.text])
    start = len(prompt.encode())
    n = min(len(made.tokens), len(scores.log_probs) - start)
    more = made.log_probs[:n] - scores.log_probs[start : start + n]
    assert (more > -1e-5).all()
    assert (more < 2e-3).all(), "the share of the unknown token, which is never drawn"
    assert model.generate(["the "], 8, temperature=0)[0].text == "".join(
        model.stream("the ", 8, temperature=0)
    )


def test_words_are_written_with_spaces_between():
    texts = ["I love language models", "I love coding"]
    model = make_model(texts, tokenizers.train("word", texts), order=2, smoothing="witten_bell")
    [made] = model.generate(["I love language"], 1, temperature=0)
    assert made.text == " models"
    assert "".join(model.stream("I love", 5, seed=2)).startswith(" ")


def test_words_without_a_speller_have_perplexities_but_no_bits_per_byte():
    texts = ["I love language models", "I love coding"]
    model = make_model(texts, tokenizers.train("word", texts), order=2, smoothing="witten_bell")
    row = evaluation.evaluate(model, Text("t", [Document("0", "I love coding\n")]), "m").row
    assert row.metrics["bits_per_byte"].value is None
    assert "white space" in row.metrics["bits_per_byte"].why
    assert row.metrics["perplexity"].value > 1
    assert row.counts["tokens"] == row.counts["words"] + row.documents


def test_an_arpa_file_is_a_model_like_any_other(tmp_path):
    texts = ["I love language models", "I love coding"]
    model = make_model(texts, tokenizers.train("word", texts), order=2, smoothing="witten_bell")
    arpa.write(model.model, tmp_path / "m.arpa")
    loaded = lm_jax.load(tmp_path / "m.arpa")
    text = "I love coding\nlanguage models love unheard\n"
    np.testing.assert_allclose(loaded.score([text])[0].log_probs, model.score([text])[0].log_probs, atol=1e-5)
    row = evaluation.evaluate(loaded, Text("t", [Document("0", text)]), "m").row
    assert (row.counts["oov"], row.counts["tokens"]) == (1, 9)


def test_an_arpa_file_in_latin_1_is_read(tmp_path):
    unigrams = b"-1\t<unk>\n-2\t<s>\n-3\t</s>\n-4\tcaf\xe9\n-5\ttea\n"
    (tmp_path / "m.arpa").write_bytes(b"\\data\\\nngram 1=5\n\n\\1-grams:\n" + unigrams + b"\n\\end\\\n")
    model = lm_jax.load(tmp_path / "m.arpa")
    log10 = model.score(["tea caf\u00e9"])[0].log_probs / math.log(10)
    np.testing.assert_allclose(log10, [-5, -1, -3], atol=1e-6)
    assert model.tokenizer.token_bytes(2) == b"caf\xe9"


@pytest.mark.parametrize("name", ["", "word", "char", "bigram_mle", *smoothing.SMOOTHINGS])
def test_every_variant_counts(tmp_path, name):
    _, config = config_module.load(f"configs/ngram.py:{name}")
    text = tiny.write_text(tmp_path / "text.txt")
    small = dataclasses.replace(config.data, corpus=f"text:{text}", documents="line", vocab_size=300)
    # Sampling compiles a program for each model; test_ngram_smoothing.py tests the distributions of all.
    sampled = 4 if name in ("", "word", "char", "bigram_mle") else 0
    config = dataclasses.replace(config, data=small, sample_tokens=sampled)
    for row in experiment.run(config, tmp_path / "run"):
        perplexity = row.metrics["perplexity"].value
        assert perplexity is None or perplexity > 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.order": "0"}, "order 0"),
        ({"model.order": "9"}, "order 9"),
        ({"model.smoothing": "laplace"}, "laplace"),
        ({"model.num_layers": "2"}, "no field model.num_layers"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, values, message):
    config = recipe(tiny.write_text(tmp_path / "text.txt"))
    with pytest.raises(UserError, match=message):
        experiment.run(fields.override(config, values), tmp_path / "run")


def test_ngram_runs_do_not_resume_or_start_neural_ones(run, tmp_path):
    neural = tiny.config(tmp_path / "text.txt")
    with pytest.raises(UserError, match="holds a run of another config"):
        experiment.run(neural, run[1])
    tiny.write_text(tmp_path / "text.txt")
    with pytest.raises(UserError, match="of the family ngram; give a model that is trained"):
        experiment.run(dataclasses.replace(neural, init_from=str(run[1])), tmp_path / "run")
