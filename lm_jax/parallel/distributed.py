"""Several processes that train one model: who they are, which rows each reads, and when all of them stop."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lm_jax.errors import UserError

T = TypeVar("T")
_LONGEST = 2048  # bytes of a message between processes


def initialize(
    coordinator: str = "", num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes; to be called before anything is computed.

    Args:
        coordinator: HOST:PORT where process 0 listens; "": as jax finds it itself (TPU pods, SLURM, Open MPI,
            Kubernetes), then the others may be left out, too.
        num_processes: how many there are.
        process_id: which of them this is, from 0.

    Raises:
        UserError: nothing to be found, or no connection.
    """
    try:
        # XLA's CPU devices reach those of other processes by gloo alone.
        jax.distributed.initialize(coordinator or None, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        raise UserError(
            f"cannot join the other processes ({lines[0]})",
            "give --coordinator=HOST:PORT, --num_processes and --process_id, the same HOST:PORT to all",
        ) from None


def is_writer() -> bool:
    """Whether this process is the one that writes metrics and results, and talks."""
    return jax.process_index() == 0


def check_agreement(value: str, what: str) -> None:
    """Raises UserError in every process where not all of them have the same value."""
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
    """Raises in every process where the body raises a UserError in one of them, so that none waits for it."""
    error: UserError | None = None
    try:
        yield
    except UserError as own:
        error = own
    for number, message in enumerate(_gather(str(error or ""))):
        if error is None and message:
            error = UserError(f"process {number} stopped: {message}", "")
    if error is not None:
        raise error


def _gather(text: str) -> list[str]:
    """The texts of all processes, each cut to a size that all of them share."""
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
    """Applies a function to items of which each process takes every n-th, and gives all processes all
    results.

    Args:
        function: items -> a float array for each.
        items: the same in all processes.
        sizes: the length of the array of each item, by which all processes know what the others send.
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
    """Which rows of a batch this process reads, and how those of all become one array.

    Args:
        sharding: of the rows, over the devices of all processes.
        batch_size: rows in all.

    Attributes:
        index: this process's share is the `index`-th of
        count: equal shares; the whole batch where its devices' rows do not follow each other.
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
        """The batch of all processes, of which each gives its share; of a single one, what it gives."""
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
    """Lets all processes stop after the same step once any of them was told to.

    A vote is a maximum over all devices beside the training step, read when the next one is cast: no process
    waits for it, and all read the same.

    Args:
        mesh: the devices of all processes.
    """

    def __init__(self, mesh: Mesh):
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._any = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._shape, self._pending = (mesh.size,), None

    def cast(self, stop: bool) -> bool:
        """Whether all are to stop now, given this process's wish; several processes a step later."""
        if jax.process_count() == 1:
            return stop
        votes = jax.make_array_from_callback(self._shape, self._sharding, lambda _: np.array([stop]))
        earlier, self._pending = self._pending, self._any(votes)
        return earlier is not None and bool(earlier)
