"""The transformers' shared pieces against numpy, in float64 where rounding is the point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax.errors import UserError
from lm_jax.models.layers import (
    Dense,
    LayerCache,
    LayerNorm,
    SelfAttention,
    causal_mask,
    matmul,
    segment_mask,
    write_cache,
)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_gradient_of_matmul_is_the_plain_one(shape):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=shape), rng.normal(size=(3, 4))
    dy = rng.normal(size=(*shape[:-1], 4))
    dx, dw = jax.grad(lambda x, w: (matmul(x, w) * dy).sum(), argnums=(0, 1))(jnp.float32(x), jnp.float32(w))
    np.testing.assert_allclose(dx, dy @ w.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dw, x.reshape(-1, 3).T @ dy.reshape(-1, 4), rtol=1e-5, atol=1e-5)


def test_matmul_of_bfloat16_accumulates_in_float32():
    rng = np.random.default_rng(0)
    x, w = jnp.bfloat16(rng.normal(size=(4, 512))), jnp.bfloat16(rng.normal(size=(512, 8)))
    exact = np.float64(x) @ np.float64(w)
    y, gradients = jax.value_and_grad(lambda *args: matmul(*args).sum(), argnums=(0, 1))(x, w)
    assert matmul(x, w).dtype == y.dtype == jnp.float32
    np.testing.assert_allclose(matmul(x, w), exact, atol=1e-4)  # bfloat16 itself has steps of 0.125 here
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.bfloat16]
    expected = np.float64(w).sum(axis=1)
    np.testing.assert_allclose(np.float64(gradients[0]), np.tile(expected, (4, 1)), rtol=2**-8, atol=1e-3)


def test_dense_keeps_float32_parameters_and_computes_in_its_dtype():
    dense = Dense(4, jnp.bfloat16)
    y, params = dense.init_with_output(jax.random.key(0), jnp.ones((2, 3)))
    assert y.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_layer_norm_of_features_far_from_zero():
    x = 1000 + np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    y, _ = LayerNorm(1e-5).init_with_output(jax.random.key(0), x)
    exact = np.float64(x) - np.float64(x).mean(axis=-1, keepdims=True)
    exact /= np.sqrt((exact**2).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, exact, atol=2e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_segment_mask_joins_what_no_change_parts(segments):
    mask = segment_mask(jnp.array([segments]))[0, 0]
    for i in range(6):
        for j in range(6):
            between = segments[min(i, j) : max(i, j) + 1]
            assert bool(mask[i, j]) == (len(set(between)) == 1)


def test_cache_is_written_at_each_rows_position_and_never_past_its_end():
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(3, 5, 1, 2)), rng.normal(size=(3, 2, 1, 2))
    position_BT = np.array([[0, 1], [3, 4], [4, 5]])
    cache = write_cache(
        LayerCache(jnp.float32(old), jnp.float32(old)), jnp.float32(new), -jnp.float32(new), position_BT
    )
    expected = old.copy()
    expected[0, 0:2], expected[1, 3:5], expected[2, 4] = new[0], new[1], new[2, 0]
    np.testing.assert_array_equal(cache.k_BSHK, np.float32(expected))
    np.testing.assert_array_equal(cache.v_BSHK[2, 4], -np.float32(new[2, 0]))
    np.testing.assert_array_equal(cache.v_BSHK[0, 2:], np.float32(old[0, 2:]))


def test_attention_is_that_of_the_paper():
    """Vaswani et al. 2017, equation 1, head by head in float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 6)).astype(np.float32)
    mask = causal_mask(jnp.arange(5)[None], 5)
    attention = SelfAttention(num_heads=3, out_init=jax.nn.initializers.normal(1.0))
    (y, _), variables = attention.init_with_output(jax.random.key(0), x, mask)
    params = jax.tree.map(np.float64, variables["params"])
    q, k, v = np.split(x @ params["qkv"]["kernel"], 3, axis=-1)
    heads = []
    for h in range(3):
        a, b, c = (z[..., 2 * h : 2 * h + 2] for z in (q, k, v))
        weights = np.exp(a @ b.swapaxes(1, 2) / np.sqrt(2)) * np.tri(5)
        heads.append(weights / weights.sum(axis=-1, keepdims=True) @ c)
    np.testing.assert_allclose(y, np.concatenate(heads, axis=-1) @ params["out"]["kernel"], atol=1e-6)


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(UserError, match="6 does not divide into 4 heads"):
        SelfAttention(num_heads=4).init(jax.random.key(0), jnp.ones((1, 2, 6)), jnp.ones((1, 1, 2, 2), bool))
