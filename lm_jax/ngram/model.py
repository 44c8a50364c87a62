"""Back-off n-gram models: scores, distributions and files."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.ngram import array_file
from lm_jax.ngram.checks import Checks
from lm_jax.ngram.query import OUTSIDE, UNSEEN, Matcher
from lm_jax.ngram.trie import Trie
from lm_jax.ngram.vocabulary import BOS, Vocabulary

LN_10 = float(np.log(10.0))
_FORMAT = "lm_jax n-gram model 1"


class Scores(NamedTuple):
    """The scores of the words of a stream; all arrays are as long as the stream.

    Attributes:
        log_probs: float64 log p(word | words before it in the sentence), in nats; 0 at `<s>`, which is given.
        matched: int8 order of the longest n-gram that ends at the word and is in the model; 0 at `<s>`.
    """

    log_probs: np.ndarray
    matched: np.ndarray


class NGramModel:
    """A back-off model.

    log p(w | h) is that of the longest n-gram ending in w that is in the model, plus the back-offs of the
    longer histories.

    Attributes:
        vocabulary: the words by id.
        trie: the n-grams.
        log10_probs: by order (index n - 1), float32 log10 p of the last word of each n-gram given the others.
        log10_backoffs: by order but the last, float32 log10 of the factor for p(w | h') where the n-gram h is
            in the model and hw is not; h' is h without its first word.
        log10_unseen: log10 of that factor where h is not in the model.
        normalised: whether the probabilities after every history add up to one.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        trie: Trie,
        log10_probs: list[np.ndarray],
        log10_backoffs: list[np.ndarray],
        *,
        log10_unseen: float = 0.0,
        normalised: bool = True,
    ):
        self.vocabulary = vocabulary
        self.trie = trie
        self.log10_probs = log10_probs
        self.log10_backoffs = log10_backoffs
        self.log10_unseen = log10_unseen
        self.normalised = normalised
        self._matcher = Matcher(trie)

    @property
    def order(self) -> int:
        """The number of words in the longest n-grams."""
        return self.trie.order

    def score(self, stream: np.ndarray, bos: bool = True) -> Scores:
        """Scores every word of a stream given the words before it in its sentence.

        Args:
            stream: ids of `<s> word ... word </s> <s> ...`.
            bos: whether `<s>` is part of the history; otherwise a sentence's first word has none.

        Raises:
            UserError: an id is not of this vocabulary.
        """
        stream = self._check(stream)
        scores = Scores(np.zeros(len(stream)), np.zeros(len(stream), np.int8))
        for piece, ids in self._matcher.match(stream, bos):
            rows = np.flatnonzero(stream[piece] != BOS)
            log10, matched = scores.log_probs[piece], scores.matched[piece]
            for order in range(self.order, 1, -1):
                # Words whose n-gram of this order is not in the model back off to a shorter one.
                found, histories = ids[order - 1][1:].take(rows), ids[order - 2].take(rows)
                is_found = found >= 0
                hits = np.flatnonzero(is_found)
                log10[rows.take(hits)] += self.log10_probs[order - 1].take(found.take(hits))
                matched[rows.take(hits)] = order
                if self.log10_unseen:
                    log10[rows[(histories == UNSEEN) & (found != OUTSIDE)]] += self.log10_unseen
                backing_off = np.flatnonzero((histories >= 0) & ~is_found)
                log10[rows.take(backing_off)] += self.log10_backoffs[order - 2].take(
                    histories.take(backing_off)
                )
                rows = rows.compress(~is_found)
            log10[rows] += self.log10_probs[0].take(ids[0][1:].take(rows))
            matched[rows] = 1
            log10 *= LN_10
        return scores

    def next_distribution(self, history: Sequence[int] | np.ndarray) -> np.ndarray:
        """p(w | history) of every word of the vocabulary, float64; 0 for `<s>`.

        Arguments and errors as of `next_log_probs`.
        """
        return np.exp(self.next_log_probs(history))

    def next_log_probs(self, history: Sequence[int] | np.ndarray) -> np.ndarray:
        """Natural log p(w | history) of every word of the vocabulary, float64; -inf for `<s>`.

        Args:
            history: ids of the words before; at the beginning of a sentence, `<s>` is the first. Only the
                words from the last `<s>` on are used, and at most order - 1 of them.

        Raises:
            UserError: an id is not of this vocabulary.
        """
        history = self._check(history)[max(len(history) - self.order + 1, 0) :]
        begins = np.flatnonzero(history == BOS)
        history = history[begins[-1] :] if len(begins) else history
        nodes = self.trie.suffixes(history)
        factors = [float(level[node]) for level, node in zip(self.log10_backoffs, nodes, strict=False)]
        factors += [self.log10_unseen] * (len(history) - len(nodes))
        log_probs = self._log_unigrams + LN_10 * sum(factors)
        for n, node in enumerate(nodes, 2):  # the n-grams that extend the last n - 1 words
            children = slice(*self.trie.first_child[n - 2][node : node + 2])
            log10 = self.log10_probs[n - 1][children].astype(np.float64) + sum(factors[n - 1 :])
            log_probs[self.trie.words[n - 1][children]] = LN_10 * log10
        log_probs[BOS] = -np.inf
        return log_probs

    @functools.cached_property
    def _log_unigrams(self) -> np.ndarray:
        return LN_10 * self.log10_probs[0].astype(np.float64)

    def save(self, path: str | os.PathLike) -> None:
        """Saves the model: at most 16 bytes per n-gram, 8 per n-gram of the highest order."""
        ends = np.cumsum([len(word) for word in self.vocabulary.words])
        arrays = {"vocabulary.ends": ends}
        word_type = np.uint16 if len(ends) <= 1 << 16 else np.int32
        for n in range(1, self.order + 1):
            arrays[f"log10_probs.{n}"] = self.log10_probs[n - 1]
            if n > 1:
                arrays[f"words.{n}"] = self.trie.words[n - 1].astype(word_type, copy=False)
            if n < self.order:
                arrays[f"log10_backoffs.{n}"] = self.log10_backoffs[n - 1]
                arrays[f"first_child.{n}"] = self.trie.first_child[n - 1]
        arrays["vocabulary.text"] = np.frombuffer(b"".join(self.vocabulary.words), np.uint8)
        unseen, normalised = repr(self.log10_unseen), str(int(self.normalised))
        array_file.write(
            path,
            arrays,
            {"format": _FORMAT, "order": str(self.order), "log10_unseen": unseen, "normalised": normalised},
        )

    @classmethod
    def load(cls, path: str | os.PathLike) -> NGramModel:
        """Maps a file that `save` wrote into memory, and checks its values.

        Raises:
            UserError: the file cannot be read, is damaged or holds no n-gram model of this version.
        """
        arrays, metadata = array_file.read(path)
        if metadata.get("format") != _FORMAT:
            raise UserError(
                f"{os.fspath(path)} holds no n-gram model, or one of another version", "train it again"
            )
        checks = Checks(path, arrays, metadata)
        order, log10_unseen = checks.order(), checks.number("log10_unseen")
        _check_arrays(checks, order)
        text, ends = arrays["vocabulary.text"].tobytes(), [0, *arrays["vocabulary.ends"].tolist()]
        words = [text[start:end] for start, end in itertools.pairwise(ends)]
        return cls(
            Vocabulary(words),
            Trie(
                [np.arange(len(words), dtype=np.int32), *(arrays[f"words.{n}"] for n in range(2, order + 1))],
                [arrays[f"first_child.{n}"] for n in range(1, order)],
            ),
            [arrays[f"log10_probs.{n}"] for n in range(1, order + 1)],
            [arrays[f"log10_backoffs.{n}"] for n in range(1, order)],
            log10_unseen=log10_unseen,
            normalised=bool(checks.number("normalised")),
        )

    def _check(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        ids = np.asarray(ids, np.int64) if not isinstance(ids, np.ndarray) else ids
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self.vocabulary):
            raise UserError(
                f"word ids from {ids.min()} to {ids.max()} for a model of {len(self.vocabulary)} words",
                "encode the text by the model's own vocabulary",
            )
        return ids


def _check_arrays(checks: Checks, order: int) -> None:
    """Raises UserError unless all arrays of a model fit each other."""
    checks.vocabulary()
    size = contexts = len(checks.array("vocabulary.ends", "i"))
    for n in range(1, order + 1):
        if n > 1:
            size, contexts = len(checks.array(f"words.{n}", "i")), size
        checks.level(n, size, contexts)
        if n < order:
            checks.backoffs(n, size)
