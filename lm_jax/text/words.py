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


def word_spans(data: bytes) -> np.ndarray:
    """The first byte of each word in the UTF-8 bytes of a text and the byte after its last, int64 [W, 2]."""
    is_space = np.concatenate([[True], IS_SPACE[np.frombuffer(data, np.uint8)], [True]])
    return np.flatnonzero(np.diff(is_space)).reshape(-1, 2)


def first_tokens(data: bytes, spans: np.ndarray) -> np.ndarray:
    """The place of each word's first token, int32 [W]: the first that begins in the word; -1: none does.

    Args:
        data: the UTF-8 bytes of a text.
        spans: int [T, 2], the bytes of its tokens, in order; white space before a token's text is skipped.
    """
    words_W2 = word_spans(data)
    edges = np.append(IS_SPACE[np.frombuffer(data, np.uint8)], False)
    text = np.flatnonzero(~edges)  # the bytes that are no space, and the end
    begin_T = text[np.searchsorted(text, spans[:, 0])]
    begin_T = np.where(begin_T < spans[:, 1], begin_T, -1)
    places = np.flatnonzero(begin_T >= 0)
    first_W = np.searchsorted(begin_T[places], words_W2[:, 0])
    found = np.append(places, -1)[first_W]
    inside = np.append(begin_T, np.iinfo(np.int64).max)[found] < words_W2[:, 1]
    return np.where(inside, found, -1).astype(np.int32)
