"""The encoder: published sizes, padding, segments, and that its variants are the same function."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_gpt

from lm_jax.errors import UserError
from lm_jax.models.bert import BERTConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.models.heads import MaskedModel, pool
from lm_jax.models.layers import gelu_exact
from lm_jax.models.transformer import convert_layers

SMALL = BERTConfig(
    vocab_size=29, num_tokens=29, max_length=12, num_layers=2, num_heads=2, d_model=16, pooler=True
)
MODERN = dataclasses.replace(
    SMALL, position="rope", norm_first=True, norm="rms", mlp="swiglu", use_bias=False, num_types=0
)
BASE = BERTConfig(
    vocab_size=30522, num_tokens=30522, max_length=512, num_layers=12, num_heads=12, d_model=768, pooler=True
)
TOKENS = np.random.default_rng(0).integers(29, size=(2, 12)).astype(np.int32)
LENGTHS = np.array([12, 7])
SEGMENTS = np.where(np.arange(12) < LENGTHS[:, None], 0, -1).astype(np.int32)


def first_params(config, seed=0):
    """Random variables, biases and norms too."""
    rng = np.random.default_rng(seed)
    shapes = tiny_gpt.shapes(config.make())
    return jax.tree.map(lambda x: np.float32(rng.normal(scale=0.3, size=x.shape)), shapes)


def encode(config, params, tokens, segments=None):
    return tiny_gpt.apply(config.make(), params, tokens, segments, method="encode")


def count(module):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8), jnp.int32))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def test_the_published_sizes():
    assert count(BASE.make()) == BASE.cost(512).parameters == 109_482_240
    rest = (768, 30522, 30522, gelu_exact)
    assert count(MaskedModel(BASE.make(), *rest, has_pairs=True)) == 110_106_428
    without_pooler = dataclasses.replace(BASE, pooler=False)
    assert count(MaskedModel(without_pooler.make(), *rest)) == 109_514_298


@pytest.mark.parametrize("config", [SMALL, MODERN], ids=["published", "modern"])
def test_cost_counts_the_parameters(config):
    assert config.cost(8).parameters == count(config.make())


@pytest.mark.parametrize("config", [SMALL, MODERN], ids=["published", "modern"])
def test_padding_changes_nothing(config):
    params = first_params(config)
    padded = encode(config, params, TOKENS, SEGMENTS)
    alone = encode(config, params, TOKENS[1:, :7])
    np.testing.assert_allclose(padded[1:, :7], alone, atol=2e-6)
    other = np.where(SEGMENTS < 0, 3, TOKENS)
    np.testing.assert_array_equal(encode(config, params, other, SEGMENTS)[1, :7], padded[1, :7])
    assert np.isfinite(padded).all()


def test_texts_of_a_row_do_not_see_each_other():
    config = dataclasses.replace(SMALL, position="none")
    params = first_params(config)
    together = encode(config, params, TOKENS, np.repeat([[0] * 5 + [1] * 7], 2, axis=0))
    np.testing.assert_allclose(together[:, :5], encode(config, params, TOKENS[:, :5]), atol=2e-6)
    np.testing.assert_allclose(together[:, 5:], encode(config, params, TOKENS[:, 5:]), atol=2e-6)


def test_each_position_sees_all_others():
    params = first_params(SMALL)
    base = encode(SMALL, params, TOKENS)
    for place in (0, 11):
        other = TOKENS.copy()
        other[:, place] = (other[:, place] + 1) % 29
        assert (np.abs(encode(SMALL, params, other) - base).max(axis=-1) > 1e-6).all()


def test_scanned_layers_are_the_plain_ones():
    params = first_params(SMALL)
    scanned = dataclasses.replace(SMALL, scan_layers=True, remat=True)
    made = encode(scanned, convert_layers(params, True), TOKENS, SEGMENTS)
    np.testing.assert_allclose(made, encode(SMALL, params, TOKENS, SEGMENTS), atol=1e-6)


@pytest.mark.parametrize("config", [SMALL, MODERN], ids=["published", "modern"])
def test_bfloat16_is_near_float32(config):
    params = first_params(config)
    made = encode(dataclasses.replace(config, dtype="bfloat16"), params, TOKENS, SEGMENTS)
    assert made.dtype == jnp.bfloat16
    exact = encode(config, params, TOKENS, SEGMENTS)
    assert 0 < np.abs(made.astype(float) - exact).mean() < 0.02 * np.abs(exact).mean()


def test_too_long_a_text_is_refused():
    with pytest.raises(UserError, match="13 tokens for a model that reads 12"):
        encode(SMALL, first_params(SMALL), np.zeros((1, 13), np.int32))


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("first", lambda x: x[0]),
        ("last", lambda x: x[-1]),
        ("mean", lambda x: x.mean(axis=0)),
        ("max", lambda x: x.max(axis=0)),
    ],
)
def test_pooling_reads_only_tokens(pooling, expected):
    hidden = np.random.default_rng(1).standard_normal((2, 12, 4)).astype(np.float32)
    made = jax.device_get(jax.jit(pool, static_argnums=2)(hidden, SEGMENTS, pooling))
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(made[row], expected(hidden[row, :length]), rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 3}, "does not divide into model.num_heads=3"),
        ({"position": "rope", "num_heads": 16}, "a head has 1 of them"),
        ({"mlp": "relu"}, "model.mlp='relu'; choose"),
        ({"dropout": 1.0}, "model.dropout=1.0; it must lie in"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **fields).check()


@pytest.mark.parametrize("kind", [BERTConfig, GPTConfig])
def test_the_data_give_sizes_that_the_recipe_leaves_open(kind):
    assert kind().resolved(29, 12) == kind(vocab_size=29, num_tokens=29, max_length=12)
    resolved = kind(vocab_size=32, max_length=64).resolved(29, 12)
    assert resolved == kind(vocab_size=32, num_tokens=29, max_length=64)
