"""What a model expected at the place of each token: the most probable one, and the share of some tokens."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import tiny
from test_ngram_language_model import make_model
from tiny_gpt import apply

from lm_jax.language_models.base import Embeds, Expects, require
from lm_jax.language_models.causal import CausalLanguageModel
from lm_jax.language_models.trained import Trained
from lm_jax.metrics import chunked
from lm_jax.models.gpt import GPTConfig
from lm_jax.models.rnn import RNNConfig
from lm_jax.text import load as tokenizers
from lm_jax.text.base import Encoding
from lm_jax.text.simple import ByteTokenizer

TEXTS = ["the model", "a", "the model reads a text"]
MODELS = {  # with rows of the vocabulary beyond the tokenizer's
    "gpt": GPTConfig(vocab_size=264, num_layers=1, num_heads=2, d_model=8),
    "rnn": RNNConfig(vocab_size=264, num_layers=1, d_embedding=8, d_hidden=8, adaptive_cutoffs=(50, 100)),
}


def neural(name):
    """A language model over bytes with random parameters."""
    tokenizer = ByteTokenizer()
    config = MODELS[name].resolved(tokenizer.vocab_size, 32)
    module = config.make()
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32), jnp.int32))
    params = jax.tree.map(lambda x: np.float32(rng.normal(scale=0.5, size=x.shape)), shapes)
    return CausalLanguageModel(Trained(config, module, params, tokenizer))


@pytest.fixture(scope="module")
def ngram(tmp_path_factory):
    path = tiny.write_text(tmp_path_factory.mktemp("text") / "text.txt", num_lines=40)
    texts = path.read_text().splitlines()
    return make_model(texts, tokenizers.train("byte", texts), order=3, discount_fallback=(0.5, 1.0, 1.5))


@pytest.mark.parametrize("name", MODELS)
def test_expectations_are_those_of_the_softmax(name):
    model, spaces_V = neural(name), np.zeros(257, bool)
    spaces_V[[9, 10, 32, 256]] = True
    for made, scored in zip(model.expect(TEXTS, spaces_V), model.score(TEXTS), strict=True):
        ids = np.concatenate([[256], np.frombuffer(scored.text, np.uint8), [256]])[None]
        logits_TV = apply(model.module, model.params, ids[:, :-1])[0][0]
        probs_TV = scipy.special.softmax(logits_TV.astype(float), axis=-1)
        np.testing.assert_array_equal(made.scored.log_probs, scored.log_probs)
        np.testing.assert_array_equal(made.best, probs_TV.argmax(axis=1) == ids[0, 1:])
        np.testing.assert_allclose(np.exp(made.log_shares), probs_TV[:, [9, 10, 32, 256]].sum(axis=1), 1e-4)
        np.testing.assert_allclose(np.exp(made.log_best), probs_TV.max(axis=1), 1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_text_is_the_most_probable_everywhere(name):
    model = neural(name)
    written = np.concatenate(
        [model.tokenizer.encode("the").ids, model.generate(["the"], 5, temperature=0)[0].tokens]
    )
    assert len(written) == 8
    values = model._per_token(
        [Encoding(written, None)], None, partial(model._expecter, np.zeros(257, bool)), (4,)
    )
    assert values[0][3:8, 1].all()


def test_chunks_of_positions_change_nothing():
    rng = np.random.default_rng(0)
    hidden_BTD, kernel_DV = rng.normal(size=(2, 7, 3)).astype(np.float32), rng.normal(size=(3, 5))
    targets_BT = rng.integers(5, size=(2, 7))

    def two_numbers(logits_BCV, targets_BC):
        return jnp.stack([logits_BCV.max(axis=-1), targets_BC], axis=-1)

    def run(max_bytes):
        def measure(*arrays):
            return chunked.chunked(two_numbers, lambda k, h: h @ k, *arrays, max_bytes=max_bytes)

        return jax.jit(measure)(kernel_DV.astype(np.float32), hidden_BTD, targets_BT)

    for max_bytes in (1, 3 * 2 * 5 * 4, 1 << 20):
        made_BT2 = run(max_bytes)
        np.testing.assert_allclose(made_BT2[..., 0], (hidden_BTD @ kernel_DV).max(axis=-1), rtol=1e-4)
        np.testing.assert_array_equal(made_BT2[..., 1], targets_BT)


def test_expectations_of_ngrams_are_those_of_the_scores_of_all_alternatives(ngram):
    text = "the mo"
    [made] = ngram.expect([text], np.arange(257) < 128)
    for place in range(len(text) + 1):
        texts = [text[:place] + chr(byte) for byte in range(128)]
        log_probs = np.array([one.log_probs[place] for one in ngram.score(texts)])
        end = ngram.score([text[:place]])[0].log_probs[place]
        actual = ord(text[place]) if place < len(text) else None
        others = np.append(log_probs if actual is None else np.delete(log_probs, actual), end)
        is_best = end > log_probs.max() if actual is None else log_probs[actual] > others.max()
        assert made.best[place] == is_best
        assert made.log_shares[place] == pytest.approx(np.logaddexp.reduce(log_probs), abs=1e-6)
        assert made.log_best[place] == pytest.approx(max(end, log_probs.max()), abs=1e-6)
    assert made.best.any()
    [every] = ngram.expect([text], np.full(257, True))
    assert np.exp(every.log_shares) == pytest.approx(1, abs=1e-3), "but for unknown bytes"


def test_only_tokens_after_a_byte_are_asked_about(ngram):
    for model in (ngram, neural("gpt")):
        [whole] = model.expect(["the model"], np.arange(257) < 128)
        [part] = model.expect(["the model"], np.arange(257) < 128, since=[4])
        assert not part.best[:4].any()
        assert np.isnan([part.log_shares[:4], part.log_best[:4]]).all()
        np.testing.assert_array_equal(part.best[4:-1], whole.best[4:-1])
        np.testing.assert_array_equal(part.log_shares[4:-1], whole.log_shares[4:-1])
        [none] = model.expect(["the model"])
        assert np.exp(none.log_shares).max() == 0


def test_words_without_marks_of_sentences(ngram):
    texts = ["a b c", "a b d", "a b c"]
    model = make_model(texts, tokenizers.train("word", texts), order=2, smoothing="maximum_likelihood")
    assert model.expect(["a b c"])[0].best.tolist() == [True] * 4
    assert model.expect(["a b d"])[0].best.tolist() == [True, True, False, True]
    model.eos = False
    [made] = model.expect(["a b\nc"])
    assert len(made.best) == len(made.scored.log_probs) == 3
    assert made.best.tolist() == [True, True, False], "c does not begin a sentence"


def test_models_that_read_left_to_right_have_the_capability(ngram):
    assert require(ngram, Expects, "x") is ngram
    assert not isinstance(type("Encoder", (), {"score": 0, "describe_context": 0})(), Expects)
    assert not isinstance(ngram, Embeds)
