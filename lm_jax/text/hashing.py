"""A hash table from keys to ids whose operations are numpy calls over whole arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)


def mix(keys: np.ndarray) -> np.ndarray:
    """Mixes uint64 keys so that every bit of a key affects the high bits, which choose a slot."""
    mixed = keys * _GOLDEN
    mixed ^= mixed >> np.uint64(32)
    mixed *= _GOLDEN
    return mixed


class IdTable:
    """Open addressing with linear probing; a slot holds an id, and the caller compares the keys.

    The caller stores the keys by id, so that the table takes four bytes per slot and two to four slots per
    id.
    """

    def __init__(self, capacity: int):
        bits = max(int(2 * capacity - 1).bit_length(), 4)
        self.capacity = 1 << (bits - 1)
        self._slots = np.full(1 << bits, -1, np.int32)
        self._shift = np.uint64(64 - bits)
        self._mask = (1 << bits) - 1

    def insert(self, hashes: np.ndarray, ids: np.ndarray) -> None:
        """Adds distinct keys by their uint64 hashes; the caller keeps to the capacity."""
        slots = (hashes >> self._shift).view(np.int64)
        while len(ids):
            free = np.flatnonzero(self._slots.take(slots) < 0)
            self._slots[slots.take(free)] = ids.take(free)  # of several keys for one slot, one is stored
            rest = np.flatnonzero(self._slots.take(slots) != ids)
            slots, ids = (slots.take(rest) + 1) & self._mask, ids.take(rest)

    def find(
        self, hashes: np.ndarray, is_match: Callable[[np.ndarray, np.ndarray | None], np.ndarray]
    ) -> np.ndarray:
        """The int32 id of each key, or -1.

        Args:
            hashes: uint64 hashes of the keys.
            is_match: given candidate ids and the rows they are for (None: all rows), returns which are right.
                The result for a candidate of -1, which is not an id, is ignored.
        """
        slots = (hashes >> self._shift).view(np.int64)
        found = self._slots.take(slots)
        wrong = np.flatnonzero(~is_match(found, None))
        rows = wrong.compress(found.take(wrong) >= 0)
        found[wrong] = -1
        while len(rows):
            slots[rows] = (slots.take(rows) + 1) & self._mask
            candidates = self._slots.take(slots.take(rows))
            matched = is_match(candidates, rows)
            found[rows.compress(matched)] = candidates.compress(matched)
            rows = rows.compress(~matched & (candidates >= 0))
        return found
