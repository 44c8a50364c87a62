"""For tests whose subject is what XLA makes of a program, or how fast it is."""

import jax
import pytest

AS_USERS = {"xla_cpu_use_fusion_emitters": True}  # for `compile(AS_USERS)`: what `conftest.py` switches off


@pytest.fixture(scope="module", autouse=True)
def _optimized():
    """Compiles with all of XLA's optimizations, as users do."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()
