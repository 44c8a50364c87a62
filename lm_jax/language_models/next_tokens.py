"""The capability of telling the probability of every token that may come next, and how decoders tell it."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from lm_jax.decoding.decoder import Decoder
from lm_jax.decoding.text import bucket
from lm_jax.errors import UserError
from lm_jax.text.base import Tokenizer

_ROWS, _LEAST_WIDTH = 16, 128  # histories that are read at a time, and tokens: few shapes are compiled


@runtime_checkable
class NextTokens(Protocol):
    """The capability of giving the whole distribution of the token that follows a history.

    It belongs to models that score token by token: `score` gives the tokens of `tokenizer.encode(text)` and
    the end of the text, and the log-probability of the token at place t is that of its id after the ids at
    the places before t. `lm_jax.audit` proves on samples that the two agree.

    Attributes:
        tokenizer: from text to ids.
    """

    tokenizer: Tokenizer

    @property
    def context(self) -> int | None:
        """The largest number of tokens that are read, the one before a text among them; None: any number."""
        ...

    def next_log_probs(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Natural log of the probability of every token after each history, float64 [N, W].

        Column i is the token of id i. Columns behind the vocabulary are outcomes that no token of a text is,
        if there are any, such as the rows that pad a vocabulary. The probabilities of a row sum to one.

        Args:
            histories: the ids of tokens from the beginning of a text on, int [T], T below `context`; the
                token before a text is not among them.

        Raises:
            UserError: a history that is longer than what the model reads.
        """
        ...


def from_decoder(decoder: Decoder, begin_id: int, histories: Sequence[np.ndarray]) -> np.ndarray:
    """As `NextTokens.next_log_probs`, by the program that reads the prompts of generation.

    Args:
        decoder: the model.
        begin_id: the token before a text.
        histories: see there.
    """
    longest, limit = 1 + max(map(len, histories), default=0), decoder.context_length
    if limit is not None and longest > limit:
        raise UserError(
            f"a history of {longest - 1} tokens, and the model reads {limit} with the one before the text",
            "give its last tokens",
        )
    width = max(_LEAST_WIDTH, bucket(longest))
    width = width if limit is None else min(width, limit)
    made = []
    for first in range(0, len(histories), _ROWS):
        group = histories[first : first + _ROWS]
        tokens_BT = np.full((_ROWS, width), begin_id, np.int32)
        length_B = np.ones(_ROWS, np.int32)
        for row, ids in enumerate(group):
            tokens_BT[row, 1 : 1 + len(ids)], length_B[row] = ids, 1 + len(ids)
        logits_BV = _read(decoder.prefill, width, decoder.params, tokens_BT, length_B)
        made.append(_log_softmax(np.asarray(logits_BV, np.float64)[: len(group)]))
    return np.concatenate(made) if made else np.empty((0, 0))


@partial(jax.jit, static_argnames=("prefill", "capacity"))
def _read(prefill: Any, capacity: int, params: Any, tokens_BT: jax.Array, length_B: jax.Array) -> jax.Array:
    """The logits after each row, [B, V]; a program without the state that they come with."""
    return prefill(params, tokens_BT, length_B, capacity)[0]


def _log_softmax(logits_BV: np.ndarray) -> np.ndarray:
    shifted_BV = logits_BV - logits_BV.max(axis=-1, keepdims=True)
    return shifted_BV - np.log(np.exp(shifted_BV).sum(axis=-1, keepdims=True))
