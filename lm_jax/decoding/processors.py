"""Pure functions on the logits of the next token; `settings` says which apply.

Shape letters: B row, S position in the text so far, K banned sequence, N token of one, V vocabulary.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def repetition_penalty(logits_BV: jax.Array, seen_BV: jax.Array, penalty: float) -> jax.Array:
    """Divides positive logits of seen tokens by `penalty` and multiplies negative ones.

    Keskar et al. 2019, section 4.1, which divides both.
    """
    lower_BV = jnp.where(logits_BV < 0, logits_BV * penalty, logits_BV / penalty)
    return jnp.where(seen_BV, lower_BV, logits_BV)


def frequency_penalty(logits_BV: jax.Array, count_BV: jax.Array, penalty: float) -> jax.Array:
    """Subtracts `penalty` from a token's logit once for each time that it was generated."""
    return logits_BV - penalty * count_BV


def presence_penalty(logits_BV: jax.Array, count_BV: jax.Array, penalty: float) -> jax.Array:
    """Subtracts `penalty` from the logit of each token that was generated at least once."""
    return logits_BV - penalty * (count_BV > 0)


def no_repeat_ngram(logits_BV: jax.Array, tokens_BS: jax.Array, length_B: jax.Array, n: int) -> jax.Array:
    """-inf for tokens that would repeat an n-gram of the text (Paulus et al. 2018, section 2.5)."""
    B, S = tokens_BS.shape
    if n > S:
        return logits_BV
    ends_BS = jnp.arange(S)[None] < length_B[:, None]
    repeats_BS = ends_BS[:, n - 1 :] & (length_B >= n - 1)[:, None]
    for i in range(n - 1):
        place_B1 = jnp.maximum(length_B - (n - 1) + i, 0)[:, None]
        last_B1 = jnp.take_along_axis(tokens_BS, place_B1, axis=1)
        repeats_BS &= tokens_BS[:, i : S - (n - 1) + i] == last_B1
    rows_B1 = jnp.arange(B)[:, None]
    banned_BV = jnp.zeros(logits_BV.shape, bool).at[rows_B1, tokens_BS[:, n - 1 :]].max(repeats_BS)
    return jnp.where(banned_BV, -jnp.inf, logits_BV)


def ban(logits_BV: jax.Array, banned_KN: jax.Array, tokens_BS: jax.Array, length_B: jax.Array) -> jax.Array:
    """-inf for a banned sequence's last token where the text ends with the tokens before it.

    Args:
        logits_BV: the logits.
        banned_KN: int32, sequences, padded on the left with -1.
        tokens_BS: the text so far, padded on the right.
        length_B: its length.
    """
    N = banned_KN.shape[1]
    place_BN = length_B[:, None] - (N - 1) + jnp.arange(N - 1)[None]
    matches_BK = jnp.ones((logits_BV.shape[0], banned_KN.shape[0]), bool)
    if N > 1:
        last_BN = jnp.take_along_axis(tokens_BS, jnp.maximum(place_BN, 0), axis=1)
        last_BN = jnp.where(place_BN < 0, -2, last_BN)  # before the text begins: equals no token
        before_KN = banned_KN[:, :-1]
        matches_BK = ((last_BN[:, None] == before_KN[None]) | (before_KN < 0)[None]).all(axis=-1)
    rows_B1 = jnp.arange(logits_BV.shape[0])[:, None]
    is_banned_BV = jnp.zeros(logits_BV.shape, bool)
    is_banned_BV = is_banned_BV.at[rows_B1, banned_KN[None, :, -1]].max(matches_BK, mode="drop")
    return jnp.where(is_banned_BV, -jnp.inf, logits_BV)


def only(logits_BV: jax.Array, token_B: jax.Array) -> jax.Array:
    """0 for the token of each row and -inf for all others; rows with a negative token stay unchanged."""
    forced_BV = jnp.where(jnp.arange(logits_BV.shape[1])[None] == token_B[:, None], 0.0, -jnp.inf)
    return jnp.where((token_B >= 0)[:, None], forced_BV, logits_BV)


def temperature(logits_BV: jax.Array, temperature: float) -> jax.Array:
    """Logits whose softmax is proportional to p^(1/temperature)."""
    return logits_BV / temperature


def top_k(logits_BV: jax.Array, k: int) -> jax.Array:
    """-inf for each token with k or more strictly likelier ones; tokens that tie with the k-th stay."""
    return _keep(logits_BV, lambda likelier_BV: likelier_BV.sum(axis=-1, keepdims=True) < k)


def top_p(logits_BV: jax.Array, p: float) -> jax.Array:
    """-inf outside the nucleus (Holtzman et al. 2020, section 3.1).

    A token stays if the strictly likelier tokens have a total probability below p. So the token that
    reaches p stays, with all that tie with it, and the likeliest always stays.
    """
    probs_BV = jax.nn.softmax(logits_BV)
    return _keep(
        logits_BV, lambda likelier_BV: jnp.where(likelier_BV, probs_BV, 0).sum(axis=-1, keepdims=True) < p
    )


def _keep(logits_BV: jax.Array, stays: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """-inf for each token that does not stay.

    Args:
        logits_BV: the logits.
        stays: from the mask of the tokens strictly likelier than a token to whether it stays. It must be
            monotonic: a token that stays also stays if fewer are likelier.
    """
    # Bisection for the lowest logit that stays, on integers that order as the floats do: faster than a sort.
    bits_BV = jax.lax.bitcast_convert_type(jnp.where(logits_BV == 0, 0.0, logits_BV), jnp.uint32)  # no -0.0
    order_BV = jnp.where(bits_BV >> 31 == 1, ~bits_BV, bits_BV | jnp.uint32(1 << 31))

    def halve(_, bounds):
        low_B1, high_B1 = bounds
        middle_B1 = low_B1 + (high_B1 - low_B1) // 2
        stays_B1 = stays(order_BV > middle_B1)
        return jnp.where(stays_B1, low_B1, middle_B1 + 1), jnp.where(stays_B1, middle_B1, high_B1)

    high_B1 = order_BV.max(axis=-1, keepdims=True)
    least_B1, _ = jax.lax.fori_loop(0, 32, halve, (jnp.zeros_like(high_B1), high_B1))
    return jnp.where(order_BV < least_B1, -jnp.inf, logits_BV)


def min_p(logits_BV: jax.Array, share: float) -> jax.Array:
    """-inf for tokens less likely than `share` times the likeliest (Nguyen et al. 2024, section 3)."""
    probs_BV = jax.nn.softmax(logits_BV)
    least_B1 = share * probs_BV.max(axis=-1, keepdims=True)
    return jnp.where(probs_BV < least_B1, -jnp.inf, logits_BV)


def greedy(logits_BV: jax.Array) -> jax.Array:
    """The likeliest token of each row, the lowest id among ties. int32 [B]."""
    return _first(logits_BV == logits_BV.max(axis=-1, keepdims=True))


def draw(logits_BV: jax.Array, key_B: jax.Array) -> jax.Array:
    """Draws a token of each row from its softmax with the row's own key. int32 [B]."""
    return pick(logits_BV, jax.vmap(jax.random.uniform)(key_B))


def pick(logits_BV: jax.Array, u_B: jax.Array) -> jax.Array:
    """Maps a uniform number in [0, 1) of each row to a token of its softmax. int32 [B]."""
    # The inverse of the cumulative distribution needs one random number a row: cheaper than a Gumbel number
    # for each token. Rounding can make a parallel cumulative sum fall and rise again, so tokens of
    # probability 0 are excluded explicitly.
    probs_BV = jax.nn.softmax(logits_BV)
    total_BV = jnp.where(probs_BV > 0, jnp.cumsum(probs_BV, axis=-1), 0)
    return _first(total_BV > u_B[:, None] * total_BV.max(axis=-1, keepdims=True))


def _first(is_BV: jax.Array) -> jax.Array:
    """The index of the first true value in each row, V - 1 if there is none."""
    V = is_BV.shape[-1]  # a minimum, since XLA's argmax is slow on a CPU
    return jnp.where(is_BV, jnp.arange(V, dtype=jnp.int32)[None], V - 1).min(axis=-1)
