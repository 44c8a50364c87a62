"""Removes rare n-grams."""

from __future__ import annotations

import numpy as np

from lm_jax.errors import UserError
from lm_jax.ngram.counts import NGramCounts
from lm_jax.ngram.trie import Trie
from lm_jax.ngram.vocabulary import SPECIALS, Vocabulary


def kept(counts: NGramCounts, thresholds: tuple[int, ...]) -> list[np.ndarray] | None:
    """By order, which n-grams occur more often than their order's threshold; None where all do.

    The special words are always kept. The last threshold applies to all higher orders.

    Raises:
        UserError: there are too many thresholds, or one is below the one before it.
    """
    if not any(thresholds):
        return None
    if len(thresholds) > counts.order:
        raise UserError(
            f"{len(thresholds)} pruning thresholds for a model of order {counts.order}",
            "give at most one per order",
        )
    if min(thresholds) < 0 or list(thresholds) != sorted(thresholds):
        raise UserError(
            f"pruning thresholds {thresholds} fall from one order to the next",
            "give thresholds that do not decrease: the parts of a kept n-gram are needed",
        )
    thresholds += (thresholds[-1],) * (counts.order - len(thresholds))
    keep = [values > threshold for values, threshold in zip(counts.counts, thresholds, strict=True)]
    keep[0] = keep[0] | (np.arange(len(keep[0])) < len(SPECIALS)) if thresholds[0] else np.ones_like(keep[0])
    return keep


def prune(
    vocabulary: Vocabulary, trie: Trie, values: list[list[np.ndarray]], keep: list[np.ndarray]
) -> tuple[Vocabulary, Trie, list[list[np.ndarray]]]:
    """Keeps some n-grams; the prefix and the suffix of each must be kept too.

    Args:
        vocabulary: the words by id; those that are not kept are removed, and the others get new ids.
        trie: the n-grams.
        values: lists of arrays by order, with one value per n-gram.
        keep: by order, which n-grams to keep.
    """
    new_ids = (np.cumsum(keep[0]) - 1).astype(np.int32)
    first_child = []
    for above, below, starts in zip(keep[:-1], keep[1:], trie.first_child, strict=True):
        kept_before = np.append(
            np.int32(0), np.cumsum(below, dtype=np.int32)
        )  # the kept ones before each child
        first_child.append(np.append(kept_before[starts[:-1][above]], kept_before[-1]).astype(np.int32))
    words = [new_ids[level[chosen]] for level, chosen in zip(trie.words, keep, strict=True)]
    if not keep[0].all():
        vocabulary = Vocabulary(vocabulary.words[i] for i in np.flatnonzero(keep[0]))
    chosen_values = [[level[chosen] for level, chosen in zip(some, keep, strict=False)] for some in values]
    return vocabulary, Trie(words, first_child), chosen_values
