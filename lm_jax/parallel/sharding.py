"""The mesh of devices, and the rules by which arrays are sharded over it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")

# Name pattern -> how the last axes of such an array are divided; the first pattern found in the name applies.
# Axes before them (of stacked layers) are not divided, nor arrays with too few axes, nor an axis whose length
# is not a multiple: a vocabulary of 50,257 is whole on each of two devices, one of 50,304 is divided. States
# of the optimizer and averages have the names of their parameters, and are divided as these are.
RULES: tuple[tuple[str, P], ...] = (
    (r"(bias|scale)$", P()),
    # By the vocabulary, so that logits are divided too: a tied head's columns are the embedding's rows. If
    # features were divided by fsdp, XLA would gather the looked-up vectors of all rows and divide them again.
    (r"(token_embedding|head)/embedding$", P(("tensor", "fsdp"), None)),
    (r"embedding$", P(None, "fsdp")),  # of positions
    # A block's two products: split by outputs, then by inputs, with one sum at the end (Shoeybi et al. 2019,
    # section 3). Queries, keys and values are split by heads: [D, slot, head, feature].
    (r"(qkv|query|key_value)/kernel$", P("fsdp", None, "tensor", None)),
    (r"(gate|up|head)/kernel$", P("fsdp", "tensor")),
    (r"(out|down)/kernel$", P("tensor", "fsdp")),
    # Read at every token: dividing it would cost a message each time.
    (r"recurrent$|projection$", P()),
    (r"constants/", P()),
    (r"", P("fsdp", None)),  # every other matrix
)


@dataclass(frozen=True)
class MeshConfig:
    """The number of devices on each axis of the mesh; their product is the number used."""

    data: int = 1  # groups that divide each batch by rows; -1: as many as there are devices for
    fsdp: int = 1  # devices that divide a batch's rows and each parameter, which is gathered for use
    tensor: int = 1  # devices that divide heads, MLP widths and vocabulary, and read the same rows

    def check(self) -> None:
        """Raises UserError for an invalid size."""
        for name in AXES:
            if getattr(self, name) < 1 and not (name == "data" and self.data == -1):
                raise UserError(f"mesh.{name}={getattr(self, name)}", "it must be 1 or more (data: or -1)")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and tensor.

    Args:
        config: their sizes.
        devices: devices, or descriptions of devices; None: this machine's.

    Raises:
        UserError: too few devices, a process that would have none, or devices that cannot be arranged in this
            shape.
    """
    devices = jax.devices() if devices is None else devices
    inner = config.fsdp * config.tensor
    size = len(devices) // inner * inner if config.data == -1 else config.data * inner
    if not 1 <= size <= len(devices):
        asked = " * ".join(f"mesh.{name}={getattr(config, name)}" for name in AXES)
        raise UserError(
            f"{asked} on {len(devices)} devices",
            f"let their product be 1..{len(devices)}, or set mesh.data=-1 for all that are left",
        )
    if len({d.process_index for d in devices[:size]}) != len({d.process_index for d in devices}):
        raise UserError(
            f"a mesh of {size} of the {len(devices)} devices leaves a process without any",
            "set mesh.data=-1",
        )
    shape = (size // inner, config.fsdp, config.tensor)
    # Auto axes: the default, Explicit, refuses linen's logical constraints.
    auto = (jax.sharding.AxisType.Auto,) * len(AXES)
    try:
        # An axis may use a part of a physical TPU axis: otherwise a 4 x 4 slice has no mesh of 8 x 2.
        arranged = create_device_mesh(shape, devices[:size], allow_split_physical_axes=True)
    except (AssertionError, NotImplementedError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(
            f"no mesh of {shape} on these devices ({cause})", "choose other mesh sizes"
        ) from error
    return Mesh(arranged, AXES, axis_types=auto)


def fit_mesh(config: MeshConfig, exact: bool = False) -> Mesh:
    """A mesh of this process's devices, for evaluation and generation.

    Args:
        config: the sizes of its axes.
        exact: whether the sizes must be exactly these. Otherwise fsdp and tensor are the largest divisors of
            these that the devices allow, and unless data is 1 the remaining devices divide the rows.

    Raises:
        UserError: too few devices for exact sizes.
    """
    devices = jax.local_devices()
    if exact:
        return make_mesh(config, devices)
    tensor = math.gcd(config.tensor, len(devices))
    fsdp = math.gcd(config.fsdp, len(devices) // tensor)
    data = len(devices) // (fsdp * tensor) if config.data != 1 else 1
    return make_mesh(MeshConfig(data, fsdp, tensor), devices)


def check_batch(mesh: Mesh, batch_size: int, accumulation: int = 1) -> None:
    """Raises UserError if the parts of a batch do not divide evenly among the devices."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (devices * accumulation):
        parts = f" in {accumulation} parts" if accumulation > 1 else ""
        raise UserError(
            f"a batch of {batch_size} rows does not divide among {devices} devices{parts}",
            "choose train.batch_size as a multiple of mesh.data * mesh.fsdp * train.accumulation",
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, P())


def by_rows(mesh: Mesh, ndim: int = 1) -> NamedSharding:
    """The first axis sharded over data and fsdp, which read different rows; the others unconstrained."""
    return NamedSharding(mesh, P(("data", "fsdp"), *[P.UNCONSTRAINED] * (ndim - 1)))


def by_name(mesh: Mesh, tree: Any) -> Any:
    """The sharding of each array of a tree, by `RULES`.

    Args:
        mesh: the devices.
        tree: anything with shapes.
    """

    def place(path: tuple[Any, ...], x: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = next(spec for pattern, spec in RULES if re.search(pattern, name))
        first = len(x.shape) - len(spec)
        if first < 0:
            return replicated(mesh)
        axes = [_fitting(mesh, axis, n) for axis, n in zip(spec, x.shape[first:])]
        return NamedSharding(mesh, P(*[None] * first, *axes) if any(axes) else P())

    return jax.tree_util.tree_map_with_path(place, tree)


def _fitting(mesh: Mesh, axis: str | tuple[str, ...] | None, length: int) -> str | tuple[str, ...] | None:
    """The mesh axis, or the first of several whose product divides the length of an array's axis."""
    names = (axis,) if isinstance(axis, str) else axis or ()
    while names and length % math.prod(mesh.shape[name] for name in names):
        names = names[:-1]
    return names[0] if len(names) == 1 else names or None
