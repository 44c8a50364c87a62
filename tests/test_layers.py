"""Products, norms and MLPs against numpy, in float64 where rounding is the point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lm_jax.models.layers import Dense, LayerNorm, SwiGLU, matmul


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


def test_rms_norm_of_bfloat16_squares_in_float32():
    x = jnp.bfloat16(np.random.default_rng(0).normal(size=(2, 4096)) * 100)
    y, _ = nn.RMSNorm(1e-5, jnp.bfloat16).init_with_output(jax.random.key(0), x)
    exact = np.float64(x) / np.sqrt((np.float64(x) ** 2).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(np.float64(y), exact, rtol=2**-8)  # half a step of bfloat16


def test_swiglu_is_that_of_the_paper():
    """Shazeer 2020, equation 6, with biases."""
    mlp, x = SwiGLU(5), np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    shapes = jax.eval_shape(mlp.init, jax.random.key(0), x)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: jnp.float32(rng.normal(size=s.shape)), shapes)
    gate, up, down = (jax.tree.map(np.float64, params["params"][name]) for name in ("gate", "up", "down"))
    gated = x @ gate["kernel"] + gate["bias"]
    hidden = gated / (1 + np.exp(-gated)) * (x @ up["kernel"] + up["bias"])
    np.testing.assert_allclose(mlp.apply(params, x), hidden @ down["kernel"] + down["bias"], atol=1e-5)
