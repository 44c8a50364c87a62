"""The passages of a text that an audit reads, and the variants of them that it compares."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm_jax.data.documents import Document
from lm_jax.language_models.base import ScoredText

_CHARACTERS = 600  # of a passage
_MOST = 8  # passages of short documents in place of a long one
_CHARACTERS_PER_TOKEN = 6  # more than most tokens have: so many windows of a model are read


class Passage(NamedTuple):
    """A part of a document, which is scored as a text of its own.

    Attributes:
        text: the part.
        document: the number of the document.
        name: the document's name.
        start: the first byte in the document.
    """

    text: str
    document: int
    name: str
    start: int

    def place(self, byte: int) -> str:
        """Where a byte of the passage is, for reports."""
        return f"byte {self.start + byte} of {self.name}"

    def place_of(self, scored: ScoredText, token: int) -> str:
        """Where a scored token of the passage begins."""
        return self.place(int(scored.spans[token, 0]))


def draw(
    documents: Sequence[Document], samples: int, context: int | None, random: np.random.Generator
) -> list[Passage]:
    """Passages of documents in random order: beginnings, and parts from within.

    Args:
        documents: at least one.
        samples: passages of the full length; of shorter documents there are more, up to eight times as many.
        context: the number of tokens that the model reads; the first passage is longer, so that several
            windows are read of it. None: any number.
        random: the draws.
    """
    made: list[Passage] = []
    left = samples * _CHARACTERS
    for number, within in _order(documents, samples, random):
        document = documents[number]
        size = _CHARACTERS if made else max(_CHARACTERS, _CHARACTERS_PER_TOKEN * (context or 0))
        start = int(random.integers(len(document.text) - size)) if within and made else 0
        text = document.text[start : start + size]
        made.append(Passage(text, number, document.name, len(document.text[:start].encode())))
        left -= min(len(text), _CHARACTERS)
        if left <= 0 or len(made) == _MOST * samples:
            break
    return made


def _order(
    documents: Sequence[Document], samples: int, random: np.random.Generator
) -> Iterator[tuple[int, bool]]:
    """Documents in random order, each with whether a part from within is taken; long ones several times.

    The first one is the longest.
    """
    order = random.permutation(len(documents)).tolist()
    longest = max(order, key=lambda number: len(documents[number].text))
    order.sort(key=lambda number: number != longest)
    for turn in range(2 * samples):
        for place, number in enumerate(order):
            is_long = len(documents[number].text) > _CHARACTERS
            if is_long or turn == 0:
                yield number, is_long and (place + turn) % 2 == 1


class Cut(NamedTuple):
    """A passage that is cut in two, with other ends.

    Attributes:
        byte: where the first part ends.
        replaced: the first part with the end of another passage, reversed so that it differs in any case.
        alone: the first part without anything behind it.
    """

    byte: int
    replaced: str
    alone: str


def cut(passages: Sequence[Passage], random: np.random.Generator) -> list[Cut]:
    """Each passage cut at a random place in its middle half."""
    made = []
    for i, passage in enumerate(passages):
        size = len(passage.text)
        place = int(random.integers(size // 4, max(size // 4 + 1, 3 * size // 4 + 1)))
        first, other = passage.text[:place], passages[i - 1].text
        made.append(Cut(len(first.encode()), first + other[-(size - place) :][::-1], first))
    return made


def num_shared(a: ScoredText, b: ScoredText, end: int) -> int:
    """How many tokens from the first on are the same in two texts that share their bytes up to one.

    Args:
        a: the scored tokens of the one.
        b: those of the other.
        end: the number of bytes that the texts share; a token that ends behind it is not counted.
    """
    size = min(len(a.spans), len(b.spans))
    same = (a.spans[:size] == b.spans[:size]).all(axis=1) & (a.spans[:size, 1] <= end)
    return int(np.append(same, False).argmin())
