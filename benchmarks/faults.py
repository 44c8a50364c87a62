"""Makes mistakes and accidents on purpose and counts what the commands answer: `python benchmarks/faults.py`.

    --only=commands   wrong command lines (see wrong_commands.py): exit code 2, one line, under 10 s
    --only=signals    SIGINT and SIGTERM at random moments: one line, the usual exit code, and the same
                      numbers after the same command was given again
    --tries=50        signals of each kind
    --seed=0          of the random moments

Printed are a line for each failure, and a table of what was tried and what passed, by kind. The exit code is
1 if anything failed.
"""

import argparse
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]


class Outcome(NamedTuple):
    """One try: its kind, and what was wrong; "" if nothing was."""

    kind: str
    fault: str = ""


# ----------------------------------------------------------------------------------------- command lines


def commands(tries: int, seed: int) -> Iterator[Outcome]:
    """Every wrong command line of wrong_commands.py, each in a process of its own.

    The processes are forked from one that has imported everything and has not started jax: all that a command
    does after its imports, at a hundredth of their time.
    """
    import wrong_commands
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # as the commands do where they start
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        os.environ.update(LM_JAX_CACHE=str(folder / "cache"), JAX_PLATFORMS="cpu")
        train = [sys.executable, str(ROOT / "train.py")]
        files = wrong_commands.make_files(
            folder,
            lambda recipe, to: subprocess.run([*train, f"--config={recipe}", f"--workdir={to}"], check=True),
        )
        mains = {command: wrong_commands.load_main(command) for command in wrong_commands.COMMANDS}
        os.chdir(ROOT)
        for case in wrong_commands.cases(files):
            start = time.monotonic()
            code, printed = _forked(lambda: mains[case.command](list(case.arguments)), folder / "stderr")  # noqa: B023
            yield Outcome(case.kind, _fault_of_line(case, code, printed, time.monotonic() - start))


def _forked(function: Callable[[], None], log: pathlib.Path) -> tuple[int, str]:
    """The exit code of a command that runs in a forked process, and what it prints to standard error."""
    from lm_jax import errors

    sys.stdout.flush()
    child = os.fork()
    if not child:
        for name, number in ((os.devnull, 1), (log, 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        signal.alarm(60)
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
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")


def _fault_of_line(case: Any, code: int, printed: str, seconds: float) -> str:
    lines = printed.splitlines()
    if code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and seconds < 10:
        return ""
    shown = [argument[:80] for argument in case.arguments]
    return f"{shown}: exit code {code} after {seconds:.1f} s: {printed[-300:]!r}"


# ---------------------------------------------------------------------------------------------- signals

_GPT = """
from lm_jax.config import Config, OptimizerConfig, TrainConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.gpt import GPTConfig

def get_config(variant=""):
    data = DataConfig(corpus="text:{text}", documents="line", split="hash:0.1,0.1", tokenizer="byte",
                      sequence_length=32)
    train = TrainConfig(num_steps=60, batch_size=4, eval_every=20, checkpoint_every=7, log_every=1,
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
_PROGRESS = re.compile(r"step +\d+  validation |[a-z ]+ \d+/\d+ ")  # lines of a run that goes well


def signals(tries: int, seed: int) -> Iterator[Outcome]:
    """SIGINT and SIGTERM, `tries` of each, at random moments of tiny runs, from the first import on."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        lines = [" ".join(draw.choices(_WORDS, k=draw.randrange(3, 12))) for _ in range(400)]
        (folder / "text.txt").write_text(" .\n".join(lines), encoding="utf-8")
        for family, recipe in (("gpt", _GPT), ("ngram", _NGRAM)):
            path = folder / f"{family}.py"
            path.write_text(recipe.format(text=folder / "text.txt"), encoding="utf-8")
            for number in (signal.SIGINT, signal.SIGTERM):
                yield from _interrupted(path, number, tries // 2, draw)


class _Run:
    """A training command in a work directory, watched from the moment it can handle signals."""

    def __init__(self, recipe: pathlib.Path, workdir: pathlib.Path, cold: bool = False):
        cache = recipe.parent / f"cache-{workdir.name}" if cold else recipe.parent / "cache"
        environment = os.environ | {
            "LM_JAX_CACHE": str(recipe.parent / "cache"),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, str(ROOT / "train.py"), f"--config={recipe}", f"--workdir={workdir}"]
        self.workdir = workdir
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while self.process.poll() is None and not self._handles_signals():
            time.sleep(0.001)
        self.start = time.monotonic()

    def _handles_signals(self) -> bool:
        try:
            status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return True
        masks = {
            line[:6]: int(line[7:], 16) for line in status.splitlines() if line[:6] in ("SigCgt", "SigBlk")
        }
        term = 1 << (signal.SIGTERM - 1)
        return bool((masks["SigCgt"] | masks["SigBlk"]) & term)

    def wait_for_lines(self, count: int) -> None:
        """Until metrics.jsonl has so many lines, or the process has ended."""
        path = self.workdir / "metrics.jsonl"
        while self.process.poll() is None:
            if path.exists() and len(path.read_text().splitlines()) >= count:
                return
            time.sleep(0.002)

    def finish(self) -> tuple[int, str, float]:
        """The exit code, what was printed, and the seconds since signals are handled."""
        _, printed = self.process.communicate(timeout=300)
        return self.process.returncode, printed, time.monotonic() - self.start


def _numbers(workdir: pathlib.Path) -> list[object]:
    """What a run measured, without times."""
    rows = json.loads((workdir / "results.json").read_text())
    found: list[object] = [[{k: v for k, v in row.items() if k != "model"} for row in rows]]
    if (workdir / "metrics.jsonl").exists():
        lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        timed = ("tokens_per_second", "input_wait")
        found += [{k: v for k, v in line.items() if k not in timed} for line in lines]
    return found


def _interrupted(
    recipe: pathlib.Path, number: signal.Signals, tries: int, draw: random.Random
) -> Iterator[Outcome]:
    kind = f"{number.name} during {recipe.stem}"
    first = _Run(recipe, recipe.parent / f"{recipe.stem}-whole-{number.name}")
    code, printed, seconds = first.finish()
    if code:
        yield Outcome(kind, f"the uninterrupted run ended with {code}: {printed}")
        return
    expected, attempt = _numbers(first.workdir), 0
    workdir = recipe.parent / f"{recipe.stem}-{number.name}-{attempt}"
    for _ in range(tries):
        run = _Run(recipe, workdir, cold=draw.random() < 0.2)
        if recipe.stem == "gpt" and draw.random() < 0.5:
            run.wait_for_lines(draw.randrange(65))
            time.sleep(0.1 * draw.random())
        else:
            time.sleep(1.05 * seconds * draw.random())
        run.process.send_signal(number)
        code, printed, _ = run.finish()
        yield Outcome(kind, _fault_of(code, printed, number, (workdir / "results.json").exists()))
        if (workdir / "results.json").exists() or draw.random() < 0.2:  # to the end, and a new directory
            code, printed, _ = _Run(recipe, workdir).finish()
            fault = "" if code == 0 else f"the same command again ended with {code}: {printed[-500:]}"
            if not fault and _numbers(workdir) != expected:
                fault = f"other numbers than those of the uninterrupted run, in {workdir}"
            yield Outcome(f"the same numbers after {kind}", fault)
            attempt += 1
            workdir = recipe.parent / f"{recipe.stem}-{number.name}-{attempt}"


def _fault_of(code: int, printed: str, number: int, finished: bool) -> str:
    """What is wrong with the end of an interrupted process; "" if nothing is."""
    lines = [line for line in printed.splitlines() if not _PROGRESS.match(line)]
    stopped = ["stopped"]
    saved = len(lines) == 1 and re.fullmatch(r"stopped at step \d+, saved; .* to resume", lines[0])
    if (code == 128 + number and lines == stopped) or (code == 0 and (saved or (finished and not lines))):
        return ""
    # After the interpreter has taken its handlers away, the signal ends a process whose work is done.
    if finished and code == -number and not lines:
        return ""
    return f"exit code {code}: {printed[-1500:]!r}"


# ----------------------------------------------------------------------------------------------- report

KINDS: dict[str, Callable[[int, int], Iterator[Outcome]]] = {"commands": commands, "signals": signals}


def main() -> None:
    """Reads the flags, tries everything and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--tries", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    counts: dict[str, list[int]] = {}
    for name, function in KINDS.items():
        if flags.only in (None, name):
            for outcome in function(flags.tries, flags.seed):
                count = counts.setdefault(outcome.kind, [0, 0])
                count[0] += 1
                count[1] += not outcome.fault
                if outcome.fault:
                    print(f"{outcome.kind}: {outcome.fault}", flush=True)
    print(f"{'kind':<50}{'tried':>8}{'passed':>8}")
    for kind, (tried, passed) in counts.items():
        print(f"{kind:<50}{tried:>8}{passed:>8}")
    sys.exit(any(tried != passed for tried, passed in counts.values()))


if __name__ == "__main__":
    main()
