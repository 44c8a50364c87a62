"""The check that the parameters of an opened model are numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError

_PIECE = 1 << 20  # elements at a time, so that what is compared stays in a processor's cache


def check(params: Any, where: str) -> None:
    """Raises UserError, which names the parameter, if one of them is NaN or infinite.

    Args:
        params: a pytree of arrays, of numpy or on devices.
        where: the model's path.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    on_host = [_is_finite(leaf) for _, leaf in leaves]
    found = on_host if None not in on_host else _all_finite([leaf for _, leaf in leaves])
    for (path, _), good in zip(leaves, found, strict=True):
        if not good:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(
                f"the parameter {name} of {where} has values that are NaN or infinite",
                "open another checkpoint with --step, or restore the model's files",
            )


def _is_finite(leaf: Any) -> bool | None:
    """Whether all elements of an array in the host's memory are finite; None for other arrays."""
    if isinstance(leaf, jax.Array) and any(device.platform != "cpu" for device in leaf.devices()):
        return None
    flat = np.asarray(leaf).reshape(-1)
    own_types = flat.dtype.kind == "f"  # numpy's; it has no test for bfloat16
    pieces = (flat[i : i + _PIECE] for i in range(0, len(flat), _PIECE))
    return all(np.isfinite(p if own_types else p.astype(np.float32)).all() for p in pieces)


def _all_finite(leaves: list[Any]) -> list[bool]:
    """Whether the elements of each array are finite, on the devices that hold them."""
    found = jax.jit(lambda arrays: [jnp.isfinite(array).all() for array in arrays])(leaves)
    return [bool(one) for one in jax.device_get(found)]
