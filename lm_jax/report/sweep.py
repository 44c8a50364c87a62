"""The results of a sweep: a table, a CSV file and a figure."""

import csv
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lm_jax.evaluation.row import Row
from lm_jax.metrics.significance import Mean, mean_interval
from lm_jax.report.figures import axes, plain_legend
from lm_jax.report.table import label, make_console, print_line


@dataclass(frozen=True)
class Cell:
    """One setting of a sweep.

    Attributes:
        values: dotted field name -> text, as on the command line.
        rows: seed -> the rows of its results.json.
        curves: seed -> its lines of metrics.jsonl.
        error: why there are no results; "" if there are results.
    """

    values: Mapping[str, str]
    rows: Mapping[int, Sequence[Row]] = field(default_factory=dict)
    curves: Mapping[int, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    error: str = ""

    @property
    def name(self) -> str:
        """The values in a line; "base" if nothing varies."""
        return ", ".join(f"{name}={value}" for name, value in self.values.items()) or "base"

    def scores(self, split: str, metric: str) -> dict[int, float]:
        """Each seed's value of a metric on a part; seeds without a value are left out."""
        found = {seed: row for seed, rows in self.rows.items() for row in rows if row.split == split}
        values = {seed: row.metrics[metric].value for seed, row in found.items() if metric in row.metrics}
        return {seed: value for seed, value in values.items() if value is not None}


def compared_metric(cells: Sequence[Cell]) -> str:
    """The metric that settings are compared in: the first that has a value in all rows; "" without rows.

    If no metric has a value in all rows, the headline.
    """
    found = [row for cell in cells for rows in cell.rows.values() for row in rows]
    if not found:
        return ""
    for metric in found[0].metrics:
        if all(metric in row.metrics and row.metrics[metric].value is not None for row in found):
            return metric
    return found[0].headline


def print_cells(cells: Sequence[Cell], console: Console | None = None) -> None:
    """Prints a line for each setting: the mean over seeds, and its difference to the first setting's.

    Where there are several seeds, also the value of the one that is best on the first part.
    """
    console, metric = console or make_console(), compared_metric(cells)
    splits = [s for s in ("valid", "test") if any(c.scores(s, metric) for c in cells)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("setting", overflow="fold")
    table.add_column("seeds", justify="right")
    for split in splits:
        table.add_column(f"{split} {label(metric)}", justify="right", no_wrap=True)
    best = [_best(cell, splits, metric) for cell in cells]
    if any(best):
        table.add_column(f"{splits[-1]} of best", justify="right", no_wrap=True)
    table.add_column(f"{splits[-1] if splits else ''} minus the first's", justify="right", no_wrap=True)
    for cell, value in zip(cells, best, strict=True):
        scores = [_mean(list(cell.scores(split, metric).values())) for split in splits]
        last = _difference(cell, cells[0], splits[-1], metric) if splits and cell is not cells[0] else ""
        # Field names without their groups, to fit a terminal.
        short = {name.rpartition(".")[2]: value for name, value in cell.values.items()}
        setting = Cell(short).name if len(short) == len(cell.values) else cell.name
        of_best = [value] if any(best) else []
        table.add_row(Text(setting.replace(", ", "\n")), str(len(cell.rows)), *scores, *of_best, last)
    console.print(table)
    for cell in cells:
        if cell.error:
            print_line(f"{cell.name}: {cell.error}", console)
    note = "± is half of a 95 % interval of the mean over seeds (Student's t); differences are paired by seed"
    if any(best):
        note += f"; best is the seed with the best value on the {splits[0]} part"
    print_line(note, console, style="dim")


def _best(cell: Cell, splits: Sequence[str], metric: str) -> str:
    """The value on the last part of the seed that is best on the first; "" with fewer than two seeds."""
    first, last = (cell.scores(splits[i], metric) if splits else {} for i in (0, -1))
    both = {seed: value for seed, value in first.items() if seed in last}
    if len(both) < 2:
        return ""
    rows = [row for of_seed in cell.rows.values() for row in of_seed if metric in row.metrics]
    sign = 1 if rows[0].metrics[metric].less_is_better else -1
    return f"{last[min(both, key=lambda seed: sign * both[seed])]:.4f}"


def _difference(cell: Cell, first: Cell, split: str, metric: str) -> str:
    ours, theirs = cell.scores(split, metric), first.scores(split, metric)
    return _mean([ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()], "+")


def _mean(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return "–"
    mean: Mean = mean_interval(np.array(values))
    return f"{mean.value:{sign}.4f}" + (f" ± {mean.half_width:.4f}" if len(values) > 1 else "")


def write_csv(cells: Sequence[Cell], path: pathlib.Path) -> None:
    """Writes a line for each setting, seed and part, with all counts, sums and metrics.

    A setting that failed has a line with the error.
    """
    names = list(cells[0].values)
    rows = [row for cell in cells for rows in cell.rows.values() for row in rows]
    columns = list(dict.fromkeys(name for row in rows for name in (*row.counts, *row.sums, *row.metrics)))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "seed", "split", *columns, "error"])
        for cell in cells:
            chosen = [cell.values[name] for name in names]
            for seed, of_seed in cell.rows.items():
                for row in of_seed:
                    values = row.as_json()
                    writer.writerow([*chosen, seed, row.split, *(values.get(c) for c in columns), ""])
            if cell.error:
                writer.writerow([*chosen, "", "", *[""] * len(columns), cell.error])


def plot(cells: Sequence[Cell], path: pathlib.Path) -> None:
    """Draws each setting's validation loss along training: the mean over seeds and their range."""
    figure, picture = axes(8, 4.5)
    for number, cell in enumerate(cells):
        curves = [dict(_losses(lines)) for lines in cell.curves.values()]
        steps = sorted(set.intersection(*map(set, curves))) if curves else []
        if not steps:
            continue
        values = np.array([[curve[step] for step in steps] for curve in curves])
        picture.plot(steps, values.mean(axis=0), color=f"C{number}", marker="o", ms=3, label=cell.name)
        picture.fill_between(steps, values.min(axis=0), values.max(axis=0), color=f"C{number}", alpha=0.2)
    picture.set_xlabel("step")
    picture.set_ylabel("validation loss")
    if picture.lines:
        plain_legend(picture, fontsize="small")
        figure.savefig(path, dpi=150)


def _losses(lines: Sequence[Mapping[str, float]]) -> Iterator[tuple[float, float]]:
    for line in lines:
        if "valid_loss" in line:
            yield line["step"], line["valid_loss"]
