"""The host's record of the texts being generated: each row so far, and where it ends.

Shape letters: B prompt, R row (a sample of a prompt), T position in a row's whole text, N generated token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding.decoder import Limits, Prompts
from lm_jax.decoding.settings import History, Sampling
from lm_jax.errors import UserError

_NO_LIMIT = int(np.iinfo(np.int32).max)


class Generated(NamedTuple):
    """Tokens that continue each row, and their probabilities.

    Attributes:
        tokens: int32 [R, N]; sample j of prompt i is row i * num_samples + j. After a row's length: the end
            token, or 0.
        log_probs: float32 [R, N], natural logarithms of the model's own probabilities, before temperature
            or truncation; 0 after a row's length.
        lengths: int32 [R], tokens generated in each row, an end token counted.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    lengths: np.ndarray


def bucket(n: int) -> int:
    """The size that n items are padded to, so that few sizes are compiled: a power of two from 16."""
    return max(16, 1 << (n - 1).bit_length())


def room(n: int) -> int:
    """The capacity of a state for n tokens: one of few sizes, with at most a quarter more than n from 16 on.

    Attention reads all of a cache, and beams copy it: a power of two would cost up to twice as much.
    """
    step = max(16, 1 << (n - 1).bit_length()) // 8
    return max(16, -(-n // step) * step)


@partial(jax.jit, static_argnums=1)
def row_keys(seed_B: jax.Array, num_samples: int) -> jax.Array:
    """A random key for each row [R] that depends on the prompt's seed and the sample's number alone."""
    number_J = jnp.arange(num_samples)
    keys_BJ = jax.vmap(lambda seed: jax.vmap(lambda j: jax.random.fold_in(jax.random.key(seed), j))(number_J))
    return keys_BJ(seed_B).reshape(-1)


class Window(NamedTuple):
    """The tokens to read into a new state.

    Attributes:
        tokens_BT: int32, padded on the right to one of few widths.
        length_B: int32.
        capacity: how many tokens the state needs room for.
    """

    tokens_BT: np.ndarray
    length_B: np.ndarray
    capacity: int


def fit_prompts(prompts: Prompts, num_tokens: int, context_length: int | None, spare: int = 0) -> Window:
    """Pads prompts for a decoder that cannot read a part of the text again, as `sampling` can.

    Args:
        prompts: checked prompts.
        num_tokens: the maximum number of tokens generated in each row.
        context_length: the maximum number of tokens that the model can read; None: no limit.
        spare: how many more tokens the state should have room for, if the context has; -1 where the last one
            is not read.

    Raises:
        UserError: a prompt and `num_tokens` that together exceed the context.
    """
    longest, limit = int(prompts.lengths.max()), context_length or _NO_LIMIT
    if longest + num_tokens - 1 > limit:  # the last one is not read
        raise UserError(
            f"{num_tokens} tokens after a prompt of {longest} leave the context of {limit}",
            f"ask for at most {limit - longest + 1} tokens, or use neither beams nor a drafter",
        )
    width = min(bucket(longest), limit)
    added = max(0, width - prompts.tokens.shape[1])
    padded = np.pad(prompts.tokens, ((0, 0), (0, added)))[:, :width]
    capacity = min(max(room(longest + num_tokens + spare), width), limit)
    return Window(padded, prompts.lengths, capacity)


@dataclass
class Text:
    """Each row's whole text, and which part of it the model's state holds."""

    tokens_RT: np.ndarray
    length_R: np.ndarray  # tokens so far
    prompt_R: np.ndarray  # how many of them are the prompt's
    start_R: np.ndarray  # the index of the first token of the row's context
    done_R: np.ndarray
    context_length: int | None

    @classmethod
    def start(cls, prompts: Prompts, limits: Limits, context_length: int | None) -> "Text":
        """The prompts alone, with room for what is generated in each row; both arguments are checked."""
        tokens_RT = np.pad(prompts.tokens, ((0, 0), (0, limits.num_tokens)))
        tokens_RT = tokens_RT.repeat(limits.num_samples, axis=0)
        length_R = prompts.lengths.repeat(limits.num_samples)
        zeros_R = np.zeros_like(length_R)
        return cls(tokens_RT, length_R, length_R, zeros_R, zeros_R.astype(bool), context_length)

    @property
    def room(self) -> int:
        """How many more tokens every live row can read; the last one chosen is not yet read."""
        if self.context_length is None:
            return _NO_LIMIT
        read_R = self.length_R - 1 - self.start_R
        return self.context_length - int(read_R[~self.done_R].max())

    def slide(self, copies: int, remaining: int) -> Window:
        """What to read next. A row with a full context keeps its last half; a finished row keeps one token.

        Args:
            copies: how many successive rows are equal and read once.
            remaining: the maximum number of tokens that are still to be generated in a row.
        """
        limit = self.context_length or _NO_LIMIT
        full_R = self.length_R - self.start_R > limit
        self.start_R = np.where(full_R, self.length_R - max(1, limit // 2), self.start_R)
        self.start_R = np.where(self.done_R, self.length_R - 1, self.start_R)
        length_R = self.length_R - self.start_R
        longest = int(length_R.max())
        column_RT = self.start_R[:, None] + np.arange(min(bucket(longest), limit))
        column_RT = np.minimum(column_RT, self.tokens_RT.shape[1] - 1)  # repeats after the end are padding
        window_RT = np.take_along_axis(self.tokens_RT, column_RT, axis=1)
        capacity = min(max(room(longest + remaining), column_RT.shape[1]), limit)
        return Window(window_RT[::copies], length_R[::copies], capacity)

    def history(self, sampling: Sampling) -> History:
        """The text for `settings`; without tokens where no setting reads them."""
        width = self.tokens_RT.shape[1]
        kept_RS = self.tokens_RT if sampling.reads_text else self.tokens_RT[:, :0]
        rest = bucket(width) - width if sampling.reads_text else 0
        return History(
            *map(jnp.asarray, (np.pad(kept_RS, ((0, 0), (0, rest))), self.length_R, self.prompt_R))
        )

    def append(self, made: Generated, done_R: np.ndarray, limits: Limits) -> Generated:
        """Adds generated tokens, ends rows where `limits.stop` says, and returns the tokens that were kept.

        Args:
            made: new tokens; log-probabilities are NaN where the logits are no numbers, and where no token
                could be chosen, which -1 in the place of the token tells. Columns after the greatest length
                are dropped.
            done_R: rows that have ended.
            limits: the end token and `stop`.

        Raises:
            UserError: a log-probability of a token that is NaN, in words that tell why.
        """
        added_R = made.lengths.copy()
        n = int(added_R.max())
        tokens, log_probs = made.tokens[:, :n], made.log_probs[:, :n]
        is_bad_RN = np.isnan(log_probs) & (np.arange(n) < added_R[:, None])
        if (is_bad_RN & (tokens < 0)).any():
            row = int((is_bad_RN & (tokens < 0)).any(axis=1).argmax())
            raise UserError(
                f"nothing can follow the text of prompt {row // limits.num_samples}: the model gives every "
                "token probability 0, or the settings leave no token to choose",
                "check the vocabulary, min_tokens, and what is banned",
            )
        if is_bad_RN.any():
            raise UserError(
                "the model's logits are not numbers, or the settings leave no token to choose",
                "check its parameters and its context length, and what is banned",
            )
        self.done_R = done_R.copy()
        for row, added in enumerate(added_R):
            first, end = self.length_R[row], self.length_R[row] + added
            self.tokens_RT[row, first:end] = tokens[row, :added]
            if limits.stop is None or not added:
                continue
            keep = limits.stop(row, self.tokens_RT[row, self.prompt_R[row] : end])
            if keep is not None:
                added_R[row], self.done_R[row] = self.prompt_R[row] + keep - first, True
        self.length_R = self.length_R + added_R
        kept_RN = np.arange(n) < added_R[:, None]
        return Generated(
            np.where(kept_RN, tokens, limits.padding),
            np.where(kept_RN, log_probs, 0),
            added_R.astype(np.int32),
        )


def joined(pieces: Sequence[Generated], limits: Limits) -> Generated:
    """Successive pieces of the same rows as one, [R, num_tokens]."""
    lengths = np.stack([piece.lengths for piece in pieces]).sum(axis=0, dtype=np.int32)
    tokens = np.full((len(lengths), limits.num_tokens), limits.padding, np.int32)
    log_probs = np.zeros((len(lengths), limits.num_tokens), np.float32)
    for row in range(len(lengths)):
        parts = [(p.tokens[row, : p.lengths[row]], p.log_probs[row, : p.lengths[row]]) for p in pieces]
        tokens[row, : lengths[row]], log_probs[row, : lengths[row]] = map(np.concatenate, zip(*parts))
    return Generated(tokens, log_probs, lengths)
