"""ARPA files: the writer.

A line is pieces of known lengths: numbers, words, separators. They are all stored in one call, as overlapping
32-byte items in the order of their places: what an item spills over its piece is covered by the next one.
"""

from __future__ import annotations

import os

import numpy as np

from lm_jax.errors import UserError
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.trie import Trie
from lm_jax.ngram.vocabulary import Progress, open_binary

_ITEM = 32  # bytes stored at a time; of longer words the rest is stored one by one
_LINES = 1 << 12  # lines put together at a time, so that they stay in the cache
_ENDS = (b" ", b"\t", b"\n")
_SPACE, _TAB, _LINE_FEED = range(3)
_ZERO = -99.0  # what the format has for the logarithm of 0


def write(model: NGramModel, path: str | os.PathLike, progress: Progress | None = None) -> None:
    """Write a model as an ARPA file, packed where the name ends in .gz; numbers have eight decimals.

    Raises:
        UserError: the format cannot hold the model, or the file cannot be written.
    """
    if model.log10_unseen:
        raise UserError(
            "an ARPA file cannot hold the constant of stupid back-off", "save the model as its own file"
        )
    tables = _Tables(model.vocabulary.words)
    sizes = [len(level) for level in model.log10_probs]
    with open_binary(path, "wb") as file:
        counts = "".join(f"ngram {n}={size}\n" for n, size in enumerate(sizes, 1))
        file.write(f"\\data\\\n{counts}\n".encode())
        for n, size in enumerate(sizes, 1):
            file.write(f"\\{n}-grams:\n".encode())
            for low in range(0, size, _LINES):
                here = slice(low, min(low + _LINES, size))
                backoffs = model.log10_backoffs[n - 1][here] if n < model.order else None
                file.write(tables.lines(model.log10_probs[n - 1][here], _rows(model.trie, n, here), backoffs))
                if progress:
                    progress(f"writing {n}-grams", here.stop, size)
            file.write(b"\n")
        file.write(b"\\end\\\n")


def _rows(trie: Trie, n: int, here: slice) -> np.ndarray:
    """The words of some n-grams, one n-gram a row."""
    if n == 1:
        return trie.words[0][here, None].astype(np.int64)
    starts = trie.first_child[n - 2]
    first, end = np.searchsorted(starts, np.array([here.start, here.stop - 1], starts.dtype), "right")
    first -= 1
    sizes = np.diff(np.clip(starts[first : end + 1], here.start, here.stop))
    return np.column_stack(
        [_rows(trie, n - 1, slice(first, end)).repeat(sizes, axis=0), trie.words[n - 1][here]]
    )


class _Tables:
    """Words and parts of numbers as items of bytes."""

    def __init__(self, words: list[bytes]):
        for word in words:
            if len(word.split()) != 1 or b"\0" in word:
                raise UserError(f"an ARPA file cannot hold the word {word!r}", "name it without white space")
        self.words = words
        self.num_words = len(words)
        self.sizes = np.array([len(word) + 1 for word in words])
        # Each word with a space, then each with a tab, then each with a line feed behind it.
        self.items = np.concatenate([_items(words, end) for end in _ENDS])
        signed = [f"{sign}{whole}.".encode() for sign in ("", "-") for whole in range(100)]
        self.whole = _items(signed, b"").view(np.uint64)[:: _ITEM // 8]
        self.whole_sizes = np.array([len(text) for text in signed])
        self.four_digits = (
            np.array([f"{i:04d}".encode() for i in range(10_000)]).view(np.uint32).astype(np.uint64)
        )

    def lines(self, probs: np.ndarray, rows: np.ndarray, backoffs: np.ndarray | None) -> memoryview:
        """The lines of n-grams of one order."""
        num_lines, n = rows.shape
        last = _LINE_FEED if backoffs is None else _TAB
        items = np.empty((num_lines, 1 + n + (backoffs is not None)), self.items.dtype)
        sizes = np.empty(items.shape, np.int64)
        sizes[:, 0] = self._numbers(probs, _TAB, items[:, 0])
        sizes[:, 1 : n + 1] = self.sizes.take(rows)
        items[:, 1:n] = self.items.take(rows[:, :-1])
        items[:, n] = self.items.take(rows[:, -1] + last * self.num_words)
        if backoffs is not None:
            sizes[:, -1] = self._numbers(backoffs, _LINE_FEED, items[:, -1])
        ends = np.cumsum(sizes.ravel())
        places = ends - sizes.ravel()
        text = np.empty(int(ends[-1]) + _ITEM, np.uint8)
        np.ndarray(len(text) - _ITEM, items.dtype, text, strides=(1,))[places] = items.ravel()
        for line, column in np.argwhere(sizes[:, 1 : n + 1] > _ITEM).tolist():
            place = places[line * items.shape[1] + column + 1]
            word = self.words[rows[line, column]] + _ENDS[last if column == n - 1 else _SPACE]
            text[place : place + len(word)] = np.frombuffer(word, np.uint8)
        return text[: int(ends[-1])].data

    def _numbers(self, values: np.ndarray, end: int, items: np.ndarray) -> np.ndarray:
        """Fill in items of numbers with eight decimals and the end of that number; gives their sizes."""
        finite = np.maximum(values.astype(np.float64), _ZERO)
        scaled = np.rint(np.abs(finite) * 1e8).astype(np.int64)
        whole, high = scaled // 10**8, scaled // 10**4  # np.divmod takes several times as long
        low, high = scaled - high * 10**4, high - whole * 10**4
        whole += 100 * (finite < 0)
        digits = self.four_digits.take(high) | (self.four_digits.take(low) << np.uint64(32))
        sizes = self.whole_sizes.take(whole)
        bits = (8 * sizes).astype(np.uint64)
        words = np.zeros((len(values), _ITEM // 8), np.uint64)
        words[:, 0] = self.whole.take(whole) | (digits << bits)
        words[:, 1] = (digits >> (np.uint64(64) - bits)) | (np.uint64(_ENDS[end][0]) << bits)
        items[:] = words.view(items.dtype)[:, 0]
        return sizes + 9


def _items(words: list[bytes], end: bytes) -> np.ndarray:
    """Words and what follows them, as items; of words that are too long the beginning."""
    return np.array([word + end for word in words], f"S{_ITEM}").view(f"V{_ITEM}")
