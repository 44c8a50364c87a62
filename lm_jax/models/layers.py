"""Pieces that the models share: dense layers, embeddings, norms and MLPs. Attention is in `attention.py`.

Shape letters, the same in names and in einsums:
    B  row of the batch              H  attention head
    T  position read in this call    G  head of keys and values (grouped-query attention: H is a multiple)
    S  position attended to          M  query of any of the heads that share one of keys and values
    D  width of the model            K  width of a head
    F  width inside the MLP          V  vocabulary
    I, O  input and output width of one product
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from lm_jax.models.products import again, matmul, matmul_of


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

    Rows are taken and then cast. Were the whole matrix cast first, as Flax does it, the gradients of a
    frequent token would be added up in bfloat16, which stops at 256 ones.
    """

    num_embeddings: int
    features: int
    dtype: jnp.dtype = jnp.float32
    embedding_init: Initializer = nn.initializers.normal(0.02)

    def setup(self):
        """Makes the parameter."""
        self.embedding = self.param("embedding", self.embedding_init, (self.num_embeddings, self.features))

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Maps int ids [...] to [..., D]; an id that there is not to NaN."""
        return jnp.take(self.embedding, ids, axis=0).astype(self.dtype)


class Dropout(nn.Module):
    """Sets entries to zero with probability `rate`, and scales the others so that the mean stays.

    Two masks come from each random number of 32 bits, half the time of `nn.Dropout` on a CPU; the rate is
    true to 1/65,536, and the scale is that of the rate as it is. Draws from the stream "dropout".
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = False) -> jax.Array:
        """Maps x to its own shape and type; to itself where `deterministic` or the rate is 0."""
        if deterministic or not self.rate:
            return x
        *rows, width = x.shape
        bits = jax.random.bits(self.make_rng("dropout"), (*rows, -(-width // 2)), jnp.uint32)
        halves = jax.lax.bitcast_convert_type(bits, jnp.uint16).reshape(*rows, -1)[..., :width]
        kept = round((1 - self.rate) * 2**16)
        return jnp.where(halves < kept, x * (2**16 / max(kept, 1)), 0).astype(x.dtype)


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
        return _normalise(x.astype(self.dtype), scale, bias, self.epsilon)


# The gradient is written out since what JAX derives keeps x times 1/σ times the scale, and a broadcast of
# these, for each norm: a training step of a 4-layer GPT, 128 wide, took 1.08 times as long on one core.
@jax.custom_vjp
def _normalise(x, scale_D, bias_D, epsilon):
    return _normalise_forward(x, scale_D, bias_D, epsilon)[0]


def _normalise_forward(x, scale_D, bias_D, epsilon):
    exact = _exact(x)
    mean = exact.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(exact - mean).mean(axis=-1, keepdims=True) + epsilon)
    scale, bias = (a.reshape((1,) * (x.ndim - 1) + (-1,)) for a in (scale_D, bias_D))
    y = (exact - mean) * inverse * scale + bias
    return y.astype(x.dtype), (x, mean, inverse, scale)


def _normalise_backward(saved, dy):
    x, mean, inverse, scale = saved
    dy, normal = _exact(dy), (_exact(again(x, dy)) - mean) * inverse
    d_normal = dy * scale
    inner = (d_normal * normal).mean(axis=-1, keepdims=True)
    dx = inverse * (d_normal - d_normal.mean(axis=-1, keepdims=True) - normal * inner)
    rows = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), (dy * normal).sum(axis=rows), dy.sum(axis=rows), None


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _exact(x: jax.Array) -> jax.Array:
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The tanh approximation of GELU (Hendrycks & Gimpel 2016), which is x · σ(√(8/π) · (x + 0.044715 x³)).

    It computes in float32 and keeps x alone for the gradient: a step of a 4-layer GPT, 128 wide, in bfloat16
    took 1.25 times as long where each operation was rounded. In float32 only memory is less.
    """
    exact = _exact(x)
    return (exact * _gate(exact)).astype(x.dtype)


_CURVE = 0.044715
_SLOPE = math.sqrt(8 / math.pi)


def _gate(x):
    return jax.nn.sigmoid(_SLOPE * x * (1 + _CURVE * x * x))


def _gelu_forward(x):
    return gelu(x), x


def _gelu_backward(x, dy):
    exact = _exact(again(x, dy))
    gate = _gate(exact)
    slope = gate + exact * gate * (1 - gate) * _SLOPE * (1 + 3 * _CURVE * exact * exact)
    return ((_exact(dy) * slope).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@jax.custom_vjp
def gelu_exact(x: jax.Array) -> jax.Array:
    """GELU (Hendrycks & Gimpel 2016): x · Φ(x), Φ being the normal distribution function, as BERT has it.

    Computed in float32; the backward pass keeps x alone.
    """
    exact = _exact(x)
    return (exact * _normal_cdf(exact)).astype(x.dtype)


def _normal_cdf(x):
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _gelu_exact_forward(x):
    return gelu_exact(x), x


def _gelu_exact_backward(x, dy):
    exact = _exact(again(x, dy))
    density = jnp.exp(-0.5 * exact * exact) / math.sqrt(2 * math.pi)
    return ((_exact(dy) * (_normal_cdf(exact) + exact * density)).astype(x.dtype),)


gelu_exact.defvjp(_gelu_exact_forward, _gelu_exact_backward)


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
