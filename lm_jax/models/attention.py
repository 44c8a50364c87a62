"""Self-attention: its cores, masks, rotary positions and cache. Shape letters are those of `layers.py`."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from lm_jax import fast, runtime
from lm_jax.errors import UserError
from lm_jax.models.layers import Dense, Dropout


class LayerCache(NamedTuple):
    """Keys and values that one layer has computed. Both [B, G, S, K]; S is the capacity.

    Heads come before positions: XLA's CPU backend would transpose all of [B, S, G, K] for each product with
    one query (benchmarks/decode.py).
    """

    k_BGSK: jax.Array
    v_BGSK: jax.Array


class KeyValueCache(NamedTuple):
    """Keys and values of the tokens that a transformer decoder has read. Every leaf has the batch first.

    Attributes:
        layers: a `LayerCache` for each layer.
        position_B: int32, how many tokens each row holds, which is the position of its next token. Entries
            from there on are not attended to. So for rows padded on the right, set their lengths here.
    """

    layers: tuple[LayerCache, ...]
    position_B: jax.Array

    @classmethod
    def empty(
        cls,
        batch_size: int,
        capacity: int,
        num_layers: int,
        num_kv_heads: int,
        head_width: int,
        dtype: jnp.dtype,
    ) -> "KeyValueCache":
        """Room for `capacity` tokens in each of `batch_size` rows."""
        shape = (batch_size, num_kv_heads, capacity, head_width)
        layers = tuple(
            LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(num_layers)
        )
        return cls(layers, jnp.zeros(batch_size, jnp.int32))

    @property
    def capacity(self) -> int:
        """The number of tokens that a row has room for."""
        return self.layers[0].k_BGSK.shape[2]


def write_cache(
    cache: LayerCache, k_BTGK: jax.Array, v_BTGK: jax.Array, position_BT: jax.Array
) -> LayerCache:
    """Stores keys and values at each row's own positions; those beyond the capacity are dropped.

    `dynamic_update_slice` would clamp such positions and overwrite other entries.
    """
    if position_BT.size == 1 and fast.is_on_for_cpu():
        # With a second token, which is dropped: XLA's CPU backend copies the whole cache to write one.
        position_BT = jnp.pad(position_BT, ((0, 0), (0, 1)), constant_values=cache.k_BGSK.shape[2])
        k_BTGK, v_BTGK = (jnp.repeat(new, 2, axis=1) for new in (k_BTGK, v_BTGK))
    rows_B1 = jnp.arange(position_BT.shape[0])[:, None]

    def write(old, new):
        return old.at[rows_B1, :, position_BT].set(new.astype(old.dtype), mode="drop", unique_indices=True)

    return LayerCache(write(cache.k_BGSK, k_BTGK), write(cache.v_BGSK, v_BTGK))


def causal_mask(position_BT: jax.Array, num_keys: int) -> jax.Array:
    """True where a query may attend: at keys up to its own position. Shape [B, 1, T, S]."""
    return jnp.arange(num_keys)[None, None, None, :] <= position_BT[:, None, :, None]


def segment_mask(segments_BT: jax.Array) -> jax.Array:
    """True where query and key are in one unbroken run of the same segment. Shape [B, 1, T, T].

    Padding, whose segments are negative, is in runs of its own: no token attends to it, and what it attends
    to is finite.
    """
    run_BT = _runs(segments_BT)
    return run_BT[:, None, :, None] == run_BT[:, None, None, :]


def _runs(segments_BT: jax.Array) -> jax.Array:
    changed_BT = jnp.diff(segments_BT, axis=1, prepend=segments_BT[:, :1]) != 0
    return jnp.cumsum(changed_BT, axis=1)  # an id that returns after a change is a new run


def padding_mask(segments_BS: jax.Array) -> jax.Array:
    """True at keys that are not padding, whose segments are negative. Shape [B, 1, 1, S]."""
    return (segments_BS >= 0)[:, None, None, :]


def encoder_mask(segments_BT: jax.Array) -> jax.Array:
    """True where an encoder's query may attend: at keys of its own run that are not padding. [B, 1, T, T].

    Padding attends to all keys that are not padding, as in published encoders, so that its vectors equal
    theirs where a row is one text.
    """
    run_BT = _runs(segments_BT)
    same_BTT = run_BT[:, :, None] == run_BT[:, None, :]
    is_padding_BT = segments_BT < 0
    return ((same_BTT | is_padding_BT[:, :, None]) & ~is_padding_BT[:, None, :])[:, None]


def rotary(x_BTHK: jax.Array, position_BT: jax.Array, theta: float) -> jax.Array:
    """Rotates each pair of features by an angle proportional to the position (Su et al. 2021, section 3.2.2).

    The dot product of a query and a key then depends on their distance alone. Feature k is paired with
    feature k + K/2, as in LLaMA's published weights, and rotated by theta^(-2k/K) radians per position.
    Angles and products are float32, since bfloat16 does not tell neighbouring positions above 256 apart.
    """
    half = x_BTHK.shape[-1] // 2
    rate_K = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_BT1K = position_BT[:, :, None, None].astype(jnp.float32) * rate_K[None, None, None]
    cos, sin = jnp.cos(angle_BT1K), jnp.sin(angle_BT1K)
    a, b = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTHK.dtype)


Drop = Callable[[jax.Array], jax.Array]


class AttentionCore(Protocol):
    """The computation of attention. A model calls one core for whole rows and for a cache.

    Args:
        q_BTHK: queries.
        k_BGSK: keys; key s is that of position s. Query head h reads key head h // (H / G).
        v_BGSK: values.
        mask_BHTS: true where a query may attend; axes of size 1 broadcast. None: true everywhere.
        is_causal: query t attends to no key after t; only where S is T and queries start at position 0.
        position_BT: positions of the queries; one row may stand for all.
        drop: dropout, applied to the probabilities [B, H, T, S].

    Returns:
        Weighted sums of values [B, T, H, K] in the dtype of v.
    """

    def __call__(
        self,
        q_BTHK: jax.Array,
        k_BGSK: jax.Array,
        v_BGSK: jax.Array,
        mask_BHTS: jax.Array | None = None,
        *,
        is_causal: bool = False,
        position_BT: jax.Array | None = None,
        drop: Drop | None = None,
    ) -> jax.Array:
        """Attends."""
        ...


def full_attention(
    q_BTHK: jax.Array,
    k_BGSK: jax.Array,
    v_BGSK: jax.Array,
    mask_BHTS: jax.Array | None = None,
    *,
    is_causal: bool = False,
    position_BT: jax.Array | None = None,
    drop: Drop | None = None,
    bias_BHTS: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot products of every query with every key (Vaswani et al. 2017, equation 1), as a core.

    Scores and their softmax are float32. A custom core that adds to the scores computes `bias_BHTS` from the
    positions and calls this one.
    """
    (B, T, H, K), (G, S) = q_BTHK.shape, k_BGSK.shape[1:3]
    if is_causal:
        mask_BHTS = _both(mask_BHTS, causal_mask(jnp.arange(T)[None], S))
    # Heads that share keys and values count as further queries: a fifth axis is slower on XLA's CPU backend,
    # even where none are shared.
    q_BGMK = q_BTHK.reshape(B, T, G, -1, K).transpose(0, 2, 3, 1, 4).reshape(B, G, -1, K)
    scores_BGMS = jnp.einsum("BGMK,BGSK->BGMS", q_BGMK, k_BGSK, preferred_element_type=jnp.float32)
    scores_BHTS = scores_BGMS.reshape(B, H, T, S) * K**-0.5
    if bias_BHTS is not None:
        scores_BHTS += bias_BHTS
    if mask_BHTS is not None:
        scores_BHTS = jnp.where(mask_BHTS, scores_BHTS, jnp.finfo(jnp.float32).min)
    if drop is None:
        y_BGMK = mean_of_values(scores_BHTS.reshape(B, G, -1, S), v_BGSK)
    else:
        probs_BHTS = drop(nn.softmax(scores_BHTS).astype(v_BGSK.dtype))
        y_BGMK = jnp.einsum("BGMS,BGSK->BGMK", probs_BHTS.reshape(B, G, -1, S), v_BGSK)
    return y_BGMK.reshape(B, G, -1, T, K).transpose(0, 3, 1, 2, 4).reshape(B, T, H, K)


@fast.replaced_by(fast.mean_of_values)
def mean_of_values(scores_BGMS: jax.Array, v_BGSK: jax.Array) -> jax.Array:
    """`softmax(scores) @ v`, [B, G, M, K] in the dtype of v; the softmax is float32."""
    probs_BGMS = nn.softmax(scores_BGMS).astype(v_BGSK.dtype)
    return jnp.einsum("BGMS,BGSK->BGMK", probs_BGMS, v_BGSK)


def block_causal_attention(
    q_BTHK: jax.Array,
    k_BGSK: jax.Array,
    v_BGSK: jax.Array,
    mask_BHTS: jax.Array | None = None,
    *,
    is_causal: bool = False,
    position_BT: jax.Array | None = None,
    drop: Drop | None = None,
    block: int = 128,
) -> jax.Array:
    """`full_attention` by blocks of queries, each with the keys up to its last query only.

    Faster on a CPU for rows of 256 tokens and more (benchmarks/attention.py, which also chose the block).
    """
    if not is_causal:
        return full_attention(q_BTHK, k_BGSK, v_BGSK, mask_BHTS, drop=drop)
    T, pieces = q_BTHK.shape[1], []
    mask_BHTS = _whole(mask_BHTS, T, T)
    for start in range(0, T, block):
        stop = min(start + block, T)
        mask = None if mask_BHTS is None else mask_BHTS[:, :, start:stop, :stop]
        mask = _both(mask, causal_mask(jnp.arange(start, stop)[None], stop))
        q, k, v = q_BTHK[:, start:stop], k_BGSK[:, :, :stop], v_BGSK[:, :, :stop]
        pieces.append(full_attention(q, k, v, mask, drop=drop))
    return jnp.concatenate(pieces, axis=1)


def fused_attention(
    q_BTHK: jax.Array,
    k_BGSK: jax.Array,
    v_BGSK: jax.Array,
    mask_BHTS: jax.Array | None = None,
    *,
    is_causal: bool = False,
    position_BT: jax.Array | None = None,
    drop: Drop | None = None,
) -> jax.Array:
    """`jax.nn.dot_product_attention` for whole rows: cuDNN's flash attention where it applies, else XLA's.

    cuDNN's keeps no [T, S] array. It is used for causal reading on a GPU in bfloat16. Where S is not T, as
    with a cache, this is `full_attention`.

    Raises:
        UserError: `drop` is given.
    """
    if drop is not None:
        raise UserError("fused attention cannot drop probabilities", "use dropout=0, or attention=full")
    T, S, K = q_BTHK.shape[1], k_BGSK.shape[2], q_BTHK.shape[3]
    if T != S:
        return full_attention(q_BTHK, k_BGSK, v_BGSK, mask_BHTS)
    flash = runtime.platform() == "gpu" and q_BTHK.dtype == jnp.bfloat16 and is_causal
    flash = flash and K <= 128 and K % 8 == 0 and (mask_BHTS is None or T % 2 == 0)  # what cuDNN takes
    return jax.nn.dot_product_attention(
        q_BTHK,
        k_BGSK.swapaxes(1, 2),
        v_BGSK.swapaxes(1, 2),
        mask=_whole(mask_BHTS, T, S),
        is_causal=is_causal,
        implementation="cudnn" if flash else "xla",
    )


ATTENTIONS: dict[str, AttentionCore] = {
    "full": full_attention,
    "block_causal": block_causal_attention,
    "fused": fused_attention,
}


def _both(mask_BHTS: jax.Array | None, other_BHTS: jax.Array) -> jax.Array:
    return other_BHTS if mask_BHTS is None else mask_BHTS & other_BHTS


def _whole(mask_BHTS: jax.Array | None, T: int, S: int) -> jax.Array | None:
    return None if mask_BHTS is None else jnp.broadcast_to(mask_BHTS, (*mask_BHTS.shape[:2], T, S))


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2), with one product for q, k and v.

    The kernel `qkv` is [D, M + 2, G, K] and its bias [M + 2, G, K]: for each of G heads of keys and values,
    the M = H / G heads of queries that share it, then the keys, then the values. Query head h = g * M + m.
    So a mesh can divide the heads among devices without moving queries, keys or values.

    Attributes:
        num_heads: H, heads of queries.
        dtype: of computation.
        dropout: of the probabilities, in training.
        out_init: initializer of the output's kernel.
        num_kv_heads: G, heads of keys and values, each shared by num_heads / num_kv_heads heads of queries
            (Ainslie et al. 2023); 0: as many as of queries.
        use_bias: whether the products have biases.
        rope_theta: the base of `rotary`; 0: queries and keys are not rotated.
        core: the computation of attention; one of `ATTENTIONS`, or a custom one.
    """

    num_heads: int
    dtype: jnp.dtype = jnp.float32
    dropout: float = 0.0
    out_init: Initializer = nn.initializers.normal(0.02)
    num_kv_heads: int = 0
    use_bias: bool = True
    rope_theta: float = 0.0
    core: AttentionCore = full_attention

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        mask_BHTS: jax.Array | None = None,
        cache: LayerCache | None = None,
        position_BT: jax.Array | None = None,
        is_causal: bool = False,
        train: bool = False,
    ) -> tuple[jax.Array, LayerCache | None]:
        """Attends to x itself or, with a cache, to all that the cache then holds.

        Args:
            x_BTD: what is read.
            mask_BHTS: true where a query may attend; axes of size 1 broadcast. S is T, or the capacity.
            cache: keys and values of earlier calls.
            position_BT: each token's position: where its key and value go in the cache, and the angle of its
                rotation. One row may stand for all where there is no cache. None: 0 to T - 1.
            is_causal: no query attends to a later position; only without a cache.
            train: whether attention probabilities are dropped.

        Returns:
            The result [B, T, D], and the cache with x's keys and values in it.
        """
        if position_BT is None:
            position_BT = jnp.arange(x_BTD.shape[1])[None]
        q_BTHK, k_BTGK, v_BTGK = self._heads(x_BTD)
        if self.rope_theta:
            q_BTHK, k_BTGK = (rotary(y, position_BT, self.rope_theta) for y in (q_BTHK, k_BTGK))
        if cache is None:
            k_BGSK, v_BGSK = k_BTGK.swapaxes(1, 2), v_BTGK.swapaxes(1, 2)
        else:
            assert not is_causal
            cache = write_cache(cache, k_BTGK, v_BTGK, position_BT)
            k_BGSK, v_BGSK = cache
        drop = Dropout(self.dropout) if train and self.dropout else None
        y_BTHK = self.core(
            q_BTHK, k_BGSK, v_BGSK, mask_BHTS, is_causal=is_causal, position_BT=position_BT, drop=drop
        )
        y_BTD = Dense(x_BTD.shape[-1], self.dtype, self.out_init, self.use_bias, name="out")(
            y_BTHK.reshape(x_BTD.shape)
        )
        return y_BTD, cache

    def _heads(self, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries [B, T, H, K], keys and values [B, T, G, K]."""
        (B, T, D), H = x_BTD.shape, self.num_heads
        M, G, K = _head_shape(D, H, self.num_kv_heads)
        qkv = Dense((M + 2, G, K), self.dtype, use_bias=self.use_bias, name="qkv")(x_BTD)
        # Split with G and K as one axis: the gradients are then joined by a fast copy on a CPU.
        q, k, v = jnp.split(qkv.reshape(B, T, M + 2, G * K), [M, M + 1], axis=2)
        q_BTHK = q.reshape(B, T, M, G, K).swapaxes(2, 3).reshape(B, T, H, K)
        return q_BTHK, k.reshape(B, T, G, K), v.reshape(B, T, G, K)


class CrossAttention(nn.Module):
    """Multi-head attention to a memory, such as an encoder's output (Vaswani et al. 2017, section 3.2.3).

    The kernels are `query` [D, M, G, K] and `key_value` [D, 2, G, K], keys first; see `SelfAttention` for
    them and for the attributes.
    """

    d_model: int
    num_heads: int
    dtype: jnp.dtype = jnp.float32
    dropout: float = 0.0
    out_init: Initializer = nn.initializers.normal(0.02)
    num_kv_heads: int = 0
    use_bias: bool = True

    def setup(self):
        """Makes the products."""
        M, G, K = _head_shape(self.d_model, self.num_heads, self.num_kv_heads)
        self.query = Dense((M, G, K), self.dtype, use_bias=self.use_bias)
        self.key_value = Dense((2, G, K), self.dtype, use_bias=self.use_bias)
        self.out = Dense(self.d_model, self.dtype, self.out_init, self.use_bias)
        self.drop = Dropout(self.dropout)

    def read_memory(self, memory_BSD: jax.Array) -> LayerCache:
        """The memory's keys and values, to be computed once for all calls."""
        k_BSGK, v_BSGK = jnp.unstack(self.key_value(memory_BSD), axis=2)
        return LayerCache(k_BSGK.swapaxes(1, 2), v_BSGK.swapaxes(1, 2))

    def __call__(
        self, x_BTD: jax.Array, memory: LayerCache, mask_B11S: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Attends from x to the memory where the mask is true; returns [B, T, D].

        The rows of x may be a multiple of the memory's. Then those that attend to one row of it are adjacent,
        and count as further queries, so that the memory is not repeated.
        """
        q_BTHK = self.query(x_BTD).swapaxes(2, 3).reshape(*x_BTD.shape[:2], self.num_heads, -1)
        q_BTHK = q_BTHK.reshape(memory.k_BGSK.shape[0], -1, *q_BTHK.shape[2:])
        drop = self.drop if train and self.dropout else None
        return self.out(full_attention(q_BTHK, *memory, mask_B11S, drop=drop).reshape(x_BTD.shape))


def _head_shape(D: int, H: int, G: int) -> tuple[int, int, int]:
    """(M, G, K): heads of queries for each head of keys, heads of keys (0: H), and their width."""
    G = G or H
    if D % H or H % G:
        raise UserError(
            f"a width of {D} does not divide into {H} heads, or these among {G} of keys and values",
            "make d_model a multiple of num_heads, and that one of num_kv_heads",
        )
    return H // G, G, D // H


def split_fused_heads(qkv: jax.Array, num_heads: int, num_kv_heads: int) -> jax.Array:
    """A fused kernel or bias in the layout of `SelfAttention`.

    Args:
        qkv: [..., (H + 2 G) K]: columns of all query heads, then of all key heads, then of all value heads.
        num_heads: H.
        num_kv_heads: G.

    Returns:
        [..., M + 2, G, K].
    """
    *rest, width = qkv.shape
    G, M = num_kv_heads, num_heads // num_kv_heads
    heads = qkv.reshape(*rest, num_heads + 2 * G, width // (num_heads + 2 * G))
    queries = heads[..., :num_heads, :].reshape(*rest, G, M, -1).swapaxes(-3, -2)
    return jnp.concatenate([queries, heads[..., num_heads:, :].reshape(*rest, 2, G, -1)], axis=-3)
