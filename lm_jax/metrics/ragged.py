"""Texts as token ids: interned, stored without padding, and passed to jitted functions in few shapes."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax.metrics.profiles import Profile

# The shapes in which functions are compiled: rows, widths, and sentences or references of an example.
_FEW_ROWS, _MANY_ROWS = (1, 16), 512
_WIDTHS = np.array(sorted([32] + [m << k for m in (2, 3) for k in range(5, 20)]))
_COUNTS = np.array([1, 2] + [4**k for k in range(1, 11)])
_MAX_COMPARISONS = 1 << 26  # of positions in one call: 8 MB of bits


class Ragged(NamedTuple):
    """Rows of ids of different lengths, one after the other. Row −1 is empty."""

    ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def padded(self, rows: np.ndarray, width: int) -> np.ndarray:
        """The rows of these numbers [...], cut to `width` or filled with −1, as int32 [..., width]."""
        position = np.arange(width).reshape((1,) * rows.ndim + (-1,))
        index = np.minimum(self.starts[rows][..., None] + position, len(self.ids) - 1)
        return np.where(position < self.lengths[rows][..., None], self.ids[index], -1)


def encode(texts: Sequence[str], profile: Profile) -> Ragged:
    """The tokens of each text as ids that are equal where the tokens are."""
    words, num_words = [], []
    for text in texts:
        of_text = profile.words(text)
        words.extend(of_text)
        num_words.append(len(of_text))
    word_ids: dict[str, int] = collections.defaultdict(itertools.count().__next__)
    word_of_position = np.fromiter(map(word_ids.__getitem__, words), np.int64, len(words))

    token_ids: dict[str, int] = collections.defaultdict(itertools.count().__next__)
    tokens = [[token_ids[token] for token in profile.tokens(word)] for word in word_ids]
    of_word = _ragged(list(itertools.chain.from_iterable(tokens)), [len(ids) for ids in tokens])

    num_tokens = of_word.lengths[word_of_position]
    ends = np.concatenate([[0], np.cumsum(num_tokens)])
    # Position p of the result is a position of its word's tokens, moved by where the word begins.
    shift = np.repeat(of_word.starts[word_of_position] - ends[:-1], num_tokens)
    ids = of_word.ids[shift + np.arange(ends[-1])]
    return _ragged(ids, np.diff(ends[np.concatenate([[0], np.cumsum(num_words)]).astype(np.int64)]))


def _ragged(ids: Sequence[int] | np.ndarray, lengths: Sequence[int] | np.ndarray) -> Ragged:
    lengths = np.concatenate([np.asarray(lengths, np.int64), [0]])
    ids = np.concatenate([np.asarray(ids, np.int32), np.full(1, -1, np.int32)])
    return Ragged(ids, np.cumsum(lengths) - lengths, lengths)


def bucketed(
    function: Callable[..., Any], inputs: Sequence[tuple[Ragged, np.ndarray]], *others: np.ndarray
) -> Any:
    """`function` of all examples, called on batches of few shapes so that few programs are compiled.

    Args:
        function: from padded ids of each input, [B, width] or [B, count, width], and the `others`, [B], to a
            pytree of arrays [B, ...].
        inputs: the texts of each input, and which rows make an example: [D], or [D, count] filled with −1.
        *others: arrays [D].

    Returns:
        The pytree with arrays [D, ...] of numpy.
    """
    longest = np.max([ragged.lengths[rows.reshape(len(rows), -1)].max(1) for ragged, rows in inputs], axis=0)
    counts = np.max([(rows >= 0).reshape(len(rows), -1).sum(1) for _, rows in inputs], axis=0)
    shapes = np.stack([_round_up(longest, _WIDTHS), _round_up(counts, _COUNTS)], axis=1)
    order, results = [], []
    for shape in np.unique(shapes, axis=0):
        members = np.flatnonzero((shapes == shape).all(1))
        width, count = shape.tolist()
        limit = min(_MANY_ROWS, max(1, _MAX_COMPARISONS // (width * count) ** 2))
        for batch in np.split(members, range(limit, len(members), limit)):
            filled = np.resize(batch, next((n for n in _FEW_ROWS if len(members) <= n <= limit), limit))
            ids = [ragged.padded(_take(rows, filled, count), width) for ragged, rows in inputs]
            result = function(*ids, *(other[filled] for other in others))
            results.append(jax.tree.map(lambda x: np.asarray(x)[: len(batch)], result))  # noqa: B023 (used at once)
            order.append(batch)
    place = np.argsort(np.concatenate(order))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[place], *results)


def _take(rows: np.ndarray, members: np.ndarray, count: int) -> np.ndarray:
    """The rows of some examples: [B], or [B, count] filled with −1."""
    if rows.ndim == 1:
        return rows[members]
    taken = rows[members, :count]
    return np.pad(taken, [(0, 0), (0, count - taken.shape[1])], constant_values=-1)


def _round_up(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return steps[np.searchsorted(steps, values)]
