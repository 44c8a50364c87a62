"""Pieces that the transformers share.

Shape letters, the same in names and in einsums:
    B  row of the batch              H  attention head
    T  position read in this call    K  width of a head
    S  position attended to          V  vocabulary
    D  width of the model            F  width inside the MLP
    I, O  input and output width of one product
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from lm_jax.errors import UserError


@jax.custom_vjp
def matmul(x: jax.Array, w_IO: jax.Array) -> jax.Array:
    """`x @ w_IO` over the last axis of x, accumulated and returned in float32. Shape [..., O].

    The gradient with respect to w is written out since what JAX derives makes XLA's CPU backend leave its
    fast matrix product: a training step of a 4-layer GPT, 128 wide, took 1.3 times as long on one core.
    The price is reverse mode only.
    """
    return _dot(x, w_IO, x.ndim - 1, 0)


def _matmul_forward(x, w_IO):
    return matmul(x, w_IO), (x, w_IO)


def _matmul_backward(saved, dy):
    x, w_IO = saved
    dy = dy.astype(x.dtype)
    dx = _dot(dy, w_IO, dy.ndim - 1, 1)
    dw_IO = _dot(x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]), 0, 0)
    return dx.astype(x.dtype), dw_IO.astype(w_IO.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)


def _dot(x, y, x_axis, y_axis):
    contracted = (((x_axis,), (y_axis,)), ((), ()))
    return jax.lax.dot_general(x, y, contracted, preferred_element_type=jnp.float32)


class Dense(nn.Module):
    """`x @ kernel + bias`, through which every product with a weight matrix goes.

    Parameters are float32: `kernel` [I, O] and `bias` [O]; the product is computed in `dtype`.
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., I] to [..., O]."""
        kernel_IO = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = matmul(x.astype(self.dtype), kernel_IO.astype(self.dtype)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation (Ba et al. 2016), its moments taken in float32 and in two passes.

    Flax's default of one pass, E[x²] − E[x]², cancels where a feature's mean is large.
    """

    use_fast_variance: bool = False


class MLP(nn.Module):
    """Two `Dense` layers with the tanh approximation of GELU between them (Hendrycks & Gimpel 2016)."""

    d_ff: int
    dtype: jnp.dtype = jnp.float32
    out_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        h_BTF = Dense(self.d_ff, self.dtype, name="up")(x_BTD)
        h_BTF = nn.gelu(h_BTF, approximate=True)
        return Dense(x_BTD.shape[-1], self.dtype, self.out_init, name="down")(h_BTF)


class LayerCache(NamedTuple):
    """Keys and values that one layer has computed. Both [B, S, H, K]; S is the capacity."""

    k_BSHK: jax.Array
    v_BSHK: jax.Array


class KeyValueCache(NamedTuple):
    """What a transformer decoder remembers of the tokens it has read. Every leaf has the batch first.

    Attributes:
        layers: a `LayerCache` for each layer.
        position_B: int32, how many tokens each row holds: where its next token goes. What lies at and
            beyond it is not attended to, so a row padded on the right is made good by setting its length
            here.
    """

    layers: tuple[LayerCache, ...]
    position_B: jax.Array

    @classmethod
    def empty(
        cls,
        batch_size: int,
        capacity: int,
        num_layers: int,
        num_heads: int,
        head_width: int,
        dtype: jnp.dtype,
    ) -> "KeyValueCache":
        """Room for `capacity` tokens in each of `batch_size` rows."""
        shape = (batch_size, capacity, num_heads, head_width)
        layers = tuple(
            LayerCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(num_layers)
        )
        return cls(layers, jnp.zeros(batch_size, jnp.int32))

    @property
    def capacity(self) -> int:
        """The number of tokens that a row has room for."""
        return self.layers[0].k_BSHK.shape[1]


def write_cache(
    cache: LayerCache, k_BTHK: jax.Array, v_BTHK: jax.Array, position_BT: jax.Array
) -> LayerCache:
    """Stores keys and values at each row's own positions; those beyond the capacity are dropped.

    Dropped, since `dynamic_update_slice` would move the write back inside and ruin what is there.
    """
    rows_B1 = jnp.arange(position_BT.shape[0])[:, None]

    def write(old, new):
        return old.at[rows_B1, position_BT].set(new.astype(old.dtype), mode="drop", unique_indices=True)

    return LayerCache(write(cache.k_BSHK, k_BTHK), write(cache.v_BSHK, v_BTHK))


def causal_mask(position_BT: jax.Array, num_keys: int) -> jax.Array:
    """True where a query may look: at the keys up to its own position. Shape [B, 1, T, S]."""
    return jnp.arange(num_keys)[None, None, None, :] <= position_BT[:, None, :, None]


def segment_mask(segments_BT: jax.Array) -> jax.Array:
    """True where query and key lie in one unbroken run of the same segment. Shape [B, 1, T, T]."""
    changed_BT = jnp.diff(segments_BT, axis=1, prepend=segments_BT[:, :1]) != 0
    run_BT = jnp.cumsum(changed_BT, axis=1)  # an id that returns after a change is a new run
    return run_BT[:, None, :, None] == run_BT[:, None, None, :]


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2), with one product for q, k and v."""

    num_heads: int
    dtype: jnp.dtype = jnp.float32
    dropout: float = 0.0
    out_init: Initializer = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        mask_BHTS: jax.Array,
        cache: LayerCache | None = None,
        position_BT: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, LayerCache | None]:
        """Attends where the mask is true, to x itself or, with a cache, to all that the cache then holds.

        Args:
            x_BTD: what is read.
            mask_BHTS: true where a query may look; axes of size 1 broadcast. S is T, or the capacity.
            cache: keys and values of earlier calls.
            position_BT: where in the cache the new keys and values go.
            train: whether attention probabilities are dropped.

        Returns:
            The result [B, T, D], and the cache with x's keys and values in it.
        """
        B, T, D = x_BTD.shape
        if D % self.num_heads:
            raise UserError(
                f"a width of {D} does not divide into {self.num_heads} heads",
                "make d_model a multiple of num_heads",
            )
        qkv = Dense(3 * D, self.dtype, name="qkv")(x_BTD)
        q_BTHK, k_BSHK, v_BSHK = (y.reshape(B, T, self.num_heads, -1) for y in jnp.split(qkv, 3, axis=-1))
        if cache is not None:
            assert position_BT is not None
            cache = write_cache(cache, k_BSHK, v_BSHK, position_BT)
            k_BSHK, v_BSHK = cache

        scores_BHTS = jnp.einsum("BTHK,BSHK->BHTS", q_BTHK, k_BSHK, preferred_element_type=jnp.float32)
        scores_BHTS *= q_BTHK.shape[-1] ** -0.5
        scores_BHTS = jnp.where(mask_BHTS, scores_BHTS, jnp.finfo(jnp.float32).min)
        probs_BHTS = nn.softmax(scores_BHTS).astype(self.dtype)
        probs_BHTS = nn.Dropout(self.dropout, deterministic=not train)(probs_BHTS)
        y_BTHK = jnp.einsum("BHTS,BSHK->BTHK", probs_BHTS, v_BSHK)
        return Dense(D, self.dtype, self.out_init, name="out")(y_BTHK.reshape(B, T, D)), cache
