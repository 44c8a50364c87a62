"""The probability of the white space of a text, given its words and where its lines and the text end.

Tokens that are words say nothing of the white space between them. With the probability of the white space,
and of what each `</s>` stands for, the words' probability becomes that of a string.

Before each token stands a gap: a run of white space without newlines, which may be empty except between two
words. Its probability depends on what is around it (`Layout.kinds`) and on one detail before it: the last
byte of the word, or at the beginning of a line the last line's indentation. Counts of gaps in a training text
are smoothed twice by Witten and Bell's method (Chen and Goodman 1999, section 2.6), first towards the gaps of
all details, then towards runs of any length: P0(gap of n bytes) = 2^-(n + 1) 4^-n; between words 2^-n 4^-n.

A token `</s>` stands for a newline after which the text goes on, a newline that ends the text, or the end
without one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.text.base import Encoding
from lm_jax.text.words import SPACE_BYTES

WORD_WORD, WORD_END, BEGIN_WORD, BEGIN_END = range(4)  # what is before and behind a gap
GOES_ON, ENDS_WITH_NEWLINE, ENDS = range(3)  # what `</s>` stands for
_NUM_PLACES = 3  # after a word; at the beginning of a text or after a gap; at the beginning of another line
_EMPTY, _SPACE, _UNSEEN = 0, 1, -1  # numbers of gaps
_LN_SPACES = float(np.log(len(SPACE_BYTES) - 1))  # ways to write a byte of a gap: no newline is in it
_SHIFT = 24  # bits of a gap's number
_MOST = 1 << _SHIFT
_NO_GAP = _MOST - 2  # the detail at the beginning of a text, which has no line before it
_OF_ALL = _MOST - 1  # the detail under which the counts of all details are kept


class Layout(NamedTuple):
    """The tokens of texts, the end of each text among them, and where they are.

    Attributes:
        data: the UTF-8 bytes of all texts, one after the other.
        ids: int32 [N].
        starts: int64 [N], the first byte of each token in `data`.
        ends: int64 [N], the byte after its last; a newline at the end of a text is not among the bytes of
            its last token.
        before: int64 [N], where the gap before each token begins.
        kinds: int8 [N], WORD_WORD, WORD_END, BEGIN_WORD or BEGIN_END.
        outcomes: int8 [N], what each `</s>` stands for; -1 for words.
        places: int8 [N], which of the `_NUM_PLACES` distributions the outcome has; -1 for words.
        first: int64 [B], the first token of each text.
    """

    data: bytes
    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    before: np.ndarray
    kinds: np.ndarray
    outcomes: np.ndarray
    places: np.ndarray
    first: np.ndarray


def lay_out(texts: Sequence[bytes], encodings: Sequence[Encoding], end_id: int) -> Layout:
    """Where the tokens of some texts are, at least one text."""
    sizes_B = np.array([len(text) for text in texts], np.int64)
    counts_B = np.array([len(e.ids) + 1 for e in encodings], np.int64)
    offsets_B, last_B = np.cumsum(sizes_B) - sizes_B, np.cumsum(counts_B) - 1
    has_newline_B = np.array([text.endswith(b"\n") for text in texts])
    ids, spans = np.empty(counts_B.sum(), np.int32), np.empty((counts_B.sum(), 2), np.int64)
    is_last = np.zeros(len(ids), bool)
    is_last[last_B] = True
    ids[last_B], ids[~is_last] = end_id, np.concatenate([e.ids for e in encodings])
    spans[last_B] = (sizes_B - has_newline_B)[:, None]
    spans[~is_last] = np.concatenate([e.spans for e in encodings])
    spans += np.repeat(offsets_B, counts_B)[:, None]
    first_B = last_B - counts_B + 1
    before = np.append(0, spans[:-1, 1])
    before[first_B] = offsets_B

    is_end = ids == end_id
    at_begin = np.append(True, is_end[:-1])
    at_begin[first_B] = True
    kinds = (2 * at_begin + is_end).astype(np.int8)
    outcomes = np.where(is_end, GOES_ON, -1).astype(np.int8)
    outcomes[last_B] = np.where(has_newline_B, ENDS_WITH_NEWLINE, ENDS)
    is_later = at_begin & (before == spans[:, 0])  # an empty line, and not the first
    is_later[first_B] = False
    places = np.where(is_end, at_begin.astype(np.int8) + is_later, -1).astype(np.int8)
    return Layout(b"".join(texts), ids, spans[:, 0], spans[:, 1], before, kinds, outcomes, places, first_B)


class GapModel:
    """Probabilities of gaps, and of what `</s>` stands for, from counts.

    Args:
        gaps: the different gaps of the training text; the first two are the empty one and a space.
        keys: int64 [K], kind, detail and number of a gap, packed by `_pack`, ascending.
        counts: int64 [K], how often each was seen.
        outcomes: int64 [_NUM_PLACES, 3], how often `</s>` stood for what.
    """

    def __init__(self, gaps: Sequence[bytes], keys: np.ndarray, counts: np.ndarray, outcomes: np.ndarray):
        self.gaps, self.keys, self.counts, self.outcomes = list(gaps), keys, counts, outcomes
        self._numbers = {gap: number for number, gap in enumerate(self.gaps)}
        contexts, first = np.unique(keys >> _SHIFT, return_index=True)
        self._contexts = contexts
        self._totals = np.add.reduceat(counts, first) if len(keys) else counts
        self._types = np.diff(np.append(first, len(keys)))
        # An empty line that is not the first cannot be the end: the newline before it would be the end.
        possible = np.ones((_NUM_PLACES, 3))
        possible[2, ENDS] = 0
        smoothed = (outcomes + 0.5) * possible
        with np.errstate(divide="ignore"):
            self._log_outcomes = np.log(smoothed / smoothed.sum(axis=1, keepdims=True))

    def log_probs(self, layout: Layout) -> np.ndarray:
        """float64 [N], natural log p of the gap before each token, and of what a `</s>` stands for."""
        numbers = _number_gaps(layout, self._numbers)
        details = _details(layout, numbers)
        sizes = layout.starts - layout.before
        probs = np.exp(-(sizes + (layout.kinds != WORD_WORD)) * np.log(2) - sizes * _LN_SPACES)
        for detail in (np.full(len(details), _OF_ALL), details):
            contexts = layout.kinds.astype(np.int64) << _SHIFT | detail
            total, types = (_look_up(self._contexts, x, contexts) for x in (self._totals, self._types))
            count = _look_up(self.keys, self.counts, contexts << _SHIFT | np.maximum(numbers, 0))
            count[numbers == _UNSEEN] = 0
            seen = total > 0
            probs[seen] = ((count + types * probs) / np.maximum(total + types, 1))[seen]
        log_probs = np.log(probs)
        is_end = layout.outcomes >= 0
        log_probs[is_end] += self._log_outcomes[layout.places[is_end], layout.outcomes[is_end]]
        return log_probs

    def as_json(self) -> dict[str, Any]:
        """All counts."""
        return {
            "gaps": [gap.decode() for gap in self.gaps],
            "counts": np.stack([self.keys, self.counts], axis=1).tolist(),
            "outcomes": self.outcomes.tolist(),
        }

    @classmethod
    def from_json(cls, values: JsonObject) -> GapModel:
        """The model whose `as_json` gave the values.

        Raises:
            UserError: a field that is missing or of another form.
        """
        gaps = values.take("gaps", list)
        try:
            rows = np.array(values.take("counts", list), np.int64).reshape(-1, 2)
            outcomes = np.array(values.take("outcomes", list), np.int64).reshape(_NUM_PLACES, 3)
            model = cls([gap.encode() for gap in gaps], rows[:, 0], rows[:, 1], outcomes)
        except (ValueError, TypeError, OverflowError, AttributeError):
            raise UserError(f"{values.where} holds no counts of white space", "restore the file") from None
        keys, given = model.keys, set(model.gaps)
        is_good = (np.diff(keys) > 0).all() and (keys >= 0).all() and (rows[:, 1] > 0).all()
        if not is_good or (outcomes < 0).any() or len(given) < len(gaps) or model.gaps[:2] != [b"", b" "]:
            raise UserError(f"{values.where} has damaged counts of white space", "restore the file")
        return model


class GapCounts:
    """Counts gaps, many texts at a time."""

    def __init__(self) -> None:
        self._numbers = {b"": _EMPTY, b" ": _SPACE}
        self._counts: dict[int, int] = {}
        self._outcomes = np.zeros((_NUM_PLACES, 3), np.int64)

    def add(self, layout: Layout) -> None:
        """Counts the gaps of some texts."""
        for gap in _other_gaps(layout)[1]:
            if len(self._numbers) < _NO_GAP:
                self._numbers.setdefault(gap, len(self._numbers))
        numbers = _number_gaps(layout, self._numbers)
        details, known = _details(layout, numbers), numbers != _UNSEEN
        for detail in (details, np.full(len(details), _OF_ALL)):
            keys = (layout.kinds.astype(np.int64) << _SHIFT | detail) << _SHIFT | np.maximum(numbers, 0)
            for key, count in zip(*map(np.ndarray.tolist, np.unique(keys[known], return_counts=True))):
                self._counts[key] = self._counts.get(key, 0) + count
        is_end = layout.outcomes >= 0
        np.add.at(self._outcomes, (layout.places[is_end], layout.outcomes[is_end]), 1)

    def model(self) -> GapModel:
        """The model of all that was counted."""
        keys = np.array(sorted(self._counts), np.int64)
        counts = np.array([self._counts[key] for key in keys.tolist()], np.int64)
        return GapModel(list(self._numbers), keys, counts, self._outcomes)


def _other_gaps(layout: Layout) -> tuple[np.ndarray, list[bytes]]:
    """The places of the gaps that are neither empty nor a space, and the gaps."""
    sizes = layout.starts - layout.before
    data = np.frombuffer(layout.data + b" ", np.uint8)
    places = np.flatnonzero((sizes > 1) | ((sizes == 1) & (data[layout.before] != ord(" "))))
    pairs = zip(layout.before[places].tolist(), layout.starts[places].tolist())
    return places, list(itertools.starmap(lambda a, b: layout.data[a:b], pairs))


def _number_gaps(layout: Layout, numbers: dict[bytes, int]) -> np.ndarray:
    """int64 [N], the number of each gap; _UNSEEN for those without one."""
    found = np.where(layout.starts > layout.before, _SPACE, _EMPTY)
    places, gaps = _other_gaps(layout)
    found[places] = [numbers.get(gap, _UNSEEN) for gap in gaps]
    return found


def _details(layout: Layout, numbers: np.ndarray) -> np.ndarray:
    """int64 [N], what the distribution of a gap depends on beside its kind."""
    data = np.frombuffer(b"\0" + layout.data, np.uint8)
    details = data[layout.before].astype(np.int64)  # the byte before the gap
    details[layout.kinds == BEGIN_END] = 0
    indented = layout.kinds == BEGIN_WORD
    rows = np.flatnonzero(indented)
    text_of = np.searchsorted(layout.first, rows, side="right")
    before = np.where(numbers[rows] == _UNSEEN, _NO_GAP, numbers[rows])
    details[rows] = np.append(_NO_GAP, before[:-1])[: len(rows)]
    details[rows[np.append(True, np.diff(text_of) > 0)[: len(rows)]]] = _NO_GAP
    return details


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of keys, which are ascending; 0 for keys that there are not."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
