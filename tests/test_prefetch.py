"""Batches that a thread prepares ahead of the consumer."""

import threading
import time

import numpy as np
import pytest
from test_batches import circle

from lm_jax.data.batches import Windows
from lm_jax.data.prefetch import Prefetch
from lm_jax.errors import UserError


def test_prefetch_gives_the_batches_of_the_steps_in_order():
    windows = Windows(circle(100), 2, 5, 0)
    with Prefetch(windows, 3, 20) as batches:
        for step, batch in enumerate(batches, 3):
            assert np.array_equal(batch.inputs, windows.batch(step).inputs)
    assert step == 19
    assert list(Prefetch(lambda step: step * step, 2, 5, depth=1)) == [4, 9, 16]
    assert list(Prefetch(lambda step: step, 5, 5)) == []


def test_prefetch_runs_ahead_no_further_than_asked():
    made, consumed = [], threading.Event()

    def make(step):
        made.append(step)
        consumed.set()
        return step

    with Prefetch(make, 0, 100, depth=3) as batches:
        assert next(batches) == 0
        consumed.clear()
        while consumed.wait(0.2):
            consumed.clear()
        assert made == [0, 1, 2, 3, 4]  # one consumed, three in the queue, one waiting for room


def test_prefetch_raises_the_threads_error_after_the_batches_before_it():
    def make(step):
        if step == 2:
            raise UserError("no batch 2")
        return step

    batches = Prefetch(make, 0, 9)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(UserError, match="no batch 2"):
        next(batches)
    assert list(batches) == []


def test_prefetch_ends_its_thread_when_closed():
    before = threading.active_count()
    with Prefetch(lambda step: step, 0, 10**9) as batches:
        assert next(batches) == 0
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert list(batches) == []
    batches.close()


def test_prefetch_measures_how_long_the_consumer_waited():
    with Prefetch(lambda step: time.sleep(0.05), 0, 4, depth=1) as slow:
        list(slow)
    assert 0.1 < slow.waited_seconds < 5
    with Prefetch(lambda step: step, 0, 3) as fast:
        time.sleep(0.2)
        list(fast)
    assert fast.waited_seconds < 0.1
