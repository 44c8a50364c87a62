"""Results on a terminal."""

import pathlib
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lm_jax.evaluation.causal import Row


def print_rows(rows: Sequence[Row], console: Console | None = None) -> None:
    """One line a row: the model, the text, and how well the one predicts the other."""
    console = console or Console()
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("model", overflow="fold", min_width=12)
    table.add_column("text", overflow="fold", min_width=5)
    for name in ("docs", "tokens", "nats/token", "perplexity", "bits/byte", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = (
            row.model,
            row.split,
            f"{row.documents:,}",
            f"{row.tokens:,}",
            number(row.nats and row.nats / row.tokens, ".4f"),
            number(row.perplexity, ".2f"),
            number(row.bits_per_byte, ".4f"),
            interval(row),
        )
        table.add_row(*cells)
    console.print(table)
    for row in rows:
        for note in filter(None, (row.why, difference(row))):
            line = f"{row.model}, {row.split}: {note}"
            console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


def print_run(workdir: pathlib.Path, rows: Sequence[Row]) -> None:
    """What a finished run has to say: its table, a sample, where everything is, and what to type next."""
    if not rows:
        return
    console = Console()
    print_rows(rows, console)
    sample = workdir / "sample.txt"
    if sample.exists():
        console.rule("a sample", align="left", characters="·")
        console.print(sample.read_text(encoding="utf-8").rstrip(), highlight=False, markup=False)
        console.rule(characters="·")
    written = sorted(path.name for path in workdir.iterdir() if not path.name.startswith("."))
    for line in (
        f"everything is in {workdir}: {', '.join(written)}",
        f"next: python -m lm_jax.generate --model={workdir} --prompt='The '",
        f"      python eval.py --model={workdir} --text=FILE",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def number(value: float | None, form: str) -> str:
    """A value, or a dash where there is none."""
    return "–" if value is None else format(value, form)


def interval(row: Row) -> str:
    """The interval of a row's bits per byte."""
    return "–" if row.bits_per_byte_ci is None else "{:.4f}–{:.4f}".format(*row.bits_per_byte_ci)


def difference(row: Row) -> str:
    """A row's difference to the first one, in bits per byte, with its p-value."""
    if row.difference is None:
        return ""
    bits, p, first = (row.difference[name] for name in ("bits_per_byte", "p_value", "to"))
    return f"{bits:+.4f} bits/byte beside {first} (paired bootstrap over documents, p = {p:.3g})"
