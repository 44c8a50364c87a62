"""The check of models that do not tell their next tokens: words that exclude each other share at most one.

It bounds their sum from above only: that of all strings cannot be taken.
"""

import collections
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm_jax.audit.distributions import OF_SUMS
from lm_jax.audit.largest import Largest
from lm_jax.audit.samples import Passage
from lm_jax.data.documents import Document
from lm_jax.evaluation.audited import Check
from lm_jax.language_models.base import ScoredText
from lm_jax.text.words import WORD

_WORDS = 256  # the most frequent ones of the documents
_HISTORY = 100  # characters
_SUFFIX = " a"  # so that no word is at the end of the text


class Words(NamedTuple):
    """Words behind a history.

    Attributes:
        passage: which begins with the history.
        history: the text.
        texts: the history with each word, and a suffix.
    """

    passage: Passage
    history: str
    texts: list[str]


def continue_by_words(
    documents: Sequence[Document], passages: Sequence[Passage], num_histories: int
) -> list[Words]:
    """Beginnings of passages with each of the most frequent words of the passages' documents behind them."""
    counts: collections.Counter[str] = collections.Counter()
    for number in sorted({passage.document for passage in passages}):
        counts.update(WORD.findall(documents[number].text))
    words = [word for word, _ in counts.most_common(_WORDS)]
    made = []
    for passage in passages[:num_histories]:
        history = passage.text[:_HISTORY].rpartition(" ")[0] or passage.text[:_HISTORY].rstrip()
        made.append(Words(passage, history, [f"{history} {word}{_SUFFIX}" for word in words]))
    return made


def at_most_one(asked: Sequence[Words], scored: Sequence[Sequence[ScoredText]]) -> Check:
    """Whether the words that may follow a history have at most probability one together.

    Of words whose tokens begin with all tokens of another one, the shorter one counts, and unknown words do
    not unless their bytes have a probability: what is summed are probabilities of events of which only one
    can happen.

    Args:
        asked: what `continue_by_words` gave.
        scored: the scores of the texts of each.
    """
    sums, most, num_words = Largest(), 0.0, 0
    for (passage, history, _), of_words in zip(asked, scored, strict=True):
        probs = list(_exclusive(of_words, len(history.encode()), len(_SUFFIX)))
        total = float(np.sum(probs))
        most, num_words = max(most, total), num_words + len(probs)
        excess = max(0.0, total - 1) if np.isfinite(total) else np.inf
        sums.add_one(excess, passage.place(len(history.encode())))
    what = (
        f"{num_words} words after {len(asked)} histories have at most probability {most:.4f} together, a "
        "bound from above: the probabilities of all strings cannot be added up"
    )
    return sums.check("normalised", OF_SUMS, what)


def _exclusive(scored: Sequence[ScoredText], start: int, behind: int) -> Iterator[float]:
    """The probabilities of words that stand from a byte on up to some bytes before the end of each text."""
    found: dict[tuple[bytes, ...], float] = {}
    for one in scored:
        end = len(one.text) - behind
        within = (one.spans[:, 0] >= start) & (one.spans[:, 1] <= end) & (one.spans[:, 1] > start)
        crosses = (one.spans[:, 0] < end) & (one.spans[:, 1] > start) & ~within
        if crosses.any() or not within.any() or (one.unknown[within].any() and one.log_spelling is None):
            continue
        tokens = tuple(token for token, inside in zip(one.tokens, within) if inside)
        found[tokens] = float(np.exp(one.byte_log_probs[within].sum()))
    for tokens, prob in found.items():
        if not any(tokens[:n] in found for n in range(1, len(tokens))):
            yield prob
