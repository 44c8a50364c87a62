"""ARPA files, the text format that every n-gram toolkit reads and writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lm_jax.ngram import decimals
from lm_jax.ngram.arpa_closure import Section, close
from lm_jax.ngram.arpa_lines import Lines, read_sizes
from lm_jax.ngram.arpa_writer import write
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.query import UNSEEN, Index
from lm_jax.ngram.trie import Trie
from lm_jax.ngram.vocabulary import BOS, EOS, SPECIALS, UNK, UNK_SPELLINGS, Progress, Vocabulary
from lm_jax.text.word_table import NEWLINE, Words, WordTable, split

__all__ = ["read", "write"]
_ROWS = 1 << 15  # n-grams looked up at a time
_MISSING_UNK = -100.0  # log10 p(<unk>) where the file has none, as in KenLM

Find = Callable[[Words], np.ndarray]


def read(
    path: str | os.PathLike, progress: Progress | None = None, *, bos: bool = True, eos: bool = True
) -> NGramModel:
    """Reads an ARPA file, which gzip, bzip2, xz or Zstandard may have compressed, whatever its name.

    Words get ids in the order of the file, after the three special ones. The unknown word may be written
    `<unk>` or `<UNK>`, as in KenLM; if the file has neither, unknown words get the probability 10^-100. A
    prefix or suffix of an n-gram that the file lacks, as after entropy pruning, is added with its back-off
    probability. Text before `\\data\\`, blank lines, and orders without n-grams that the header announces
    and the file leaves out are accepted.

    Args:
        path: the file.
        progress: called with (description, done, total).
        bos: whether the file must have `<s>`. Without it, the model gives `<s>` no probability.
        eos: whether the file must have `</s>`. Without it, the model gives `</s>` the probability 0.

    Raises:
        UserError: the file cannot be read, or a line is malformed; the message names the line.
    """
    with Lines(path) as lines:
        sizes = read_sizes(lines)
        names, unigrams = _read_unigrams(lines, sizes[0], {BOS: bos, EOS: eos})
        find = _finder(names)
        sections = [unigrams]
        for n, size in enumerate(sizes[1:], 2):
            sections.append(_read_section(lines, n, size, find))
            if progress:
                progress(f"reading {n}-grams", sum(sizes[:n]), sum(sizes))
        if np.any(sections[-1].log10_backoffs):
            row = int(np.argmax(sections[-1].log10_backoffs != 0))
            lines.fail("a back-off after an n-gram of the highest order", sections[-1].line_of(row))
        lines.expect("\\end\\")
        levels = _build(lines, sections) or _build(lines, close(sections))
    assert levels is not None  # closed sections have all prefixes and suffixes
    trie, log10_probs, log10_backoffs = levels
    return NGramModel(Vocabulary([*SPECIALS, *names[3:]]), trie, log10_probs, log10_backoffs[:-1])


def _finder(names: list[bytes]) -> Find:
    """Finds words among the 1-grams; the unknown word in any spelling."""
    table = WordTable({word: i for i, word in enumerate(names)})

    def find(words: Words) -> np.ndarray:
        ids = table.find(words)
        missing = np.flatnonzero(ids < 0)
        if len(missing):
            unknown = [word in UNK_SPELLINGS for word in words.select(missing).tolist()]
            ids[missing[unknown]] = UNK
        return ids

    return find


class _Rows(NamedTuple):
    """Successive n-grams of one order.

    Attributes:
        words: int32 ids [m, n].
        log10_probs: float32 [m].
        log10_backoffs: float32 [m].
        blank: the numbers of the blank lines between them.
    """

    words: np.ndarray
    log10_probs: np.ndarray
    log10_backoffs: np.ndarray
    blank: np.ndarray


def _read_section(lines: Lines, n: int, size: int, find: Find) -> Section:
    """Reads the n-grams of one order."""
    header = f"\\{n}-grams:"
    if size or lines.peek() == header:  # some toolkits leave an order without n-grams out
        lines.expect(header)
    start, got, num_blank = lines.number + 1, 0, 0
    no_numbers = np.zeros(0, np.float32)
    parts = [_Rows(np.zeros((0, n), np.int32), no_numbers, no_numbers, np.zeros(0, np.int64))]
    while got < size:
        line, text = lines.number + 1, lines.take(size - got)
        if not text:
            lines.fail(f"the file ends after {got} of {size} {n}-grams")
        parts.append(_parse(lines, text, n, line, find))
        got += len(parts[-1].log10_probs)
        num_blank += len(parts[-1].blank)
        if num_blank > size + 1000:
            lines.fail(f"more blank lines than {n}-grams")
    rows = _Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return Section(*rows, start)


def _parse(lines: Lines, text: bytes, n: int, line: int, find: Find) -> _Rows:
    """The n-grams in lines from number `line` on."""
    fields = split(text)
    is_end = (fields.sizes == 1) & (np.frombuffer(fields.text, np.uint8)[fields.starts] == NEWLINE[0])
    ends = np.flatnonzero(is_end)
    begins = np.concatenate([[0], ends[:-1] + 1])
    rows = np.flatnonzero(ends > begins)  # the lines that are not blank
    blank = line + np.flatnonzero(ends == begins)
    begins, ends = begins.take(rows), ends.take(rows)
    has_backoff = ends - begins == n + 2

    def refuse(wrong: np.ndarray | np.bool_, cause: str) -> None:
        if wrong.any():
            row = int(rows[np.argmax(wrong)])
            found = text.split(b"\n", row + 1)[row].decode(errors="replace")
            if found.startswith("\\"):
                cause = f"fewer {n}-grams than the header announces: expected one more, found"
            lines.fail(f"{cause} {found[:80]!r}", line + row)

    refuse(
        (ends - begins != n + 1) & ~has_backoff,
        f"expected a probability, {n} words and optionally a back-off in",
    )
    probs, wrong = decimals.parse(fields.select(begins))
    refuse(wrong, "the probability is not a number in")
    refuse(probs > 0, "the log probability is above 0 in")
    backoffs = np.zeros(len(begins), np.float32)
    wrong = np.zeros(len(begins), np.bool_)
    backoffs[has_backoff], wrong[has_backoff] = decimals.parse(fields.select(begins[has_backoff] + n + 1))
    refuse(np.logical_or(wrong, np.isinf(backoffs)), "the back-off is not a number in")
    ids = find(fields.select((begins[:, None] + np.arange(1, n + 1)).ravel())).reshape(-1, n)
    refuse((ids < 0).any(axis=1), "a word that is not among the 1-grams in")
    return _Rows(ids, probs, backoffs, blank)


def _read_unigrams(lines: Lines, size: int, required: dict[int, bool]) -> tuple[list[bytes], Section]:
    """The words as the file spells them, the special ones first, and the unigrams in this order.

    Args:
        lines: the file.
        size: the number of unigrams.
        required: whether the file must have `<s>` and `</s>`, by their ids.
    """
    names: list[bytes] = []

    def name(words: Words) -> np.ndarray:
        names.extend(words.tolist())
        return np.arange(len(names) - len(words.starts), len(names), dtype=np.int32)

    section = _read_section(lines, 1, size, name)
    place = {word: i for i, word in enumerate(names)}
    for i, word in enumerate(names):
        if place[word] != i:
            lines.fail(
                f"{word.decode(errors='replace')!r} is twice among the 1-grams", section.line_of(place[word])
            )
    spellings = [word for word in UNK_SPELLINGS if word in place]
    if len(spellings) > 1:
        both = " and ".join(word.decode() for word in spellings)
        last = max(place[word] for word in spellings)
        lines.fail(f"{both} are both among the 1-grams, and both are the unknown word", section.line_of(last))
    special = [spellings[0] if spellings else SPECIALS[UNK], *SPECIALS[1:]]
    for word_id, flag in ((BOS, "bos"), (EOS, "eos")):
        if required[word_id] and special[word_id] not in place:
            lines.fail(
                f"{special[word_id].decode()} is not among the 1-grams",
                remedy=f"to score without it, give --no-{flag} to eval.py, or {flag}=False to lm_jax.load",
            )
    absent = np.array([_MISSING_UNK, -np.inf, -np.inf], np.float32)  # probabilities of the special words
    order = [place.get(word, len(names) + i) for i, word in enumerate(special)]
    order += [i for i, word in enumerate(names) if word not in special]
    probs = np.append(section.log10_probs, absent)[order]
    backoffs = np.append(section.log10_backoffs, np.zeros_like(absent))[order]
    words = np.arange(len(order), dtype=np.int32)[:, None]
    return [*special, *(names[i] for i in order[3:])], section._replace(
        words=words, log10_probs=probs, log10_backoffs=backoffs
    )


def _build(lines: Lines, sections: list[Section]) -> tuple[Trie, list[np.ndarray], list[np.ndarray]] | None:
    """The trie, log10 probabilities and log10 back-offs; None if an n-gram's prefix or suffix is missing."""
    trie = Trie([sections[0].words[:, 0]], [])
    log10_probs, log10_backoffs = [sections[0].log10_probs], [sections[0].log10_backoffs]
    indices: list[Index] = []
    for n, section in enumerate(sections[1:], 2):
        contexts = _find_all(indices, section.words[:, :-1])
        if UNSEEN in contexts or UNSEEN in _find_all(indices, section.words[:, 1:]):
            return None
        keys = (contexts.astype(np.int64) << 32) | section.words[:, -1]
        order = np.argsort(keys, kind="stable")
        if len(twice := np.flatnonzero(np.diff(keys[order]) == 0)):
            lines.fail(f"the {n}-gram occurs twice", section.line_of(int(order[twice + 1].min())))
        starts = np.zeros(len(trie.words[-1]) + 1, np.int32)
        np.cumsum(np.bincount(contexts, minlength=len(starts) - 1), out=starts[1:])
        trie.words.append(np.ascontiguousarray(section.words[order, -1]))
        trie.first_child.append(starts)
        log10_probs.append(section.log10_probs[order])
        log10_backoffs.append(section.log10_backoffs[order])
        indices.append(Index(trie.words[-1], starts))
    return trie, log10_probs, log10_backoffs


def _find_all(indices: list[Index], rows: np.ndarray) -> np.ndarray:
    """int32 ids of n-grams given as rows of word ids; UNSEEN for those that are not in the model."""
    ids = np.empty(len(rows), np.int32)
    for low in range(0, len(rows), _ROWS):
        piece = rows[low : low + _ROWS]
        found = piece[:, 0]
        for index, words in zip(indices, piece.T[1:], strict=False):
            found = index.find(found, words)
        ids[low : low + _ROWS] = found
    return ids
