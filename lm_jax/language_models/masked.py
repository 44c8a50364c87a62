"""Encoders with a head for masked tokens, as language models."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm_jax.data import pairs
from lm_jax.data.corruption import mask_rows
from lm_jax.data.store import TokenStream
from lm_jax.errors import UserError
from lm_jax.language_models.base import Candidate, PseudoScored
from lm_jax.language_models.encoder import EncoderLanguageModel
from lm_jax.language_models.options import as_texts
from lm_jax.language_models.trained import Trained, shared
from lm_jax.metrics.likelihood import token_log_probs
from lm_jax.tasks.masked import HELD_OUT

_SEED = 0  # of the noise in texts that are evaluated


class MaskedLanguageModel(EncoderLanguageModel):
    """An encoder with a head that predicts masked tokens."""

    evaluator = "masked"

    def __init__(self, trained: Trained):
        super().__init__(trained)
        self._mask = self.tokenizer.require_special("mask")
        self._predict, self._score, self._pair = shared(_compiled, self.module)
        self._kind_of_pairs = getattr(trained.task, "pairs", "none")

    @property
    def mask(self) -> str:
        """How a mask is written in a text."""
        return self.tokenizer.special_text("mask")

    @overload
    def fill(self, texts: str, top_k: int = 5) -> list[list[Candidate]]: ...  # type: ignore[overload-overlap]

    @overload
    def fill(self, texts: Sequence[str], top_k: int = 5) -> list[list[list[Candidate]]]: ...

    def fill(self, texts: Any, top_k: int = 5) -> Any:
        """The `top_k` most probable tokens for each mask of each text; see `Fills`.

        Masks of one text are filled independently: each distribution is over what any of the others may be.

        Args:
            texts: the texts; or one text alone, whose result is then not in a list.
            top_k: candidates for each mask.

        Raises:
            UserError: a text without a mask, one whose mask lies beyond the context, or an invalid `top_k`.
        """
        if isinstance(texts, str):
            return self.fill([texts], top_k)[0]
        if not 1 <= top_k <= self.config.known_tokens:
            raise UserError(f"top_k={top_k}", f"choose 1..{self.config.known_tokens}")
        rows = self._rows([self._encode_masks(text) for text in as_texts(texts, "texts")])
        places = [np.flatnonzero(row == self._mask) for row in rows]
        log_probs = self._log_probs(rows, places)
        return [[self._candidates(log_probs_V, top_k) for log_probs_V in of_text] for of_text in log_probs]

    def pseudo_score(self, texts: Sequence[str], within_word: bool = True) -> list[PseudoScored]:
        """The pseudo-log-likelihood of each text: every token is masked in turn (Salazar et al. 2020, eq. 2).

        Args:
            texts: none may be longer than the context.
            within_word: whether the later tokens of the same word are masked, too: otherwise they tell the
                token, and words of several tokens score too high (Kauf and Ivanova 2023).

        Raises:
            UserError: a text longer than the context.
        """
        texts = as_texts(texts, "texts")
        encodings = self.tokenizer.encode_batch(texts)
        for text, encoding in zip(texts, encodings, strict=True):
            if len(encoding.ids) + self._extra > self.context:
                raise UserError(
                    f"the text {text[:40]!r} has {len(encoding.ids)} tokens, and the model reads "
                    f"{self.context - self._extra}",
                    "cut it",
                )
        method = "within-word" if within_word else "original"
        label = f"pseudo-log-likelihood ({method}), which compares with no left-to-right probability"
        found = self._each_log_prob([encoding.ids for encoding in encodings], within_word)
        return [
            PseudoScored(text.encode(), encoding.spans, log_probs, label)
            for text, encoding, log_probs in zip(texts, encodings, found, strict=True)
        ]

    def _each_log_prob(self, texts: Sequence[np.ndarray], within_word: bool) -> list[np.ndarray]:
        """The natural-log probability of each token of each text, masked as by `_mask_each`: float64 [T]."""
        rows = self._rows([row for ids in texts for row in self._mask_each(ids, within_word)])
        places_N = np.concatenate([np.empty(0, np.int32), *(np.arange(1, len(ids) + 1) for ids in texts)])
        targets_N = np.concatenate([np.empty(0, np.int32), *texts])
        log_probs_N = np.empty(len(rows))
        for group, tokens_BT, segments_BT in self._batches(rows):
            filled = np.resize(group, len(tokens_BT))
            asked = (x_N[filled, None].astype(np.int32) for x_N in (places_N, targets_N))
            made_B1, _ = self._score(self.params, tokens_BT, segments_BT, *asked)
            log_probs_N[group] = np.asarray(made_B1)[: len(group), 0]
        ends = np.cumsum([len(ids) for ids in texts]).tolist()
        return [log_probs_N[end - len(ids) : end] for ids, end in zip(texts, ends, strict=True)]

    def _mask_each(self, ids: np.ndarray, within_word: bool) -> list[np.ndarray]:
        """For each token the ids with it masked, and with the later tokens of its word if asked."""
        starts, rows = self.tokenizer.starts_word[ids], []
        for i in range(len(ids)):
            row = ids.copy()
            end = i + 1
            while within_word and end < len(ids) and not starts[end]:
                end += 1
            row[i:end] = self._mask
            rows.append(row)
        return rows

    def _encode_masks(self, text: str) -> np.ndarray:
        pieces = text.split(self.mask)
        if len(pieces) == 1:
            raise UserError(
                f"the text {text[:40]!r} has no mask", f"write {self.mask} where a word is to be filled in"
            )
        ids = [part for piece in self.tokenizer.encode_ids(pieces) for part in (piece, [self._mask])]
        whole = np.concatenate(ids[:-1]).astype(np.int32)
        if len(whole) + self._extra > self.context and self._mask in whole[self.context - self._extra :]:
            raise UserError(
                f"a mask of the text {text[:40]!r} lies beyond the context of {self.context} tokens",
                "cut the text",
            )
        return whole

    def _log_probs(self, rows: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Natural-log probabilities at places of rows, a float32 [P, V] for each row."""
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        for group, tokens_BT, segments_BT in self._batches(rows):
            most = max(len(places[i]) for i in group)
            places_BP = np.zeros((len(tokens_BT), 1 << (most - 1).bit_length()), np.int32)
            for row, i in enumerate(group):
                places_BP[row, : len(places[i])] = places[i]
            log_probs_BPV = np.asarray(self._predict(self.params, tokens_BT, segments_BT, places_BP))
            for row, i in enumerate(group):
                found[i] = log_probs_BPV[row, : len(places[i])]
        return found

    def _candidates(self, log_probs_V: np.ndarray, top_k: int) -> list[Candidate]:
        best = np.argsort(-log_probs_V, kind="stable")[:top_k]
        return [Candidate(self.tokenizer.decode([i]), float(log_probs_V[i])) for i in best.tolist()]

    def predict_masked(self, texts: Sequence[str], first: int = 0) -> list["MaskedPredictions"]:
        """Masks tokens of each text by `HELD_OUT`, whatever the training's noise was, and predicts them.

        A text longer than the context is read in pieces that do not overlap. The noise depends on the number
        of the text, the context and the tokens alone, so that models with one tokenizer are asked for the
        same tokens.

        Args:
            texts: the texts.
            first: the number of the first one.
        """
        ids = self.tokenizer.encode_ids(list(texts))
        size = self.context - self._extra
        pieces = [(i, start) for i, x in enumerate(ids) for start in range(0, len(x), size)]
        rows = self._rows([ids[i][start : start + size] for i, start in pieces])
        made: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in ids]
        special = [i for name, i in self.tokenizer.special_ids.items() if name != "unk"]
        for group, tokens_BT, segments_BT in self._batches(rows):
            masked = [
                self._mask_row(rows[i], special, first + pieces[i][0], pieces[i][1] // size) for i in group
            ]
            filled = [masked[row % len(group)] for row in range(len(tokens_BT))]
            length = np.shape(tokens_BT)[1]
            inputs_BT = np.array([_widened(inputs, length, self._pad) for inputs, _, _ in filled])
            most = max(1, *(len(places) for _, places, _ in masked))
            places_BP, targets_BP = (
                np.array([_widened(row[k], 1 << (most - 1).bit_length(), 0) for row in filled])
                for k in (1, 2)
            )
            log_probs_BP, right_BP = self._score(self.params, inputs_BT, segments_BT, places_BP, targets_BP)
            for row, i in enumerate(group):
                count = len(masked[row][1])
                made[pieces[i][0]].append(
                    (np.asarray(log_probs_BP)[row, :count], np.asarray(right_BP)[row, :count])
                )
        empty = (np.empty(0, np.float32), np.empty(0, bool))
        return [MaskedPredictions(*map(np.concatenate, zip(empty, *parts))) for parts in made]

    def _mask_row(
        self, row: np.ndarray, special: list[int], text: int, piece: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The row with masks, and the places and tokens to predict."""
        tokens_1T = np.full((1, self.context), self._pad, np.int32)
        tokens_1T[0, : len(row)] = row
        maskable_1T = ~np.isin(tokens_1T, special)
        maskable_1T[0, len(row) :] = False
        masked = mask_rows(
            HELD_OUT, tokens_1T, maskable_1T, self.tokenizer.starts_word[tokens_1T], np.array([len(row)]),
            self._mask, self.tokenizer.vocab_size, [_SEED, text], piece,
        )  # fmt: skip
        is_asked_P = masked.weights_BP[0] > 0
        return (
            masked.inputs_BT[0, : len(row)],
            masked.positions_BP[0, is_asked_P],
            masked.targets_BP[0, is_asked_P],
        )

    def predict_pairs(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """Whether the model tells pairs of sentences that follow each other from others.

        Returns:
            For each pair of one epoch the number of its text, int64 [N], and whether it was told right, bool
            [N]; None if the model has no head for pairs, or the texts give none.
        """
        if self._kind_of_pairs == "none":
            return None
        ids = self.tokenizer.encode_ids(list(texts))
        offsets = np.cumsum([1, *(len(x) + 1 for x in ids)])
        tokens = np.concatenate([[self._end], *(np.append(x, self._end) for x in ids)])
        length = self.context
        sentences = pairs.find_sentences(
            TokenStream(tokens, offsets), pairs.sentence_ends(self.tokenizer), length
        )
        make = pairs.next_sentence_pairs if self._kind_of_pairs == "next" else pairs.sentence_order_pairs
        if self._kind_of_pairs == "next" and len(sentences.documents) < 2:
            return None
        table = make(sentences, length, _SEED, 0)
        if not len(table.labels):
            return None
        right, at_once = np.zeros(len(table.labels), bool), 16
        for first in range(0, len(right), at_once):
            numbers = np.minimum(np.arange(first, first + at_once), len(right) - 1)
            rows = pairs.read_pairs(table, numbers, tokens, length, self._begin[0], self._end, self._pad)
            logits_B2 = np.asarray(self._pair(self.params, *self.trained.placed(tuple(rows))))
            right[numbers] = logits_B2.argmax(axis=1) == table.labels[numbers]
        return table.documents, right


class MaskedPredictions(NamedTuple):
    """The predictions of the masked tokens of one text.

    Attributes:
        log_probs: float32 [N], natural log of the probability of each.
        right: bool [N], whether it was the most probable one.
    """

    log_probs: np.ndarray
    right: np.ndarray


def _widened(row: np.ndarray, length: int, value: int) -> np.ndarray:
    return np.pad(row, (0, length - len(row)), constant_values=value)


def _compiled(module: nn.Module) -> tuple[Any, Any, Any]:
    predict, score, pair = (jax.jit(partial(f, module)) for f in (_predict, _score, _pair))
    return predict, score, pair


def _predict(module: nn.Module, params: Any, *rows: Any) -> Any:
    return nn.log_softmax(_at(module, params, *rows))


def _at(module: nn.Module, params: Any, tokens_BT: Any, segments_BT: Any, places_BP: Any) -> Any:
    """Logits at places of rows, [B, P, V]."""
    hidden_BTD: Any = module.apply(params, tokens_BT, segments_BT, method="encode")
    hidden_BPD = jnp.take_along_axis(hidden_BTD, jnp.asarray(places_BP)[:, :, None], axis=1)
    return module.apply(params, hidden_BPD, method="logits")


def _score(
    module: nn.Module, params: Any, tokens_BT: Any, segments_BT: Any, places_BP: Any, targets_BP: Any
) -> tuple[jax.Array, jax.Array]:
    """The log-probabilities of tokens, and whether they are the most probable ones; both [B, P]."""
    logits_BPV = _at(module, params, tokens_BT, segments_BT, places_BP)
    return token_log_probs(logits_BPV, targets_BP), logits_BPV.argmax(axis=-1) == targets_BP


def _pair(module: nn.Module, params: Any, tokens_BT: Any, segments_BT: Any, types_BT: Any) -> Any:
    hidden_BTD = module.apply(params, tokens_BT, segments_BT, types_BT, method="encode")
    return module.apply(params, hidden_BTD, method="pair_logits")
