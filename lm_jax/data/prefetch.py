"""Batches prepared ahead by a thread."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar

from lm_jax.data.batches import Source

Item = TypeVar("Item")


class Prefetch(Generic[Item]):
    """Iterates over the batches of steps, which a thread prepares ahead; its errors are raised here.

    Args:
        source: a `Source`, or any function of the step.
        first_step: the first step.
        last_step: the step after the last.
        depth: the number of batches that are prepared ahead.

    Attributes:
        waited_seconds: how long the consumer has waited for batches.
    """

    def __init__(
        self, source: Source | Callable[[int], Item], first_step: int, last_step: int, depth: int = 2
    ):
        self._make: Callable[[int], Any] = source if callable(source) else source.batch
        self._steps = range(first_step, last_step)
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
        self._stopped = threading.Event()
        self.waited_seconds = 0.0
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        try:
            for step in self._steps:
                self._queue.put((self._make(step), None))
                if self._stopped.is_set():
                    return
            self._queue.put((None, StopIteration()))
        except BaseException as error:  # of any kind: the consumer handles it
            self._queue.put((None, error))

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._stopped.is_set():
            raise StopIteration
        start = time.perf_counter()
        item, error = self._queue.get()
        self.waited_seconds += time.perf_counter() - start
        if error is not None:
            self.close()
            raise error
        return item

    def close(self) -> None:
        """Ends the thread; batches that it has prepared are dropped."""
        self._stopped.set()
        while self._thread.is_alive():  # it may wait for room in the queue
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
