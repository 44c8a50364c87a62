"""Rows that pad a vocabulary: no probability, no gradient, no share of label smoothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from tiny_gpt import apply

from lm_jax import fast
from lm_jax.batch import Batch
from lm_jax.language_models.causal import CausalLanguageModel
from lm_jax.language_models.trained import Trained
from lm_jax.metrics.chunked import chunked_cross_entropy, chunked_token_log_probs
from lm_jax.metrics.likelihood import cross_entropy, token_log_probs
from lm_jax.models.gpt import GPTConfig
from lm_jax.models.heads import mask_padding
from lm_jax.models.nnlm import NNLMConfig
from lm_jax.models.rnn import RNNConfig
from lm_jax.tasks.causal import Causal
from lm_jax.text.simple import ByteTokenizer

TARGETS = np.array([[1, 4, 0], [2, 2, 3]])


def test_padding_has_probability_0_and_the_rest_is_untouched():
    logits = jnp.float32(np.random.default_rng(0).normal(size=(2, 3, 8)))
    masked = mask_padding(logits, 5)
    np.testing.assert_array_equal(masked[..., :5], logits[..., :5])
    assert (masked[..., 5:] == -jnp.inf).all()
    assert mask_padding(logits, 8) is logits


@pytest.mark.parametrize("chunk_length", [0, 2])
@pytest.mark.parametrize("plain", [False, True])
def test_smoothing_is_spread_over_the_tokens_there_are(plain, chunk_length):
    rng = np.random.default_rng(0)
    kernel, hidden = np.float32(rng.normal(size=(4, 8))), np.float32(rng.normal(size=(2, 3, 4)))

    def loss(num_rows):
        def head(kernel, hidden):
            return mask_padding(hidden @ kernel, 5)

        def total(kernel, hidden):
            terms = {"label_smoothing": 0.3, "z_loss": 0.1}
            if chunk_length:
                return chunked_cross_entropy(
                    head, kernel, hidden, TARGETS, chunk_length=chunk_length, **terms
                ).total
            return cross_entropy(head(kernel, hidden), TARGETS, **terms).total

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(kernel[:, :num_rows], hidden)

    def check():
        padded, exact = loss(8), loss(5)
        np.testing.assert_allclose(padded[0], exact[0], rtol=1e-6)
        kernel_gradient = np.asarray(padded[1][0])
        np.testing.assert_allclose(kernel_gradient[:, :5], exact[1][0], atol=1e-6)
        np.testing.assert_array_equal(kernel_gradient[:, 5:], 0)
        np.testing.assert_allclose(padded[1][1], exact[1][1], atol=1e-6)

    if plain:
        with fast.plain():
            check()
    else:
        check()


def test_smoothed_cross_entropy_is_that_of_the_mixed_target():
    logits = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    logits[..., 5:] = -np.inf
    log_p = np.float64(logits[..., :5]) - np.log(np.exp(np.float64(logits[..., :5])).sum(-1, keepdims=True))
    wanted = 0.7 * np.eye(5)[TARGETS] + 0.3 / 5
    sums = cross_entropy(logits, TARGETS, label_smoothing=0.3)
    np.testing.assert_allclose(sums.total, -(wanted * log_p).sum(), rtol=1e-5)


@pytest.mark.parametrize("max_bytes", [1, 4 * 2 * 9 * 3, 10**9])  # 1 position, 3 positions, all
def test_log_probs_by_chunks_are_those_of_all_logits(max_bytes):
    rng = np.random.default_rng(0)
    kernel, hidden = np.float32(rng.normal(size=(4, 9))), np.float32(rng.normal(size=(2, 7, 4)))
    targets = rng.integers(9, size=(2, 7))
    widths = []

    def head(kernel, hidden):
        widths.append(hidden.shape[1])
        return hidden @ kernel

    found = jax.jit(lambda *x: chunked_token_log_probs(head, *x, max_bytes))(kernel, hidden, targets)
    np.testing.assert_allclose(found, token_log_probs(hidden @ kernel, targets), atol=1e-6)
    assert max(widths) * 4 * 2 * 9 <= max(max_bytes, 4 * 2 * 9) or max_bytes == 10**9


MODELS = {
    "gpt": GPTConfig(vocab_size=264, num_layers=1, num_heads=2, d_model=8),
    "gpt_untied": GPTConfig(vocab_size=4200, num_layers=1, num_heads=2, d_model=8, tied_head=False),
    "rnn_tied": RNNConfig(vocab_size=264, num_layers=1, d_embedding=8, d_hidden=8, tied_head=True),
    "rnn_adaptive": RNNConfig(
        vocab_size=264, num_layers=1, d_embedding=8, d_hidden=8, adaptive_cutoffs=(50, 100)
    ),
    "nnlm": NNLMConfig(vocab_size=264, d_embedding=4, d_hidden=8),
}


@pytest.mark.parametrize("name", MODELS)
def test_training_loss_scores_and_generation_are_one_distribution(name):
    tokenizer = ByteTokenizer()
    config = MODELS[name].resolved(tokenizer.vocab_size, 16)
    module = config.make()
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 16), jnp.int32))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: x + 0.3 * np.float32(rng.normal(size=x.shape)), params)
    lm = CausalLanguageModel(Trained(config, module, params, tokenizer))
    [scores] = lm.score(["abcdefg"])

    ids = np.concatenate([[tokenizer.end_id], tokenizer.encode("abcdefg").ids, [tokenizer.end_id]])[None]
    batch = Batch(ids[:, :-1], ids[:, 1:], np.ones((1, 8), np.float32))
    for rngs in (None, {"dropout": jax.random.key(2)}):
        losses, _ = jax.jit(partial(Causal().losses, module))(params, batch, None, rngs)
        assert float(losses["nats"].total) == pytest.approx(-scores.log_probs.sum(), rel=1e-5)

    # Greedy text of two rows, which a CPU computes by blocks of the vocabulary.
    for text in lm.generate(["abc"] * 2, max_tokens=3, temperature=0.0):
        ids_BT = np.concatenate([ids[0, :4], text.tokens])[None]
        log_probs = scipy.special.log_softmax(apply(module, params, ids_BT[:, :-1])[0][0, 3:], axis=-1)
        np.testing.assert_allclose(
            text.log_probs, log_probs[np.arange(len(text.tokens)), text.tokens], atol=1e-4
        )
    logits = np.asarray(apply(module, params, ids[:, :-1])[0])
    np.testing.assert_array_equal(scipy.special.softmax(logits, axis=-1)[..., tokenizer.vocab_size :], 0)
