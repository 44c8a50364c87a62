"""For tests whose time is that of compiling."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _compile_quickly():
    """Leaves out most of XLA's optimizations: a module that imports this takes two thirds of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
