"""Tiny runs for `faults.py`: their recipes, their numbers, and commands in forked processes."""

import json
import os
import pathlib
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]


class Outcome(NamedTuple):
    """One try: its kind, and what was wrong; "" if nothing was."""

    kind: str
    fault: str = ""


_GPT = """
from lm_jax.config import Config, OptimizerConfig, TrainConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.gpt import GPTConfig

def get_config(variant=""):
    data = DataConfig(corpus="text:{text}", documents="line", split="hash:0.1,0.1", tokenizer="byte",
                      sequence_length=32)
    train = TrainConfig(num_steps={steps}, batch_size=4, eval_every={every}, checkpoint_every=7, log_every=1,
                        sample_tokens=8)
    model = GPTConfig(num_layers=1, num_heads=2, d_model=16, dropout=0.1)
    return Config(data=data, model=model, train=train, optimizer=OptimizerConfig(warmup_steps=2))
"""
_NGRAM = """
from lm_jax.config import CountConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.ngram.smoothing import NGramConfig

def get_config(variant=""):
    data = DataConfig(corpus="text:{text}", documents="line", split="hash:0.1,0.1", tokenizer="word")
    return CountConfig(data=data, model=NGramConfig(order=3, smoothing="witten_bell"), sample_tokens=8)
"""
_WORDS = ["the", "a", "model", "language", "data", "reads", "learns", "writes", "old", "new", "text"]
# Lines of a run that goes well.
_PROGRESS = re.compile(r"step +\d+  validation |[a-z ]+ \d+/\d+ |.*training text: .*; writes to ")


def write_recipes(folder: pathlib.Path, draw: random.Random, steps: int = 60) -> list[pathlib.Path]:
    """A text, and the recipes of a GPT and of an n-gram model on it."""
    lines = [" ".join(draw.choices(_WORDS, k=draw.randrange(3, 12))) for _ in range(400)]
    (folder / "text.txt").write_text(" .\n".join(lines), encoding="utf-8")
    made = []
    for family, recipe in (("gpt", _GPT), ("ngram", _NGRAM)):
        made.append(folder / f"{family}.py")
        text = recipe.format(text=folder / "text.txt", steps=steps, every=max(1, steps // 3))
        made[-1].write_text(text, encoding="utf-8")
    return made


def numbers(workdir: pathlib.Path) -> list[object]:
    """What a run measured and wrote, without times and its own name."""
    rows = json.loads((workdir / "results.json").read_text())
    found: list[object] = [[{k: v for k, v in row.items() if k != "model"} for row in rows]]
    found.append((workdir / "sample.txt").read_text())
    if (workdir / "metrics.jsonl").exists():
        lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        timed = ("tokens_per_second", "input_wait")
        found += [{k: v for k, v in line.items() if k not in timed} for line in lines]
    return found


def left_over(*folders: pathlib.Path) -> list[str]:
    """Names of unfinished files in folders and below."""
    found = [path for folder in folders for path in folder.rglob("*")]
    ends = (".tmp", ".part", ".replaced")
    return [str(path) for path in found if path.name.endswith(ends) or "-tmp" in path.name]


def unexpected_lines(printed: str) -> list[str]:
    """The lines of standard error that do not tell of progress."""
    return [line for line in printed.splitlines() if not _PROGRESS.match(line)]


class Forked:
    """A command in a forked process. Its standard error goes to a file.

    Fork from a process that has imported everything and has not started jax: the command does all that it
    does after its imports, at a fraction of their time.

    Args:
        function: the command.
        log: for its standard error.
        seconds: after which the process ends by SIGALRM.
    """

    def __init__(self, function: Callable[[], None], log: pathlib.Path, seconds: int = 300):
        from lm_jax import errors

        self._log = log
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        for name, number in ((os.devnull, 1), (log, 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        signal.alarm(seconds)
        code: object = 0
        try:
            with errors.reported():
                function()
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)

    def has_ended(self) -> bool:
        """Whether the process has ended; it can still be waited for."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def finish(self) -> tuple[int, str]:
        """Waits for the exit code, minus the number of a signal, and what was printed."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status), self._log.read_text(errors="replace")

    def kill(self) -> bool:
        """Kills the process and waits for its end; False if it had ended."""
        os.kill(self.pid, signal.SIGKILL)
        return self.finish()[0] == -signal.SIGKILL


class Chain:
    """Runs of a recipe that something happens to, until one may finish.

    Args:
        recipe: the recipe; its text and what is made lie beside it.
        main: `main` of train.py.

    Attributes:
        workdir: the present work directory.
        cache: the cache of texts and tokens of its runs.
        seconds: of an uninterrupted run.
    """

    def __init__(self, recipe: pathlib.Path, main: Callable[[list[str]], None]):
        self._recipe, self._main, self._number = recipe, main, 0
        self._log = recipe.with_suffix(".stderr")
        for _ in range(2):  # the second one's time is that of the following: all is compiled
            self.new()
            start = time.monotonic()
            code, printed = self.start().finish()
            self.seconds = time.monotonic() - start
            if code:
                raise RuntimeError(f"the uninterrupted run ended with {code}: {printed}")
        self._expected = numbers(self.workdir)
        self.new()

    def new(self) -> None:
        """Continues in a new work directory with an empty cache of texts."""
        self._number += 1
        self.workdir = self._recipe.parent / f"{self._recipe.stem}-{self._number}" / "run"
        self.cache = self.workdir.parent / "cache"

    def start(self, before: Callable[[], None] = lambda: None) -> Forked:
        """Starts the command; `before` is called in its process."""

        def run() -> None:
            os.environ["LM_JAX_CACHE"] = str(self.cache)
            before()
            self._main([f"--config={self._recipe}", f"--workdir={self.workdir}"])

        return Forked(run, self._log)

    def finish(self, kind: str) -> Iterator[Outcome]:
        """Gives the same command again until the end, and compares; then there is a new work directory."""
        code, printed = self.start().finish()
        fault = f"the same command again ended with {code}: {printed[-800:]}" if code else ""
        if not fault and numbers(self.workdir) != self._expected:
            fault = f"other numbers than those of the uninterrupted run, in {self.workdir}"
        if not fault and (found := left_over(self.workdir, self.cache)):
            fault = f"unfinished files: {found}"
        yield Outcome(f"the same numbers after {kind}", fault)
        self.new()
