"""How often each word occurs in a text, as `words.py` defines words."""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np

from lm_jax.text.base import grouped, utf8
from lm_jax.text.word_table import NEWLINE, Words, WordTable, look_up

_WORDS, _COUNTS = "words.txt", "counts.bin"
_BETWEEN = b" "  # no word holds a space


class WordCounts:
    """Words with their numbers of occurrences. A newline is counted as a word by itself.

    Attributes:
        table: the words and their ids.
        counts: int64, by id.
    """

    def __init__(self, texts: Iterable[str] = ()):
        """Counts the words of texts, in memory that grows with the number of different words."""
        self.table, self.counts = WordTable({}), np.zeros(0, np.int64)
        for group in grouped(texts, len):
            self._add(NEWLINE.join(map(utf8, group)))

    def of(self, words: Words) -> np.ndarray:
        """int64: how often each of some words occurs, 0 for those that do not."""
        return np.append(self.counts, 0)[self.table.find(words)]

    def items(self) -> dict[bytes, int]:
        """The number of each word, in the order of their first occurrences, without the newline."""
        counts = dict(zip(self.table.ids, self.counts.tolist(), strict=True))
        counts.pop(NEWLINE, None)
        return counts

    def save(self, directory: Path) -> None:
        """Writes two files into a directory, for `load`."""
        (directory / _WORDS).write_bytes(_BETWEEN.join(self.table.ids))
        self.counts.tofile(directory / _COUNTS)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """What `save` wrote."""
        made = cls()
        words = (directory / _WORDS).read_bytes().split(_BETWEEN)
        made.counts = np.fromfile(directory / _COUNTS, np.int64)
        made.table = WordTable({word: i for i, word in enumerate(words) if word})
        return made

    def _add(self, text: bytes) -> None:
        ids = look_up(self.table.find_or_add, text)
        before, self.counts = self.counts, np.bincount(ids, minlength=len(self.table.ids))
        self.counts[: len(before)] += before
