"""What a model expects at each place of a text: logits over its tokenizer's tokens."""

from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.text.base import Tokenizer, utf8


class Logits(NamedTuple):
    """The distribution over the next token at each place of one text.

    Row t is that of token t, given the tokens before it; the last row is that of what follows the whole text.

    Attributes:
        logits: float32 [T, V], natural logs of probabilities up to a constant of each row; a column for each
            token of the tokenizer. Those of n-grams are the log-probabilities themselves.
        log_normalisers: float64 [T], what to subtract from each row to get log-probabilities.
        ids: int32 [T], the text's tokens, and the token that ends it.
        tokenizer: whose ids the columns are.
    """

    logits: np.ndarray
    log_normalisers: np.ndarray
    ids: np.ndarray
    tokenizer: Tokenizer

    @property
    def log_probs(self) -> np.ndarray:
        """float64 [T, V], the natural log of the probability of each token of the vocabulary."""
        return self.logits - self.log_normalisers[:, None]

    @property
    def tokens(self) -> list[bytes]:
        """The bytes of the text's tokens; empty for the end."""
        return [self.tokenizer.token_bytes(i) for i in self.ids.tolist()]

    def top(self, k: int = 5) -> list[list[tuple[bytes, float]]]:
        """For each place the bytes of the k most probable tokens, each with its log-probability, in nats.

        Raises:
            UserError: a number below 1 or above that of the tokens.
        """
        if not 1 <= k <= self.logits.shape[-1]:
            raise UserError(f"k={k}", f"choose 1..{self.logits.shape[-1]}")
        log_probs = self.log_probs
        best = np.argsort(-log_probs, axis=-1, kind="stable")[:, :k]
        return [
            [(self.tokenizer.token_bytes(i), float(row[i])) for i in places]
            for places, row in zip(best.tolist(), log_probs, strict=True)
        ]

    def __repr__(self) -> str:
        places, size = self.logits.shape
        return f"Logits({places} places, {size} tokens)"


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """log Σ exp over the last axis, in float64."""
    logits = logits.astype(np.float64)
    most = logits.max(axis=-1, keepdims=True)
    return most[..., 0] + np.log(np.exp(logits - most).sum(axis=-1))


def one_text(text: Any) -> str:
    """The text itself.

    Raises:
        UserError: it is no text, or has no UTF-8.
    """
    if not isinstance(text, str):
        raise UserError(f"the text is a {type(text).__name__}, not a string", "give one string")
    utf8(text)
    return text
