"""The check of models that do not tell their next tokens: words that exclude each other share at most one.

It bounds their sum from above only: that of all strings cannot be taken.
"""

import collections
from collections.abc import Iterator, Sequence

import numpy as np

from lm_jax.audit.distributions import OF_SUMS
from lm_jax.audit.largest import Largest
from lm_jax.audit.samples import Passage
from lm_jax.data.documents import Document
from lm_jax.evaluation.audited import Check
from lm_jax.language_models.base import ScoredText, Scores
from lm_jax.text.words import WORD

_WORDS = 256  # the most frequent ones of the documents
_HISTORY = 100  # characters
_SUFFIX = " a"  # so that no word is at the end of the text


def at_most_one(
    scorer: Scores,
    documents: Sequence[Document],
    passages: Sequence[Passage],
    num_histories: int,
    stride: int | None,
) -> Check:
    """Whether the words that may follow a history have at most probability one together.

    Each of the most frequent words of the documents is scored behind the beginning of a passage. Of words
    whose tokens begin with all tokens of another one, the shorter one counts, and unknown words do not: what
    is summed are probabilities of events of which only one can happen.

    Args:
        scorer: any model that scores texts.
        documents: where the words are from.
        passages: where the histories are from.
        num_histories: how many.
        stride: as of `score`.
    """
    counts: collections.Counter[str] = collections.Counter()
    for document in documents:
        counts.update(WORD.findall(document.text))
    words = [word for word, _ in counts.most_common(_WORDS)]
    sums, most, num_words = Largest(), 0.0, 0
    for passage in passages[:num_histories]:
        history = passage.text[:_HISTORY].rpartition(" ")[0] or passage.text[:_HISTORY].rstrip()
        scored = scorer.score([f"{history} {word}{_SUFFIX}" for word in words], stride)
        probs = list(_exclusive(scored, len(history.encode()), len(_SUFFIX)))
        total = float(np.sum(probs))
        most, num_words = max(most, total), num_words + len(probs)
        excess = max(0.0, total - 1) if np.isfinite(total) else np.inf
        sums.add_one(excess, passage.place(len(history.encode())))
    what = (
        f"{num_words} words after {sums.compared} histories have at most probability {most:.4f} together "
        "(a bound from above: the model does not tell the probabilities of all next tokens)"
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
