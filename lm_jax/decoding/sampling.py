"""Generation one token after another, for every left-to-right model. `settings` chooses each token.

Shape letters: B prompt, R row (a sample of a prompt), T position, N generated token, V vocabulary.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding import memory
from lm_jax.decoding.decoder import LARGEST, Decoder, Limits, Prompts, check_counts, plain, with_bonus
from lm_jax.decoding.settings import History, Sampling, sample
from lm_jax.decoding.text import Generated, Text, bucket, joined, row_keys

_PLAIN = Sampling()


def generate(decoder: Decoder, prompts: Prompts, limits: Limits, sampling: Sampling = _PLAIN) -> Generated:
    """The whole result of `stream`. Arguments and errors as there."""
    limits = limits.checked()
    chunk = 16 if limits.stop else min(bucket(limits.num_tokens), LARGEST)
    return joined(list(stream(decoder, prompts, limits, sampling, chunk)), limits)


def stream(
    decoder: Decoder, prompts: Prompts, limits: Limits, sampling: Sampling = _PLAIN, chunk: int = 8
) -> Iterator[Generated]:
    """Continues each prompt, a few tokens at a time.

    A row's text depends on its prompt, its seed and the sample's number, not on the rows beside it (except
    for rounding, which differs between shapes). When a context is full, the row continues from the last half
    of it, read again.

    Args:
        decoder: the model.
        prompts: what to continue.
        limits: how much to generate.
        sampling: how each token is chosen.
        chunk: the maximum number of tokens in a piece. The first piece, and one after a context is read
            again, has one.

    Returns:
        An iterator over `Generated` that hold the new tokens only; `lengths` counts those of each row.

    Raises:
        UserError: a prompt that is empty or longer than the context, or a setting out of range; from the
            iterator: logits that are not numbers, or settings that leave no token to choose.
    """
    sampling.check()
    limits, prompts, chunk = limits.checked(), prompts.checked(decoder.context_length), plain(chunk)
    check_counts(chunk=chunk)
    memory.check(decoder, prompts, limits, limits.num_samples)
    return _write(decoder, prompts, limits, sampling, chunk)


def _write(decoder, prompts, limits, sampling, chunk):
    """`stream` after the checks: reads, then generates until the context is full, and so on."""
    text = Text.start(prompts, limits, decoder.context_length)
    rules = _Rules(sampling, row_keys(np.array(prompts.seeds, np.uint32), limits.num_samples), limits.end)
    rows, made = None, 0
    while made < limits.num_tokens and not text.done_R.all():
        if rows is None or text.room == 0:
            copies = limits.num_samples if rows is None else 1
            tokens_BT, length_B, capacity = text.slide(copies, limits.num_tokens - made)
            reading = _Reading(tokens_BT, length_B, jnp.asarray(text.done_R), text.history(sampling), made)
            rows, out = _begin(decoder.prefill, capacity, copies, decoder.params, reading, rules)
        else:
            limit = min(chunk, limits.num_tokens - made, text.room)
            rows, out = _advance(decoder.step, chunk, decoder.params, rows, rules, made, limit)
        tokens, log_probs, alive, done = jax.device_get(out)
        made += int(alive.any(axis=0).sum())
        piece = text.append(Generated(tokens, log_probs, alive.sum(axis=1)), done, limits)
        if (text.done_R != done).any():
            rows = rows._replace(done=jnp.asarray(text.done_R))
        yield piece


class _Rules(NamedTuple):
    """What stays the same from token to token."""

    sampling: Sampling
    key_R: jax.Array
    end: int  # -1: no token ends a row


class _Reading(NamedTuple):
    """A text to read, and what is known of its rows."""

    tokens_BT: np.ndarray
    length_B: np.ndarray
    done_R: jax.Array
    history: History
    made: int  # tokens generated so far in unfinished rows


class _Rows(NamedTuple):
    """What is carried from token to token on the device."""

    state: Any
    token: jax.Array  # int32 [R], chosen and not yet read
    done: jax.Array  # bool [R]
    history: History


def _choose(logits_RV, state, done_R, history, made, rules):
    """The rows after one more token, and (token, log-probability, alive) of each row."""
    key_R = jax.vmap(jax.random.fold_in, (0, None))(rules.key_R, made)
    weighed_RV = with_bonus(logits_RV, state)
    token_R = jnp.where(done_R, rules.end, sample(weighed_RV, rules.sampling, key_R, history, rules.end))
    log_total_R = jax.nn.logsumexp(logits_RV, axis=-1)
    # -1: no token can follow, by the settings or by the model itself.
    token_R = jnp.where((log_total_R == -jnp.inf) & ~done_R, -1, token_R)
    chosen_R = jnp.take_along_axis(logits_RV, token_R[:, None], axis=-1)[:, 0] - log_total_R
    chosen_R = jnp.where(token_R < 0, jnp.nan, chosen_R)
    log_prob_R = jnp.where(done_R, 0, chosen_R)
    rows = _Rows(state, token_R, done_R | (token_R == rules.end), history.append(token_R))
    return rows, (token_R, log_prob_R, ~done_R)


@partial(jax.jit, static_argnames=("prefill", "capacity", "copies"))
def _begin(prefill, capacity, copies, params, reading, rules):
    """Reads texts and chooses the next token of each row."""
    logits_BV, state = prefill(params, reading.tokens_BT, reading.length_B, capacity)
    logits_RV, state = jax.tree.map(lambda x: jnp.repeat(x, copies, axis=0), (logits_BV, state))
    rows, out = _choose(logits_RV, state, reading.done_R, reading.history, reading.made, rules)
    return rows, (*(x[:, None] for x in out), rows.done)


@partial(jax.jit, static_argnames=("step", "chunk"), donate_argnames="rows")
def _advance(step, chunk, params, rows, rules, made, limit):
    """Reads each row's last token and chooses the next, up to `limit` times or until all rows are done."""

    def unfinished(carry):
        n, rows, _ = carry
        return (n < limit) & ~rows.done.all()

    def body(carry):
        n, rows, outs = carry
        logits_RV, state = step(params, rows.state, rows.token)
        rows, out = _choose(logits_RV, state, rows.done, rows.history, made + n, rules)
        return n + 1, rows, jax.tree.map(lambda buffer, x: buffer.at[:, n].set(x), outs, out)

    R = rows.token.shape[0]
    outs = tuple(jnp.zeros((R, chunk), dtype) for dtype in (jnp.int32, jnp.float32, bool))
    _, rows, outs = jax.lax.while_loop(unfinished, body, (0, rows, outs))
    return rows, (*outs, rows.done)
