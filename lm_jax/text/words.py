"""The definition of a word, used everywhere in this project: a run of bytes between ASCII white space.

The white space is that of Python's `bytes.split` and of KenLM: space, tab, newline, carriage return, vertical
tab and form feed. `str.split` and `\\s` in a pattern for str would also match no-break spaces and other
characters beyond ASCII: use `utf8(text).split()` or `WORD` instead.
"""

import re

import numpy as np

WHITE_SPACE = " \t\n\r\v\f"
IS_SPACE = np.isin(np.arange(256), [*WHITE_SPACE.encode()])  # bool [256], by byte
_SHORT = 4096  # bytes; a list of the words is faster for a short text, and slow and large for a long one
WORD = re.compile(f"[^{WHITE_SPACE}]+")  # a word in a str


def count_words(data: bytes) -> int:
    """The number of words in the UTF-8 bytes of a text."""
    if len(data) < _SHORT:
        return len(data.split())
    space = np.append(True, IS_SPACE[np.frombuffer(data, np.uint8)])
    return int(np.count_nonzero(space[:-1] & ~space[1:]))


def is_blank(text: str) -> bool:
    """Whether a text has no word."""
    return not text.strip(WHITE_SPACE)
