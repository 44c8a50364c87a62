"""Trains a recipe over a grid of settings and several seeds, and compares them with error bars.

python -m lm_jax.sweep --grid model.num_layers=2,4 --grid optimizer.learning_rate=1e-3,3e-3 --seeds=3
python -m lm_jax.sweep --config=configs/gpt.py --grid model.position=learned,rope --config.train.num_steps=500
python -m lm_jax.sweep --config=configs/ngram.py --grid model.order=3,4,5

Each --grid names a field and its values; every combination is trained with every seed. Each run is an
ordinary run directory, WORKDIR/SETTING/seed-N, that eval.py and lm_jax.generate open. The same command again
trains only what is missing, and continues a stopped sweep. A setting that fails becomes a line with its
error.
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
from lm_jax.progress import read_metrics
from lm_jax.report.sweep import Cell, plot, print_cells, write_csv

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
        UserError: an unknown field or an invalid value.
    """
    settings = [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]
    names = [Cell(setting).name for setting in settings]
    directories = [workdir / name.replace(", ", ",").replace("/", "_") for name in names]
    recipes = [
        experiment.override(recipe, {**values, **setting}, directory / f"seed-{recipe.seed}")
        for setting, directory in zip(settings, directories, strict=True)
    ]
    _check_some(recipes)
    workdir.mkdir(parents=True, exist_ok=True)
    cells = []
    for number, (setting, config, directory) in enumerate(zip(settings, recipes, directories), start=1):
        print(f"setting {number} of {len(settings)}: {names[number - 1]}", file=sys.stderr, flush=True)
        cell = _cell(setting, _seeded(config, num_seeds), directory)
        if cell is None:
            return None
        cells.append(cell)
        write_csv(cells, workdir / "sweep.csv")
    plot(cells, workdir / "curves.png")
    return cells


def _check_some(recipes: Sequence[AnyConfig]) -> None:
    """Raises the first recipe's error if no recipe can be run: then the mistake is not in the grid."""
    errors = []
    for recipe in recipes:
        try:
            return experiment.check(recipe)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _seeded(config: AnyConfig, num_seeds: int) -> dict[int, AnyConfig]:
    """The recipe with each seed, and without the sample text of each run."""
    num_seeds = num_seeds if config.is_trained else 1
    return {seed: config.with_seed(seed) for seed in range(config.seed, config.seed + num_seeds)}


def _cell(
    setting: Mapping[str, str], configs: Mapping[int, AnyConfig], directory: pathlib.Path
) -> Cell | None:
    """Trains and evaluates one setting; errors are stored in the cell. None after a signal."""
    workdirs = {seed: directory / f"seed-{seed}" for seed in configs}
    try:
        rows = {seed: experiment.run(config, workdirs[seed]) for seed, config in configs.items()}
    except UserError as error:
        return Cell(setting, error=str(error))
    except jax.errors.JaxRuntimeError as error:  # mostly out of memory
        return Cell(setting, error=str(error).splitlines()[0])
    if not all(rows.values()):
        return None
    curves = {seed: list(read_metrics(path / "metrics.jsonl")) for seed, path in workdirs.items()}
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
    parser.add_argument("--config", default="configs/gpt.py", metavar="PATH.py[:VARIANT]", help="the recipe")
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


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
