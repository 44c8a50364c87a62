"""Where text comes from: Python's own documentation, text files, JSON lines; read as documents."""

import contextlib
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
from typing import Any, NamedTuple, Protocol

from lm_jax.data import python_docs
from lm_jax.errors import UserError

DOCUMENTS = ("file", "line", "paragraph")
_FORMS = {"python-docs": "python-docs", "text": "text:GLOB", "jsonl": "jsonl:GLOB[#FIELD]"}
_LEAST_PYTHON_DOCS = 1_000_000  # bytes; a standard library without its sources has next to none


class Document(NamedTuple):
    """What is scored on its own, and what a bootstrap draws."""

    name: str
    text: str


class Progress(Protocol):
    """Called now and then while something long goes on; `done` grows to `total`, in a unit of its own."""

    def __call__(self, description: str, done: int, total: int) -> None: ...


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, read anew from their files at every iteration.

    Attributes:
        spec: as `read` took it.
        documents: what one document is: file, line or paragraph.
        files: what is read, each with the name that its documents bear.
        parse: (file, name) -> its documents, before they are cut.
        least_bytes: less text than this is an error.
        python_version: whose standard library `python-docs` reads.
        progress: hears how many bytes of the files have been read.
    """

    spec: str
    documents: str
    files: tuple[tuple[Path, str], ...]
    parse: Callable[[Path, str], Iterator[Document]]
    least_bytes: int = 1
    python_version: str | None = None
    progress: Progress | None = None

    def __iter__(self) -> Iterator[Document]:
        """The documents that have text.

        Raises:
            UserError: a file that cannot be read, is not UTF-8 or not JSON; or too little text in all.
        """
        sizes = [_size(path) for path, _ in self.files]
        num_bytes = done = 0
        for (path, name), size in zip(self.files, sizes):
            for whole in self.parse(path, name):
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
        kind, _, pattern = self.spec.partition(":")
        how = (kind, pattern.partition("#")[2], self.documents, self.python_version)
        digest = hashlib.sha256(repr(how).encode())
        for path, name in self.files:
            with _reading(path), path.open("rb") as file:
                digest.update(repr((name, hashlib.file_digest(file, "sha256").digest())).encode())
        return digest.hexdigest()

    def _too_little(self, num_bytes: int) -> UserError:
        if self.python_version is None:
            return UserError(f"{self.spec} holds no text", "name files that are not empty")
        return UserError(
            f"only {num_bytes:,} bytes of documentation in Python's standard library at {python_docs.root()}",
            "use a Python that comes with its sources, or data.corpus=text:GLOB",
        )


def read(corpus: str, documents: str = "file", progress: Progress | None = None) -> Corpus:
    """Finds the files of a corpus.

    Args:
        corpus: `python-docs`, `text:GLOB`, or `jsonl:GLOB[#FIELD]`, a JSON object a line with its text in
            the field `text` unless another is named.
        documents: what one document is: a whole `file` (or JSON object), a `line`, or a `paragraph`.
        progress: told of every file read.

    Raises:
        UserError: an unknown corpus or kind of document, or no such file.
    """
    check(corpus, documents)
    kind, _, pattern = corpus.partition(":")
    make = functools.partial(Corpus, corpus, documents, progress=progress)
    if kind == "python-docs":
        root = python_docs.root()
        files = tuple((path, python_docs.module_name(path, root)) for path in python_docs.sources(root))
        return make(files, _parse_module, _LEAST_PYTHON_DOCS, python_docs.VERSION)
    if kind == "text":
        return make(_find(corpus, pattern), _parse_text)
    pattern, _, field = pattern.partition("#")
    return make(_find(corpus, pattern), functools.partial(_parse_jsonl, field=field or "text"))


def check(corpus: str, documents: str) -> None:
    """Raises UserError for a corpus or a kind of document that is not offered."""
    kind, _, pattern = corpus.partition(":")
    if corpus != "python-docs" and not (kind in ("text", "jsonl") and pattern):
        near = difflib.get_close_matches(kind, _FORMS, n=1)
        remedy = f"did you mean {_FORMS[near[0]]}?" if near else f"type {', '.join(_FORMS.values())}"
        raise UserError(f"no corpus {corpus!r}", f"type text:{corpus}" if Path(corpus).exists() else remedy)
    if documents not in DOCUMENTS:
        raise UserError(f"documents={documents!r}", f"choose one of {', '.join(DOCUMENTS)}")


def with_kind(source: str, corpus: str) -> str:
    """A source for validation or test, read as the corpus is unless it says how itself."""
    if source.partition(":")[0] in _FORMS:
        return source
    return f"{'jsonl' if corpus.startswith('jsonl:') else 'text'}:{source}"


def cut(text: str, documents: str) -> list[str]:
    """Cuts a text into documents whose bytes add up to its own.

    A line takes its newline along, a paragraph the blank lines after it (the first also those before it).

    Raises:
        UserError: an unknown kind of document.
    """
    if documents == "line":
        return re.findall(r"[^\n]*\n|[^\n]+", text)
    if documents == "paragraph":
        edges = [m.end() for m in re.finditer(r"\n(?:[^\S\n]*\n)+(?:[^\S\n]*\Z)?", text)]
        edges = [e for e in edges if e < len(text)]
        if edges and not text[: edges[0]].strip():
            del edges[0]
        return [text[a:b] for a, b in zip([0, *edges], [*edges, len(text)]) if a < b]
    if documents != "file":
        raise UserError(f"documents={documents!r}", f"choose one of {', '.join(DOCUMENTS)}")
    return [text] if text else []


def _find(corpus: str, pattern: str) -> tuple[tuple[Path, str], ...]:
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
    return tuple((p, p.relative_to(root).as_posix()) for p in files)


def _size(path: Path) -> int:
    with _reading(path):
        return path.stat().st_size


def _parse_module(path: Path, name: str) -> Iterator[Document]:
    yield Document(name, python_docs.documentation(path, name))


def _parse_text(path: Path, name: str) -> Iterator[Document]:
    yield Document(name, read_text(path))


def _parse_jsonl(path: Path, name: str, field: str) -> Iterator[Document]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
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


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, its newlines and all else as they stand.

    Raises:
        UserError: no such file, no permission, or not UTF-8.
    """
    try:
        with _reading(path):
            return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}",
            f"convert it, such as by iconv -f latin1 -t utf-8 {path}",
        ) from None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}", "check the path and its permissions"
        ) from None
