"""Corpora of NLTK, read by NLTK's own readers."""

import contextlib
import dataclasses
import difflib
import hashlib
import zipfile
from collections.abc import Iterator
from typing import Any

from lm_jax.data.documents import Document
from lm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class _NLTKFile:
    """A `File` that one of NLTK's readers opens, in a directory or inside a zip archive.

    Attributes:
        reader: NLTK's reader.
        name: the file's name for the reader.
        is_plain: whether it is plain text.
        label: its category; None where it has none or several.
    """

    reader: Any
    name: str
    is_plain: bool
    label: str | None

    def size(self) -> int:
        """How many bytes it has."""
        with _reported(self.name):
            return self.reader.abspath(self.name).file_size()

    def sha256(self) -> bytes:
        """The hash of these bytes, and of the label, which may be from another file."""
        with _reported(self.name), self.reader.abspath(self.name).open() as file:
            return hashlib.sha256(file.read() + (self.label or "").encode()).digest()

    def documents(self) -> Iterator[Document]:
        """Its one document."""
        with _reported(self.name):
            if self.is_plain:
                text = self.reader.raw(self.name)
            else:
                text = "".join(" ".join(sentence) + "\n" for sentence in self.reader.sents(self.name))
        yield Document(self.name, text, {} if self.label is None else {"label": self.label})


def read(name: str) -> tuple[tuple[_NLTKFile, ...], dict[str, str]]:
    """Finds the files of a corpus on `nltk.data.path`, which begins with $NLTK_DATA; each is a document.

    Plain text (gutenberg, movie_reviews) is kept unchanged. From a reader of sentences (brown and others with
    tags or trees) each sentence is a line, with single spaces between its tokens. A document has the field
    `label` where the corpus gives its file exactly one category (brown, movie_reviews).

    Args:
        name: as in `nltk.corpus.NAME`.

    Returns:
        The files, and the version of NLTK for the record.

    Raises:
        UserError: no corpus of that name, one without running text, or one that is not on this machine.
    """
    import nltk
    from nltk.corpus.reader import CorpusReader, PlaintextCorpusReader
    from nltk.corpus.util import LazyCorpusLoader

    reader = getattr(nltk.corpus, name, None)
    if not isinstance(reader, CorpusReader | LazyCorpusLoader):
        near = difflib.get_close_matches(name, dir(nltk.corpus), n=1)
        remedy = f"did you mean nltk:{near[0]}?" if near else "type nltk:NAME, such as nltk:brown"
        raise UserError(f"NLTK has no corpus {name}", remedy)
    try:
        with _reported(f"nltk:{name}"):
            names = reader.fileids()  # now the reader is loaded
    except LookupError:
        package = reader.__name__.split("/")[0]
        raise UserError(
            f"NLTK's corpus {name} is in none of {', '.join(nltk.data.path)}",
            f"run python -m nltk.downloader {package}, or set NLTK_DATA to where corpora/{package} is",
        ) from None
    is_plain = isinstance(reader, PlaintextCorpusReader)
    if not is_plain and not (hasattr(reader, "sents") and hasattr(reader, "words")):
        cause = f"NLTK's corpus {name} has no running text ({type(reader).__name__})"
        raise UserError(cause, "choose one of texts, such as nltk:brown")
    with _reported(f"nltk:{name}"):
        files = tuple(_NLTKFile(reader, file, is_plain, _label(reader, file)) for file in names)
    return files, {"corpus": name, "nltk_version": nltk.__version__}


def _label(reader: Any, file: str) -> str | None:
    """The one category of a file; None if there is none, or several."""
    try:
        categories = reader.categories(file) if hasattr(reader, "categories") else []
    except KeyError:  # a file that the list of categories does not name
        return None
    return categories[0] if len(categories) == 1 else None


@contextlib.contextmanager
def _reported(name: str) -> Iterator[None]:
    """Raises a UserError for the errors of a damaged file."""
    try:
        yield
    except (OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read {name} of NLTK: {error}", "restore it by python -m nltk.downloader"
        ) from None
