"""Finds the n-grams of every order that end at each word of a stream."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lm_jax.ngram.trie import Trie, pieces
from lm_jax.ngram.vocabulary import BOS
from lm_jax.text.hashing import IdTable, mix

UNSEEN, OUTSIDE = -1, -2  # in place of an id: the n-gram is not in the trie; it would begin before the <s>
_PIECE = 1 << 16  # words at a time
_INDEX_FROM = 1 << 14  # words of a stream that is matched by hash tables
_WORD_BITS = np.uint64(32)


class Index:
    """Finds the n-grams of one order by a hash table from their context and last word to their id."""

    def __init__(self, last_words: np.ndarray, first_child: np.ndarray):
        """Makes the table from the n-grams' last words and the first child of each context."""
        self._keys = np.zeros(
            max(len(last_words), 1), np.uint64
        )  # at least one, which the table reads for an absent id
        self._table = IdTable(len(last_words))
        for first, end in pieces(first_child, _PIECE):
            here = slice(int(first_child[first]), int(first_child[end]))
            contexts = np.repeat(np.arange(first, end), np.diff(first_child[first : end + 1]))
            self._keys[here] = _key(contexts, last_words[here])
            self._table.insert(mix(self._keys[here]), np.arange(here.start, here.stop, dtype=np.int32))

    def find(self, contexts: np.ndarray, words: np.ndarray) -> np.ndarray:
        """int32 ids of n-grams by their contexts' ids and last words; UNSEEN if there is none."""
        keys = _key(contexts, words)

        def is_match(ids: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
            return self._keys.take(ids) == (keys if rows is None else keys.take(rows))

        return self._table.find(mix(keys), is_match)


class Matcher:
    """Finds the n-grams of a trie in streams.

    Short streams are matched by binary search among an n-gram's children. The first long one builds the hash
    tables.
    """

    def __init__(self, trie: Trie):
        self.trie = trie
        self._indices: list[Index] = []

    def match(self, stream: np.ndarray, bos: bool = True) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Matches a stream piece by piece.

        Args:
            stream: ids of words, each sentence beginning with `<s>`. Words before the first `<s>` are matched
                without a history.
            bos: whether `<s>` is part of histories; otherwise it only separates sentences.

        Yields:
            A slice of the stream, and by order the int64 ids of the n-grams that end at each of its words,
            or UNSEEN or OUTSIDE. Each array begins with the id for the word before the slice, OUTSIDE if
            there is none.
        """
        if len(stream) >= _INDEX_FROM and not self._indices:
            self._indices = [
                Index(*level) for level in zip(self.trie.words[1:], self.trie.first_child, strict=True)
            ]
        for start in range(0, len(stream), _PIECE):
            end = min(start + _PIECE, len(stream))
            before = min(start, self.trie.order)  # with these words, matches are as in the whole stream
            ids = self._match_piece(stream[start - before : end], bos)
            if before:
                yield slice(start, end), [level[before - 1 :] for level in ids]
            else:
                yield slice(start, end), [np.concatenate([[OUTSIDE], level]) for level in ids]

    def _match_piece(self, words: np.ndarray, bos: bool) -> list[np.ndarray]:
        ids = [words.astype(np.int64)]
        begins = words[1:] == BOS
        if not bos:
            ids[0][words == BOS] = OUTSIDE
        for order in range(2, self.trie.order + 1):
            contexts, suffixes = ids[-1][:-1], ids[-1][1:]
            found = np.full(len(words), UNSEEN, np.int64)
            found[0] = OUTSIDE
            found[1:][(contexts == OUTSIDE) | begins] = OUTSIDE
            rows = np.flatnonzero((contexts >= 0) & (suffixes >= 0) & ~begins)
            found[1 + rows] = self._find(order, contexts.take(rows), words[1:].take(rows))
            ids.append(found)
        return ids

    def _find(self, order: int, contexts: np.ndarray, words: np.ndarray) -> np.ndarray:
        if self._indices:
            return self._indices[order - 2].find(contexts, words)
        return self.trie.find(order, contexts, words)


def _key(contexts: np.ndarray, words: np.ndarray) -> np.ndarray:
    return (contexts.astype(np.uint64) << _WORD_BITS) | words.astype(np.uint64)
