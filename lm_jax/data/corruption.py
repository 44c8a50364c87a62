"""Masks rows for masked language models: which tokens are predicted, and what the model reads there.

Tokens and whole words as in BERT (Devlin et al. 2019, section 3.1, and `create_pretraining_data.py` of their
code), spans as in SpanBERT (Joshi et al. 2020, section 3.1, and their code).

B: rows. T: tokens in a row. P: predictions in a row.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lm_jax.data import draws
from lm_jax.errors import UserError

UNITS = ("token", "word", "span")
_EXCESS = 1e-6  # probability that a row without an exact budget has more predictions than there is room for


@dataclass(frozen=True)
class Masking:
    """Which tokens are predicted, and what replaces them.

    With an exact budget, a row of n tokens, special tokens included but not padding, has
    max(1, round(rate · n)) predictions, at most `max_predictions`; round is Python's, half to even.

    - token: these are random tokens.
    - word: all tokens of a word are predicted, or none. Words are taken in random order; one that does not
      fit into what is left of the budget is skipped, so that a row may have fewer predictions.
    - span: spans are taken until the budget is spent, the last is truncated. A span begins with the word of a
      random token that is not yet predicted, and extends over a number of words drawn from the geometric
      distribution, restricted to at most `max_span` (3.8 on average). It ends before a special token.

    Without an exact budget, each token or word is predicted with probability `rate`; for spans, the budget
    has the binomial distribution of independent tokens.
    """

    rate: float = 0.15
    unit: str = "token"  # token, word or span
    exact: bool = True
    max_predictions: int = 0  # of a row; 0: as many as the rate gives for its length
    mask_share: float = 0.8  # of the predicted tokens (for spans: of the spans), replaced by the mask token
    random_share: float = 0.1  # replaced by random tokens of the whole vocabulary; the rest stays
    span_p: float = 0.2  # of the geometric distribution of the number of words in a span
    max_span: int = 10  # words

    def check(self) -> None:
        """Raises UserError for an invalid value."""
        for name in ("rate", "span_p"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"masking.{name}={getattr(self, name)}", "it must lie between 0 and 1")
        if self.unit not in UNITS:
            raise UserError(f"masking.unit={self.unit!r}", f"it must be one of {', '.join(UNITS)}")
        for name, least in (("max_predictions", 0), ("max_span", 1)):
            if getattr(self, name) < least:
                raise UserError(f"masking.{name}={getattr(self, name)}", f"it must be {least} or more")
        if not (min(self.mask_share, self.random_share) >= 0 and self.mask_share + self.random_share <= 1):
            raise UserError(
                f"masking.mask_share={self.mask_share} and random_share={self.random_share}",
                "give shares of 0 or more that add up to at most 1",
            )

    def num_predictions(self, length: int) -> int:
        """P, the room for predictions in rows of T tokens.

        Without an exact budget, the number of predictions in a full row is larger with a probability below
        1e-6 (for words: if the words had 2 tokens each). The excess is then not predicted.
        """
        if self.exact:
            return min(max(1, round(self.rate * length)), length, self.max_predictions or length)
        tokens = 2 if self.unit == "word" else 1
        most = tokens * _binomial_bound(-(-length // tokens), self.rate)
        return min(most, length, self.max_predictions or length)

    def _budgets(self, lengths_B: np.ndarray, length: int) -> np.ndarray:
        """The exact budget of rows with these lengths, padded to `length`: int64 [B]."""
        rounded = np.rint(lengths_B * self.rate).astype(np.int64)
        return np.clip(rounded, 1, min(length, self.max_predictions or length))


class Masked(NamedTuple):
    """Rows with their predictions.

    Attributes:
        inputs_BT: int32; the tokens, replaced where `Masking` says so.
        positions_BP: int32; the places of the predictions in ascending order, then 0.
        targets_BP: int32; the tokens that were there, then 0.
        weights_BP: float32; 1, and 0 where there is no prediction.
    """

    inputs_BT: np.ndarray
    positions_BP: np.ndarray
    targets_BP: np.ndarray
    weights_BP: np.ndarray


def mask_rows(
    masking: Masking,
    tokens_BT: np.ndarray,
    maskable_BT: np.ndarray,
    starts_BT: np.ndarray,
    lengths_B: np.ndarray,
    mask_id: int,
    vocab_size: int,
    seed: Sequence[int],
    first_row: int = 0,
) -> Masked:
    """Chooses predictions in each row and replaces tokens there.

    A row's result is a function of the seed, the row's number, T, and what the row holds: any number of
    processes mask their rows of a batch as one would.

    Args:
        masking: how.
        tokens_BT: int; token ids.
        maskable_BT: bool; false at special tokens and padding.
        starts_BT: bool; true at the first token of each word. Other tokens continue the word of the maskable
            token before them, if there is one. Of no effect for the unit `token`.
        lengths_B: int; the tokens of each row, special tokens included but not padding.
        mask_id: the mask token.
        vocab_size: random replacements are uniform over ids below it.
        seed: of the batch, such as [seed, step].
        first_row: the number of the first of these rows in the whole batch.
    """
    num_rows, length = tokens_BT.shape
    num_predictions = masking.num_predictions(length)
    noise_BT, span_noise_BT, noise_BP = _draw(masking, num_rows, length, num_predictions, seed, first_row)
    keys_BT = draws.keys(noise_BT, maskable_BT)
    if masking.exact:
        budget_B = masking._budgets(np.asarray(lengths_B), length)
    else:  # tokens below the threshold are the first in order of their keys
        budget_B = np.minimum((keys_BT < _threshold(masking)).sum(axis=1), num_predictions)
    choices_BT = None
    if masking.unit == "token":
        chosen_BT = _choose_tokens(keys_BT, maskable_BT, budget_B, num_predictions)
    elif masking.unit == "word":
        chosen_BT = _choose_words(masking, keys_BT, maskable_BT, starts_BT, budget_B, num_predictions)
    else:
        chosen_BT, choices_BT = _choose_spans(
            masking, keys_BT, maskable_BT, starts_BT, budget_B, span_noise_BT
        )
    places, rows, ranks, counts_B = _places(chosen_BT)
    noise = noise_BP[rows, ranks]
    choices = draws.unit_interval(noise if choices_BT is None else choices_BT.reshape(-1)[places])
    targets = tokens_BT.reshape(-1)[places]
    random_tokens = draws.below(noise, vocab_size)
    random_below = masking.mask_share + masking.random_share
    inputs_BT = tokens_BT.astype(np.int32)
    inputs_BT.reshape(-1)[places] = np.where(
        choices < masking.mask_share, mask_id, np.where(choices < random_below, random_tokens, targets)
    )
    positions_BP, targets_BP = np.zeros((2, num_rows, num_predictions), np.int32)
    positions_BP[rows, ranks] = places - rows * length
    targets_BP[rows, ranks] = targets
    weights_BP = (np.arange(num_predictions) < counts_B[:, None]).astype(np.float32)
    return Masked(inputs_BT, positions_BP, targets_BP, weights_BP)


def _draw(
    masking: Masking, num_rows: int, length: int, num_predictions: int, seed: Sequence[int], first_row: int
) -> list[np.ndarray]:
    """Uniform uint64 [B, T], [B, T] or [B, 0] (for spans alone), and [B, P]."""
    widths = np.array([length, length if masking.unit == "span" else 0, num_predictions])
    noise = draws.of_rows(seed, num_rows, int(widths.sum()), first_row)
    return np.split(noise, np.cumsum(widths)[:-1], axis=1)


def _threshold(masking: Masking) -> np.uint64:
    """Keys are below it with probability `rate`."""
    return np.uint64(int(masking.rate * 2.0**64))


def _choose_tokens(
    keys_BT: np.ndarray, maskable_BT: np.ndarray, budget_B: np.ndarray, num_predictions: int
) -> np.ndarray:
    """The tokens with the smallest keys, as many as the budget: bool [B, T]."""
    smallest_BP = np.sort(np.partition(keys_BT, num_predictions - 1, axis=1)[:, :num_predictions], axis=1)
    last_B = smallest_BP[np.arange(len(keys_BT)), np.maximum(budget_B, 1) - 1]
    return (keys_BT <= last_B[:, None]) & maskable_BT & (budget_B > 0)[:, None]


def _word_begins(maskable_BT: np.ndarray, starts_BT: np.ndarray) -> np.ndarray:
    """Where a word begins; each token that is not maskable counts as a word of its own: bool [B, T]."""
    goes_on_BT = maskable_BT & ~starts_BT
    goes_on_BT[:, 1:] &= maskable_BT[:, :-1]
    goes_on_BT[:, 0] = False
    return ~goes_on_BT


def _choose_words(
    masking: Masking,
    keys_BT: np.ndarray,
    maskable_BT: np.ndarray,
    starts_BT: np.ndarray,
    budget_B: np.ndarray,
    num_predictions: int,
) -> np.ndarray:
    """The tokens of words that fit into the budget in the order of the words' keys: bool [B, T]."""
    length, low = keys_BT.shape[1], draws.low_bits(keys_BT.shape[1])
    begins_BT = _word_begins(maskable_BT, starts_BT)
    begins = np.flatnonzero(begins_BT)
    sizes = np.diff(begins, append=begins_BT.size)
    sizes_BT = np.full(keys_BT.shape, length + 1, np.int32)  # one that fits into no budget
    sizes_BT.reshape(-1)[begins] = sizes
    is_word_BT = begins_BT & maskable_BT
    if not masking.exact:
        is_word_BT &= keys_BT < _threshold(masking)
        budget_B = np.full(len(keys_BT), num_predictions)
    sizes_BT[~is_word_BT] = length + 1
    order_BT = (np.sort(np.where(is_word_BT, keys_BT, keys_BT | ~low), axis=1) & low).astype(np.int64)
    taken_BT = _fit(np.take_along_axis(sizes_BT, order_BT, axis=1), budget_B)
    chosen_BT = np.zeros(keys_BT.shape, bool)
    np.put_along_axis(chosen_BT, order_BT, taken_BT, axis=1)
    return np.repeat(chosen_BT.reshape(-1)[begins], sizes).reshape(keys_BT.shape)


def _fit(sizes_BW: np.ndarray, budget_B: np.ndarray) -> np.ndarray:
    """Takes each item, in order, that fits into what is left of the budget: bool [B, W].

    A pass takes items up to the first that does not fit, and drops all that fit no more. There are few
    passes, since what is left is then less than the size of an item.
    """
    taken_BW = np.zeros(sizes_BW.shape, bool)
    rows, left, first = np.arange(len(sizes_BW)), budget_B.astype(np.int32), int(budget_B.max(initial=0))
    # Items have a size of 1 or more: the first pass takes none beyond as many as the budget.
    sizes = sizes_BW[:, :first]
    while len(rows):
        sizes = np.where(sizes <= left[:, None], sizes, 0)
        takes = (np.cumsum(sizes, axis=1, dtype=np.int32) <= left[:, None]) & (sizes > 0)
        taken_BW[rows, : sizes.shape[1]] |= takes
        left = left - np.where(takes, sizes, 0).sum(axis=1, dtype=np.int32)
        is_open = left > 0
        rows, left = rows[is_open], left[is_open]
        sizes = np.where(taken_BW[rows], 0, sizes_BW[rows])
        fits = ((sizes <= left[:, None]) & (sizes > 0)).any(axis=1)
        rows, left, sizes = rows[fits], left[fits], sizes[fits]
    return taken_BW


def _choose_spans(
    masking: Masking,
    keys_BT: np.ndarray,
    maskable_BT: np.ndarray,
    starts_BT: np.ndarray,
    budget_B: np.ndarray,
    noise_BT: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of spans: bool [B, T]; and noise that is equal within a span: uint64 [B, T]."""
    shape, size = keys_BT.shape, keys_BT.size
    edges = np.flatnonzero(_word_begins(maskable_BT, starts_BT))
    breaks, noise = np.append(np.flatnonzero(~maskable_BT), size), noise_BT.reshape(-1)
    chosen, choices = np.zeros(size, bool), np.zeros(size, np.uint64)
    rows, count = np.arange(len(keys_BT)), _likely_spans(masking, int(budget_B.max(initial=0)))
    while len(rows):  # whose budget is not spent, again with twice as many tokens to begin spans with
        count = min(count, shape[1])
        first_keys = np.sort(np.partition(keys_BT[rows], count - 1, axis=1)[:, :count], axis=1)
        anchors = (first_keys & draws.low_bits(shape[1])).astype(np.int64) + (rows * shape[1])[:, None]
        words = np.searchsorted(edges, anchors, side="right") - 1
        firsts, after = edges[words], words + _span_lengths(masking, noise[anchors])
        ends = np.where(after < len(edges), edges[np.minimum(after, len(edges) - 1)], size)
        ends = np.minimum(ends, breaks[np.searchsorted(breaks, anchors)])
        ends = np.minimum(ends, ((rows + 1) * shape[1])[:, None])
        is_span = _not_covered(anchors, firsts, ends, maskable_BT.reshape(-1)[anchors])
        places, spans = _in_order(anchors, firsts, ends, is_span, size)
        counts = np.bincount(places // shape[1], minlength=len(keys_BT))[rows]
        is_complete = (counts >= budget_B[rows]) | (count == shape[1])
        ranks = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        is_taken = ranks < np.repeat(np.where(is_complete, budget_B[rows], 0), counts)
        chosen[places[is_taken]] = True
        choices[places[is_taken]] = noise[spans[is_taken]]
        rows, count = rows[~is_complete], 2 * count
    return chosen.reshape(shape), choices.reshape(shape)


def _likely_spans(masking: Masking, budget: int) -> int:
    """A number of tokens that is likely to be enough to begin the spans of a row with."""
    lengths = np.arange(1, masking.max_span + 1)
    mean = np.average(lengths, weights=(1 - masking.span_p) ** lengths)
    return 4 + int(1.5 * budget / mean)


def _not_covered(
    anchors_RC: np.ndarray, firsts_RC: np.ndarray, ends_RC: np.ndarray, maskable_RC: np.ndarray
) -> np.ndarray:
    """Which candidates are spans: those whose token is in no span before them: bool [R, C].

    Each pass decides at least one more candidate of each row, and most are decided by the first.
    """
    anchors = anchors_RC[:, None, :]
    covers_RCC = (firsts_RC[:, :, None] <= anchors) & (anchors < ends_RC[:, :, None])
    covers_RCC &= np.tri(anchors_RC.shape[1], k=-1, dtype=bool).T
    is_span = maskable_RC
    while True:
        before, is_span = is_span, maskable_RC & ~(covers_RCC & is_span[:, :, None]).any(axis=1)
        if np.array_equal(before, is_span):
            return is_span


def _in_order(
    anchors_RC: np.ndarray, firsts_RC: np.ndarray, ends_RC: np.ndarray, is_span_RC: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The places in spans, in order of rows and spans, each once; and what their span began with."""
    firsts, lengths = firsts_RC[is_span_RC], (ends_RC - firsts_RC)[is_span_RC]
    numbers = np.arange(lengths.sum())
    places = numbers + np.repeat(firsts - (np.cumsum(lengths) - lengths), lengths)
    spans = np.repeat(anchors_RC[is_span_RC], lengths)
    earliest = np.empty(size, np.int64)
    earliest[places[::-1]] = numbers[::-1]  # the last of several values for a place is kept
    is_new = earliest[places] == numbers
    return places[is_new], spans[is_new]


def _span_lengths(masking: Masking, noise: np.ndarray) -> np.ndarray:
    """Words in a span, from the low 32 bits: the inverse of the cumulative distribution."""
    stays = 1 - masking.span_p
    uniform = draws.unit_interval(noise << np.uint64(32)) * (1 - stays**masking.max_span)
    return (np.log1p(-uniform) * (1 / math.log(stays))).astype(np.int64) + 1


def _places(chosen_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The chosen places in the flat array, their rows, their ranks in the row, and the number of each row."""
    places = np.flatnonzero(chosen_BT)
    counts_B = np.count_nonzero(chosen_BT, axis=1)
    rows = np.repeat(np.arange(len(counts_B)), counts_B)
    return places, rows, np.arange(len(places)) - (np.cumsum(counts_B) - counts_B)[rows], counts_B


@functools.cache
def _binomial_bound(trials: int, rate: float) -> int:
    """The least n that a binomial variable exceeds with a probability below `_EXCESS`."""
    logs = [math.lgamma(n + 1) for n in range(trials + 1)]
    above = 0.0
    for n in range(trials, 0, -1):
        log_choose = logs[trials] - logs[n] - logs[trials - n]
        above += math.exp(log_choose + n * math.log(rate) + (trials - n) * math.log1p(-rate))
        if above >= _EXCESS:
            return n
    return 1
