"""The longest run of words that each of some documents shares with a training text, exactly.

Words get numbers, and so does each run of 2, 4, 8, ... words: a run of 2n is a pair of runs of n, and pairs
are numbered by sorting them (Karp, Miller and Rosenberg 1972, "Rapid Identification of Repeated Patterns in
Strings, Trees and Arrays"). Equal numbers stand for equal runs: there is no hash of a run, and nothing to
verify. A run of any length n is the pair of two overlapping runs of the largest power of two that is not
above n. Only runs of the tested documents are numbered. Of the training text, which is read in pieces, those
runs that occur in them get the same numbers, which become few as runs get longer.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm_jax.data.documents import Document
from lm_jax.text.base import grouped, utf8
from lm_jax.text.word_table import NEWLINE, WordTable, look_up, split_words

_WORDS_AT_A_TIME = 1 << 20  # of the training text
_NONE = -1  # in place of a number: no run of this length of the tested documents


class SharedRun(NamedTuple):
    """The longest run of words that a document shares with a training text.

    Attributes:
        words: its length; 0: none of the document's words is in the training text.
        bytes: its length in the document, from its first word's first byte to its last word's last one. Of
            several runs of as many words it is that with the most bytes. The white space between the words
            may be another in the training text.
        start: its first byte in the document's UTF-8.
        source: the name of a training document that has it; "" without one.
    """

    words: int = 0
    bytes: int = 0
    start: int = 0
    source: str = ""


class Runs:
    """The numbers of the runs of 1, 2, 4, ... words of some documents.

    Attributes:
        document_T: int32, the document of each word; each document is followed by a place without a word.
        spans_T2: int64, the bytes of each word in its document.
        longest: the number of words of the longest document.
        numbers: by k, int32 [T], the number of the run of 2^k words that begins at each place, or -1.
    """

    def __init__(self, texts: Sequence[str]):
        """Numbers the runs of at least one document, in about 12 bytes for each word and k."""
        self._table = WordTable({NEWLINE: 0})
        gap, documents = np.zeros((1, 2), np.int64), [split_words(utf8(text)) for text in texts]
        spans = [np.stack([one.starts, one.starts + one.sizes], axis=1) for one in documents]
        ids = [np.append(self._table.find_or_add(one), np.int32(_NONE)) for one in documents]
        sizes = [len(one) for one in ids]
        self.document_T = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        self.spans_T2 = np.concatenate([part for one in spans for part in (one, gap)])
        self.longest, self.numbers = max(sizes) - 1, [np.concatenate(ids)]
        self._pairs: list[np.ndarray] = []  # by k, the pairs of runs of 2^k words, sorted
        while 2 << len(self._pairs) <= self.longest:
            k = len(self._pairs)
            pairs = Places(self.numbers[k], 1 << k)
            self._pairs.append(np.unique(pairs.keys))
            self.numbers.append(pairs.numbered(self._pairs[k]))

    def words_of(self, text: str) -> np.ndarray:
        """The numbers of another text's words, int32; -1 for those that the documents do not have."""
        ids = look_up(self._table.find, utf8(text))
        return ids[ids != self._table.ids[NEWLINE]]

    def numbers_of(self, words_N: np.ndarray) -> list[np.ndarray]:
        """`numbers` of another text by its words, up to the last k of which it shares a run."""
        numbers = [words_N]
        for k, pairs in enumerate(self._pairs):
            following = Places(numbers[k], 1 << k).numbered(pairs)
            if (following < 0).all():
                break
            numbers.append(following)
        return numbers


class Places:
    """The places of a text at which a run begins that is a pair of numbered runs.

    Args:
        numbers_T: int32, those of the runs of 2^k words.
        distance: from the beginning of the first to that of the second, at most 2^k.

    Attributes:
        places: int64 [N].
        keys: int64 [N], equal where the runs of 2^k + distance words are.
    """

    def __init__(self, numbers_T: np.ndarray, distance: int):
        first = np.flatnonzero(numbers_T[: max(0, len(numbers_T) - distance)] >= 0)
        self.places = first[numbers_T[first + distance] >= 0]
        upper, lower = (numbers_T[self.places + more].astype(np.int64) for more in (0, distance))
        self.keys, self._num_places = upper << 32 | lower, len(numbers_T)

    def numbered(self, keys: np.ndarray) -> np.ndarray:
        """int32 [T], the place of each run's key among sorted ones; -1 where it is not among them."""
        numbers = np.full(self._num_places, _NONE, np.int32)
        if len(keys):
            found = np.minimum(np.searchsorted(keys, self.keys), len(keys) - 1)
            numbers[self.places] = np.where(keys[found] == self.keys, found, _NONE)
        return numbers


def longest_shared_runs(texts: Sequence[str], training: Iterable[Document]) -> list[SharedRun]:
    """The longest run of words that each text shares with a single training document.

    Memory grows with the texts, and with the largest training document, not with the training text.

    Args:
        texts: the tested documents; words are what stands between white space (`text.words`).
        training: the training documents, read once.
    """
    found = [SharedRun()] * len(texts)
    if texts:
        runs = Runs(texts)
        for piece in _pieces(runs, training):
            _Search(runs, piece).improve(found)
    return found


class _Piece(NamedTuple):
    """Some of a training text.

    Attributes:
        words_N: int32, the numbers of its words; -1 for others, and between documents.
        begins: the place of each document's first word.
        names: of the documents.
    """

    words_N: np.ndarray
    begins: list[int]
    names: list[str]


def _pieces(runs: Runs, training: Iterable[Document]) -> Iterator[_Piece]:
    """The training text in pieces; those of one document overlap by the longest run that can be shared."""
    step = max(_WORDS_AT_A_TIME, runs.longest)
    parts = (
        (document.name, words_N[first : first + step + runs.longest])
        for document in training
        for words_N in [runs.words_of(document.text)]
        for first in range(0, len(words_N), step)
    )
    gap = np.array([_NONE], np.int32)
    for group in grouped(parts, lambda part: len(part[1]), _WORDS_AT_A_TIME):
        begins = np.cumsum([0, *(len(words_N) + 1 for _, words_N in group)])[:-1].tolist()
        words = [part for _, words_N in group for part in (words_N, gap)]
        yield _Piece(np.concatenate(words), begins, [name for name, _ in group])


class _Search:
    """The longest runs that documents share with a piece of a training text."""

    def __init__(self, runs: Runs, piece: _Piece):
        self._runs, self._piece = runs, piece
        self._numbers = runs.numbers_of(piece.words_N)

    def improve(self, found: list[SharedRun]) -> None:
        """Replaces what is shared with earlier pieces where this one shares more."""
        best_D = np.array([one.words for one in found])
        for k, documents in self._levels(len(found)):
            documents = documents[best_D[documents] < 2 << k]  # the others share more elsewhere
            words_D = np.where(np.isin(np.arange(len(found)), documents), 1 << k, 0)
            for more in (1 << j for j in reversed(range(k))):
                for words in np.unique(words_D[documents]).tolist():
                    asked = documents[words_D[documents] == words]
                    places, _ = self._shared(k, words + more, asked)
                    words_D[np.unique(self._runs.document_T[places])] += more
            for words in np.unique(words_D[documents]).tolist():
                if words:
                    self._keep(found, *self._shared(k, words, documents[words_D[documents] == words]), words)

    def _levels(self, num_documents: int) -> Iterator[tuple[int, np.ndarray]]:
        """For each k the documents whose longest shared run has from 2^k to 2^(k + 1) - 1 words."""
        level_D = np.full(num_documents, _NONE)
        for k, (ours_T, theirs_N) in enumerate(zip(self._runs.numbers, self._numbers)):
            is_shared = np.zeros(max(ours_T.max(), theirs_N.max()) + 2, bool)  # the last is of -1
            is_shared[theirs_N[theirs_N >= 0]] = True
            level_D[self._runs.document_T[is_shared[ours_T]]] = k
        for k in np.unique(level_D[level_D >= 0]).tolist():
            yield k, np.flatnonzero(level_D == k)

    def _shared(self, k: int, words: int, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where runs of so many words begin in documents that are in the piece, and where there."""
        ours = Places(self._runs.numbers[k], words - (1 << k))
        theirs = Places(self._numbers[k], words - (1 << k))
        keys, first = np.unique(theirs.keys, return_index=True)
        number_T = ours.numbered(keys)
        places = np.flatnonzero((number_T >= 0) & np.isin(self._runs.document_T, documents))
        return places, theirs.places[first[number_T[places]]]

    def _keep(self, found: list[SharedRun], places: np.ndarray, sources: np.ndarray, words: int) -> None:
        starts = self._runs.spans_T2[places, 0]
        sizes = self._runs.spans_T2[places + words - 1, 1] - starts
        of_place = self._runs.document_T[places]
        order = np.lexsort((starts, -sizes, of_place))
        documents, first = np.unique(of_place[order], return_index=True)
        for document, i in zip(documents.tolist(), order[first].tolist(), strict=True):
            source = self._piece.names[bisect.bisect_right(self._piece.begins, int(sources[i])) - 1]
            one = SharedRun(words, int(sizes[i]), int(starts[i]), source)
            if one[:2] > found[document][:2]:
                found[document] = one
