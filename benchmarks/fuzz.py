"""Gives every reader of files hostile inputs: `python benchmarks/fuzz.py`.

    --inputs=200000     in all, shared out among the readers (see fuzz_readers.py)
    --only=PATTERN      readers whose names match the regular expression from their beginning on
    --workers=2         processes
    --seed=0            of the inputs
    --keep=DIRECTORY    where inputs that failed are written (default: a new directory)

Each input is a good file with changes (see mutations.py). It is read in a forked process that may take 10
seconds and 2 GB more memory than at its start. A reader returns, or raises UserError or an OSError about a
file, which commands print in one line with exit code 2. All else is a failure: another exception, also of NaN
in a result, a hang, a lack of memory, the end of the process. Printed are the failures and a table by reader;
the exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import mmap
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import mutations
from fault_runs import Forked

if TYPE_CHECKING:
    from fuzz_readers import Reader

OUTCOMES = ("read", "refused", "exception", "hang", "memory", "crash")
_SECONDS, _MEMORY = 10, 2 << 30


class Failure(NamedTuple):
    """An input that a reader failed on."""

    outcome: str
    number: int
    told: str


def main() -> None:
    """Reads the flags, tries all inputs and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--only", default="")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=pathlib.Path)
    flags = parser.parse_args()
    os.environ.update(JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="1")
    with tempfile.TemporaryDirectory() as name:
        os.environ["LM_JAX_CACHE"] = f"{name}/cache"
        keep = flags.keep or pathlib.Path(tempfile.gettempdir(), "lm_jax_fuzz")
        table = fuzz(pathlib.Path(name), flags.inputs, flags.seed, flags.only, flags.workers, keep)
    print(f"{'reader':<52}" + "".join(f"{outcome:>10}" for outcome in OUTCOMES))
    table["all"] = sum(table.values(), collections.Counter())
    for reader, counts in table.items():
        print(f"{reader:<52}" + "".join(f"{counts[outcome]:>10}" for outcome in OUTCOMES))
    sys.exit(any(table["all"][outcome] for outcome in OUTCOMES[2:]))


def fuzz(
    folder: pathlib.Path, inputs: int, seed: int, only: str, workers: int, keep: pathlib.Path
) -> dict[str, collections.Counter[str]]:
    """Tries the inputs; prints the failures, and returns how often each reader had each outcome.

    Args:
        folder: an empty folder.
        inputs: their number.
        seed: of the inputs.
        only: a regular expression of the names of readers.
        workers: processes.
        keep: a folder for the inputs that failed.
    """
    import fuzz_files
    import fuzz_readers

    # Readers run in forked processes, and jax must not have started before.
    code, printed = Forked(lambda: fuzz_files.make(folder), folder / "stderr", 600).finish()
    if code:
        raise RuntimeError(f"the good files were not made: {printed}")
    readers = [reader for reader in fuzz_readers.readers(folder) if re.match(only, reader.name)]
    total = sum(reader.share for reader in readers)
    counts = {reader.name: max(1, reader.share * inputs // total) for reader in readers}
    table: dict[str, collections.Counter[str]] = {}
    random.Random(seed).shuffle(readers)  # stopped early, it has tried files of all kinds
    for reader in readers:
        tries = [range(first, counts[reader.name], workers) for first in range(workers)]
        try:
            table[reader.name], failures = _survey(reader, tries, seed, folder)
        except KeyboardInterrupt:
            break
        for failure in failures[:20]:
            keep.mkdir(parents=True, exist_ok=True)
            path = keep / f"{hashlib.sha1(reader.name.encode()).hexdigest()[:8]}-{failure.number}"
            path.write_bytes(content(reader, seed, failure.number))
            print(f"{reader.name}: {failure.outcome}: {failure.told} ({path})", flush=True)
    return table


def content(reader: Reader, seed: int, number: int) -> bytes:
    """An input."""
    draw = random.Random(f"{seed} {reader.name} {number}")
    return reader.after(mutations.mutate((reader.directory / reader.file).read_bytes(), draw), draw)


def outcome_of(reader: Reader, directory: pathlib.Path) -> tuple[str, str]:
    """How a reader ends that returns or raises, and what the exception tells."""
    from lm_jax.errors import UserError

    try:
        reader.read(directory)
    except UserError as error:
        many = "\n" in str(error)
        return ("exception", f"an error of several lines: {error}") if many else ("refused", "")
    except OSError as error:
        if error.filename is None or error.errno is None:
            return "exception", repr(error)
        return "refused", ""  # commands print it in one line, too
    except MemoryError as error:
        return "memory", repr(error)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "exception", f"{error!r:.200} at {pathlib.Path(where.filename).name}:{where.lineno}"
    return "read", ""


class _Worker:
    """A process that reads inputs one after the other, and tells in shared memory which one it reads."""

    def __init__(self, reader: Reader, tries: Sequence[int], seed: int, folder: pathlib.Path, number: int):
        self.tries, self._where = tries, folder / f"worker-{number}"
        self._report, self._shared = folder / f"report-{number}", mmap.mmap(-1, mmap.PAGESIZE)
        shutil.rmtree(self._where, ignore_errors=True)
        self._report.write_text("")
        self.pid = os.fork()
        if not self.pid:
            try:
                self._run(reader, seed)
            finally:
                os._exit(0)

    def _run(self, reader: Reader, seed: int) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        reader.prepare(self._where)
        try:
            self._shared[:8] = struct.pack("<q", 0)
            if not reader.name.startswith("field"):
                reader.read(self._where)  # starts what it needs
        except BaseException as error:
            self._tell("exception", -1, f"of the good file: {error!r}")
            return
        base = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (base + _MEMORY, base + _MEMORY))
        for place, number in enumerate(self.tries):
            self._shared[:8] = struct.pack("<q", place)
            data = content(reader, seed, number)
            reader.write(self._where, data)
            signal.setitimer(signal.ITIMER_REAL, _SECONDS)
            outcome, told = outcome_of(reader, self._where)
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._tell(outcome, number, told)

    def _tell(self, outcome: str, number: int, told: str) -> None:
        with self._report.open("a") as file:
            file.write(json.dumps([outcome, number, told]) + "\n")

    def finish(self) -> tuple[list[Failure], Sequence[int]]:
        """Waits for the end; returns what happened, and what is left to try after a crash."""
        _, status = os.waitpid(self.pid, 0)
        told = [Failure(*json.loads(line)) for line in self._report.read_text().splitlines()]
        if not os.WIFSIGNALED(status):
            return told, ()
        (place,) = struct.unpack("<q", self._shared[:8])
        name = signal.Signals(os.WTERMSIG(status)).name
        outcome = "hang" if name == "SIGALRM" else "crash"
        told.append(Failure(outcome, self.tries[place], f"the process ended by {name}"))
        return told, self.tries[place + 1 :]


def _survey(
    reader: Reader, tries: list[range], seed: int, folder: pathlib.Path
) -> tuple[collections.Counter[str], list[Failure]]:
    """How often there was each outcome, and the failures, one of each kind first."""
    counts: collections.Counter[str] = collections.Counter()
    failures: dict[str, list[Failure]] = {}
    left: list[Sequence[int]] = [part for part in tries if part]
    while left:
        workers = [_Worker(reader, part, seed, folder, number) for number, part in enumerate(left)]
        left = []
        for worker in workers:
            told, rest = worker.finish()
            left += [rest] if rest else []
            for one in told:
                counts[one.outcome] += 1
                if one.outcome not in OUTCOMES[:2]:
                    failures.setdefault(one.told.split("(")[0] + one.told[-30:], []).append(one)
    return counts, [kind[0] for kind in failures.values()]


if __name__ == "__main__":
    main()
