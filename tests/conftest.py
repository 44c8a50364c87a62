"""What every test shares: strict ranks, several CPU devices, and the folder of corpora and golden files."""

import gc
import os
import pathlib
import tempfile

import pytest

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# Runs of one tiny recipe compile the same programs again and again; and no test writes into the user's cache.
os.environ["LM_JAX_CACHE"] = tempfile.mkdtemp(prefix="lm_jax_tests_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(os.environ["LM_JAX_CACHE"], "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # behind the variables that it reads

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Each compiled program keeps memory mapped, and Linux lets a process have 65,530 such mappings.

    Without this a run of all tests reaches that number, at which XLA aborts.
    """
    yield
    gc.collect()  # programs that a cycle of objects still holds
    jax.clear_caches()


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of corpora and golden files, which is not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED} with corpora and golden files")
    return SHARED
