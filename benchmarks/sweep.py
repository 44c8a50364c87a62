"""What it saves to train seeds at once: `python benchmarks/sweep.py`, five minutes.

The default recipe is trained with three seeds by three commands, one after the other, and by one sweep; then
the steps alone take turns in rounds. Shown are seconds and how many times faster the sweep is (of the rounds
the median and the range). Each side begins with an empty cache: the corpus, the tokenizer and the programs
are made once in it.

    --seeds=3
    --steps=250    of each run
    --rounds=5     of 20 steps of each seed
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from lm_jax import runtime

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS_OF_A_ROUND = 20


def whole_runs(num_seeds: int, num_steps: int) -> tuple[float, float]:
    """Seconds of the commands one after the other, and of the sweep."""
    with tempfile.TemporaryDirectory() as directory:
        first = pathlib.Path(directory)
        steps = f"--config.train.num_steps={num_steps}"
        alone = 0.0
        for seed in range(num_seeds):
            options = [steps, f"--config.train.seed={seed}", "--config.train.sample_tokens=0"]
            alone += seconds_of(first / "alone", "train.py", *options, f"--workdir={first}/alone-{seed}")
        options = ["-m", "lm_jax.sweep", steps, f"--seeds={num_seeds}", f"--workdir={first}/sweep"]
        return alone, seconds_of(first / "together", *options)


def seconds_of(cache: pathlib.Path, *arguments: str) -> float:
    """Runs a Python command with a cache of its own."""
    start = time.perf_counter()
    environment = os.environ | {"LM_JAX_CACHE": str(cache)}
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, check=True)
    return time.perf_counter() - start


def steps_in_turn(num_seeds: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds of the steps of each seed in turn, and of all at once, for each round."""
    runtime.prepare()
    import jax

    from lm_jax import config as config_module
    from lm_jax.data import pipeline
    from lm_jax.program import Program
    from lm_jax.seeds import Seeds
    from lm_jax.sharding import make_mesh

    _, recipe = config_module.load("configs/gpt.py")
    data = pipeline.prepare(recipe.data)
    recipe = config_module.resolve(recipe, data.tokenizer.vocab_size)
    configs = [
        dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, seed=s)) for s in range(num_seeds)
    ]
    source = pipeline.make_source(data.splits["train"], recipe.data, recipe.train.batch_size, 0)
    batches = [source.batch(step) for step in range(num_seeds)]

    alone, together = Program(recipe, make_mesh(recipe.mesh)), Seeds(configs)
    key = jax.random.key(1)
    sides = [Side(alone.step, alone.init(), batch, key) for batch in batches]
    stacked = jax.tree.map(lambda *rows: jax.numpy.stack(rows), *batches)
    at_once = Side(together.step, together.start(), stacked, together.key)

    found = []
    for number in range(rounds + 1):
        seconds = sum(side.run() for side in sides), at_once.run()
        if number:  # in the first they are compiled
            found.append(seconds)
    return found


class Side:
    """A state and the step that it goes through."""

    def __init__(self, step: Callable[..., Any], state: Any, batch: Any, key: Any):
        self._step, self._state, self._inputs = step, state, (batch, key)

    def run(self) -> float:
        """Seconds of a round."""
        import jax

        start = time.perf_counter()
        for _ in range(STEPS_OF_A_ROUND):
            self._state, _ = self._step(self._state, *self._inputs)
        jax.block_until_ready(self._state)
        return time.perf_counter() - start


def main() -> None:
    """Prints both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    rounds = steps_in_turn(arguments.seeds, arguments.rounds)
    ratios = [alone / together for alone, together in rounds]
    spread = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
    step_ms = [1000 / STEPS_OF_A_ROUND * statistics.median(side) for side in zip(*rounds, strict=True)]
    print(f"{'':<24}{'in turn':>12}{'at once':>12}")
    show(f"a step of {arguments.seeds} seeds", step_ms, "ms", spread)
    whole_s = whole_runs(arguments.seeds, arguments.steps)
    show(f"{arguments.steps} steps, evaluated", whole_s, "s", f"{whole_s[0] / whole_s[1]:.2f}x")


def show(name: str, times: Sequence[float], unit: str, ratio: str) -> None:
    """Prints a line."""
    print(f"{name:<24}" + "".join(f"{t:>9.1f} {unit:<2}" for t in times) + f"  {ratio}", flush=True)


if __name__ == "__main__":
    main()
