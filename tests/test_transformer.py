"""The shared transformer block against plain numpy; padding, caches, scanned and recomputed layers."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from lm_jax.models.attention import KeyValueCache, causal_mask, segment_mask
from lm_jax.models.transformer import Stack, StackConfig, convert_layers

BERT = StackConfig(
    num_layers=2, num_heads=2, d_model=8, d_ff=12, norm_first=False, mlp="gelu_exact", layer_norm_epsilon=1e-3
)  # fmt: skip
FORMS = {
    "post-norm": BERT,
    "post-norm, cross-attention": dataclasses.replace(BERT, cross_attention=True),
    "pre-norm, cross-attention, shared keys": dataclasses.replace(
        BERT, cross_attention=True, norm_first=True, num_heads=4, num_kv_heads=2
    ),
}
T, S = 6, 5
MEMORY_SEGMENTS = np.array([[0, 0, 0, -1, -1], [0, 0, 0, 0, -1]])


def transform(stack, x_BTD, memory_BSD=None, segments_BT=None, **options):
    """A stack's result, and its memory read first."""
    memory = None if memory_BSD is None else stack.read_memory(memory_BSD, MEMORY_SEGMENTS)
    mask_BHTS = None if segments_BT is None else segment_mask(segments_BT)
    return stack(x_BTD, mask_BHTS=mask_BHTS, memory=memory, **options)[0]


@partial(jax.jit, static_argnums=0, static_argnames=("is_causal", "train"))
def apply(stack, params, *args, **options):
    rngs = {"dropout": jax.random.key(0)} if options.get("train") else None
    return stack.apply(params, *args, rngs=rngs, method=transform, **options)


@cache
def made(config):
    """A stack with random parameters, its input, and a memory where it attends to one."""
    rng = np.random.default_rng(0)
    x_BTD, memory_BSD = (jnp.float32(rng.normal(size=(2, n, config.d_model))) for n in (T, S))
    memory_BSD = memory_BSD if config.cross_attention else None
    stack = Stack(config)
    shapes = jax.eval_shape(partial(stack.init, method=transform), jax.random.key(0), x_BTD, memory_BSD)
    params = jax.tree.map(lambda s: jnp.float32(rng.normal(scale=0.4, size=s.shape)), shapes)
    return stack, params, x_BTD, memory_BSD


def norm(x, p):
    """Ba et al. 2016."""
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-3) * p["scale"] + p["bias"]


def attend(q_BTHK, k_BSGK, v_BSGK, mask_BTS):
    """Vaswani et al. 2017, equation 1, head by head."""
    y_BTHK = np.zeros_like(q_BTHK)
    H, G = q_BTHK.shape[2], k_BSGK.shape[2]
    for h in range(H):
        g = h // (H // G)
        scores = np.einsum("btk,bsk->bts", q_BTHK[:, :, h], k_BSGK[:, :, g]) / np.sqrt(q_BTHK.shape[3])
        probs = np.exp(scores) * mask_BTS
        probs /= probs.sum(axis=-1, keepdims=True)
        y_BTHK[:, :, h] = np.einsum("bts,bsk->btk", probs, v_BSGK[:, :, g])
    return y_BTHK.reshape(*q_BTHK.shape[:2], -1)


def project(x, p):
    """To [B, T, slot, group, feature]."""
    return np.einsum("btd,dsgk->btsgk", x, p["kernel"]) + p["bias"]


def queries(projected):
    """[B, T, M, G, K] as heads [B, T, G * M, K]."""
    B, T, M, G, K = projected.shape
    return projected.swapaxes(2, 3).reshape(B, T, G * M, K)


def oracle(config, params, x, memory, mask_BTS):
    """Float64."""
    for i in range(config.num_layers):
        p = jax.tree.map(np.float64, params["params"][f"layer_{i}"])

        def add(x, name, f, p=p):
            return x + f(norm(x, p[name])) if config.norm_first else norm(x + f(x), p[name])

        def self_attention(h, p=p["attention"]):
            heads = project(h, p["qkv"])
            y = attend(queries(heads[:, :, :-2]), heads[:, :, -2], heads[:, :, -1], mask_BTS)
            return y @ p["out"]["kernel"] + p["out"]["bias"]

        def cross_attention(h, p=p):
            p = p["cross_attention"]
            keys = project(np.float64(memory), p["key_value"])
            is_token = np.broadcast_to((MEMORY_SEGMENTS >= 0)[:, None], (2, T, S))
            y = attend(queries(project(h, p["query"])), keys[:, :, 0], keys[:, :, 1], is_token)
            return y @ p["out"]["kernel"] + p["out"]["bias"]

        def mlp(h, p=p["mlp"]):
            up = h @ p["up"]["kernel"] + p["up"]["bias"]
            return (up * (1 + erf(up / np.sqrt(2))) / 2) @ p["down"]["kernel"] + p["down"]["bias"]

        x = add(np.float64(x), "attention_norm", self_attention)
        if memory is not None:
            x = add(x, "cross_attention_norm", cross_attention)
        x = add(x, "mlp_norm", mlp)
    return x


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_blocks_are_those_of_the_paper(form, is_causal):
    stack, params, x_BTD, memory_BSD = made(FORMS[form])
    mask_BTS = np.broadcast_to(np.tri(T, dtype=bool) if is_causal else np.ones((T, T), bool), (2, T, T))
    expected = oracle(stack.config, params, x_BTD, memory_BSD, mask_BTS)
    y_BTD = apply(stack, params, x_BTD, memory_BSD, is_causal=is_causal)
    np.testing.assert_allclose(y_BTD, expected, atol=2e-5)


@pytest.mark.parametrize("form", list(FORMS)[:2])
def test_padding_changes_nothing_and_is_finite(form):
    stack, params, x_BTD, memory_BSD = made(FORMS[form])
    segments_BT = np.array([[0, 0, 0, 0, -1, -1], [0, 0, 1, 1, 1, -1]])
    y_BTD = apply(stack, params, x_BTD, memory_BSD, segments_BT)
    short_BTD = apply(stack, params, x_BTD[:, :4], memory_BSD)
    np.testing.assert_allclose(y_BTD[0, :4], short_BTD[0], atol=1e-5)
    other_BTD = jnp.where((segments_BT < 0)[:, :, None], 1e3, x_BTD)
    others = memory_BSD
    if memory_BSD is not None:
        others = jnp.where((MEMORY_SEGMENTS < 0)[:, :, None], 1e3, memory_BSD)
    changed_BTD = apply(stack, params, other_BTD, others, segments_BT)
    np.testing.assert_allclose(changed_BTD[segments_BT >= 0], y_BTD[segments_BT >= 0], atol=1e-5)
    assert jnp.isfinite(y_BTD).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"scan_layers": True}, {"remat": True}, {"scan_layers": True, "remat": True}]
)
def test_scanned_and_recomputed_layers_are_the_plain_ones(changes):
    stack, params, x_BTD, memory_BSD = made(FORMS["post-norm, cross-attention"])
    other = Stack(dataclasses.replace(stack.config, **changes))
    scan = other.config.scan_layers

    def value_and_grad(stack):
        def total(params, x_BTD, memory_BSD):
            return jnp.square(apply(stack, params, x_BTD, memory_BSD)).sum()

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))

    total, (d_params, *d_inputs) = value_and_grad(stack)(params, x_BTD, memory_BSD)
    converted = convert_layers(params, scan)
    shapes = jax.eval_shape(partial(other.init, method=transform), jax.random.key(0), x_BTD, memory_BSD)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, converted)
    other_total, (d_converted, *d_others) = value_and_grad(other)(converted, x_BTD, memory_BSD)
    np.testing.assert_allclose(other_total, total, rtol=1e-5)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3),
        (convert_layers(d_converted, False), d_others),
        (d_params, d_inputs),
    )


def test_dropout_of_residual_branches_and_of_probabilities():
    config = FORMS["post-norm, cross-attention"]
    stack, params, x_BTD, memory_BSD = made(config)
    plain = apply(stack, params, x_BTD, memory_BSD, train=True)
    np.testing.assert_array_equal(plain, apply(stack, params, x_BTD, memory_BSD))
    for field in ("dropout", "attention_dropout"):
        dropping = Stack(dataclasses.replace(config, **{field: 0.5}))
        assert (apply(dropping, params, x_BTD, memory_BSD, train=True) != plain).any()
        np.testing.assert_array_equal(apply(dropping, params, x_BTD, memory_BSD), plain)


@pytest.mark.slow
def test_a_decoder_with_memory_continues_from_its_cache():
    stack, params, x_BTD, memory_BSD = made(FORMS["pre-norm, cross-attention, shared keys"])
    full_BTD = apply(stack, params, x_BTD, memory_BSD, is_causal=True)
    memory = stack.apply(params, memory_BSD, MEMORY_SEGMENTS, method="read_memory")
    caches = KeyValueCache.empty(2, T, 2, 2, 2, jnp.float32).layers
    for start, stop in ((0, 4), (4, 5), (5, 6)):
        position_BT = jnp.broadcast_to(jnp.arange(start, stop), (2, stop - start))
        y_BTD, caches = stack.apply(
            params, x_BTD[:, start:stop], caches, causal_mask(position_BT, T), position_BT, memory=memory
        )
        np.testing.assert_allclose(y_BTD, full_BTD[:, start:stop], atol=1e-5)
