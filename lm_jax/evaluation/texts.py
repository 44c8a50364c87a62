"""The texts that models are evaluated on: a run's held-out parts, or a file."""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from lm_jax import files, seal
from lm_jax.data import corpora, provenance
from lm_jax.data.documents import Document, cut_lines
from lm_jax.data.text_files import read_lines, read_text
from lm_jax.errors import UserError
from lm_jax.evaluation.spool import spooled
from lm_jax.files import JsonObject
from lm_jax.text.base import utf8


class Text(NamedTuple):
    """A text that models are evaluated on.

    Attributes:
        name: "valid" or "test" of a run's corpus, or a file.
        documents: each is scored on its own; their bytes, one document after the other, are the text.
        data: where it comes from, for the record.
    """

    name: str
    documents: Sequence[Document]
    data: dict[str, Any] = {}  # noqa: RUF012 (a NamedTuple's default, never written to)

    def sha256(self) -> str:
        """SHA-256 of the documents' UTF-8, one document after the other."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(_bytes(document))
        return digest.hexdigest()

    def documents_sha256(self) -> str:
        """SHA-256 of the SHA-256 of each document: equal if the documents are equal one by one."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(hashlib.sha256(_bytes(document)).digest())
        return digest.hexdigest()


def _bytes(document: Document) -> bytes:
    """A document's UTF-8; half characters, which no model can score, have bytes too."""
    return document.text.encode(errors="surrogatepass")


def choose(
    path: str, text: str | None, documents: str, keeps_empty: bool = False, split: str | None = None
) -> Text:
    """The text that a model is evaluated on.

    Args:
        path: the model's run directory. Its test part is the default, or its validation part without one.
        text: a UTF-8 file to score instead, or a glob of such files, or a corpus such as tsv:FILE#COLUMN,
            whose documents have fields.
        documents: how `text` is cut into documents: file, line or paragraph.
        keeps_empty: whether a document of a corpus without text is given, too.
        split: the part of the run instead of its default, "valid" or "test".

    Raises:
        UserError: no such file, one of records (.jsonl, .tsv, .csv), a directory, one that is not UTF-8, or a
            run without a held-out part.
    """
    text = None if text is None else _as_corpus(text)
    if text is not None and corpora.is_spec(text):
        corpus = dataclasses.replace(corpora.read(text, documents), keeps_empty=keeps_empty)
        return Text(text, spooled(corpus), {"corpus": text, "documents": documents, **corpus.facts})
    if text is not None:
        _check_plain(text)
        parts = cut_lines(read_lines(pathlib.Path(text)), documents)
        named = (Document(f"{text}:{i}", part) for i, part in enumerate(parts))
        return Text(text, spooled(named), {"corpus": f"text:{text}", "documents": documents})
    default = "test" if seal.exists(pathlib.Path(path) / "test.jsonl") else "valid"
    return read_held_out(pathlib.Path(path), split or default)


def choose_records(text: str | None, field: str) -> Text:
    """The records that a zero-shot task asks about; each is a document, whatever its text holds.

    Args:
        text: a corpus of records, such as jsonl:GLOB.
        field: where their text is, unless the corpus names another.

    Raises:
        UserError: no corpus of records, or one that cannot be read.
    """
    if text is None or not corpora.is_spec(text):
        given = "no --text" if text is None else f"--text={text} is no corpus of records"
        raise UserError(given, "give --text='jsonl:GLOB', or another corpus of records")
    read = corpora.read(corpora.with_field(text, field))
    corpus = dataclasses.replace(read, keeps_empty=True, least_bytes=0)
    return Text(text, list(corpus), {"corpus": corpus.spec, **corpus.facts})


def note_borrowed(path: str, of: str, text: Text) -> list[str]:
    """What to say of a model that is scored on the held-out text of another run, if it held out another."""
    workdir = pathlib.Path(path)
    own = [part for part in ("test", "valid") if seal.exists(workdir / f"{part}.jsonl")]
    if path == of or not own:
        return []
    if text.sha256() in (read_held_out(workdir, part).sha256() for part in own):
        return []
    return [f"scored on the held-out text of {of}; it held out another and may have learned from this one"]


def lines_or_corpus(text: str) -> list[Document]:
    """The documents of a corpus such as tsv:FILE#COLUMN, or the lines of a file, without their ends.

    Records and lines without text are among them, so that results have the places of the file.

    Raises:
        UserError: no such file, one of records (.jsonl, .tsv, .csv), a directory, or one without text.
    """
    text = _as_corpus(text)
    if corpora.is_spec(text):
        documents = list(dataclasses.replace(corpora.read(text), keeps_empty=True))
    else:
        _check_plain(text)
        lines = corpora.read(f"text:{text}", "line")
        documents = [line._replace(text=line.text.removesuffix("\n")) for line in lines]
    if not documents:
        raise UserError(f"no text in {text}", "give a file with at least one")
    return documents


def _as_corpus(text: str) -> str:
    """A glob of text files as the corpus that it means; anything else as it is."""
    is_glob = bool(re.search(r"[*?[]", text)) and not pathlib.Path(text).exists()
    return (
        f"text:{text}" if is_glob and not corpora.is_spec(text) and not corpora.records_kind(text) else text
    )


def _check_plain(path: str) -> None:
    """Raises UserError for a directory, and for a file of records, whose syntax would be taken for text."""
    if pathlib.Path(path).is_dir():
        raise UserError(f"{path} is a directory", f"type text:{path} for the .txt files in it")
    if kind := corpora.records_kind(path):
        what = "FIELD" if kind == "jsonl" else "COLUMN"
        raise UserError(
            f"{path} has records, not plain text",
            f"type {kind}:{path}#{what} for their texts, or text:{path} to read it as it is",
        )


def read_held_out(workdir: pathlib.Path, split: str) -> Text:
    """The text that a run held out and keeps in its directory, "valid" or "test".

    Raises:
        UserError: the run held none out, its file is damaged, or a line is not a document.
    """
    path = workdir / f"{split}.jsonl"
    if not seal.exists(path):
        raise UserError(f"no held-out text {path}", "give a text with --text=FILE")
    lines = read_text(path).split("\n")
    documents = [_document(line, f"{path}, line {i}") for i, line in enumerate(lines, 1) if line]
    return Text(split, documents, provenance.read(workdir))


def _document(line: str, where: str) -> Document:
    values = JsonObject(files.parse_json(line, where, allow_nan=True), where)  # in the fields of records
    name, text = values.take("name", str), values.take("text", str)
    try:
        utf8(text)
    except UserError as error:
        raise UserError(f"{where}: {error.cause}", "restore the file") from None
    if "fields" not in values.values:  # format 1 had none
        return Document(name, text)
    fields = values.inner("fields")
    for key, value in fields.values.items():
        if not isinstance(value, (str, int, float, list)):
            raise UserError(
                f"{fields.where}: {key} is neither a text, a number nor a list", "restore the file"
            )
    return Document(name, text, fields.values)
