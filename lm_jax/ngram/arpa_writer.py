"""Writes ARPA files.

A line consists of pieces of known sizes: words and numbers, each with its separator. One numpy assignment
stores the pieces of many lines as overlapping items of 16 bytes in the order of their places: each item
overwrites the excess bytes of the item before. The rest of words longer than 16 bytes is stored afterwards.
"""

from __future__ import annotations

import os

import numpy as np

from lm_jax.errors import UserError
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.trie import Trie
from lm_jax.ngram.vocabulary import SPECIALS, UNK_SPELLINGS, Progress, create
from lm_jax.text.words import words_of

_ITEM = 16
_LINES = 1 << 12  # lines formatted at a time, so that they stay in the cache
_LONGEST_WORD = 1 << 22  # bytes, so that lines can be read again
_ZERO = -99.0  # the format's log10 of 0


def write(model: NGramModel, path: str | os.PathLike, progress: Progress | None = None) -> None:
    """Writes a model as an ARPA file, compressed where its name ends in .gz; numbers have eight decimals.

    Raises:
        UserError: the format cannot represent the model, or the file cannot be written.
    """
    if model.log10_unseen:
        raise UserError("an ARPA file cannot represent stupid back-off", "save the model in its own format")
    tables = _Tables(model.vocabulary.words)
    sizes = [len(level) for level in model.log10_probs]
    with create(path) as file:
        counts = "".join(f"ngram {n}={size}\n" for n, size in enumerate(sizes, 1))
        file.write(f"\\data\\\n{counts}\n".encode())
        for n, size in enumerate(sizes, 1):
            file.write(f"\\{n}-grams:\n".encode())
            for low in range(0, size, _LINES):
                here = slice(low, min(low + _LINES, size))
                backoffs = model.log10_backoffs[n - 1][here] if n < model.order else None
                file.write(
                    tables.lines(model.log10_probs[n - 1][here], _words(model.trie, n, here), backoffs)
                )
                if progress:
                    progress(f"writing {n}-grams", here.stop, size)
            file.write(b"\n")
        file.write(b"\\end\\\n")


def _words(trie: Trie, n: int, here: slice) -> np.ndarray:
    """The word ids of n-grams, int64 [rows, n]."""
    if n == 1:
        return trie.words[0][here, None].astype(np.int64)
    starts = trie.first_child[n - 2]
    first, end = np.searchsorted(starts, np.array([here.start, here.stop - 1], starts.dtype), "right")
    sizes = np.diff(np.clip(starts[first - 1 : end + 1], here.start, here.stop))
    words = np.empty((here.stop - here.start, n), np.int64)
    words[:, :-1] = _words(trie, n - 1, slice(first - 1, end)).repeat(sizes, axis=0)
    words[:, -1] = trie.words[n - 1][here]
    return words


class _Tables:
    """Look-up tables: words with a space after them, and parts of numbers."""

    def __init__(self, words: list[bytes]):
        for word in words:
            if words_of(word) != [word] or len(word) > _LONGEST_WORD:
                raise UserError(
                    f"an ARPA file cannot hold the word {word[:40]!r}",
                    "use a tokenizer whose words have no white space, and at most 4 MiB",
                )
        if misread := set(UNK_SPELLINGS).intersection(words[len(SPECIALS) :]):
            raise UserError(
                f"an ARPA file cannot hold the word {min(misread)!r} beside <unk>: both are the unknown word",
                "train the tokenizer again",
            )
        self.sizes = np.array([len(word) + 1 for word in words])
        self.items = np.array([word + b" " for word in words], f"S{_ITEM}").view(f"V{_ITEM}")
        self.text = np.frombuffer(b" ".join(words) + b" ", np.uint8)
        self.starts = np.cumsum(self.sizes) - self.sizes
        whole = [f"{sign}{number}.".encode() for sign in ("", "-") for number in range(100)]
        self.whole = np.array(whole, "S8").view(np.uint64)
        self.whole_sizes = np.array([len(text) for text in whole])
        self.four_digits = (
            np.array([f"{i:04d}".encode() for i in range(10_000)]).view(np.uint32).astype(np.uint64)
        )

    def lines(self, probs: np.ndarray, words: np.ndarray, backoffs: np.ndarray | None) -> memoryview:
        """The lines of n-grams of one order."""
        num_lines, n = words.shape
        pieces = np.zeros((num_lines, 1 + n + (backoffs is not None)), np.int64)
        pieces[:, 1 : n + 1] = words
        items, sizes = self.items.take(pieces), self.sizes.take(pieces)
        sizes[:, 0] = self._numbers(probs, b"\t", items[:, 0])
        if backoffs is not None:
            sizes[:, -1] = self._numbers(backoffs, b"\n", items[:, -1])
        ends = np.cumsum(sizes)
        places, sizes = ends - sizes.ravel(), sizes.ravel()
        text = np.empty(int(ends[-1]) + _ITEM, np.uint8)
        np.ndarray(len(text) - _ITEM, items.dtype, text, strides=(1,))[places] = items.ravel()
        long = np.flatnonzero(sizes > _ITEM)
        if len(long):
            self._finish(text, places.take(long), pieces.ravel().take(long))
        text[ends[n :: pieces.shape[1]] - 1] = ord(
            "\n" if backoffs is None else "\t"
        )  # in place of the space
        return text[: int(ends[-1])].data

    def _finish(self, text: np.ndarray, places: np.ndarray, words: np.ndarray) -> None:
        """Stores the bytes of long words after the first 16."""
        sizes = self.sizes.take(words) - _ITEM
        offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes) + _ITEM
        text[np.repeat(places, sizes) + offsets] = self.text[
            np.repeat(self.starts.take(words), sizes) + offsets
        ]

    def _numbers(self, values: np.ndarray, end: bytes, items: np.ndarray) -> np.ndarray:
        """Writes numbers with eight decimals and a separator into items; returns their sizes."""
        scaled = np.rint(np.clip(values.astype(np.float64), _ZERO, -_ZERO) * 1e8).astype(np.int64)
        is_negative = scaled < 0
        np.abs(scaled, out=scaled)
        whole, high = scaled // 10**8, scaled // 10**4  # np.divmod is slower
        low, high = scaled - high * 10**4, high - whole * 10**4
        whole += 100 * is_negative
        digits = self.four_digits.take(high) | (self.four_digits.take(low) << np.uint64(32))
        sizes = self.whole_sizes.take(whole)
        bits = (8 * sizes).astype(np.uint64)
        halves = np.empty((len(values), 2), np.uint64)
        halves[:, 0] = self.whole.take(whole) | (digits << bits)
        halves[:, 1] = (digits >> (np.uint64(64) - bits)) | (np.uint64(end[0]) << bits)
        items[:] = halves.view(items.dtype)[:, 0]
        return sizes + 9
