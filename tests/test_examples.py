"""Batches of examples: each example once an epoch, pure in the step, few shapes, shared by processes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_jax.data.batches import Source
from lm_jax.data.examples import Examples, Rows, held_out_examples, pad
from lm_jax.errors import UserError

LENGTHS = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 80)), min_size=1, max_size=120)
MAXIMA = (200, 50)
LADDERS = ({16, 32, 64, 128, 200}, {16, 32, 50})


def make(lengths, batch_size, seed=0, pool=3) -> Source[Rows]:
    return Examples(np.array(lengths), MAXIMA, lambda rows: rows, batch_size, seed, pool)


def real(rows):
    return rows.indices[rows.weights == 1].tolist()


@given(lengths=LENGTHS, batch_size=st.integers(1, 9), seed=st.integers(0, 3), pool=st.integers(1, 5))
def test_every_epoch_reads_each_example_once(lengths, batch_size, seed, pool):
    source = make(lengths, batch_size, seed, pool)
    assert source.steps_per_epoch == -(-len(lengths) // batch_size)
    for epoch in range(3):
        steps = range(epoch * source.steps_per_epoch, (epoch + 1) * source.steps_per_epoch)
        batches = [source.batch(step) for step in steps]
        assert sorted(i for rows in batches for i in real(rows)) == list(range(len(lengths)))
        sizes = [len(real(rows)) for rows in batches]
        assert max(sizes) - min(sizes) <= 1
        for rows in batches:
            assert rows.indices.shape == rows.weights.shape == (batch_size,)
            assert rows.weights.dtype == np.float32


@given(lengths=LENGTHS, batch_size=st.integers(1, 5), step=st.integers(0, 500), seed=st.integers(0, 3))
def test_batches_are_functions_of_the_step_that_any_number_of_processes_shares(
    lengths, batch_size, step, seed
):
    whole, other = make(lengths, 6 * batch_size, seed).batch(step), make(lengths, 6 * batch_size, seed)
    other.batch(step + 1)
    for count in (1, 2, 3):
        shares = [other.batch(step, process, count) for process in range(count)]
        for field in ("indices", "weights"):
            assert np.array_equal(np.concatenate([getattr(s, field) for s in shares]), getattr(whole, field))
        assert {s.lengths for s in shares} == {whole.lengths}


@given(lengths=LENGTHS, batch_size=st.integers(1, 9))
def test_rows_are_long_enough_and_of_few_lengths(lengths, batch_size):
    source = make(lengths, batch_size)
    held_out = held_out_examples(np.array(lengths), MAXIMA, lambda rows: rows, batch_size)
    for rows in [*map(source.batch, range(source.steps_per_epoch)), *held_out]:
        needed = np.minimum(np.array(lengths)[rows.indices], MAXIMA).max(axis=0)
        for length, least, ladder in zip(rows.lengths, needed, LADDERS, strict=True):
            assert length in ladder
            assert length == min(rung for rung in ladder if rung >= least)


@given(lengths=LENGTHS, batch_size=st.integers(1, 5), processes=st.integers(1, 3))
def test_held_out_examples_come_once_in_a_fixed_order(lengths, batch_size, processes):
    batch_size *= processes
    shares = [
        list(held_out_examples(np.array(lengths), MAXIMA, lambda rows: rows, batch_size, p, processes))
        for p in range(processes)
    ]
    assert {len(share) for share in shares} == {-(-len(lengths) // batch_size)}
    order = [index for group in zip(*shares) for rows in group for index in real(rows)]
    assert order == sorted(range(len(lengths)), key=lambda index: sum(lengths[index]))
    assert all(rows.indices.shape == (batch_size // processes,) for share in shares for rows in share)


def test_epochs_and_seeds_differ():
    lengths = np.ones(100, int)
    orders = [
        Examples(lengths, [16], lambda rows: tuple(rows.indices), 10, seed).batch(step)
        for seed in (0, 1)
        for step in (0, 10)
    ]
    assert len(set(orders)) == 4


def test_sorting_within_pools_removes_most_padding_and_batches_of_a_pool_are_shuffled():
    lengths = np.random.default_rng(0).integers(1, 513, 6400)
    padding = {}
    for pool in (1, 16):
        source = Examples(lengths, [512], lambda rows: rows, 32, seed=0, pool=pool)
        batches = [source.batch(step) for step in range(source.steps_per_epoch)]
        padding[pool] = sum(rows.lengths[0] * 32 for rows in batches) / lengths.sum() - 1
    assert padding[16] < 0.6 * padding[1]
    sizes = [lengths[rows.indices].mean() for rows in batches[:16]]
    assert sizes != sorted(sizes)


def test_pad_truncates_and_marks_padding_by_a_negative_segment():
    tokens, segments = pad([np.array([5, 6]), np.array([], int), np.arange(9)], 4, value=7)
    assert tokens.tolist() == [[5, 6, 7, 7], [7, 7, 7, 7], [0, 1, 2, 3]]
    assert segments.tolist() == [[0, 0, -1, -1], [-1, -1, -1, -1], [0, 0, 0, 0]]
    assert tokens.dtype == segments.dtype == np.int32


def test_a_batch_that_cannot_be_shared_is_a_users_mistake():
    with pytest.raises(UserError, match="batch_size=3 cannot be shared evenly by 2"):
        make([(1, 1)], 3).batch(0, 0, 2)
    with pytest.raises(UserError, match="batch_size=3 cannot be shared evenly by 2"):
        next(held_out_examples(np.array([1]), [16], lambda rows: rows, 3, 0, 2))
