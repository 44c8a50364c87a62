"""Rejection sampling of drafted tokens (Leviathan et al. 2023, algorithm 1 and appendix A.1).

Shape letters: R row, K drafted token, T position (K + 1), V vocabulary.
"""

import jax
import jax.numpy as jnp

from lm_jax.decoding.processors import pick


def accept(
    p_RTV: jax.Array, q_RKV: jax.Array, token_RK: jax.Array, u_RT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """How many drafts each row keeps, and the token after them: together they are distributed as p.

    Args:
        p_RTV: the model's probabilities at each position.
        q_RKV: the probabilities that the drafts were drawn from.
        token_RK: the drafts.
        u_RT: uniform random numbers in [0, 1).

    Returns:
        int32 [R], drafts kept, 0 to K; and int32 [R], the token after the last of them.
    """
    K = token_RK.shape[1]
    kept_RK = u_RT[:, :K] * chosen(q_RKV, token_RK) < chosen(p_RTV[:, :K], token_RK)
    kept_R = jnp.cumprod(kept_RK, axis=1).sum(axis=1)
    return kept_R, pick(_residual(p_RTV, q_RKV, kept_R), u_RT[:, K])


def _residual(p_RTV: jax.Array, q_RKV: jax.Array, kept_R: jax.Array) -> jax.Array:
    """Logits of the token after the kept drafts: of max(0, p - q), or of p where all drafts are kept."""
    index_R11 = kept_R[:, None, None]
    p_RV = jnp.take_along_axis(p_RTV, index_R11, axis=1)[:, 0]
    q_RV = jnp.take_along_axis(jnp.pad(q_RKV, ((0, 0), (0, 1), (0, 0))), index_R11, axis=1)[:, 0]
    rest_RV = jnp.maximum(p_RV - q_RV, 0)
    # Where p and q differ by rounding only, a rejection leaves nothing; p itself is then correct.
    return jnp.log(jnp.where(rest_RV.sum(axis=1, keepdims=True) > 0, rest_RV, p_RV))


def chosen(values: jax.Array, index: jax.Array) -> jax.Array:
    """The value at an index of the last axis, [...] of [..., V]."""
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]
