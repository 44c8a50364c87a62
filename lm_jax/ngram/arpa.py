"""ARPA files, the text format that every n-gram toolkit reads and writes."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable
from typing import IO, NoReturn

import numpy as np

from lm_jax.errors import UserError
from lm_jax.ngram import decimals
from lm_jax.ngram.arpa_closure import Section, close
from lm_jax.ngram.arpa_writer import write
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.query import UNSEEN, Index
from lm_jax.ngram.trie import Trie
from lm_jax.ngram.vocabulary import SPECIALS, Progress, Vocabulary, open_binary
from lm_jax.text.word_table import NEWLINE, Words, WordTable, split

__all__ = ["read", "write"]
_BLOCK = 1 << 20  # bytes read at a time
_LONGEST_LINE = 1 << 24
_ROWS = 1 << 15  # n-grams looked up at a time
_IS_SPACE = np.isin(np.arange(256), [*b"\0\t\r\n "])  # KenLM's kARPASpaces: words may hold \v and \f
_MISSING_UNK = -100.0  # log10 p(<unk>) where the file has none, as in KenLM


def read(path: str | os.PathLike, progress: Progress | None = None) -> NGramModel:
    """Reads an ARPA file, compressed with gzip where its name ends in .gz.

    Words get ids in the order of the file, after the three special ones. If the file has no `<unk>`, unknown
    words get the probability 10^-100. A prefix or suffix of an n-gram that the file lacks, as after entropy
    pruning, is added with its back-off probability.

    Raises:
        UserError: the file cannot be read, or a line is malformed; the message names the line.
    """
    with open_binary(path) as file:
        lines = _Lines(file, os.fspath(path))
        sizes = _read_sizes(lines)
        vocabulary, unigrams = _read_unigrams(lines, sizes[0])
        table = WordTable({word: i for i, word in enumerate(vocabulary.words)})
        sections = [unigrams]
        for n, size in enumerate(sizes[1:], 2):
            sections.append(_read_section(lines, n, size, table.find))
            if progress:
                progress(f"reading {n}-grams", sum(sizes[:n]), sum(sizes))
        if np.any(sections[-1].log10_backoffs):
            row = int(np.argmax(sections[-1].log10_backoffs != 0))
            lines.fail("a back-off after an n-gram of the highest order", sections[-1].line + row)
        lines.expect("\\end\\")
    levels = _build(lines, sections) or _build(lines, close(sections))
    assert levels is not None  # closed sections have all prefixes and suffixes
    trie, log10_probs, log10_backoffs = levels
    return NGramModel(vocabulary, trie, log10_probs, log10_backoffs[:-1])


class _Lines:
    """The lines of a file, one or many at a time.

    Attributes:
        number: of the last line read, from 1.
    """

    def __init__(self, file: IO[bytes], name: str):
        self.number = 0
        self._file, self._name, self._text = file, name, b""

    def fail(self, cause: str, line: int | None = None) -> NoReturn:
        """Raises a UserError about a line, by default the last one read."""
        where = f"{self._name}, line {self.number if line is None else line}"
        raise UserError(f"{where}: {cause}", "correct the file, or write it again with its toolkit")

    def take(self, most: int) -> bytes:
        """At least one and at most `most` whole lines; empty at the end of the file."""
        try:
            while b"\n" not in self._text[-_BLOCK:] and (more := self._file.read(_BLOCK)):
                self._text += more
                if len(self._text) > _LONGEST_LINE:
                    self.fail("the next line is longer than 16 MiB; is this an ARPA file?")
        except (EOFError, OSError, zlib.error) as error:
            self.fail(f"the compressed file is damaged or truncated after it ({error})")
        if self._text and b"\n" not in self._text:
            self._text += b"\n"
        ends = np.flatnonzero(np.frombuffer(self._text, np.uint8) == ord("\n"))[:most]
        end = int(ends[-1]) + 1 if len(ends) else 0
        taken, self._text = self._text[:end], self._text[end:]
        self.number += len(ends)
        return taken

    def next(self) -> str:
        """The next line that is not blank, stripped; empty at the end of the file."""
        while line := self.take(1):
            if line.strip():
                break
        return line.strip().decode(errors="replace")

    def expect(self, text: str) -> None:
        """Reads blank lines and then a line with this text."""
        line = self.next()
        if line != text:
            self.fail(
                f"expected {text}, found {line[:60]!r}"
                if line
                else f"the file ends where {text} should follow"
            )


def _read_sizes(lines: _Lines) -> list[int]:
    """The number of n-grams of each order, from the header."""
    while (line := lines.next()).startswith("#"):
        pass
    if line != "\\data\\":
        lines.fail(f"expected \\data\\, found {line[:60]!r}")
    sizes: list[int] = []
    while entry := lines.take(1).strip():
        match = re.fullmatch(rb"ngram\s+(\d+)\s*=\s*(\d+)", entry)
        if not match or int(match[1]) != len(sizes) + 1:
            found = entry[:60].decode(errors="replace")
            lines.fail(f"expected 'ngram {len(sizes) + 1}=' and a number, found {found!r}")
        sizes.append(int(match[2]))
    if not sizes:
        lines.fail("no line 'ngram 1=' and a number follows \\data\\")
    return sizes


def _read_section(lines: _Lines, n: int, size: int, find: Callable[[Words], np.ndarray]) -> Section:
    """Reads the n-grams of one order."""
    lines.expect(f"\\{n}-grams:")
    start, got, parts = lines.number + 1, 0, []
    while got < size:
        text = lines.take(size - got)
        if not text:
            lines.fail(f"the file ends after {got} of {size} {n}-grams")
        parts.append(_parse(lines, text, n, start + got, find))
        got += len(parts[-1][1])
    if not parts:
        parts = [(np.zeros((0, n), np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32))]
    words, log10_probs, log10_backoffs = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Section(words, log10_probs, log10_backoffs, start)


def _parse(
    lines: _Lines, text: bytes, n: int, line: int, find: Callable[[Words], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Word ids [m, n], log10 probabilities [m] and log10 back-offs [m] of lines from number `line` on."""
    fields = split(text, _IS_SPACE)
    is_end = (fields.sizes == 1) & (np.frombuffer(fields.text, np.uint8)[fields.starts] == NEWLINE[0])
    ends = np.flatnonzero(is_end)
    begins = np.concatenate([[0], ends[:-1] + 1])
    has_backoff = ends - begins == n + 2

    def refuse(wrong: np.ndarray | np.bool_, cause: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            found = text.split(b"\n", row + 1)[row].decode(errors="replace")
            lines.fail(f"{cause} in {found[:80]!r}", line + row)

    refuse(
        (ends - begins != n + 1) & ~has_backoff,
        f"expected a probability, {n} words and optionally a back-off",
    )
    probs, wrong = decimals.parse(fields.select(begins))
    refuse(wrong, "the probability is not a number")
    refuse(probs > 0, "the log probability is above 0")
    backoffs = np.zeros(len(begins), np.float32)
    wrong = np.zeros(len(begins), np.bool_)
    backoffs[has_backoff], wrong[has_backoff] = decimals.parse(fields.select(begins[has_backoff] + n + 1))
    refuse(np.logical_or(wrong, np.isinf(backoffs)), "the back-off is not a number")
    ids = find(fields.select((begins[:, None] + np.arange(1, n + 1)).ravel())).reshape(-1, n)
    refuse((ids < 0).any(axis=1), "a word that is not among the 1-grams")
    return ids, probs, backoffs


def _read_unigrams(lines: _Lines, size: int) -> tuple[Vocabulary, Section]:
    """The vocabulary, and the unigrams in its order."""
    names: list[bytes] = []

    def name(words: Words) -> np.ndarray:
        names.extend(words.tolist())
        return np.arange(len(names) - len(words.starts), len(names), dtype=np.int32)

    section = _read_section(lines, 1, size, name)
    place = {word: i for i, word in enumerate(names)}
    for i, word in enumerate(names):
        if place[word] != i:
            lines.fail(
                f"{word.decode(errors='replace')!r} is twice among the 1-grams", section.line + place[word]
            )
    if missing := [word for word in SPECIALS[1:] if word not in place]:
        lines.fail(f"{missing[0].decode()} is not among the 1-grams")
    order = [place.get(word, len(names)) for word in SPECIALS]
    order += [i for i, word in enumerate(names) if word not in SPECIALS]
    probs = np.append(section.log10_probs, np.float32(_MISSING_UNK))[order]
    backoffs = np.append(section.log10_backoffs, np.float32(0))[order]
    words = np.arange(len(order), dtype=np.int32)[:, None]
    return Vocabulary([*SPECIALS, *(names[i] for i in order[3:])]), Section(
        words, probs, backoffs, section.line
    )


def _build(lines: _Lines, sections: list[Section]) -> tuple[Trie, list[np.ndarray], list[np.ndarray]] | None:
    """The trie, log10 probabilities and log10 back-offs; None if an n-gram's prefix or suffix is missing."""
    trie = Trie([sections[0].words[:, 0]], [])
    log10_probs, log10_backoffs = [sections[0].log10_probs], [sections[0].log10_backoffs]
    indices: list[Index] = []
    for n, section in enumerate(sections[1:], 2):
        contexts = _find_all(indices, section.words[:, :-1])
        if UNSEEN in contexts or UNSEEN in _find_all(indices, section.words[:, 1:]):
            return None
        keys = (contexts.astype(np.int64) << 32) | section.words[:, -1]
        order = np.argsort(keys, kind="stable")
        if len(twice := np.flatnonzero(np.diff(keys[order]) == 0)):
            lines.fail(f"the {n}-gram occurs twice", section.line + int(order[twice + 1].min()))
        starts = np.zeros(len(trie.words[-1]) + 1, np.int32)
        np.cumsum(np.bincount(contexts, minlength=len(starts) - 1), out=starts[1:])
        trie.words.append(np.ascontiguousarray(section.words[order, -1]))
        trie.first_child.append(starts)
        log10_probs.append(section.log10_probs[order])
        log10_backoffs.append(section.log10_backoffs[order])
        indices.append(Index(trie.words[-1], starts))
    return trie, log10_probs, log10_backoffs


def _find_all(indices: list[Index], rows: np.ndarray) -> np.ndarray:
    """int32 ids of n-grams given as rows of word ids; UNSEEN for those that are not in the model."""
    ids = np.empty(len(rows), np.int32)
    for low in range(0, len(rows), _ROWS):
        piece = rows[low : low + _ROWS]
        found = piece[:, 0]
        for index, words in zip(indices, piece.T[1:], strict=False):
            found = index.find(found, words)
        ids[low : low + _ROWS] = found
    return ids
