"""Rows of texts between special tokens, as models of labels and of sources and targets read them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lm_jax.batch import Array
from lm_jax.data.examples import pad
from lm_jax.text.base import Tokenizer


class LabelBatch(NamedTuple):
    """Rows of texts with their labels.

    Attributes:
        tokens: int32 [B, T].
        segments: int32 [B, T]; 0, and -1 at padded positions.
        types: int32 [B, T]; 1 for the second text of a pair and its end, else 0.
        labels: int32 [B] classes, float32 [B] numbers, or int32 [B, T] the class of the word whose first
            token is at the position.
        weights: float32, of the shape of the labels; 0 where there is none.
    """

    tokens: Array
    segments: Array
    types: Array
    labels: Array
    weights: Array


class Frame(NamedTuple):
    """The special tokens around texts: `begin a end`, or `begin a end b end` for a pair.

    Attributes:
        begin: the first token.
        end: the token after each text.
        padding: the token at padded positions.
    """

    begin: int
    end: int
    padding: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Frame":
        """[CLS] and [SEP] where the vocabulary has both, as for BERT, else the end token."""
        special = tokenizer.special_ids
        framed = "cls" in special and "sep" in special
        begin, end = (special["cls"], special["sep"]) if framed else (tokenizer.end_id, tokenizer.end_id)
        return cls(begin, end, special.get("pad", end))

    def lengths(self, first_D: np.ndarray, second_D: np.ndarray | None = None) -> np.ndarray:
        """The lengths of rows of texts of so many tokens, with the special ones."""
        return first_D + 2 if second_D is None else first_D + second_D + 3

    def rows(
        self, firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray] | None, length: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, segments and types, int32 [B, T], of texts or of pairs.

        A text that does not fit is cut at its end. Of a pair the longer text is cut until both are of equal
        length, then both are.

        Args:
            firsts: B arrays of token ids.
            seconds: B more for pairs; None: single texts.
            length: T, at least 3, or 5 for pairs.
        """
        made, begins = [], np.full(len(firsts), length)
        for row, first in enumerate(firsts):
            if seconds is None:
                made.append(np.concatenate([[self.begin], first[: length - 2], [self.end]]))
                continue
            a, b = fit(len(first), len(seconds[row]), length - 3)
            begins[row] = a + 2
            made.append(np.concatenate([[self.begin], first[:a], [self.end], seconds[row][:b], [self.end]]))
        tokens_BT, segments_BT = pad(made, length, self.padding)
        types_BT = (np.arange(length)[None] >= begins[:, None]) & (segments_BT >= 0)
        return tokens_BT, segments_BT, types_BT.astype(np.int32)


class PairBatch(NamedTuple):
    """Sources, and targets that are predicted from left to right.

    Attributes:
        source: int32 [B, S].
        source_segments: int32 [B, S]; 0, and -1 at padded positions.
        inputs: int32 [B, T]; the start token, and the target without its last token.
        targets: int32 [B, T]; the target, whose last token is the end.
        weights: float32 [B, T]; 1, and 0 at padded positions.
    """

    source: Array
    source_segments: Array
    inputs: Array
    targets: Array
    weights: Array


class PairFrame(NamedTuple):
    """The special tokens of sources, `begin a end`, and of targets, which are written after `start`.

    Attributes:
        begin: what a source begins with: <s> or [CLS]; empty where the vocabulary has no such token.
        target_begin: what a target begins with: <s>, as in BART's published form, or nothing.
        end: the token after a source and after a target.
        start: what is read before the first token of a target; as published, the end token.
        padding: the token at padded positions.
    """

    begin: tuple[int, ...]
    target_begin: tuple[int, ...]
    end: int
    start: int
    padding: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "PairFrame":
        """The tokens that a vocabulary has: BART's <s> and </s>, BERT's [CLS] and [SEP], or an end token."""
        special, end = tokenizer.special_ids, tokenizer.end_id
        begin: tuple[int, ...] = ()
        target_begin: tuple[int, ...] = ()
        if special.get("bos", end) != special.get("eos", end):
            begin = target_begin = (special["bos"],)
            end = special["eos"]
        elif "cls" in special and "sep" in special:
            begin, end = (special["cls"],), special["sep"]
        return cls(begin, target_begin, end, end, special.get("pad", end))

    @property
    def source_extra(self) -> int:
        """The number of special tokens of a source."""
        return len(self.begin) + 1

    @property
    def target_extra(self) -> int:
        """The number of special tokens of a target; as many as it has beside its text as inputs."""
        return len(self.target_begin) + 1

    def source(self, ids: np.ndarray, length: int) -> np.ndarray:
        """A source of at most `length` tokens; a longer text is cut at its end."""
        return np.concatenate([self.begin, ids[: length - self.source_extra], [self.end]]).astype(np.int32)

    def target(self, ids: np.ndarray, length: int) -> np.ndarray:
        """A target of at most `length` tokens; a longer text is cut at its end."""
        room = length - self.target_extra
        return np.concatenate([self.target_begin, ids[:room], [self.end]]).astype(np.int32)

    def batch(
        self,
        sources: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        lengths: tuple[int, int],
        weights_B: np.ndarray | None = None,
    ) -> PairBatch:
        """Framed sources and targets as a batch of rows of these lengths.

        Args:
            sources: B arrays, from `source`.
            targets: B arrays, from `target`.
            lengths: S and T.
            weights_B: of each row; None: 1.
        """
        made = self.pair(*pad(sources, lengths[0], self.padding), *pad(targets, lengths[1], self.padding))
        return made if weights_B is None else made._replace(weights=made.weights * weights_B[:, None])

    def pair(
        self,
        source_BS: np.ndarray,
        source_segments_BS: np.ndarray,
        targets_BT: np.ndarray,
        segments_BT: np.ndarray,
    ) -> PairBatch:
        """The batch of padded rows of framed sources and targets."""
        inputs_BT = np.empty_like(targets_BT)
        inputs_BT[:, 0], inputs_BT[:, 1:] = self.start, targets_BT[:, :-1]
        weights_BT = (segments_BT >= 0).astype(np.float32)
        return PairBatch(source_BS, source_segments_BS, inputs_BT, targets_BT, weights_BT)


def framed(
    tokens_BT: np.ndarray, lengths_B: np.ndarray, begin: Sequence[int], end: int, padding: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Texts that are rows already between special tokens, all at once.

    Args:
        tokens_BT: int token ids.
        lengths_B: int; the tokens of each row.
        begin: the tokens before a text.
        end: the token after it.
        padding: the token at padded positions.
        length: of the framed rows; there is room for each text.

    Returns:
        The tokens, int32 [B, length], and segments: 0, and -1 at padded positions.
    """
    first, places = len(begin), np.arange(length)
    ends_B1 = first + np.asarray(lengths_B)[:, None]
    width = min(tokens_BT.shape[1], length - first)
    framed_BT = np.empty((len(tokens_BT), length), np.int32)
    framed_BT[:, :first] = begin
    framed_BT[:, first : first + width] = tokens_BT[:, :width]
    framed_BT[places >= ends_B1] = padding
    np.put_along_axis(framed_BT, ends_B1, end, axis=1)
    return framed_BT, -(places > ends_B1).astype(np.int32)


def draw_documents(num_documents: int, num_examples: int, seed: int) -> np.ndarray:
    """The documents that are trained on, int64 [N], ascending: some that the seed chooses, or for 0 all."""
    if not 0 < num_examples < num_documents:
        return np.arange(num_documents)
    return np.sort(np.random.default_rng(seed).permutation(num_documents)[:num_examples])


def fit(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each of a pair of texts fit: the longer is cut first, then both to half of the room.

    Of an odd room the longer one, or of two equal ones the second, has a token more: as by the strategy
    "longest_first" of Hugging Face's tokenizers.
    """
    shorter, longer = sorted((first, second))
    if shorter + longer > room:
        shorter = min(shorter, room // 2)
        longer = room - shorter
    return (shorter, longer) if first <= second else (longer, shorter)


def windows(num_tokens: int, places_W: np.ndarray, room: int) -> list[tuple[int, int]]:
    """The first token and the end of each of the windows in which a text is read, each token in one.

    A window ends before a word, unless the word is longer than the room.

    Args:
        num_tokens: of the text.
        places_W: the first token of each word, ascending; negative ones are ignored.
        room: the largest number of tokens in a window.
    """
    found, start = [], 0
    while num_tokens - start > room:
        edges = places_W[(places_W > start) & (places_W <= start + room)]
        end = int(edges[-1]) if len(edges) else start + room
        found.append((start, end))
        start = end
    return [*found, (start, num_tokens)]
