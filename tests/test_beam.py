"""Beam search against transformers' golden file, exhaustive search, and a model that is one table."""

import itertools
import json
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from golden_gpt2 import GOLDEN, golden_gpt2

from lm_jax.decoding.beam import search
from lm_jax.decoding.processors import Sampling
from lm_jax.decoding.sampling import generate
from lm_jax.errors import UserError

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


def texts(start, num_tokens):
    """Every text there is, with its log-probability: ended, or of full length."""
    for n in range(1, num_tokens + 1):
        for text in itertools.product(range(V), repeat=n):
            if END not in text[:-1] and (n == num_tokens or text[-1] == END):
                yield text, sum(LOG_PROBS[a, b] for a, b in itertools.pairwise((start, *text)))


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5])
def test_enough_beams_find_the_best_texts_there_are(length_penalty):
    prompts, lengths = np.array([[1, 2, 0], [2, 0, 0]]), np.array([3, 1])
    found = search(
        prefill, step, TABLE, prompts, lengths, 4, 64, length_penalty, "never", num_results=5, end_id=END
    )
    for i, start in enumerate((0, 2)):
        rows = slice(5 * i, 5 * i + 5)
        scores = sorted((log_prob / len(text) ** length_penalty for text, log_prob in texts(start, 4)))
        np.testing.assert_allclose(found.scores[rows], scores[:-6:-1], atol=1e-5)
        there_are = dict(texts(start, 4))
        for score, tokens, log_probs, n in zip(found.scores[rows], *(part[rows] for part in found[:3])):
            log_prob = there_are[tuple(tokens[:n].tolist())]
            np.testing.assert_allclose(
                [score, log_probs.sum()], [log_prob / n**length_penalty, log_prob], atol=1e-5
            )
            assert (tokens[n:] == END).all()
            assert (log_probs[n:] == 0).all()
        assert len({tuple(tokens) for tokens in found.tokens[rows]}) == 5


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
        ({"num_beams": 0}, "0 beams"),
        ({"num_results": 3}, "3 results; .* no more than the beams"),
        ({"num_tokens": 0}, "0 tokens"),
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
