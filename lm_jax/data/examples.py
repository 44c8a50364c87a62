"""Batches of examples, one document each: padded rows of similar length, each example once an epoch."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from lm_jax.data.batches import share

B = TypeVar("B")
_SHORTEST = 16


class Rows(NamedTuple):
    """The examples of a batch, and the lengths of its rows.

    Attributes:
        indices: int64 [B]; document numbers in the split. A row without an example repeats one, since a row
            of padding alone would have no position to attend to.
        weights: float32 [B]; 1, and 0 for a row without an example.
        lengths: the length of the padded rows, one for each column of the lengths of the examples.
    """

    indices: np.ndarray
    weights: np.ndarray
    lengths: tuple[int, ...]


class Examples(Generic[B]):
    """A `Source` that reads each example once an epoch, in an order that the seed and the epoch decide.

    The examples of an epoch are shuffled and divided into batches, whose sizes differ by at most one. Within
    each pool of consecutive batches the examples are sorted by length before they are divided, so that rows
    of similar length meet, and the batches of the pool are shuffled. Rows beyond the examples of a batch have
    weight 0.

    Args:
        lengths: int [D] or [D, K]; the tokens of each example in each of the K rows that `assemble` makes of
            it (1 for a classifier, 2 for an encoder-decoder), special tokens included.
        max_lengths: K numbers. Longer rows are truncated by `assemble`.
        assemble: makes a batch of `Rows`: a pure function. Its rows have exactly the given lengths.
        batch_size: rows in a batch, over all processes.
        seed: 0 or more.
        pool: batches whose examples are sorted together.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        max_lengths: Sequence[int],
        assemble: Callable[[Rows], B],
        batch_size: int,
        seed: int,
        pool: int = 16,
    ):
        self._lengths_DK = np.reshape(lengths, (len(lengths), -1))
        self._max_lengths, self._assemble = tuple(max_lengths), assemble
        self._batch_size, self._seed, self._pool = batch_size, seed, pool
        self.steps_per_epoch = -(-len(lengths) // batch_size)
        self._batches = functools.lru_cache(maxsize=2)(self._shuffle)

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> B:
        """The rows of one process in the batch of a step, a pure function of the seed and the step.

        Raises:
            UserError: a batch that the processes cannot share evenly.
        """
        epoch, number = divmod(step, self.steps_per_epoch)
        lengths = row_lengths(self._lengths_DK[self._batches(epoch)[number]], self._max_lengths)
        mine = share(self._batch_size, process_index, process_count)
        return self._assemble(_rows(self._batches(epoch)[number], mine, lengths))

    def _shuffle(self, epoch: int) -> list[np.ndarray]:
        """The examples of each batch of an epoch."""
        random, num_batches = np.random.default_rng([self._seed, epoch]), self.steps_per_epoch
        order = random.permutation(len(self._lengths_DK))
        edges = np.arange(num_batches + 1) * len(order) // num_batches
        batches: list[np.ndarray] = []
        for first in range(0, num_batches, self._pool):
            edges_of_pool = edges[first : first + self._pool + 1]
            examples = _by_length(order[edges_of_pool[0] : edges_of_pool[-1]], self._lengths_DK)
            pieces = np.split(examples, edges_of_pool[1:-1] - edges_of_pool[0])
            batches += [pieces[number] for number in random.permutation(len(pieces))]
        return batches


def held_out_examples(
    lengths: np.ndarray,
    max_lengths: Sequence[int],
    assemble: Callable[[Rows], B],
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[B]:
    """Batches that hold each example once, the shortest first. The arguments are those of `Examples`.

    Rows beyond the examples of the last batch have weight 0.

    Raises:
        UserError: a batch that the processes cannot share evenly.
    """
    mine = share(batch_size, process_index, process_count)
    lengths_DK = np.reshape(lengths, (len(lengths), -1))
    order = _by_length(np.arange(len(lengths_DK)), lengths_DK)
    for first in range(0, len(order), batch_size):
        examples = order[first : first + batch_size]
        yield assemble(_rows(examples, mine, row_lengths(lengths_DK[examples], max_lengths)))


def row_lengths(lengths_BK: np.ndarray, max_lengths: Sequence[int]) -> tuple[int, ...]:
    """The padded lengths of rows that hold these examples: powers of two from 16 on, or the maximum.

    A program is compiled for each length: there are few.
    """
    longest_K = lengths_BK.max(axis=0).tolist()
    powers = (max(_SHORTEST, 1 << (int(longest) - 1).bit_length()) for longest in longest_K)
    return tuple(min(power, most) for power, most in zip(powers, max_lengths, strict=True))


def pad(sequences: Sequence[np.ndarray], length: int, value: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of one length, padded on the right; longer sequences are truncated.

    Args:
        sequences: B arrays of token ids.
        length: T.
        value: the id at padded positions.

    Returns:
        The tokens int32 [B, T], and segments int32 [B, T]: 0, and -1 at padded positions.
    """
    tokens_BT = np.full((len(sequences), length), value, np.int32)
    segments_BT = np.full((len(sequences), length), -1, np.int32)
    for row, sequence in enumerate(sequences):
        tokens_BT[row, : len(sequence)] = sequence[:length]
        segments_BT[row, : len(sequence)] = 0
    return tokens_BT, segments_BT


def _rows(examples: np.ndarray, mine: np.ndarray, lengths: tuple[int, ...]) -> Rows:
    """The rows of a process, numbered `mine` in the batch."""
    weights = (mine < len(examples)).astype(np.float32)
    return Rows(examples[np.minimum(mine, len(examples) - 1)], weights, lengths)


def _by_length(examples: np.ndarray, lengths_DK: np.ndarray) -> np.ndarray:
    return examples[np.argsort(lengths_DK[examples].sum(axis=1), kind="stable")]
