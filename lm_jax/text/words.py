"""What a word is, everywhere in this project: a run of bytes between ASCII white space.

The white space is that of Python's `bytes.split` and of KenLM: space, tab, newline, carriage return, vertical
tab and form feed. `str.split` would also cut at no-break spaces and other characters beyond ASCII.
"""

import re

import numpy as np

WHITE_SPACE = b" \t\n\r\v\f"
IS_SPACE = np.isin(np.arange(256), [*WHITE_SPACE])  # bool [256], by byte
WORD = re.compile(f"[^{WHITE_SPACE.decode()}]+")  # a word in a str


def count_words(data: bytes) -> int:
    """The number of words in the UTF-8 bytes of a text."""
    space = np.append(True, IS_SPACE[np.frombuffer(data, np.uint8)])
    return int(np.count_nonzero(space[:-1] & ~space[1:]))
