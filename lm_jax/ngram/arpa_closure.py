"""Adds the prefixes and suffixes of n-grams that an ARPA file lacks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Section(NamedTuple):
    """The n-grams of one order in an ARPA file.

    Attributes:
        words: int32 ids [m, order].
        log10_probs: float32 [m].
        log10_backoffs: float32 [m], 0 where the file gives none.
        blank: the numbers of the blank lines among those of the n-grams, in order.
        start: the number of the first line after the section's header.
    """

    words: np.ndarray
    log10_probs: np.ndarray
    log10_backoffs: np.ndarray
    blank: np.ndarray
    start: int

    def line_of(self, row: int) -> int:
        """The number of the line of an n-gram of the file."""
        rows_before = self.blank - self.start - np.arange(len(self.blank))  # n-grams before each blank line
        return self.start + row + int(np.searchsorted(rows_before, row, "right"))


def close(sections: list[Section]) -> list[Section]:
    """Adds the missing prefixes and suffixes of n-grams, with their back-off probabilities."""
    scores = [
        dict(
            zip(
                map(tuple, s.words.tolist()),
                zip(s.log10_probs.tolist(), s.log10_backoffs.tolist(), strict=True),
                strict=True,
            )
        )
        for s in sections
    ]
    missing: list[set[tuple[int, ...]]] = [set() for _ in sections]
    for n in range(len(sections) - 1, 1, -1):
        for gram in (*scores[n], *missing[n]):
            missing[n - 1].update(part for part in (gram[:-1], gram[1:]) if part not in scores[n - 1])
    closed = list(sections)
    for n in range(1, len(sections)):
        added = sorted(missing[n])
        for gram in added:
            scores[n][gram] = scores[n - 1][gram[:-1]][1] + scores[n - 1][gram[1:]][0], 0.0
        if added:
            probs = np.array([scores[n][gram][0] for gram in added], np.float32)
            closed[n] = sections[n]._replace(
                words=np.concatenate([sections[n].words, np.array(added, np.int32)]),
                log10_probs=np.concatenate([sections[n].log10_probs, probs]),
                log10_backoffs=np.concatenate([sections[n].log10_backoffs, np.zeros_like(probs)]),
            )
    return closed
