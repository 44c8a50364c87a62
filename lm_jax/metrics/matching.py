"""Which tokens of two texts match: n-gram counts and longest common subsequences, for a batch of pairs.

The equality of two positions is a bit, and 32 of them are a word, so that an n-gram comparison is one shift
and one AND, and a column of the dynamic programme one addition. The pairs are the last axis, for vector
instructions. Bits are counted in the loop that computes their words: otherwise XLA on a CPU fuses both into
slow scalar code (see benchmarks/metrics.py). The additions are those of Hyyrö 2004, "Bit-parallel LCS-length
computation revisited".

B: pairs. T: positions of the first text. S: positions of the second. W: words of 32 of these positions; bit k
of word w stands for position 32 w + k. Ids are integers [B, T]; a negative id is padding, which matches
nothing and must come after the tokens.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from lm_jax.batch import Array
from lm_jax.errors import UserError
from lm_jax.metrics.host import array, whole

_WORD = 32
LARGEST_ORDER = 100  # of n-grams: each order is written out in the compiled program


def lengths(ids_BT: Array) -> jax.Array:
    """The number of tokens of each text, [B], of ids [B, T] (or of any [..., T])."""
    return (_ids(ids_BT) >= 0).sum(axis=-1)


def are_ngrams(ids_BT: Array, n: int) -> jax.Array:
    """Whether an n-gram without padding starts at each position, bool [B, T]."""
    ids_BT, n = _ids(ids_BT), whole(n, "n", 1, LARGEST_ORDER)
    if ids_BT.ndim != 2:
        raise UserError(f"ids of shape {ids_BT.shape} are not texts", "give [B, T], padded with negative ids")
    longer = jnp.pad(ids_BT, [(0, 0), (0, n - 1)], constant_values=-1)
    return jnp.stack([longer[:, k : k + ids_BT.shape[1]] >= 0 for k in range(n)]).all(axis=0)


def count_earlier(ids_BT: Array, max_order: int) -> list[jax.Array]:
    """How often the n-gram at each position occurs before in the text, for n = 1 to `max_order`, [B, T]."""
    max_order = whole(max_order, "max_order", 1, LARGEST_ORDER)
    ids_TB, _ = _pairs_last(ids_BT, ids_BT)
    return [x_TB.T for x_TB in _count_ngrams(ids_TB, ids_TB, max_order, before=True)]


def count_in(a_BT: Array, b_BS: Array, max_order: int) -> list[jax.Array]:
    """How often the n-gram at each position of a occurs in b, for n = 1 to `max_order`, [B, T]."""
    max_order = whole(max_order, "max_order", 1, LARGEST_ORDER)
    return [x_TB.T for x_TB in _count_ngrams(*_pairs_last(a_BT, b_BS), max_order, before=False)]


def lcs_length(a_BT: Array, b_BS: Array) -> jax.Array:
    """Length of a longest common subsequence of each pair, [B] (Hyyrö 2004)."""
    return _lcs_length(*_pairs_last(a_BT, b_BS))


def lcs_mask(a_BT: Array, b_BS: Array) -> jax.Array:
    """Which positions of a belong to one longest common subsequence with b, bool [B, T].

    Of several, the one that backtracking from the ends finds: it takes every match, and otherwise goes back
    in b if t[i, j − 1] > t[i − 1, j], else in a. This is rouge_score's choice with the reference as a, and
    that of `rouge` with the hypothesis as a.
    """
    return _lcs_mask(*_pairs_last(a_BT, b_BS)).T


@jax.jit
def _lcs_length(a_TB, b_SB):
    words_WKB = _words(b_SB)

    def add_token(column_WB, token_B):
        return _next_column(column_WB, _match(token_B[None], words_WKB)), None

    column_WB, _ = jax.lax.scan(add_token, _ones(words_WKB), a_TB)
    return _count(~column_WB)


@jax.jit
def _lcs_mask(a_TB, b_SB):
    words_WKB = _words(a_TB)
    ones_WB = _ones(words_WKB)

    def forward(column_WB, token_B):
        column_WB = _next_column(column_WB, _match(token_B[None], words_WKB))
        return column_WB, column_WB

    def backward(carry, step):
        left_WB, chosen_WB = carry  # positions of a not yet passed, and those found to be on the subsequence
        column_WB, token_B = step
        match_WB = _match(token_B[None], words_WKB)
        # Going back in a ends at the last match, or where the table steps up (a zero of the column).
        upto_WB = _fill_below_highest((match_WB | ~column_WB) & left_WB)
        taken_WB = upto_WB & ~_one_down(upto_WB) & match_WB
        left_WB = jnp.where(token_B[None] >= 0, upto_WB & ~taken_WB, left_WB)
        return (left_WB, chosen_WB | taken_WB), None

    _, column_SWB = jax.lax.scan(forward, ones_WB, b_SB)
    carry = (ones_WB, jnp.zeros_like(ones_WB))
    (_, chosen_WB), _ = jax.lax.scan(backward, carry, (column_SWB, b_SB), reverse=True)
    bits_WKB = chosen_WB[:, None] >> jnp.arange(_WORD, dtype=jnp.uint32)[None, :, None] & 1
    return bits_WKB.reshape(-1, a_TB.shape[1])[: a_TB.shape[0]].astype(bool)


def _pairs_last(a_BT: Array, b_BS: Array) -> tuple[jax.Array, jax.Array]:
    a_BT, b_BS = _ids(a_BT), _ids(b_BS)
    if a_BT.ndim != 2 or b_BS.ndim != 2 or a_BT.shape[0] != b_BS.shape[0]:
        raise UserError(
            f"ids of shapes {a_BT.shape} and {b_BS.shape} are not pairs of texts",
            "give [B, T] and [B, S], padded with negative ids",
        )
    return jnp.where(a_BT < 0, -1, a_BT).T, jnp.where(b_BS < 0, -1, b_BS).T


def _ids(ids: Array) -> jax.Array:
    """Ids as integers that hold the negative numbers of padding."""
    ids = ids if isinstance(ids, jax.Array) else array(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer) or not ids.ndim:
        raise UserError(
            f"ids are {ids.dtype} of shape {ids.shape}",
            "give integers [B, T]; text.token_ids makes them from strings",
        )
    return jnp.asarray(ids).astype(int)


def _words(x_SB: jax.Array) -> jax.Array:
    """[S, B] -> [W, 32, B]; −2 for padding, which is −1 in what it is compared with."""
    padded_SB = jnp.pad(x_SB, [(0, -x_SB.shape[0] % _WORD), (0, 0)], constant_values=-2)
    return jnp.where(padded_SB < 0, -2, padded_SB).reshape(-1, _WORD, x_SB.shape[1])


def _ones(words_WKB: jax.Array) -> jax.Array:
    return jnp.full((words_WKB.shape[0], words_WKB.shape[2]), ~jnp.uint32(0))


def _match(a_XB: jax.Array, words_XKB: jax.Array) -> jax.Array:
    """[X, B] bits: whether a equals each of the 32 ids; X is 1, or the same, on either side."""
    place_1K1 = jnp.arange(_WORD, dtype=jnp.uint32)[None, :, None]
    return ((a_XB[:, None] == words_XKB).astype(jnp.uint32) << place_1K1).sum(axis=1, dtype=jnp.uint32)


@functools.partial(jax.jit, static_argnames=("max_order", "before"))
def _count_ngrams(a_TB: jax.Array, b_SB: jax.Array, max_order: int, before: bool) -> list[jax.Array]:
    """How often the n-gram at each position of a occurs in b, at an earlier position where `before`, [T, B].

    A list over n. The words of b are taken from the last to the first. n-grams match where their first tokens
    do and, one position later in both texts, their (n − 1)-grams; the latter's last bit is in the word after.
    """
    T, B = a_TB.shape
    longer_TB = jnp.pad(a_TB, [(0, max_order - 1), (0, 0)], constant_values=-1)
    words_WKB = _words(b_SB)

    def add_word(carry, word):
        after, counts = carry  # for each order, the bits of the word after, and the counts so far
        word_KB, start = word
        bits = [_match(longer_TB, word_KB[None])]
        for of_word_after in after:
            one_later = bits[-1][1:] >> 1 | of_word_after[1:] << (_WORD - 1)
            bits.append(bits[0][: len(one_later)] & one_later)
        of_text = (x[:T] & _ones_below(jnp.arange(T) - start)[:, None] if before else x[:T] for x in bits)
        counts = [c + jax.lax.population_count(x).astype(jnp.int32) for c, x in zip(counts, of_text)]
        return (bits[:-1], counts), None

    after = [jnp.zeros((T + max_order - n, B), jnp.uint32) for n in range(1, max_order)]
    counts = [jnp.zeros((T, B), jnp.int32)] * max_order
    starts_W = jnp.arange(len(words_WKB)) * _WORD
    return jax.lax.scan(add_word, (after, counts), (words_WKB, starts_W), reverse=True)[0][1]


def _ones_below(position: jax.Array) -> jax.Array:
    """Words with ones before the position, which may lie before or after the word."""
    bit = jnp.uint32(1) << jnp.clip(position, 0, _WORD - 1).astype(jnp.uint32)
    return jnp.where(position < _WORD, bit - 1, ~jnp.uint32(0))


def _count(bits_WB: jax.Array) -> jax.Array:
    """The number of ones of bits [..., W, B], [..., B]."""
    return jax.lax.population_count(bits_WB).sum(axis=-2, dtype=jnp.int32)


def _one_down(bits_WB: jax.Array) -> jax.Array:
    """Bits [..., W, B] with each moved to the position before."""
    after_WB = jnp.concatenate([bits_WB[..., 1:, :], jnp.zeros_like(bits_WB[..., :1, :])], axis=-2)
    return bits_WB >> 1 | after_WB << (_WORD - 1)


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
