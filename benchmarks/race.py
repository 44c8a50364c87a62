"""Races of several programs: each has its own process, all on the same cores, and they run in turn.

A script calls `race` for a table, and `serve` in the processes that `race` starts.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_WARM_UP = 3  # runs before the first turn


def pin(cores: int) -> None:
    """Runs this process and its children on so many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


def serve(run: Callable[[], Any], times: int = 1) -> None:
    """Answers each input line with the seconds of a run, the mean of `times`, and the peak GiB of memory."""
    for _ in range(_WARM_UP):
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(times):
            run()
        seconds = (time.perf_counter() - start) / times
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, flush=True)


def race(
    script: str, subjects: Mapping[str, Sequence[str]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds and peak GiB of each subject in each round.

    Args:
        script: the file that is started, with `--serve` and the subject's arguments.
        subjects: name -> arguments.
        rounds: turns of each.
    """
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = {
        name: subprocess.Popen([sys.executable, script, "--serve", *arguments], **pipes)
        for name, arguments in subjects.items()
    }
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
    for name, worker in workers.items():
        if worker.stdout.readline() != "ready\n":
            sys.exit(f"{name} failed")
    for _ in range(rounds):
        for name, worker in workers.items():
            print("go", file=worker.stdin, flush=True)
            seconds, gib = worker.stdout.readline().split()
            turns[name].append((float(seconds), float(gib)))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return turns


def print_table(
    title: str, turns: Mapping[str, Sequence[tuple[float, float]]], work: int, unit: str = "tokens"
) -> None:
    """Median times, and ratios to the first subject: each within one round, their median and range.

    Args:
        title: printed above.
        turns: what `race` returned.
        work: units in a run.
        unit: tokens, or what else is counted.
    """
    print(f"\n{title}")
    print(f"{'':<26}{'ms':>9}{unit + '/s':>13}{'ratio':>7}  {'range':<14}{'GiB':>6}")
    first = [seconds for seconds, _ in next(iter(turns.values()))]
    for name, results in turns.items():
        seconds = [s for s, _ in results]
        ratios = [a / b for a, b in zip(first, seconds, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        median = statistics.median(seconds)
        print(
            f"{name:<26}{median * 1e3:9.1f}{work / median:13,.0f}"
            f"{statistics.median(ratios):7.2f}  {spread:<14}{max(m for _, m in results):6.2f}",
            flush=True,
        )
