"""Where text comes from: Python's own documentation, text files, JSON lines; read as documents."""

from collections.abc import Iterator
from typing import NamedTuple

DOCUMENTS = ("file", "line", "paragraph")


class Document(NamedTuple):
    """What a score is given to and what the bootstrap draws: a name and a text."""

    name: str
    text: str


class Corpus:
    """Documents in a fixed order, read anew at every iteration; knows `spec`, `sha256`, `python_version`."""

    def __iter__(self) -> Iterator[Document]:
        raise NotImplementedError


def read(corpus: str, documents: str = "file") -> Corpus:
    """Find the corpus `python-docs`, `text:GLOB` or `jsonl:GLOB[#FIELD]`, cut into file, line or paragraph."""
    raise NotImplementedError


def cut(text: str, documents: str) -> list[str]:
    """Cut a text into documents whose bytes add up to the text's."""
    raise NotImplementedError
