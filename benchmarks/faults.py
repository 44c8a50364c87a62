"""Makes mistakes and accidents on purpose and counts what the commands answer: `python benchmarks/faults.py`.

    --only=commands     wrong command lines (see wrong_commands.py): exit code 2, one line, under 10 s
    --only=signals      SIGINT and SIGTERM at random moments: one line, the usual exit code, and the same
                        numbers after the same command was given again
    --only=kills        SIGKILL at random moments, likewise; no unfinished file stays
    --only=operations   SIGKILL at single file operations, likewise (see fault_operations.py)
    --only=disk         a full disk from such an operation on: exit code 2 and one line, likewise
    --only=damages      damaged files of runs and of the cache: the same numbers, or one line that names the
                        file (see fault_damages.py)
    --tries=50          of each kind (signals: of each signal; not of commands and damages)
    --seed=0            of the random moments

Printed are a line for each failure, and a table of what was tried and what passed, by kind; after Ctrl-C, of
what was tried until then. The exit code is 1 if anything failed.
"""

import argparse
import contextlib
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import fault_damages
import fault_operations
from fault_runs import ROOT, Chain, Forked, Outcome, numbers, unexpected_lines, write_recipes

# ----------------------------------------------------------------------------------------- command lines


def commands(tries: int, seed: int) -> Iterator[Outcome]:
    """Every wrong command line of wrong_commands.py, each in a process of its own.

    The processes are forked from one that has imported everything and has not started jax: all that a command
    does after its imports, at a hundredth of their time.
    """
    import wrong_commands

    from lm_jax import runtime

    runtime.quiet_libraries()  # as the commands do where they start
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
            process = Forked(lambda: mains[case.command](list(case.arguments)), folder / "stderr")  # noqa: B023
            code, printed = process.finish()
            yield Outcome(case.kind, _fault_of_line(case, code, printed, time.monotonic() - start))


def _fault_of_line(case: Any, code: int, printed: str, seconds: float) -> str:
    lines = printed.splitlines()
    if code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and seconds < 10:
        return ""
    shown = [argument[:80] for argument in case.arguments]
    return f"{shown}: exit code {code} after {seconds:.1f} s: {printed[-300:]!r}"


# ---------------------------------------------------------------------------------------------- signals


def signals(tries: int, seed: int) -> Iterator[Outcome]:
    """SIGINT and SIGTERM, `tries` of each, at random moments of tiny runs, from the first import on."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for path in write_recipes(folder, draw):
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


def _interrupted(
    recipe: pathlib.Path, number: signal.Signals, tries: int, draw: random.Random
) -> Iterator[Outcome]:
    kind = f"{number.name} during {recipe.stem}"
    first = _Run(recipe, recipe.parent / f"{recipe.stem}-whole-{number.name}")
    code, printed, seconds = first.finish()
    if code:
        yield Outcome(kind, f"the uninterrupted run ended with {code}: {printed}")
        return
    expected, attempt = numbers(first.workdir), 0
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
            if not fault and numbers(workdir) != expected:
                fault = f"other numbers than those of the uninterrupted run, in {workdir}"
            yield Outcome(f"the same numbers after {kind}", fault)
            attempt += 1
            workdir = recipe.parent / f"{recipe.stem}-{number.name}-{attempt}"


def _fault_of(code: int, printed: str, number: int, finished: bool) -> str:
    """What is wrong with the end of an interrupted process; "" if nothing is."""
    lines = unexpected_lines(printed)
    stopped = ["stopped"]
    saved = len(lines) == 1 and re.fullmatch(r"stopped at step \d+, saved; .* to resume", lines[0])
    end = 130 if number == signal.SIGINT else 0
    if (code == 128 + number and lines == stopped) or (code == end and saved):
        return ""
    if code == 0 and finished and not lines:
        return ""
    # After the interpreter has taken its handlers away, the signal ends a process whose work is done.
    if finished and code == -number and not lines:
        return ""
    return f"exit code {code}: {printed[-1500:]!r}"


# ------------------------------------------------------------------------------------------------ kills


def kills(tries: int, seed: int) -> Iterator[Outcome]:
    """SIGKILL at random moments of a GPT's and of a counted run, three of four in the GPT's."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        for recipe in write_recipes(pathlib.Path(name), draw):
            chain, done = Chain(recipe, train_main()), 0
            while done < (-(-3 * tries // 4) if recipe.stem == "gpt" else tries // 4):
                process, end = chain.start(), time.monotonic() + chain.seconds * draw.random()
                path, lines = (
                    chain.workdir / "metrics.jsonl",
                    draw.randrange(1, 130),
                )  # half of them: the time
                while time.monotonic() < end or lines < 60:
                    if process.has_ended() or (
                        lines < 60 and path.exists() and path.read_bytes().count(b"\n") >= lines
                    ):
                        break
                    time.sleep(0.001)
                time.sleep(0.02 * draw.random())
                if process.kill():
                    done += 1
                    yield Outcome(f"SIGKILL during {recipe.stem}")
                    if draw.random() < 0.5:
                        continue
                yield from chain.finish(f"SIGKILL during {recipe.stem}")


def operations(tries: int, seed: int) -> Iterator[Outcome]:
    """See `fault_operations.operations`."""
    return fault_operations.operations(train_main(), tries, seed)


def disk(tries: int, seed: int) -> Iterator[Outcome]:
    """See `fault_operations.disk`."""
    return fault_operations.disk(train_main(), tries, seed)


def train_main() -> Callable[[list[str]], None]:
    """`main` of train.py, in a process that has imported what it needs and has not started jax."""
    import orbax.checkpoint  # noqa: F401 (at the first checkpoint, a second in each process)
    import wrong_commands

    from lm_jax import compiled, runtime

    runtime.quiet_libraries()  # as the commands do where they start
    compiled.seal_cache()
    return wrong_commands.load_main("train")


# ----------------------------------------------------------------------------------------------- report

KINDS: dict[str, Callable[[int, int], Iterator[Outcome]]] = {
    "commands": commands,
    "signals": signals,
    "kills": kills,
    "operations": operations,
    "disk": disk,
    "damages": fault_damages.damages,
}


def main() -> None:
    """Reads the flags, tries everything and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=KINDS, action="append")
    parser.add_argument("--tries", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    chosen = flags.only or list(KINDS)
    if {"operations", "disk"} & set(chosen):
        fault_operations.load_shim()
    counts: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as name:
        os.environ.update(JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="1", LM_JAX_CACHE=f"{name}/cache")
        for variable, value in (  # as the commands do where they start
            ("JAX_COMPILATION_CACHE_DIR", f"{name}/compiled"),
            ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0"),
            ("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1"),
        ):
            os.environ.setdefault(variable, value)
        with contextlib.suppress(KeyboardInterrupt):  # the table tells what was tried
            for outcome in (one for kind in chosen for one in KINDS[kind](flags.tries, flags.seed)):
                count = counts.setdefault(outcome.kind, [0, 0])
                count[0] += 1
                count[1] += not outcome.fault
                if outcome.fault:
                    print(f"{outcome.kind}: {outcome.fault}", flush=True)
    print(f"{'kind':<70}{'tried':>8}{'passed':>8}")
    for kind, (tried, passed) in counts.items():
        print(f"{kind:<70}{tried:>8}{passed:>8}")
    sys.exit(any(tried != passed for tried, passed in counts.values()))


if __name__ == "__main__":
    main()
