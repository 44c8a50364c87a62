"""Where text comes from: Python's own documentation, files, tensorflow-datasets, NLTK; read as documents."""

import dataclasses
import difflib
import functools
import glob
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from lm_jax.data import nltk_corpus, python_docs, tfds_corpus
from lm_jax.data.documents import DOCUMENTS, Document, File, PathFile, cut, read_text
from lm_jax.errors import UserError
from lm_jax.text.words import is_blank

_FORMS = {
    "python-docs": "python-docs",
    "text": "text:GLOB",
    "jsonl": "jsonl:GLOB[#FIELD]",
    "tsv": "tsv:GLOB[#COLUMN]",
    "tfds": f"tfds:{tfds_corpus.FORM}",
    "nltk": "nltk:NAME",
}
_LEAST_PYTHON_DOCS = 1_000_000  # bytes; a standard library without its sources has next to none


class Progress(Protocol):
    """Called now and then while something long goes on; `done` grows to `total`, in a unit of its own."""

    def __call__(self, description: str, done: int, total: int) -> None: ...


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, read anew from their files at every iteration.

    Attributes:
        spec: as `read` took it.
        documents: what one document is: file, line or paragraph.
        files: what is read.
        facts: what decides the documents beside the bytes of the files, for the record: versions, fields.
        least_bytes: less text than this is an error.
        progress: hears how many bytes of the files have been read.
    """

    spec: str
    documents: str
    files: tuple[File, ...]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    least_bytes: int = 1
    progress: Progress | None = None

    def __iter__(self) -> Iterator[Document]:
        """The documents that have text.

        Raises:
            UserError: a file that cannot be read or is not what it should be; or too little text in all.
        """
        sizes = [file.size() for file in self.files]
        num_bytes = done = 0
        for file, size in zip(self.files, sizes):
            for whole in file.documents():
                num_bytes += len(whole.text.encode())
                pieces = cut(whole.text, self.documents)
                if self.documents == "file":
                    yield from (Document(whole.name, piece) for piece in pieces)
                else:
                    yield from (Document(f"{whole.name}:{n}", piece) for n, piece in enumerate(pieces, 1))
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
        if self.spec != "python-docs":
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
            `text:GLOB`;
            `jsonl:GLOB[#FIELD]`, a JSON object a line, its text in the field `text` unless another is named;
            `tsv:GLOB[#COLUMN]`, a record a line, its text in a column (see `_parse_tsv`);
            `tfds:NAME[/CONFIG][:VERSION][@SPLIT][#FIELD]` (see `tfds_corpus.read`);
            `nltk:NAME` (see `nltk_corpus.read`).
        documents: what one document is: a whole `file` (or record), a `line` of it, or a `paragraph`.
        progress: told of every file read.

    Raises:
        UserError: an unknown corpus or kind of document, or one that is not on this machine.
    """
    check(corpus, documents)
    kind, _, rest = corpus.partition(":")
    make = functools.partial(Corpus, corpus, documents, progress=progress)
    if kind == "python-docs":
        root = python_docs.root()
        names = [(path, python_docs.module_name(path, root)) for path in python_docs.sources(root)]
        files = tuple(PathFile(path, name, _parse_module) for path, name in names)
        return make(files, {"python_version": python_docs.VERSION}, _LEAST_PYTHON_DOCS)
    if kind == "text":
        return make(_find(corpus, rest, _parse_text))
    if kind == "tfds":
        return make(*tfds_corpus.read(rest))
    if kind == "nltk":
        return make(*nltk_corpus.read(rest))
    pattern, _, field = rest.partition("#")
    field = field or "text"
    if kind == "jsonl":
        return make(_find(corpus, pattern, functools.partial(_parse_jsonl, field=field)), {"field": field})
    return make(_find(corpus, pattern, functools.partial(_parse_tsv, column=field)), {"column": field})


def check(corpus: str, documents: str) -> None:
    """Raises UserError for a corpus or a kind of document that is not offered."""
    kind, _, rest = corpus.partition(":")
    if corpus != "python-docs" and not (kind in _FORMS and kind != "python-docs" and rest):
        near = difflib.get_close_matches(kind, _FORMS, n=1)
        remedy = f"did you mean {_FORMS[near[0]]}?" if near else f"type {', '.join(_FORMS.values())}"
        raise UserError(f"no corpus {corpus!r}", f"type text:{corpus}" if Path(corpus).exists() else remedy)
    if kind == "tfds":
        tfds_corpus.parse(rest)
    if documents not in DOCUMENTS:
        raise UserError(f"documents={documents!r}", f"choose one of {', '.join(DOCUMENTS)}")


def with_kind(source: str, corpus: str) -> str:
    """A source for validation or test, read as the corpus is unless it says how itself.

    A path stands for files of the same kind with the same field or column, `@SPLIT` for another split of the
    same data set of tensorflow-datasets.
    """
    kind, _, rest = corpus.partition(":")
    if source.partition(":")[0] in _FORMS:
        return source
    if kind == "tfds" and source.startswith("@"):
        return f"tfds:{tfds_corpus.with_split(rest, source[1:])}"
    if kind in ("jsonl", "tsv"):
        return f"{kind}:{source}" + ("" if "#" in source else "".join(rest.partition("#")[1:]))
    return f"text:{source}"


def _find(
    corpus: str, pattern: str, parse: Callable[[Path, str], Iterator[Document]]
) -> tuple[PathFile, ...]:
    """The files of a glob in order, named from where its wildcards begin: the same wherever one stands."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        raise UserError(f"{corpus} is a directory", f"name its files, such as {corpus.rstrip('/')}/**/*.txt")
    found = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    files = [p for p in found if p.is_file()]
    if not files:
        raise UserError(f"no file {pattern}", f"check the path in {corpus}")
    fixed = itertools.takewhile(lambda part: not re.search(r"[*?[]", part), path.parts)
    root = path.parent if path.is_file() else Path(*fixed)
    return tuple(PathFile(p, p.relative_to(root).as_posix(), parse) for p in files)


def _parse_module(path: Path, name: str) -> Iterator[Document]:
    yield Document(name, python_docs.documentation(path, name))


def _parse_text(path: Path, name: str) -> Iterator[Document]:
    yield Document(name, read_text(path))


def _parse_jsonl(path: Path, name: str, field: str) -> Iterator[Document]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not is_blank(line):
            yield Document(f"{name}:{number}", _text_of(line, field, f"{path}, line {number},"))


def _text_of(line: str, field: str, where: str) -> str:
    try:
        record: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error})", "give one object a line") from None
    if not isinstance(record, dict) or not isinstance(record.get(field), str):
        fields = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise UserError(
            f"{where} has no text in the field {field!r} (it has {fields})", "type jsonl:GLOB#FIELD"
        )
    try:
        record[field].encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{where} has an escape that is half a character", "write both halves, or U+FFFD"
        ) from None
    return record[field]


def _parse_tsv(path: Path, name: str, column: str) -> Iterator[Document]:
    """The texts of a column, by its name in the first line or, without a header, by its number from 1 on.

    There is neither quoting nor escaping: a field is what stands between two tabs, quotation marks and
    backslashes included, and no field holds a tab or a newline. Lines end with a newline or CR LF. Empty
    lines are passed over; any other has as many fields as the first.
    """
    is_number, index, width = column.isdecimal(), 0, 0
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not (line := line.removesuffix("\r")):
            continue
        fields = line.split("\t")
        if not width:
            index, width = _place(fields, column, path), len(fields)
            if not is_number:
                continue
        if len(fields) != width:
            raise UserError(
                f"{path}, line {number}, has {len(fields)} columns where the first line has {width}",
                "let every line have the same number of tabs; quotation marks do not protect one",
            )
        yield Document(f"{name}:{number}", fields[index])


def _place(fields: list[str], column: str, path: Path) -> int:
    """Where a column stands, counted from 0."""
    if column.isdecimal() and 0 < int(column) <= len(fields):
        return int(column) - 1
    if column.isdecimal() or column not in fields:
        shown = ", ".join(map(repr, fields)) if len(fields) < 20 else f"{len(fields)} columns"
        raise UserError(
            f"{path} has no column {column!r} (its first line is {shown})",
            "type tsv:GLOB#COLUMN, a name in the first line, or a number if that line is no header",
        )
    return fields.index(column)
