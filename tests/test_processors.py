"""Settings that depend on the text so far, against plain Python, transformers' processors and the loop."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from golden_gpt2 import GOLDEN, golden_gpt2
from hypothesis import given, settings
from hypothesis import strategies as st
from table_model import decoder, prompts
from tiny_gpt import decoder as gpt_decoder

from lm_jax.decoding.decoder import Limits, Prompts
from lm_jax.decoding.sampling import generate
from lm_jax.decoding.settings import History, Sampling, edit, sample
from lm_jax.errors import UserError

V = 5


def by_definition(logits, text, prompt, how, end=-1):
    """One row, one token at a time."""
    logits = list(logits)
    made = text[prompt:]
    for token in range(V):
        if token == end:
            continue
        if token in text:
            logits[token] *= how.repetition_penalty if logits[token] < 0 else 1 / how.repetition_penalty
        logits[token] -= how.frequency_penalty * made.count(token)
        logits[token] -= how.presence_penalty * (token in made)
        n = how.no_repeat_ngram
        if n and any(
            text[i : i + n] == [*text[len(text) - n + 1 :], token] for i in range(len(text) - n + 1)
        ):
            logits[token] = -np.inf
    for *before, last in how.banned:
        if text[len(text) - len(before) :] == before:
            logits[last] = -np.inf
    if end >= 0 and len(made) < how.min_tokens:
        logits[end] = -np.inf
    if len(made) < len(how.forced):
        logits = [0 if token == how.forced[len(made)] else -np.inf for token in range(V)]
    return logits


_how = st.builds(
    Sampling,
    repetition_penalty=st.sampled_from([1.0, 0.5, 2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    presence_penalty=st.sampled_from([0.0, -1.0, 0.25]),
    no_repeat_ngram=st.integers(0, 3),
    banned=st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=3).map(tuple), max_size=2).map(
        tuple
    ),
    forced=st.sampled_from([(), (3,), (1, 2, 0, 4)]),
    min_tokens=st.integers(0, 3),
)
_text = st.lists(st.integers(0, V - 1), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(_text, min_size=6, max_size=6), st.data(), _how, st.sampled_from([-1, 2]))
def test_processors_are_their_definitions(texts, data, how, end):
    prompts = [data.draw(st.integers(1, len(t))) for t in texts]
    tokens_BS = np.array([t + [4] * (9 - len(t)) for t in texts])  # padding is no part of the text
    history = History(*map(jnp.asarray, (tokens_BS, [len(t) for t in texts], prompts)))
    logits = np.array([[1.0, -2.0, 0.5, 0.0, 3.0], [-1.0, 2.0, -0.5, 4.0, 0.25]] * 3, np.float32)
    expected = [by_definition(*row, how, end) for row in zip(logits.tolist(), texts, prompts, strict=True)]
    np.testing.assert_allclose(edit(jnp.asarray(logits), how, history, end), expected, rtol=1e-6)


@pytest.mark.parity
@pytest.mark.slow
def test_processors_equal_transformers():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(20, 300)).astype(np.float32)
    ids = rng.integers(12, size=(20, 30))
    length_B = jnp.full(20, 30)
    history = History(jnp.asarray(ids), length_B, jnp.full(20, 20))
    bad = [[5], [7, 8], [int(ids[0, -2]), int(ids[0, -1]), 9]]
    for how, theirs in (
        (Sampling(repetition_penalty=1.7), transformers.RepetitionPenaltyLogitsProcessor(1.7)),
        (Sampling(no_repeat_ngram=1), transformers.NoRepeatNGramLogitsProcessor(1)),
        (Sampling(no_repeat_ngram=3), transformers.NoRepeatNGramLogitsProcessor(3)),
        (Sampling(banned=tuple(map(tuple, bad))), transformers.NoBadWordsLogitsProcessor(bad)),
        (Sampling(min_tokens=11), transformers.MinNewTokensLengthLogitsProcessor(20, 11, 299, device="cpu")),
        (Sampling(min_tokens=10), transformers.MinNewTokensLengthLogitsProcessor(20, 10, 299, device="cpu")),
    ):
        expected = theirs(torch.tensor(ids), torch.tensor(logits.copy())).numpy()
        np.testing.assert_allclose(edit(jnp.asarray(logits), how, history, 299), expected, rtol=1e-6)


def test_draws_follow_penalties():
    """Chi-square over 20,000 draws; the seed is fixed, so this passes always or never."""
    how = Sampling(0.7, repetition_penalty=1.5, frequency_penalty=0.4, presence_penalty=0.3, banned=((1, 4),))
    text, logits = [0, 2, 3, 3, 1], [0.5, 0.2, -0.4, 0.9, 1.0]
    B = 20_000
    history = History(jnp.tile(jnp.array([text]), (B, 1)), jnp.full(B, 5), jnp.full(B, 2))
    draws = sample(
        jnp.tile(jnp.array([logits]), (B, 1)), how, jax.random.split(jax.random.key(1), B), history
    )
    probs = scipy.special.softmax(np.array(by_definition(logits, text, 2, how)) / 0.7)
    counts = np.bincount(draws, minlength=V)
    assert counts[4] == 0
    assert scipy.stats.chisquare(counts[:4], B * probs[:4]).pvalue > 0.01


TABLE = np.random.default_rng(0).normal(size=(V, V)).astype(np.float32)


@pytest.mark.parametrize(
    "how",
    [
        Sampling(0, repetition_penalty=1.4, frequency_penalty=0.3),
        Sampling(0, presence_penalty=0.6, no_repeat_ngram=3, forced=(2, 2), min_tokens=5),
    ],
)
def test_the_loop_keeps_the_text_for_processors(how):
    """Greedily, by hand; prompts of unequal length, and a context that slides."""
    texts = [1, 2, 3], [4, 1]
    made = generate(decoder(TABLE, context_length=8), prompts(*texts), Limits(20, end_id=0), how)
    for prompt, tokens, n in zip(texts, made.tokens, made.lengths, strict=True):
        text = list(prompt)
        for token in tokens[:n]:
            assert token == np.argmax(by_definition(TABLE[text[-1]].tolist(), text, len(prompt), how, end=0))
            text.append(int(token))
        assert n >= how.min_tokens
        assert n == 20 or text[-1] == 0


def test_settings_that_differ_in_numbers_compile_nothing_anew():
    traced = []

    def noted(table, state, token_B):
        traced.append(1)
        return table[token_B], state

    for how in (
        Sampling(0.5, top_k=3, repetition_penalty=1.1),
        Sampling(0.9, top_k=2, repetition_penalty=1.3),
    ):
        generate(decoder(TABLE)._replace(step=noted), prompts([1]), Limits(4), how)
    assert len(traced) == 1


def test_a_row_ends_at_its_stop():
    request = decoder(TABLE), prompts([0], [1], seeds=[5, 6])
    free = generate(*request, Limits(40))

    def stop(row, tokens):
        places = np.flatnonzero(tokens == 3)
        return int(places[1]) + 1 if row == 0 and places.size > 1 else None

    made = generate(*request, Limits(40, stop=stop))
    n = int(np.flatnonzero(free.tokens[0] == 3)[1]) + 1
    assert made.lengths.tolist() == [n, 40]
    np.testing.assert_array_equal(made.tokens[0, :n], free.tokens[0, :n])
    np.testing.assert_array_equal(made.tokens[1], free.tokens[1])
    assert (made.tokens[0, n:] == 0).all()
    assert (made.log_probs[0, n:] == 0).all()


def test_no_allowed_token_is_an_error():
    with pytest.raises(UserError, match=r"the settings leave no token to choose; .* what is banned"):
        generate(decoder(TABLE), prompts([1]), Limits(6), Sampling(no_repeat_ngram=1))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0; choose it from 1e-06 to 1e.06"),
        ({"frequency_penalty": np.nan}, "frequency_penalty=nan"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram=-1"),
        ({"min_tokens": -1}, "min_tokens=-1"),
        ({"banned": ((),)}, "give sequences of token ids"),
        ({"forced": (-1,)}, "give token ids of 0 or more"),
    ],
)
def test_a_wrong_setting_is_a_one_line_error(fields, line):
    with pytest.raises(UserError, match=line):
        Sampling(**fields).check()


def test_greedy_text_with_processors_is_transformers():
    golden, (model, params) = np.load(GOLDEN / "decoding.npz"), golden_gpt2()
    options = json.loads(str(golden["runs"]))["greedy_apart"]
    how = Sampling(
        0,
        repetition_penalty=options["repetition_penalty"],
        no_repeat_ngram=options["no_repeat_ngram_size"],
        banned=tuple(map(tuple, options["bad_words_ids"])),
        min_tokens=options["min_new_tokens"],
    )
    asked = Prompts(golden["prompts"], np.full(3, 10)), Limits(12, end_id=1)
    made = generate(gpt_decoder(model, params, 24), *asked, how)
    np.testing.assert_array_equal(made.tokens, golden["greedy_apart"])
