"""Tables for papers, in Markdown and in LaTeX."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from lm_jax.evaluation.base import Evaluation
from lm_jax.evaluation.compare import on_one_scale
from lm_jax.evaluation.row import Row
from lm_jax.report.numbers import effect, holm_p, label, number
from lm_jax.report.table import grouped

_SHOWN = 3  # metrics, the headline first


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: its content, plain.
        interval: the ends of its interval, plain; () without one.
        bold: whether it is the best value.
    """

    text: str
    interval: tuple[str, ...] = ()
    bold: bool = False


class Table(NamedTuple):
    """Rows that have the same metrics.

    Attributes:
        heads: the names of the columns.
        lines: the cells of each row.
        about: what the numbers are, in sentences.
        notes: what is to know of single rows.
        sha256: of the texts that were scored.
    """

    heads: Sequence[str]
    lines: Sequence[Sequence[Cell]]
    about: str
    notes: Sequence[str]
    sha256: Sequence[str]


def tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """A table for each text and group of rows that have the same metrics.

    The best value of a metric is bold if all values in the column compare, and there are several.
    """
    by_row = {id(one.row): one for one in evaluations}
    texts: dict[tuple[str, str], list[Row]] = {}
    for one in evaluations:
        texts.setdefault((one.row.split, one.row.text_sha256), []).append(one.row)
    groups = [group for rows in texts.values() for group in grouped(rows)]
    return [_table([by_row[id(row)] for row in group]) for group in groups]


def _table(group: Sequence[Evaluation]) -> Table:
    rows = [one.row for one in group]
    metrics = rows[0].overall[:_SHOWN]
    best = {metric: _best(group, metric) for metric in metrics}
    heads = ["model", *map(label, metrics)]
    lines = [[Cell(row.model), *(_metric(row, name, best[name]) for name in metrics)] for row in rows]
    if any(row.difference is not None for row in rows):
        heads += ["difference", "p (Holm)"]
        for line, row in zip(lines, rows):
            line += _difference(row)
    return Table(
        heads,
        lines,
        _about(rows),
        [f"{row.model}: {note}" for row in rows for note in _notes(row)],
        list(dict.fromkeys(row.text_sha256 for row in rows)),
    )


def _best(group: Sequence[Evaluation], metric: str) -> str:
    """The best value of a metric as it is shown; "" where not all compare."""
    values = [one.row.metrics[metric] for one in group]
    if len(group) < 2 or not all(on_one_scale(one, group[0], metric) for one in group):
        return ""
    numbers = [one.value for one in values if one.value is not None]
    return number(metric, min(numbers) if values[0].less_is_better else max(numbers))


def _metric(row: Row, name: str, best: str) -> Cell:
    shown = number(name, row.metrics[name].value)
    ends = row.metrics[name].interval or ()
    return Cell(shown, tuple(number(name, end) for end in ends), shown == best)


def _difference(row: Row) -> list[Cell]:
    one = row.difference
    if one is None:
        return [Cell("–"), Cell("–")]
    ends = tuple(number(one.metric, end, "+") for end in one.interval or ())
    unit = "" if one.metric == row.headline else f" {label(one.metric)}"
    return [Cell(effect(one) + unit, ends), Cell(holm_p(one))]


def _about(rows: Sequence[Row]) -> str:
    sizes = ", ".join(f"{rows[0].counts[name]:,} {label(name)}" for name in list(rows[0].counts)[:1])
    over = ", ".join(dict.fromkeys(row.resampled for row in rows))
    parts = [f"Text: {rows[0].split}, {rows[0].documents:,} documents{', ' if sizes else ''}{sizes}."]
    parts.append(f"In brackets: 95 % bootstrap intervals over {over}.")
    if any(row.difference is not None for row in rows):
        [first] = dict.fromkeys(row.difference.to for row in rows if row.difference is not None)
        parts.append(f"Differences to {first}; p-values by approximate randomisation, Holm's correction.")
    return " ".join(parts)


def _notes(row: Row) -> list[str]:
    return [note for note in (row.metrics[row.headline].why, *row.notes) if note]


def markdown(tables: Sequence[Table], command: str) -> str:
    """The tables in Markdown (GitHub's)."""
    parts = []
    for table in tables:
        heads = [_markdown(head) for head in table.heads]
        rule = [":--", *["--:"] * (len(heads) - 1)]
        body = [[_markdown_cell(cell) for cell in line] for line in table.lines]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *body)))
        parts.append(_markdown(table.about))
        parts.extend(f"- {_markdown(note)}" for note in table.notes)
        parts.extend(f"sha256 of the text: {one}" for one in table.sha256)
    fence = "`" * (1 + max(map(len, re.findall("`+", command)), default=0))
    pad = " " if command.startswith("`") or command.endswith("`") else ""
    parts.append(f"Made by {fence}{pad}{_one_line(command)}{pad}{fence}")
    return "\n\n".join(parts) + "\n"


def _markdown_cell(cell: Cell) -> str:
    shown = f"**{_markdown(cell.text)}**" if cell.bold else _markdown(cell.text)
    return f"{shown} [{', '.join(map(_markdown, cell.interval))}]" if cell.interval else shown


def _markdown(text: str) -> str:
    """Text of which no character has a meaning in Markdown or in HTML."""
    escaped = re.sub(r"([\\`*_{}\[\]#|~$!])", r"\\\1", _one_line(text))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"^([-+]|\d+[.)])(?=\s)", r"\\\1", escaped)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def latex(tables: Sequence[Table], command: str) -> str:
    r"""The tables as `tabular` environments, for \input inside a `table`; they need \usepackage{booktabs}.

    Characters outside ASCII are written as they are, in UTF-8.
    """
    parts = []
    for table in tables:
        heads = " & ".join(_latex(head) for head in table.heads)
        body = "".join(f"{' & '.join(map(_latex_cell, line))} \\\\\n" for line in table.lines)
        comments = [
            f"Made by: {command}",
            *(f"sha256 of the text: {one}" for one in table.sha256),
            table.about,
            *table.notes,
        ]
        parts.append(
            "".join(f"% {_one_line(comment)}\n" for comment in comments)
            + f"\\begin{{tabular}}{{l{'r' * (len(table.heads) - 1)}}}\n\\toprule\n{heads} \\\\\n\\midrule\n"
            + f"{body}\\bottomrule\n\\end{{tabular}}\n"
        )
    return "% needs \\usepackage{booktabs}\n" + "\n".join(parts)


def _latex_cell(cell: Cell) -> str:
    shown = _latex(cell.text)
    shown = f"\\textbf{{{shown}}}" if cell.bold else shown
    return f"{shown} {{\\small [{', '.join(map(_latex, cell.interval))}]}}" if cell.interval else shown


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedblright{}",
    "`": r"\textasciigrave{}",
    "'": "{'}",
    "\0": "{}",
    "–": "--",
    "−": "$-$",
    "≤": r"$\leq$",
    "[": "{[}",  # after \\, LaTeX reads a bracket as a length
    "]": "{]}",
}


def _latex(text: str) -> str:
    """Text of which no character has a meaning in LaTeX; signs of numbers are those of formulas."""
    text = _one_line(text)
    if re.fullmatch(r"[-+][\d.,]+( .*)?", text):
        return f"${text[0]}${_latex(text[1:])}"
    apart = re.sub("-(?=-)", "-\0", text)  # two hyphens in a row are a dash
    return "".join(_LATEX.get(character, character) for character in apart)
