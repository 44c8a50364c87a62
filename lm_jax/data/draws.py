"""Random numbers of rows: a function of the seed, the row's number and its length.

B: rows. T: tokens in a row.
"""

from collections.abc import Sequence

import numpy as np

LAST = np.uint64(2**64 - 1)  # a key after all others
LOW = np.uint64(2**32 - 1)
_HALF = np.uint64(32)


def of_rows(seed: Sequence[int], num_rows: int, width: int, first_row: int = 0) -> np.ndarray:
    """Uniform uint64 [B, width], row by row from one stream of numbers, so that a process can go to its own.

    Args:
        seed: of the batch, such as [seed, step].
        num_rows: B.
        width: numbers for each row.
        first_row: the number of the first of these rows in the whole batch.
    """
    generator = np.random.PCG64(seed).advance(first_row * width)
    return np.asarray(generator.random_raw(num_rows * width), np.uint64).reshape(num_rows, width)


def keys(noise_BT: np.ndarray, is_choice_BT: np.ndarray) -> np.ndarray:
    """Random keys that order the choices of a row, before all others. The low bits are the place."""
    low = low_bits(noise_BT.shape[1])
    places_T = np.arange(noise_BT.shape[1], dtype=np.uint64)
    return np.where(is_choice_BT, noise_BT & ~low, LAST & ~low) | places_T


def low_bits(length: int) -> np.uint64:
    """The bits of the places of a row of so many tokens."""
    return np.uint64((1 << max(1, (length - 1).bit_length())) - 1)


def unit_interval(noise: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1) from the high 32 bits."""
    return (noise >> _HALF) * 2.0**-32


def below(noise: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Whole numbers in [0, bound) from the low 32 bits: int64."""
    return ((noise & LOW) * np.asarray(bound, np.uint64) >> _HALF).astype(np.int64)
