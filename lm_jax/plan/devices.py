"""Descriptions of accelerators, to compile for them without the hardware."""

import contextlib
import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from lm_jax.errors import UserError

GIB = 2**30
_MOST_GPUS = 4096
_EXAMPLES = "give a slice such as v5e:16x16, v6e:4x4 or v5p:4x4x4, or cuda:8"


class Chip(NamedTuple):
    """A device as jax sees it: a chip, or one of its two halves.

    Attributes:
        hbm: bytes that a program may use.
        flops: peak bfloat16 operations per second.
        bandwidth: peak bytes per second of HBM.
    """

    hbm: float
    flops: float
    bandwidth: float


# By `device_kind`. HBM is what libtpu 0.0.42 reports as available when a program exceeds it; the rates are
# those of docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}. A TPU7x is two devices, each with half.
CHIPS = {
    "TPU v4": Chip(30.75 * GIB, 275e12, 1228e9),
    "TPU v5 lite": Chip(15.75 * GIB, 197e12, 819e9),
    "TPU v5": Chip(95.74 * GIB, 459e12, 2765e9),
    "TPU v6 lite": Chip(31.25 * GIB, 918e12, 1638e9),
    "TPU7x": Chip(94.75 * GIB, 2307e12 / 2, 7380e9 / 2),
}


def find_devices(topology: str) -> Sequence[jax.Device]:
    """Descriptions of a slice's devices; for CUDA, this machine's CPU devices are used instead.

    Raises:
        UserError: the topology does not exist, or libtpu is missing.
    """
    name, _, count = topology.partition(":")
    if name == "cuda":
        # A huge text of digits is no number for `int`.
        if count and not (count.isdecimal() and len(count) < 9 and 1 <= int(count) <= _MOST_GPUS):
            raise UserError(
                f"--topology={topology}", f"give cuda:N, N being a number of GPUs, {_MOST_GPUS} at most"
            )
        return _stand_ins(int(count or 1))
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"libtpu, which compiles for {topology}, is not installed", "pip install 'lm_jax[tpu]'"
        )
    try:
        # The two cores of a v4 chip are one device of a mesh; for later chips this is the default.
        options = {"chip_config_name": "megacore"} if name == "v4" else {}
        return topologies.get_topology_desc(topology, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).removeprefix("INVALID_ARGUMENT: ").splitlines()[0]
        raise UserError(f"--topology={topology}: {reason}", _EXAMPLES) from None


def _stand_ins(count: int) -> Sequence[jax.Device]:
    with contextlib.suppress(RuntimeError):  # jax has already started: the number is fixed
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"{count} devices, but this process began with {len(devices)}", "ask for them first")
    return devices[:count]
