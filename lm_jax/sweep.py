"""Trains a recipe over a grid of settings and several seeds, and compares them with error bars.

python -m lm_jax.sweep --grid model.num_layers=2,4 --grid optimizer.learning_rate=1e-3,3e-3 --seeds=3
python -m lm_jax.sweep --config=configs/gpt.py --grid model.position=learned,rope --config.train.num_steps=500
python -m lm_jax.sweep --config=configs/ngram.py --grid model.order=3,4,5

Each --grid names a field and its values; every combination is trained with every seed. Each run is an
ordinary run directory, WORKDIR/SETTING/seed-N, that eval.py and lm_jax.generate open. The same command again
trains only what is missing, and continues a stopped sweep. All values and directories are checked before
anything is trained. A setting that fails in training becomes a line with its error, and the exit code is 1;
sweep.csv keeps the results that it has.
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import itertools
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import jax

from lm_jax import config as config_module
from lm_jax import errors, experiment, flags
from lm_jax.config import AnyConfig
from lm_jax.errors import UserError
from lm_jax.evaluation.row import Row
from lm_jax.progress import read_metrics
from lm_jax.report.sweep import Cell, plot, print_cells, read_csv, write_csv

_MOST_RUNS = 10_000  # each is a directory of its own, and takes at least a second


def run(
    recipe: AnyConfig,
    grid: Mapping[str, Sequence[str]],
    num_seeds: int,
    workdir: pathlib.Path,
    values: Mapping[str, str] = MappingProxyType({}),
) -> list[Cell] | None:
    """Trains the missing runs and returns all results, a cell for each combination of values.

    Args:
        recipe: the common settings; its seed is the first of `num_seeds`.
        grid: dotted field name -> the texts of its values.
        num_seeds: seeds of each; an n-gram model is counted, and has none.
        workdir: the sweep's directory, which afterwards holds sweep.csv and curves.png besides the runs.
        values: dotted field name -> text, set in all runs.

    Returns:
        None if a signal stopped it; the same call continues it.

    Raises:
        UserError: an unknown field, an invalid value, or a directory that holds a run of another recipe.
            Nothing has been written then.
    """
    settings = [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]
    names = [Cell(setting).name for setting in settings]
    directories = [workdir / name.replace(", ", ",").replace("/", "_") for name in names]
    recipes = [
        experiment.override(recipe, {**values, **setting}, directory / f"seed-{recipe.seed}")
        for setting, directory in zip(settings, directories, strict=True)
    ]
    seeded = [_seeded(config, num_seeds) for config in recipes]
    for name, configs, directory in zip(names, seeded, directories, strict=True):
        _check(name, configs, directory)
    read_csv(workdir / "sweep.csv")
    workdir.mkdir(parents=True, exist_ok=True)
    cells = []
    for number, (setting, configs, directory) in enumerate(zip(settings, seeded, directories), start=1):
        print(f"setting {number} of {len(settings)}: {names[number - 1]}", file=sys.stderr, flush=True)
        cell = _cell(setting, configs, directory)
        if cell is None:
            return None
        cells.append(cell)
        write_csv(cells, workdir / "sweep.csv")
    plot(cells, workdir / "curves.png")
    return cells


def _check(name: str, configs: Mapping[int, AnyConfig], directory: pathlib.Path) -> None:
    """Raises UserError, with the setting's name, for a recipe or a directory that cannot be used."""
    for seed, config in configs.items():
        try:
            experiment.check_start(config, directory / f"seed-{seed}")
        except UserError as error:
            raise UserError(f"setting {name}: {error.cause}", error.remedy) from None


def _seeded(config: AnyConfig, num_seeds: int) -> dict[int, AnyConfig]:
    """The recipe with each seed, and without the sample text of each run."""
    num_seeds = num_seeds if config.is_trained else 1
    return {seed: config.with_seed(seed) for seed in range(config.seed, config.seed + num_seeds)}


def _cell(
    setting: Mapping[str, str], configs: Mapping[int, AnyConfig], directory: pathlib.Path
) -> Cell | None:
    """Trains and evaluates one setting. An error is stored in the cell beside the seeds that were finished
    before it. None after a signal.
    """
    rows: dict[int, Sequence[Row]] = {}
    curves: dict[int, Sequence[Mapping[str, float]]] = {}
    for seed, config in configs.items():
        workdir = directory / f"seed-{seed}"
        try:
            found = experiment.run(config, workdir)
        except UserError as error:
            return Cell(setting, rows, curves, str(error))
        except jax.errors.JaxRuntimeError as error:  # mostly out of memory
            return Cell(setting, rows, curves, str(error).splitlines()[0])
        if not found:
            return None
        rows[seed], curves[seed] = found, read_metrics(workdir / "metrics.jsonl")
    return Cell(setting, rows, curves)


def _parse_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    grid = {}
    for text in texts:
        name, equals, values = text.removeprefix("config.").partition("=")
        if name in grid:
            raise UserError(f"--grid names {name} twice", "give all its values once")
        grid[name] = [value for value in values.split(",") if value]
        if not equals or not grid[name]:
            raise UserError(f"--grid {text} names no values", "type --grid FIELD=VALUE,VALUE")
        if len(set(grid[name])) < len(grid[name]):
            raise UserError(f"--grid {text} names a value twice", "give each value once")
    return grid


def main(argv: list[str]) -> None:
    """Parses the flags, runs the sweep and shows its results."""
    argv, values = flags.split_fields(argv)
    parser = flags.Parser(prog="python -m lm_jax.sweep", description=__doc__)
    parser.add_argument("--config", **flags.recipe())
    parser.add_argument(
        "--grid", action="append", default=[], metavar="FIELD=VALUE,VALUE", help="what varies; may repeat"
    )
    parser.add_argument("--seeds", type=flags.whole, default=3, help="runs of each setting (default: 3)")
    parser.add_argument("--workdir", type=flags.path, help="the sweep's directory (default: runs/sweep-NAME)")
    arguments = parser.parse_args(argv)
    if arguments.seeds < 1:
        raise UserError(f"--seeds={arguments.seeds}", "give 1 or more")
    grid = _parse_grid(arguments.grid)
    if both := sorted(grid.keys() & values.keys()):
        raise UserError(f"{both[0]} is given by --grid and --config.{both[0]}", "leave out one of the two")
    num_runs = arguments.seeds * math.prod(map(len, grid.values()))
    if num_runs > _MOST_RUNS:
        raise UserError(f"a sweep of {num_runs:,} runs", f"choose fewer seeds or values: {_MOST_RUNS:,} runs")
    name, recipe = config_module.load(arguments.config)
    workdir = pathlib.Path(arguments.workdir or f"runs/sweep-{name}")
    cells = run(recipe, grid, arguments.seeds, workdir, values)
    if cells is None:
        return
    print_cells(cells)
    written = ", ".join(name for name in ("sweep.csv", "curves.png") if (workdir / name).exists())
    print(f"everything is in {workdir}: {written}, and a run directory for each setting and seed")
    if failed := sum(bool(cell.error) for cell in cells):
        print(f"{failed} of {len(cells)} settings failed", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
