"""Corpora of NLTK, read by NLTK's own readers."""

import contextlib
import dataclasses
import difflib
import fnmatch
import hashlib
import zipfile
from collections.abc import Iterator
from typing import Any

from lm_jax.data import universal_tags
from lm_jax.data.documents import Document, Value
from lm_jax.errors import UserError

FORM = "NAME[@FILES][#FIELD]"
TAGS = ("tags", "universal", "chunks")


@dataclasses.dataclass(frozen=True)
class _NLTKFile:
    """A `File` that one of NLTK's readers opens, in a directory or inside a zip archive.

    Attributes:
        reader: NLTK's reader.
        name: the file's name for the reader.
        is_plain: whether it is plain text.
        label: its category; None where it has none or several.
        tags: which tags of its words are read, one of `TAGS`; "": none.
    """

    reader: Any
    name: str
    is_plain: bool
    label: str | None
    tags: str = ""

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
        fields: dict[str, Value] = {} if self.label is None else {"label": self.label}
        with _reported(self.name):
            if self.is_plain:
                text = self.reader.raw(self.name)
            else:
                sentences = self._sentences()
                text = "".join(" ".join(word for word, _ in sentence) + "\n" for sentence in sentences)
                if self.tags:
                    fields["tags"] = [tag for sentence in sentences for _, tag in sentence]
        yield Document(self.name, text, fields)

    def _sentences(self) -> list[list[tuple[str, str]]]:
        """Sentences of words with their tags, "" where none are read; without words that are empty."""
        if not self.tags:
            return [[(word, "") for word in sentence] for sentence in self.reader.sents(self.name)]
        if self.tags == "chunks":
            rows: Any = self.reader.iob_sents(self.name)
        else:
            rows = self.reader.tagged_sents(self.name)
        sentences = [[(row[0], row[-1]) for row in sentence if row[0]] for sentence in rows]
        if self.tags == "universal":
            return [
                [(word, universal_tags.universal(tag)) for word, tag in sentence] for sentence in sentences
            ]
        return sentences


def parse(spec: str) -> tuple[str, str, str]:
    """The name, the pattern of its files' names ("*" where none is given), and the tags (else "").

    Raises:
        UserError: a spec of another form.
    """
    rest, _, tags = spec.partition("#")
    name, _, files = rest.partition("@")
    if not name or (tags and tags not in TAGS):
        raise UserError(f"nltk:{spec} names no corpus", f"type nltk:{FORM}, FIELD being {' or '.join(TAGS)}")
    return name, files or "*", tags


def with_files(spec: str, files: str) -> str:
    """The spec of other files of the same corpus."""
    name, _, tags = parse(spec)
    return f"{name}@{files}" + (f"#{tags}" if tags else "")


def read(spec: str) -> tuple[tuple[_NLTKFile, ...], dict[str, str]]:
    """Finds the files of a corpus on `nltk.data.path`, which begins with $NLTK_DATA; each is a document.

    Plain text (gutenberg, movie_reviews) is kept unchanged. From a reader of sentences (brown and others with
    tags or trees) each sentence is a line, with single spaces between its tokens. A document has the field
    `label` where the corpus gives its file exactly one category (brown, movie_reviews).

    Args:
        spec: `NAME[@FILES][#FIELD]`: a name as in `nltk.corpus.NAME`; a pattern that the names of its files
            match, as of the shell, `*` for any text; and which tags of its words become the field `tags`: the
            corpus's own `tags`, `universal` tags made of these (`universal_tags`), or `chunks` in the form
            IOB (conll2000; names of entities in conll2002).

    Returns:
        The files, and for the record the name, the pattern, the tags and the version of NLTK.

    Raises:
        UserError: no corpus of that name, one without running text or without such tags, no such file, or
            one that is not on this machine.
    """
    name, pattern, tags = parse(spec)
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
    if tags and (is_plain or not hasattr(reader, "iob_sents" if tags == "chunks" else "tagged_sents")):
        cause = f"NLTK's corpus {name} has no {'chunks' if tags == 'chunks' else 'tags'}"
        raise UserError(cause, "choose one that has, such as nltk:conll2000#chunks or nltk:brown#tags")
    chosen = fnmatch.filter(names, pattern)
    if not chosen:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(f"NLTK's corpus {name} has no file {pattern} (it has {shown})", f"type nltk:{FORM}")
    with _reported(f"nltk:{name}"):
        files = tuple(_NLTKFile(reader, file, is_plain, _label(reader, file), tags) for file in chosen)
    facts = {"files": "" if pattern == "*" else pattern, "tags": tags}
    known = {key: value for key, value in facts.items() if value}
    return files, {"corpus": name, **known, "nltk_version": nltk.__version__}


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
