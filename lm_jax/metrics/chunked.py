"""Losses and log-probabilities of a large vocabulary without holding all logits at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax import fast
from lm_jax.batch import Array, Sums
from lm_jax.metrics.likelihood import cross_entropy, token_ids, token_log_probs

Head = Callable[[Any, jax.Array], jax.Array]


def chunked_cross_entropy(
    head: Head,
    params: Any,
    hidden_BTD: Array,
    targets_BT: Array,
    weights_BT: Array | None = None,
    *,
    chunk_length: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    ignore_index: int | None = None,
) -> Sums:
    """`likelihood.cross_entropy` of `head(params, hidden_BTD)`, some positions of each row at a time.

    The gradients of `params` and `hidden_BTD` are computed in the forward pass, while a chunk's logits exist:
    logits are computed once, and at most B · chunk_length · V are held. `weights_BT` has no gradient. Rows
    stay on their axis, so data parallelism is unaffected.

    Args:
        head: (params, hidden [B, C, D]) -> logits [B, C, V], each position on its own. Pass the same
            function object each time: a new one is compiled again.
        params: the head's parameters, a pytree of floating-point arrays.
        hidden_BTD: what the head reads.
        targets_BT: token ids.
        weights_BT: as for `cross_entropy`; None: ones.
        chunk_length: positions of each row in one chunk; T need not be a multiple.
        label_smoothing: as for `cross_entropy`.
        z_loss: as for `cross_entropy`.
        ignore_index: as for `cross_entropy`.
    """
    hidden_BTD, targets_BT = jnp.asarray(hidden_BTD), token_ids(targets_BT)
    if weights_BT is None:
        weights_BT = jnp.ones(targets_BT.shape, jnp.promote_types(hidden_BTD.dtype, jnp.float32))
    weights_BT = jax.lax.stop_gradient(jnp.asarray(weights_BT))
    if ignore_index is not None:
        weights_BT = jnp.where(targets_BT == ignore_index, 0, weights_BT)
    chunks = jax.tree.map(
        functools.partial(_split, chunk_length=min(chunk_length, targets_BT.shape[1])),
        (hidden_BTD, targets_BT, weights_BT),
    )
    return Sums(_total(head, (label_smoothing, z_loss), params, *chunks), weights_BT.sum())


def _split(x_BT: jax.Array, chunk_length: int) -> jax.Array:
    """[B, T, ...] -> [T / C, B, C, ...], zeros (of weight 0) filling the last chunk."""
    B, T, *rest = x_BT.shape
    x_BT = jnp.pad(x_BT, [(0, 0), (0, -T % chunk_length)] + [(0, 0)] * len(rest))
    return jnp.moveaxis(x_BT.reshape(B, -1, chunk_length, *rest), 1, 0)


def _chunk_total(head, terms, params, hidden, targets, weights):
    label_smoothing, z_loss = terms
    logits = head(params, hidden)
    return cross_entropy(logits, targets, weights, label_smoothing=label_smoothing, z_loss=z_loss).total


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _fast_total(head, terms, params, hidden, targets, weights):
    """`_total`, whose gradient is computed in the forward pass, while a chunk's logits exist."""
    chunks = (hidden, targets, weights)
    return jax.lax.map(lambda chunk: _chunk_total(head, terms, params, *chunk), chunks).sum()


def _fast_total_forward(head, terms, params, hidden, targets, weights):
    value_and_grad = jax.value_and_grad(functools.partial(_chunk_total, head, terms), argnums=(0, 1))

    def add_chunk(params_grad, chunk):
        total, (chunk_params_grad, hidden_grad) = value_and_grad(params, *chunk)
        return jax.tree.map(jnp.add, params_grad, chunk_params_grad), (total, hidden_grad)

    # A sum over chunks in bfloat16 would lose the small ones.
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), params)
    params_grad, (totals, hidden_grad) = jax.lax.scan(add_chunk, zeros, (hidden, targets, weights))
    params_grad = jax.tree.map(lambda g, p: g.astype(p.dtype), params_grad, params)
    return totals.sum(), (params_grad, hidden_grad)


def _fast_total_backward(head, terms, grads, cotangent):
    params_grad, hidden_grad = jax.tree.map(lambda g: g * cotangent.astype(g.dtype), grads)
    return params_grad, hidden_grad, None, None


_fast_total.defvjp(_fast_total_forward, _fast_total_backward)


@fast.replaced_by(_fast_total)
def _total(head, terms, params, hidden, targets, weights):
    """Σ of the chunks' totals; the arrays have the chunks as their first axis.

    The backward pass computes a chunk's logits again instead of keeping them.
    """
    chunk_total = jax.checkpoint(functools.partial(_chunk_total, head, terms))
    return jax.lax.map(lambda chunk: chunk_total(params, *chunk), (hidden, targets, weights)).sum()


def chunked_token_log_probs(
    head: Head, params: Any, hidden_BTD: Array, targets_BT: Array, max_bytes: int = 2**28
) -> jax.Array:
    """`likelihood.token_log_probs` of `head(params, hidden_BTD)`, some positions of each row at a time.

    Arguments as of `chunked`.

    Returns:
        Natural-log probabilities, float32 [B, T].
    """
    return chunked(token_log_probs, head, params, hidden_BTD, targets_BT, max_bytes)


def chunked(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    head: Head,
    params: Any,
    hidden_BTD: Array,
    targets_BT: Array,
    max_bytes: int = 2**28,
) -> jax.Array:
    """A function of logits and targets, some positions of each row at a time.

    Args:
        function: (logits [B, C, V], targets [B, C]) -> [B, C, ...], each position on its own.
        head: (params, hidden [B, C, D]) -> logits [B, C, V], each position on its own.
        params: the head's parameters.
        hidden_BTD: what the head reads.
        targets_BT: token ids.
        max_bytes: of the float32 logits that exist at a time; at least one position of each row is computed.

    Returns:
        What the function gives, [B, T, ...].
    """
    hidden_BTD, targets_BT = jnp.asarray(hidden_BTD), token_ids(targets_BT)
    B, T = targets_BT.shape
    vocab_size = jax.eval_shape(head, params, hidden_BTD[:, :1]).shape[-1]
    num_chunks = -(-T // max(1, max_bytes // (4 * B * vocab_size)))
    if num_chunks == 1:
        return function(head(params, hidden_BTD), targets_BT)
    chunks = (_split(x, -(-T // num_chunks)) for x in (hidden_BTD, targets_BT))
    made_NBC = jax.lax.map(lambda chunk: function(head(params, chunk[0]), chunk[1]), tuple(chunks))
    return jnp.moveaxis(made_NBC, 0, 1).reshape(B, -1, *made_NBC.shape[3:])[:, :T]
