"""Batches as functions of step and seed: every token or example once, shared by any number of processes."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_jax.batch import Batch
from lm_jax.data.batches import Source, Streams, Windows, evaluation_batches
from lm_jax.data.examples import Examples, Rows, held_out_examples, pad
from lm_jax.errors import UserError


def circle(num_tokens):
    """A split whose tokens are their places; the last is the first, as end tokens are."""
    return SimpleNamespace(tokens=np.arange(num_tokens + 1) % num_tokens, num_tokens=num_tokens)


SIZES = st.tuples(st.integers(1, 200), st.integers(1, 7), st.integers(1, 9))


@given(sizes=SIZES, step=st.integers(0, 1000), seed=st.integers(0, 3))
def test_batches_are_functions_of_the_step_that_any_number_of_processes_shares(sizes, step, seed):
    num_tokens, batch_size, length = sizes
    for make in (lambda: Windows(circle(num_tokens), 6 * batch_size, length, seed),
                 lambda: Streams(circle(num_tokens), 6 * batch_size, length)):  # fmt: skip
        whole = make().batch(step)
        assert whole.inputs.shape == whole.targets.shape == whole.weights.shape == (6 * batch_size, length)
        assert [a.dtype for a in whole[:3]] == [np.int32, np.int32, np.float32]
        assert whole.weights.all()
        assert whole.segments is None
        assert np.array_equal(whole.targets, (whole.inputs + 1) % num_tokens)
        other = make()
        other.batch(step + 1)
        for count in (2, 3):
            shares = [other.batch(step, process, count) for process in range(count)]
            assert np.array_equal(np.concatenate([s.inputs for s in shares]), whole.inputs)
            assert np.array_equal(np.concatenate([s.targets for s in shares]), whole.targets)


@given(sizes=SIZES, seed=st.integers(0, 3))
def test_every_epoch_of_windows_scores_each_token_at_most_once(sizes, seed):
    num_tokens, batch_size, length = sizes
    windows = Windows(circle(num_tokens), batch_size, length, seed)
    num_windows = max(1, num_tokens // length)
    rows = np.concatenate([windows.batch(s).targets for s in range(-(-3 * num_windows // batch_size))])
    for epoch in range(3):
        seen = rows[epoch * num_windows : (epoch + 1) * num_windows].ravel()
        if num_tokens >= length:
            assert len(set(seen.tolist())) == len(seen) > num_tokens - length
        else:
            assert set(seen.tolist()) == set(range(num_tokens))
    assert windows.steps_per_epoch == -(-num_windows // batch_size)


def test_epochs_and_seeds_differ_in_order_and_in_edges():
    windows = [Windows(circle(1000), 10, 10, seed) for seed in (0, 1)]
    epochs = [w.batch(s).inputs[:, 0] for w in windows for s in (0, 10)]
    assert len({tuple(e) for e in epochs}) == 4
    assert len({tuple(e % 10) for e in epochs}) > 1
    assert all(len(set(e % 10)) == 1 for e in epochs)


@given(sizes=SIZES)
def test_streams_are_contiguous_and_cover_the_text_in_an_epoch(sizes):
    num_tokens, batch_size, length = sizes
    streams = Streams(circle(num_tokens), batch_size, length)
    batches = [streams.batch(step) for step in range(streams.steps_per_epoch + 2)]
    for before, after in itertools.pairwise(batches):
        assert np.array_equal(before.targets[:, -1], after.inputs[:, 0])
    epoch = np.concatenate([b.targets for b in batches[: streams.steps_per_epoch]], axis=1)
    assert set(epoch.ravel().tolist()) == set(range(num_tokens))
    assert batches[0].inputs[0, 0] == 0


@given(sizes=SIZES, processes=st.integers(1, 3))
def test_evaluation_scores_every_token_once(sizes, processes):
    num_tokens, batch_size, length = sizes
    batch_size *= processes
    split = SimpleNamespace(tokens=np.arange(num_tokens + 1), num_tokens=num_tokens)
    shares = [list(evaluation_batches(split, batch_size, length, p, processes)) for p in range(processes)]
    batches = [
        Batch(*(np.concatenate(arrays) for arrays in zip(*(b[:3] for b in group)))) for group in zip(*shares)
    ]
    assert all(b.inputs.shape == (batch_size, length) for b in batches)
    scored = np.concatenate([b.targets[b.weights == 1] for b in batches])
    assert sorted(scored.tolist()) == list(range(1, num_tokens + 1))
    assert sum(b.weights.sum() for b in batches) == num_tokens
    for b in batches:
        assert np.array_equal((b.inputs + 1)[b.weights == 1], b.targets[b.weights == 1])
    for before, after in itertools.pairwise(batches):
        is_real = after.weights[:, 0] == 1
        assert np.array_equal(before.targets[is_real, -1], after.inputs[is_real, 0])
    assert len(batches) == -(-num_tokens // (batch_size * length))


def test_a_batch_that_cannot_be_shared_raises_user_error():
    for make in (
        lambda: Windows(circle(9), 3, 2, 0).batch(0, 0, 2),
        lambda: Streams(circle(9), 3, 2).batch(0, 0, 2),
        lambda: list(evaluation_batches(circle(9), 3, 2, 0, 2)),
        lambda: examples([(1, 1)], 3).batch(0, 0, 2),
        lambda: list(held_out_examples(np.array([1]), [16], lambda rows: rows, 3, 0, 2)),
    ):
        with pytest.raises(
            UserError, match=r"batch_size=3 cannot be shared evenly by 2 .*; make it a multiple of 2"
        ):
            make()


EXAMPLES = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 80)), min_size=1, max_size=120)
MAXIMA = (200, 50)
LADDERS = ({16, 32, 64, 128, 200}, {16, 32, 50})


def examples(lengths, batch_size, seed=0, pool=3) -> Source[Rows]:
    return Examples(np.array(lengths), MAXIMA, lambda rows: rows, batch_size, seed, pool)


def real(rows):
    return rows.indices[rows.weights == 1].tolist()


@given(lengths=EXAMPLES, batch_size=st.integers(1, 9), seed=st.integers(0, 3), pool=st.integers(1, 5))
def test_every_epoch_reads_each_example_once(lengths, batch_size, seed, pool):
    source = examples(lengths, batch_size, seed, pool)
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


@given(lengths=EXAMPLES, batch_size=st.integers(1, 5), step=st.integers(0, 500), seed=st.integers(0, 3))
def test_batches_of_examples_are_functions_of_the_step_that_any_number_of_processes_shares(
    lengths, batch_size, step, seed
):
    whole, other = (
        examples(lengths, 6 * batch_size, seed).batch(step),
        examples(lengths, 6 * batch_size, seed),
    )
    other.batch(step + 1)
    for count in (1, 2, 3):
        shares = [other.batch(step, process, count) for process in range(count)]
        for field in ("indices", "weights"):
            assert np.array_equal(np.concatenate([getattr(s, field) for s in shares]), getattr(whole, field))
        assert {s.lengths for s in shares} == {whole.lengths}


@given(lengths=EXAMPLES, batch_size=st.integers(1, 9))
def test_rows_are_long_enough_and_of_few_lengths(lengths, batch_size):
    source = examples(lengths, batch_size)
    held_out = held_out_examples(np.array(lengths), MAXIMA, lambda rows: rows, batch_size)
    for rows in [*map(source.batch, range(source.steps_per_epoch)), *held_out]:
        needed = np.minimum(np.array(lengths)[rows.indices], MAXIMA).max(axis=0)
        for length, least, ladder in zip(rows.lengths, needed, LADDERS, strict=True):
            assert length in ladder
            assert length == min(rung for rung in ladder if rung >= least)


@given(lengths=EXAMPLES, batch_size=st.integers(1, 5), processes=st.integers(1, 3))
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


def test_epochs_and_seeds_differ_in_the_order_of_examples():
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
