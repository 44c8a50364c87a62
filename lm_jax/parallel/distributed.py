"""Training by several processes: joining them, the rows that each reads, and stopping all together."""

import contextlib
import hashlib
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lm_jax.errors import UserError
from lm_jax.stopping import SIGNALS

T = TypeVar("T")
_LONGEST = 2048  # bytes of a message between processes
_PATIENCE = 30  # seconds until a coordinator that does not answer, or a process that died, ends the others


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes. Call it before any computation.

    Args:
        coordinator: HOST:PORT where process 0 listens; None: jax detects it (TPU pods, SLURM, Open MPI,
            Kubernetes), and the other arguments may be omitted.
        num_processes: the number of processes.
        process_id: the number of this process, from 0.

    Raises:
        UserError: values that no processes have, or jax detects none, or cannot connect to them; nobody
            listens at the coordinator's address for half a minute.
    """
    _check(coordinator, num_processes, process_id)
    if coordinator and process_id:
        _wait_for(coordinator, _PATIENCE)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        # CPU devices of several processes communicate by gloo only.
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=_PATIENCE
        )
    except (ValueError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        raise UserError(
            f"cannot join the other processes ({lines[0]})",
            "give --coordinator=HOST:PORT, --num_processes and --process_id, the same HOST:PORT to all",
        ) from None

    finally:
        for number, handler in handlers.items():  # jax's notice of preemption replaces them
            signal.signal(number, handler)


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Raises UserError for values that jax would wait with, or fail with in more than one line."""
    if coordinator is not None:
        match = re.fullmatch(r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", coordinator, re.ASCII)
        if match is None or not 1 <= int(match[1]) < 2**16:
            raise UserError(f"--coordinator={coordinator}", "give HOST:PORT, such as 10.0.0.1:1234")
    if num_processes is not None and not 1 <= num_processes < 2**31:
        raise UserError(f"--num_processes={num_processes}", "give 1 or more")
    if process_id is not None and not 0 <= process_id < (num_processes or 2**31):
        raise UserError(
            f"--process_id={process_id} of {num_processes or 'an unknown number of'} processes",
            "give --num_processes, and a number from 0 below it",
        )


def _wait_for(coordinator: str, seconds: float) -> None:
    """Returns once something listens at HOST:PORT; jax itself would wait five minutes, then abort.

    Raises:
        UserError: nothing does within so many seconds.
    """
    host, _, port = coordinator.rpartition(":")
    end, pause = time.monotonic() + seconds, min(0.5, seconds)
    while True:
        try:
            left = max(pause, end - time.monotonic())
            socket.create_connection((host.strip("[]"), int(port)), timeout=left).close()
            return
        except OSError as error:
            if time.monotonic() + pause > end:
                raise UserError(
                    f"nothing listens at --coordinator={coordinator} ({error.strerror or error})",
                    "start process 0 on that host, with the same --coordinator, or correct the address",
                ) from None
        time.sleep(pause)


def is_writer() -> bool:
    """Whether this process writes metrics and results and prints progress."""
    return jax.process_index() == 0


def check_agreement(value: str, what: str) -> None:
    """Raises UserError in every process if their values differ."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    digests = np.asarray(multihost_utils.process_allgather(digest))
    if odd := [i for i, other in enumerate(digests) if not np.array_equal(other, digests[0])]:
        raise UserError(
            f"{what} of process {odd[0]} is not that of process 0", "give all processes the same files"
        )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raises in all processes where the body raises in one, so that none waits for another."""
    error: Exception | None = None
    try:
        yield
    except Exception as own:
        error = own
    for number, message in enumerate(_gather("" if error is None else str(error) or repr(error))):
        if error is None and message:
            error = UserError(f"process {number} stopped: {message}", "")
    if error is not None:
        raise error


def _gather(text: str) -> list[str]:
    """The texts of all processes, each cut to `_LONGEST` bytes."""
    if jax.process_count() == 1:
        return [text]
    data = text.encode()[:_LONGEST]
    padded = np.frombuffer(data.ljust(_LONGEST, b"\0"), np.uint8)
    return [
        bytes(row).rstrip(b"\0").decode(errors="replace") for row in multihost_utils.process_allgather(padded)
    ]


def share(
    function: Callable[[list[T]], list[np.ndarray]], items: Sequence[T], sizes: Sequence[int]
) -> list[np.ndarray]:
    """Applies a function to items, every n-th by each of n processes; all processes get all results.

    Args:
        function: items -> a float array for each.
        items: the same in all processes.
        sizes: the length of each item's array; the same in all processes.
    """
    me, count = jax.process_index(), jax.process_count()
    if count == 1:
        return function(list(items))
    own = np.concatenate([np.zeros(0), *function(list(items[me::count]))])
    longest = max(sum(sizes[process::count]) for process in range(count))
    gathered = multihost_utils.process_allgather(np.pad(own, (0, longest - len(own))).astype(np.float32))
    results: list[np.ndarray] = [np.zeros(0)] * len(items)
    for process, row in enumerate(np.asarray(gathered, float)):
        ends = np.cumsum(sizes[process::count])
        results[process::count] = np.split(row[: ends[-1] if len(ends) else 0], ends[:-1])[: len(ends)]
    return results


class Rows:
    """The rows of a batch that this process reads, and their assembly into one global array.

    Args:
        sharding: of the rows, over the devices of all processes.
        batch_size: rows of the global batch.

    Attributes:
        index: the number of this process's share, from 0.
        count: the number of equal shares; 1 if the rows of this process's devices are not contiguous.
    """

    def __init__(self, sharding: NamedSharding, batch_size: int):
        self._sharding = sharding
        places = sharding.addressable_devices_indices_map((batch_size,)).values()
        slices = {index[0].indices(batch_size)[:2] for index in places if index is not None}
        start, stop = min(first for first, _ in slices), max(last for _, last in slices)
        size = stop - start
        is_share = sum(b - a for a, b in slices) == size and not (start % size or batch_size % size)
        self.index, self.count = (start // size, batch_size // size) if is_share else (0, 1)

    def assemble(self, batch: Any) -> Any:
        """The global batch, of which each process gives its share; with a single process, `batch` itself."""
        if jax.process_count() == 1:
            return batch
        return jax.tree.map(self._assemble, batch)

    def _assemble(self, share: np.ndarray) -> jax.Array:
        first, shape = self.index * len(share), (self.count * len(share), *share.shape[1:])

        def rows(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(shape[0])
            return share[start - first : stop - first]

        return jax.make_array_from_callback(shape, self._sharding, rows)


class StopVote:
    """Makes all processes stop after the same step once any of them received a signal.

    A vote is an asynchronous maximum over all devices, read at the next vote: no process waits for it, and
    all read the same value.

    Args:
        mesh: the devices of all processes.
    """

    def __init__(self, mesh: Mesh):
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._any = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._shape, self._pending = (mesh.size,), None

    def cast(self, stop: bool) -> bool:
        """Whether all processes stop now, given this one's vote; with several processes, one step later."""
        if jax.process_count() == 1:
            return stop
        votes = jax.make_array_from_callback(self._shape, self._sharding, lambda _: np.array([stop]))
        earlier, self._pending = self._pending, self._any(votes)
        return earlier is not None and bool(earlier)
