"""The short form of `benchmarks/faults.py` and `benchmarks/fuzz.py`."""

import collections
import pathlib
import random
import subprocess
import sys

import fuzz
import fuzz_files
import fuzz_readers
import mutations
import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


def run(program, *flags):
    """The exit code and output of a benchmark, in a process that has not started jax."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / program, *flags], capture_output=True, text=True, timeout=580
    )
    return done.returncode, done.stdout + done.stderr


def test_mutations_are_the_same_for_a_seed_and_differ_from_the_good_content():
    good = b'{"a": [1, 2.5, "x"], "b": null}\n'
    first, second = ([mutations.mutate(good, random.Random(i)) for i in range(500)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 300
    assert sum(made == good for made in first) < 25


def test_hostile_files_are_read_or_refused(tmp_path):
    # In this process: those that start no jax. Each is also tried where a crash or a hang is told from it.
    (tmp_path / "good").mkdir()
    fuzz_files.make(tmp_path / "good", trained=False)
    failures, counts = [], collections.Counter()
    for reader in fuzz_readers.readers(tmp_path / "good"):
        where = tmp_path / "copy" / reader.name.replace("/", "_")
        reader.prepare(where)
        for number in range(max(8, reader.share // 600)):
            data = fuzz.content(reader, 7, number)
            reader.write(where, data)
            outcome, told = fuzz.outcome_of(reader, where)
            counts[outcome] += 1
            if outcome not in ("read", "refused"):
                failures.append((reader.name, number, outcome, told))
    assert not failures
    assert counts["read"] > 50
    assert counts["refused"] > 100


@pytest.mark.slow
def test_2000_hostile_files_are_read_or_refused_without_a_crash_a_hang_or_a_lack_of_memory(tmp_path):
    code, printed = run("fuzz.py", "--inputs=2000", "--seed=5", f"--keep={tmp_path}", "--only=(?!checkpoint)")
    assert code == 0, printed


@pytest.mark.slow
def test_kills_and_full_disks_lose_nothing():
    code, printed = run("faults.py", "--only=kills", "--only=operations", "--only=disk", "--tries=6")
    assert code == 0, printed


def test_errors_of_closed_event_loops_print_nothing():
    # As TensorStore reports them, whose callbacks call loops of asyncio.
    body = (
        "import asyncio, sys, types; from lm_jax import runtime; runtime.quiet_libraries()\n"
        "loop = asyncio.new_event_loop(); loop.close()\n"
        "class Raises:\n"
        "    def __del__(self): raise ValueError('there')\n"
        "Raises()\n"
        "try: loop.call_soon_threadsafe(print)\n"
        "except RuntimeError as error:\n"
        "    sys.unraisablehook(types.SimpleNamespace(exc_traceback=error.__traceback__.tb_next))\n"
    )
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True)
    assert done.returncode == 0
    assert "ValueError: there" in done.stderr
    assert "closed" not in done.stderr
