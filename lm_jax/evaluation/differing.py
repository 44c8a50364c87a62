"""The words of a text on which two models differ most."""

import math
from typing import Any, NamedTuple

import numpy as np

from lm_jax.evaluation.base import Evaluation
from lm_jax.evaluation.breakdown import plain
from lm_jax.evaluation.texts import Text
from lm_jax.evaluation.word_parts import DocumentWords
from lm_jax.evaluation.word_sums import scored_together, word_nats
from lm_jax.text.word_table import WordTable

_CONTEXT = 60  # bytes before a word


class WordDifference(NamedTuple):
    """A word's surprisal under two models, summed over its occurrences.

    Attributes:
        word: the word.
        times: how often it occurs.
        bits: of all occurrences together, under the first model and under the second.
    """

    word: str
    times: int
    bits: tuple[float, float]

    @property
    def difference(self) -> float:
        """Bits of the first model less those of the second: below 0 where the first one is better."""
        return float(_less(*self.bits))


class Occurrence(NamedTuple):
    """One occurrence of a word, and its surprisal under two models.

    Attributes:
        document: the document's name.
        start: the word's first byte in the document's UTF-8.
        end: the byte after its last.
        before: what precedes it, at most 60 bytes.
        word: the word.
        bits: under the first model and under the second.
    """

    document: str
    start: int
    end: int
    before: str
    word: str
    bits: tuple[float, float]

    @property
    def difference(self) -> float:
        """As of `WordDifference`."""
        return float(_less(*self.bits))


class DifferingWords(NamedTuple):
    """The words on which two models differ most; those on which they differ more come first.

    Attributes:
        models: the names of the two.
        words: by the difference of all occurrences of a word together.
        occurrences: single ones.
    """

    models: tuple[str, str]
    words: list[WordDifference]
    occurrences: list[Occurrence]

    def as_json(self) -> dict[str, Any]:
        """The words as a JSON object; null for what is not a finite number."""

        def each(items: list[Any]) -> list[dict[str, Any]]:
            return [one._asdict() | {"bits": [*map(plain, one.bits)]} for one in items]

        return {"models": self.models, "words": each(self.words), "occurrences": each(self.occurrences)}


def differing_words(a: Evaluation, b: Evaluation, text: Text, count: int = 100) -> DifferingWords:
    """The words on which two models differ most in bits, in all and in single occurrences.

    Words are what stands between white space; their bits are those of `breakdown.breakdowns`. Documents are
    read one at a time; memory grows with the number of different words.

    Args:
        a: the first model's evaluation.
        b: the second's, of the same text.
        text: the text.
        count: how many words, and how many occurrences.

    Raises:
        UserError: a model that does not score texts, or models that were scored on different texts.
    """
    sums, most = _WordSums(), _Most(count)
    for document, *scored in zip(text.documents, *scored_together([a, b]), strict=True):
        words = DocumentWords(scored[0].text)
        bits_2W = np.stack([word_nats(one, words.spans)[0][:-1] for one in scored]) / math.log(2)
        sums.add(words, bits_2W)
        most.add(document.name, words, bits_2W)
    return DifferingWords((a.row.model, b.row.model), sums.most(count), most.occurrences)


class _WordSums:
    """The bits of each word under two models, summed over its occurrences."""

    def __init__(self) -> None:
        self._table = WordTable({})
        self._sums = np.zeros((3, 0))  # bits, bits and the number of occurrences, by the word's id

    def add(self, words: DocumentWords, bits_2W: np.ndarray) -> None:
        ids = self._table.find_or_add(words.words)
        room = len(self._table.ids) - self._sums.shape[1]
        if room > 0:  # twice as much, so that few copies are made
            self._sums = np.pad(self._sums, ((0, 0), (0, room + self._sums.shape[1])))
        distinct, of_word = np.unique(ids, return_inverse=True)
        for sums, values in zip(self._sums, (*bits_2W, None)):
            sums[distinct] += np.bincount(of_word, values, len(distinct))

    def most(self, count: int) -> list[WordDifference]:
        words = list(self._table.ids)
        a, b, num = self._sums[:, : len(words)]
        order = _largest(_less(a, b), count).tolist()
        return [WordDifference(_text(words[i]), int(num[i]), (float(a[i]), float(b[i]))) for i in order]


class _Most:
    """The occurrences with the largest differences so far, the largest first."""

    def __init__(self, count: int):
        self._count = count
        self.occurrences: list[Occurrence] = []

    def add(self, name: str, words: DocumentWords, bits_2W: np.ndarray) -> None:
        data = words.words.text
        for i in _largest(_less(*bits_2W), self._count).tolist():
            start, end = words.spans[i].tolist()
            before = data[max(0, start - _CONTEXT) : start].decode(errors="ignore")
            bits = (float(bits_2W[0, i]), float(bits_2W[1, i]))
            self.occurrences.append(Occurrence(name, start, end, before, _text(data[start:end]), bits))
        kept = _largest(np.array([one.difference for one in self.occurrences]), self._count)
        self.occurrences = [self.occurrences[i] for i in kept.tolist()]


def _largest(differences: np.ndarray, count: int) -> np.ndarray:
    """The places of the largest magnitudes above 0, the largest first; of equal ones the first."""
    order = np.argsort(-np.abs(differences), kind="stable")[:count]
    return order[differences[order] != 0]


def _less(a: Any, b: Any) -> Any:
    """a − b; 0 where both are infinite."""
    with np.errstate(invalid="ignore"):
        difference = np.subtract(a, b)
    return np.where(np.isnan(difference), 0.0, difference)[()]


def _text(word: bytes) -> str:
    return word.decode(errors="backslashreplace")
