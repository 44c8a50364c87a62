"""Beam search against transformers' golden file, exhaustive search, and a model that is one table."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from golden_gpt2 import GOLDEN, golden_gpt2
from table_model import decoder, prompts
from tiny_gpt import apply, shapes
from tiny_gpt import decoder as model_decoder

from lm_jax.decoding.beam import BeamSettings, Found, search
from lm_jax.decoding.decoder import Limits, Prompts
from lm_jax.decoding.sampling import generate
from lm_jax.decoding.settings import Sampling
from lm_jax.errors import UserError
from lm_jax.language_models import ngram
from lm_jax.models.rnn import RNN, RNNConfig
from lm_jax.ngram import counts, smoothing
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.ngram.vocabulary import BOS
from lm_jax.text.simple import CharacterTokenizer

RUNS = json.loads(str(np.load(GOLDEN / "decoding.npz")["runs"]))
V, END = 4, 3
TABLE = np.random.default_rng(1).normal(scale=2, size=(V, V)).astype(np.float32)
LOG_PROBS = scipy.special.log_softmax(TABLE.astype(np.float64), axis=1)


MODEL = decoder(TABLE)


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if "num_beams" in run])
def test_beams_are_transformers(name):
    golden, (model, params), run = np.load(GOLDEN / "decoding.npz"), golden_gpt2(), RUNS[name]
    how = Sampling(
        repetition_penalty=run.get("repetition_penalty", 1.0),
        no_repeat_ngram=run.get("no_repeat_ngram_size", 0),
        min_tokens=run.get("min_new_tokens", 0),
    )
    beams = BeamSettings(run["num_beams"], run.get("length_penalty", 1.0), run.get("early_stopping", False))
    limits = Limits(12, run.get("num_return_sequences", 1), end_id=1)
    asked = Prompts(golden["prompts"], np.full(3, 10))
    found = search(model_decoder(model, params, 24), asked, limits, beams, how)
    np.testing.assert_array_equal(found.tokens, golden[name])
    np.testing.assert_allclose(found.scores, golden[f"{name}_scores"], rtol=1e-4)


def by_table(prompt):
    """The log-probabilities of the tokens of a text, given what they follow."""
    return lambda text: [LOG_PROBS[a, b] for a, b in itertools.pairwise((prompt[-1], *text))]


def every_text(log_probs_of, num_tokens, ends=lambda text: text[-1] == END):
    """The texts there are, ended or of full length, with the log-probabilities of their tokens."""
    for n in range(1, num_tokens + 1):
        for text in itertools.product(range(V), repeat=n):
            if not any(ends(text[:i]) for i in range(1, n)) and (n == num_tokens or ends(text)):
                yield text, log_probs_of(text)


def assert_best(found, length_penalty, possible, end=END):
    """Rows of one prompt are the best of the possible texts, in order."""
    possible = dict(possible)
    scores = sorted((np.sum(x) / len(x) ** length_penalty for x in possible.values()), reverse=True)
    np.testing.assert_allclose(found.scores, scores[: len(found.scores)], atol=1e-5)
    for tokens, log_probs, n, score in zip(*found, strict=True):
        expected = possible[tuple(tokens[:n].tolist())]
        np.testing.assert_allclose(log_probs[:n], expected, atol=1e-5)
        np.testing.assert_allclose(score, np.sum(expected) / n**length_penalty, atol=1e-5)
        assert (tokens[n:] == end).all()
        assert (log_probs[n:] == 0).all()
    assert len({tuple(tokens) for tokens in found.tokens}) == len(found.tokens)


def by_prompt(found):
    """The rows of each of two prompts."""
    half = len(found.tokens) // 2
    return Found(*(part[:half] for part in found)), Found(*(part[half:] for part in found))


TEXTS = [1, 2, 0], [2]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5])
def test_enough_beams_find_the_most_probable_texts(length_penalty):
    limits, beams = Limits(4, num_samples=5, end_id=END), BeamSettings(64, length_penalty, "never")
    for prompt, best in zip(TEXTS, by_prompt(search(MODEL, prompts(*TEXTS), limits, beams))):
        assert_best(best, length_penalty, every_text(by_table(prompt), 4))


def test_a_stop_finishes_a_text():
    """Each prompt at another pair of tokens: it may stand anywhere among the best of all texts."""
    pairs = [(1, 0), (0, 1)]

    def stop(row, tokens):
        assert row in (0, 6)
        pair = pairs[row // 6]
        return next((i + 1 for i in range(1, len(tokens)) if tuple(tokens[i - 1 : i + 1]) == pair), None)

    limits = Limits(4, num_samples=6, end_id=END, stop=stop)
    found = search(MODEL, prompts(*TEXTS), limits, BeamSettings(64, 0.0, "never"))
    for prompt, pair, best in zip(TEXTS, pairs, by_prompt(found)):
        possible = every_text(by_table(prompt), 4, lambda text: text[-1] == END or text[-2:] == pair)  # noqa: B023
        assert_best(best, 0.0, possible)
        assert any(n < 4 and tuple(tokens[n - 2 : n]) == pair for tokens, n in zip(best.tokens, best.lengths))


def test_stops_that_never_match_change_nothing():
    limits, beams = Limits(7, num_samples=3, end_id=END), BeamSettings(3, early_stopping=True)
    plain = search(MODEL, prompts(*TEXTS), limits, beams)
    asked = search(MODEL, prompts(*TEXTS), limits._replace(stop=lambda *_: None), beams)
    for ours, theirs in zip(asked, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_beams_of_a_recurrent_model_keep_their_carries():
    model = RNN(RNNConfig(vocab_size=V, d_embedding=6, d_hidden=8))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.float32(rng.normal(scale=0.7, size=x.shape)), shapes(model))
    limits, beams = Limits(3, num_samples=5, end_id=END), BeamSettings(16, early_stopping="never")
    found = search(model_decoder(model, params), prompts(*TEXTS), limits, beams)
    continuations = np.array(list(itertools.product(range(V), repeat=3)))
    for prompt, best in zip(TEXTS, by_prompt(found)):
        read = np.concatenate([np.tile(prompt, (V**3, 1)), continuations], axis=1)
        logits = np.asarray(apply(model, params, read[:, :-1])[0], np.float64)[:, len(prompt) - 1 :]
        log_probs = scipy.special.log_softmax(logits, axis=-1)
        chosen = np.take_along_axis(log_probs, continuations[:, :, None], axis=2)[:, :, 0]
        known = {tuple(text): row for text, row in zip(continuations.tolist(), chosen)}
        assert_best(best, 1.0, every_text(lambda text: known[(*text, 0, 0)[:3]][: len(text)], 3))  # noqa: B023


def test_the_beams_of_an_ngram_model_keep_their_histories():
    """Against the model's own distributions; what is unknown is never written."""
    tokenizer = CharacterTokenizer("ab")
    A, B = 2, 3
    texts = [[A, B, B, A], [B, A, A, B], [A, B, A, B], [B, B, B], [A, A, B], [B]]
    vocabulary = ngram.make_vocabulary(tokenizer)
    word_of = ngram.word_ids(tokenizer, vocabulary)
    end = tokenizer.end_id
    stream = ngram.make_stream(np.concatenate([[end, *text] for text in [*texts, []]]), word_of)
    counted = counts.count(stream, vocabulary, 3)
    estimated = smoothing.estimate(counted, NGramConfig(order=3, smoothing="witten_bell"))
    model = ngram.NGramLanguageModel(estimated, tokenizer)
    limits, beams = Limits(3, num_samples=6, end_id=end), BeamSettings(16, early_stopping="never")
    found = search(model._decoder(), prompts([end, B]), limits, beams)

    def log_probs_of(text):
        probs = []
        for i, token in enumerate(text):
            p = estimated.next_distribution([BOS, *word_of[[B, *text[:i]]]])[word_of]
            probs.append(p[token] / (1 - p[tokenizer.unknown_id]))
        return np.log(probs)

    possible = every_text(log_probs_of, 3, lambda text: text[-1] == end)
    assert_best(found, 1.0, ((text, x) for text, x in possible if tokenizer.unknown_id not in text), end)


def test_one_beam_is_greedy():
    found = search(MODEL, prompts([0], [1]), Limits(9), BeamSettings(1))
    greedy = generate(MODEL, prompts([0], [1]), Limits(9), Sampling(temperature=0))
    np.testing.assert_array_equal(found.tokens, greedy.tokens)
    np.testing.assert_allclose(found.log_probs, greedy.log_probs, atol=1e-6)


def test_a_prompts_beams_do_not_depend_on_the_prompts_beside_it():
    limits, beams = Limits(7, num_samples=3, end_id=END), BeamSettings(3)
    together = search(MODEL, prompts([0, 1], [2]), limits, beams)
    for i, text in enumerate(([0, 1], [2])):
        alone = search(MODEL, prompts(text), limits, beams)
        for ours, theirs in zip(alone, together, strict=True):
            np.testing.assert_array_equal(ours, theirs[3 * i : 3 * i + 3])


# 0 is followed by 1 or 2, 1 by the end alone, and 2 by nothing.
SPARSE = np.full((V, V), -np.inf, np.float32)
SPARSE[0, [1, 2]] = 0
SPARSE[1, END] = 0


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("stop", [None, lambda *_: None])
@pytest.mark.parametrize("length_penalty", [1.0, -2.0])
def test_texts_of_probability_zero_are_never_found(early_stopping, stop, length_penalty):
    """Fewer texts than beams; one beam reaches a row without any possible token."""
    beams = BeamSettings(4, length_penalty, early_stopping)
    found = search(decoder(SPARSE), prompts([0]), Limits(9, end_id=END, stop=stop), beams)
    assert found.tokens.tolist() == [[1, *[END] * 8]]
    assert found.lengths.tolist() == [2]
    np.testing.assert_allclose(found.log_probs, [[-np.log(2), *[0] * 8]], rtol=1e-6)
    np.testing.assert_allclose(found.scores, -np.log(2) / 2**length_penalty, rtol=1e-6)


@pytest.mark.parametrize(
    ("texts", "num_results", "line"),
    [
        (([0],), 2, "prompt 0 has 1 continuations of a probability above 0; .*; ask for 1, or ban less"),
        (([0], [2]), 1, "prompt 1 has 0 continuations .* leave no token to choose; check the vocabulary"),
    ],
)
def test_fewer_possible_texts_than_results_are_one_line_errors(texts, num_results, line):
    limits = Limits(9, num_samples=num_results, end_id=END)
    with pytest.raises(UserError, match=line):
        search(decoder(SPARSE), prompts(*texts), limits, BeamSettings(4))


def test_no_text_goes_on_after_its_end_where_few_are_possible():
    """0 is followed by 1 or the end, 1 by the end: two texts. The table leads from the end to 2 and 1."""
    table = np.full((V, V), -np.inf, np.float32)
    table[[0, 0, 1, END, 2], [1, END, END, 2, 1]] = 0
    limits = Limits(9, num_samples=2, end_id=END)
    found = search(decoder(table), prompts([0]), limits, BeamSettings(4))
    assert sorted(zip(found.lengths, found.tokens[:, 0])) == [(1, END), (2, 1)]
    with pytest.raises(UserError, match="prompt 0 has 2 continuations of a probability above 0"):
        search(decoder(table), prompts([0]), limits._replace(num_samples=3), BeamSettings(4))


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
def test_a_beam_with_logits_that_are_not_numbers_is_an_error_beside_good_ones(bad):
    table = np.where(np.arange(V)[:, None] == 2, np.float32(bad), TABLE)
    table[0] = 0
    with pytest.raises(UserError, match="logits are not numbers"):
        search(decoder(table), prompts([0]), Limits(4, end_id=END), BeamSettings(4))


def test_numpy_and_jax_numbers_are_python_numbers():
    limits, beams = Limits(7, num_samples=2, end_id=END), BeamSettings(3, 0.5, True)
    expected = search(MODEL, prompts([0, 1]), limits, beams)
    for kind in (np.asarray, jnp.asarray):
        asked = Limits(*map(kind, limits[:3])), BeamSettings(*map(kind, beams))
        for ours, theirs in zip(search(MODEL, prompts([0, 1]), *asked), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"num_beams": 0}, "num_beams=0"),
        ({"num_samples": 3}, "3 results of 2 beams; ask for no more"),
        ({"num_tokens": 0}, "num_tokens=0"),
        ({"lengths": [0]}, "prompts of"),
        ({"context_length": 6}, "5 tokens after a prompt of 3 leave the context of 6; .* at most 4"),
        ({"params": np.full_like(TABLE, np.nan)}, "logits are not numbers"),
        ({"sampling": Sampling(no_repeat_ngram=1), "num_tokens": 6}, "leave no token to choose"),
    ],
)
def test_a_wrong_request_is_a_one_line_error(change, line):
    model = decoder(change.get("params", TABLE), change.get("context_length"))
    asked = Prompts(np.array([[1, 2, 0]]), change.get("lengths", [3]))
    limits = Limits(change.get("num_tokens", 5), change.get("num_samples", 1))
    with pytest.raises(UserError, match=line):
        search(
            model, asked, limits, BeamSettings(change.get("num_beams", 2)), change.get("sampling", Sampling())
        )
