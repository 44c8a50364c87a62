"""Sources of text, read as documents: Python's own documentation, files, tensorflow-datasets, NLTK."""

import dataclasses
import difflib
import functools
import glob
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from lm_jax import compression
from lm_jax.data import nltk_corpus, parallel, python_docs, records, tfds_corpus
from lm_jax.data.documents import DOCUMENTS, Document, File, PathFile, pieces
from lm_jax.data.parallel import ParallelFile
from lm_jax.data.text_files import read_text, uncompressed_name
from lm_jax.errors import UserError
from lm_jax.files import expand

_FORMS = {
    "python-docs": "python-docs",
    "python-docstrings": "python-docstrings",
    "text": "text:GLOB",
    "jsonl": "jsonl:GLOB[#FIELD]",
    "tsv": "tsv:GLOB[#COLUMN]",
    "csv": "csv:GLOB[#COLUMN]",
    "labelled": "labelled:GLOB",
    "conll": "conll:GLOB[#COLUMN]",
    "parallel": f"parallel:{parallel.FORM}",
    "tfds": f"tfds:{tfds_corpus.FORM}",
    "nltk": f"nltk:{nltk_corpus.FORM}",
}
_RECORDS = {
    "jsonl": (records.parse_jsonl, "field", "text"),
    "tsv": (records.parse_tsv, "column", "text"),
    "csv": (records.parse_csv, "column", "text"),
    "labelled": (records.parse_labelled, "", ""),
    "conll": (records.parse_conll, "column", ""),
}  # kind -> its parser, what its part after # names, and the default of that
_SUFFIXES = ("jsonl", "tsv", "csv")  # of the names of files of records, and the kinds of these
_WITH_SPLIT = {"tfds": tfds_corpus.with_split, "nltk": nltk_corpus.with_files}
# Bytes; a standard library without its sources has next to none.
_LEAST_OF_PYTHON = {"python-docs": 1_000_000, "python-docstrings": 200_000}


class Progress(Protocol):
    """Called from time to time during long work; `done` grows to `total`, in any unit."""

    def __call__(self, description: str, done: int, total: int) -> None: ...


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, read again from their files at every iteration.

    Attributes:
        spec: the argument of `read`.
        documents: what one document is: file, line or paragraph.
        files: the files that are read.
        facts: all that decides the documents beside the bytes of the files, for the record: versions, fields.
        least_bytes: less text than this is an error.
        keeps_empty: whether documents without text are given, too.
        held_out: what a split by hash holds out together: a document, or all pieces of a record or a file.
        progress: called after each file with the bytes that have been read.
    """

    spec: str
    documents: str
    files: tuple[File, ...]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    least_bytes: int = 1
    keeps_empty: bool = False
    held_out: Literal["document", "record", "file"] = "document"
    progress: Progress | None = None

    def __iter__(self) -> Iterator[Document]:
        """The documents that have text. Lines and paragraphs have the fields of the record they are cut from;
        see `documents.pieces`. Errors as of `units`.
        """
        return (document for _, document in self.units())

    def units(self) -> Iterator[tuple[str, Document]]:
        """The documents that have text, each with the name of what a split by hash holds out with it.

        Raises:
            UserError: a file that cannot be read or has another form; or too little text in all.
        """
        sizes = [file.size() for file in self.files]
        num_bytes = done = 0
        for file, size in zip(self.files, sizes):
            for whole in file.documents():
                num_bytes += len(whole.text.encode())
                if whole.text or self.keeps_empty:
                    for piece in pieces(whole, self.documents):
                        name = {"document": piece.name, "record": whole.name, "file": file.name}
                        yield name[self.held_out], piece
            done += size
            if self.progress:
                self.progress(f"reading {self.spec}", done, sum(sizes))
        if num_bytes < self.least_bytes:
            raise self._too_little(num_bytes)

    def fingerprint(self) -> str:
        """SHA-256 of all that decides the documents: the files' bytes and names, and how they are read.

        Raises:
            UserError: a file that cannot be read.
        """
        how = (self.spec.partition(":")[0], self.documents, sorted(self.facts.items()))
        digest = hashlib.sha256(repr(how).encode())
        for file in self.files:
            digest.update(repr((file.name, file.sha256())).encode())
        return digest.hexdigest()

    def _too_little(self, num_bytes: int) -> UserError:
        if self.spec not in _LEAST_OF_PYTHON:
            return UserError(f"{self.spec} holds no text", "name files that are not empty")
        return UserError(
            f"only {num_bytes:,} bytes of documentation in Python's standard library at {python_docs.root()}",
            "use a Python that comes with its sources, or data.corpus=text:GLOB",
        )


def read(corpus: str, documents: str = "file", progress: Progress | None = None) -> Corpus:
    """Finds the files of a corpus.

    Args:
        corpus: one of
            `python-docs`;
            `python-docstrings`, docstrings without their first line, which is the field `target` (see
            `python_docs.docstrings`); a split by hash holds out the modules that it holds out of python-docs;
            `text:GLOB`; here and below a directory means the files in it and below it, by their suffix;
            `jsonl:GLOB[#FIELD]`, a JSON object a line, its text in the field `text` unless another is named;
            `tsv:GLOB[#COLUMN]`, `csv:GLOB[#COLUMN]`, a record a line, its text in a column, by its name in
            the first line or, if that line is not a header, by its number from 1 on (see `records`);
            `labelled:GLOB`, a line is a label, white space and a text; `conll:GLOB[#COLUMN]`, a line is a
            word and its tag in the named column, or the last (see `records`);
            `parallel:SOURCES,TARGETS`, two files or globs, whose lines are texts and their field `target`
            (see `parallel`);
            `tfds:NAME[/CONFIG][:VERSION][@SPLIT][#FIELD]` (see `tfds_corpus.read`);
            `nltk:NAME[@FILES][#FIELD]` (see `nltk_corpus.read`).
        documents: what one document is: a whole `file` (or record), a `line` of it, or a `paragraph`.
        progress: called after each file that is read.

    Raises:
        UserError: an unknown corpus or kind of document, or a corpus that is not on this machine.
    """
    check(corpus, documents)
    kind, _, rest = corpus.partition(":")
    make = functools.partial(Corpus, corpus, documents, progress=progress)
    if kind in _LEAST_OF_PYTHON:
        root, is_whole = python_docs.root(), kind == "python-docs"
        parse = _parse_module if is_whole else python_docs.docstrings
        names = [(path, python_docs.module_name(path, root)) for path in python_docs.sources(root)]
        files = tuple(PathFile(path, name, parse) for path, name in names)
        facts = {"python_version": python_docs.VERSION}
        return make(files, facts, _LEAST_OF_PYTHON[kind], held_out="document" if is_whole else "file")
    if kind == "parallel":
        return make(_find_pairs(corpus, *parallel.split_paths(rest)), held_out="record")
    if kind == "text":
        return make(_find(corpus, rest, _parse_text))
    if kind == "tfds":
        return make(*tfds_corpus.read(rest), held_out="record")
    if kind == "nltk":
        return make(*nltk_corpus.read(rest))
    pattern, field = _path_and_field(rest)
    parse_record, what, default = _RECORDS[kind]
    field = field or default
    if field and not what:
        raise UserError(f"{corpus} names a column", f"type {_FORMS[kind]}")
    files = _find(corpus, pattern, lambda path, name: parse_record(path, name, field))
    return make(files, {what: field} if field else {}, held_out="record")


def check(corpus: str, documents: str) -> None:
    """Raises UserError for a corpus or a kind of document that is not offered."""
    kind, _, rest = corpus.partition(":")
    if corpus not in _LEAST_OF_PYTHON and not (kind in _FORMS and kind not in _LEAST_OF_PYTHON and rest):
        near = difflib.get_close_matches(kind, _FORMS, n=1)
        remedy = f"did you mean {_FORMS[near[0]]}?" if near else f"type {', '.join(_FORMS.values())}"
        path = Path(corpus)
        spec = f"{records_kind(corpus) or 'text'}:{corpus}"
        raise UserError(f"no corpus {corpus!r}", f"type {spec}" if path.exists() else remedy)
    if kind == "tfds":
        tfds_corpus.parse(rest)
    if kind == "nltk":
        nltk_corpus.parse(rest)
    if kind == "parallel":
        parallel.split_paths(rest)
    if documents not in DOCUMENTS:
        raise UserError(f"documents={documents!r}", f"choose one of {', '.join(DOCUMENTS)}")


def records_kind(path: str) -> str:
    """The kind of corpus, such as jsonl, that a file of records has by the end of its name; "" for others."""
    suffix = Path(uncompressed_name(path)).suffix.lower().removeprefix(".")
    return suffix if suffix in _SUFFIXES else ""


def is_spec(text: str) -> bool:
    """Whether a text is a corpus, and not a path."""
    return text.partition(":")[0] in _FORMS and not Path(text).exists()


def with_field(corpus: str, field: str) -> str:
    """The spec of a corpus that reads its text from a field, or column, unless the spec names one.

    Corpora whose specs name their text in another way, or not at all, are returned as they are.
    """
    kind, _, rest = corpus.partition(":")
    has_default = kind in _RECORDS and _RECORDS[kind][2]
    return f"{corpus}#{field}" if has_default and not _path_and_field(rest)[1] else corpus


def with_kind(source: str, corpus: str) -> str:
    """The spec of a source for validation or test that may leave out what it shares with the corpus.

    A path means files of the same kind with the same field or column (for `parallel` two paths), `@SPLIT`
    another split of the same data set of tensorflow-datasets, `@FILES` other files of the same corpus of
    NLTK. Any other spec is returned as
    it is.
    """
    kind, _, rest = corpus.partition(":")
    if source.partition(":")[0] in _FORMS:
        return source
    if kind in _WITH_SPLIT and source.startswith("@"):
        return f"{kind}:{_WITH_SPLIT[kind](rest, source[1:])}"
    if kind == "parallel":
        return f"parallel:{source}"
    if kind in _RECORDS:
        field = _path_and_field(source)[1] or _path_and_field(rest)[1]
        return f"{kind}:{_path_and_field(source)[0]}" + (f"#{field}" if field else "")
    return f"text:{source}"


def _path_and_field(rest: str) -> tuple[str, str]:
    """GLOB and FIELD of `GLOB[#FIELD]`; a path may itself have the character #."""
    path, mark, field = rest.rpartition("#")
    if not mark or "/" in field or expand(rest).is_file():
        return rest, ""
    return path, field


def _find(
    corpus: str, pattern: str, parse: Callable[[Path, str], Iterator[Document]]
) -> tuple[PathFile, ...]:
    """The files of a glob in order, named relative to the directory in which its wildcards begin.

    A directory means the files below it whose names end as those of its kind do: .txt, .jsonl, .tsv or .csv.
    """
    path = expand(pattern)
    if path.is_dir():
        kind = corpus.partition(":")[0]
        pattern = f"{glob.escape(str(path))}/**/*.{kind if kind in _SUFFIXES else 'txt'}"
        names = [
            name for end in ("", *compression.SUFFIXES) for name in glob.glob(pattern + end, recursive=True)
        ]
        found = sorted(Path(name) for name in names)
        if not found:
            raise UserError(f"no file {pattern}", f"name the files, such as {corpus.rstrip('/')}/**/*.md")
        return tuple(PathFile(p, _name(p.relative_to(path)), parse) for p in found if p.is_file())
    found = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    files = [p for p in found if p.is_file()]
    if not files:
        raise UserError(f"no file {pattern}", f"check the path in {corpus}")
    fixed = itertools.takewhile(lambda part: not re.search(r"[*?[]", part), path.parts)
    root = path.parent if path.is_file() else Path(*fixed)
    return tuple(PathFile(p, _name(p.relative_to(root)), parse) for p in files)


def _find_pairs(corpus: str, sources: str, targets: str) -> tuple[ParallelFile, ...]:
    """The files of two globs, in order."""
    found = [_find(corpus, pattern, _parse_text) for pattern in (sources, targets)]
    if len(found[0]) != len(found[1]):
        raise UserError(
            f"{len(found[0])} files {sources} and {len(found[1])} files {targets}", "give as many of each"
        )
    return tuple(map(ParallelFile, *found))


def _name(path: Path) -> str:
    """The name of a file for its documents; bytes that are not UTF-8 become escapes such as \\xe9."""
    name = path.as_posix().encode(errors="surrogateescape").decode(errors="backslashreplace")
    return uncompressed_name(name)


def _parse_module(path: Path, name: str) -> Iterator[Document]:
    yield Document(name, python_docs.documentation(path, name))


def _parse_text(path: Path, name: str) -> Iterator[Document]:
    yield Document(name, read_text(path))
