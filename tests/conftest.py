"""What every test shares: strict ranks, several CPU devices, and the folder of corpora and golden files."""

import os
import pathlib

import pytest

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of corpora and golden files, which is not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED} with corpora and golden files")
    return SHARED
