"""Products, norms and MLPs against numpy, in float64 where rounding is the point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lm_jax.models.layers import Dense, Dropout, Embed, LayerNorm, SwiGLU, gelu
from lm_jax.models.products import matmul, matmul_transposed


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
@pytest.mark.parametrize("turned", [False, True])
def test_gradient_of_matmul_is_the_plain_one(shape, width, turned):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=shape), rng.normal(size=(3, width))
    dy = rng.normal(size=(*shape[:-1], width))

    def product(x, w):
        return (matmul_transposed(x, w.T) if turned else matmul(x, w)) * dy

    np.testing.assert_allclose(product(jnp.float32(x), jnp.float32(w)), x @ w * dy, rtol=1e-5, atol=1e-5)
    dx, dw = jax.grad(lambda *xw: product(*xw).sum(), argnums=(0, 1))(jnp.float32(x), jnp.float32(w))
    np.testing.assert_allclose(dx, dy @ w.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dw, x.reshape(-1, 3).T @ dy.reshape(-1, width), rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize("rows", [32, 20, 33])
@pytest.mark.parametrize("width", [3, 7])
def test_weight_gradients_of_bfloat16_are_exact_sums_rounded_once(rows, width):
    rng = np.random.default_rng(0)
    x, dy = jnp.bfloat16(rng.normal(size=(rows, 5))), jnp.bfloat16(rng.normal(size=(rows, width)))
    dw = jax.grad(lambda w: (matmul(x, w) * dy).sum())(jnp.zeros((5, width), jnp.bfloat16))
    np.testing.assert_allclose(np.float64(dw), np.float64(x).T @ np.float64(dy), rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_a_cpu_gets_products_in_its_own_form(platform):
    x, w = jnp.ones((32, 5), jnp.bfloat16), jnp.ones((5, 3), jnp.bfloat16)
    gradient = jax.jit(jax.grad(lambda w: matmul(x, w).sum()))
    lowered = gradient.trace(w).lower(lowering_platforms=(platform,)).as_text()
    assert ("optimization_barrier" in lowered) == (platform == "cpu")


def test_dense_keeps_float32_parameters_and_computes_in_its_dtype():
    dense = Dense(4, jnp.bfloat16)
    y, params = dense.init_with_output(jax.random.key(0), jnp.ones((2, 3)))
    assert y.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_gradients_of_a_frequent_token_are_added_up_in_float32():
    embed, ids = Embed(4, 2, jnp.bfloat16), jnp.array([1] * 1000 + [3])
    y, params = embed.init_with_output(jax.random.key(0), ids)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, params["params"]["embedding"][ids].astype(jnp.bfloat16))
    gradient = jax.grad(lambda params: embed.apply(params, ids).astype(jnp.float32).sum())(params)
    expected = [[0, 0], [1000, 1000], [0, 0], [1, 1]]
    np.testing.assert_array_equal(gradient["params"]["embedding"], expected)


def test_layer_norm_of_features_far_from_zero():
    x = 1000 + np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    y, _ = LayerNorm(1e-5).init_with_output(jax.random.key(0), x)
    exact = np.float64(x) - np.float64(x).mean(axis=-1, keepdims=True)
    exact /= np.sqrt((exact**2).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, exact, atol=2e-4)


@pytest.mark.parametrize("use_bias", [True, False])
def test_layer_norm_and_its_gradient_are_flaxs_in_float64(use_bias):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(3, size=(2, 3, 8)), rng.normal(size=(2, 3, 8))
    params = {"scale": rng.normal(size=8)} | ({"bias": rng.normal(size=8)} if use_bias else {})
    with jax.enable_x64(True):
        ours, peers = (
            jax.vjp(lambda p, x, norm=norm: norm.apply({"params": p}, x), params, x)
            for norm in (
                LayerNorm(1e-5, jnp.float64, use_bias),
                nn.LayerNorm(1e-5, jnp.float64, use_bias=use_bias, use_fast_variance=False),
            )
        )
        jax.tree.map(np.testing.assert_allclose, ours[0], peers[0])
        jax.tree.map(np.testing.assert_allclose, ours[1](jnp.asarray(dy)), peers[1](jnp.asarray(dy)))


def test_gelu_and_its_gradient_are_jaxs_in_float64():
    x = np.linspace(-30, 30, 2001)
    with jax.enable_x64(True):
        for function in (lambda f: f, lambda f: jax.vmap(jax.grad(f))):
            ours, plain = function(gelu)(x), function(lambda x: jax.nn.gelu(x, approximate=True))(x)
            np.testing.assert_allclose(ours, plain, rtol=1e-10, atol=1e-12)


def test_gelu_of_bfloat16_is_rounded_once():
    x = jnp.linspace(-4, 4, 999, dtype=jnp.bfloat16)
    wide = np.float64(x)
    exact = wide / (1 + np.exp(-np.sqrt(8 / np.pi) * (wide + 0.044715 * wide**3)))
    np.testing.assert_allclose(np.float64(gelu(x)), exact, rtol=2**-8)  # half a step of bfloat16


def test_rms_norm_of_bfloat16_squares_in_float32():
    x = jnp.bfloat16(np.random.default_rng(0).normal(size=(2, 4096)) * 100)
    y, _ = nn.RMSNorm(1e-5, jnp.bfloat16).init_with_output(jax.random.key(0), x)
    exact = np.float64(x) / np.sqrt((np.float64(x) ** 2).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(np.float64(y), exact, rtol=2**-8)  # half a step of bfloat16


@pytest.mark.parametrize("shape", [(64, 999), (3, 64, 333)])
def test_dropout_keeps_its_rate_and_the_mean_and_draws_each_entry_alone(shape):
    x = jnp.full(shape, 2.0)
    y = np.asarray(Dropout(0.3).apply({}, x, rngs={"dropout": jax.random.key(0)}))
    zero = y == 0
    deviation = np.sqrt(0.3 * 0.7 / y.size)
    assert abs(zero.mean() - 0.3) < 4 * deviation
    np.testing.assert_allclose(y[~zero], 2 / 0.7, rtol=1e-4)
    for neighbours in (zero[..., 1:] & zero[..., :-1], zero[..., 1:, :] & zero[..., :-1, :]):
        assert abs(neighbours.mean() - 0.09) < 6 * deviation


def test_dropout_can_drop_all_or_nothing():
    x, rngs = jnp.ones((4, 5), jnp.bfloat16), {"dropout": jax.random.key(0)}
    assert Dropout(0.0).apply({}, x) is x
    assert Dropout(0.5).apply({}, x, deterministic=True) is x
    dropped = Dropout(0.999999).apply({}, x, rngs=rngs)
    assert dropped.dtype == jnp.bfloat16
    assert not dropped.any()
    gradient = jax.grad(lambda x: Dropout(0.5).apply({}, x, rngs=rngs).sum())(x)
    np.testing.assert_array_equal(gradient, Dropout(0.5).apply({}, x, rngs=rngs))


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
