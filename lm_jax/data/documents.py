"""Documents with their fields, how a text is cut into documents, and the files that hold them."""

import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from lm_jax.compression import reading
from lm_jax.errors import UserError
from lm_jax.text.words import WHITE_SPACE, count_words, is_blank

DOCUMENTS = ("file", "line", "paragraph")
_PART = 1 << 22  # characters of a text that are cut at a time
_BLANKS = f"[{WHITE_SPACE.replace(chr(10), '')}]*"
_BLANK_LINES = re.compile(rf"\n(?:{_BLANKS}\n)+(?:{_BLANKS}\Z)?")


Value = str | int | float | bool | list


class Document(NamedTuple):
    """The unit that is scored, classified or transformed on its own, and that a bootstrap draws.

    Attributes:
        name: its file, and its line or number there.
        text: its main text.
        fields: the other values of its record, such as a label, a second text or a target; a list has a value
            for each word of the text, words being separated by white space.
    """

    name: str
    text: str
    fields: Mapping[str, Value] = {}

    def text_field(self, name: str) -> str:
        """A field that is a text.

        Raises:
            UserError: no such field, or a number.
        """
        value = self._field(name)
        if not isinstance(value, str):
            raise self._wrong(name, "text")
        return value

    def texts_field(self, name: str) -> list[str]:
        """A field that is a list of texts.

        Raises:
            UserError: no such field, or another value, or a list of anything else.
        """
        values = self._field(name)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self._wrong(name, "list of texts")
        return values

    def label(self, name: str) -> str:
        """A field as the name of a class: "true" and "false" for booleans, the digits of a number.

        Raises:
            UserError: no such field, or an empty one.
        """
        value = self._field(name)
        if value == "" or isinstance(value, list):
            raise self._wrong(name, "label")
        return class_names([value])[0]

    def tags(self, name: str) -> list[str]:
        """A field as the names of classes, one for each word of the text; see `label`.

        Raises:
            UserError: no such field, or no list, or an empty name, or more or fewer than the text has words.
        """
        values = self._field(name)
        if not isinstance(values, list) or any(value == "" for value in values):
            raise self._wrong(name, "list of labels")
        num_words = count_words(self.text.encode())
        if len(values) != num_words:
            raise UserError(
                f"document {self.name} has {len(values)} labels in the field {name!r} for {num_words} words",
                "give one for each word, words being separated by white space",
            )
        return class_names(values)

    def number(self, name: str) -> float:
        """A field as a number.

        Raises:
            UserError: no such field, or one that is not a finite number.
        """
        value = self._field(name)
        try:
            number = math.nan if isinstance(value, list) else float(value)
        except (OverflowError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise self._wrong(name, "finite number")
        return number

    def _field(self, name: str) -> Value:
        if name not in self.fields:
            has = ", ".join(self.fields) or "none"
            raise UserError(
                f"document {self.name} has no field {name!r} (its fields: {has})",
                "name one of its fields, or add this one to the record",
            )
        return self.fields[name]

    def _wrong(self, name: str, kind: str) -> UserError:
        value = repr(self.fields[name])
        shown = value if len(value) <= 80 else f"{value[:80]}..."
        return UserError(
            f"document {self.name} has no {kind} in the field {name!r}, but {shown}",
            "correct the record, or name another field",
        )


def class_names(values: Iterable[Value]) -> list[str]:
    """Values as names of classes: "true" and "false" for booleans, the digits of numbers."""
    return [str(value).lower() if isinstance(value, bool) else str(value) for value in values]


class Fields(NamedTuple):
    """The fields of documents that a task reads beside their text.

    Attributes:
        texts: names of further texts, which become tokens.
        labels: names of fields whose values are classes, which become integers.
        numbers: names of numbers.
        tags: names of lists of classes, one for each word.
    """

    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def select(self, document: Document) -> dict[str, Value]:
        """The values of these fields.

        Raises:
            UserError: the document lacks one of them, or has one of another kind, or has an empty text.
        """
        if is_blank(document.text):
            raise _empty(document, "")
        for name in self.texts:
            if is_blank(document.text_field(name)):
                raise _empty(document, f" in the field {name!r}")
        for name in self.labels:
            document.label(name)
        for name in self.numbers:
            document.number(name)
        for name in self.tags:
            document.tags(name)
        return {name: document.fields[name] for names in self for name in names}


def _empty(document: Document, where: str) -> UserError:
    return UserError(
        f"document {document.name} has an empty text{where}", "write one, or leave the record out"
    )


NO_FIELDS = Fields()


class File(Protocol):
    """One of the files of a corpus.

    Attributes:
        name: the same wherever the corpus is stored.
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
        """Its documents, before they are cut into lines or paragraphs.

        Raises:
            UserError: it cannot be read, or has another form.
        """
        ...


@dataclasses.dataclass(frozen=True)
class PathFile:
    """A `File` of the file system.

    Attributes:
        path: its path.
        name: the first part of its documents' names.
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
        """The documents that `parse` gives."""
        return self.parse(self.path, self.name)


def pieces(document: Document, documents: str) -> Iterator[Document]:
    """Cuts a document as `cut` cuts its text, and numbers the pieces from 1; a file is one, without a number.

    Each piece has the document's fields; of a list with a value for each word it has the values of its words.
    """
    if documents == "file" or not document.text:
        yield document
        return
    lists = {name: value for name, value in document.fields.items() if isinstance(value, list)}
    num_words = count_words(document.text.encode()) if lists else 0
    lists = {name: values for name, values in lists.items() if len(values) == num_words}
    first = 0
    for number, text in enumerate(cut(document.text, documents), 1):
        last = first + count_words(text.encode()) if lists else 0
        own = {name: values[first:last] for name, values in lists.items()}
        yield Document(f"{document.name}:{number}", text, {**document.fields, **own})
        first = last


def cut_lines(lines: Iterable[str], documents: str) -> Iterator[str]:
    """What `cut` makes of a text whose lines are given without newlines; holds a part of the text at a time.

    Raises:
        UserError: an unknown kind of document.
    """
    held: list[str] = []
    size = 0
    for line in lines:
        if size > _PART and documents != "file":
            # The last document may go on in the next line.
            *whole, last = cut("\n".join([*held, ""]), documents)
            yield from whole
            held, size = last.split("\n")[:-1], 0
        held.append(line)
        size += len(line) + 1
    yield from cut("\n".join(held), documents)


def cut(text: str, documents: str) -> list[str]:
    """Cuts a text into documents that together are the text.

    A line includes its newline, a paragraph the blank lines after it (the first also those before it).

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
