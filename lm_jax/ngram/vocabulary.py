"""Words and their ids, and the way from white-space separated text to a stream of ids.

A stream is one int32 array of sentences, each `<s> word ... word </s>`.
"""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import IO, cast

import numpy as np

from lm_jax.errors import UserError
from lm_jax.ngram.word_table import BEGIN_MARK, END_MARK, Words, WordTable, split

UNK, BOS, EOS = 0, 1, 2
SPECIALS = (b"<unk>", b"<s>", b"</s>")
Source = bytes | str | os.PathLike
Progress = Callable[[str, int, int], None]  # what is done, how much of it is, and how much there is in all
_MARKS = {END_MARK: EOS, BEGIN_MARK: BOS}
_UNNAMED = (b"", b"", b"")  # in the place of the specials, whose names in a text are words like any other
_PIECE = 1 << 18  # bytes of text at a time: what comes of them stays in a core's cache


class Vocabulary:
    """Words in the order of their ids. Ids 0, 1 and 2 are `<unk>`, `<s>` and `</s>`.

    Attributes:
        words: the words as bytes. Those of a character or BPE vocabulary may hold white space; only words
            that do not can be found in text.
    """

    def __init__(self, words: Iterable[bytes | str] = ()):
        """Make a vocabulary.

        Args:
            words: either words beside the three specials, or all words beginning with the three specials.

        Raises:
            UserError: a word occurs twice.
        """
        self.words = [word.encode() if isinstance(word, str) else bytes(word) for word in words]
        if tuple(self.words[:3]) != SPECIALS:
            self.words[:0] = SPECIALS
        if len(set(self.words)) < len(self.words):
            twice = next(word for i, word in enumerate(self.words) if self._id_of[word] != i)
            raise UserError(f"{twice!r} occurs twice in the vocabulary", "give every word once")

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _id_of(self) -> dict[bytes, int]:
        return {word: i for i, word in enumerate(self.words)}

    @cached_property
    def _table(self) -> WordTable:
        return WordTable([*_UNNAMED, *self.words[3:]], _MARKS)

    def ids(self, words: Iterable[bytes | str]) -> np.ndarray:
        """int32 ids of single words, UNK for those that are not in the vocabulary."""
        strings = (word.encode() if isinstance(word, str) else word for word in words)
        return np.array([self._id_of.get(word, UNK) for word in strings], np.int32)

    def encode(self, source: Source, progress: Progress | None = None) -> np.ndarray:
        """The stream of a text: one sentence a line, words parted by white space, UNK for unknown words.

        Args:
            source: the text as bytes, or the path of a file of it (.gz too).
            progress: hears how far the work is.
        """
        return _stream(source, lambda words: np.maximum(self._table.find(words), UNK), progress)


def read(
    source: Source, literal_unk: bool = False, progress: Progress | None = None
) -> tuple[Vocabulary, np.ndarray]:
    """Read text into a stream and the vocabulary of all its words, in the order of their first appearance.

    A line is a sentence, an empty line too. A last line without a line feed is closed like any other
    (lmplz gives it no `</s>`: the one known difference).

    Args:
        source: the text as bytes, or the path of a file of it (.gz too).
        literal_unk: count `<unk>` in the text as the unknown word instead of refusing it.
        progress: hears how far the work is.

    Raises:
        UserError: the file cannot be read, or the text holds `<s>`, `</s>` or `<unk>` as a word.
    """
    table = WordTable([SPECIALS[UNK] if literal_unk else b"", *_UNNAMED[1:]], _MARKS)
    stream = _stream(source, table.find_or_add, progress)
    for word in SPECIALS:
        if word in table.words[3:]:
            line = 1 + np.count_nonzero(stream[: np.argmax(stream == table.words.index(word, 3))] == EOS)
            raise UserError(
                f"the text holds {word.decode()} as a word, first in line {line}",
                "rename it or take it out"
                + ("; literal_unk counts it as the unknown word" if word == SPECIALS[UNK] else ""),
            )
    return Vocabulary(table.words[3:]), stream


def estimate_tokens(source: Source) -> int:
    """About how many words a text has, judging by its first mebibyte; for a .gz file by its packed size."""
    if isinstance(source, bytes):
        size, sample = len(source), source[: 1 << 20]
    else:
        with open_binary(source) as file:
            sample = file.read(1 << 20)
        size = os.path.getsize(source)
    return int(size / max(len(sample), 1) * (len(sample.split()) + 2 * sample.count(b"\n")))


def limit(
    vocabulary: Vocabulary, stream: np.ndarray, min_count: int = 1, max_size: int | None = None
) -> tuple[Vocabulary, np.ndarray]:
    """Keep the words seen at least `min_count` times, of these the `max_size` most frequent; the rest is UNK.

    Words keep their order. `max_size` counts words beside the three specials.
    """
    counts = np.bincount(stream, minlength=len(vocabulary))
    counts[: len(SPECIALS)] = np.iinfo(counts.dtype).max
    keep = counts >= min_count
    if max_size is not None:
        keep[np.argsort(-counts, kind="stable")[max_size + len(SPECIALS) :]] = False
    new_ids = np.where(keep, np.cumsum(keep) - 1, UNK).astype(np.int32)
    return Vocabulary(vocabulary.words[i] for i in np.flatnonzero(keep)), new_ids[stream]


def mark(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Join sentences into a stream.

    Args:
        ids: the words of all sentences, one after the other.
        lengths: how many words each sentence has; they add up to the number of ids.
    """
    if len(ids) != np.sum(lengths):
        raise UserError(f"{len(ids)} ids, but sentences of {np.sum(lengths)} words", "give every length")
    after = np.cumsum(np.asarray(lengths, np.int64) + 2)
    stream = np.empty(len(ids) + 2 * len(after), np.int32)
    is_word = np.ones(len(stream), np.bool_)
    for marks, word in ((after - lengths - 2, BOS), (after - 1, EOS)):
        stream[marks] = word
        is_word[marks] = False
    stream[is_word] = ids
    return stream


def open_binary(path: str | os.PathLike, mode: str = "rb") -> IO[bytes]:
    """Open a file of bytes, compressed where its name ends in .gz, or say what is in the way."""
    try:
        if os.fspath(path).endswith(".gz"):
            return cast(IO[bytes], gzip.open(path, mode, compresslevel=6))
        return cast(IO[bytes], open(path, mode))
    except OSError as error:
        raise UserError(f"cannot open {os.fspath(path)}: {error.strerror}", "check the path") from None


def _stream(source: Source, find: Callable[[Words], np.ndarray], progress: Progress | None) -> np.ndarray:
    with io.BytesIO(source) if isinstance(source, bytes) else open_binary(source) as file:
        size = len(source) if isinstance(source, bytes) else os.path.getsize(source)
        chunks, done = [np.array([BOS], np.int32)], 0
        for piece in _pieces(file):
            chunks.append(find(split(piece)))
            done += len(piece)
            if progress:
                progress("reading text", min(done, size), size)
    return np.concatenate(chunks)[:-1]  # the end of the last sentence has begun another


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    """The text in pieces that end in white space, the last one in a line feed."""
    rest, last = b"", b"\n"
    while block := file.read(_PIECE):
        cut = max(block.rfind(b"\n"), block.rfind(b" ")) + 1
        if cut:
            yield rest + block[:cut]
        rest, last = block[cut:] if cut else rest + block, block[-1:]
    if last != b"\n":
        yield rest + b"\n"
