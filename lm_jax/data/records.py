"""Files of records (JSON lines, tables, labelled lines, columns): each record is a document with fields."""

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lm_jax.data.documents import Document
from lm_jax.data.text_files import read_lines, read_text
from lm_jax.errors import UserError
from lm_jax.text.words import WHITE_SPACE, WORD, is_blank

_SCALARS = (str, int, float)  # booleans too


def parse_jsonl(path: Path, name: str, field: str) -> Iterator[Document]:
    """JSON objects, one a line: the text is one field; of the others, strings, numbers and lists of these are
    kept.

    A text may be a list of words, which are joined by single spaces. Blank lines are skipped. Fields that are
    null, objects or other lists are left out.

    Raises:
        UserError: a line that is not a JSON object or has no text in the field, or a word with white space.
    """
    for number, line in enumerate(read_lines(path), 1):
        if not is_blank(line):
            where = f"{path}, line {number},"
            record = _object(line, where)
            text = _text(record, field, where)
            fields = {n: v for n, v in record.items() if _is_kept(v) and n != field}
            yield Document(f"{name}:{number}", text, fields)


def _is_kept(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(one, _SCALARS) for one in values)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # beside wrong JSON: integers of thousands of digits
        raise UserError(f"{where} cannot be read as JSON ({error})", "give one object a line") from None
    if not isinstance(record, dict):
        raise UserError(f"{where} is a JSON {type(record).__name__}, not an object", "give one object a line")
    if "\\u" in line:  # only an escape can be half a character
        try:
            "".join(map(str, itertools.chain(*record.items()))).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{where} has an escape that is half a character", "write both halves, or U+FFFD"
            ) from None
    return record


def _text(record: dict[str, Any], field: str, where: str) -> str:
    text = record.get(field)
    if isinstance(text, str):
        return text
    if isinstance(text, list) and all(isinstance(word, str) for word in text):
        return _joined(text, where)
    if field in record:
        kind = "null" if text is None else f"a {type(text).__name__}"
        raise UserError(f"{where} has {kind} in the field {field!r}, not a text", "type jsonl:GLOB#FIELD")
    names = ", ".join(record) or "no field"
    raise UserError(f"{where} has no text in the field {field!r} (it has {names})", "type jsonl:GLOB#FIELD")


def parse_tsv(path: Path, name: str, column: str) -> Iterator[Document]:
    """Lines of cells between tabs: the text is one column, by its name in the first line or by its number.

    There is neither quoting nor escaping: quotation marks and backslashes are part of a cell, and no cell
    holds a tab or a newline. Lines end with a newline or CR LF. Empty lines are skipped.

    Raises:
        UserError: no such column, or a line with more or fewer cells than the first.
    """
    lines = (line.removesuffix("\r") for line in read_text(path).split("\n"))
    rows = ((number, line.split("\t")) for number, line in enumerate(lines, 1) if line)
    remedy = "let every line have the same number of tabs; quotation marks do not protect one"
    return _documents(rows, path, name, column, "tsv", remedy)


def parse_csv(path: Path, name: str, column: str) -> Iterator[Document]:
    """Comma-separated values as Python's `csv` module reads them: cells in quotation marks may hold newlines.

    The text is one column, by its name in the first record or by its number. Empty lines are skipped.

    Raises:
        UserError: no such column, wrong quoting, or a record with more or fewer cells than the first.
    """
    rows = _csv_rows(read_text(path), path)
    remedy = 'put cells with commas in quotation marks, and write a quotation mark inside them as ""'
    return _documents(rows, path, name, column, "csv", remedy)


def _csv_rows(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """The records with the number of their first line."""
    limit = csv.field_size_limit(len(text) + 1)  # of the process, 131,072 by default; restored below
    rows, first = [], 1
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if cells:
                rows.append((first, cells))
            first = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {first}, is not CSV ({error})",
            'close each quotation mark, and write one inside a cell as ""',
        ) from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _documents(
    rows: Iterable[tuple[int, list[str]]], path: Path, name: str, column: str, kind: str, remedy: str
) -> Iterator[Document]:
    """A document for each row of a table; its other cells are fields, by column name or else by number."""
    index = width = 0
    others: list[tuple[str, int]] = []
    for number, cells in rows:
        if not width:
            index, width = _place(cells, column, path, kind), len(cells)
            names = [str(n) for n in range(1, width + 1)] if _is_number(column) else cells
            others = [(n, place) for place, n in enumerate(names) if n and place != index]
            if not _is_number(column):
                continue
        if len(cells) != width:
            cause = f"{path}, line {number}, has {len(cells)} columns where the first line has {width}"
            raise UserError(cause, remedy)
        yield Document(f"{name}:{number}", cells[index], {n: cells[place] for n, place in others})


def _is_number(column: str) -> bool:
    """Whether a column is named by its number."""
    return column.isdecimal() and len(column) < 10  # Python refuses to read thousands of digits


def _place(header: list[str], column: str, path: Path, kind: str) -> int:
    """The index of a column from 0."""
    if _is_number(column) and 0 < int(column) <= len(header):
        return int(column) - 1
    if _is_number(column) or column not in header:
        shown = ", ".join(map(repr, header)) if len(header) < 20 else f"{len(header)} columns"
        raise UserError(
            f"{path} has no column {column!r} (its first line is {shown})",
            f"type {kind}:GLOB#COLUMN, a name in the first line, or a number if that line is not a header",
        )
    if twice := next((n for n in header if n and header.count(n) > 1), None):
        raise UserError(f"{path} has two columns named {twice!r}", "rename one of them")
    return header.index(column)


def parse_labelled(path: Path, name: str, column: str) -> Iterator[Document]:
    """Lines of a label, white space, and a text: the field `label` is the first word.

    fastText's prefix `__label__` is left out. Blank lines are skipped. `column` is not used.

    Raises:
        UserError: a line of one word.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if match := WORD.search(line):
            text = line[match.end() :].strip(WHITE_SPACE)
            if not text:
                raise UserError(f"{path}, line {number}, has one word", "write a label, a space and a text")
            yield Document(f"{name}:{number}", text, {"label": match[0].removeprefix("__label__")})


def parse_conll(path: Path, name: str, column: str) -> Iterator[Document]:
    """Sentences of lines of columns between white space: each is a document with the field `tags`.

    The first column is the word; the tag is in column `column`, by its number from 1 on, or in the last.
    Sentences end at blank lines. Lines that begin with -DOCSTART- are skipped. (CoNLL 2000, 2002 and 2003;
    Tjong Kim Sang and Buchholz 2000.)

    Raises:
        UserError: no such column, or a line with more or fewer columns than the first.
    """
    if column and not (_is_number(column) and int(column) > 1):
        raise UserError(f"conll:{path}#{column}", "name the column of the tag by its number, from 2 on")
    words: list[str] = []
    tags: list[str] = []
    width = first = 0
    for number, line in enumerate([*read_text(path).split("\n"), ""], 1):
        cells = WORD.findall(line)
        if not cells or cells[0] == "-DOCSTART-":
            if words:
                yield Document(f"{name}:{first}", " ".join(words), {"tags": tags})
                words, tags = [], []
            continue
        width = width or len(cells)
        if len(cells) != width or width < max(2, int(column or 2)):
            raise UserError(
                f"{path}, line {number}, has {len(cells)} columns"
                + (f" where the first has {width}" if len(cells) != width else ""),
                "write a word and its tags in a line, and type conll:GLOB[#COLUMN]",
            )
        first = first if words else number
        words.append(cells[0])
        tags.append(cells[int(column or width) - 1])


def _joined(words: list[str], where: str) -> str:
    """Words as a text."""
    wrong = next((word for word in words if len(WORD.findall(word)) != 1 or WORD.sub("", word)), None)
    if wrong is not None:
        raise UserError(f"{where} has the word {wrong!r}", "write words without white space, and none empty")
    return " ".join(words)
