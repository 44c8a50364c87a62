"""Attention against float64 numpy, head by head and pair by pair; its masks, rotary positions and cache."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax.errors import UserError
from lm_jax.models.attention import (
    LayerCache,
    SelfAttention,
    block_causal_attention,
    causal_mask,
    full_attention,
    fused_attention,
    rotary,
    segment_mask,
    split_fused_heads,
    write_cache,
)

CORES = {
    "full": full_attention,
    "blocks of 3": partial(block_causal_attention, block=3),  # 7 positions: the last block is shorter
    "fused": fused_attention,
}


def naive_attention(q, k, v, mask):
    """Vaswani et al. 2017, equation 1, one head at a time in float64."""
    q, k, v = (np.float64(x) for x in (q, k, v))
    (B, T, H, K), G = q.shape, k.shape[1]
    y = np.zeros((B, T, H, K))
    for b in range(B):
        for h in range(H):
            shared = h * G // H
            weights = np.exp(q[b, :, h] @ k[b, shared].T / np.sqrt(K)) * mask[b]
            y[b, :, h] = weights / weights.sum(axis=1, keepdims=True) @ v[b, shared]
    return y


def random_heads(num_kv_heads, T=7, seed=0):
    rng = np.random.default_rng(seed)
    return [np.float32(rng.normal(size=size)) for size in ((2, T, 6, 4), *[(2, num_kv_heads, T, 4)] * 2)]


@pytest.mark.parametrize("num_kv_heads", [6, 2, 1])
@pytest.mark.parametrize("name", CORES)
def test_every_core_is_the_naive_one(name, num_kv_heads):
    heads = random_heads(num_kv_heads)
    segments = np.array([[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2, 2]])
    causal, same = np.tri(7, dtype=bool), segments[:, :, None] == segments[:, None]
    some_keys = np.random.default_rng(1).random((2, 7, 7)) < 0.5
    some_keys |= np.eye(7, dtype=bool)
    not_the_last = np.arange(7) < np.array([[7], [5]])
    core = jax.jit(CORES[name], static_argnames="is_causal")
    for mask, is_causal, expected in (
        (None, True, np.stack([causal, causal])),
        (segment_mask(segments), True, causal & same),
        (some_keys[:, None], False, some_keys),
        (not_the_last[:, None, None], True, causal & not_the_last[:, None]),
    ):
        y_BTHK = core(*heads, mask, is_causal=is_causal)
        np.testing.assert_allclose(y_BTHK, naive_attention(*heads, expected), atol=2e-6)


@pytest.mark.parametrize("name", ["blocks of 3", "fused"])
def test_every_core_has_the_full_ones_gradient(name):
    heads = random_heads(num_kv_heads=2)
    mask = segment_mask(jnp.array([[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2, 2]]))
    upstream = jnp.float32(np.random.default_rng(2).normal(size=(2, 7, 6, 4)))

    def gradients(core):
        return jax.jit(
            jax.grad(lambda q, k, v: (core(q, k, v, mask, is_causal=True) * upstream).sum(), (0, 1, 2))
        )

    for got, expected in zip(gradients(CORES[name])(*heads), gradients(full_attention)(*heads), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("name", CORES)
def test_scores_of_bfloat16_are_float32(name):
    """Probabilities of near ties, which bfloat16 scores of about 80 (steps of 0.5) would decide wrongly."""
    k = np.zeros((1, 1, 2, 4), np.float32)
    k[0, 0] = [[1, 0, 0, 0], [1, 2**-7, 0, 0]]  # the second step is bfloat16's own
    q = jnp.bfloat16(np.broadcast_to(np.float32([160, 32, 0, 0]), (1, 2, 1, 4)))
    v = jnp.bfloat16(np.float32([[1, 0, 0, 0], [0, 1, 0, 0]])[None, None])
    y_BTHK = CORES[name](q, jnp.bfloat16(k), v, is_causal=True)
    assert y_BTHK.dtype == jnp.bfloat16
    likelier = 1 / (1 + np.exp(-32 * 2**-7 / 2))
    np.testing.assert_allclose(np.float64(y_BTHK[0, 1, 0, :2]), [1 - likelier, likelier], atol=2**-8)


@pytest.mark.parametrize("name", ["full", "blocks of 3"])
def test_every_core_applies_drop_to_its_probabilities(name):
    def only_own_position(probs_BHTS):  # keeps no probability but the last, which is a query's own
        S = probs_BHTS.shape[3]
        mask = causal_mask(jnp.arange(S - probs_BHTS.shape[2], S)[None] - 1, S)
        return jnp.where(mask, 0, probs_BHTS)

    q, k, v = random_heads(num_kv_heads=6)
    q = np.zeros_like(q)  # position t gives each of t + 1 keys the same
    y_BTHK = np.asarray(jax.jit(partial(CORES[name], is_causal=True, drop=only_own_position))(q, k, v))
    expected_BGSK = v / np.arange(1, 8).reshape(1, 1, 7, 1)
    np.testing.assert_allclose(y_BTHK.swapaxes(1, 2), expected_BGSK, atol=1e-6)


def test_fused_attention_refuses_to_drop():
    with pytest.raises(UserError, match="fused attention cannot drop probabilities"):
        fused_attention(*random_heads(6), drop=lambda x: x)


def test_rotary_multiplies_by_a_complex_number():
    """Su et al. 2021, equation 13, in complex128: feature pairs are complex numbers that turn."""
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 8)).astype(np.float32)
    position = np.array([[0, 1, 2], [5, 1000, 2047]])
    turned = np.float64(x[..., :4]) + 1j * np.float64(x[..., 4:])
    rate = 10_000.0 ** (-2 * np.arange(4) / 8)
    turned = turned * np.exp(1j * position[:, :, None, None] * rate)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(rotary(x, position, 10_000.0), expected, atol=5e-4)  # float32 angles of 2047
    half = rotary(jnp.bfloat16(x), position, 10_000.0)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(half), expected, atol=0.03)  # bfloat16 angles would be off by 4


def test_rotary_products_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    q, k = (np.broadcast_to(rng.normal(size=8).astype(np.float32), (1, 5, 1, 8)) for _ in range(2))
    here, there = np.array([[0, 3, 10, 100, 500]]), np.array([[7, 10, 17, 107, 507]])
    products = (rotary(q, here, 100.0) * rotary(k, there, 100.0)).sum(axis=-1)
    np.testing.assert_allclose(products, np.full((1, 5, 1), products[0, 0, 0]), rtol=1e-4)
    assert abs(products[0, 0, 0] - (q * k).sum(axis=-1)[0, 0, 0]) > 0.1


def test_self_attention_is_that_of_the_paper():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 12)).astype(np.float32)
    attention = SelfAttention(num_heads=6, num_kv_heads=2, out_init=jax.nn.initializers.normal(1.0))
    (y, _), variables = attention.init_with_output(jax.random.key(0), x, is_causal=True)
    params = jax.tree.map(np.float64, variables["params"])
    qkv = np.einsum(
        "btd,dsgk->btgsk", x, params["qkv"]["kernel"]
    )  # of each of 2 heads: 3 queries, key, value
    k, v = (qkv[:, :, :, slot].swapaxes(1, 2) for slot in (3, 4))
    heads = (qkv[:, :, :, :3].reshape(2, 5, 6, 2), k, v)
    expected = naive_attention(*heads, np.broadcast_to(np.tri(5), (2, 5, 5))).reshape(2, 5, 12)
    np.testing.assert_allclose(y, expected @ params["out"]["kernel"], atol=1e-6)


@pytest.mark.parametrize("heads", [(4, 4), (3, 2)])
def test_heads_that_do_not_divide_the_width(heads):
    with pytest.raises(
        UserError, match=f"6 does not divide into {heads[0]} heads, or these among {heads[1]}"
    ):
        SelfAttention(num_heads=heads[0], num_kv_heads=heads[1]).init(jax.random.key(0), jnp.ones((1, 2, 6)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_segment_mask_joins_positions_within_one_segment(segments):
    mask = segment_mask(jnp.array([segments]))[0, 0]
    for i in range(6):
        for j in range(6):
            between = segments[min(i, j) : max(i, j) + 1]
            assert bool(mask[i, j]) == (len(set(between)) == 1)


@pytest.mark.parametrize("rows", [[0, 1, 2], [0], [1], [2]])
@pytest.mark.parametrize("num_tokens", [1, 2])
def test_cache_is_written_at_each_rows_position_and_never_past_its_end(rows, num_tokens):
    rng, position_BT = np.random.default_rng(0), np.array([[0, 1], [4, 5], [5, 6]])[rows, :num_tokens]
    old, new = rng.normal(size=(len(rows), 2, 5, 3)), rng.normal(size=(len(rows), num_tokens, 2, 3))
    expected = old.copy()
    for row, t in np.argwhere(position_BT < 5):
        expected[row, :, position_BT[row, t]] = new[row, t]
    cache = write_cache(
        LayerCache(jnp.float32(old), -jnp.float32(old)), jnp.float32(new), -jnp.float32(new), position_BT
    )
    np.testing.assert_array_equal(cache.k_BGSK, np.float32(expected))
    np.testing.assert_array_equal(cache.v_BGSK, -np.float32(expected))


def test_fused_heads_are_sorted_by_the_keys_they_read():
    fused = jnp.arange(2 * 3 * 8 * 2).reshape(2, 3, 16)  # of 4 heads of queries and 2 of keys and values
    split = split_fused_heads(fused, num_heads=4, num_kv_heads=2)
    heads = fused.reshape(2, 3, 8, 2)
    for group, slots in enumerate([(0, 1, 4, 6), (2, 3, 5, 7)]):
        for slot, head in enumerate(slots):
            np.testing.assert_array_equal(split[:, :, slot, group], heads[:, :, head])
