"""The nats of words under several models on one text, and their sums over parts of the words."""

import functools
import hashlib
import itertools
from collections.abc import Sequence

import numpy as np

from lm_jax.errors import UserError
from lm_jax.evaluation.base import Evaluation
from lm_jax.evaluation.surprisals import of_words
from lm_jax.evaluation.word_parts import Division, DocumentWords
from lm_jax.language_models.base import ScoredText
from lm_jax.text.words import word_spans

_MOST_GROUPS = 2000  # of documents, which a bootstrap draws


def scored_together(evaluations: Sequence[Evaluation]) -> list[Sequence[ScoredText]]:
    """What each model gave to each document.

    Raises:
        UserError: a model that does not score texts, or models that were scored on different texts.
    """
    scored: list[Sequence[ScoredText]] = []
    for one in evaluations:
        if one.scored is None:
            raise UserError(f"{one.row.model} gives words no probability", "compare models that score texts")
        same_text = one.row.text_sha256 == evaluations[0].row.text_sha256
        if not same_text or len(one.scored) != len((scored or [one.scored])[0]):
            raise UserError(f"{one.row.model} was scored on another text", "score all models on one --text")
        scored.append(one.scored)
    return scored


def word_nats(scored: ScoredText, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nats of each word and its bytes, float64 [W + 1], and whether it is unknown, bool [W + 1].

    The last is what follows the words. They are not corrected for leading spaces, which would need the
    model's whole distributions: see `surprisals.of_words`.

    Args:
        scored: the text's tokens.
        spans: int64 [W, 2], the bytes of the words.
    """
    made = of_words(scored._replace(log_probs=scored.byte_log_probs), spans)
    return made.nats, made.num_unknown > 0


class WordSums:
    """Sums over the words of parts of a text, by group of documents.

    P columns stand for the parts of all divisions, one division after the other; G groups are documents, or
    neighbouring documents where there are more than 2,000.

    Attributes:
        divisions: the ways in which words are divided.
        columns: the columns of each.
        nats_MGP: float64, of each model.
        words_GP: float64, the number of words.
        bytes_GP: float64, the number of their bytes, with the white space before them.
        end_nats_M: float64, of what follows the words of documents.
        complete_M: bool, whether each model scored every byte.
    """

    def __init__(self, divisions: Sequence[Division], num_models: int, num_documents: int):
        self.divisions, self.num_documents = divisions, num_documents
        self._size = max(1, -(-num_documents // _MOST_GROUPS))  # documents in a group
        num_groups = -(-num_documents // self._size)
        edges = np.cumsum([0, *(len(one.parts) for one in divisions)]).tolist()
        self.columns = [slice(first, last) for first, last in itertools.pairwise(edges)]
        self.nats_MGP = np.zeros((num_models, num_groups, edges[-1]))
        self.words_GP, self.bytes_GP = np.zeros((2, num_groups, edges[-1]))
        self.end_nats_M = np.zeros(num_models)
        self.complete_M = np.full(num_models, True)
        self._unknown_M = [hashlib.sha256() for _ in range(num_models)]
        self._done = 0

    def add(self, scored: Sequence[ScoredText]) -> None:
        """Adds the next document, as each model scored it."""
        spans = word_spans(scored[0].text)
        nats_M, unknown_M = zip(*(word_nats(one, spans) for one in scored), strict=True)
        words = DocumentWords(scored[0].text, np.stack(unknown_M)[:, :-1])
        group = self._done // self._size
        for division, columns in zip(self.divisions, self.columns, strict=True):
            total = functools.partial(np.bincount, division.part_of(words), minlength=len(division.parts))
            self.words_GP[group, columns] += total()
            self.bytes_GP[group, columns] += total(words.num_bytes)
            for nats_GP, nats in zip(self.nats_MGP, nats_M, strict=True):
                nats_GP[group, columns] += total(nats[:-1])
        self.end_nats_M += [nats[-1] for nats in nats_M]
        self.complete_M &= [one.complete for one in scored]
        for digest, mask in zip(self._unknown_M, words.unknown_MW, strict=True):
            digest.update(np.packbits(mask).tobytes())
        self._done += 1

    def same_vocabulary(self, model: int) -> list[int]:
        """The models to which the same words are unknown as to a model."""
        digests = [digest.digest() for digest in self._unknown_M]
        return [other for other, digest in enumerate(digests) if digest == digests[model]]
