"""Parallel files, as of translations: line i of one is a source, line i of the other its target."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

from lm_jax.data.documents import Document, PathFile
from lm_jax.data.text_files import read_text
from lm_jax.errors import UserError
from lm_jax.files import expand
from lm_jax.text.words import is_blank

FORM = "SOURCES,TARGETS"
TARGET = "target"  # the field of the documents


@dataclasses.dataclass(frozen=True)
class ParallelFile:
    """A `documents.File` of two files of as many lines.

    A document is named by its line in the source's file; its text is the source, its field `target` the
    target. A tab is part of a text, and so are spaces; CR LF ends a line as a newline does. Lines that are
    blank in both files are skipped.

    Attributes:
        source: the file of the sources.
        target: the file of the targets.
    """

    source: PathFile
    target: PathFile

    @property
    def name(self) -> str:
        """The first part of the documents' names."""
        return self.source.name

    def size(self) -> int:
        """The bytes of both files."""
        return self.source.size() + self.target.size()

    def sha256(self) -> bytes:
        """The hash of both files' hashes."""
        return hashlib.sha256(self.source.sha256() + self.target.sha256()).digest()

    def documents(self) -> Iterator[Document]:
        """The pairs.

        Raises:
            UserError: files of unequal length, or a pair with one side blank.
        """
        sources, targets = (_lines(file.path) for file in (self.source, self.target))
        if len(sources) != len(targets):
            raise UserError(
                f"{self.source.path} has {len(sources)} lines, and {self.target.path} has {len(targets)}",
                "give two files in which line i of one belongs to line i of the other",
            )
        for number, (source, target) in enumerate(zip(sources, targets), 1):
            if is_blank(source) and is_blank(target):
                continue
            if is_blank(source) or is_blank(target):
                empty, other = (self.source, self.target) if is_blank(source) else (self.target, self.source)
                raise UserError(
                    f"{empty.path}, line {number}, is empty, and its line in {other.path} is not",
                    "write a text there, or remove the line from both files",
                )
            yield Document(f"{self.name}:{number}", source, {TARGET: target})


def split_paths(rest: str) -> tuple[str, str]:
    """The two paths of `SOURCES,TARGETS`; a path may itself have a comma.

    Raises:
        UserError: there are not two.
    """
    places = [place for place, character in enumerate(rest) if character == ","]
    ways = [(rest[:place], rest[place + 1 :]) for place in places]
    if len(ways) > 1:
        ways = [way for way in ways if all(expand(path).is_file() for path in way)]
    if len(ways) != 1 or not all(ways[0]):
        raise UserError(
            f"parallel:{rest} does not name two files",
            f"type parallel:{FORM}, such as parallel:train.en,train.de",
        )
    return ways[0]


def _lines(path: Path) -> list[str]:
    lines = read_text(path).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
