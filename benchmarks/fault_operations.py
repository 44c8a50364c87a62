"""Kills at single file operations, and full disks, by a shim in front of the C library.

The shim, fault_shim.c, counts the operations of a process below a directory, those of Orbax's C++ library
included. It needs a C compiler and Linux, and it is loaded as this program starts again.
"""

import ctypes
import mmap
import os
import pathlib
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

from fault_runs import ROOT, Chain, Outcome, unexpected_lines, write_recipes

OPERATIONS = ("rename", "fsync", "mkdir", "unlink", "write", "creation")  # as in the shim
_COUNT, _KILL, _FILL = range(3)
_LOADED = "LM_JAX_FAULT_SHIM"


def load_shim() -> None:
    """Starts this program again with the shim, unless it is there."""
    if _LOADED in os.environ:
        return
    built = pathlib.Path(tempfile.mkdtemp()) / "shim.so"
    source = ROOT / "benchmarks" / "fault_shim.c"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", built, source, "-ldl"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(built), _LOADED: str(built)}
    sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)


class _Counter:
    """The numbers of operations that a forked process has done."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.counts = (ctypes.c_int * len(OPERATIONS)).from_buffer(self._memory)

    def arm(self, folder: pathlib.Path, action: int, kind: int = 0, number: int = 0) -> Callable[[], None]:
        """What lets a process count its operations in a folder from now on, and meet its fault."""
        ctypes.memset(self.counts, 0, ctypes.sizeof(self.counts))
        shim = ctypes.CDLL(None).fault_arm
        where = ctypes.byref(self.counts)
        return lambda: shim(os.fsencode(folder), kind, number, action, where)


def operations(main: Callable[[list[str]], None], tries: int, seed: int) -> Iterator[Outcome]:
    """Kills at single operations, evenly over all operations of each kind, of a GPT's and a counted run."""
    yield from _surveyed(main, tries, seed, _KILL, OPERATIONS)


def disk(main: Callable[[list[str]], None], tries: int, seed: int) -> Iterator[Outcome]:
    """Disks that are full from one of the operations on that need room."""
    yield from _surveyed(main, tries, seed, _FILL, ("write", "creation", "mkdir"))


def _surveyed(
    main: Callable[[list[str]], None], tries: int, seed: int, action: int, names: tuple[str, ...]
) -> Iterator[Outcome]:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for recipe in write_recipes(folder, draw, steps=15):
            chain, counter = Chain(recipe, main), _Counter()
            code, _ = chain.start(counter.arm(chain.workdir.parent, _COUNT)).finish()
            assert code == 0
            totals = {name: counter.counts[OPERATIONS.index(name)] for name in names}
            chain.new()
            for name, total in totals.items():
                count = -(-tries // (2 * len(totals)))  # half of the tries for each recipe
                for at in range(count if total else 0):
                    number = 1 + (total * at + draw.randrange(total)) // count
                    kind = OPERATIONS.index(name)
                    process = chain.start(counter.arm(chain.workdir.parent, action, kind, number))
                    code, printed = process.finish()
                    met = counter.counts[kind] >= number  # a resumed run has fewer operations
                    tell = _fault_of_kill if action == _KILL else _fault_of_full_disk
                    what = "killed at" if action == _KILL else "disk full from"
                    described = f"{recipe.stem} {what} a {name}"
                    if met:
                        fault = tell(code, printed)
                        yield Outcome(described, fault and f"operation {number} of {total}: {fault}")
                    if action == _FILL or not met or draw.random() < 0.7:
                        yield from chain.finish(described)


def _fault_of_kill(code: int, printed: str) -> str:
    lines = [line for line in unexpected_lines(printed) if "stopped while it wrote checkpoint" not in line]
    return "" if code == -9 and not lines else f"exit code {code}: {printed[-800:]!r}"


def _fault_of_full_disk(code: int, printed: str) -> str:
    lines = unexpected_lines(printed)
    if code == 2 and len(lines) == 1 and lines[0].startswith("error: "):
        return ""
    return f"exit code {code}: {printed[:1500]!r} ... {printed[-300:]!r}"
