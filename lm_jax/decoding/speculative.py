"""Speculative decoding: a cheap model drafts several tokens, and the model itself reads them all at once.

The text has exactly the distribution of `sampling` (Leviathan et al. 2023, appendix A.1; Chen et al. 2023,
theorem 1). The drafter is any model with the same tokens: a smaller one, or n-grams. The model that verifies
is a `Decoder` with `extend` and `rewind`.

Shape letters: B prompt, R row (a sample of a prompt), K drafted token, T token read at a time (K + 1), N
generated token, V vocabulary.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding import memory
from lm_jax.decoding.decoder import (
    Decoder,
    Extend,
    Limits,
    Prefill,
    Prompts,
    Rewind,
    Step,
    check_counts,
    plain,
)
from lm_jax.decoding.processors import pick
from lm_jax.decoding.rejection import accept, chosen
from lm_jax.decoding.settings import History, Sampling, distribution
from lm_jax.decoding.text import Generated, Text, bucket, fit_prompts, joined, row_keys
from lm_jax.errors import UserError

_PLAIN = Sampling()


class Speculated(NamedTuple):
    """Text, and how often the model was called for it.

    Attributes:
        generated: the text; see `Generated`.
        reads: int32 [R], how often the model read each row after its prompt.
    """

    generated: Generated
    reads: np.ndarray

    @property
    def tokens_per_read(self) -> float:
        """Mean number of tokens from each reading of a whole text: from 1 to num_drafted + 1."""
        return float((self.generated.lengths - 1).sum() / max(1, self.reads.sum()))


def generate(
    decoder: Decoder,
    drafter: Decoder,
    prompts: Prompts,
    limits: Limits,
    sampling: Sampling = _PLAIN,
    num_drafted: int = 4,
) -> Speculated:
    """The whole result of `stream`. Arguments and errors as there."""
    limits = limits.checked()
    chunk = 4 if limits.stop else limits.num_tokens
    pieces = list(stream(decoder, drafter, prompts, limits, sampling, num_drafted, chunk))
    made = joined([piece.generated for piece in pieces], limits)
    return Speculated(made, np.sum([piece.reads for piece in pieces], axis=0))


def stream(
    decoder: Decoder,
    drafter: Decoder,
    prompts: Prompts,
    limits: Limits,
    sampling: Sampling = _PLAIN,
    num_drafted: int = 4,
    chunk: int = 2,
) -> Iterator[Speculated]:
    """Continues each prompt, in pieces of a few readings.

    The text has the distribution of `sampling.stream`, but other random draws; greedy text is equal.

    Args:
        decoder: the model, with `extend` and `rewind`.
        drafter: the model that proposes tokens, with the same vocabulary.
        prompts: what to continue.
        limits: how much to generate.
        sampling: how each token is chosen.
        num_drafted: how many tokens are drafted at a time.
        chunk: readings in a piece. The first piece is the token after the prompt.

    Returns:
        An iterator over the new tokens and readings of each piece.

    Raises:
        UserError: a model without `extend` and `rewind`, a setting out of range, or a text that would exceed
            either model's context; from the iterator: logits that are not numbers, or settings that leave no
            token to choose.
    """
    sampling.check()
    if decoder.extend is None or decoder.rewind is None:
        raise UserError("the model reads one token at a time", "leave out the drafting model")
    limits, num_drafted, chunk = limits.checked(), plain(num_drafted), plain(chunk)
    check_counts(chunk=chunk, num_drafted=num_drafted)
    contexts = [d.context_length for d in (decoder, drafter) if d.context_length is not None]
    context_length = min(contexts, default=None)
    prompts = prompts.checked(context_length)
    memory.check(decoder, prompts, limits, limits.num_samples * (num_drafted + 1))
    window = fit_prompts(prompts, limits.num_tokens, context_length, spare=num_drafted)
    functions = _Functions(decoder.prefill, decoder.extend, decoder.rewind, drafter.prefill, drafter.step)
    sizes = _Sizes(window.capacity, bucket(limits.num_tokens), limits.num_samples, num_drafted)
    params, rules = (decoder.params, drafter.params), _Rules(limits.num_tokens, sampling, limits.end)
    key_R = row_keys(np.array(prompts.seeds, np.uint32), limits.num_samples)
    rows = _begin(functions, sizes, params, window[:2], rules, key_R)
    advance = partial(_advance, functions, num_drafted, params, rules, chunk)
    return _write(Text.start(prompts, limits, context_length), rows, advance, limits)


def _write(text, rows, advance, limits):
    """`stream` after the prompts are read."""
    size_R = reads_R = np.zeros(len(text.length_R), np.int32)
    while not text.done_R.all():
        if size_R.any():
            rows = advance(rows)
        made = jax.device_get((rows.tokens_RN, rows.log_probs_RN, rows.size_R, rows.done_R, rows.reads_R))
        tokens, log_probs, new_size_R, done_R, new_reads_R = made
        added_R = new_size_R - size_R
        place_RN = np.minimum(size_R[:, None] + np.arange(max(1, added_R.max())), tokens.shape[1] - 1)
        tokens, log_probs = (np.take_along_axis(x, place_RN, axis=1) for x in (tokens, log_probs))
        piece = text.append(Generated(tokens, log_probs, added_R), done_R, limits)
        if (text.done_R != done_R).any():
            rows = rows._replace(done_R=jnp.asarray(text.done_R))
        yield Speculated(piece, new_reads_R - reads_R)
        size_R, reads_R = new_size_R, new_reads_R


class _Functions(NamedTuple):
    """The functions of both models, static arguments of compiled programs."""

    prefill: Prefill
    extend: Extend
    rewind: Rewind
    draft_prefill: Prefill
    draft_step: Step


class _Sizes(NamedTuple):
    """What decides the shapes."""

    capacity: int
    room: int
    num_samples: int
    num_drafted: int


class _Rules(NamedTuple):
    """Settings whose values are traced."""

    num_tokens: int
    sampling: Sampling
    end: int  # -1: no token ends a row


class _Rows(NamedTuple):
    """What is carried from reading to reading."""

    state: Any  # the model's and the drafter's state: all tokens but the last are read
    draft_state: Any
    token_R: jax.Array  # the last token
    history: History
    tokens_RN: jax.Array
    log_probs_RN: jax.Array
    size_R: jax.Array
    done_R: jax.Array
    reads_R: jax.Array
    key_R: jax.Array


@partial(jax.jit, static_argnames=("functions", "sizes"))
def _begin(functions, sizes, params, prompts, rules, key_R):
    """Reads prompts and chooses the first token of each row."""
    tokens_BT, length_B = prompts
    logits_BV, state = functions.prefill(params[0], tokens_BT, length_B, sizes.capacity)
    _, draft_state = functions.draft_prefill(params[1], tokens_BT, length_B, sizes.capacity)
    logits_RV, state, draft_state, tokens_RT, length_R = jax.tree.map(
        lambda x: jnp.repeat(x, sizes.num_samples, axis=0),
        (logits_BV, state, draft_state, tokens_BT, length_B),
    )
    room = sizes.room + sizes.num_drafted  # the last reading may bring more than num_tokens
    text_RS = jnp.pad(tokens_RT, ((0, 0), (0, room)))
    history = History(text_RS if rules.sampling.reads_text else text_RS[:, :0], length_R, length_R)
    scores_RV = distribution(logits_RV, rules.sampling, history, rules.end)
    token_R = pick(scores_RV, _uniform(key_R, jnp.zeros_like(length_R), 1)[:, 0])
    R = len(token_R)
    tokens_RN = jnp.zeros((R, room + 1), jnp.int32).at[:, 0].set(token_R)
    log_prob_R = _log_prob(logits_RV, jax.nn.softmax(scores_RV), token_R)
    log_probs_RN = jnp.zeros((R, room + 1)).at[:, 0].set(log_prob_R)
    one_R = jnp.ones(R, jnp.int32)
    done_R = (token_R == rules.end) | (rules.num_tokens == 1)
    return _Rows(
        state, draft_state, token_R, history.append(token_R), tokens_RN, log_probs_RN, one_R, done_R,
        0 * one_R, key_R,
    )  # fmt: skip


@partial(jax.jit, static_argnums=(0, 1), donate_argnames="rows")
def _advance(functions, K, params, rules, limit, rows):
    """Drafts and reads up to `limit` times, or until all rows are done."""

    def unfinished(carry):
        n, rows = carry
        return (n < limit) & ~rows.done_R.all()

    def body(carry):
        n, rows = carry
        return n + 1, _read_once(functions, K, params, rules, rows)

    return jax.lax.while_loop(unfinished, body, (0, rows))[1]


def _read_once(functions, K, params, rules, rows):
    """Drafts K tokens, reads them, keeps those that the model accepts, and draws one of its own."""
    draft_u_RT, accept_u_RT = jnp.split(_uniform(rows.key_R, 1 + rows.reads_R, 2 * K + 2), 2, axis=1)
    drafted = _draft(functions.draft_step, params[1], rules, rows, draft_u_RT)
    token_RK, q_RKV = drafted.token_TR[:K].T, jnp.swapaxes(drafted.q_TRV[:K], 0, 1)
    read_RT = jnp.concatenate([rows.token_R[:, None], token_RK], axis=1)
    logits_RTV, state = functions.extend(params[0], rows.state, read_RT)
    score = jax.vmap(distribution, in_axes=(1, None, 0, None), out_axes=1)
    p_RTV = jax.nn.softmax(score(logits_RTV, rules.sampling, drafted.history, rules.end))
    kept_R, own_R = accept(p_RTV, q_RKV, token_RK, accept_u_RT)

    place_1T = jnp.arange(K + 1)[None]
    new_RT = jnp.where(place_1T == kept_R[:, None], own_R[:, None], jnp.pad(token_RK, ((0, 0), (0, 1))))
    is_last_RT = (new_RT == rules.end) & (place_1T <= kept_R[:, None])
    ends_R = is_last_RT.any(axis=1)
    added_R = jnp.where(ends_R, is_last_RT.argmax(axis=1), kept_R) + 1
    added_R = jnp.where(rows.done_R, 0, jnp.minimum(added_R, rules.num_tokens - rows.size_R))
    size_R, row_R = rows.size_R + added_R, jnp.arange(len(kept_R))
    # The next reading overwrites what lies after a row's size. A finished row writes nothing.
    at_RT = jnp.where(rows.done_R[:, None], rows.tokens_RN.shape[1], rows.size_R[:, None] + place_1T)

    def write(old_RN, new_RT):
        return old_RN.at[row_R[:, None], at_RT].set(new_RT, mode="drop")

    # As they were after the last kept token was read; finished rows do not matter.
    draft_state, history = jax.tree.map(lambda x: x[kept_R, row_R], (drafted.state, drafted.history))
    return _Rows(
        functions.rewind(state, K - kept_R),
        draft_state,
        own_R,
        history.append(own_R),
        write(rows.tokens_RN, new_RT),
        write(rows.log_probs_RN, _log_prob(logits_RTV, p_RTV, new_RT)),
        size_R,
        rows.done_R | ends_R | (size_R >= rules.num_tokens),
        rows.reads_R + ~rows.done_R,
        rows.key_R,
    )


class _Drafted(NamedTuple):
    """The drafter's results for the last kept token and K drafted ones; T is the first axis."""

    state: Any  # with that token read
    history: History  # with that token in it
    token_TR: jax.Array  # the token drawn after it
    q_TRV: jax.Array  # the probabilities that it was drawn from


def _draft(draft_step, params, rules, rows, u_RT):
    """Drafts K tokens, and one more that is not used, so that all K are read."""

    def body(carry, u_R):
        state, token_R, history = carry
        logits_RV, state = draft_step(params, state, token_R)
        scores_RV = distribution(logits_RV, rules.sampling, history, rules.end)
        token_R = pick(scores_RV, u_R)
        drafted = _Drafted(state, history, token_R, jax.nn.softmax(scores_RV))
        return (state, token_R, history.append(token_R)), drafted

    first = (rows.draft_state, rows.token_R, rows.history)
    return jax.lax.scan(body, first, u_RT.T)[1]


def _uniform(key_R, number_R, n):
    """The random numbers of one reading of each row, [R, n] in [0, 1)."""
    return jax.vmap(lambda key, number: jax.random.uniform(jax.random.fold_in(key, number), (n,)))(
        key_R, number_R
    )


def _log_prob(logits, p, token):
    """The model's own log-probability of a token drawn from p; NaN where there was no token to draw."""
    return jnp.where(jnp.isnan(chosen(p, token)), jnp.nan, chosen(jax.nn.log_softmax(logits), token))
