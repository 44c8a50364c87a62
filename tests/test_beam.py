"""Beam search against transformers' golden file, exhaustive search, and a model that is one table."""

import itertools
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from golden_gpt2 import GOLDEN, golden_gpt2
from quick import _compile_quickly  # noqa: F401  (a fixture that every test here uses)
from tiny_gpt import apply, shapes

from lm_jax.decoding.beam import Found, search
from lm_jax.decoding.processors import Sampling
from lm_jax.decoding.sampling import generate
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


def prefill(table, tokens_BT, length_B, capacity):
    """A model that knows only the last token: row t of its table holds the logits that follow t."""
    return table[jnp.take_along_axis(tokens_BT, length_B[:, None] - 1, axis=1)[:, 0]], length_B


def step(table, state, token_B):
    return table[token_B], state


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if "num_beams" in run])
def test_beams_are_transformers(name):
    golden, (model, params), run = np.load(GOLDEN / "decoding.npz"), golden_gpt2(), RUNS[name]
    how = Sampling(
        repetition_penalty=run.get("repetition_penalty", 1.0),
        no_repeat_ngram=run.get("no_repeat_ngram_size", 0),
        min_tokens=run.get("min_new_tokens", 0),
    )
    found = search(
        partial(model.apply, method="prefill"), partial(model.apply, method="step"), params,
        golden["prompts"], np.full(3, 10), 12, run["num_beams"], run.get("length_penalty", 1.0),
        run.get("early_stopping", False), run.get("num_return_sequences", 1), how, 1, 24,
    )  # fmt: skip
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


PROMPTS, LENGTHS = np.array([[1, 2, 0], [2, 0, 0]]), np.array([3, 1])


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5])
def test_enough_beams_find_the_best_texts_there_are(length_penalty):
    found = search(
        prefill, step, TABLE, PROMPTS, LENGTHS, 4, 64, length_penalty, "never", num_results=5, end_id=END
    )
    for prompt, length, best in zip(PROMPTS, LENGTHS, by_prompt(found)):
        assert_best(best, length_penalty, every_text(by_table(prompt[:length]), 4))


def test_a_text_that_is_told_to_stop_is_finished():
    """Each prompt at another pair of tokens: it may stand anywhere among the best of all texts."""
    pairs = [(1, 0), (0, 1)]

    def stop(row, tokens):
        assert row in (0, 6)
        pair = pairs[row // 6]
        return next((i + 1 for i in range(1, len(tokens)) if tuple(tokens[i - 1 : i + 1]) == pair), None)

    found = search(
        prefill, step, TABLE, PROMPTS, LENGTHS, 4, 64, 0.0, "never", num_results=6, end_id=END, stop=stop
    )
    for prompt, length, pair, best in zip(PROMPTS, LENGTHS, pairs, by_prompt(found)):
        possible = every_text(by_table(prompt[:length]), 4, lambda text: text[-1] == END or text[-2:] == pair)  # noqa: B023
        assert_best(best, 0.0, possible)
        assert any(n < 4 and tuple(tokens[n - 2 : n]) == pair for tokens, n in zip(best.tokens, best.lengths))


def test_stops_that_never_come_change_nothing():
    request = (prefill, step, TABLE, PROMPTS, LENGTHS, 7, 3, 1.0, True, 3)
    plain = search(*request, end_id=END)
    asked = search(*request, end_id=END, stop=lambda *_: None)
    for ours, theirs in zip(asked, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_beams_of_a_recurrent_model_keep_their_carries():
    model = RNN(RNNConfig(vocab_size=V, d_embedding=6, d_hidden=8))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.float32(rng.normal(scale=0.7, size=x.shape)), shapes(model))
    found = search(
        partial(model.apply, method="prefill"), partial(model.apply, method="step"), params,
        PROMPTS, LENGTHS, 3, 16, 1.0, "never", num_results=5, end_id=END,
    )  # fmt: skip
    continuations = np.array(list(itertools.product(range(V), repeat=3)))
    for prompt, length, best in zip(PROMPTS, LENGTHS, by_prompt(found)):
        read = np.concatenate([np.tile(prompt[:length], (V**3, 1)), continuations], axis=1)
        logits = np.asarray(apply(model, params, read[:, :-1])[0], np.float64)[:, length - 1 :]
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
    found = search(
        **model._decoder(), prompts=np.array([[end, B]]), lengths=[2], num_tokens=3, num_beams=16,
        early_stopping="never", num_results=6, end_id=end,
    )  # fmt: skip

    def log_probs_of(text):
        probs = []
        for i, token in enumerate(text):
            p = estimated.next_distribution([BOS, *word_of[[B, *text[:i]]]])[word_of]
            probs.append(p[token] / (1 - p[tokenizer.unknown_id]))
        return np.log(probs)

    possible = every_text(log_probs_of, 3, lambda text: text[-1] == end)
    assert_best(found, 1.0, ((text, x) for text, x in possible if tokenizer.unknown_id not in text), end)


def test_one_beam_is_greedy():
    prompts, lengths = np.array([[0], [1]]), np.array([1, 1])
    found = search(prefill, step, TABLE, prompts, lengths, 9, 1, end_id=None)
    greedy = generate(prefill, step, TABLE, prompts, lengths, 9, Sampling(temperature=0))
    np.testing.assert_array_equal(found.tokens, greedy.tokens)
    np.testing.assert_allclose(found.log_probs, greedy.log_probs, atol=1e-6)


def test_a_prompts_beams_do_not_depend_on_the_prompts_beside_it():
    together = search(
        prefill, step, TABLE, np.array([[0, 1], [2, 0]]), [2, 1], 7, 3, num_results=3, end_id=END
    )
    for i, prompt in enumerate(([[0, 1]], [[2]])):
        alone = search(prefill, step, TABLE, np.array(prompt), [2 - i], 7, 3, num_results=3, end_id=END)
        for ours, theirs in zip(alone, together, strict=True):
            np.testing.assert_array_equal(ours, theirs[3 * i : 3 * i + 3])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"num_beams": 0}, "num_beams=0"),
        ({"num_results": 3}, "3 results of 2 beams; ask for no more"),
        ({"num_tokens": 0}, "num_tokens=0"),
        ({"lengths": [0]}, "prompts of"),
        ({"context_length": 6}, "5 tokens after a prompt of 3 leave the context of 6; .* at most 4"),
        ({"params": np.full_like(TABLE, np.nan)}, "logits are not numbers"),
        ({"sampling": Sampling(no_repeat_ngram=1), "num_tokens": 6}, "leave no token to choose"),
    ],
)
def test_a_wrong_request_is_one_line(change, line):
    request = {
        "params": TABLE, "prompts": np.array([[1, 2, 0]]), "lengths": [3], "num_tokens": 5, "num_beams": 2
    }  # fmt: skip
    with pytest.raises(UserError, match=line):
        search(prefill, step, **(request | change))
