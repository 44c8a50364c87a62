"""Parses decimal numbers in text, many to a numpy call."""

from __future__ import annotations

import re

import numpy as np

from lm_jax.text.word_table import Words, eight_bytes

_LONGEST = 15  # characters of a plain decimal, whose digits fit into the 53 bits of a float64
_POWERS = 10.0 ** np.arange(_LONGEST + 1)


def parse(words: Words) -> tuple[np.ndarray, np.ndarray]:
    """The words as float32 [N], and which are not numbers, bool [N].

    Numbers in another form, such as 1e-3, are parsed by Python; -1.#INF is what Microsoft's C library writes
    for minus infinity.
    """
    windows = eight_bytes(words.text)
    characters = np.stack([windows[words.starts], windows[words.starts + 8]], axis=1).view(np.uint8)
    digits = np.zeros(len(words.starts), np.int64)
    decimals = np.zeros(len(words.starts), np.int64)
    after_point = np.zeros(len(words.starts), np.bool_)
    is_plain = words.sizes <= _LONGEST
    for place, column in enumerate(characters.T[: min(int(words.sizes.max(initial=0)), _LONGEST)].copy()):
        inside = words.sizes > place
        digit = column - np.uint8(ord("0"))
        is_digit = inside & (digit < 10)
        is_point = inside & (column == ord(".")) & ~after_point
        is_plain &= is_digit | is_point | ~inside | ((column == ord("-")) if place == 0 else False)
        digits = np.where(is_digit, digits * 10 + digit, digits)
        decimals += is_digit & after_point
        after_point |= is_point
    is_negative = characters[:, 0] == ord("-")
    is_plain &= words.sizes > is_negative.astype(np.int64) + after_point  # at least one digit
    values = (np.where(is_negative, -digits, digits) / _POWERS.take(decimals)).astype(np.float32)
    wrong = np.zeros(len(values), np.bool_)
    for row in np.flatnonzero(~is_plain).tolist():
        [word] = words.select(np.array([row])).tolist()
        try:
            values[row] = -np.inf if re.fullmatch(rb"-1\.#INF0*", word) else float(word)
        except ValueError:
            wrong[row] = True
        wrong[row] |= b"_" in word  # which Python's float ignores
    return values, wrong | np.isnan(values)
