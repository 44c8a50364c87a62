"""Documents, how a text is cut into them, and the files that hold them."""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from lm_jax.errors import UserError
from lm_jax.text.words import is_blank

DOCUMENTS = ("file", "line", "paragraph")
_BLANK_LINES = re.compile(r"\n(?:[ \t\r\v\f]*\n)+(?:[ \t\r\v\f]*\Z)?")


class Document(NamedTuple):
    """What is scored on its own, and what a bootstrap draws."""

    name: str
    text: str


class File(Protocol):
    """One of the files of a corpus.

    Attributes:
        name: the same wherever the corpus lies.
    """

    @property
    def name(self) -> str: ...

    def size(self) -> int:
        """How many bytes it has.

        Raises:
            UserError: it cannot be read.
        """
        ...

    def sha256(self) -> bytes:
        """The hash of these bytes.

        Raises:
            UserError: it cannot be read.
        """
        ...

    def documents(self) -> Iterator[Document]:
        """Its documents, before they are cut.

        Raises:
            UserError: it cannot be read, or is not what it should be.
        """
        ...


@dataclasses.dataclass(frozen=True)
class PathFile:
    """A `File` of the file system.

    Attributes:
        path: where it lies.
        name: what its documents are called by.
        parse: (path, name) -> its documents.
    """

    path: Path
    name: str
    parse: Callable[[Path, str], Iterator[Document]]

    def size(self) -> int:
        """How many bytes it has."""
        with reading(self.path):
            return self.path.stat().st_size

    def sha256(self) -> bytes:
        """The hash of these bytes."""
        with reading(self.path), self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    def documents(self) -> Iterator[Document]:
        """What `parse` makes of it."""
        return self.parse(self.path, self.name)


def cut(text: str, documents: str) -> list[str]:
    """Cuts a text into documents whose bytes add up to its own.

    A line takes its newline along, a paragraph the blank lines after it (the first also those before it).

    Raises:
        UserError: an unknown kind of document.
    """
    if documents == "line":
        return re.findall(r"[^\n]*\n|[^\n]+", text)
    if documents == "paragraph":
        edges = [e for match in _BLANK_LINES.finditer(text) if (e := match.end()) < len(text)]
        if edges and is_blank(text[: edges[0]]):
            del edges[0]
        return [text[a:b] for a, b in zip([0, *edges], [*edges, len(text)]) if a < b]
    if documents != "file":
        raise UserError(f"documents={documents!r}", f"choose one of {', '.join(DOCUMENTS)}")
    return [text] if text else []


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, its newlines and all else as they stand.

    Raises:
        UserError: no such file, no permission, or not UTF-8.
    """
    try:
        with reading(path):
            return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}",
            f"convert it, such as by iconv -f latin1 -t utf-8 {path}",
        ) from None


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns the system's refusal of a file into a user's mistake."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}", "check the path and its permissions"
        ) from None
