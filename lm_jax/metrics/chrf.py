"""chrF, an F score of n-grams of characters (Popović 2015), and chrF++, with words too (Popović 2017).

As in sacrebleu: white space does not count, precision and recall are averaged over the orders that both texts
have, and of several references the one with the best score of the sentence counts. Scores lie in [0, 1].
"""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.batch import Array
from lm_jax.errors import UserError
from lm_jax.metrics import overlap, text
from lm_jax.metrics.host import library, whole
from lm_jax.metrics.matching import are_ngrams
from lm_jax.metrics.profiles import SACREBLEU_SCALE, Profile, get_profile
from lm_jax.metrics.ragged import bucketed

_PUNCTUATION = set(string.punctuation)
CHARACTERS, BETA = 6, 2.0  # the orders of characters, and the weight of recall, of both papers


class ChrfStatistics(NamedTuple):
    """The counts that chrF is computed from, [..., N] for N orders; a corpus's are sums over its sentences.

    Attributes:
        matches: n-grams of the hypothesis found in the reference, each at most as often as there.
        hypothesis: n-grams of the hypothesis, of the orders that the reference has.
        reference: n-grams of the reference.
    """

    matches: Array
    hypothesis: Array
    reference: Array


def chrf(matches: Array, hypothesis: Array, reference: Array, *, beta: float = BETA) -> Any:
    """F_β of precision and recall, each the mean over the orders, from `ChrfStatistics` [..., N]: [...]."""
    xp, (matches, hypothesis, reference) = (
        library(matches, hypothesis, reference),
        ((1.0 * x) for x in (matches, hypothesis, reference)),
    )
    both = (hypothesis > 0) & (reference > 0)
    orders = xp.maximum(both.sum(axis=-1), 1)
    precision = xp.where(both, matches / xp.maximum(hypothesis, 1), 0).sum(axis=-1) / orders
    recall = xp.where(both, matches / xp.maximum(reference, 1), 0).sum(axis=-1) / orders
    total = beta**2 * precision + recall
    return xp.where(total > 0, (1 + beta**2) * precision * recall / xp.where(total > 0, total, 1), 0)[()]


def chrf_statistics(
    hypotheses: Sequence[str],
    references: text.References,
    *,
    characters: int = CHARACTERS,
    words: int = 0,
    beta: float = BETA,
) -> ChrfStatistics:
    """The counts of each sentence with its best reference, arrays [D, N].

    Args:
        hypotheses: one text for each example.
        references: one reference, or a list of them, for each example.
        characters: the largest order of n-grams of characters.
        words: that of words; 2 in chrF++.
        beta: for the choice of the best reference.
    """
    characters, words = whole(characters, "characters", 1), whole(words, "words", 0)
    hypothesis_list, reference_lists = text.as_lists(hypotheses, references)
    counts = np.array([len(texts) for texts in reference_lists])
    hypothesis_of_pair = np.repeat(np.arange(len(hypothesis_list)), counts)
    reference_list = [one for texts in reference_lists for one in texts]
    rows = (hypothesis_of_pair, len(hypothesis_list) + np.arange(len(reference_list)))
    parts = []
    for profile, orders in ((get_profile("sacrebleu-char"), characters), (_WORDS, words)):
        if orders:
            encoded = text.encode_texts(hypothesis_list + reference_list, profile)
            count = functools.partial(_count, orders=orders)
            parts.append(bucketed(count, [(encoded, r) for r in rows]))
    pairs = ChrfStatistics(*(np.concatenate(arrays, axis=-1) for arrays in zip(*parts)))
    scores, firsts = np.asarray(chrf(*pairs, beta=beta)), np.cumsum(counts) - counts
    best = [first + int(np.argmax(scores[first : first + n])) for first, n in zip(firsts, counts)]
    return ChrfStatistics(*(np.asarray(x)[best] for x in pairs))


def corpus_chrf(
    hypotheses: Sequence[str],
    references: text.References,
    *,
    characters: int = CHARACTERS,
    words: int = 0,
    beta: float = BETA,
) -> text.Score:
    """chrF of a corpus, in [0, 1], with its signature. The arguments are those of `chrf_statistics`."""
    if not beta > 0:
        raise UserError(f"beta={beta}", "give a number above 0")
    made = chrf_statistics(hypotheses, references, characters=characters, words=words, beta=beta)
    value = float(chrf(*(np.asarray(x).sum(axis=0, dtype=float) for x in made), beta=beta))
    counts = {1 if isinstance(r, str) else len(r) for r in references}
    settings = signature(counts.pop() if len(counts) == 1 else "var", characters, words, beta)
    return text.Score(value, settings, SACREBLEU_SCALE)


def signature(
    num_references: int | str, characters: int = CHARACTERS, words: int = 0, beta: float = BETA
) -> str:
    """The settings of a score, in the form of sacrebleu's signature."""
    extra = f"|beta:{beta:g}" if beta != BETA else ""
    return f"nrefs:{num_references}|case:mixed|eff:yes|nc:{characters}|nw:{words}|space:no{extra}|by:lm_jax"


@functools.partial(jax.jit, static_argnames="orders")
def _count(hypotheses_BT: jax.Array, references_BS: jax.Array, orders: int) -> ChrfStatistics:
    made = overlap.bleu_statistics(hypotheses_BT, references_BS, max_order=orders)
    reference_BN = jnp.stack(
        [are_ngrams(references_BS, n).sum(axis=-1) for n in range(1, orders + 1)], axis=-1
    )
    return ChrfStatistics(made.matches, jnp.where(reference_BN > 0, made.totals, 0), reference_BN)


def _words(line: str) -> list[str]:
    """Words, from which one mark of punctuation at the end, or else at the beginning, is separated."""
    found: list[str] = []
    for word in line.split():
        if len(word) > 1 and word[-1] in _PUNCTUATION:
            found += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in _PUNCTUATION:
            found += [word[0], word[1:]]
        else:
            found.append(word)
    return found


_WORDS = Profile("chrf-words", "words", _words)
