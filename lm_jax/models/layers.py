"""Pieces that the models share: dense layers, embeddings, norms and MLPs. Attention is in `attention.py`.

Shape letters, the same in names and in einsums:
    B  row of the batch              H  attention head
    T  position read in this call    G  head of keys and values (grouped-query attention: H is a multiple)
    S  position attended to          M  query of any of the heads that share one of keys and values
    D  width of the model            K  width of a head
    F  width inside the MLP          V  vocabulary
    I, O  input and output width of one product
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from lm_jax import fast
from lm_jax.models.products import matmul, matmul_of


class Dense(nn.Module):
    """`x @ kernel + bias`, through which every product with a weight matrix goes.

    Parameters are float32: `kernel` [I, O] and `bias` [O], where O is one axis or several; the product is
    computed in `dtype`. An `activation` is applied to x first, and again in the backward pass, so that its
    result is not kept.
    """

    features: int | tuple[int, ...]
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = nn.initializers.normal(0.02)
    use_bias: bool = True
    activation: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., I] to [..., O]."""
        shape = (self.features,) if isinstance(self.features, int) else self.features
        kernel_IO = self.param("kernel", self.kernel_init, (x.shape[-1], *shape))
        product = matmul if self.activation is None else partial(matmul_of, self.activation)
        y = product(x.astype(self.dtype), kernel_IO)
        if self.use_bias:
            # Added before y is rounded: in bfloat16 the sum that is the bias's gradient is slow on a CPU.
            y += jnp.expand_dims(self.param("bias", nn.initializers.zeros, shape), tuple(range(x.ndim - 1)))
        return y.astype(self.dtype)


class Embed(nn.Module):
    """A vector for each id, in `dtype`. Its parameter is float32: `embedding` [V, D], as `nn.Embed` has it.

    Rows are taken first and then cast. If the whole matrix were cast first, as in Flax, the gradients of a
    frequent token would be summed in bfloat16, where a sum of ones stops at 256.
    """

    num_embeddings: int
    features: int
    dtype: jnp.dtype = jnp.float32
    embedding_init: Initializer = nn.initializers.normal(0.02)

    def setup(self):
        """Makes the parameter."""
        self.embedding = self.param("embedding", self.embedding_init, (self.num_embeddings, self.features))

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Maps int ids [...] to [..., D]; ids out of range give NaN."""
        return jnp.take(self.embedding, ids, axis=0).astype(self.dtype)


class Dropout(nn.Module):
    """`dropout` with keys from the stream "dropout"."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = False) -> jax.Array:
        """Maps x to its own shape and type; to itself where `deterministic` or the rate is 0."""
        if deterministic or not self.rate:
            return x
        return dropout(self.make_rng("dropout"), x, self.rate)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016), its moments taken in float32 and in two passes.

    Flax's default of one pass, E[x²] − E[x]², cancels where a feature's mean is large. Parameters are those
    of `nn.LayerNorm`.
    """

    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises the last axis, which keeps its shape."""
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,)) if self.use_bias else jnp.zeros(width)
        return layer_norm(x.astype(self.dtype), scale, bias, self.epsilon)


@fast.replaced_by(fast.layer_norm)
def layer_norm(x: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float) -> jax.Array:
    """Normalises the last axis; computed in float32, in the dtype of x as it comes out."""
    exact = _exact(x)
    centred = exact - exact.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + epsilon)
    scale, bias = (a.reshape((1,) * (x.ndim - 1) + (-1,)) for a in (scale_D, bias_D))
    return (centred * inverse * scale + bias).astype(x.dtype)


def _exact(x: jax.Array) -> jax.Array:
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@fast.replaced_by(fast.gelu)
def gelu(x: jax.Array) -> jax.Array:
    """The tanh approximation of GELU (Hendrycks & Gimpel 2016), computed in float32."""
    return nn.gelu(_exact(x), approximate=True).astype(x.dtype)


@fast.replaced_by(fast.gelu_exact)
def gelu_exact(x: jax.Array) -> jax.Array:
    """GELU (Hendrycks & Gimpel 2016), x · Φ(x) with the normal distribution function Φ, in float32."""
    return nn.gelu(_exact(x), approximate=False).astype(x.dtype)


@fast.replaced_by(fast.dropout)
def dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """Sets entries to zero with probability `rate`, and divides the others by 1 - rate."""
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


class MLP(nn.Module):
    """Two `Dense` layers with an activation between them."""

    d_ff: int
    dtype: jnp.dtype = jnp.float32
    out_init: Initializer = nn.initializers.normal(0.02)
    use_bias: bool = True
    activation: Callable[[jax.Array], jax.Array] = gelu

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        h_BTF = Dense(self.d_ff, self.dtype, use_bias=self.use_bias, name="up")(x_BTD)
        return Dense(x_BTD.shape[-1], self.dtype, self.out_init, self.use_bias, self.activation, name="down")(
            h_BTF
        )


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
