"""Products with float32 weights, computed in the dtype of what they multiply."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm_jax import fast


@fast.replaced_by(fast.matmul)
def matmul(x: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    """`x @ kernel_IO` over the last axis of x, in the dtype of x; accumulated and returned in float32.

    O may be several axes, which the result then has: a mesh divides one of them, heads for instance.
    """
    contracted = (((x.ndim - 1,), (0,)), ((), ()))
    return jax.lax.dot_general(x, kernel_IO.astype(x.dtype), contracted, preferred_element_type=jnp.float32)


@fast.replaced_by(fast.matmul_transposed)
def matmul_transposed(x: jax.Array, kernel_OI: jax.Array) -> jax.Array:
    """`matmul(x, kernel_OI.T)`, as of an embedding that is also the head."""
    return matmul(x, kernel_OI.T)


@fast.replaced_by(fast.matmul_of)
def matmul_of(activation: Callable[[jax.Array], jax.Array], x: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    """`matmul(activation(x), kernel_IO)`."""
    return matmul(activation(x), kernel_IO)
