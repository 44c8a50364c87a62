"""Speculative decoding: the model's own distribution, and fewer readings where drafts are good."""

import itertools

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tiny_gpt
from table_model import decoder, prompts

from lm_jax.decoding import sampling
from lm_jax.decoding.decoder import Limits, Prompts
from lm_jax.decoding.settings import Sampling
from lm_jax.decoding.speculative import generate, stream
from lm_jax.errors import UserError

V, END = 4, 3
TABLE = np.random.default_rng(0).normal(size=(V, V)).astype(np.float32)
OTHER = np.random.default_rng(1).normal(size=(V, V)).astype(np.float32)


MODEL, DRAFTER = decoder(TABLE), decoder(OTHER)


def write(table, draft, how, limits, B=4000, **options):
    """B texts after the prompt 0, 1, each with a seed of its own."""
    asked = Prompts(np.tile([[0, 1]], (B, 1)), np.full(B, 2), np.arange(B))
    return generate(decoder(table), decoder(draft), asked, limits, how, **options)


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
    made = write(TABLE, OTHER, how, Limits(4, end_id=END), num_drafted=num_drafted).generated
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


def test_drafts_of_the_same_model_are_always_accepted():
    made = write(TABLE, TABLE, Sampling(temperature=0.9), Limits(21), B=8)
    assert made.reads.tolist() == [4] * 8
    assert made.tokens_per_read == 5
    refused = write(TABLE, -50 * TABLE, Sampling(temperature=0.1), Limits(21), B=8)
    assert refused.tokens_per_read < 2


@pytest.mark.slow
def test_greedy_text_is_the_models_own():
    """A GPT with another for its drafter, prompts of unequal length, rows that end apart."""
    how = Sampling(0, repetition_penalty=1.5, no_repeat_ngram=3, min_tokens=4, forced=(2, 5))
    model, params = tiny_gpt.tiny(max_length=32)
    small, small_params = tiny_gpt.tiny(max_length=32, num_layers=1)
    asked = Prompts(tiny_gpt.random_tokens(3, 6), np.array([6, 2, 4])), Limits(20, end_id=4)
    ours, drafter = tiny_gpt.decoder(model, params, 32), tiny_gpt.decoder(small, small_params)
    plain = sampling.generate(ours, *asked, how)
    made = generate(ours, drafter, *asked, how, num_drafted=3)
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


def test_a_row_ends_at_its_stop_and_pieces_add_up_to_the_text():
    """Greedy, so that only the model determines the text; several samples of each prompt."""

    def stop(row, tokens):
        places = np.flatnonzero(tokens == 2)
        return int(places[row]) + 1 if len(places) > row else None

    limits, how = Limits(30, num_samples=2, end_id=0, stop=stop), Sampling(0, no_repeat_ngram=3)
    plain = sampling.generate(MODEL, prompts([0, 1], [1]), limits, how)
    request = MODEL, DRAFTER, prompts([0, 1], [1]), limits, how
    made = generate(*request).generated
    for ours, theirs in zip(made, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    pieces = [piece.generated for piece in stream(*request, chunk=1)]
    assert len(pieces) > 2
    for row in range(4):
        text = np.concatenate([piece.tokens[row, : piece.lengths[row]] for piece in pieces])
        np.testing.assert_array_equal(text, made.tokens[row, : made.lengths[row]])


def test_samples_of_a_prompt_differ_and_do_not_depend_on_the_prompts_beside_it():
    limits = Limits(12, num_samples=3)
    together = generate(MODEL, DRAFTER, prompts([0, 1], [2], seeds=[5, 6]), limits).generated
    alone = generate(MODEL, DRAFTER, prompts([2], seeds=[6]), limits).generated
    np.testing.assert_array_equal(alone.tokens, together.tokens[3:])
    assert len({tuple(tokens) for tokens in alone.tokens.tolist()}) == 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_allowed_token_is_an_error(temperature):
    with pytest.raises(UserError, match=r"the settings leave no token to choose; .* what is banned"):
        write(TABLE, OTHER, Sampling(temperature, no_repeat_ngram=1), Limits(6), B=1, num_drafted=1)


def test_a_wrong_request_is_a_one_line_error():
    with pytest.raises(UserError, match=r"seeds=\[0\]"):
        generate(MODEL, DRAFTER, prompts([0], [0], seeds=[0]), Limits(4))
    with pytest.raises(UserError, match="num_drafted=0"):
        write(TABLE, OTHER, Sampling(), Limits(4), B=1, num_drafted=0)
    for short in (decoder(TABLE, context_length=4), DRAFTER), (MODEL, decoder(OTHER, context_length=4)):
        with pytest.raises(UserError, match=r"leave the context of 4; ask for at most 3 tokens"):
            generate(*short, prompts([0, 1]), Limits(4))
    with pytest.raises(UserError, match="not numbers"):
        write(np.full_like(TABLE, np.nan), OTHER, Sampling(), Limits(4), B=1)
    with pytest.raises(UserError, match="the model reads one token at a time; leave out the drafting"):
        generate(MODEL._replace(extend=None), DRAFTER, prompts([0]), Limits(4))
