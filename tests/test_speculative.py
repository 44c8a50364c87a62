"""Speculative decoding: the distribution of the model alone; fewer readings where drafts are good."""

import itertools
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tiny_gpt
from quick import _compile_quickly  # noqa: F401  (a fixture that every test here uses)

from lm_jax.decoding import sampling
from lm_jax.decoding.processors import Sampling
from lm_jax.decoding.speculative import Drafter, Verifier, generate, stream
from lm_jax.errors import UserError
from lm_jax.models.gpt import rewind

V, END = 4, 3
TABLE = np.random.default_rng(0).normal(size=(V, V)).astype(np.float32)
OTHER = np.random.default_rng(1).normal(size=(V, V)).astype(np.float32)


def prefill(table, tokens_BT, length_B, capacity):
    """A model that knows only the last token: row t of its table holds the logits that follow t."""
    return table[jnp.take_along_axis(tokens_BT, length_B[:, None] - 1, axis=1)[:, 0]], length_B


def step(table, state, token_B):
    return table[token_B], state


def extend(table, state, tokens_BT):
    return table[tokens_BT], state


def forget(state, count_B):
    return state


def write(table, draft, how, B=4000, num_tokens=4, **options):
    prompts = np.tile([[0, 1]], (B, 1))
    return generate(
        Verifier(prefill, extend, forget, table), Drafter(prefill, step, draft), prompts, np.full(B, 2),
        num_tokens, how, seeds=np.arange(B), **options,
    )  # fmt: skip


def expected_texts(how, num_tokens):
    """Every text with its probability: ended, or of full length."""
    probs = np.zeros((V, V))
    for last in range(V):
        logits = TABLE[last] / how.temperature
        kept = np.argsort(-logits)[: how.top_k or V]
        probs[last, kept] = scipy.special.softmax(logits[kept].astype(np.float64))
    for n in range(1, num_tokens + 1):
        for text in itertools.product(range(V), repeat=n):
            if END not in text[:-1] and (n == num_tokens or text[-1] == END):
                yield text, np.prod([probs[a, b] for a, b in itertools.pairwise((1, *text))])


@pytest.mark.parametrize(("how", "num_drafted"), [(Sampling(), 3), (Sampling(0.6, top_k=3), 1)])
def test_texts_have_the_models_distribution(how, num_drafted):
    """Chi-square over whole texts; the seeds are fixed, so this passes always or never."""
    made = write(TABLE, OTHER, how, end_id=END, num_drafted=num_drafted).generated
    texts = [tuple(tokens[:n].tolist()) for tokens, n in zip(made.tokens, made.lengths, strict=True)]
    possible = {text: p for text, p in expected_texts(how, 4) if p > 0}
    assert set(texts) <= possible.keys()
    often = [text for text, p in possible.items() if p * len(texts) >= 5]
    counts = [texts.count(text) for text in often]
    probs = [possible[text] for text in often]
    counts.append(len(texts) - sum(counts))
    probs.append(1 - sum(probs))
    assert scipy.stats.chisquare(counts, len(texts) * np.array(probs)).pvalue > 0.01
    log_probs = scipy.special.log_softmax(TABLE.astype(np.float64), axis=1)
    for text, log_prob_N in zip(texts[:50], made.log_probs, strict=False):
        expected = [log_probs[a, b] for a, b in itertools.pairwise((1, *text))]
        np.testing.assert_allclose(log_prob_N[: len(text)], expected, atol=1e-5)


def test_the_model_as_its_own_drafter_is_always_taken():
    made = write(TABLE, TABLE, Sampling(temperature=0.9), B=8, num_tokens=21)
    assert made.reads.tolist() == [4] * 8
    assert made.tokens_per_read == 5
    refused = write(TABLE, -50 * TABLE, Sampling(temperature=0.1), B=8, num_tokens=21)
    assert refused.tokens_per_read < 2


def test_greedy_text_is_the_models_own():
    """A GPT with another for its drafter, prompts of unequal length, rows that end apart."""
    how = Sampling(0, repetition_penalty=1.5, no_repeat_ngram=3, min_tokens=4, forced=(2, 5))
    model, params = tiny_gpt.tiny(max_length=32)
    small, small_params = tiny_gpt.tiny(max_length=32, num_layers=1)
    prompts, lengths = tiny_gpt.random_tokens(3, 6), np.array([6, 2, 4])
    apply = {name: partial(model.apply, method=name) for name in ("prefill", "step", "extend")}
    drafter = Drafter(
        partial(small.apply, method="prefill"), partial(small.apply, method="step"), small_params
    )
    plain = sampling.generate(
        apply["prefill"], apply["step"], params, prompts, lengths, 20, how, end_id=4, context_length=32
    )
    verifier = Verifier(apply["prefill"], apply["extend"], rewind, params)
    made = generate(verifier, drafter, prompts, lengths, 20, how, end_id=4, context_length=32, num_drafted=3)
    for ours, theirs in zip(made.generated, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert (made.reads <= plain.lengths - 1).all()


@pytest.mark.parametrize("tied_head", [True, False])
def test_a_large_vocabulary_in_blocks_gives_the_same_logits(tied_head):
    model, params = tiny_gpt.tiny(vocab_size=5000, tied_head=tied_head)
    tokens = tiny_gpt.random_tokens(3, 4, vocab_size=5000)
    expected, _ = tiny_gpt.apply(model, params, tokens)
    extended, state = tiny_gpt.apply(model, params, model.init_state(3, 8), tokens[:, :3], method="extend")
    np.testing.assert_allclose(extended, expected[:, :3], atol=1e-5)
    logits_BV, _ = tiny_gpt.apply(model, params, state, tokens[:, 3], method="step")
    np.testing.assert_allclose(logits_BV, expected[:, 3], atol=1e-5)


def test_a_row_stops_where_it_is_told_and_pieces_are_the_text():
    """Greedy, so that the model alone says what the text is; several samples of each prompt."""

    def stop(row, tokens):
        places = np.flatnonzero(tokens == 2)
        return int(places[row]) + 1 if len(places) > row else None

    prompts, lengths, how = np.array([[0, 1], [1, 0]]), np.array([2, 1]), Sampling(0, no_repeat_ngram=3)
    rest = {"num_samples": 2, "stop": stop, "end_id": 0}
    plain = sampling.generate(prefill, step, TABLE, prompts, lengths, 30, how, **rest)
    models = Verifier(prefill, extend, forget, TABLE), Drafter(prefill, step, OTHER)
    made = generate(*models, prompts, lengths, 30, how, **rest).generated
    for ours, theirs in zip(made, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    pieces = [piece.generated for piece in stream(*models, prompts, lengths, 30, how, chunk=1, **rest)]
    assert len(pieces) > 2
    for row in range(4):
        text = np.concatenate([piece.tokens[row, : piece.lengths[row]] for piece in pieces])
        np.testing.assert_array_equal(text, made.tokens[row, : made.lengths[row]])


def test_samples_of_a_prompt_differ_and_do_not_depend_on_the_prompts_beside_it():
    models = Verifier(prefill, extend, forget, TABLE), Drafter(prefill, step, OTHER)
    rest = {"num_tokens": 12, "sampling": Sampling(), "num_samples": 3}
    together = generate(*models, np.array([[0, 1], [2, 0]]), [2, 1], seeds=[5, 6], **rest).generated
    alone = generate(*models, np.array([[2, 0]]), [1], seeds=[6], **rest).generated
    np.testing.assert_array_equal(alone.tokens, together.tokens[3:])
    assert len({tuple(tokens) for tokens in alone.tokens.tolist()}) == 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_left_to_choose_is_said(temperature):
    with pytest.raises(UserError, match=r"the settings leave no token to choose; .* what is banned"):
        write(TABLE, OTHER, Sampling(temperature, no_repeat_ngram=1), B=1, num_tokens=6, num_drafted=1)


def test_a_wrong_request_is_one_line():
    with pytest.raises(UserError, match=r"seeds=\[0\]"):
        generate(
            Verifier(prefill, extend, forget, TABLE), Drafter(prefill, step, OTHER), np.zeros((2, 1)), [1, 1],
            4, Sampling(), seeds=[0],
        )  # fmt: skip
    with pytest.raises(UserError, match="num_drafted=0"):
        write(TABLE, OTHER, Sampling(), B=1, num_drafted=0)
    with pytest.raises(UserError, match=r"leave the context of 4; ask for at most 3 tokens"):
        write(TABLE, OTHER, Sampling(), B=1, context_length=4)
    with pytest.raises(UserError, match="not numbers"):
        write(np.full_like(TABLE, np.nan), OTHER, Sampling(), B=1)
