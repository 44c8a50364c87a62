"""Pieces that the transformers share: products, norms and MLPs. Attention is in `attention.py`.

Shape letters, the same in names and in einsums:
    B  row of the batch              H  attention head
    T  position read in this call    G  head of keys and values (grouped-query attention: H is a multiple)
    S  position attended to          M  query of any of the heads that share one of keys and values
    D  width of the model            K  width of a head
    F  width inside the MLP          V  vocabulary
    I, O  input and output width of one product
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer


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
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., I] to [..., O]."""
        kernel_IO = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = matmul(x.astype(self.dtype), kernel_IO.astype(self.dtype)).astype(self.dtype)
        if not self.use_bias:
            return y
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
    use_bias: bool = True

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        h_BTF = Dense(self.d_ff, self.dtype, use_bias=self.use_bias, name="up")(x_BTD)
        h_BTF = nn.gelu(h_BTF, approximate=True)
        return Dense(x_BTD.shape[-1], self.dtype, self.out_init, self.use_bias, name="down")(h_BTF)


class SwiGLU(nn.Module):
    """An MLP whose hidden units are gated: down(silu(gate(x)) · up(x)) (Shazeer 2020, equation 6)."""

    d_ff: int
    dtype: jnp.dtype = jnp.float32
    out_init: Initializer = nn.initializers.normal(0.02)
    use_bias: bool = True

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        gate_BTF = Dense(self.d_ff, self.dtype, use_bias=self.use_bias, name="gate")(x_BTD)
        up_BTF = Dense(self.d_ff, self.dtype, use_bias=self.use_bias, name="up")(x_BTD)
        h_BTF = nn.silu(gate_BTF) * up_BTF
        return Dense(x_BTD.shape[-1], self.dtype, self.out_init, self.use_bias, name="down")(h_BTF)
