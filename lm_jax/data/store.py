"""Texts, fields and tokens of a corpus on disk, read through memory maps.

The text store holds the documents of each part and the fields that a task asks for; the token store holds
their tokens under one tokenizer. Each is a directory of `cache`.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data import cache
from lm_jax.data.corpora import Progress
from lm_jax.data.documents import Document, Fields, class_names
from lm_jax.errors import UserError
from lm_jax.text import load as tokenizers
from lm_jax.text.base import Tokenizer, grouped
from lm_jax.text.words import count_words, first_tokens

_DTYPES = ("uint16", "uint32")  # of tokens


class TokenStream(NamedTuple):
    """One text of each document as a stream of tokens, `end d1 end d2 end ...`.

    Attributes:
        tokens: uint16 or uint32 [N], memory-mapped.
        offsets: int64 [D + 1]; document i is tokens[offsets[i] : offsets[i + 1] - 1].
    """

    tokens: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each document, int64 [D]."""
        return np.diff(self.offsets) - 1

    def document(self, index: int) -> np.ndarray:
        """The tokens of a document without special tokens, int32 [T]."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1] - 1].astype(np.int32)


class TagStream(NamedTuple):
    """A class for each word of each document.

    Attributes:
        classes: int32 [W], places in `Split.label_names`.
        places: int32 [W], the place of each word's first token in its document's tokens; -1: it has none.
        offsets: int64 [D + 1]; the words of document i are offsets[i] to offsets[i + 1].
    """

    classes: np.ndarray
    places: np.ndarray
    offsets: np.ndarray


class Split:
    """A part of the corpus: its documents, and their main text as a stream of tokens.

    The stream begins with the end token, and each document is followed by one: windows of T + 1 tokens that
    overlap by one have T inputs and T targets, and score every token and every end once.

    Attributes:
        name: train, valid or test.
        tokens: uint16 or uint32 [N], memory-mapped.
        document_offsets: int64 [D + 1]; document i is tokens[offsets[i] : offsets[i + 1] - 1].
        end_id: the end token.
        num_documents: D.
        num_tokens: N - 1, the number of targets: the documents' tokens and their ends.
        num_bytes: of the documents' UTF-8.
        num_words: of the documents, by white space.
        sha256: of the documents' bytes, one document after the other.
    """

    def __init__(self, name: str, texts: Path, tokens: Path):
        facts, encoded = cache.read_facts(texts), cache.read_facts(tokens)
        self.name, self.end_id = name, encoded.take("end_id", int)
        self._texts, self._tokens, self._dtype = texts, tokens, encoded.take("dtype", str)
        if self._dtype not in _DTYPES:
            raise UserError(f"{encoded.where}: dtype is {self._dtype!r}", "remove the directory")
        self._label_names = facts.inner("labels")
        self.tokens, self.document_offsets = self._stream(name)
        self.num_tokens = len(self.tokens) - 1
        part = facts.inner("parts").inner(name)
        self.num_documents: int = part.take("documents", int)
        self.num_bytes: int = part.take("bytes", int)
        self.num_words: int = part.take("words", int)
        self.sha256: str = part.take("sha256", str)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the tokens."""
        return tokenizers.load(self._tokens)

    @property
    def stream(self) -> TokenStream:
        """The main text of the documents."""
        return TokenStream(self.tokens, self.document_offsets)

    def field_tokens(self, field: str) -> TokenStream:
        """A further text of the documents, one of `Fields.texts` of `pipeline.prepare`."""
        return self._stream(_stem(self.name, field))

    def labels(self, field: str) -> np.ndarray:
        """The class of each document, one of `Fields.labels`: int32 [D], places in `label_names`."""
        return np.fromfile(self._texts / f"{_stem(self.name, field)}.labels", np.int32)

    def tags(self, field: str) -> TagStream:
        """The classes of the words of each document, one of `Fields.tags`."""
        classes = np.fromfile(self._texts / f"{_stem(self.name, field)}.tags", np.int32)
        places = np.fromfile(self._tokens / f"{self.name}.places", np.int32)
        return TagStream(classes, places, np.fromfile(self._tokens / f"{self.name}.words", np.int64))

    def label_names(self, field: str) -> list[str]:
        """The classes that the training part has, sorted; of labels or of tags."""
        return self._label_names.take(field, list)

    def numbers(self, field: str) -> np.ndarray:
        """A number of each document, one of `Fields.numbers`: float64 [D]."""
        return np.fromfile(self._texts / f"{_stem(self.name, field)}.numbers", np.float64)

    def documents(self) -> Iterator[Document]:
        """The documents in order, with the fields that were asked for."""
        return read_documents(self._texts, self.name)

    def _stream(self, stem: str) -> TokenStream:
        tokens = np.memmap(self._tokens / f"{stem}.tokens", self._dtype, mode="r")
        offsets = np.memmap(self._tokens / f"{stem}.offsets", np.int64, mode="r")
        return TokenStream(np.asarray(tokens), np.asarray(offsets))  # views: memmap's own slices are slow


def _stem(part: str, field: str) -> str:
    """The name of a field's files without their suffix."""
    return f"{part}.{urllib.parse.quote(field, safe='')}"


class _TextWriter:
    """Writes a part's documents: texts, their offsets, and for each a line of JSON [name, fields]."""

    def __init__(self, directory: Path, part: str, fields: Fields, stack: contextlib.ExitStack):
        self._text = stack.enter_context((directory / f"{part}.txt").open("wb"))
        self._records = stack.enter_context((directory / f"{part}.records").open("w", encoding="utf-8"))
        self._digest, self._fields_digest, self._num_words = hashlib.sha256(), hashlib.sha256(), 0
        self._fields = fields
        self.ends = [0]

    def add(self, document: Document) -> None:
        data = document.text.encode()
        fields = json.dumps(self._fields.select(document)) if any(self._fields) else "{}"
        self._text.write(data)
        self._records.write(f"[{json.dumps(document.name)}, {fields}]\n")
        self._digest.update(data)
        self._fields_digest.update(fields.encode())
        self._num_words += count_words(data)
        self.ends.append(self.ends[-1] + len(data))

    def facts(self) -> dict[str, Any]:
        return {
            "documents": len(self.ends) - 1,
            "bytes": self.ends[-1],
            "words": self._num_words,
            "sha256": self._digest.hexdigest(),
            "fields_sha256": self._fields_digest.hexdigest(),
        }


def write_texts(
    assigned: Iterable[tuple[str, Document]], fields: Fields, directory: Path
) -> dict[str, dict[str, Any]]:
    """Writes documents to their parts; returns facts of each part that has any.

    Raises:
        UserError: a document without one of the fields, or with one of another kind.
    """
    writers: dict[str, _TextWriter] = {}
    with contextlib.ExitStack() as stack:
        for part, document in assigned:
            if part not in writers:
                writers[part] = _TextWriter(directory, part, fields, stack)
            writers[part].add(document)
    for part, writer in writers.items():
        np.array(writer.ends, np.int64).tofile(directory / f"{part}.ends")
    return {part: writer.facts() for part, writer in writers.items()}


def write_columns(directory: Path, parts: Iterable[str], fields: Fields) -> dict[str, list[str]]:
    """Writes the labels, tags and numbers of the parts of a text store; returns the classes of each field.

    Raises:
        UserError: a label that no training document has.
    """
    classes: dict[str, list[str]] = {}
    for field in fields.labels:
        classes[field] = sorted({record.label(field) for record in _read_records(directory, "train")})
        for part in parts:
            labelled = ((record, record.label(field)) for record in _read_records(directory, part))
            ids = list(_class_ids(labelled, field, classes[field], part))
            np.array(ids, np.int32).tofile(directory / f"{_stem(part, field)}.labels")
    for field in fields.tags:
        classes[field] = sorted({tag for _, tag in _read_tags(directory, "train", field)})
        for part in parts:
            ids = list(_class_ids(_read_tags(directory, part, field), field, classes[field], part))
            np.array(ids, np.int32).tofile(directory / f"{_stem(part, field)}.tags")
    for field, part in itertools.product(fields.numbers, parts):
        numbers = [record.number(field) for record in _read_records(directory, part)]
        np.array(numbers, np.float64).tofile(directory / f"{_stem(part, field)}.numbers")
    return classes


def _read_tags(directory: Path, part: str, field: str) -> Iterator[tuple[Document, str]]:
    """Each word's tag, with the word's document."""
    for record in _read_records(directory, part):
        tags = record.fields[field]
        assert isinstance(tags, list)  # checked when it was written
        for tag in class_names(tags):
            yield record, tag


def _class_ids(
    labelled: Iterable[tuple[Document, str]], field: str, classes: list[str], part: str
) -> Iterator[int]:
    ids = {name: number for number, name in enumerate(classes)}
    for record, label in labelled:
        if label not in ids:
            shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
            raise UserError(
                f"document {record.name} of the {part} part has the label {label!r} in the field {field!r}, "
                f"which no training document has (they have {shown})",
                "correct the label, or hold out other documents by data.split",
            )
        yield ids[label]


def read_texts(
    directory: Path, part: str, progress: Progress | None = None, description: str = ""
) -> Iterator[str]:
    """The main texts of a part, in order; `progress` is called with the bytes that have been read."""
    data = np.memmap(directory / f"{part}.txt", np.uint8, mode="r")
    edges = np.fromfile(directory / f"{part}.ends", np.int64).tolist()
    for first, last in itertools.pairwise(edges):
        yield data[first:last].tobytes().decode()
        if progress:
            progress(description, last, len(data))


def read_documents(directory: Path, part: str, progress: Progress | None = None) -> Iterator[Document]:
    """The documents of a part, in order, with the fields that were asked for; `progress` as there."""
    texts = read_texts(directory, part, progress, f"reading the {part} part")
    for text, record in zip(texts, _read_records(directory, part), strict=True):
        yield record._replace(text=text)


def read_field_texts(directory: Path, part: str, field: str) -> Iterator[str]:
    """A further text of each document of a part, in order."""
    return (record.text_field(field) for record in _read_records(directory, part))


def _read_records(directory: Path, part: str) -> Iterator[Document]:
    """The documents of a part without their main text."""
    with (directory / f"{part}.records").open(encoding="utf-8") as lines:
        for line in lines:
            name, fields = json.loads(line)
            yield Document(name, "", fields)


def write_tokens(
    texts: Path,
    parts: Iterable[str],
    fields: Fields,
    tokenizer: Tokenizer,
    directory: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes the tokens of the parts of a text store and of its text fields, and the tokenizer."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    for part in parts:
        main = read_texts(texts, part, progress, f"encoding the {part} part")
        _write_stream(main, tokenizer, dtype, directory / part)
        if fields.tags:
            _write_places(read_texts(texts, part), tokenizer, directory / part)
        for field in fields.texts:
            others = read_field_texts(texts, part, field)
            _write_stream(others, tokenizer, dtype, directory / _stem(part, field))
    tokenizer.save(directory)
    return {"dtype": dtype.name, "end_id": tokenizer.end_id}


def _write_stream(texts: Iterable[str], tokenizer: Tokenizer, dtype: np.dtype, stem: Path) -> None:
    offsets = [1]
    with stem.with_name(f"{stem.name}.tokens").open("wb") as file:
        file.write(np.array([tokenizer.end_id], dtype).tobytes())
        for group in grouped(texts, len):
            for ids in tokenizer.encode_ids(group):
                file.write(np.append(ids, tokenizer.end_id).astype(dtype).tobytes())
                offsets.append(offsets[-1] + len(ids) + 1)
    np.array(offsets, np.int64).tofile(stem.with_name(f"{stem.name}.offsets"))


def _write_places(texts: Iterable[str], tokenizer: Tokenizer, stem: Path) -> None:
    """Writes the place of each word's first token in its text's tokens, and the words' offsets by text."""
    offsets = [0]
    with stem.with_name(f"{stem.name}.places").open("wb") as file:
        for group in grouped(texts, len):
            for text, encoding in zip(group, tokenizer.encode_batch(group), strict=True):
                places = first_tokens(text.encode(), encoding.spans)
                file.write(places.tobytes())
                offsets.append(offsets[-1] + len(places))
    np.array(offsets, np.int64).tofile(stem.with_name(f"{stem.name}.words"))
