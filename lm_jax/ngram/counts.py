"""Counts the n-grams of all orders of a text.

The positions of the text are sorted by the word there. Then, order by order, each group of positions that
share an n-gram is split by the next word. The new groups are the children of the n-gram in a `Trie`, and the
size of a group is the count of its n-gram. Positions are sorted by 16-bit radix sort, in pieces that stay in
a core's cache.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from lm_jax import memory
from lm_jax.errors import UserError
from lm_jax.ngram.trie import Trie, pieces
from lm_jax.ngram.vocabulary import BOS, EOS, SPECIALS, Progress, Vocabulary

MAX_ORDER = 8
_BLOCK = 1 << 16  # positions sorted by bucket at a time
_PIECE = 1 << 13  # positions sorted by their next word at a time


class NGramCounts(NamedTuple):
    """The n-grams of a text and their counts.

    Attributes:
        vocabulary: the words by id.
        trie: the n-grams. All words of the vocabulary are unigrams, seen or not.
        counts: by order (index n - 1), int32 occurrences of each n-gram.
        suffixes: by order from 2 (index n - 2), int32 id of each n-gram without its first word.
        last: by order, the id of the n-gram that comes last when words are compared from the last to the
            first, in the order of their first appearance; none that would begin before a `<s>`. (lmplz treats
            these n-grams unlike all others.)
    """

    vocabulary: Vocabulary
    trie: Trie
    counts: list[np.ndarray]
    suffixes: list[np.ndarray]
    last: list[int]

    @property
    def order(self) -> int:
        """The highest order."""
        return self.trie.order


def count(
    stream: np.ndarray, vocabulary: Vocabulary, order: int, progress: Progress | None = None
) -> NGramCounts:
    """Counts the n-grams of a stream.

    Args:
        stream: ids of whole sentences, each `<s> word ... word </s>`.
        vocabulary: the words by id.
        order: the highest order, 1 to 8.
        progress: called with (description, done, total).

    Raises:
        UserError: the order is out of range, the stream is empty or malformed, or there is too little memory.
    """
    stream = _check(stream, len(vocabulary), order)
    _check_memory(len(stream), order)
    splitter = _Splitter(stream, len(vocabulary), order)
    if order > 1:
        splitter.run(progress)
    trie = splitter.trie()
    counts = [level.counts.values for level in splitter.levels]
    return NGramCounts(
        vocabulary, trie, counts, splitter.suffixes(), trie.suffixes(_last_words(stream, order))
    )


def _check(stream: np.ndarray, vocab_size: int, order: int) -> np.ndarray:
    """The stream as int32, checked."""
    if not 1 <= order <= MAX_ORDER:
        raise UserError(f"order {order} is out of range", f"choose 1 to {MAX_ORDER}")
    if len(stream) == 0:
        raise UserError("the text is empty", "give text of at least one line")
    begins, ends = np.flatnonzero(stream == BOS), np.flatnonzero(stream == EOS)
    if begins[:1].tolist() != [0] or not np.array_equal(np.append(begins[1:], len(stream)), ends + 1):
        raise UserError(
            "the ids are not sentences of <s> word ... word </s>", "begin each with <s>, and end it with </s>"
        )
    if stream.min() < 0 or stream.max() >= vocab_size:
        raise UserError(
            f"ids from {stream.min()} to {stream.max()} for a vocabulary of {vocab_size} words",
            "give the vocabulary that the ids were made with",
        )
    if len(stream) > np.iinfo(np.int32).max:
        raise UserError(
            f"a text of {len(stream)} words is too long for 32-bit positions", "train on a part of it"
        )
    return np.ascontiguousarray(stream, np.int32)


def _check_memory(tokens: int, order: int) -> None:
    """Raises a UserError if counting needs more memory than there is: an upper bound for orders 1 to 8."""
    memory.check(
        tokens * (10 + 15 * order),
        f"counting {order}-grams",
        "choose a lower order or less text, or a machine with more memory",
    )


class _Column:
    """A growing int32 array of fixed capacity. Unused capacity takes address space, but no memory."""

    def __init__(self, most: int):
        self._values = np.empty(most, np.int32)
        self._size = 0

    def append(self, values: np.ndarray) -> None:
        self._values[self._size : self._size + len(values)] = values
        self._size += len(values)

    @property
    def values(self) -> np.ndarray:
        return self._values[: self._size]


class _Level:
    """The last word, count, one position and first child of each n-gram of one order found so far."""

    def __init__(self, most: int):
        self.words, self.counts, self.positions, self.first_child = (_Column(most + 1) for _ in range(4))
        self.first_child.append(np.zeros(1, np.int32))


class _Splitter:
    """Splits groups of positions by the next word, order by order, and collects the n-grams."""

    def __init__(self, stream: np.ndarray, vocab_size: int, order: int):
        self.stream = stream
        self.levels = [_Level(max(len(stream), vocab_size)) for _ in range(order)]
        self.levels[0].words.append(np.arange(vocab_size))
        self.levels[0].counts.append(np.bincount(stream, minlength=vocab_size))
        # By order from 2 to order - 1: the id of the n-gram that begins at each position.
        self.ids = [np.empty(len(stream), np.int32) for _ in range(2, order)]
        self._bits = (vocab_size - 1).bit_length()

    def run(self, progress: Progress | None) -> None:
        """Counts orders 2 and above."""
        starts = np.concatenate([[0], np.cumsum(self.levels[0].counts.values)])
        # A first rough sort by words: 256 buckets of successive words, with about equal numbers of positions.
        bucket_of = np.minimum(starts[:-1] * 256 // len(self.stream), 255).astype(np.uint8)
        positions = self._sort_by_bucket(bucket_of, starts)
        edges = np.append(np.flatnonzero(np.diff(bucket_of, prepend=-1)), len(bucket_of)).tolist()
        for first, end in itertools.pairwise(edges):
            here = positions[starts[first] : starts[end]].astype(np.int64)
            self._extend(here, self.stream.take(here).astype(np.int64) - first, end - first, 2)
            if progress:
                progress("counting n-grams", int(starts[end]), len(positions))

    def _sort_by_bucket(self, bucket_of: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """The int32 positions of the stream, in the order of the buckets of the words there."""
        positions = np.empty(len(self.stream), np.int32)
        filled = starts[np.searchsorted(bucket_of, np.arange(256))]  # the end of each bucket so far
        for low in range(0, len(self.stream), _BLOCK):
            bucket = bucket_of.take(self.stream[low : low + _BLOCK])
            order = np.argsort(bucket, kind="stable")
            sizes = np.bincount(bucket, minlength=256)
            place = filled - (np.cumsum(sizes) - sizes)
            positions[place.take(bucket.take(order)) + np.arange(len(order))] = order + low
            filled += sizes
        return positions

    def _extend(self, here: np.ndarray, group: np.ndarray, groups: int, n: int) -> None:
        """Counts orders n and above at positions `here`; `group` numbers their (n-1)-grams from 0."""
        here, group, edges = self._split(here, group, groups, n)
        if n < len(self.levels):
            for first, end in pieces(edges, _PIECE):
                part = slice(int(edges[first]), int(edges[end]))
                self._extend(here[part], group[part] - first, end - first, n + 1)

    def _split(
        self, here: np.ndarray, group: np.ndarray, groups: int, n: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts the n-grams of order n at positions `here`; `group` numbers their (n-1)-grams from 0.

        Returns:
            The positions sorted by n-gram; the numbers of their n-grams, from 0; and the first position of
            each n-gram, with the number of positions at the end.
        """
        word = self.stream.take(here + (n - 1), mode="wrap")  # after the last </s> comes the first <s>
        inside = np.flatnonzero(word != BOS)
        if len(inside) < len(word):
            here, group, word = here.take(inside), group.take(inside), word.take(inside)
        key = (group << self._bits) | word
        order = _radix_argsort(key)
        here, key = here.take(order), key.take(order)
        is_new = np.ones(len(key) + 1, np.bool_)
        np.not_equal(key[1:], key[:-1], out=is_new[1:-1])
        edges = np.flatnonzero(is_new)
        key = key.take(edges[:-1])
        level, above = self.levels[n - 1], self.levels[n - 2]
        size = len(level.words.values)
        above.first_child.append(np.cumsum(np.bincount(key >> self._bits, minlength=groups)) + size)
        level.words.append(key & ((1 << self._bits) - 1))
        level.counts.append(edges[1:] - edges[:-1])
        level.positions.append(here.take(edges[:-1]))
        group = np.cumsum(is_new[:-1]) - 1
        if n < len(self.levels):
            self.ids[n - 2][here] = group + size
        return here, group, edges

    def trie(self) -> Trie:
        """All n-grams."""
        return Trie(
            [level.words.values for level in self.levels],
            [level.first_child.values for level in self.levels[:-1]],
        )

    def suffixes(self) -> list[np.ndarray]:
        """`NGramCounts.suffixes`; overwrites the positions."""
        found = [level.words.values for level in self.levels[1:2]]
        for level, ids in zip(self.levels[2:], self.ids, strict=True):
            places = level.positions.values
            for low in range(0, len(places), _PIECE):
                piece = places[low : low + _PIECE]
                piece[:] = ids.take(piece + 1)
            found.append(places)
        return found


def _radix_argsort(keys: np.ndarray) -> np.ndarray:
    """The stable order of non-negative keys, by their lowest sixteen bits first."""
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    for shift in range(16, int(keys.max(initial=0)).bit_length(), 16):
        order = order.take(np.argsort((keys >> shift).astype(np.uint16).take(order), kind="stable"))
    return order


def _last_words(stream: np.ndarray, order: int) -> np.ndarray:
    """The words of the last n-gram when words are compared from the last to the first.

    The order of words is that of lmplz's ids: `<unk>`, `<s>`, `</s>`, then by their first appearance.
    """
    rank = np.full(stream.max() + 1, -1 - len(SPECIALS), np.int32)
    # Of several values for one word, numpy keeps the last: the word's first appearance.
    rank[stream[::-1]] = np.arange(len(stream), 0, -1, dtype=np.int32)
    rank[: len(SPECIALS)] = np.arange(-len(SPECIALS), 0)
    words = [int(rank.argmax())]
    at = np.flatnonzero(stream == words[0])
    while len(words) < order and words[-1] != BOS:
        before = stream.take(at - 1)
        words.append(int(before[rank.take(before).argmax()]))
        at = at[before == words[-1]] - 1
    return np.array(words[::-1])
