"""Finding the words of a text and their ids, many words to a numpy call.

A word of up to 16 bytes is compared as two 64-bit integers. Longer words, which are rare, are looked up in a
dictionary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from lm_jax.text.hashing import IdTable, mix
from lm_jax.text.words import IS_SPACE, SPACE_BYTES

NEWLINE = b"\n"
_KEY_BYTES = 16  # the longest word that is compared as integers
_PADDING = b" " * _KEY_BYTES  # after a text, so that 16 bytes can be read from each of its bytes on
_LOW_BYTES = np.array(
    [(1 << 8 * size) - 1 for size in range(9)], np.uint64
)  # masks of the first 0 to 8 bytes
_SPACES = np.uint64(0x2020202020202020)
_PIECE = 1 << 18  # bytes of text at a time, so that the arrays made of them stay in a core's cache
_WHITE_SPACE = re.compile(b"[%b]" % SPACE_BYTES)


class Words(NamedTuple):
    """Words by their places: word i is the bytes `text[starts[i] : starts[i] + sizes[i]]`.

    Attributes:
        text: the text, with 16 spaces after it.
        starts: int64 [N].
        sizes: int64 [N], in bytes.
    """

    text: bytes
    starts: np.ndarray
    sizes: np.ndarray

    def select(self, rows: np.ndarray) -> Words:
        """The words of the given rows."""
        return Words(self.text, self.starts.take(rows), self.sizes.take(rows))

    def tolist(self) -> list[bytes]:
        """The words as bytes."""
        return [self.text[a : a + n] for a, n in zip(self.starts.tolist(), self.sizes.tolist(), strict=True)]


def split(text: bytes, is_space: np.ndarray = IS_SPACE) -> Words:
    """The words of a text; each newline is a word by itself.

    Args:
        text: any bytes.
        is_space: bool [256], the bytes that separate words; the space and the newline must be among them.
    """
    text += _PADDING
    is_word = np.frombuffer(text.translate((~is_space).tobytes()), np.bool_)
    is_start = np.frombuffer(text, np.uint8) == NEWLINE[0]
    is_last = is_start.copy()
    is_start[0] |= is_word[0]
    is_start[1:] |= is_word[1:] > is_word[:-1]
    is_last[:-1] |= is_word[:-1] > is_word[1:]
    starts, lasts = np.flatnonzero(is_start), np.flatnonzero(is_last)
    return Words(text, starts, lasts - starts + 1)


def split_words(text: bytes) -> Words:
    """The words of a text without its newlines: those whose bytes `words.word_spans` gives."""
    words = split(text)
    is_word = np.frombuffer(words.text, np.uint8).take(words.starts) != NEWLINE[0]
    return words.select(np.flatnonzero(is_word))


def look_up(find: Callable[[Words], np.ndarray], text: bytes) -> np.ndarray:
    """The int32 ids of all words and newlines of a text, by `WordTable.find` or `find_or_add`."""
    return np.concatenate([np.zeros(0, np.int32), *(find(split(piece)) for piece in _pieces(text))])


def _pieces(text: bytes) -> Iterator[bytes]:
    """The text in pieces that end at white space."""
    start = 0
    while start < len(text):
        match = _WHITE_SPACE.search(text, start + _PIECE)
        end = match.end() if match else len(text)
        yield text[start:end]
        start = end


def eight_bytes(text: bytes) -> np.ndarray:
    """A view of the eight bytes, as a little-endian integer, that begin at each byte of the text."""
    return np.ndarray(len(text) - 8, "<u8", buffer=text, strides=(1,))


class _Keys(NamedTuple):
    """The bytes of words of up to 16 bytes as integers; of longer words, the first 16 bytes.

    The bytes after a word's end are zero. Every byte is combined with a space by exclusive or: no word holds
    a space, so that no byte of a key is zero, not even for NUL, which older vocabularies have in words.
    """

    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, words: Words) -> _Keys:
        windows = eight_bytes(words.text)
        first, second = windows[words.starts] ^ _SPACES, np.zeros(len(words.starts), np.uint64)
        first &= _LOW_BYTES.take(np.minimum(words.sizes, 8))
        long = np.flatnonzero(words.sizes > 8)
        sizes = np.minimum(words.sizes.take(long) - 8, 8)
        second[long] = (windows[words.starts.take(long) + 8] ^ _SPACES) & _LOW_BYTES.take(sizes)
        return cls(first, second)

    def hashes(self) -> np.ndarray:
        return mix(self.first + mix(self.second))


class WordTable:
    """Words and their ids, which are found many at a time.

    Attributes:
        ids: the id of each word.
    """

    def __init__(self, ids: Mapping[bytes, int]):
        """Makes a table.

        Args:
            ids: words and their ids from 0 on. A word that is empty or holds a space is never found.
        """
        self.ids: dict[bytes, int] = {}
        self._size = 0  # of the words that are compared as integers
        self._keys = _Keys(np.zeros(1, np.uint64), np.zeros(1, np.uint64))  # by id
        self._table = IdTable(0)
        self._add(ids)

    def find(self, words: Words) -> np.ndarray:
        """int32 ids; -1 for words that the table does not have."""
        keys = _Keys.of(words)

        def is_match(ids: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
            first, second = keys if rows is None else (key.take(rows) for key in keys)
            return (self._keys.first.take(ids) == first) & (self._keys.second.take(ids) == second)

        ids = self._table.find(keys.hashes(), is_match)
        rows = np.flatnonzero(words.sizes > _KEY_BYTES)
        if len(rows):
            ids[rows] = [self.ids.get(word, -1) for word in words.select(rows).tolist()]
        return ids

    def find_or_add(self, words: Words) -> np.ndarray:
        """int32 ids; new words get the next ones, from `len(self.ids)` on, in the order of appearance."""
        ids = self.find(words)
        missing = np.flatnonzero(ids < 0)
        if len(missing):
            strings = words.select(missing).tolist()
            new = {word: len(self.ids) + i for i, word in enumerate(dict.fromkeys(strings))}
            ids[missing] = [new[word] for word in strings]
            self._add(new)
        return ids

    def _add(self, new: Mapping[bytes, int]) -> None:
        """Adds words that the table does not have."""
        self.ids.update(new)
        short = {word: i for word, i in new.items() if 0 < len(word) <= _KEY_BYTES and b" " not in word}
        if not short:
            return
        ids, keys = np.fromiter(short.values(), np.int32, len(short)), _Keys.of(_join(short))
        self._make_room(self._size + len(short), int(ids.max()) + 1)
        self._keys.first[ids], self._keys.second[ids] = keys
        self._table.insert(keys.hashes(), ids)
        self._size += len(short)

    def _make_room(self, size: int, end: int) -> None:
        """Makes room for so many words, and for ids below `end`."""
        if end > len(self._keys.first):
            more = np.zeros(2 * end - len(self._keys.first), np.uint64)
            self._keys = _Keys(*(np.concatenate([key, more]) for key in self._keys))
        if size > self._table.capacity:
            self._table = IdTable(2 * size)
            known = np.flatnonzero(self._keys.first)
            keys = _Keys(*(key.take(known) for key in self._keys))
            self._table.insert(keys.hashes(), known.astype(np.int32))


def _join(words: Iterable[bytes]) -> Words:
    """Words one after the other, with nothing between them."""
    words = list(words)
    sizes = np.array([len(word) for word in words], np.int64)
    return Words(b"".join(words) + _PADDING, np.cumsum(sizes) - sizes, sizes)
