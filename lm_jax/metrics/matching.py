"""Which tokens of two texts match: n-gram counts and longest common subsequences, for a batch of pairs.

The equality of every pair of positions is kept as bits, 32 to a word, so that an n-gram comparison is one
shift and one AND, and a column of the dynamic programme one addition. The pairs lie innermost, where they
vectorise.

B: pairs. T: positions of the first text. S: positions of the second. W: words of 32 of these positions; bit k
of word w stands for position 32 w + k. Ids are integers [B, T]; a negative id is padding, which matches
nothing and must come after the tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm_jax.batch import Array
from lm_jax.errors import UserError

_WORD = 32


class Occurrences(NamedTuple):
    """For the n-gram that starts at each position of the first text, [B, T]; 0 where none fits.

    Attributes:
        valid: whether an n-gram fits there, padding aside.
        earlier: how often it occurs before this position in the same text.
        elsewhere: how often it occurs in the second text.
    """

    valid: jax.Array
    earlier: jax.Array
    elsewhere: jax.Array


def lengths(ids_BT: Array) -> jax.Array:
    """The number of tokens of each text, [B], of ids [B, T] (or of any [..., T])."""
    return (jnp.asarray(ids_BT) >= 0).sum(axis=-1)


def ngram_occurrences(a_BT: Array, b_BS: Array, max_order: int) -> list[Occurrences]:
    """The occurrences of the n-grams of a, for n = 1 to `max_order`."""
    a_TB, b_SB = _pairs_last(a_BT, b_BS)
    position_T1 = jnp.arange(a_TB.shape[0])[:, None]
    before_TW1 = _pack(_words(position_T1)[None] < position_T1[:, :, None, None])
    here1_TWB = here_TWB = _match_bits(a_TB, a_TB)
    there1_TWB = there_TWB = _match_bits(a_TB, b_SB)
    occurrences = []
    for n in range(1, max_order + 1):
        if n > 1:  # n-grams match where their first tokens do and, one position later, their (n − 1)-grams
            here_TWB = here1_TWB & _one_later(here_TWB)
            there_TWB = there1_TWB & _one_later(there_TWB)
        valid_TB = position_T1 + n <= lengths(a_BT)[None]
        counts_TB = (valid_TB, _count(here_TWB & before_TW1), _count(there_TWB))
        occurrences.append(Occurrences(*(x_TB.T for x_TB in counts_TB)))
    return occurrences


def lcs_length(a_BT: Array, b_BS: Array) -> jax.Array:
    """Length of a longest common subsequence of each pair, [B] (Hyyrö 2004, figure 5)."""
    match_TWB = _match_bits(*_pairs_last(a_BT, b_BS))
    column_WB = jnp.full(match_TWB.shape[1:], ~jnp.uint32(0))
    column_WB, _ = jax.lax.scan(lambda *args: (_next_column(*args), None), column_WB, match_TWB)
    return _count(~column_WB)


def lcs_mask(a_BT: Array, b_BS: Array) -> jax.Array:
    """Which positions of a belong to one longest common subsequence with b, bool [B, T].

    Of several, the one that backtracking from the ends finds when it takes every match it meets and else goes
    back in b where that loses nothing that going back in a keeps, t[i, j − 1] > t[i − 1, j]: rouge_score's
    choice for a the reference, and that of `rouge` for a the hypothesis.
    """
    a_TB, b_SB = _pairs_last(a_BT, b_BS)
    match_SWB = _match_bits(b_SB, a_TB)

    def forward(column_WB, match_WB):
        column_WB = _next_column(column_WB, match_WB)
        return column_WB, column_WB

    def backward(carry, step):
        left_WB, chosen_WB = carry  # positions of a not yet passed, and those found to be on the subsequence
        column_WB, match_WB, is_token_B = step
        # Going back in a ends at the last match, or where the table steps up (a zero of the column).
        upto_WB = _fill_below_highest((match_WB | ~column_WB) & left_WB)
        taken_WB = upto_WB & ~_one_down(upto_WB) & match_WB
        left_WB = jnp.where(is_token_B[None], upto_WB & ~taken_WB, left_WB)
        return (left_WB, chosen_WB | taken_WB), None

    ones_WB = jnp.full(match_SWB.shape[1:], ~jnp.uint32(0))
    _, column_SWB = jax.lax.scan(forward, ones_WB, match_SWB)
    carry = (ones_WB, jnp.zeros_like(ones_WB))
    (_, chosen_WB), _ = jax.lax.scan(backward, carry, (column_SWB, match_SWB, b_SB >= 0), reverse=True)
    bits_WKB = chosen_WB[:, None] >> jnp.arange(_WORD, dtype=jnp.uint32)[None, :, None] & 1
    return bits_WKB.reshape(-1, a_TB.shape[1])[: a_TB.shape[0]].T.astype(bool)


def _pairs_last(a_BT: Array, b_BS: Array) -> tuple[jax.Array, jax.Array]:
    a_BT, b_BS = jnp.asarray(a_BT), jnp.asarray(b_BS)
    if a_BT.ndim != 2 or b_BS.ndim != 2 or a_BT.shape[0] != b_BS.shape[0]:
        raise UserError(
            f"ids of shapes {a_BT.shape} and {b_BS.shape} are no pairs of texts",
            "give [B, T] and [B, S], padded with negative ids",
        )
    return a_BT.T, b_BS.T


def _words(x_SB: jax.Array) -> jax.Array:
    """[S, B] -> [W, 32, B], the last word filled with padding."""
    padded_SB = jnp.pad(x_SB, [(0, -x_SB.shape[0] % _WORD), (0, 0)], constant_values=-2)
    return padded_SB.reshape(-1, _WORD, x_SB.shape[1])


def _pack(flags_WKB: jax.Array) -> jax.Array:
    """Booleans [..., W, 32, B] to bits [..., W, B]."""
    place_K1 = jnp.arange(_WORD, dtype=jnp.uint32).reshape((1,) * (flags_WKB.ndim - 2) + (_WORD, 1))
    return (flags_WKB.astype(jnp.uint32) << place_K1).sum(axis=-2, dtype=jnp.uint32)


def _match_bits(a_TB: jax.Array, b_SB: jax.Array) -> jax.Array:
    """[T, W, B]: bit k of word w at i says whether a[i] == b[32 w + k], both being tokens."""
    a_TB, b_SB = jnp.where(a_TB < 0, -1, a_TB), jnp.where(b_SB < 0, -2, b_SB)
    return _pack(a_TB[:, None, None] == _words(b_SB)[None])


def _count(bits_WB: jax.Array) -> jax.Array:
    """The number of ones of bits [..., W, B], [..., B]."""
    return jax.lax.population_count(bits_WB).sum(axis=-2, dtype=jnp.int32)


def _one_down(bits_WB: jax.Array) -> jax.Array:
    """Bits [..., W, B] with each moved to the position before."""
    after_WB = jnp.concatenate([bits_WB[..., 1:, :], jnp.zeros_like(bits_WB[..., :1, :])], axis=-2)
    return bits_WB >> 1 | after_WB << (_WORD - 1)


def _one_later(bits_TWB: jax.Array) -> jax.Array:
    """Whether the positions after i and j matched, in place of i and j."""
    return _one_down(jnp.concatenate([bits_TWB[1:], jnp.zeros_like(bits_TWB[:1])]))


def _next_column(column_WB: jax.Array, match_WB: jax.Array) -> jax.Array:
    """One column of the dynamic programme, as zeros where it steps up: V ← (V + (V & M)) | (V & ~M)."""

    def add_word(carry_B, column_and_match):
        column_B, match_B = column_and_match
        partial_B = column_B + (column_B & match_B)
        sum_B = partial_B + carry_B
        overflow_B = (partial_B < column_B) | (sum_B < partial_B)
        return overflow_B.astype(jnp.uint32), sum_B | column_B & ~match_B

    no_carry_B = jnp.zeros(column_WB.shape[1], jnp.uint32)
    return jax.lax.scan(add_word, no_carry_B, (column_WB, match_WB))[1]


def _fill_below_highest(bits_WB: jax.Array) -> jax.Array:
    """Ones up to the highest one of each column of words, that one included."""
    for shift in (1, 2, 4, 8, 16):
        bits_WB = bits_WB | bits_WB >> shift
    higher_WB = jnp.concatenate([bits_WB[1:], jnp.zeros_like(bits_WB[:1])])
    any_higher_WB = jax.lax.cummax(higher_WB, axis=0, reverse=True) > 0
    return jnp.where(any_higher_WB, ~jnp.uint32(0), bits_WB)
