"""Ways to divide the words of a text into parts: rare and frequent ones, short and long ones, and others."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lm_jax.text.word_table import Words, WordTable, split_words

_MOST_POWERS = 40  # of two, where ranges begin; those without words are left out
_FIRST_RANGE = 16  # bytes: where the second range of positions begins
_LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 17, 25)  # characters: where a range begins
_RECENT = (1, 8, 64, 512, 4096)  # words back
_KINDS = ("letters", "letters and punctuation", "with digits", "punctuation")
_LETTER, _DIGIT = (np.zeros(256, bool) for _ in range(2))
_LETTER[[*b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", *range(128, 256)]] = True
_DIGIT[[*b"0123456789"]] = True


class DocumentWords:
    """The words of one document.

    Attributes:
        words: the words, W of them.
        spans: int64 [W, 2], the bytes of each in the document's UTF-8.
        num_bytes: int64 [W], its bytes with the white space before it.
        unknown_MW: bool, whether a token of the word is outside the vocabulary of each model.
    """

    def __init__(self, data: bytes, unknown_MW: np.ndarray | None = None):
        self.words: Words = split_words(data)
        starts, ends = self.words.starts, self.words.starts + self.words.sizes
        self.spans = np.stack([starts, ends], axis=1)
        self.num_bytes = np.diff(ends, prepend=0)
        self.unknown_MW = np.zeros((0, len(starts)), bool) if unknown_MW is None else unknown_MW

    def __len__(self) -> int:
        return len(self.spans)

    def count(self, is_counted: np.ndarray) -> np.ndarray:
        """int64 [W], how many of each word's bytes are marked in a table, bool [256]."""
        marks = is_counted[np.frombuffer(self.words.text, np.uint8)]
        return np.add.reduceat(marks, self.spans.reshape(-1), dtype=np.int64)[::2]

    def since_last(self) -> np.ndarray:
        """int64 [W], how many words back the same word occurred last; 0 for its first occurrence."""
        ids = WordTable({}).find_or_add(self.words)
        order = np.argsort(ids, kind="stable")
        is_same = np.append(False, ids[order][1:] == ids[order][:-1])
        back = np.zeros(len(ids), np.int64)
        back[order] = np.where(is_same, np.diff(order, prepend=0), 0)
        return back


class Division(NamedTuple):
    """A way to divide words into parts.

    Attributes:
        title: what the parts differ in.
        about: how they were made.
        parts: their names.
        part_of: the part of each word of a document, int [W].
        ordered: whether the parts are ranges of a quantity; those without words at either end are left out.
        per_byte: whether the parts are compared by bits per byte too, and not only by bits per word.
        model: the place of the model by whose vocabulary the words are divided; None: by none.
    """

    title: str
    about: str
    parts: tuple[str, ...]
    part_of: Callable[[DocumentWords], np.ndarray]
    ordered: bool = True
    per_byte: bool = False
    model: int | None = None


def ranges(firsts: Sequence[int]) -> tuple[str, ...]:
    """Names of ranges of whole numbers by their first ones; the last range has no end."""
    lasts = [following - 1 for following in firsts[1:]]
    named = [f"{a:,}" if a == b else f"{a:,}–{b:,}" for a, b in zip(firsts, lasts)]
    return (*named, f"{firsts[-1]:,}–")


def by_frequency(count: Callable[[Words], np.ndarray], where: str) -> Division:
    """By how often a word occurs in a text.

    Args:
        count: gives it for words.
        where: the text.
    """
    edges = [0, *(4**k for k in range(_MOST_POWERS // 2))]

    def part_of(one: DocumentWords) -> np.ndarray:
        return np.searchsorted(edges, count(one.words), side="right") - 1

    return Division(
        f"word frequency in {where}", "by how often the word occurs there", ranges(edges), part_of
    )


def by_seen(count: Callable[[Words], np.ndarray], where: str) -> Division:
    """By whether a word occurs in a text; arguments as of `by_frequency`."""
    return Division(
        f"words of {where}",
        "by whether the word occurs there",
        ("seen", "unseen"),
        lambda one: (count(one.words) == 0).astype(int),
        ordered=False,
    )


def by_position() -> Division:
    """By the place of a word in its document."""
    edges = [0, *(_FIRST_RANGE << k for k in range(_MOST_POWERS))]

    def part_of(one: DocumentWords) -> np.ndarray:
        return np.searchsorted(edges, one.spans[:, 0], side="right") - 1

    about = "by the byte of the document at which the word begins"
    return Division("position in the document", about, ranges(edges), part_of, per_byte=True)


def by_length() -> Division:
    """By the number of characters of a word."""
    begins = np.arange(256) & 0xC0 != 0x80

    def part_of(one: DocumentWords) -> np.ndarray:
        # A document of a broken encoding may have a word without the first byte of any character.
        return np.searchsorted(_LENGTHS, np.maximum(one.count(begins), 1), side="right") - 1

    about = "by the number of characters of the word"
    return Division("word length", about, ranges(_LENGTHS), part_of, per_byte=True)


def by_kind() -> Division:
    """By the characters that a word consists of."""

    def part_of(one: DocumentWords) -> np.ndarray:
        letters, digits = one.count(_LETTER), one.count(_DIGIT)
        without = np.select([letters == one.words.sizes, letters > 0], [0, 1], 3)
        return np.where(digits > 0, 2, without)

    about = "by the characters of the word; all that are not ASCII count as letters"
    return Division("kind of word", about, _KINDS, part_of, ordered=False, per_byte=True)


def by_recency() -> Division:
    """By how many words back a word occurred last in its document."""

    def part_of(one: DocumentWords) -> np.ndarray:
        return np.searchsorted(_RECENT, one.since_last(), side="right")

    names = ("first occurrence", *(f"{name} words back" for name in ranges(_RECENT)))
    about = "by how many words back the same word occurred last in the document"
    return Division("repetition in the document", about, names, part_of, ordered=False)


def by_vocabulary(model: int) -> Division:
    """By whether a model's vocabulary has a word."""
    return Division(
        "vocabulary",
        "of which a token stands for any text outside the vocabulary are unknown. Unless their spelling is "
        "scored, they have the bits of all such words together",
        ("known", "unknown"),
        lambda one: one.unknown_MW[model].astype(int),
        ordered=False,
        model=model,
    )
