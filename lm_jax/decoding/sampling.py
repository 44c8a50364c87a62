"""Text from a model, one token after another: the loop that all families share.

Decoders receive functions, never a model. Every leaf of a state has the batch as its first axis.

    prefill(params, tokens_BT, length_B, capacity) -> (logits_BV, state)
        reads prompts padded on the right; capacity is the number of tokens the state must have room for
    step(params, state, token_B) -> (logits_BV, state)
        reads one more token a row

How each token is chosen is in `processors.py`.

Shape letters: B prompt, R row (a sample of a prompt), T position, N token generated, V vocabulary, S place in
a row's whole text.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding.processors import History, sample
from lm_jax.decoding.processors import Sampling as Sampling  # part of this module's interface
from lm_jax.errors import UserError

Prefill = Callable[[Any, jax.Array, jax.Array, int], tuple[jax.Array, Any]]
Step = Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]
# Asked after each few tokens, with the number of a row and all tokens generated in it: how many of them to
# keep, where the row is to end, else None.
Stop = Callable[[int, np.ndarray], int | None]
_PLAIN = Sampling()


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


def generate(
    prefill: Prefill,
    step: Step,
    params: Any,
    prompts: np.ndarray,
    lengths: np.ndarray,
    num_tokens: int,
    sampling: Sampling = _PLAIN,
    seeds: Sequence[int] | None = None,
    end_id: int | None = None,
    context_length: int | None = None,
    num_samples: int = 1,
    stop: Stop | None = None,
) -> Generated:
    """Continues each prompt by `num_tokens` tokens, or to its end. Arguments and errors as for `stream`."""
    chunks = list(
        stream(
            prefill, step, params, prompts, lengths, num_tokens, sampling, seeds, end_id, context_length,
            num_samples, chunk=16 if stop else bucket(num_tokens), stop=stop,
        )
    )  # fmt: skip
    tokens = np.concatenate([c.tokens for c in chunks], axis=1)
    log_probs = np.concatenate([c.log_probs for c in chunks], axis=1)
    rest = ((0, 0), (0, num_tokens - tokens.shape[1]))
    return Generated(
        np.pad(tokens, rest, constant_values=end_id or 0),
        np.pad(log_probs, rest),
        np.stack([c.lengths for c in chunks]).sum(axis=0, dtype=np.int32),
    )


def stream(
    prefill: Prefill,
    step: Step,
    params: Any,
    prompts: np.ndarray,
    lengths: np.ndarray,
    num_tokens: int,
    sampling: Sampling = _PLAIN,
    seeds: Sequence[int] | None = None,
    end_id: int | None = None,
    context_length: int | None = None,
    num_samples: int = 1,
    chunk: int = 8,
    stop: Stop | None = None,
) -> Iterator[Generated]:
    """Continues each prompt, handing over a few tokens at a time.

    A row's text depends on its prompt, its seed and the number of the sample, not on the rows beside it
    (but for rounding, which differs between shapes). Past `context_length` the row goes on from the last
    half of its context, read anew.

    Args:
        prefill: see the module; the same object again, as for `step`, compiles nothing anew.
        step: see the module.
        params: passed to both.
        prompts: int [B, T], padded on the right. Padded here to a power of two, to compile few shapes.
        lengths: int [B], from 1 to the context length.
        num_tokens: how many to generate in each row.
        sampling: how each is chosen.
        seeds: one integer a prompt, from 0 below 2**32; by default 0 for all.
        end_id: a token that ends its row.
        context_length: the most tokens the model can read; None: no limit.
        num_samples: how many continuations of each prompt.
        chunk: tokens handed over at a time, fewer after reading and at the end.
        stop: see `Stop`; what a row has beyond it is dropped.

    Yields:
        `Generated`, of the new tokens only, whose `lengths` are how many of them each row has.

    Raises:
        UserError: a prompt that is empty or longer than the context, a setting out of range, or logits
            that are not numbers.
    """
    sampling.check()
    seeds = [0] * len(prompts) if seeds is None else seeds
    if min(len(prompts), num_tokens, num_samples, chunk) < 1:
        raise UserError(
            f"{len(prompts)} prompts, num_tokens={num_tokens}, num_samples={num_samples}, chunk={chunk}",
            "each must be 1 or more",
        )
    if len(seeds) != len(prompts) or not all(0 <= seed < 2**32 for seed in seeds):
        raise UserError(f"seeds={seeds}", "give one for each prompt, from 0 below 2**32")
    text = _Text.start(prompts, lengths, num_tokens, context_length, num_samples)
    key_R = _row_keys(np.array(seeds, np.uint32), num_samples)
    end = -1 if end_id is None else end_id  # no token is -1
    rows, made = None, 0
    while made < num_tokens and not text.done_R.all():
        if rows is None or text.room == 0:
            copies = num_samples if rows is None else 1
            window, length, capacity = text.slide(copies, num_tokens - made)
            rows, out = _begin(
                prefill, params, window, length, capacity, copies, sampling, key_R, made,
                jnp.asarray(text.done_R), text.history(sampling), end,
            )  # fmt: skip
        else:
            limit = min(chunk, num_tokens - made, text.room)
            rows, out = _advance(step, params, rows, limit, chunk, sampling, key_R, made, end)
        tokens, log_probs, alive, done = jax.device_get(out)
        made += int(alive.any(axis=0).sum())
        out = text.append(tokens, log_probs, alive, done, end_id or 0, stop)
        if (text.done_R != done).any():
            rows = rows._replace(done=jnp.asarray(text.done_R))
        yield out


class _Rows(NamedTuple):
    """What is carried from token to token on the device."""

    state: Any
    token: jax.Array  # int32 [R], chosen and not yet read
    done: jax.Array  # bool [R]
    history: History


@dataclass
class _Text:
    """What the host knows of each row: all its tokens, and which of them the model's state holds."""

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
    ) -> "_Text":
        prompts, lengths = checked_prompts(prompts, lengths, context_length)
        tokens_RT = np.pad(prompts, ((0, 0), (0, num_tokens))).repeat(num_samples, axis=0)
        length_R = lengths.repeat(num_samples)
        zeros_R = np.zeros_like(length_R)
        return cls(tokens_RT, length_R, length_R, zeros_R, zeros_R.astype(bool), context_length)

    @property
    def room(self) -> int:
        """How many more tokens every live row can read; the last one chosen is not yet read."""
        if self.context_length is None:
            return np.iinfo(np.int32).max
        read_R = self.length_R - 1 - self.start_R
        return self.context_length - int(read_R[~self.done_R].max())

    def slide(self, copies: int, remaining: int) -> tuple[np.ndarray, np.ndarray, int]:
        """What to read next, [B, T] and [B], and how many tokens the state should have room for.

        A row whose context is full keeps its last half; a row that is done keeps one token.
        """
        limit = self.context_length or np.iinfo(np.int32).max
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
        alive: np.ndarray,
        done: np.ndarray,
        padding: int,
        stop: Stop | None,
    ) -> Generated:
        """Takes what a call has made, [R, N] each, and what of it to hand over.

        Columns where no row was alive are dropped.
        """
        n = int(alive.any(axis=0).sum())
        tokens, log_probs, added_R = tokens[:, :n], log_probs[:, :n], alive.sum(axis=1)
        if np.isnan(log_probs).any():
            raise UserError(
                "the model's logits are not numbers, or the settings leave no token to choose",
                "check its parameters and its context length, and what is banned",
            )
        self.done_R = done.copy()
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


def checked_prompts(
    prompts: np.ndarray, lengths: np.ndarray, context_length: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts and lengths as int32.

    Raises:
        UserError: an empty prompt, or one longer than its row or the context.
    """
    prompts, lengths = np.asarray(prompts, np.int32), np.asarray(lengths, np.int32)
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
        longest: the most tokens that a prompt has.
        limit: the most that the model can read.
    """

    prompts: np.ndarray
    lengths: np.ndarray
    longest: int
    limit: int


def fit_prompts(
    prompts: np.ndarray, lengths: np.ndarray, num_tokens: int, context_length: int | None
) -> Fitted:
    """For what cannot leave the context, as `stream` can.

    Raises:
        UserError: a prompt that is empty, or longer than the context with `num_tokens` behind it.
    """
    prompts, lengths = checked_prompts(prompts, lengths, context_length)
    longest = int(lengths.max())
    if context_length is not None and longest + num_tokens - 1 > context_length:
        raise UserError(
            f"{num_tokens} tokens after a prompt of {longest} leave the context of {context_length}",
            f"ask for at most {context_length - longest + 1} tokens, or use neither beams nor a drafter",
        )
    limit = context_length or int(np.iinfo(np.int32).max)
    width = min(bucket(longest), limit)
    padded = np.pad(prompts, ((0, 0), (0, max(0, width - prompts.shape[1]))))[:, :width]
    return Fitted(padded, lengths, longest, limit)


def bucket(n: int) -> int:
    """The size that n things are padded to, so that few sizes are compiled: a power of two."""
    return max(16, 1 << (n - 1).bit_length())


@partial(jax.jit, static_argnums=1)
def _row_keys(seed_B: jax.Array, num_samples: int) -> jax.Array:
    number_J = jnp.arange(num_samples)
    keys_BJ = jax.vmap(lambda seed: jax.vmap(lambda j: jax.random.fold_in(jax.random.key(seed), j))(number_J))
    return keys_BJ(seed_B).reshape(-1)


def _choose(logits_RV, state, done_R, history, sampling, key_R, number, end):
    """The rows after token `number` of the text, and (token, log probability, alive) to hand over."""
    key_R = jax.vmap(jax.random.fold_in, (0, None))(key_R, number)
    token_R = jnp.where(done_R, end, sample(logits_RV, sampling, key_R, history, end))
    chosen_R = jnp.take_along_axis(logits_RV, token_R[:, None], axis=-1)[:, 0]
    chosen_R = chosen_R - jax.nn.logsumexp(logits_RV, axis=-1)
    chosen_R = jnp.where(token_R < 0, jnp.nan, chosen_R)
    log_prob_R = jnp.where(done_R, 0, chosen_R)
    rows = _Rows(state, token_R, done_R | (token_R == end), history.append(token_R))
    return rows, (token_R, log_prob_R, ~done_R)


@partial(jax.jit, static_argnames=("prefill", "capacity", "copies"))
def _begin(
    prefill, params, tokens_BT, length_B, capacity, copies, sampling, key_R, number, done_R, history, end
):
    """Reads prompts and chooses the first token of each row."""
    logits_BV, state = prefill(params, tokens_BT, length_B, capacity)
    logits_RV, state = jax.tree.map(lambda x: jnp.repeat(x, copies, axis=0), (logits_BV, state))
    rows, out = _choose(logits_RV, state, done_R, history, sampling, key_R, number, end)
    return rows, (*(x[:, None] for x in out), rows.done)


@partial(jax.jit, static_argnames=("step", "chunk"), donate_argnames="rows")
def _advance(step, params, rows, limit, chunk, sampling, key_R, number, end):
    """Reads each row's last token and chooses the next, up to `limit` times or until all rows are done."""

    def unfinished(carry):
        n, rows, _ = carry
        return (n < limit) & ~rows.done.all()

    def body(carry):
        n, rows, made = carry
        logits_RV, state = step(params, rows.state, rows.token)
        rows, out = _choose(logits_RV, state, rows.done, rows.history, sampling, key_R, number + n, end)
        return n + 1, rows, jax.tree.map(lambda buffer, x: buffer.at[:, n].set(x), made, out)

    R = rows.token.shape[0]
    made = tuple(jnp.zeros((R, chunk), dtype) for dtype in (jnp.int32, jnp.float32, bool))
    _, rows, made = jax.lax.while_loop(unfinished, body, (0, rows, made))
    return rows, (*made, rows.done)
