"""The definition of a word, used everywhere in this project: a run of bytes between white space.

The white space is that of KenLM, of its estimation and of its ARPA files: space, tab, newline, carriage
return and NUL. Every other byte is part of a word: vertical tab, form feed, U+0085, the no-break space U+00A0
and the ideographic space U+3000, at all of which some other tool would split. So whatever the word tokenizer
makes of a text is a word of an ARPA file, is counted as one word, and is found again. `str.split`,
`bytes.split` and `\\s` in a pattern split elsewhere: use what is here.
"""

import re

import numpy as np

WHITE_SPACE = " \t\n\r\0"
SPACE_BYTES = WHITE_SPACE.encode()
IS_SPACE = np.isin(np.arange(256), [*SPACE_BYTES])  # bool [256], by byte
WORD = re.compile(f"[^{WHITE_SPACE}]+")  # a word in a str
_WORD_BYTES = re.compile(b"[^%b]+" % SPACE_BYTES)
_SHORT = 512  # bytes; a list of the words is faster for a short text, and slow and large for a long one


def words_of(data: bytes) -> list[bytes]:
    """The words in the UTF-8 bytes of a text."""
    return _WORD_BYTES.findall(data)


def count_words(data: bytes) -> int:
    """The number of words in the UTF-8 bytes of a text."""
    if len(data) < _SHORT:
        return len(words_of(data))
    space = np.append(True, IS_SPACE[np.frombuffer(data, np.uint8)])
    return int(np.count_nonzero(space[:-1] & ~space[1:]))


def is_blank(text: str) -> bool:
    """Whether a text has no word."""
    return not text.strip(WHITE_SPACE)
