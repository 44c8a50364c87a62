"""Spans that tags of words mark, such as the names in a sentence, by the rules of CoNLL's `conlleval`.

A tag is O, outside of spans, or a letter, a hyphen and a type: B-LOC for the first word of a place, I-LOC for
a further one (Tjong Kim Sang and Buchholz 2000). E for the last and S for the only word are also read. A span
begins at B or S, after E or S, and where the type changes or the word before is outside; so it need not begin
with B, as in the form IOB1.
"""

import re
from collections.abc import Iterable, Sequence

_TAG = re.compile(r"[BIES]-.+")


def mark_spans(tags: Iterable[str]) -> bool:
    """Whether tags are of this form, and at least one is not O."""
    others = [tag for tag in set(tags) if tag != "O"]
    return bool(others) and all(map(_TAG.fullmatch, others))


def spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """The spans of a sentence: the first word, the word after the last, and the type."""
    found, start, before, kind = set(), 0, "O", ""
    for place, tag in enumerate([*tags, "O"]):
        letter, _, own = tag.partition("-")
        goes_on = before != "O" and before not in "ES" and letter in ("I", "E") and own == kind
        if before != "O" and not goes_on:
            found.add((start, place, kind))
        if not goes_on:
            start = place
        before, kind = letter, own
    return found
