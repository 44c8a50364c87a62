"""The surprisal of tokens and words, and the words of a text as a user gives them.

`language_models.word_scores` explains the surprisal of a word.
"""

from collections.abc import Sequence

import numpy as np

from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.language_models.word_scores import Surprisals, boundary_tokens, of_tokens, of_words
from lm_jax.text.words import IS_SPACE, SPACE_BYTES

__all__ = ["Surprisals", "boundary_tokens", "find_words", "of_tokens", "of_words"]


def find_words(document: Document, words: Sequence[Document], first: int) -> np.ndarray:
    """The bytes of a user's words in a text, int64 [W, 2].

    Args:
        document: the text.
        words: the words of all texts, in order; a word may hold white space, and none need be around it.
        first: the number of the text's first one.

    Raises:
        UserError: the text goes on with another word.
    """
    data = document.text.encode()
    spans: list[tuple[int, int]] = []
    place = _skip_space(data, 0)
    while place < len(data):
        rest = data[place : place + 40].decode(errors="ignore")
        if first + len(spans) == len(words):
            raise UserError(
                f"document {document.name} goes on with {rest!r} after the last word", "add the missing words"
            )
        word = words[first + len(spans)]
        text = word.text.encode()
        if not text.strip(SPACE_BYTES) or not data.startswith(text, place):
            raise UserError(
                f"{word.name} has the word {word.text!r}, and document {document.name} goes on with {rest!r}",
                "give the words of the text in their order, with the punctuation that is attached to them",
            )
        spans.append((place, place + len(text)))
        place = _skip_space(data, place + len(text))
    return np.array(spans, np.int64).reshape(-1, 2)


def _skip_space(data: bytes, place: int) -> int:
    while place < len(data) and IS_SPACE[data[place]]:
        place += 1
    return place
