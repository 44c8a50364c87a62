"""Products with float32 weights, computed in the type of what they multiply, whose gradient stays float32."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

_GROUPS = (16, 4)  # rows contracted together in bfloat16, the better first


@jax.custom_vjp
def matmul(x: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    """`x @ kernel_IO` over the last axis of x, in the dtype of x; accumulated and returned in float32.

    O may be several axes, which the result then has: a mesh divides one of them, heads for instance.

    The gradient is written out since what JAX derives makes XLA's CPU backend leave its fast matrix product:
    a training step of a 4-layer GPT, 128 wide, took 1.3 times as long on one core. And with a kernel that is
    cast before the product its gradient would pass through bfloat16: a head of 33,000 tokens with its loss
    took 1.3 times as long. The price is reverse mode only.
    """
    return _product(x, kernel_IO)


def _product(x, kernel_IO):
    return _dot(x, kernel_IO.astype(x.dtype), ((x.ndim - 1,), (0,)))


def _matmul_forward(x, kernel_IO):
    return _product(x, kernel_IO), (x, kernel_IO)


def _matmul_backward(saved, dy):
    x, kernel_IO = saved
    dy = dy.astype(x.dtype)
    return _gradient_of_x(x, kernel_IO, dy), weight_gradient(x, dy).astype(kernel_IO.dtype)


def _gradient_of_x(x, kernel_IO, dy):
    outputs = kernel_IO.ndim - 1
    contracted = (tuple(range(dy.ndim - outputs, dy.ndim)), tuple(range(1, outputs + 1)))
    return _dot(dy, kernel_IO.astype(x.dtype), contracted).astype(x.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def matmul_transposed(x: jax.Array, kernel_OI: jax.Array) -> jax.Array:
    """`matmul(x, kernel_OI.T)`, as of an embedding that is also the head; its gradient is made as it lies."""
    return _product(x, kernel_OI.T)


def _matmul_transposed_forward(x, kernel_OI):
    return _product(x, kernel_OI.T), (x, kernel_OI)


def _matmul_transposed_backward(saved, dy):
    x, kernel_OI = saved
    dy = dy.astype(x.dtype)
    return _gradient_of_x(x, kernel_OI.T, dy), weight_gradient(dy, x).astype(kernel_OI.dtype)


matmul_transposed.defvjp(_matmul_transposed_forward, _matmul_transposed_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def matmul_of(activation: Callable[[jax.Array], jax.Array], x: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    """`matmul(activation(x), kernel_IO)`, where the gradient activates x again: only x is kept."""
    return matmul(activation(x), kernel_IO)


def _matmul_of_forward(activation, x, kernel_IO):
    return matmul_of(activation, x, kernel_IO), (x, kernel_IO)


def _matmul_of_backward(activation, saved, dy):
    x, kernel_IO = saved
    activated, to_x = jax.vjp(activation, again(x, dy))
    d_activated, d_kernel = _matmul_backward((activated, kernel_IO), dy)
    return (*to_x(d_activated), d_kernel)


matmul_of.defvjp(_matmul_of_forward, _matmul_of_backward)


def again(x: jax.Array, dy: jax.Array) -> jax.Array:
    """x, for what a gradient computes from it as the forward pass did, but not before dy is there.

    XLA would otherwise find that both are the same and keep the result in between. On a CPU it loses a
    barrier before it puts the operations in order: there x waits for a zero made of dy.
    """

    def wait(x, dy):
        return x + 0 * dy[(0,) * dy.ndim].astype(x.dtype)

    return jax.lax.platform_dependent(
        x, dy, cpu=wait, default=lambda x, dy: jax.lax.optimization_barrier((x, dy))[0]
    )


def weight_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient [I, O], float32, of a kernel that took x [..., I]; dy [..., O] is that of the result.

    O may be several axes.
    """
    rows = x.ndim - 1
    x_NI, dy_NO = x.reshape(-1, x.shape[-1]), dy.reshape(-1, *dy.shape[rows:])
    return jax.lax.platform_dependent(x_NI, dy_NO, cpu=_outer_on_cpu, default=_outer)


def _outer(x_NI, dy_NO):
    """The sum over N of products of x and dy, float32 [I, O]; I and O may be several axes each."""
    return _dot(x_NI, dy_NO, ((0,), (0,)))


def _outer_on_cpu(x_NI, dy_NO):
    """`_outer` in the two forms that XLA's CPU backend has fast products for.

    The result is taken wide and not tall: twice as fast for 512 by 128. But where the rows are fewer than the
    result's columns, turning it would cost more: an embedding of 50,257 tokens, 384 wide, with 256 rows took
    1.2 times as long. The barrier keeps XLA from turning what it finds transposed. And bfloat16 rows are
    contracted in groups, without which half the speed is lost. The steps of a GPT 128 wide gain 1.05 to 1.1
    in float32, 1.2 in bfloat16.
    """
    num_rows, num_columns = len(dy_NO), math.prod(dy_NO.shape[1:])
    if math.prod(x_NI.shape[1:]) > num_columns <= num_rows:
        inputs, dw_OI = x_NI.ndim - 1, _outer_on_cpu(dy_NO, x_NI)
        return jnp.moveaxis(dw_OI, range(-inputs, 0), range(inputs))
    group = next((size for size in _GROUPS if num_rows % size == 0), 1)
    if x_NI.dtype != jnp.bfloat16 or group == 1:
        return jax.lax.optimization_barrier(_outer(x_NI, dy_NO))
    x_GIM = jnp.moveaxis(x_NI.reshape(-1, group, *x_NI.shape[1:]), 0, -1)
    dy_MGO = dy_NO.reshape(-1, group, *dy_NO.shape[1:])
    return jax.lax.optimization_barrier(_dot(x_GIM, dy_MGO, ((x_GIM.ndim - 1, 0), (0, 1))))


def _dot(x, y, contracted):
    return jax.lax.dot_general(x, y, (contracted, ((), ())), preferred_element_type=jnp.float32)
