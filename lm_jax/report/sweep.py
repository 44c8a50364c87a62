"""The results of a sweep: a table, a CSV file and a figure."""

import csv
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console

from lm_jax import files
from lm_jax.errors import UserError
from lm_jax.evaluation.row import Row
from lm_jax.metrics.significance import Mean, holm, mean_interval, mean_p_value
from lm_jax.report.figures import axes, plain_legend
from lm_jax.report.table import Column, label, make_console, print_line, print_table


@dataclass(frozen=True)
class Cell:
    """One setting of a sweep.

    Attributes:
        values: dotted field name -> text, as on the command line.
        rows: seed -> the rows of its results.json.
        curves: seed -> its lines of metrics.jsonl.
        error: why seeds are missing; "" if none is.
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
    """Prints a line for each setting: a column for each field, the mean over seeds, and its difference to the
    first setting's. A star marks the setting with the best mean on the first part.

    Where there are several seeds, also the value of the one that is best on the first part.
    """
    console, metric = console or make_console(), compared_metric(cells)
    splits = [s for s in ("valid", "test") if any(c.scores(s, metric) for c in cells)]
    first, last = (splits[0], splits[-1]) if splits else ("", "")
    winner = _winner(cells, first, metric)
    columns = [Column("", ["*" if cell is winner else "" for cell in cells])] if winner else []
    names = list(cells[0].values)
    short = [name.rpartition(".")[2] for name in names]  # without their groups, to fit a terminal
    heads = short if len(set(short)) == len(names) else names
    columns += [
        Column(head, [cell.values[name] for cell in cells], is_text=True)
        for name, head in zip(names, heads, strict=True)
    ]
    columns.append(Column("seeds", [str(len(cell.rows)) for cell in cells], leaves=2))
    for split in splits:
        means = [_mean(list(cell.scores(split, metric).values())) for cell in cells]
        columns.append(Column(f"{split} {label(metric)}", means, leaves=0 if split == last else 4))
    best = [_best(cell, splits, metric) for cell in cells]
    if any(best):
        columns.append(Column(f"{last} of best", best, leaves=1))
    if splits and len(cells) > 1:
        less = ["", *(_difference(cell, cells[0], last, metric) for cell in cells[1:])]
        columns.append(Column(f"{last} minus the first's", less, leaves=3))
        if any(p_values := _p_values(cells, last, metric)):
            columns.append(Column("p (Holm)", p_values, leaves=3))
    print_table(columns, console)
    for cell in cells:
        if cell.error:
            print_line(f"{cell.name}: {cell.error}", console)
    for note in _notes(cells, winner, first, any(best)):
        print_line(note, console, style="dim")


def _winner(cells: Sequence[Cell], split: str, metric: str) -> Cell | None:
    """The setting with the best mean over its seeds; None unless two or more have one."""
    means = [(cell, values) for cell in cells if (values := list(cell.scores(split, metric).values()))]
    if len(means) < 2:
        return None
    return min(means, key=lambda found: _sign(cells, metric) * float(np.mean(found[1])))[0]


def _sign(cells: Sequence[Cell], metric: str) -> int:
    """1 where less of a metric is better, else -1."""
    rows = [row for cell in cells for of_seed in cell.rows.values() for row in of_seed]
    return 1 if next(r for r in rows if metric in r.metrics).metrics[metric].less_is_better else -1


def _notes(cells: Sequence[Cell], winner: Cell | None, first: str, best: bool) -> Iterator[str]:
    """What the marks in the table mean."""
    if winner:
        yield f"* has the best mean on the {first} part"
    if any(len(cell.rows) > 1 for cell in cells):
        yield (
            "± is half of a 95 % interval of the mean over seeds (Student's t); differences and p-values "
            "pair the seeds"
        )
    if any(len(cell.rows) == 2 for cell in cells):
        yield "with two seeds ± is 6.4 times the distance between them: it says little, train three or more"
    if best:
        yield f"best is the seed with the best value on the {first} part"


def _best(cell: Cell, splits: Sequence[str], metric: str) -> str:
    """The value on the last part of the seed that is best on the first; "" with fewer than two seeds."""
    first, last = (cell.scores(splits[i], metric) if splits else {} for i in (0, -1))
    both = {seed: value for seed, value in first.items() if seed in last}
    if len(both) < 2:
        return ""
    return f"{last[min(both, key=lambda seed: _sign([cell], metric) * both[seed])]:.4f}"


def _difference(cell: Cell, first: Cell, split: str, metric: str) -> str:
    return _mean(_differences(cell, first, split, metric), "+")


def _differences(cell: Cell, first: Cell, split: str, metric: str) -> list[float]:
    """The cell's values less the first's, of the seeds that both have."""
    ours, theirs = cell.scores(split, metric), first.scores(split, metric)
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def _p_values(cells: Sequence[Cell], split: str, metric: str) -> list[str]:
    """Paired t-tests over seeds of each setting against the first, corrected for their number; else ""."""
    differences = {i: _differences(cell, cells[0], split, metric) for i, cell in enumerate(cells) if i}
    tested = {i: mean_p_value(np.array(found)) for i, found in differences.items() if len(found) > 1}
    corrected = dict(zip(tested, holm(np.array(list(tested.values()))))) if tested else {}
    return [f"{corrected[i]:.4f}" if i in corrected else "" for i in range(len(cells))]


def _mean(values: Sequence[float], sign: str = "") -> str:
    if not values:
        return "–"
    mean: Mean = mean_interval(np.array(values))
    return f"{mean.value:{sign}.4f}" + (f" ± {mean.half_width:.4f}" if len(values) > 1 else "")


def write_csv(cells: Sequence[Cell], path: pathlib.Path) -> None:
    """Writes a line for each setting, seed and part, with all counts, sums and metrics.

    A setting that failed has a line with the error. Lines that the file already has, of other settings or
    seeds or of a setting that fails now, stay behind these.

    Raises:
        UserError: the file is not the table of a sweep.
    """
    names = list(cells[0].values)
    rows = [row for cell in cells for rows in cell.rows.values() for row in rows]
    columns = list(dict.fromkeys(name for row in rows for name in (*row.counts, *row.sums, *row.metrics)))
    lines: list[dict[str, Any]] = []
    for cell in cells:
        for seed, of_seed in cell.rows.items():
            for row in of_seed:
                values = row.as_json()
                measured = {name: values.get(name) for name in columns}
                lines.append({**cell.values, "seed": str(seed), "split": row.split, **measured})
        if cell.error:
            lines.append({**cell.values, "seed": "", "split": "", "error": cell.error})
    before, old_names, old = read_csv(path)
    names = [*names, *(name for name in old_names if name not in names)]
    good = {_key(line, names) for line in lines if "error" not in line}
    taken = {_key(line, names) for line in lines} | {(setting, "", "") for setting, _, _ in good}
    lines += [line for line in old if _key(line, names) not in taken]
    columns += [name for name in before if name not in columns]
    with files.replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*names, "seed", "split", *columns, "error"])
        writer.writeheader()
        writer.writerows(lines)


def _key(line: Mapping[str, Any], names: Sequence[str]) -> tuple[tuple[tuple[str, str], ...], str, str]:
    """The setting, the seed and the part of a line."""
    setting = tuple(sorted((name, line[name]) for name in names if line.get(name)))
    return setting, line["seed"], line["split"]


def read_csv(path: pathlib.Path) -> tuple[list[str], list[str], list[dict[str, str]]]:
    """The columns of measured values, those of fields, and the lines of an earlier sweep.csv, if any.

    Raises:
        UserError: the file is not the table of a sweep.
    """
    if not path.exists():
        return [], [], []
    try:
        reader = csv.DictReader(io.StringIO(files.read_text(path), newline=""), strict=True)
        heads, lines = list(reader.fieldnames or []), list(reader)
    except csv.Error:
        heads, lines = [], []
    is_whole = all(None not in line and None not in line.values() for line in lines)
    if not {"seed", "split", "error"} <= set(heads) or not is_whole:
        raise UserError(f"{path} is not the table of a sweep", "move it elsewhere")
    place = heads.index("seed")
    return heads[place + 2 : -1], heads[:place], lines


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
