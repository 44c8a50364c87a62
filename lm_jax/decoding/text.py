"""What the host knows of texts that are being written: the prompts, each row so far, and where it stops.

Shape letters: B prompt, R row (a sample of a prompt), T place in a row's whole text, N token generated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding.processors import History, Sampling
from lm_jax.errors import UserError

# Asked after each few tokens, with the number of a row and all tokens generated in it: how many of them to
# keep, where the row is to end, else None.
Stop = Callable[[int, np.ndarray], int | None]
_NO_LIMIT = int(np.iinfo(np.int32).max)


class Generated(NamedTuple):
    """Tokens that continue each row, and what the model thought of them.

    Attributes:
        tokens: int32 [R, N]; sample j of prompt i is row i * num_samples + j. Past a row's length: the end
            token, or 0.
        log_probs: float32 [R, N], natural logarithms of the model's own probabilities, before temperature
            or truncation; 0 past a row's length.
        lengths: int32 [R], tokens generated in each row, an end token counted.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    lengths: np.ndarray


def bucket(n: int) -> int:
    """The size that n things are padded to, so that few sizes are compiled: a power of two from 16."""
    return max(16, 1 << (n - 1).bit_length())


def check_counts(**counts: int) -> None:
    """Raises UserError unless each is 1 or more."""
    if min(counts.values()) < 1:
        named = ", ".join(f"{name}={count}" for name, count in counts.items())
        raise UserError(named, "each must be 1 or more")


def row_keys(seeds: Sequence[int] | None, num_prompts: int, num_samples: int) -> jax.Array:
    """A key for each sample of each prompt [R], which depends on the prompt's seed and its own number alone.

    Args:
        seeds: one a prompt, from 0 below 2**32; None: 0 for all.
        num_prompts: how many prompts there are.
        num_samples: how many rows continue each.

    Raises:
        UserError: a seed out of range, or not one for each prompt.
    """
    seeds = [0] * num_prompts if seeds is None else seeds
    if len(seeds) != num_prompts or not all(0 <= seed < 2**32 for seed in seeds):
        raise UserError(f"seeds={seeds}", "give one for each prompt, from 0 below 2**32")
    return _row_keys(np.array(seeds, np.uint32), num_samples)


@partial(jax.jit, static_argnums=1)
def _row_keys(seed_B: jax.Array, num_samples: int) -> jax.Array:
    number_J = jnp.arange(num_samples)
    keys_BJ = jax.vmap(lambda seed: jax.vmap(lambda j: jax.random.fold_in(jax.random.key(seed), j))(number_J))
    return keys_BJ(seed_B).reshape(-1)


def _checked_prompts(
    prompts: np.ndarray, lengths: np.ndarray, context_length: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts and lengths as int32.

    Raises:
        UserError: an empty prompt, or one longer than its row or the context.
    """
    prompts, lengths = np.asarray(prompts, np.int32), np.asarray(lengths, np.int32)
    if len(lengths) != len(prompts):
        raise UserError(f"{len(lengths)} lengths of {len(prompts)} prompts", "give one for each")
    if (lengths < 1).any() or (lengths > prompts.shape[1]).any():
        raise UserError(
            f"prompts of {lengths.tolist()} tokens in rows of {prompts.shape[1]}",
            "give each at least one, such as the end-of-text token, and at most a row",
        )
    if context_length is not None and lengths.max() > context_length:
        raise UserError(
            f"a prompt of {lengths.max()} tokens is longer than the context of {context_length}",
            "shorten the prompt",
        )
    return prompts, lengths


class Fitted(NamedTuple):
    """Prompts that with all that is to be written stay within the context.

    Attributes:
        prompts: int32 [B, T], padded on the right to one of few widths.
        lengths: int32 [B].
        capacity: how many tokens a state needs room for.
    """

    prompts: np.ndarray
    lengths: np.ndarray
    capacity: int


def fit_prompts(
    prompts: np.ndarray, lengths: np.ndarray, num_tokens: int, context_length: int | None, spare: int = 0
) -> Fitted:
    """For what cannot leave the context, as `sampling.stream` can.

    Args:
        prompts: int [B, T], padded on the right.
        lengths: int [B].
        num_tokens: the most that are written in each row.
        context_length: the most tokens that the model can read; None: no limit.
        spare: tokens beyond these that a state should have room for, if the context has.

    Raises:
        UserError: a prompt that is empty, or longer than the context with `num_tokens` behind it.
    """
    prompts, lengths = _checked_prompts(prompts, lengths, context_length)
    longest, limit = int(lengths.max()), context_length or _NO_LIMIT
    if longest + num_tokens - 1 > limit:  # the last one is not read
        raise UserError(
            f"{num_tokens} tokens after a prompt of {longest} leave the context of {limit}",
            f"ask for at most {limit - longest + 1} tokens, or use neither beams nor a drafter",
        )
    width = min(bucket(longest), limit)
    padded = np.pad(prompts, ((0, 0), (0, max(0, width - prompts.shape[1]))))[:, :width]
    return Fitted(padded, lengths, min(bucket(longest + num_tokens + spare), limit))


@dataclass
class Text:
    """Each row's whole text, and which of it the model's state holds."""

    tokens_RT: np.ndarray
    length_R: np.ndarray  # tokens so far
    prompt_R: np.ndarray  # how many of them are the prompt's
    start_R: np.ndarray  # where in them the row's context begins
    done_R: np.ndarray
    context_length: int | None

    @classmethod
    def start(
        cls,
        prompts: np.ndarray,
        lengths: np.ndarray,
        num_tokens: int,
        context_length: int | None,
        num_samples: int,
    ) -> "Text":
        """The prompts alone, with room for `num_tokens` more in each of `num_samples` rows.

        Raises:
            UserError: a prompt that is empty, or longer than the context.
        """
        prompts, lengths = _checked_prompts(prompts, lengths, context_length)
        tokens_RT = np.pad(prompts, ((0, 0), (0, num_tokens))).repeat(num_samples, axis=0)
        length_R = lengths.repeat(num_samples)
        zeros_R = np.zeros_like(length_R)
        return cls(tokens_RT, length_R, length_R, zeros_R, zeros_R.astype(bool), context_length)

    @property
    def room(self) -> int:
        """How many more tokens every live row can read; the last one chosen is not yet read."""
        if self.context_length is None:
            return _NO_LIMIT
        read_R = self.length_R - 1 - self.start_R
        return self.context_length - int(read_R[~self.done_R].max())

    def slide(self, copies: int, remaining: int) -> tuple[np.ndarray, np.ndarray, int]:
        """What to read next, [B, T] and [B], and how many tokens the state should have room for.

        A row whose context is full keeps its last half; a row that is done keeps one token.

        Args:
            copies: how many rows in succession are alike and read once.
            remaining: the most tokens that are still to be written in a row.
        """
        limit = self.context_length or _NO_LIMIT
        full_R = self.length_R - self.start_R > limit
        self.start_R = np.where(full_R, self.length_R - max(1, limit // 2), self.start_R)
        self.start_R = np.where(self.done_R, self.length_R - 1, self.start_R)
        length_R = self.length_R - self.start_R
        longest = int(length_R.max())
        column_RT = self.start_R[:, None] + np.arange(min(bucket(longest), limit))
        column_RT = np.minimum(column_RT, self.tokens_RT.shape[1] - 1)  # repeats beyond the end are padding
        window_RT = np.take_along_axis(self.tokens_RT, column_RT, axis=1)
        return window_RT[::copies], length_R[::copies], min(bucket(longest + remaining), limit)

    def history(self, sampling: Sampling) -> History:
        """The text for processors; without tokens where none reads them."""
        width = self.tokens_RT.shape[1]
        kept_RS = self.tokens_RT if sampling.reads_text else self.tokens_RT[:, :0]
        rest = bucket(width) - width if sampling.reads_text else 0
        return History(
            *map(jnp.asarray, (np.pad(kept_RS, ((0, 0), (0, rest))), self.length_R, self.prompt_R))
        )

    def append(
        self,
        tokens: np.ndarray,
        log_probs: np.ndarray,
        added_R: np.ndarray,
        done_R: np.ndarray,
        padding: int,
        stop: Stop | None,
    ) -> Generated:
        """Takes what a call has made, and returns what of it to hand over: a row ends where `stop` says.

        Args:
            tokens: int [R, N].
            log_probs: float [R, N]; NaN where none could be chosen.
            added_R: how many of them each row has; columns beyond the most are dropped.
            done_R: rows that have ended.
            padding: the token past a row's length.
            stop: see `Stop`.

        Raises:
            UserError: a log-probability of a token that is NaN.
        """
        n, added_R = int(added_R.max()), added_R.copy()
        tokens, log_probs = tokens[:, :n], log_probs[:, :n]
        if np.isnan(log_probs[np.arange(n) < added_R[:, None]]).any():
            raise UserError(
                "the model's logits are not numbers, or the settings leave no token to choose",
                "check its parameters and its context length, and what is banned",
            )
        self.done_R = done_R.copy()
        for row, added in enumerate(added_R):
            first, end = self.length_R[row], self.length_R[row] + added
            self.tokens_RT[row, first:end] = tokens[row, :added]
            keep = stop(row, self.tokens_RT[row, self.prompt_R[row] : end]) if stop and added else None
            if keep is not None:
                added_R[row], self.done_R[row] = self.prompt_R[row] + keep - first, True
        self.length_R = self.length_R + added_R
        kept_RN = np.arange(n) < added_R[:, None]
        return Generated(
            np.where(kept_RN, tokens, padding), np.where(kept_RN, log_probs, 0), added_R.astype(np.int32)
        )


def joined(pieces: Sequence[Generated], num_tokens: int, padding: int) -> Generated:
    """Pieces of the same rows as one, [R, num_tokens]."""
    lengths = np.stack([piece.lengths for piece in pieces]).sum(axis=0, dtype=np.int32)
    tokens = np.full((len(lengths), num_tokens), padding, np.int32)
    log_probs = np.zeros((len(lengths), num_tokens), np.float32)
    for row in range(len(lengths)):
        parts = [(p.tokens[row, : p.lengths[row]], p.log_probs[row, : p.lengths[row]]) for p in pieces]
        tokens[row, : lengths[row]], log_probs[row, : lengths[row]] = map(np.concatenate, zip(*parts))
    return Generated(tokens, log_probs, lengths)
