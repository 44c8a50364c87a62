"""What every test shares: strict ranks, several CPU devices, quick compilation, and the folder of corpora.

Most of the suite's time goes into compiling tiny programs. So the workers of one run share a cache of
compiled programs, and XLA compiles with few optimizations, each program in one part, and without its fusion
emitters, whose MLIR takes half of the compilation time. A module whose subject is the optimized program
imports `optimized.py`.
"""

import atexit
import gc
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

_CACHE = "LM_JAX_TESTS_CACHE"  # set by the first process of a run, for its workers and what they start
if _CACHE not in os.environ:
    os.environ[_CACHE] = tempfile.mkdtemp(prefix="lm_jax_tests_")
    atexit.register(shutil.rmtree, os.environ[_CACHE], ignore_errors=True)

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_PLATFORMS"] == "cpu":
    _QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{_QUICK} {os.environ.get('XLA_FLAGS', '')}"  # the last one wins
os.environ["LM_JAX_CACHE"] = os.environ[_CACHE]  # no test writes into the user's cache
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.environ[_CACHE], "compiled")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402 (behind the variables that it reads)

_ROOT = pathlib.Path(__file__).parents[1]
sys.path += [str(_ROOT), str(_ROOT / "benchmarks")]  # for the tests of the commands and benchmarks

gc.set_threshold(100_000, 50)  # tracing makes many objects and little garbage

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


def pytest_make_parametrize_id(val, argname):
    """No bytes in the names of tests: gzip's hold the time, of which the workers of a run would disagree."""
    return argname if isinstance(val, bytes) else None


_MAPPINGS = pathlib.Path("/proc/self/maps")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Each compiled program keeps memory mapped, and Linux lets a process have 65,530 such mappings.

    Without this a run of all tests reaches that number, at which XLA aborts. A module adds a few thousand: to
    forget them only where there are many lets modules share programs, and saves the collection of garbage.
    """
    yield
    if not _MAPPINGS.exists() or _MAPPINGS.read_bytes().count(b"\n") > 30_000:
        gc.collect()  # programs that a cycle of objects still holds
        jax.clear_caches()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A finished run of the tiny recipe: its config, directory and rows. Tests read it, and change copies."""
    import tiny  # behind the variables

    from lm_jax import experiment

    directory = tmp_path_factory.mktemp("tiny_run")
    config = tiny.config(tiny.write_text(directory / "text.txt"))
    return config, directory / "run", experiment.run(config, directory / "run")


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of corpora and golden files, which is not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED} with corpora and golden files")
    return SHARED
