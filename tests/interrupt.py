"""Stops training in the middle, as a signal does."""

import contextlib
import itertools
from collections.abc import Iterator
from unittest import mock

from lm_jax.parallel.distributed import StopVote


@contextlib.contextmanager
def stopped_after(num_steps: int) -> Iterator[None]:
    """Training within it saves and ends after this many steps, counted from where it goes on."""
    votes = itertools.count(1)
    with mock.patch.object(StopVote, "cast", side_effect=lambda stop: next(votes) == num_steps):
        yield
