"""White-space separated words found in text and looked up, many at a time by numpy calls.

A word's first eight bytes, zero-padded, are its key, so that most words are found by one look into a hash
table and one comparison. A longer word's key is a hash with a zero in its first byte, where no short word
has one, and its bytes are compared too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lm_jax.ngram.hashing import IdTable, mix

# A line feed becomes two words of its own, which no other text can give: "\n" ends a sentence and "\n\n"
# begins the next. Sentence marks then come out of the tokeniser like any word.
END_MARK, BEGIN_MARK = b"\n", b"\n\n"
_MARKS = b" " + END_MARK + b" " + BEGIN_MARK + b" "
_DELIMITERS = b"\0\t\r "  # beside the line feed, and no other byte: what lmplz splits at
_IS_WORD = bytes(byte not in _DELIMITERS for byte in range(256))
_PADDING = b" " * 16
_LOW_BYTES = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)


class Words(NamedTuple):
    """Where the words of a text lie: word i is the bytes `text[starts[i]:starts[i] + sizes[i]]`."""

    text: bytes
    starts: np.ndarray
    sizes: np.ndarray

    def select(self, rows: np.ndarray) -> Words:
        """The words of the given rows."""
        return Words(self.text, self.starts.take(rows), self.sizes.take(rows))

    def tolist(self) -> list[bytes]:
        """The words themselves."""
        return [self.text[a : a + n] for a, n in zip(self.starts.tolist(), self.sizes.tolist(), strict=True)]


def split(text: bytes) -> Words:
    """Find the words of a text, the marks of its sentences among them."""
    text = b" " + text.replace(b"\n", _MARKS) + _PADDING
    in_word = np.frombuffer(text.translate(_IS_WORD), np.bool_)
    edges = np.flatnonzero(in_word[1:] != in_word[:-1])
    edges += 1
    return Words(text, edges[::2].copy(), edges[1::2] - edges[::2])


def _join(words: list[bytes]) -> Words:
    """Lay words out as one text, white space in them notwithstanding."""
    sizes = np.array([len(word) for word in words], np.int64)
    return Words(b"".join(words) + _PADDING, np.cumsum(sizes) - sizes, sizes)


def _is_one_word(word: bytes) -> bool:
    return 0 < len(word) == len(word.translate(None, _DELIMITERS + b"\n"))


def eight_bytes(text: bytes | bytearray) -> np.ndarray:
    """A view of the eight bytes, as a little-endian integer, that begin at each byte of the text."""
    return np.ndarray(len(text) - 8, "<u8", buffer=text, strides=(1,))


def _keys(words: Words, seed: int = 0) -> np.ndarray:
    """uint64 keys; `seed` chooses another hash for the words longer than eight bytes."""
    windows = eight_bytes(words.text)
    keys = windows[words.starts]
    keys &= _LOW_BYTES.take(np.minimum(words.sizes, 8))
    long = np.flatnonzero(words.sizes > 8)
    if len(long):
        keys[long] = _hash(words.select(long), windows, seed)
    return keys


def _hash(words: Words, windows: np.ndarray, seed: int) -> np.ndarray:
    """A 56-bit hash of every byte of words longer than eight, in the high bytes of a uint64."""
    hashes = mix(windows[words.starts] + np.uint64(seed))
    rows = np.arange(len(hashes))
    for at in range(8, int(words.sizes.max()), 8):
        rows = rows.compress(words.sizes.take(rows) > at)
        left = np.minimum(words.sizes.take(rows) - at, 8)
        hashes[rows] = mix(
            hashes.take(rows) ^ (windows[words.starts.take(rows) + at] & _LOW_BYTES.take(left))
        )
    return hashes << np.uint64(8)


class WordTable:
    """Distinct words and their ids, found in text many at a time.

    Attributes:
        words: the words by id.
    """

    def __init__(self, words: list[bytes], marks: dict[bytes, int]):
        """Make a table.

        Args:
            words: distinct words in the order of their ids. Words that are empty or hold a delimiter keep
                their ids, and are never found.
            marks: what END_MARK and BEGIN_MARK stand for.
        """
        self.words = list(words)
        self._keys = np.zeros(0, np.uint64)  # by id, as are the next two; 0 is nobody's key
        self._starts = np.zeros(0, np.int64)
        self._sizes = np.zeros(0, np.int64)
        self._long_words = bytearray()
        self._table = IdTable(1 << 16)
        self._insert(_join(list(marks)), np.array(list(marks.values()), np.int32))
        ids = [i for i, word in enumerate(self.words) if _is_one_word(word)]
        self._insert(_join([self.words[i] for i in ids]), np.array(ids, np.int32))

    def find(self, words: Words) -> np.ndarray:
        """int32 ids, -1 where a word is not known."""
        ids = self._find_keys(_keys(words))
        rows, seed = self._mistaken(words, ids, np.flatnonzero(words.sizes > 8)), 0
        while len(rows):  # two long words share a hash: the one that came second is under another
            seed += 1
            ids[rows] = self._find_keys(_keys(words.select(rows), seed))
            rows = self._mistaken(words, ids, rows)
        return ids

    def find_or_add(self, words: Words) -> np.ndarray:
        """int32 ids; words that are not known get the next ids in the order of their first appearance."""
        ids = self.find(words)
        missing = np.flatnonzero(ids < 0)
        if len(missing):
            strings = words.select(missing).tolist()
            new = {word: len(self.words) + i for i, word in enumerate(dict.fromkeys(strings))}
            ids[missing] = [new[word] for word in strings]
            self.words += new
            self._insert(_join(list(new)), np.fromiter(new.values(), np.int32, len(new)))
        return ids

    def _find_keys(self, keys: np.ndarray) -> np.ndarray:
        def is_match(ids: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
            return self._keys.take(ids) == (keys if rows is None else keys.take(rows))

        return self._table.find(mix(keys), is_match)

    def _mistaken(self, words: Words, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Those of the rows, all of long words, whose word is not that of the id found for them."""
        rows = rows.compress(ids.take(rows) >= 0)
        if not len(rows):
            return rows
        here, there = eight_bytes(words.text), eight_bytes(self._long_words)
        known, sizes, starts = ids.take(rows), words.sizes.take(rows), words.starts.take(rows)
        mistaken = self._sizes.take(known) != sizes
        same = np.flatnonzero(~mistaken)
        for at in range(0, int(sizes.max()), 8):
            same = same.compress(sizes.take(same) > at)
            unequal = here[starts.take(same) + at] ^ there[self._starts.take(known.take(same)) + at]
            unequal &= _LOW_BYTES.take(np.minimum(sizes.take(same) - at, 8))
            mistaken[same.compress(unequal != 0)] = True
            same = same.compress(unequal == 0)
        return rows.compress(mistaken)

    def _insert(self, words: Words, ids: np.ndarray, seed: int = 0) -> None:
        """Enter distinct new words under the given ids."""
        self._make_room()
        keys = _keys(words, seed)
        _, first = np.unique(keys, return_index=True)
        fresh = first.compress(self._find_keys(keys.take(first)) < 0)
        entered = words.select(fresh)
        to = ids.take(fresh)
        self._keys[to], self._sizes[to] = keys.take(fresh), entered.sizes
        long = np.flatnonzero(entered.sizes > 8)
        self._starts[to.take(long)] = (
            len(self._long_words) + np.cumsum(entered.sizes.take(long)) - entered.sizes.take(long)
        )
        self._long_words += b"".join(entered.select(long).tolist()) + _PADDING
        self._table.insert(mix(keys.take(fresh)), to)
        if len(fresh) < len(ids):
            rest = np.delete(np.arange(len(ids)), fresh)
            self._insert(words.select(rest), ids.take(rest), seed + 1)

    def _make_room(self) -> None:
        if len(self.words) > len(self._keys):
            size = max(2 * len(self.words), 1 << 16)
            self._keys, self._starts, self._sizes = (
                np.concatenate([old, np.zeros(size - len(old), old.dtype)])
                for old in (self._keys, self._starts, self._sizes)
            )
        if len(self.words) > self._table.capacity:
            self._table = IdTable(2 * len(self.words))
            known = np.flatnonzero(self._keys)
            self._table.insert(mix(self._keys.take(known)), known.astype(np.int32))
