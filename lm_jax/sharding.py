"""The mesh of devices, and how arrays lie on it."""

from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lm_jax.errors import UserError


@dataclass(frozen=True)
class MeshConfig:
    """How many devices share the work, by axis."""

    data: int = 1  # devices that share each batch by rows; -1: all there are


def make_mesh(config: MeshConfig, batch_size: int) -> Mesh:
    """A mesh with the axis `data`.

    Raises:
        UserError: fewer devices than asked for, or a batch that does not divide among them.
    """
    devices = jax.devices()
    size = len(devices) if config.data == -1 else config.data
    if not 1 <= size <= len(devices):
        raise UserError(
            f"mesh.data={config.data} on a machine with {len(devices)} devices",
            f"set mesh.data to 1..{len(devices)}, or -1 for all",
        )
    if batch_size % size:
        raise UserError(
            f"a batch of {batch_size} rows does not divide among {size} devices",
            "choose train.batch_size as a multiple of mesh.data",
        )
    # Auto axes: the default, Explicit, refuses linen's logical constraints.
    return Mesh(np.array(devices[:size]), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """The first axis divided among the devices of the axis `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))
