"""Results on a terminal."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lm_jax import runtime, seal
from lm_jax.evaluation.protocol import differing
from lm_jax.evaluation.row import DOCUMENTS, Row
from lm_jax.report import numbers
from lm_jax.report.numbers import difference, label, number

_UNLIMITED = 10_000  # characters in a line where the output is not a terminal
_SAMPLE_WIDTH = 80  # of the lines around a sample
_OTHER_METRICS = 2  # metrics beside the headline that fit a terminal of 80 characters

# Columns about the difference to the first row, and their places among those that leave a narrow table.
_DIFFERENCE = (
    ("difference", numbers.effect, 10),
    ("its 95 % interval", numbers.effect_interval, 8),
    ("p (Holm)", numbers.holm_p, 9),
)
_PREDICT = "python -m lm_jax.predict --model={} --text=FILE"
# What a model of each task is for.
_COMMANDS = {
    "bidirectional": "python -m lm_jax.embed --model={} --text=FILE --out=FILE.hdf5",
    "causal": "python -m lm_jax.generate --model={} --prompt='The '",
    "masked": "python -m lm_jax.embed --model={} --text=FILE --out=FILE.npy",
    "denoising": "python train.py --config=configs/seq2seq.py --config.init_from={}",
    "seq2seq": "python -m lm_jax.generate --model={} --prompt='A SOURCE'",
    "classification": _PREDICT,
    "regression": _PREDICT,
    "tagging": _PREDICT,
}
# Metrics of a task that do not fit the table: they are in a line below it.
_BELOW = {
    "causal": ("token_accuracy", "calibration_error"),
    "bidirectional": ("backward_perplexity", "forward_perplexity_by_line", "backward_perplexity_by_line"),
}


def make_console() -> Console:
    """A console on standard output, which cuts and folds lines only to fit a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=_UNLIMITED)


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        head: its heading.
        cells: a text for each line.
        leaves: its place among the columns that are left out of a table that is too wide: 1 is the first to
            go; 0: it always stays.
        is_text: whether it is aligned on the left, and folded where even the columns that stay are too wide.
    """

    head: str
    cells: Sequence[str]
    leaves: int = 0
    is_text: bool = False

    def width(self) -> int:
        """Places that it takes on a terminal, with the space behind it."""
        return max(map(cell_len, (self.head, *self.cells))) + 1


def print_table(columns: Sequence[Column], console: Console) -> None:
    """Prints a table. On a terminal that is too narrow, columns are left out in their order, and named."""
    left = sorted((c for c in columns if c.leaves), key=lambda column: column.leaves)
    shown, dropped = list(columns), []
    while left and sum(column.width() for column in shown) - 1 > console.width:
        dropped.append(left.pop(0))
        shown.remove(dropped[-1])
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in shown:
        side: Any = ("left", "fold") if column.is_text else ("right", "ellipsis")
        table.add_column(Text(column.head), justify=side[0], overflow=side[1], no_wrap=not column.is_text)
    for cells in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*map(Text, cells))  # not str, in which rich reads [markup] and :emoji:
    console.print(table)
    if dropped:
        heads = ", ".join(column.head for column in dropped)
        print_line(f"not shown on {console.width} columns: {heads}", console, style="dim")


def print_rows(rows: Sequence[Row], console: Console | None = None) -> None:
    """Prints a line for each row: the model, the text, the first count, the first metrics, and differences.

    Rows with other metrics are in a separate table. Below are the protocols where they differ, the reasons
    for missing values and intervals of the headline, the audit, what does not compare, what intervals
    resample if not documents, and the differences to the first row. A terminal that is too narrow leaves
    out, in this order: tokens of the training text, parameters, documents, the first count, unknown tokens,
    the metrics beside the headline from the last one on, the interval of the difference, its p-value, and the
    difference.
    """
    console = console or make_console()
    for group in grouped(rows):
        print_table(_columns(group), console)
        for line in differing(group):
            print_line(line, console, style="dim")
    for row in rows:
        why, audit = row.metrics[row.headline].why, row.audit.line() if row.audit else ""
        for note in filter(None, (_below(row), why, audit, blocks(row), *row.notes, difference(row))):
            line = f"{row.model}, {row.split}: {note}"
            print_line(line, console, style="dim")


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in lists that have the same counts and metrics, in the order of their first rows.

    Metrics that are shown below a table are not asked for.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        below = ("forward_perplexity", *_BELOW.get(row.task, ()))
        groups.setdefault((*row.counts, *(name for name in row.metrics if name not in below)), []).append(row)
    return list(groups.values())


def blocks(row: Row) -> str:
    """What intervals and tests of a row resample; "" if documents."""
    return "" if row.resampled == DOCUMENTS else f"intervals and tests over {row.resampled}"


def _below(row: Row) -> str:
    """The metrics of a row that its table does not show."""
    names = [name for name in _BELOW.get(row.task, ()) if name in row.metrics]
    return ", ".join(f"{label(name)} {value(row, name)}" for name in names)


def _columns(rows: Sequence[Row]) -> list[Column]:
    count, headline = next(iter(rows[0].counts)), rows[0].headline
    others = rows[0].overall[1 : 1 + _OTHER_METRICS]
    columns = [  # leaves: OOV 5, the other metrics next, those of the difference last
        Column("model", [row.model for row in rows], is_text=True),
        Column("text", [row.split for row in rows], is_text=True),
        Column("parameters", [_known(row.parameters) for row in rows], leaves=2),
        Column("trained on", [_known(row.training_tokens) for row in rows], leaves=1),
        Column("docs", [f"{row.documents:,}" for row in rows], leaves=3),
        Column(label(count), [f"{row.counts[count]:,}" for row in rows], leaves=4),
        Column(label("oov"), [_known(row.counts.get("oov", 0)) for row in rows], leaves=5),
        *(
            Column(label(name), [value(row, name) for row in rows], leaves=6 + len(others) - place)
            for place, name in enumerate(others)
        ),
        Column(label(headline), [value(row, headline) for row in rows]),
        Column("95 % interval", [interval(row, headline) for row in rows]),
        *(
            Column(head, [cell(row.difference) for row in rows], leaves=leaves)
            for head, cell, leaves in _DIFFERENCE
        ),
    ]
    # Columns with nothing to say.
    dashes = ("parameters", "trained on", *(head for head, _, _ in _DIFFERENCE))
    silent = {label("oov"): "0", **dict.fromkeys(dashes, "–")}
    return [c for c in columns if any(cell != silent.get(c.head) for cell in c.cells)]


def _known(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def print_run(workdir: pathlib.Path, rows: Sequence[Row], imports: Sequence[str] = ()) -> None:
    """Prints the results of a finished run: its table, a sample, its files, and commands to try next.

    Args:
        workdir: the run directory.
        rows: its results; none of a run that was stopped.
        imports: the user's files that define its model or task, which other commands must be told.
    """
    if not rows:
        return
    console = make_console()
    print_rows(rows, console)
    sample = workdir / "sample.txt"
    if seal.exists(sample):
        width = min(console.width, _SAMPLE_WIDTH)
        print_line(f"a sample {'·' * (width - len('a sample '))}", console)
        console.print(Text(sample.read_text(encoding="utf-8", errors="replace").rstrip()))
        print_line("·" * width, console)
    told = "".join(f" --import={path}" for path in imports)
    command = _COMMANDS.get(rows[0].task, _COMMANDS["causal"]).format(f"{workdir}{told}")
    written = sorted(path.name for path in workdir.iterdir() if not path.name.startswith("."))
    for line in (
        f"everything is in {workdir}: {', '.join(written)}",
        f"next: {command}",
        f"      python eval.py --model={workdir}{told} --text=FILE",
    ):
        print_line(runtime.as_called(line), console)


def print_line(line: str, console: Console, style: str | None = None) -> None:
    """Prints a line as it is: rich's [markup] and :emoji: in a user's text or path have no meaning."""
    console.print(line, style=style, highlight=False, markup=False, emoji=False, soft_wrap=True)


def value(row: Row, name: str) -> str:
    """The value of a row's metric."""
    return number(name, row.metrics[name].value)


def interval(row: Row, name: str) -> str:
    """The interval of a row's metric."""
    ends = row.metrics[name].interval
    return "–" if ends is None else "–".join(number(name, end) for end in ends)
