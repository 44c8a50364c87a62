"""Text from a model, one token after another: the loop that all families share.

Decoders receive functions, never a model. Every leaf of a state has the batch as its first axis.

    prefill(params, tokens_BT, length_B, capacity) -> (logits_BV, state)
        reads prompts padded on the right; capacity is the number of tokens the state must have room for
    step(params, state, token_B) -> (logits_BV, state)
        reads one more token a row

How each token is chosen is in `processors.py`.

Shape letters: B prompt, R row (a sample of a prompt), T position, N token generated, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding.processors import History, sample
from lm_jax.decoding.processors import Sampling as Sampling  # part of this module's interface
from lm_jax.decoding.text import Generated, Stop, Text, bucket, check_counts, joined, row_keys

Prefill = Callable[[Any, jax.Array, jax.Array, int], tuple[jax.Array, Any]]
Step = Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]
_PLAIN = Sampling()


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
    pieces = stream(
        prefill, step, params, prompts, lengths, num_tokens, sampling, seeds, end_id, context_length,
        num_samples, chunk=16 if stop else bucket(num_tokens), stop=stop,
    )  # fmt: skip
    return joined(list(pieces), num_tokens, end_id or 0)


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

    Returns:
        An iterator over `Generated`, of the new tokens only, whose `lengths` are how many of them each row
        has.

    Raises:
        UserError: a prompt that is empty or longer than the context, a setting out of range, or, on the way,
            logits that are not numbers.
    """
    sampling.check()
    check_counts(prompts=len(prompts), num_tokens=num_tokens, num_samples=num_samples, chunk=chunk)
    text = Text.start(prompts, lengths, num_tokens, context_length, num_samples)
    key_R = row_keys(seeds, len(prompts), num_samples)
    return _write(text, prefill, step, params, num_tokens, sampling, key_R, end_id, num_samples, chunk, stop)


def _write(text, prefill, step, params, num_tokens, sampling, key_R, end_id, num_samples, chunk, stop):
    """`stream`, of what has been checked: reads, then writes until the context is full, and so on."""
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
        piece = text.append(tokens, log_probs, alive.sum(axis=1), done, end_id or 0, stop)
        if (text.done_R != done).any():
            rows = rows._replace(done=jnp.asarray(text.done_R))
        yield piece


class _Rows(NamedTuple):
    """What is carried from token to token on the device."""

    state: Any
    token: jax.Array  # int32 [R], chosen and not yet read
    done: jax.Array  # bool [R]
    history: History


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
