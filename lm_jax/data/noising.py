"""The noises that BART learns to remove: token masking, token deletion, text infilling, sentence permutation,
document rotation, and random replacement, alone or one after the other.

Lewis et al. 2020, section 2.2, and fairseq's `denoising_dataset.py`, from which the numbers of words are.

B: rows. T: tokens in a row. N: tokens of all rows, without padding. W: words.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lm_jax.data import draws
from lm_jax.data.flat_rows import ENDS, SPECIAL, STARTS, FlatRows, RowDraws, shuffled, sizes_of
from lm_jax.data.pairs import sentence_ends
from lm_jax.errors import UserError
from lm_jax.text.base import Tokenizer

NOISES = ("permute", "replace", "mask", "delete", "infill", "rotate")  # in the order in which they act
NEED_MASK = ("mask", "infill")
_INSERTED = np.int64(-1)  # the place of a token that was not in the row
_SURE = 6.0  # standard deviations by which the drawn spans exceed the budget


@dataclass(frozen=True)
class Noise:
    """How much of each noise; they act in the order of these fields, each on what those before it have left.

    A share of n words or sentences is ceil(share · n) of them, drawn at random from those of the row. A mask
    token that an earlier noise has written is no word. Where `whole_words` is false, or the tokenizer knows
    no words, each token counts as a word.

    - permute: some sentences exchange places at random. A sentence ends after a token that ends with a full
      stop, question mark or exclamation mark (the last of several; in fairseq the first), or with its
      document.
    - replace: each token of some words becomes a random token.
    - mask: each token of some words becomes the mask token.
    - delete: some words are removed.
    - infill: spans of words are each replaced by one mask token. Their lengths are drawn from the Poisson
      distribution of mean `span_mean` until they add up to the share of the words, and the last is truncated.
      Each begins at another random word, and ends with its document; where they overlap they become one
      mask token, so that fewer words may be missing. A span of no words is a mask token before its word.
    - rotate: the row begins with a random one of its tokens, and what was before it follows at the end. The
      share is that of the rows to which this happens.
    """

    permute: float = 0.0  # share of the sentences that exchange places
    replace: float = 0.0  # share of the words that become random tokens
    mask: float = 0.0  # share of the words that become mask tokens
    delete: float = 0.0  # share of the words that are removed
    infill: float = 0.0  # share of the words that are in spans, each of which becomes one mask token
    rotate: float = 0.0  # share of the rows that are rotated
    span_mean: float = 3.0  # words in a span of infill
    random_share: float = 0.0  # of the mask tokens of mask and infill: random tokens in their stead
    whole_words: bool = True  # replace, mask, delete and infill choose words; false: tokens

    @property
    def active(self) -> tuple[str, ...]:
        """The names of the noises that act, in their order."""
        return tuple(name for name in NOISES if getattr(self, name) > 0)


HELD_OUT = Noise(permute=1.0, infill=0.3)  # by which models are compared: that of the published one


def check(noise: Noise, prefix: str = "") -> None:
    """Raises UserError for an invalid value; `prefix` goes before the names of the fields."""
    for name in (*NOISES, "random_share"):
        if not 0 <= getattr(noise, name) <= 1:
            raise UserError(f"{prefix}{name}={getattr(noise, name)}", "it must lie in [0, 1]")
    if not 0 < noise.span_mean <= 100:
        raise UserError(f"{prefix}span_mean={noise.span_mean}", "it must lie in (0, 100]")
    if not noise.active:
        named = ", ".join(f"{prefix}{name}" for name in NOISES)
        raise UserError("no noise: the text would be copied", f"give one of {named} a share above 0")


class Vocabulary(NamedTuple):
    """What noises need to know of a tokenizer.

    Attributes:
        kinds: int64 [V]; bits for what a token is, above 32 bits for its id.
        mask_id: the mask token; -1: the noises do not need it.
        ordinary: int32; the tokens that are not special, nor the unknown one, of which random ones are drawn.
    """

    kinds: np.ndarray
    mask_id: int
    ordinary: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer, noise: Noise) -> "Vocabulary":
        """What `noise` needs to know.

        Raises:
            UserError: the tokenizer has no mask token, and the noise writes some.
        """
        needs_mask = not set(noise.active).isdisjoint(NEED_MASK)
        is_special = np.zeros(tokenizer.vocab_size, bool)
        is_special[[tokenizer.end_id, *(i for n, i in tokenizer.special_ids.items() if n != "unk")]] = True
        starts = tokenizer.starts_word if noise.whole_words else np.ones(len(is_special), bool)
        ends = np.zeros(len(is_special), bool)
        ends[[tokenizer.end_id, *sentence_ends(tokenizer).tolist()]] = True
        kinds = is_special * SPECIAL + starts * STARTS + ends * ENDS
        mask_id = tokenizer.require_special("mask") if needs_mask else -1
        is_special[[i for n, i in tokenizer.special_ids.items() if n == "unk"]] = True  # no random token
        return cls(kinds.astype(np.int64) << 32, mask_id, np.flatnonzero(~is_special).astype(np.int32))


class Noised(NamedTuple):
    """Rows after the noise.

    Attributes:
        tokens_BT: int32; padded with 0.
        lengths_B: int64; the tokens of each row.
        places_BT: int32; the place in the row before the noise of each token that is unchanged, else -1.
    """

    tokens_BT: np.ndarray
    lengths_B: np.ndarray
    places_BT: np.ndarray


def add_noise(
    noise: Noise,
    vocabulary: Vocabulary,
    tokens_BT: np.ndarray,
    lengths_B: np.ndarray,
    seed: Sequence[int],
    first_row: int = 0,
) -> Noised:
    """Adds noise to texts, without special tokens around them.

    A row's result is a function of the seed, the row's number, T, and what the row holds: any number of
    processes change their rows of a batch as one would. No row becomes longer than T tokens: infilling then
    leaves out insertions.

    Args:
        noise: which.
        vocabulary: of the tokenizer and this noise.
        tokens_BT: int; token ids. Special tokens inside, such as the ends of documents, are neither changed
            nor removed; words and spans end before them, and sentences after the end token.
        lengths_B: int; the tokens of each row; those after them are padding.
        seed: of the batch, such as [seed, step].
        first_row: the number of the first of these rows in the whole batch.
    """
    num_rows, width = tokens_BT.shape
    widths = {name: _num_draws(noise, name, width) for name in noise.active}
    noise_BK = draws.of_rows(seed, num_rows, max(1, sum(widths.values())), first_row)
    lengths_B = np.asarray(lengths_B, np.int64)
    tokens_N = np.asarray(tokens_BT)
    if (lengths_B == width).all():
        tokens_N = tokens_N.reshape(-1).astype(np.int64)
    else:
        tokens_N = tokens_N[np.arange(width) < lengths_B[:, None]].astype(np.int64)
    texts = FlatRows(tokens_N, lengths_B, width)
    texts.values = tokens_N | vocabulary.kinds.take(tokens_N) | texts.places << 40
    first = 0
    for name, of_noise in widths.items():
        texts = _ACTIONS[name](noise, vocabulary, texts, RowDraws(noise_BK, first))
        first += of_noise
    tokens_BT, places_BT = texts.padded()
    return Noised(tokens_BT, texts.lengths, places_BT)


def _num_draws(noise: Noise, name: str, width: int) -> int:
    """How many random numbers a noise needs for each row."""
    if name == "rotate":
        return 1
    if name == "infill":
        return width + _num_spans(noise, width) * (2 if noise.random_share else 1)
    return width * (2 if name == "replace" or (name == "mask" and noise.random_share) else 1)


def _budget(share: float, counts: np.ndarray) -> np.ndarray:
    """ceil(share · count), where products are exact but for rounding: int64."""
    return np.ceil(share * counts - 1e-9).astype(np.int64)


def _chosen_words(texts: FlatRows, share: float, random: RowDraws) -> np.ndarray:
    """Which tokens are of the words that are drawn: bool [N]."""
    edges, is_word = texts.words
    order = shuffled(texts, edges[is_word], random)
    is_chosen_N = np.zeros(len(texts.values), bool)
    is_chosen_N[order.first(_budget(share, order.counts))] = True
    if len(edges) == len(texts.values):
        return is_chosen_N
    return is_chosen_N.take(edges).repeat(sizes_of(edges, len(is_chosen_N)))


def _permute(noise: Noise, vocabulary: Vocabulary, texts: FlatRows, random: RowDraws) -> FlatRows:
    is_end_N = (texts.kinds & ENDS) != 0
    begins_N = np.zeros(len(is_end_N), bool)
    begins_N[1:] = is_end_N[:-1] & ~is_end_N[1:]
    begins_N[texts.begins[texts.lengths > 0]] = True
    begins = np.flatnonzero(begins_N)
    order = shuffled(texts, begins, random)
    moved = order.first(_budget(noise.permute, order.counts))
    sources = np.arange(len(begins))
    sources[np.searchsorted(begins, np.sort(moved))] = np.searchsorted(begins, moved)
    sizes = sizes_of(begins, len(is_end_N)).take(sources)
    shifts = begins.take(sources) - (np.cumsum(sizes) - sizes)
    return texts.with_values(texts.values.take(np.arange(len(is_end_N)) + shifts.repeat(sizes)))


def _rotate(noise: Noise, vocabulary: Vocabulary, texts: FlatRows, random: RowDraws) -> FlatRows:
    noise_B = random.all(0, 1)[:, 0]
    offsets_B = draws.below(noise_B, texts.lengths) * (draws.unit_interval(noise_B) < noise.rotate)
    # The first part of a row comes from `offset` places further on, the rest from that much less its length.
    firsts_B = texts.lengths - offsets_B
    sizes, shifts = np.empty((2, len(offsets_B), 2), np.int64)
    sizes[:, 0], sizes[:, 1], shifts[:, 0], shifts[:, 1] = firsts_B, offsets_B, offsets_B, -firsts_B
    places = np.arange(len(texts.values)) + shifts.reshape(-1).repeat(sizes.reshape(-1))
    return texts.with_values(texts.values.take(places))


def _replace(noise: Noise, vocabulary: Vocabulary, texts: FlatRows, random: RowDraws) -> FlatRows:
    places = np.flatnonzero(_chosen_words(texts, noise.replace, random))
    drawn = random.at(texts.rows[places], texts.places[places] + texts.width)
    values = texts.values.copy()
    values[places] = _random_tokens(vocabulary, drawn)
    return texts.with_values(values)


def _mask(noise: Noise, vocabulary: Vocabulary, texts: FlatRows, random: RowDraws) -> FlatRows:
    places = np.flatnonzero(_chosen_words(texts, noise.mask, random))
    drawn = None
    if noise.random_share:
        drawn = random.at(texts.rows[places], texts.places[places] + texts.width)
    values = texts.values.copy()
    values[places] = _masks(noise, vocabulary, len(places), drawn)
    return texts.with_values(values)


def _delete(noise: Noise, vocabulary: Vocabulary, texts: FlatRows, random: RowDraws) -> FlatRows:
    return _kept(texts, texts.values, ~_chosen_words(texts, noise.delete, random)).texts


def _infill(noise: Noise, vocabulary: Vocabulary, texts: FlatRows, random: RowDraws) -> FlatRows:
    edges, is_word = texts.words
    order = shuffled(texts, edges[is_word], random)
    sizes, counts_B = _span_sizes(noise, texts, order.counts, random)
    begins = order.first(counts_B)  # of the spans in the flat array
    drawn = None
    if noise.random_share:
        num_spans = _num_spans(noise, texts.width)
        drawn = random.all(texts.width + num_spans, num_spans)
        drawn = drawn[np.arange(num_spans) < counts_B[:, None]]
    masks = _masks(noise, vocabulary, len(begins), drawn)
    is_span = sizes > 0
    spans, befores, num_tokens = begins[is_span], begins[~is_span], len(texts.values)
    ends = _span_ends(texts, spans, sizes[is_span])
    covers_N = np.bincount(spans, minlength=num_tokens + 1)
    covers_N -= np.bincount(ends, minlength=num_tokens + 1)
    covers_N = covers_N.cumsum()
    is_first = covers_N.take(spans) == 1  # no other span covers its first token
    spans = spans[is_first]
    values = texts.values.copy()
    values[spans] = masks[is_span][is_first]
    covers_N[spans] = 0
    kept = _kept(texts, values, covers_N[:-1] == 0)
    return _inserted(texts, kept, befores, masks[~is_span]) if len(befores) else kept.texts


def _num_spans(noise: Noise, width: int) -> int:
    """How many spans are drawn for a row: so many that they exceed any budget, but no more than tokens."""
    budget = math.ceil(noise.infill * width)
    root = (_SURE + math.sqrt(_SURE**2 + 4 * budget)) / 2
    return min(width, math.ceil(root**2 / noise.span_mean))


def _span_sizes(
    noise: Noise, texts: FlatRows, num_words_B: np.ndarray, random: RowDraws
) -> tuple[np.ndarray, np.ndarray]:
    """The words in each span, of the rows one after the other; and the number of spans of each row."""
    drawn_BC = random.all(texts.width, _num_spans(noise, texts.width))
    sizes_BC = _poisson(noise.span_mean).searchsorted(drawn_BC, side="right")
    budget_B1 = _budget(noise.infill, num_words_B)[:, None]
    before_BC = np.cumsum(sizes_BC, axis=1) - sizes_BC
    counts_B = np.minimum(np.count_nonzero(before_BC < budget_B1, axis=1), num_words_B)
    sizes_BC = np.minimum(sizes_BC, budget_B1 - before_BC)
    return sizes_BC[np.arange(sizes_BC.shape[1]) < counts_B[:, None]], counts_B


@functools.cache
def _poisson(mean: float) -> np.ndarray:
    """Its cumulative distribution as thresholds of uint64: a uniform number exceeds as many as it counts."""
    term, total, thresholds = math.exp(-mean), 0.0, []
    for count in range(1, 1000):
        total += term
        if total >= 1 - 2.0**-53:
            break
        thresholds.append(int(total * 2.0**64))
        term *= mean / count
    return np.array(thresholds, np.uint64)


def _span_ends(texts: FlatRows, begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Where spans of so many words end: before a special token, and with their row, at the latest."""
    edges, is_word = texts.words
    after = edges.searchsorted(begins) + sizes
    ends = np.append(edges, len(texts.values)).take(after, mode="clip")
    if not is_word.all():
        breaks = np.append(edges[~is_word], len(texts.values))
        ends = np.minimum(ends, breaks[np.searchsorted(breaks, begins)])
    return np.minimum(ends, (texts.begins + texts.lengths).take(texts.rows.take(begins)))


class _Kept(NamedTuple):
    """What is left of texts, and which places of the flat array it is from."""

    texts: FlatRows
    places: np.ndarray


def _kept(texts: FlatRows, values: np.ndarray, is_kept_N: np.ndarray) -> _Kept:
    places = np.flatnonzero(is_kept_N)
    return _Kept(FlatRows(values.take(places), texts.counts(places), texts.width), places)


def _inserted(texts: FlatRows, kept: _Kept, befores: np.ndarray, masks: np.ndarray) -> FlatRows:
    """Masks inserted before places of the texts, in random order within each row, as far as there is room."""
    rows = texts.rows.take(befores)
    counts_B, room_B = np.bincount(rows, minlength=len(texts.lengths)), texts.width - kept.texts.lengths
    if (counts_B > room_B).any():
        ranks = np.arange(len(rows)) - (np.cumsum(counts_B) - counts_B).take(rows)
        has_room = ranks < room_B.take(rows)
        befores, masks = befores[has_room], masks[has_room]
        counts_B = np.minimum(counts_B, room_B)
    order = befores.argsort()
    places = kept.places.searchsorted(befores[order]) + np.arange(len(befores))
    values = np.empty(len(kept.places) + len(places), np.int64)
    is_old = np.ones(len(values), bool)
    is_old[places] = False
    values[is_old], values[places] = kept.texts.values, masks[order]
    return FlatRows(values, kept.texts.lengths + counts_B, texts.width)


def _random_tokens(vocabulary: Vocabulary, drawn: np.ndarray) -> np.ndarray:
    """Values of new tokens, of the low bits of random numbers."""
    ids = vocabulary.ordinary[draws.below(drawn, len(vocabulary.ordinary))].astype(np.int64)
    return ids | vocabulary.kinds[ids] | _INSERTED << 40


def _masks(noise: Noise, vocabulary: Vocabulary, count: int, drawn: np.ndarray | None) -> np.ndarray:
    """Values of mask tokens, or for a share of them of random tokens."""
    mask = vocabulary.mask_id | SPECIAL << 32 | int(_INSERTED) << 40
    if drawn is None:
        return np.full(count, mask, np.int64)
    is_random = draws.unit_interval(drawn) < noise.random_share
    return np.where(is_random, _random_tokens(vocabulary, drawn), mask)


_ACTIONS = {
    "permute": _permute,
    "replace": _replace,
    "mask": _mask,
    "delete": _delete,
    "infill": _infill,
    "rotate": _rotate,
}
