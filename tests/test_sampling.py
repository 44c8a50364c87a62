"""Decoding against brute-force definitions, transformers' processors, and models that are one table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from table_model import decoder, prefill, prompts, step

from lm_jax.decoding import memory, processors
from lm_jax.decoding.decoder import Decoder, Limits, Prompts
from lm_jax.decoding.sampling import generate, stream
from lm_jax.decoding.settings import Sampling, sample
from lm_jax.decoding.text import Generated
from lm_jax.errors import UserError

GREEDY = Sampling(temperature=0)
VOCAB_SIZE = 5
TABLE = np.random.default_rng(0).normal(size=(VOCAB_SIZE, VOCAB_SIZE)).astype(np.float32)
MODEL = decoder(TABLE)
PROBS = scipy.special.softmax(TABLE.astype(np.float64), axis=1)


def keep(logits, how):
    """The tokens that stay, by definition and one by one."""
    probs = scipy.special.softmax(logits)
    likelier = [[j for j in range(len(logits)) if logits[j] > logit] for logit in logits]
    if how.top_k:
        return [len(above) < how.top_k for above in likelier]
    if how.min_p:
        return [p >= how.min_p * probs.max() for p in probs]
    return [sum(probs[j] for j in above) < how.top_p for above in likelier]


# Quarters, so that ties and zeros come up, and no sum of probabilities falls on a bound but for a tie.
_logits = st.lists(st.integers(-12, 12).map(lambda n: n / 4), min_size=4, max_size=4)
_how = st.sampled_from(
    [Sampling(top_k=k) for k in (1, 2, 3, 9)]
    + [Sampling(top_p=p) for p in (1e-6, 0.3, 0.61, 0.93)]
    + [Sampling(min_p=p) for p in (0.01, 0.33, 1.0)]
)


@settings(max_examples=200, deadline=None)
@given(_logits, _how)
def test_truncation_is_its_definition(logits, how):
    logits_BV = jnp.array([logits, [0.0, -0.0, 0.0, -1.0]])
    if how.top_k:
        kept = jax.jit(processors.top_k)(logits_BV, how.top_k)
    elif how.min_p:
        kept = jax.jit(processors.min_p)(logits_BV, how.min_p)
    else:
        kept = jax.jit(processors.top_p)(logits_BV, how.top_p)
    for row, kept_row in zip(np.asarray(logits_BV), np.asarray(kept), strict=True):
        expected = keep(row.astype(np.float64), how)
        np.testing.assert_array_equal(kept_row, np.where(expected, row, -np.inf))


@pytest.mark.parity
@pytest.mark.slow
def test_processors_equal_transformers():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    logits = np.random.default_rng(0).normal(scale=2, size=(20, 300)).astype(np.float32)
    warpers = {
        processors.top_k: (transformers.TopKLogitsWarper, (1, 7, 300, 999)),
        processors.top_p: (transformers.TopPLogitsWarper, (0.01, 0.5, 0.95)),
        processors.min_p: (transformers.MinPLogitsWarper, (0.02, 0.5, 1.0)),
        processors.temperature: (transformers.TemperatureLogitsWarper, (0.3, 2.0)),
    }
    for ours, (theirs, values) in warpers.items():
        for value in values:
            expected = theirs(value)(None, torch.tensor(logits)).numpy()
            np.testing.assert_allclose(ours(jnp.asarray(logits), value), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "how", [Sampling(), Sampling(0.5), Sampling(top_k=3), Sampling(2.0, top_p=0.8), Sampling(min_p=0.2)]
)
def test_draws_follow_the_definition(how):
    """Chi-square over 20,000 draws; the seed is fixed, so this passes always or never."""
    logits = TABLE[0].astype(np.float64) / how.temperature
    weights = np.exp(logits)
    if how != Sampling(how.temperature):
        weights = weights * keep(logits, how)
    draws = sample(jnp.tile(TABLE[:1], (20_000, 1)), how, jax.random.split(jax.random.key(1), 20_000))
    counts = np.bincount(draws, minlength=VOCAB_SIZE)
    expected = 20_000 * weights / weights.sum()
    assert (counts[expected == 0] == 0).all()
    assert scipy.stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 0.01


def test_a_token_of_probability_zero_is_never_drawn(monkeypatch):
    """Not even by the uniform numbers that fall where rounding lifts a cumulative sum at such a token."""
    rng = np.random.default_rng(0)
    logits = np.where(rng.random(50_000) < 0.3, rng.normal(size=50_000) * 2, -np.inf).astype(np.float32)
    probs = jax.nn.softmax(logits)
    total = np.asarray(jnp.cumsum(probs))
    lifted = 1 + np.flatnonzero((np.diff(total) > 0) & (np.asarray(probs)[1:] == 0))[:50]
    if lifted.size == 0:
        pytest.skip("this backend sums one by one: nothing is lifted")
    monkeypatch.setattr(jax.random, "uniform", lambda u: u)
    draws = processors.draw(jnp.tile(logits, (lifted.size, 1)), total[lifted - 1] / total.max())
    assert np.isfinite(logits[np.asarray(draws)]).all()


def test_greedy_takes_the_lowest_of_ties():
    assert processors.greedy(jnp.array([[1.0, 3.0, 3.0]])).tolist() == [1]
    logits = jnp.asarray(TABLE)
    np.testing.assert_array_equal(sample(logits, GREEDY, None), TABLE.argmax(axis=1))


def test_sampling_at_the_lowest_temperature_is_greedy():
    keys = jax.random.split(jax.random.key(0), VOCAB_SIZE)
    draws = sample(jnp.float32(1e34 * TABLE), Sampling(temperature=1e-6), keys)
    np.testing.assert_array_equal(draws, TABLE.argmax(axis=1))


def test_text_follows_the_model():
    """A Markov chain's pairs of tokens, by chi-square for each first token."""
    made = generate(MODEL, prompts([0], seeds=[3]), Limits(40, num_samples=500))
    text = np.concatenate([np.zeros((500, 1), int), made.tokens], axis=1)
    pairs = np.zeros((VOCAB_SIZE, VOCAB_SIZE))
    np.add.at(pairs, (text[:, :-1], text[:, 1:]), 1)
    for token in range(VOCAB_SIZE):
        assert scipy.stats.chisquare(pairs[token], pairs[token].sum() * PROBS[token]).pvalue > 0.01
    expected = np.log(PROBS)[text[:, :-1], text[:, 1:]]
    np.testing.assert_allclose(made.log_probs, expected, atol=1e-5)


def test_log_probs_do_not_depend_on_the_sampling():
    how = Sampling(temperature=0.3, top_k=2)
    made = generate(MODEL, prompts([0]), Limits(8), how)
    text = np.append(0, made.tokens[0])
    np.testing.assert_allclose(made.log_probs[0], np.log(PROBS)[text[:-1], text[1:]], atol=1e-5)


def test_a_text_does_not_depend_on_the_prompts_beside_it():
    texts, seeds = ([1, 2, 3], [4], [2, 2]), [7, 8, 7]
    together = generate(MODEL, prompts(*texts, seeds=seeds), Limits(20, num_samples=2))
    for i, (text, seed) in enumerate(zip(texts, seeds, strict=True)):
        alone = generate(MODEL, prompts(text, seeds=[seed]), Limits(20, num_samples=3))
        np.testing.assert_array_equal(alone.tokens[:2], together.tokens[2 * i : 2 * i + 2])
        assert (alone.tokens[0] != alone.tokens[1]).any()
    assert (together.tokens[0] != together.tokens[2]).any()


def test_a_row_ends_at_its_end_token():
    made = generate(MODEL, prompts([0]), Limits(30, num_samples=50, end_id=4))
    free = generate(MODEL, prompts([0]), Limits(30, num_samples=50))
    assert len(set(made.lengths.tolist())) > 5
    for tokens, log_probs, length, expected in zip(*made, free.tokens, strict=True):
        np.testing.assert_array_equal(tokens[:length], expected[:length])
        ends = np.flatnonzero(expected == 4)
        assert length == (ends[0] + 1 if ends.size else 30)
        assert (tokens[length:] == 4).all()
        assert (log_probs[:length] < 0).all()
        assert (log_probs[length:] == 0).all()


def test_generation_stops_when_all_rows_have_ended():
    certain = np.full((VOCAB_SIZE, VOCAB_SIZE), -50, np.float32)
    certain[np.arange(VOCAB_SIZE), [1, 2, 3, 4, 0]] = 50  # 0, 1, 2, 3, then the end
    request = (decoder(certain), prompts([0], [0, 1]), Limits(1000, end_id=4))
    assert sum(piece.tokens.shape[1] for piece in stream(*request)) == 4
    made = generate(*request)
    assert made.tokens.shape == (2, 1000)
    assert made.lengths.tolist() == [4, 3]


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_a_stream_is_the_text_in_pieces(chunk):
    request = (decoder(TABLE, context_length=9), prompts([1, 2], [3], seeds=[5, 11]), Limits(20, end_id=4))
    whole = generate(*request)
    pieces = list(stream(*request, chunk=chunk))
    assert all(1 <= piece.tokens.shape[1] <= chunk for piece in pieces)
    for row in range(2):
        text = np.concatenate([piece.tokens[row, : piece.lengths[row]] for piece in pieces])
        np.testing.assert_array_equal(text, whole.tokens[row, : whole.lengths[row]])


def reading_prefill(_, tokens_BT, length_B, capacity):
    """A model whose next token counts what it can see: its state is the context itself, NaN when overfull."""
    seen_BS = jnp.zeros((len(length_B), capacity)).at[:, : tokens_BT.shape[1]].set(tokens_BT)
    seen_BS = jnp.where(jnp.arange(capacity)[None] < length_B[:, None], seen_BS, 0)
    return reading_logits(seen_BS), (seen_BS, length_B)


def reading_step(_, state, token_B):
    seen_BS, length_B = state
    seen_BS = seen_BS.at[jnp.arange(len(length_B)), length_B].set(token_B, mode="drop")
    seen_BS = jnp.where((length_B < seen_BS.shape[1])[:, None], seen_BS, jnp.nan)
    return reading_logits(seen_BS), (seen_BS, length_B + 1)


def reading_logits(seen_BS):
    total_B = (seen_BS * (1 + jnp.arange(seen_BS.shape[1]) % 7)[None]).sum(axis=1)
    peaked_BV = jax.nn.one_hot((total_B % 11).astype(jnp.int32), 11)
    return jnp.where(jnp.isnan(total_B)[:, None], jnp.nan, 50 * peaked_BV)


@pytest.mark.parametrize("context_length", [1, 2, 7, 20, 32])
def test_text_longer_than_the_context(context_length):
    lengths = np.array([1, context_length, (context_length + 1) // 2])
    rows = np.random.default_rng(0).integers(11, size=(3, context_length))
    reader = Decoder(reading_prefill, reading_step, None, context_length)
    made = generate(reader, Prompts(rows, lengths), Limits(70), GREEDY)
    for prompt, length, tokens in zip(rows, lengths, made.tokens, strict=True):
        context = list(prompt[:length])
        for token in tokens:
            if len(context) > context_length:
                context = context[-max(1, context_length // 2) :]
            assert token == sum(c * (1 + i % 7) for i, c in enumerate(context)) % 11
            context.append(token)


def test_new_prompts_and_lengths_compile_nothing_anew():
    traced = []

    def noted_prefill(*args):
        traced.append("prefill")
        return prefill(*args)

    def noted_step(*args):
        traced.append("step")
        return step(*args)

    for length, num_tokens, seed in ((3, 9, 0), (5, 11, 1), (1, 12, 2)):
        noted = Decoder(noted_prefill, noted_step, TABLE)
        generate(noted, prompts([1] * length, seeds=[seed]), Limits(num_tokens))
        if seed == 0:
            first = list(traced)
    assert set(first) == {"prefill", "step"}
    assert traced == first


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"lengths": [0]}, r"prompts of \[0\] tokens in rows of 3"),
        ({"lengths": [4]}, r"prompts of \[4\] tokens in rows of 3"),
        ({"context_length": 2}, "a prompt of 3 tokens is longer than the context of 2; shorten the prompt"),
        ({"sampling": Sampling(temperature=-1.0)}, "temperature=-1.0"),
        ({"sampling": Sampling(temperature=1e-9)}, "temperature=1e-09"),
        ({"sampling": Sampling(top_p=0.0)}, "top_p=0.0"),
        ({"sampling": Sampling(top_k=-1)}, "top_k=-1"),
        ({"sampling": Sampling(top_k=1.5)}, "top_k=1.5; give a whole number"),
        ({"sampling": Sampling(min_p=1.5)}, "min_p=1.5"),
        ({"num_tokens": 0}, "num_tokens=0"),
        ({"num_tokens": 2.5}, "num_tokens=2.5.*whole number"),
        ({"seeds": [-1]}, r"seeds=\[-1\]"),
        ({"seeds": [0, 1]}, r"seeds=\[0, 1\]"),
        ({"tokens": np.zeros((0, 3)), "lengths": []}, "prompts=0"),
        ({"lengths": [3, 3]}, "2 lengths of 1 prompts"),
        ({"params": np.full_like(TABLE, np.nan)}, "logits are not numbers"),
    ],
)
def test_a_wrong_request_is_a_one_line_error(change, line):
    model = decoder(change.get("params", TABLE), change.get("context_length"))
    asked = Prompts(
        change.get("tokens", np.array([[1, 2, 3]])), change.get("lengths", [3]), change.get("seeds")
    )
    with pytest.raises(UserError, match=line):
        generate(model, asked, Limits(change.get("num_tokens", 4)), change.get("sampling", Sampling()))


def test_the_result_names_its_parts():
    made = generate(MODEL, prompts([0], [1]), Limits(6, num_samples=3))
    assert isinstance(made, Generated)
    assert made.tokens.shape == made.log_probs.shape == (6, 6)
    assert made.lengths.tolist() == [6] * 6


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, lambda x: np.asarray(x)[()]])
def test_numpy_and_jax_numbers_are_python_numbers(kind):
    """The first of them, temperature 0, once divided by zero."""
    how = {"temperature": 0, "top_k": 3, "no_repeat_ngram": 3, "min_tokens": 5, "repetition_penalty": 1.25}
    sequences = {"banned": ((1, 2), (3,)), "forced": (2, 4)}
    numbers = Sampling(**{name: kind(value) for name, value in how.items()}, **sequences)
    assert numbers == Sampling(**how, **sequences)
    assert Sampling(banned=[kind([1, 2]), [kind(3)]], forced=kind([2, 4])) == Sampling(**sequences)
    limits = Limits(12, num_samples=2, end_id=4)
    expected = generate(MODEL, prompts([1], seeds=[3]), limits, Sampling(0.5, top_k=3))
    asked = prompts([1], seeds=kind([3])), Limits(*map(kind, limits[:3]))
    made = generate(MODEL, *asked, Sampling(kind(0.5), kind(3)))
    for ours, theirs in zip(made, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_min_tokens_without_a_possible_token_is_an_error():
    ends = np.full((VOCAB_SIZE, VOCAB_SIZE), -np.inf, np.float32)
    ends[:, 4] = 0
    with pytest.raises(UserError, match="the settings leave no token to choose"):
        generate(decoder(ends), prompts([1]), Limits(4, end_id=4), Sampling(0, min_tokens=2))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0), Sampling(top_k=2), Sampling(0.5, top_p=0.5)])
def test_a_text_that_no_token_can_follow_is_an_error(sampling):
    table = np.full((VOCAB_SIZE, VOCAB_SIZE), -np.inf, np.float32)
    table[[0, 1], [0, 2]] = 0  # only 2 follows 1, and nothing follows 2
    limits = Limits(4, num_samples=2)
    assert generate(decoder(table), prompts([0]), limits, sampling).tokens.tolist() == [[0] * 4] * 2
    with pytest.raises(UserError, match="nothing can follow the text of prompt 1: the model gives"):
        generate(decoder(table), prompts([0], [1]), limits, sampling)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(2**31 - 1), "1 rows of 2147483647 tokens .* of memory, and .* are free; ask for fewer"),
        (Limits(4, num_samples=10**9), "1000000000 rows of 4 tokens"),
    ],
)
def test_what_does_not_fit_into_memory_is_refused_before_it_starts(limits, said):
    with pytest.raises(UserError, match=said):
        generate(MODEL, prompts([1]), limits)


def test_the_state_of_many_rows_counts(monkeypatch):
    monkeypatch.setattr(memory, "_free", lambda: 10**9)
    wide = np.zeros((2, 10**6), np.float32)  # a row's logits have 4 MB
    memory.check(decoder(wide), prompts([1]), Limits(4), 8)
    for rows in (70, 3000):
        with pytest.raises(UserError, match=f"{rows} rows of .* GiB of memory, and 0.9 GiB are free|32 bits"):
            memory.check(decoder(wide), prompts([1]), Limits(4), rows)
