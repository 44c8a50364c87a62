"""Encoding each distinct row of a batch once, however often it occurs.

An encoder of characters costs as much as an LSTM, and more than half of the words of a batch are repetitions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax import fast

BLOCK = 128  # rows that are encoded at a time

# (variables, inputs of N rows) -> vectors [N, P], each row on its own. Pass the same function each time.
Encoder = Callable[[Any, jax.Array], jax.Array]


def _fast_encode(encode: Encoder, variables: Any, table: jax.Array, ids: jax.Array) -> jax.Array:
    flat_N = ids.reshape(-1)
    size = -(-flat_N.size // BLOCK) * BLOCK
    distinct_N, place_N = jnp.unique(flat_N, return_inverse=True, size=size, fill_value=0)
    num_blocks = place_N.max() // BLOCK + 1
    vectors_NP = _encode_blocks(encode, variables, table, distinct_N, num_blocks)
    return vectors_NP[place_N].reshape(*ids.shape, -1)


@fast.replaced_by(_fast_encode)
def encode_distinct(encode: Encoder, variables: Any, table: jax.Array, ids: jax.Array) -> jax.Array:
    """`encode(variables, table[ids])`, with each distinct id encoded once.

    Memory is that of a block of `BLOCK` rows: the backward pass encodes each block again.

    Args:
        encode: the encoder.
        variables: its variables.
        table: the inputs of all rows that there are, [V, ...].
        ids: int, any shape.

    Returns:
        [*ids.shape, P].
    """
    made = encode(variables, table[ids.reshape(-1)])
    return made.reshape(*ids.shape, -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _encode_blocks(encode, variables, table, distinct_N, num_blocks):
    """The vectors of the first blocks of ids, [N, P]; zeros for other blocks."""

    def add(number, made_NP):
        vectors = encode(variables, _rows(table, distinct_N, number))
        return jax.lax.dynamic_update_slice_in_dim(made_NP, vectors, number * BLOCK, axis=0)

    one = jax.eval_shape(encode, variables, jax.eval_shape(_rows, table, distinct_N, 0))
    return jax.lax.fori_loop(0, num_blocks, add, jnp.zeros((len(distinct_N), one.shape[1]), one.dtype))


def _rows(table, distinct_N, number):
    return table[jax.lax.dynamic_slice_in_dim(distinct_N, number * BLOCK, BLOCK)]


def _forward(encode, variables, table, distinct_N, num_blocks):
    saved = (variables, table, distinct_N, num_blocks)
    return _encode_blocks(encode, *saved), saved


def _backward(encode, saved, d_made_NP):
    variables, table, distinct_N, num_blocks = saved

    def add(number, d_variables):
        inputs = _rows(table, distinct_N, number)
        _, pullback = jax.vjp(lambda variables: encode(variables, inputs), variables)
        [d_block] = pullback(jax.lax.dynamic_slice_in_dim(d_made_NP, number * BLOCK, BLOCK))
        return jax.tree.map(jnp.add, d_variables, d_block)

    d_variables = jax.lax.fori_loop(0, num_blocks, add, jax.tree.map(jnp.zeros_like, variables))
    return d_variables, None, None, None


_encode_blocks.defvjp(_forward, _backward)
