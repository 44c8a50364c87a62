"""For tests whose subject is what XLA makes of a program, or how fast it is."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _optimized():
    """Compiles with all of XLA's optimizations, as users do."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
