"""What a Python session offers beside scores: training by a recipe, logits, and the options in `help`."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest
import tiny

import lm_jax
from lm_jax import experiment
from lm_jax.config import CountConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.language_models.base import LeftToRight
from lm_jax.language_models.options import Options
from lm_jax.language_models.seq2seq import EncoderDecoder
from lm_jax.ngram.smoothing import NGramConfig


@pytest.fixture(scope="module")
def model(tiny_run):
    return lm_jax.load(tiny_run[1])


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """An n-gram model of words, one of which is unknown."""
    directory = tmp_path_factory.mktemp("words")
    data = DataConfig(
        corpus=f"text:{tiny.write_text(directory / 'text.txt')}", documents="line", split="hash:0.1,0.1",
        tokenizer="word",
    )  # fmt: skip
    config = CountConfig(data=data, model=NGramConfig(order=3, smoothing="witten_bell"), sample_tokens=0)
    experiment.run(config, directory / "run")
    return lm_jax.load(directory / "run")


def test_logits_are_those_of_a_full_pass(model):
    found = model.logits("a café")
    stream = np.concatenate([[model.tokenizer.begin_id], model.tokenizer.encode("a café").ids])
    expected = jax.jit(model.module.apply)(model.params, stream[None])[0][0, :, : model.tokenizer.vocab_size]
    np.testing.assert_allclose(found.logits, expected, atol=1e-5)
    assert b"".join(found.tokens) == "a café".encode()
    assert found.ids[-1] == model.tokenizer.end_id
    np.testing.assert_allclose(np.exp(found.log_probs).sum(axis=-1), 1, atol=1e-6)
    for place, row in zip(found.top(3), found.log_probs, strict=True):
        values = [value for _, value in place]
        assert values == sorted(row, reverse=True)[:3]
    assert found.top(1)[0][0][0] == model.tokenizer.token_bytes(int(found.logits[0].argmax()))


@pytest.mark.parametrize("text", ["", "a model of it", "the new data of it " * 5, "the xyzzy"])
def test_logits_agree_with_scores(model, words, text):
    for lm in (model, words):
        found, [scored] = lm.logits(text), lm.score([text])
        chosen = found.log_probs[np.arange(len(found.ids)), found.ids]
        np.testing.assert_allclose(chosen, scored.log_probs, atol=1e-5)


def test_what_has_no_logits_is_refused(model):
    with pytest.raises(UserError, match="the text is a list, not a string; give one string"):
        model.logits(["a"])
    with pytest.raises(UserError, match=r"k=0; choose 1\.\.257"):
        model.logits("a").top(0)
    assert repr(model.logits("ab")) == "Logits(3 places, 257 tokens)"


@pytest.mark.parametrize("kind", [LeftToRight, EncoderDecoder])
def test_help_lists_every_option(kind):
    for method in (kind.generate, kind.stream):
        lines = inspect.getdoc(method).partition("Options (defaults in brackets):\n")[2].splitlines()
        listed = [
            line.strip().partition(":")[0] for line in lines if line.startswith("    ") and line[4] != " "
        ]
        assert listed == list(Options.__annotations__)


def test_train_gives_the_model_that_the_command_makes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = tiny.write_text(tmp_path / "text.txt")
    lm = lm_jax.train("ngram:word", corpus=f"text:{text}", documents="line", **{"model.order": 2})
    assert lm.model.order == 2
    opened = lm_jax.load("runs/ngram-word")
    np.testing.assert_array_equal(lm.score(["a new model"])[0].log_probs,
                                  opened.score(["a new model"])[0].log_probs)  # fmt: skip
    again = lm_jax.train("ngram:word", corpus=f"text:{text}", documents="line", **{"model.order": 2})
    assert again.perplexity(["the model"]) == lm.perplexity(["the model"])


def test_train_opens_a_finished_run_of_a_config(tiny_run):
    config, workdir, _ = tiny_run
    lm = lm_jax.train(config, workdir)
    assert lm.perplexity(["a model"]) == lm_jax.load(workdir).perplexity(["a model"])
    with pytest.raises(UserError, match=r"holds a run of another config: optimizer\.learning_rate"):
        lm_jax.train(config, workdir, lr=0.5)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"learning_rat": 1}, "no field learning_rat; did you mean optimizer.learning_rate?"),
        ({"optimizer.lr": 1}, "no field optimizer.lr; did you mean optimizer.learning_rate?"),
        ({"b": 1}, "no field b; "),
        ({"num_layers": 2.5}, "model.num_layers='2.5' is not a whole number"),
        ({"batch_size": 0}, "train.batch_size=0; it must be 1 or more"),
    ],
)
def test_a_wrong_field_of_train_is_a_one_line_error(named, said, tiny_run, tmp_path):
    with pytest.raises(UserError) as error:
        lm_jax.train(tiny_run[0], tmp_path / "run", **named)
    assert str(error.value).startswith(said)
    assert not (tmp_path / "run").exists()


def test_train_needs_a_directory_for_a_config(tiny_run):
    with pytest.raises(UserError, match="no workdir for a config"):
        lm_jax.train(dataclasses.replace(tiny_run[0]))
