"""Metrics run in numpy on the host for concrete arrays, and in jnp for traced ones (`jax.jit`, `vmap`).

The host keeps float64, compiles nothing, and can raise errors for wrong values.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def is_traced(*arrays: Any) -> bool:
    """Whether any is inside `jax.jit`, `vmap` or `grad`."""
    return any(isinstance(x, Tracer) for x in arrays)


def array(x: Any) -> Any:
    """A traced array unchanged, anything else as a numpy array."""
    return x if is_traced(x) else np.asarray(x)


def library(*arrays: Any) -> Any:
    """jax.numpy where any is traced, else numpy."""
    return jnp if is_traced(*arrays) else np
