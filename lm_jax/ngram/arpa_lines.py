"""The lines of an ARPA file, and its header."""

from __future__ import annotations

import codecs
import os
import re
from types import TracebackType
from typing import NoReturn

import numpy as np

from lm_jax import compression
from lm_jax.errors import UserError
from lm_jax.text.words import SPACE_BYTES

_BLOCK = 1 << 20  # bytes read at a time
_LONGEST_LINE = 1 << 26
_LONGEST_PREFACE = 1 << 20  # bytes of text before \\data\\
_MOST_BLANK = 100_000  # successive blank lines
_MOST_ORDERS = 64
_MOST_NGRAMS = 2**31 - 1  # of one order: ids are int32
_HIGHEST_RATIO = 1 << 16  # of the size of a text to that of its compressed form, of any compression
_REMEDY = "correct the file, or write it again with its toolkit"
_OTHER_FORMATS = (
    (b"mmap lm http://kheafield.com/code", "a binary file of KenLM", "give the ARPA file that it is from"),
    (codecs.BOM_UTF16_LE, "UTF-16, by its byte order mark", "convert it to UTF-8, such as by iconv"),
    (codecs.BOM_UTF16_BE, "UTF-16, by its byte order mark", "convert it to UTF-8, such as by iconv"),
)  # fmt: skip


class Lines:
    """The lines of a file, which may be compressed, one or many at a time.

    Attributes:
        path: of the file.
        number: of the last line read, from 1.

    Raises:
        UserError: the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike):
        self.number = 0
        self.path, self._text, self._at = path, b"", 0
        self._kept: str | None = None  # the line that `peek` returned
        self._file, self._compression = compression.open_binary(path)
        self._size = os.stat(path).st_size

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def fail(self, cause: str, line: int | None = None, remedy: str = _REMEDY) -> NoReturn:
        """Raises a UserError about a line, by default the last one read."""
        where = f"{os.fspath(self.path)}, line {self.number if line is None else line}"
        raise UserError(f"{where}: {cause}", remedy)

    def can_hold(self, num_bytes: int) -> bool:
        """Whether the file can have so many bytes, uncompressed."""
        return num_bytes <= self._size * (_HIGHEST_RATIO if self._compression else 1)

    def take(self, most: int) -> bytes:
        """At least one and at most `most` whole lines; empty at the end of the file."""
        assert self._kept is None
        if not self._fill():
            return b""
        end = self._text.rfind(b"\n") + 1
        num = self._text.count(b"\n", self._at, end)
        if num > most:
            is_newline = np.frombuffer(self._text, np.uint8, end - self._at, self._at) == ord("\n")
            end = self._at + int(np.flatnonzero(is_newline)[most - 1]) + 1
            num = most
        taken, self._at = self._text[self._at : end], end
        self.number += num
        return taken

    def line(self) -> bytes | None:
        """The next line without its newline; None at the end of the file."""
        assert self._kept is None
        if not self._fill():
            return None
        end = self._text.index(b"\n", self._at)
        taken, self._at = self._text[self._at : end], end + 1
        self.number += 1
        return taken

    def _fill(self) -> bool:
        """Reads until there is a whole line; False at the end of the file."""
        if self._text.find(b"\n", self._at) >= 0:
            return True
        parts, size = [self._text[self._at :]], len(self._text) - self._at
        while more := self._read():
            parts.append(more)
            size += len(more)
            if b"\n" in more:
                break
            if size > _LONGEST_LINE:
                self.fail("the next line is longer than 64 MiB; is this an ARPA file?")
        if size and b"\n" not in parts[-1]:
            parts.append(b"\n")
        self._text, self._at = b"".join(parts), 0
        return size > 0

    def _read(self) -> bytes:
        try:
            with compression.reading(self.path, self._compression):
                return self._file.read(_BLOCK)
        except UserError as error:
            raise UserError(f"{error.cause}, after line {self.number}", error.remedy) from None

    def next(self) -> str:
        """The next line that is not blank, stripped; empty at the end of the file."""
        if self._kept is not None:
            line, self._kept = self._kept, None
            return line
        first = self.number
        while (raw := self.line()) is not None:
            if stripped := raw.strip(SPACE_BYTES):
                return stripped.decode(errors="replace")
            if self.number - first > _MOST_BLANK:
                self.fail(f"more than {_MOST_BLANK:,} blank lines")
        return ""

    def peek(self) -> str:
        """What `next` will return."""
        self._kept = self.next()
        return self._kept

    def expect(self, text: str) -> None:
        """Reads blank lines and then a line with this text."""
        line = self.next()
        if line != text:
            self.fail(
                f"expected {text}, found {line[:60]!r}"
                if line
                else f"the file ends where {text} should follow"
            )


def read_sizes(lines: Lines) -> list[int]:
    """The number of n-grams of each order, from the header, after any text before it."""
    _skip_preface(lines)
    sizes: list[int] = []
    least = 0  # bytes of the n-grams
    while re.match(r"ngram\b", lines.peek()):
        entry = lines.next()
        match = re.fullmatch(r"ngram\s+(\d{1,9})\s*=\s*(\d{1,19})", entry, re.ASCII)
        if not match or int(match[1]) != len(sizes) + 1:
            lines.fail(f"expected 'ngram {len(sizes) + 1}=' and a number, found {entry[:60]!r}")
        n, size = int(match[1]), int(match[2])
        if n > _MOST_ORDERS:
            lines.fail(f"n-grams of more than {_MOST_ORDERS} words")
        least += size * (2 * n + 2)  # a digit, n words of a byte, and white space after each
        if size > _MOST_NGRAMS or not lines.can_hold(least):
            lines.fail(f"{size:,} {n}-grams are more than a file of this size can hold")
        sizes.append(size)
    if not sizes:
        lines.next()
        lines.fail("no line 'ngram 1=' and a number follows \\data\\")
    return sizes


def _skip_preface(lines: Lines) -> None:
    """Reads up to the line \\data\\."""
    size, first = 0, ""
    while (raw := lines.line()) is not None:
        if lines.number == 1:
            for start, kind, remedy in _OTHER_FORMATS:
                if raw.startswith(start):
                    raise UserError(f"{os.fspath(lines.path)} is {kind}, not an ARPA file", remedy)
            raw = raw.removeprefix(codecs.BOM_UTF8)
        line = raw.strip(SPACE_BYTES)
        if line == b"\\data\\":
            return
        first = first or line[:60].decode(errors="replace")
        size += len(raw) + 1
        if size > _LONGEST_PREFACE:
            break
    where = "the file" if raw is None else "its first MiB"
    lines.fail(
        f"expected \\data\\, which {where} does not have; it begins with {first!r}", 1, "give an ARPA file"
    )
