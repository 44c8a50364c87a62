"""Texts of several rows in one flat array without padding, and random choices within each row.

B: rows. T: tokens in a row. N: tokens of all rows. W: words.
"""

import functools
from typing import NamedTuple

import numpy as np

from lm_jax.data import draws

SPECIAL, STARTS, ENDS = 1, 2, 4  # kinds of a token: it is special, starts a word, ends a sentence


class RowDraws(NamedTuple):
    """The random numbers of a noise: those of all noises, its own from `first` on."""

    noise_BK: np.ndarray
    first: int

    def at(self, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        """One for each of some places of rows."""
        return self.noise_BK.reshape(-1).take(rows * self.noise_BK.shape[1] + (places + self.first))

    def all(self, first: int, count: int) -> np.ndarray:
        """Some of each row: [B, count]."""
        return self.noise_BK[:, self.first + first : self.first + first + count]


class FlatRows:
    """The texts of the rows one after the other.

    Attributes:
        values: int64 [N]; a token's id in 32 bits, its kind in 8, and its place, or -1 for a new one.
        lengths: int64 [B].
        width: T.
    """

    def __init__(self, values: np.ndarray, lengths: np.ndarray, width: int):
        self.values, self.lengths, self.width = values, lengths, width

    def with_values(self, values: np.ndarray) -> "FlatRows":
        """Other tokens in rows of the same lengths."""
        texts = FlatRows(values, self.lengths, self.width)
        texts.__dict__ |= {name: value for name, value in vars(self).items() if name in _OF_LENGTHS}
        return texts

    @functools.cached_property
    def begins(self) -> np.ndarray:
        """Where each row begins: int64 [B]."""
        return np.cumsum(self.lengths) - self.lengths

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The row of each token: int64 [N]."""
        return np.arange(len(self.lengths)).repeat(self.lengths)

    @functools.cached_property
    def places(self) -> np.ndarray:
        """The place of each token in its row: int64 [N]."""
        return np.arange(self.lengths.sum()) - self.begins.repeat(self.lengths)

    @functools.cached_property
    def kinds(self) -> np.ndarray:
        """What each token is: uint8 [N]."""
        return (self.values >> 32).astype(np.uint8)

    @functools.cached_property
    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """Where words begin, special tokens being words of their own, int64 [W]; and which are no special
        tokens, bool [W].
        """
        begins_N = (self.kinds & (SPECIAL | STARTS)) != 0
        begins_N[1:] |= (self.kinds[:-1] & SPECIAL) != 0
        begins_N[self.begins[self.lengths > 0]] = True
        edges = np.flatnonzero(begins_N)
        return edges, (self.kinds.take(edges) & SPECIAL) == 0

    def counts(self, places_W: np.ndarray) -> np.ndarray:
        """How many of these places of the flat array, ascending, are in each row: int64 [B]."""
        edges = np.searchsorted(places_W, self.begins)
        return sizes_of(edges, len(places_W))

    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids and places, both int32 [B, T], padded with 0 and -1."""
        is_text_BT = np.arange(self.width) < self.lengths[:, None]
        tokens_BT = np.zeros(is_text_BT.shape, np.int32)
        places_BT = np.full(is_text_BT.shape, -1, np.int32)
        tokens_BT[is_text_BT] = self.values.astype(np.int32)
        places_BT[is_text_BT] = self.values >> 40
        return tokens_BT, places_BT


_OF_LENGTHS = ("begins", "rows", "places")


def sizes_of(edges: np.ndarray, end: int) -> np.ndarray:
    """The sizes of parts that begin at the edges, the last one up to the end."""
    sizes = np.empty_like(edges)
    np.subtract(edges[1:], edges[:-1], out=sizes[:-1])
    sizes[-1:] = end - edges[-1:]
    return sizes


class Order(NamedTuple):
    """Places in random order within each row, the rows one after the other.

    Attributes:
        places: int64 [W]; places in the row.
        counts: int64 [B]; how many each row has.
        begins: int64 [B]; where each row begins in the flat array.
    """

    places: np.ndarray
    counts: np.ndarray
    begins: np.ndarray

    def first(self, count_B: np.ndarray) -> np.ndarray:
        """The first `count_B` of each row, as places of the flat array."""
        skipped_B = np.cumsum(self.counts - count_B) - (self.counts - count_B)
        chosen = np.arange(count_B.sum()) + skipped_B.repeat(count_B)
        return self.places.take(chosen) + self.begins.repeat(count_B)


def shuffled(texts: FlatRows, choices_W: np.ndarray, random: RowDraws) -> Order:
    """Places of the flat array, ascending, in random order within each row."""
    rows, places = texts.rows.take(choices_W), texts.places.take(choices_W)
    row_bits, low = len(texts.lengths).bit_length(), draws.low_bits(texts.width)
    keys = random.at(rows, places)
    keys >>= np.uint64(row_bits + 1)
    keys &= ~low
    keys |= ((rows << (63 - row_bits)) | places).view(np.uint64)
    keys.sort()
    keys &= low
    return Order(keys.view(np.int64), texts.counts(choices_W), texts.begins)
