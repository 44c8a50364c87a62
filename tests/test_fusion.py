"""Shallow fusion: beams against an exhaustive search, and every family with n-grams."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import test_pretrained_bart as published
import tiny

import lm_jax
from lm_jax.decoding import beam, sampling
from lm_jax.decoding.beam import BeamSettings
from lm_jax.decoding.decoder import Decoder, Limits, Prompts
from lm_jax.decoding.fusion import fuse
from lm_jax.decoding.settings import Sampling
from lm_jax.errors import UserError
from lm_jax.language_models.causal import CausalLanguageModel
from lm_jax.language_models.ngram import NGramLanguageModel, make_stream, make_vocabulary, word_ids
from lm_jax.language_models.trained import Trained
from lm_jax.models.gpt import GPT, GPTConfig
from lm_jax.models.rnn import RNN, RNNConfig
from lm_jax.ngram import counts, smoothing
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.text.simple import ByteTokenizer

V, N, END = 5, 4, 4
PROMPTS = Prompts(np.array([[1], [2]]), np.ones(2, int))
MAIN, OTHER = np.random.default_rng(0).normal(scale=2, size=(2, V, V)).astype(np.float32)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def prefill(params, tokens_BT, length_B, capacity):
    """A model whose next token depends on the last one alone."""
    last_B = tokens_BT[np.arange(2), length_B - 1] if isinstance(tokens_BT, np.ndarray) else tokens_BT[:, 0]
    return params[last_B], last_B


def step(params, state, token_R):
    return params[token_R], token_R


def scores_of_all(first, weight):
    """The score of each text that ends, or has N tokens, by the two models' tables."""
    table = log_softmax(MAIN) + weight * log_softmax(OTHER)
    found = {}
    for length in range(1, N + 1):
        for text in itertools.product(range(V), repeat=length):
            if END in text[:-1] or (length < N and text[-1] != END):
                continue
            found[text] = sum(table[a, b] for a, b in zip((first, *text), text))
    return found


@pytest.mark.parametrize("weight", [0.0, 0.7, 3.0])
def test_wide_beams_find_the_best_fused_score(weight):
    decoder = fuse(Decoder(prefill, step, MAIN), Decoder(prefill, step, OTHER), weight)
    limits = Limits(N, num_samples=3, end_id=END)
    found = beam.search(decoder, PROMPTS, limits, BeamSettings(120, length_penalty=0.0))
    for prompt, first in enumerate((1, 2)):
        scores = scores_of_all(first, weight)
        best = sorted(scores, key=scores.get, reverse=True)[:3]
        for rank, text in enumerate(best):
            row = 3 * prompt + rank
            assert tuple(found.tokens[row, : found.lengths[row]].tolist()) == text
            assert found.scores[row] == pytest.approx(scores[text], abs=1e-5)
            alone = [log_softmax(MAIN)[a, b] for a, b in zip((first, *text), text)]
            np.testing.assert_allclose(found.log_probs[row, : len(text)], alone, atol=1e-5)


def test_greedy_takes_the_best_fused_token():
    decoder = fuse(Decoder(prefill, step, MAIN), Decoder(prefill, step, OTHER), 0.7)
    made = sampling.generate(decoder, PROMPTS, Limits(N), Sampling(temperature=0))
    table = log_softmax(MAIN) + 0.7 * log_softmax(OTHER)
    for row, first in zip(made.tokens.tolist(), (1, 2)):
        expected = [int(table[first].argmax())]
        while len(expected) < N:
            expected.append(int(table[expected[-1]].argmax()))
        assert row == expected


def ngrams(tokenizer, text):
    """A Kneser-Ney model of a tokenizer's tokens."""
    vocabulary = make_vocabulary(tokenizer)
    end = np.array([tokenizer.end_id], np.int32)
    lines = [np.append(e.ids, end) for e in tokenizer.encode_batch(text)]
    stream = make_stream(np.concatenate([end, *lines]), word_ids(tokenizer, vocabulary))
    config = NGramConfig(order=3, discount_fallback=(0.5, 1.0, 1.5))
    model = smoothing.estimate(counts.count(stream, vocabulary, 3), config)
    return NGramLanguageModel(model, tokenizer)


def test_a_bart_writes_what_its_ngrams_expect(tmp_path):
    lm = lm_jax.load(published.write(tmp_path / "model", published.weights_of("generation")))
    fusion = ngrams(lm.tokenizer, ["abcdef"] * 50)
    sources = ["xyz", "a longer one"]
    alone = lm.generate(sources, 8)
    weightless = lm.generate(sources, 8, fusion=fusion, fusion_weight=0.0)
    assert [x.tokens.tolist() for x in weightless] == [x.tokens.tolist() for x in alone]
    for options in ({"num_beams": 3}, {"temperature": 0.0}):
        made = lm.generate(sources, 9, fusion=fusion, fusion_weight=50.0, forced=[0], **options)
        assert [x.text for x in made] == ["abcdef"] * 2, "its begin mark begins a text of the n-grams, too"


@pytest.mark.parametrize(
    ("module", "config"),
    [(GPT, GPTConfig(max_length=32, num_layers=1, num_heads=2, d_model=8)), (RNN, RNNConfig(num_layers=1))],
)
def test_beams_of_neural_models_write_what_the_ngrams_expect(module, config):
    tokenizer = ByteTokenizer()
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    params = module(config).init(jax.random.key(0), np.zeros((1, 4), np.int32))
    lm = CausalLanguageModel(Trained(config, module(config), params, tokenizer))
    fusion, prompts = ngrams(tokenizer, ["language"] * 20), ["la", "langu"]
    alone = lm.generate(prompts, 6, num_beams=3)
    weightless = lm.generate(prompts, 6, num_beams=3, fusion=fusion, fusion_weight=0.0)
    assert [x.tokens.tolist() for x in weightless] == [x.tokens.tolist() for x in alone]
    made = lm.generate(prompts, 6, num_beams=3, fusion=fusion, fusion_weight=50.0, length_penalty=0.0)
    assert [x.text for x in made] == ["nguage", "age"]


def test_wrong_models_and_options_are_refused(tmp_path):
    lm = lm_jax.load(published.write(tmp_path / "model", published.weights_of("generation")))
    other = lm_jax.load(published.write(tmp_path / "other", published.weights_of("generation")))
    fusion = ngrams(lm.tokenizer, ["abc"] * 9)
    for options, message in (
        ({"fusion": "runs/ngram"}, "fusion is a str, not a model that continues text"),
        ({"fusion_weight": 1.0}, "fusion_weight without fusion"),
        ({"fusion": fusion, "fusion_weight": float("nan")}, "fusion_weight=nan"),
        ({"fusion": fusion, "fusion_weight": -1}, "fusion_weight=-1; choose it from 0"),
        ({"fusion": fusion, "draft": fusion}, "draft with fusion"),
        ({"fusion": other}, "fusion is a EncoderDecoder, not a model that continues text"),
    ):
        with pytest.raises(UserError, match=message):
            lm.generate(["a"], 4, **options)


def test_left_to_right_models_stream_what_they_generate(tmp_path):
    text = tiny.write_text(tmp_path / "t.txt").read_text().splitlines()
    first = ngrams(ByteTokenizer(), text)
    second = ngrams(first.tokenizer, ["language"] * 20)
    options = {"temperature": 0, "fusion": second, "fusion_weight": 3.0}
    [made] = first.generate(["la"], 12, **options)
    assert "".join(first.stream("la", 12, **options)) == made.text
    assert made.text.startswith("nguage")
