"""A stream of tokens -> batches: functions from step to batch, which any number of processes shares."""

import functools
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from lm_jax.batch import Batch
from lm_jax.data.store import Split
from lm_jax.errors import UserError


class Source(Protocol):
    """What training reads: a function from step to batch."""

    steps_per_epoch: int

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> Batch:
        """The rows that one of several processes holds of the batch of a step."""
        ...


class Windows:
    """Every epoch all windows of the stream, in another order and from another starting point.

    The stream is read as a circle, for it ends with the token it begins with. An epoch begins at a random
    place of it, so that the edges of windows move, and leaves out less than a window. Rows follow each other
    across epochs: a batch may hold the last windows of one and the first of the next.

    Args:
        split: what to read.
        batch_size: rows in a batch, over all processes.
        sequence_length: tokens in a row.
        seed: 0 or more.
        separate_documents: whether batches have segments, which change where a document begins: its inputs
            are the end token before it and its own, as if it stood alone.
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
        rows = _share(self._batch_size, process_index, process_count)
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
    """Rows that go on: row b of a step begins where row b of the step before ended, for a carried state.

    The stream of tokens is read as a circle, for it ends with the token it begins with; the rows start at
    even distances and go round it for ever. After `steps_per_epoch` steps each has reached where the next
    one started (on average, where lengths vary), and no state ever meets a text that does not follow.

    Args:
        split: what to read.
        batch_size: rows in a batch, over all processes.
        sequence_length: tokens in a row of a step.
        vary_seed: 0 or more, and rows have other lengths in other steps, see `varied_lengths`; None: one.
    """

    def __init__(self, split: Split, batch_size: int, sequence_length: int, vary_seed: int | None = None):
        self._tokens = np.asarray(split.tokens)
        self._batch_size, self._length, self._seed = batch_size, sequence_length, vary_seed
        self._block_starts = [0]  # tokens of each row before each block of varied lengths, as far as known
        self.steps_per_epoch = -(-split.num_tokens // (batch_size * sequence_length))

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> Batch:
        """The rows of one process in the batch of a step.

        Raises:
            UserError: a batch that the processes cannot share evenly.
        """
        rows, circle = _share(self._batch_size, process_index, process_count), len(self._tokens) - 1
        start, length = self._place(step)
        starts = (rows * circle // self._batch_size + start) % circle
        return _read_circle(self._tokens, starts, length)

    def _place(self, step: int) -> tuple[int, int]:
        """How many tokens of each row lie before a step, and how many it has."""
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
    """Lengths of the rows of the 256 steps of a block: about `sequence_length`, once in twenty half of it.

    Merity et al. 2017, section 4.1, whose normal distribution has a deviation of 5 at a length of 70. Here
    they are whole deviations, up to two, so that a program is compiled for ten lengths and no more.
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
    """Batches of one shape whose weights are 1 once for each token and end of the split, and else 0.

    Row b of a batch begins where row b of the batch before ended. Segments are those of `Windows`; positions
    that pad a row have segment -1.

    With `carried` they serve a state that goes on from batch to batch and starts anew with each document:
    segments change at each beginning, a row's first place included (its state comes from segment 0), and no
    document lies in two rows but one that is longer than the text's share for a row, which is cut there.

    Raises:
        UserError: a batch that the processes cannot share evenly.
    """
    rows = _share(batch_size, process_index, process_count)
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
    """Where rows begin, and the last ends, with as many whole batches for each: int64 [B + 1]."""
    num_batches = -(-split.num_tokens // (sequence_length * batch_size))
    return np.minimum(np.arange(batch_size + 1) * num_batches * sequence_length, split.num_tokens)


def _document_edges(split: Split, batch_size: int) -> np.ndarray:
    """Where rows begin, and the last ends, each at the first document after its share: int64 [B + 1]."""
    share = -(-split.num_tokens // batch_size)
    first, length = _beginnings(split), np.diff(np.asarray(split.document_offsets))
    pieces = -(-length // share)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begins = np.append(np.repeat(first, pieces) + number * share, split.num_tokens)
    shares = np.minimum(np.arange(batch_size + 1) * share, split.num_tokens)
    return begins[np.searchsorted(begins, shares)]


def _share(batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """The numbers of a process's rows."""
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"train.batch_size={batch_size} cannot be shared evenly by {process_count} processes",
            f"make it a multiple of {process_count}",
        )
    size = batch_size // process_count
    return np.arange(process_index * size, (process_index + 1) * size)


def _read_circle(tokens_N: np.ndarray, starts_B: np.ndarray, length: int) -> Batch:
    """Rows from their starts on, round a stream whose last token is its first."""
    rows_BT = tokens_N[:-1].take(starts_B[:, None] + np.arange(length + 1), mode="wrap")
    inputs, targets = rows_BT[:, :-1].astype(np.int32), rows_BT[:, 1:].astype(np.int32)
    return Batch(inputs, targets, np.ones(inputs.shape, np.float32))


def _beginnings(split: Split) -> np.ndarray:
    """Where in the stream each document's inputs begin: at the end token before it."""
    return np.asarray(split.document_offsets[:-1]) - 1


def _segments(beginnings_D: np.ndarray, starts_B: np.ndarray, length: int, circle: int) -> np.ndarray:
    """How many documents have begun since each row did, at each of its places: int32 [B, T]."""

    def begun(places: np.ndarray) -> np.ndarray:
        laps, places = np.divmod(places, circle)
        return laps * len(beginnings_D) + np.searchsorted(beginnings_D, places, side="right")

    # Only where documents begin is looked up: to search for each place would take ten times as long.
    begun_B = begun(starts_B)
    counts_B = begun(starts_B + length - 1) - begun_B
    rows = np.repeat(np.arange(len(starts_B)), counts_B)
    before_B = np.cumsum(counts_B) - counts_B
    laps, documents = np.divmod(np.arange(len(rows)) + (begun_B - before_B)[rows], len(beginnings_D))
    begins_BT = np.zeros((len(starts_B), length), np.int32)
    begins_BT[rows, laps * circle + beginnings_D[documents] - starts_B[rows]] = 1
    return np.cumsum(begins_BT, axis=1, dtype=np.int32)
