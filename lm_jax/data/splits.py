"""Choice of the documents, or of the end of a text, that are held out for validation and test."""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.text.words import WORD, count_words

PARTS = ("train", "valid", "test")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)(|chars|words)")
_HOW = (
    "type hash:VALID[,TEST] such as hash:0.05,0.05, or tail:VALID[,TEST] such as tail:0.1 or tail:5000words"
)


class Holdout(NamedTuple):
    """The amounts of text that are held out.

    Attributes:
        kind: hash (documents, by a hash of their names) or tail (the end of the text, the test part last).
        valid: the amount for validation; 0: none. A `Fraction`, so that 0.1 of a text is exactly a tenth.
        test: the amount for the test; 0: none.
        unit: "" for fractions of the text, or chars or words.
    """

    kind: str
    valid: Fraction
    test: Fraction
    unit: str


def parse(split: str) -> Holdout:
    """Reads `hash:VALID[,TEST]` or `tail:VALID[,TEST]`.

    Raises:
        UserError: another form, amounts in different units, or fractions that leave nothing to train on.
    """
    kind, _, rest = split.partition(":")
    matches = [m for text in rest.split(",") if (m := _AMOUNT.fullmatch(text.strip()))]
    amounts = [Fraction(m[1]) for m in matches]
    units = {m[2] for m in matches if Fraction(m[1])} or {""}
    if kind not in ("hash", "tail") or len(matches) != rest.count(",") + 1 or len(matches) > 2:
        raise UserError(f"data.split={split!r} is not a split", _HOW)
    if len(units) > 1:
        raise UserError(f"data.split={split!r} mixes units", "give fractions, chars or words for both parts")
    unit = units.pop()
    if unit and (kind == "hash" or sum(amounts).denominator > 1):
        raise UserError(f"data.split={split!r} is not a split", _HOW)
    if not unit and sum(amounts) >= 1:
        raise UserError(f"data.split={split!r} leaves nothing to train on", "hold out less than 1 in all")
    return Holdout(kind, amounts[0], amounts[1] if len(amounts) > 1 else Fraction(0), unit)


def assign(
    holdout: Holdout,
    documents: Iterable[Document],
    whole: bool = False,
    units: Iterable[tuple[str, Document]] | None = None,
) -> Iterator[tuple[str, Document]]:
    """Each document with its part.

    Args:
        holdout: what is held out.
        documents: read twice for a tail.
        whole: a document in which a tail begins belongs to the part before; otherwise it is cut in two.
        units: the same documents, each with the name of its unit: a hash decides by that name, so that a unit
            is in one part. None: each document is its own unit.

    Raises:
        UserError: a tail as long as the text.
    """
    if holdout.kind == "tail":
        return _cut_tail(holdout, documents, whole)
    units = ((document.name, document) for document in documents) if units is None else units
    return ((_part_by_hash(holdout, unit), document) for unit, document in units)


def _part_by_hash(holdout: Holdout, name: str) -> str:
    place = Fraction(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]), 2**64)
    if place < holdout.valid:
        return "valid"
    return "test" if place < holdout.valid + holdout.test else "train"


def _cut_tail(holdout: Holdout, documents: Iterable[Document], whole: bool) -> Iterator[tuple[str, Document]]:
    measure = (lambda text: count_words(text.encode())) if holdout.unit == "words" else len
    total = sum(measure(document.text) for document in documents)
    all_of_it = total if holdout.unit else 1
    left = (all_of_it - holdout.valid - holdout.test, all_of_it - holdout.test)
    starts = [int(amount if holdout.unit else amount * total) for amount in left]
    if starts[0] <= 0:
        unit = holdout.unit or "chars"
        raise UserError(f"data.split leaves none of the text's {total} {unit} to train on", "hold out less")
    position = 0
    for document in documents:
        text = document.text
        size = measure(text)
        if whole:
            yield PARTS[sum(start <= position for start in starts)], document
        else:
            cuts = (_offset(text, start - position, size, holdout.unit) for start in starts)
            for part, (first, last) in zip(PARTS, itertools.pairwise([0, *cuts, len(text)])):
                if first < last:
                    yield part, document._replace(text=text[first:last])
        position += size


def _offset(text: str, start: int, size: int, unit: str) -> int:
    """The offset in a text, of `size` units, of unit number `start`; 0 or the end where it has none."""
    if start <= 0 or start >= size:
        return 0 if start <= 0 else len(text)
    if unit != "words":
        return start
    return next(itertools.islice(WORD.finditer(text), start, None)).start()
