"""Batches of a stream of tokens: functions from step to batch, shared by any number of processes."""

import functools
from collections.abc import Iterator
from typing import Protocol, TypeVar

import numpy as np

from lm_jax.batch import Batch
from lm_jax.data.store import Split
from lm_jax.errors import UserError

B_co = TypeVar("B_co", covariant=True)


class Source(Protocol[B_co]):
    """A function from step to batch, read by training."""

    steps_per_epoch: int

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> B_co:
        """The rows of one of several processes in the batch of a step."""
        ...


class Windows:
    """A `Source` of all windows of the stream in every epoch, each time in another order with another offset.

    The stream is read as a circle, since its last token equals its first. An epoch starts at a random place,
    so that the edges of windows move, and leaves out less than one window. A batch may hold the last windows
    of an epoch and the first of the next.

    Args:
        split: the part that is read.
        batch_size: rows in a batch, over all processes.
        sequence_length: tokens in a row.
        seed: 0 or more.
        separate_documents: whether batches have segments. They change where a document begins, so that its
            inputs are the end token before it and its own tokens.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        sequence_length: int,
        seed: int,
        separate_documents: bool = False,
    ):
        self._tokens = np.asarray(split.tokens)
        self._beginnings = _beginnings(split) if separate_documents else None
        self._batch_size, self._length, self._seed = batch_size, sequence_length, seed
        self._num_windows = max(1, split.num_tokens // sequence_length)
        self.steps_per_epoch = -(-self._num_windows // batch_size)
        self._starts = functools.lru_cache(maxsize=2)(self._shuffle)

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> Batch:
        """The rows of one process in the batch of a step, a pure function of the seed and the step.

        Raises:
            UserError: a batch that the processes cannot share evenly.
        """
        rows = share(self._batch_size, process_index, process_count)
        epochs, places = np.divmod(step * self._batch_size + rows, self._num_windows)
        starts = np.empty_like(places)
        for epoch in range(epochs[0], epochs[-1] + 1):
            starts[epochs == epoch] = self._starts(epoch)[places[epochs == epoch]]
        batch = _read_circle(self._tokens, starts, self._length)
        if self._beginnings is None:
            return batch
        segments = _segments(self._beginnings, starts, self._length, len(self._tokens) - 1)
        return batch._replace(segments=segments)

    def _shuffle(self, epoch: int) -> np.ndarray:
        random, circle = np.random.default_rng([self._seed, epoch]), len(self._tokens) - 1
        first, order = random.integers(circle), random.permutation(self._num_windows)
        return (first + order * self._length) % circle


class Streams:
    """A `Source` of contiguous rows, for a carried state: row b continues row b of the step before.

    The stream of tokens is read as a circle, since its last token equals its first. The rows start at even
    distances and go round it. After `steps_per_epoch` steps each row has reached the start of the next one
    (on average, where lengths vary).

    Args:
        split: the part that is read.
        batch_size: rows in a batch, over all processes.
        sequence_length: tokens in a row of a step.
        vary_seed: 0 or more: the length of rows varies from step to step, see `varied_lengths`. None: it is
            constant.
    """

    def __init__(self, split: Split, batch_size: int, sequence_length: int, vary_seed: int | None = None):
        self._tokens = np.asarray(split.tokens)
        self._batch_size, self._length, self._seed = batch_size, sequence_length, vary_seed
        self._block_starts = [0]  # tokens of each row before each block of varied lengths, computed on demand
        self.steps_per_epoch = -(-split.num_tokens // (batch_size * sequence_length))

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> Batch:
        """The rows of one process in the batch of a step.

        Raises:
            UserError: a batch that the processes cannot share evenly.
        """
        rows, circle = share(self._batch_size, process_index, process_count), len(self._tokens) - 1
        start, length = self._place(step)
        starts = (rows * circle // self._batch_size + start) % circle
        return _read_circle(self._tokens, starts, length)

    def _place(self, step: int) -> tuple[int, int]:
        """The number of tokens of each row before a step, and in it."""
        if self._seed is None:
            return step * self._length, self._length
        block, place = divmod(step, _BLOCK)
        while len(self._block_starts) <= block:
            lengths = varied_lengths(self._length, self._seed, len(self._block_starts) - 1)
            self._block_starts.append(self._block_starts[-1] + int(lengths.sum()))
        lengths = varied_lengths(self._length, self._seed, block)
        return self._block_starts[block] + int(lengths[:place].sum()), int(lengths[place])


_BLOCK = 256


def varied_lengths(sequence_length: int, seed: int, block: int) -> np.ndarray:
    """The row lengths of the 256 steps of a block: about `sequence_length`, in 1 of 20 about half of it.

    Merity et al. 2017, section 4.1, whose normal distribution has a deviation of 5 at a length of 70. Here
    draws are rounded to whole deviations, at most two, so that a program is compiled for only ten lengths.
    """
    random = np.random.default_rng([seed, block])
    middle = np.where(random.random(_BLOCK) < 0.95, sequence_length, sequence_length // 2)
    deviations = np.clip(np.rint(random.standard_normal(_BLOCK)), -2, 2).astype(int)
    return np.maximum(1, middle + deviations * max(1, round(sequence_length / 14)))


def evaluation_batches(
    split: Split,
    batch_size: int,
    sequence_length: int,
    process_index: int = 0,
    process_count: int = 1,
    separate_documents: bool = False,
    carried: bool = False,
) -> Iterator[Batch]:
    """Batches of one shape in which each token and end of the split has weight 1 once; other weights are 0.

    Row b of a batch continues row b of the batch before. Segments are those of `Windows`; positions that pad
    a row have segment -1.

    With `carried` they are for a state that is carried from batch to batch and restarts with each document.
    Segments change at each beginning, the first position of a row included (the carried state belongs to
    segment 0). Only a document longer than a row's share of the text is divided between rows.

    Raises:
        UserError: a batch that the processes cannot share evenly.
    """
    rows = share(batch_size, process_index, process_count)
    num_tokens, tokens_N = split.num_tokens, np.asarray(split.tokens)
    edges = _document_edges(split, batch_size) if carried else _even_edges(split, batch_size, sequence_length)
    beginnings = _beginnings(split) if separate_documents or carried else None
    for number in range(-(-int(np.diff(edges).max()) // sequence_length)):
        starts_B = edges[rows] + number * sequence_length
        places_BT = starts_B[:, None] + np.arange(sequence_length)
        inputs = tokens_N[np.minimum(places_BT, num_tokens)].astype(np.int32)
        targets = tokens_N[np.minimum(places_BT + 1, num_tokens)].astype(np.int32)
        is_real_BT = places_BT < edges[rows + 1][:, None]
        segments = None
        if beginnings is not None:
            segments = _segments(beginnings, starts_B, sequence_length, num_tokens)
            segments += (carried * np.isin(starts_B, beginnings))[:, None]
            segments[~is_real_BT] = -1
        yield Batch(inputs, targets, is_real_BT.astype(np.float32), segments)


def _even_edges(split: Split, batch_size: int, sequence_length: int) -> np.ndarray:
    """The edges of the rows in the stream, with equally many batches for each row: int64 [B + 1]."""
    num_batches = -(-split.num_tokens // (sequence_length * batch_size))
    return np.minimum(np.arange(batch_size + 1) * num_batches * sequence_length, split.num_tokens)


def _document_edges(split: Split, batch_size: int) -> np.ndarray:
    """The edges of the rows in the stream, each at the first document after its share: int64 [B + 1]."""
    tokens_per_row = -(-split.num_tokens // batch_size)
    first, length = _beginnings(split), np.diff(np.asarray(split.document_offsets))
    pieces = -(-length // tokens_per_row)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begins = np.append(np.repeat(first, pieces) + number * tokens_per_row, split.num_tokens)
    shares = np.minimum(np.arange(batch_size + 1) * tokens_per_row, split.num_tokens)
    return begins[np.searchsorted(begins, shares)]


def share(batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """The numbers of a process's rows in a batch: int64 [batch_size / process_count].

    Raises:
        UserError: a batch that the processes cannot share evenly.
    """
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"train.batch_size={batch_size} cannot be shared evenly by {process_count} processes",
            f"make it a multiple of {process_count}",
        )
    size = batch_size // process_count
    return np.arange(process_index * size, (process_index + 1) * size)


def _read_circle(tokens_N: np.ndarray, starts_B: np.ndarray, length: int) -> Batch:
    """Rows from their starts on, in a stream that is a circle."""
    rows_BT = tokens_N[:-1].take(starts_B[:, None] + np.arange(length + 1), mode="wrap")
    inputs, targets = rows_BT[:, :-1].astype(np.int32), rows_BT[:, 1:].astype(np.int32)
    return Batch(inputs, targets, np.ones(inputs.shape, np.float32))


def _beginnings(split: Split) -> np.ndarray:
    """The place in the stream where each document's inputs begin, the end token before it: int64 [D]."""
    return np.asarray(split.document_offsets[:-1]) - 1


def _segments(beginnings_D: np.ndarray, starts_B: np.ndarray, length: int, circle: int) -> np.ndarray:
    """The number of documents that have begun in the row up to each position: int32 [B, T]."""

    def begun(places: np.ndarray) -> np.ndarray:
        laps, places = np.divmod(places, circle)
        return laps * len(beginnings_D) + np.searchsorted(beginnings_D, places, side="right")

    # Only the places where documents begin are looked up, much faster than a search for each position.
    begun_B = begun(starts_B)
    counts_B = begun(starts_B + length - 1) - begun_B
    rows = np.repeat(np.arange(len(starts_B)), counts_B)
    before_B = np.cumsum(counts_B) - counts_B
    laps, documents = np.divmod(np.arange(len(rows)) + (begun_B - before_B)[rows], len(beginnings_D))
    begins_BT = np.zeros((len(starts_B), length), np.int32)
    begins_BT[rows, laps * circle + beginnings_D[documents] - starts_B[rows]] = 1
    return np.cumsum(begins_BT, axis=1, dtype=np.int32)
