"""Elements of an HTML page. Everything that comes from a user's text or names is escaped here."""

import html
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

# HTML has no control characters but these three: others are shown by their pictures (U+2400 and on).
PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {0x7F: 0x2421}
# Characters that HTML's parser reads in a script element, and those that end a line in JavaScript.
_IN_SCRIPTS = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        shown: its text.
        order: the number that it is sorted by; None: it has none, and follows those that have one.
        kind: CSS classes.
    """

    shown: str
    order: float | None = None
    kind: str = ""


class Column(NamedTuple):
    """A column of a table; `is_text` columns are flush left and sorted by their letters."""

    head: str
    cells: Sequence[Cell]
    is_text: bool = False


def escape(text: str) -> str:
    """Text as it stands in an element or in a quoted attribute."""
    return html.escape(text.translate(PICTURES))


def name(text: str) -> str:
    """A name, whose direction of writing does not change that of the text around it."""
    return f"<bdi>{escape(text)}</bdi>"


def data(value: Any, identifier: str) -> str:
    """A script element that holds JSON, which no browser executes and whose text cannot end it.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f'<script type="application/json" id="{identifier}">{text.translate(_IN_SCRIPTS)}</script>'


def section(identifier: str, title: str, *parts: str) -> str:
    """A section of the page with its heading; "" without parts."""
    body = "\n".join(part for part in parts if part)
    if not body:
        return ""
    return f'<section id="{identifier}"><h2>{escape(title)}</h2>\n{body}\n</section>'


def table(columns: Sequence[Column], caption: str, kind: str = "") -> str:
    """A table that scrolls sideways where it does not fit; the first column names the rows."""
    heads = "".join(
        f'<th scope="col"{_classes("text" if column.is_text else "")}>{escape(column.head)}</th>'
        for column in columns
    )
    lines = []
    for cells in zip(*(column.cells for column in columns), strict=True):
        shown = (_cell(cell, columns[i].is_text, i == 0) for i, cell in enumerate(cells))
        lines.append(f"<tr{_classes(cells[0].kind)}>{''.join(shown)}</tr>")
    body = "\n".join(lines)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f"<table{_classes(kind)}><caption><span>{escape(caption)}</span></caption>\n"
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(cell: Cell, is_text: bool, is_name: bool) -> str:
    number = repr(cell.order).replace("inf", "Infinity")  # as JavaScript reads it
    order = "" if cell.order is None else f' data-order="{number}"'
    if is_name:
        return f'<th scope="row"{order}>{name(cell.shown)}</th>'
    kinds = " ".join(filter(None, ("text" if is_text else "", cell.kind)))
    return f"<td{_classes(kinds)}{order}>{escape(cell.shown)}</td>"


def _classes(kinds: str) -> str:
    return f' class="{kinds}"' if kinds else ""


def figure(picture: str, caption: str) -> str:
    """An SVG element with its caption, which also tells readers of the screen what it shows."""
    labelled = picture.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)
    return f"<figure>{labelled}<figcaption>{escape(caption)}</figcaption></figure>"
