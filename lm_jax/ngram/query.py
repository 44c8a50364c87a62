"""Which n-grams end at each word of a text: the longest match at every order, for whole documents at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lm_jax.ngram.hashing import IdTable, mix
from lm_jax.ngram.trie import Trie
from lm_jax.ngram.vocabulary import BOS

UNSEEN, OUTSIDE = -1, -2  # instead of an id: the n-gram is not in the tree; it would begin before the <s>
_PIECE = 1 << 14  # words of text at a time
_INDEX_FROM = 1 << 14  # words of text from which on the hash tables are worth making
_WORD_BITS = np.uint64(32)


class Matcher:
    """Finds the n-grams of a tree in text.

    Short texts are matched by binary search among an n-gram's children; the first long one makes a hash
    table an order, from an n-gram's context and last word to its id.
    """

    def __init__(self, trie: Trie):
        self.trie = trie
        self._tables: list[IdTable] = []

    def match(self, stream: np.ndarray) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Match a stream piece by piece.

        Args:
            stream: ids of words, each sentence beginning with `<s>`. What comes before the first `<s>` is
                matched without a history.

        Yields:
            The words of the stream that a piece holds, and by order an integer array for one word more,
            the one before the piece (OUTSIDE if there is none) in front: the id of the n-gram that ends at
            each word, UNSEEN or OUTSIDE.
        """
        if len(stream) >= _INDEX_FROM and not self._tables:
            self._tables = [self._index(order) for order in range(2, self.trie.order + 1)]
        for start in range(0, len(stream), _PIECE):
            end = min(start + _PIECE, len(stream))
            before = min(
                start, self.trie.order
            )  # so many words more, and all matches are those of the whole text
            ids = self._match_piece(stream[start - before : end])
            if before:
                yield slice(start, end), [level[before - 1 :] for level in ids]
            else:
                yield slice(start, end), [np.concatenate([[OUTSIDE], level]) for level in ids]

    def _match_piece(self, words: np.ndarray) -> list[np.ndarray]:
        ids = [words.astype(np.int64)]
        begins = words[1:] == BOS
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
        if not self._tables:
            return self.trie.find(order, contexts, words)
        last_words, first_child = self.trie.words[order - 1], self.trie.first_child[order - 2]
        low, high = first_child.take(contexts), first_child.take(contexts + 1)

        def is_match(ids: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
            chosen = (
                (words, low, high) if rows is None else (words.take(rows), low.take(rows), high.take(rows))
            )
            return (last_words.take(ids, mode="wrap") == chosen[0]) & (ids >= chosen[1]) & (ids < chosen[2])

        return self._tables[order - 2].find(_hash(contexts, words), is_match)

    def _index(self, order: int) -> IdTable:
        """The hash table of the n-grams of one order."""
        last_words, first_child = self.trie.words[order - 1], self.trie.first_child[order - 2]
        table = IdTable(len(last_words))
        for low in range(0, len(first_child) - 1, _PIECE):
            starts = first_child[low : low + _PIECE + 1]
            contexts = np.repeat(np.arange(low, low + len(starts) - 1), np.diff(starts))
            hashes = _hash(contexts, last_words[starts[0] : starts[-1]])
            table.insert(hashes, np.arange(starts[0], starts[-1], dtype=np.int32))
        return table


def _hash(contexts: np.ndarray, words: np.ndarray) -> np.ndarray:
    return mix((contexts.astype(np.uint64) << _WORD_BITS) | words.astype(np.uint64))
