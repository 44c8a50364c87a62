"""Estimates models from counts, with smoothings from maximum likelihood to modified Kneser-Ney.

Every smoothing is a choice of the counts, the discounts and the extra mass in the formula of `interpolation`:

    maximum_likelihood    occurrences    no discount         no extra mass
    add_k                 occurrences    no discount         k for every word, the same for all
    jelinek_mercer        occurrences    no discount         by weights fitted to held-out text
    witten_bell           occurrences    no discount         1 for every different word seen
    absolute_discounting  occurrences    one an order        no extra mass
    kneser_ney            continuations  one an order        no extra mass
    modified_kneser_ney   continuations  three an order      no extra mass

and stupid_backoff (Brants et al. 2007, equation 5) takes relative frequencies and multiplies those of shorter
histories by a constant. See Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language
Modeling" (1998), section 2.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lm_jax.errors import UserError
from lm_jax.ngram import discounting, jelinek_mercer, pruning
from lm_jax.ngram.counts import MAX_ORDER, NGramCounts
from lm_jax.ngram.discounting import continuations, occurrences
from lm_jax.ngram.interpolation import interpolate
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.vocabulary import BOS, UNK, Progress

SMOOTHINGS = (
    "maximum_likelihood",
    "add_k",
    "jelinek_mercer",
    "witten_bell",
    "absolute_discounting",
    "kneser_ney",
    "modified_kneser_ney",
    "stupid_backoff",
)
_PIECE = 1 << 14  # probabilities converted to log10 at a time


@dataclass(frozen=True)
class NGramConfig:
    """The settings of an n-gram model."""

    family: ClassVar[str] = "ngram"
    order: int = 5  # words in the longest n-gram, 1 to 8
    smoothing: str = "modified_kneser_ney"  # one of SMOOTHINGS
    prune: tuple[int, ...] = ()  # by order, drop n-grams seen at most this often; the last value repeats
    interpolate_unigrams: bool = True  # False: all mass that the unigrams leave goes to <unk>
    discount_fallback: tuple[float, ...] = ()  # discounts of counts 1, 2 and 3+ where the text gives none
    add_k: float = 1.0  # what add_k adds to every count
    backoff_weight: float = 0.4  # stupid_backoff's factor for every word dropped from the history


def check(config: NGramConfig) -> None:
    """Checks the settings.

    Raises:
        UserError: a setting is out of its range.
    """
    if config.smoothing not in SMOOTHINGS:
        raise UserError(f"unknown smoothing {config.smoothing!r}", f"choose one of {', '.join(SMOOTHINGS)}")
    if not 1 <= config.order <= MAX_ORDER:
        raise UserError(f"order {config.order} is out of range", f"choose 1 to {MAX_ORDER}")
    fallback = config.discount_fallback
    if len(fallback) > 3 or any(not 0 <= discount <= k for k, discount in enumerate(fallback, 1)):
        raise UserError(
            f"fallback discounts {fallback} are not up to three of at most 1, 2 and 3", "take (0.5, 1.0, 1.5)"
        )
    if not config.add_k > 0:
        raise UserError(
            f"add_k is {config.add_k}", "choose a number above 0, or smoothing maximum_likelihood"
        )
    if not 0 < config.backoff_weight <= 1:
        raise UserError(f"backoff_weight is {config.backoff_weight}", "choose a number above 0, 1 at most")


def estimate(
    counts: NGramCounts,
    config: NGramConfig,
    held_out: np.ndarray | None = None,
    progress: Progress | None = None,
    *,
    closed: bool = False,
) -> NGramModel:
    """Estimates a model.

    Args:
        counts: of the training text; they are not changed.
        config: the smoothing and its settings; its order must be that of the counts.
        held_out: a stream of other text, for the weights of jelinek_mercer.
        progress: called with (description, done, total).
        closed: whether the vocabulary has all words that there are, so that `<unk>` has probability 0; of
            methods that interpolate with a uniform distribution.

    Raises:
        UserError: a setting is out of its range, or the discounts are undefined (see `discounting`).
    """
    check(config)
    if counts.order != config.order:
        raise UserError(
            f"counts of order {counts.order} for a model of order {config.order}",
            "count with the model's order",
        )
    keep = pruning.kept(counts, config.prune)
    smoothing = _Smoothing(config, counts, keep, held_out, closed)
    log10_probs: list[np.ndarray] = []
    log10_backoffs: list[np.ndarray] = []
    below = np.empty(0, np.float32)
    for n in range(1, counts.order + 1):
        probs, gammas = smoothing.level(n, below)
        if n > 1:
            log10_probs.append(_to_log10(below))
            log10_backoffs.append(_to_log10(gammas))
        below = probs
        if progress:
            progress(f"estimating {config.smoothing}", n, counts.order)
    log10_probs.append(_to_log10(below))
    vocabulary, trie = counts.vocabulary, counts.trie
    if keep is not None:
        vocabulary, trie, (log10_probs, log10_backoffs) = pruning.prune(
            vocabulary, trie, [log10_probs, log10_backoffs], keep
        )
    is_stupid = config.smoothing == "stupid_backoff"
    return NGramModel(
        vocabulary,
        trie,
        log10_probs,
        log10_backoffs,
        log10_unseen=float(np.log10(config.backoff_weight)) if is_stupid else 0.0,
        normalised=not is_stupid,
    )


class _Smoothing:
    """Computes the probabilities of one order after the other."""

    def __init__(
        self,
        config: NGramConfig,
        counts: NGramCounts,
        keep: list[np.ndarray] | None,
        held_out: np.ndarray | None,
        closed: bool,
    ):
        self.config, self.counts, self.closed = config, counts, closed
        self.kept = [None] * counts.order if keep is None or config.smoothing == "stupid_backoff" else keep
        self.num_words = (len(counts.vocabulary) if keep is None else int(keep[0].sum())) - 1  # all but <s>
        self.uniform = np.float32(1.0 / np.float32(self.num_words - closed))
        if config.smoothing == "jelinek_mercer":
            if held_out is None:
                raise UserError("jelinek_mercer needs held-out text to fit its weights", "give held_out")
            self.weights = jelinek_mercer.fit(counts, held_out)

    def level(self, n: int, below: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """p of the n-grams of order n and γ of their histories, given p of the n-grams of order n - 1."""
        values = (continuations if "kneser_ney" in self.config.smoothing else occurrences)(self.counts, n)
        starts = self.counts.trie.first_child[n - 2] if n > 1 else np.array([0, len(values)])

        def lower(here: slice) -> np.ndarray | np.float32:
            if n == 1:
                return self.uniform if self.config.interpolate_unigrams else np.float32(0)
            return below.take(self.counts.suffixes[n - 2][here])

        probs, gammas = interpolate(
            values,
            starts,
            self.kept[n - 1],
            self._discounts(n, values),
            functools.partial(self._extra_mass, n),
            lower,
        )
        if n == 1:
            probs[BOS] = 1  # as in lmplz
            probs[UNK] += 0 if self.config.interpolate_unigrams else gammas[0]
            probs[UNK] *= not self.closed
        if self.config.smoothing == "stupid_backoff":
            gammas[:] = self.config.backoff_weight
        if self.config.smoothing == "add_k":
            self._share_evenly(n, probs, gammas)
        return probs, gammas

    def _discounts(self, n: int, values: np.ndarray) -> np.ndarray:
        fallback = self.config.discount_fallback
        if self.config.smoothing == "modified_kneser_ney":
            return discounting.modified(self.counts, values, n, fallback)
        if self.config.smoothing in ("kneser_ney", "absolute_discounting"):
            return discounting.absolute(values, n, fallback)
        return np.zeros(4, np.float32)

    def _extra_mass(
        self, n: int, total: np.ndarray, count: np.ndarray, history: np.ndarray
    ) -> np.ndarray | float:
        if self.config.smoothing == "add_k":
            return self.config.add_k * self.num_words
        if self.config.smoothing == "witten_bell":
            return np.bincount(history, weights=count > 0, minlength=len(total))
        if self.config.smoothing == "jelinek_mercer":
            weight = self.weights[n - 1, jelinek_mercer.bucket(total)]
            return total * (1 - weight) / weight
        return 0.0

    def _share_evenly(self, n: int, probs: np.ndarray, gammas: np.ndarray) -> None:
        """Replaces the distributions after shorter than full histories by the uniform one, in place.

        A full history has order - 1 words or begins with `<s>`.
        """
        if n == self.counts.order:
            return
        begin = self.counts.trie.beginning_with(BOS, n)
        own = probs[begin].copy()
        probs[:], probs[begin] = self.uniform, own
        if n > 1:
            begin = self.counts.trie.beginning_with(BOS, n - 1)
            own = gammas[begin].copy()
            gammas[:], gammas[begin] = 1, own


def _to_log10(probs: np.ndarray) -> np.ndarray:
    """Replaces float32 probabilities by their log10, at most 0.

    The steps are those of log10f in fdlibm (e_log10f.c), which the GNU C library uses up to version 2.40. A
    correctly rounded logarithm would differ from lmplz's in the last bit of many numbers.
    """
    single = np.float32
    with np.errstate(divide="ignore"):
        for low in range(0, len(probs), _PIECE):
            piece = probs[low : low + _PIECE]
            fraction, exponent = np.frexp(piece)
            # The fraction is in [1, 2) for probabilities from 1 on, else in [0.5, 1).
            exponent = (exponent - (exponent > 0)).astype(single)
            fraction = np.where(piece < 1, fraction, 2 * fraction)
            natural = np.log(fraction.astype(np.float64)).astype(single)
            log10 = exponent * single(7.9034151668e-07) + single(0.43429449201) * natural
            np.minimum(log10 + exponent * single(0.30102920532), 0, out=piece)
    return probs
