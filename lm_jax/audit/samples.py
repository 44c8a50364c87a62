"""The passages of a text that an audit reads, and the variants of them that it compares."""

from collections.abc import Sequence
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
    """Passages at random characters of the text: beginnings of documents, and parts from within, in turn.

    Args:
        documents: at least one.
        samples: passages of the full length; of shorter documents there are more, up to eight times as many.
        context: the number of tokens that the model reads; the first passage, the beginning of the longest
            document, is longer, so that several windows are read of it. None: any number.
        random: the draws.
    """
    sizes = np.array([len(document.text) for document in documents])
    share = sizes / sizes.sum() if sizes.any() else None
    order = random.choice(len(sizes), _MOST * samples, p=share).tolist()
    made: list[Passage] = []
    whole, left = set(), samples * _CHARACTERS
    for number in (int(sizes.argmax()), *order):
        if number in whole:
            continue
        document = documents[number]
        size = _CHARACTERS if made else max(_CHARACTERS, _CHARACTERS_PER_TOKEN * (context or 0))
        if len(document.text) <= size:
            whole.add(number)
        within = len(made) % 2 == 1 and number not in whole
        start = int(random.integers(len(document.text) - size)) if within else 0
        text = document.text[start : start + size]
        made.append(Passage(text, number, document.name, len(document.text[:start].encode())))
        left -= min(len(text), _CHARACTERS)
        if left <= 0 or len(made) == _MOST * samples:
            break
    return made


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
    """Each passage cut at a random place in its third quarter."""
    made = []
    for i, passage in enumerate(passages):
        size = len(passage.text)
        place = int(random.integers(size // 2, 3 * size // 4 + 1))
        first, other = passage.text[:place], passages[i - 1].text
        made.append(Cut(len(first.encode()), first + other[-(size - place) :][::-1], first))
    return made


def num_shared(a: ScoredText, b: ScoredText, end: int) -> int:
    """How many tokens from the first on are the same in two texts that share their bytes up to one.

    The last token of a text is not counted, which says that the text ends.

    Args:
        a: the scored tokens of the one.
        b: those of the other.
        end: the number of bytes that the texts share; a token that ends behind it is not counted.
    """
    size = max(0, min(len(a.spans), len(b.spans)) - 1)
    same = (a.spans[:size] == b.spans[:size]).all(axis=1) & (a.spans[:size, 1] <= end)
    return int(np.append(same, False).argmin())
