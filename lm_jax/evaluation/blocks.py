"""What intervals and tests of a text resample: its documents, or blocks of them where there are few.

The surprisals of neighbouring tokens depend on each other, so that resampling tokens would give too narrow
intervals. Blocks of many tokens depend on each other the less, the longer they are. Batch means in the
analysis of simulations have the same problem, and about 30 batches solve it (Schmeiser 1982): more of them
narrow the interval by a few percent at most and make the batches shorter. So a text has at most 30 blocks,
whatever its length.

Blocks depend on the text alone, and are the same for all models: they end at ends of lines, or of words where
there is no line's end near.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm_jax.evaluation.row import DOCUMENTS
from lm_jax.language_models.base import ScoredText
from lm_jax.text.words import IS_SPACE

FEW = 10  # documents; fewer give intervals that are too narrow, see benchmarks/coverage.py
_MOST = 30  # blocks
_SHORTEST = 500  # bytes
_NEAR = 0.25  # of a block's length: how far from equal lengths a block may end, to end with a line
_NEWLINE = ord("\n")


class Units(NamedTuple):
    """What intervals and tests resample.

    Attributes:
        parts: the documents or blocks, each with its bytes and tokens.
        name: "documents", or how many blocks there are and how long.
        why: why there are no more than one; "" where there are.
        note: what makes intervals over these blocks doubtful; "" where nothing does.
    """

    parts: Sequence[ScoredText]
    name: str = DOCUMENTS
    why: str = ""
    note: str = ""


def units(scored: Sequence[ScoredText]) -> Units:
    """The documents that were scored; where they are few, their blocks if there are enough of these."""
    if len(scored) >= FEW:
        return Units(scored)
    total = sum(len(one.text) for one in scored)
    length = max(_SHORTEST, -(-total // _MOST))
    cuts = [cut(one.text, length) for one in scored]
    number = sum(len(one) - 1 for one in cuts)
    if number < FEW:
        why = f"no interval: the text is one document, too short for {FEW} blocks of {_SHORTEST} bytes"
        return Units(scored, why=why if len(scored) == 1 else "")
    parts = [part for one, at in zip(scored, cuts, strict=True) for part in split(one, at)]
    name = f"{number} blocks of about {total // number:,} bytes"
    return Units(parts, name, note=_note(parts))


def cut(text: bytes, length: int) -> np.ndarray:
    """Where the blocks of a document begin, and the end of the last one: int64 [B + 1], with B ≥ 1.

    Blocks have about equal lengths. Each but the last ends after the line's end that is nearest to equal
    lengths, or else after the nearest end of a word, before the white space. A word is never cut, so that
    there are fewer blocks where there is no white space.

    Args:
        text: UTF-8.
        length: bytes of a block.
    """
    number = max(1, round(len(text) / length))
    wanted = len(text) / number * np.arange(1, number)
    data = np.frombuffer(text, np.uint8)
    is_space = IS_SPACE[data]
    words = np.flatnonzero(~is_space[:-1] & is_space[1:]) + 1
    chosen = _nearest(words, wanted)
    lines = _nearest(np.flatnonzero(data == _NEWLINE) + 1, wanted)
    chosen = np.where(np.abs(lines - wanted) <= _NEAR * len(text) / number, lines, chosen)
    inside = chosen[(chosen > 0) & (chosen < len(text))].astype(np.int64)
    return np.unique(np.concatenate([[0], inside, [len(text)]])) if len(text) else np.array([0, 0])


def _nearest(places: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The place that is nearest to each wanted one, float64; -inf where there is none."""
    if not len(places):
        return np.full(len(wanted), -np.inf)
    after = np.searchsorted(places, wanted).clip(1, max(1, len(places) - 1))
    both = np.stack([places[after - 1], places[np.minimum(after, len(places) - 1)]]).astype(float)
    return np.where(np.abs(both[0] - wanted) <= np.abs(both[1] - wanted), both[0], both[1])


def split(scored: ScoredText, cuts: np.ndarray) -> Iterator[ScoredText]:
    """The blocks of a document. A token belongs to the block in which it ends; the end to the last one.

    Args:
        scored: the document.
        cuts: where its blocks begin, and the end of the last one, int64 [B + 1].
    """
    block_T = np.searchsorted(cuts[1:], scored.spans[:, 1]).clip(max=len(cuts) - 2)
    for block, (start, end) in enumerate(zip(cuts[:-1].tolist(), cuts[1:].tolist())):
        of_block = block_T == block
        spelling = scored.log_spelling
        yield scored._replace(
            text=scored.text[start:end],
            spans=scored.spans[of_block] - start,
            log_probs=scored.log_probs[of_block],
            unknown=scored.unknown[of_block],
            log_spelling=None if spelling is None else spelling[of_block],
        )


def _note(parts: Sequence[ScoredText]) -> str:
    """A warning where neighbouring blocks depend on each other: their lag-1 correlation is significant."""
    nats = np.array([-part.log_probs.sum() for part in parts])
    size = np.array([len(part.text) for part in parts], float)
    if not np.isfinite(nats).all() or not size.all():
        return ""
    residuals = nats - nats.sum() / size.sum() * size
    variance = float(np.square(residuals).sum())
    correlation = float((residuals[1:] * residuals[:-1]).sum()) / variance if variance else 0.0
    if correlation <= 2 / np.sqrt(len(parts)):
        return ""
    alike = f"neighbouring blocks are alike (correlation {correlation:.2f})"
    return f"{alike}: the interval is too narrow"
