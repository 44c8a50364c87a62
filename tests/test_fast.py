"""Fast forms against the plain ones: values and gradients; forward mode with the plain ones."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_gpt import random_tokens, shapes

from lm_jax import fast
from lm_jax.metrics.chunked import chunked_cross_entropy
from lm_jax.metrics.likelihood import cross_entropy
from lm_jax.models import attention, layers, products, recurrent
from lm_jax.models.gpt import GPT, GPTConfig
from lm_jax.models.rnn import RNN, RNNConfig

GPT_CONFIG = GPTConfig(vocab_size=17, max_length=8, num_layers=1, num_heads=2, d_model=8)
MODELS = {
    "gpt": GPT(GPT_CONFIG),
    "lstm": RNN(RNNConfig(vocab_size=17, num_layers=1, d_embedding=6, d_hidden=5, d_projection=4)),
}


def draw(*shape, seed=0, scale=1.0):
    return jnp.float32(np.random.default_rng(seed).normal(scale=scale, size=shape))


def recur(cell, recurrent_PG, x_TBG, h_BP, c_BH):
    weights = {"recurrent": recurrent_PG, "small": {}}
    state = recurrent.LayerState(h_BP, c_BH)
    outputs_TBP, last = recurrent.recur(recurrent._CELLS[cell][1], weights, x_TBG, None, state)
    return jnp.concatenate([outputs_TBP, last.h_BP[None], last.c_BH[None]])


TARGETS = np.array([[1, 4, 0], [2, 2, 3]])


def nats(logits, label_smoothing=0.0, z_loss=0.0):
    weights = np.array([[1, 0, 1], [1, 2, 1]])
    return cross_entropy(logits, TARGETS, weights, label_smoothing=label_smoothing, z_loss=z_loss).total


def chunked(kernel_DV, hidden_BTD):
    return chunked_cross_entropy(lambda w, h: h @ w, kernel_DV, hidden_BTD, TARGETS, chunk_length=2).total


CASES = {
    "matmul": (products.matmul, draw(2, 3, 4), draw(4, 5, seed=1)),
    "matmul to several axes": (products.matmul, draw(2, 4, 8), draw(8, 3, 2, 8, seed=1)),
    "matmul transposed": (products.matmul_transposed, draw(2, 3, 4), draw(5, 4, seed=1)),
    "matmul of an activation": (partial(products.matmul_of, layers.gelu), draw(3, 4), draw(4, 5, seed=1)),
    "layer norm": (partial(layers.layer_norm, epsilon=1e-3), draw(2, 3, 8), draw(8, seed=1), draw(8, seed=2)),
    "gelu": (layers.gelu, 3 * draw(50)),
    "gelu exact": (layers.gelu_exact, 3 * draw(50)),
    "mean of values": (attention.mean_of_values, draw(2, 2, 3, 5), draw(2, 2, 5, 4, seed=1)),
    "recurrence": (
        partial(recur, "lstm"), draw(4, 16, seed=1), draw(6, 2, 16), draw(2, 4, seed=2), draw(2, 4, seed=3)
    ),
    "nats": (nats, draw(2, 3, 5)),
    "smoothed nats with z-loss": (partial(nats, label_smoothing=0.2, z_loss=0.1), draw(2, 3, 5)),
    "nats by chunks": (chunked, draw(4, 5), draw(2, 3, 4, seed=1)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_plain_form(case, dtype):
    function, x, *rest = CASES[case]
    if case in ("recurrence", "mean of values"):  # what is rounded is the second argument
        rest[0] = rest[0].astype(dtype)
    else:
        x = x.astype(dtype)

    upstream = draw(*jax.eval_shape(function, x, *rest).shape, seed=9)

    def run():
        def both(*inputs):
            y, to_inputs = jax.vjp(function, *inputs)
            return y, to_inputs(upstream.astype(y.dtype))

        return jax.jit(both)(x, *rest)

    assert fast.is_on()
    values = run()
    with fast.plain():
        plain_values = run()
    tolerance = 3e-2 if dtype == "bfloat16" else 1e-5

    def close(a, b):
        assert a.dtype == b.dtype
        scale = np.abs(np.float32(b)).max()
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=tolerance, atol=tolerance * scale)

    jax.tree.map(close, values, plain_values)


def model_loss(model):
    tokens = random_tokens(2, 6)

    def loss(params):
        return cross_entropy(model.apply(params, tokens)[0][:, :-1], tokens[:, 1:]).mean

    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: np.float32(rng.normal(scale=0.5, size=s.shape)), shapes(model))
    direction = jax.tree.map(lambda s: np.float32(rng.normal(size=s.shape)), shapes(model))
    return loss, params, direction


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_forward_mode_and_products_with_the_hessian(name):
    loss, params, direction = model_loss(MODELS[name])
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss, (params,), (direction,))

    def moved(step):
        return jax.tree.map(lambda p, d: p + step * d, params, direction)

    def dot(a, b):
        return sum(jax.tree.leaves(jax.tree.map(np.vdot, a, b)))

    @jax.jit
    def derived(params):
        value_and_slope = jax.jvp(loss, (params,), (direction,))
        gradient_and_curved = jax.jvp(jax.grad(loss), (params,), (direction,))
        return value_and_slope, gradient_and_curved

    with fast.plain():
        (value, slope), (gradient, curved) = derived(params)
        of_loss = jax.jit(jax.value_and_grad(loss))
        around = [jax.device_get(of_loss(moved(step))) for step in (1e-2, -1e-2)]
    difference = (around[0][0] - around[1][0]) / 2e-2
    np.testing.assert_allclose(value, jax.jit(loss)(params), rtol=1e-5)
    np.testing.assert_allclose(slope, dot(gradient, direction), rtol=1e-4)
    np.testing.assert_allclose(slope, difference, rtol=2e-2)
    curvature = (dot(around[0][1], direction) - dot(around[1][1], direction)) / 2e-2
    np.testing.assert_allclose(dot(curved, direction), curvature, rtol=3e-2)


def test_each_form_has_its_own_compiled_functions():
    compiled = jax.jit(lambda x, w: products.matmul(x, w))
    x, w = jnp.ones((2, 3)), jnp.ones((3, 4))
    jax.jit(jax.grad(lambda w: compiled(x, w).sum()))(w)
    with fast.plain():
        assert not fast.is_on()
        jax.jvp(compiled, (x, w), (x, w))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(compiled, (x, w), (x, w))


def test_plain_dropout_keeps_its_rate_and_the_mean():
    x = jnp.full((64, 999), 2.0)
    with fast.plain():
        y = np.asarray(layers.Dropout(0.3).apply({}, x, rngs={"dropout": jax.random.key(0)}))
    assert abs((y == 0).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / y.size)
    np.testing.assert_allclose(y[y != 0], 2 / 0.7, rtol=1e-5)


@pytest.mark.slow
def test_decoding_is_the_same_with_plain_forms():
    model = GPT(GPT_CONFIG)
    _, params, _ = model_loss(model)
    tokens = random_tokens(1, 4)

    def decode():
        logits_BV, state = model.apply(params, tokens, np.array([4]), 8, method="prefill")
        return model.apply(params, state, logits_BV.argmax(axis=-1), method="step")

    expected = decode()
    with fast.plain():
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), decode(), expected)
