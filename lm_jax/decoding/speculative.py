"""Several tokens at a time: a cheap model drafts them, and the model itself reads them all at once.

What is written has exactly the distribution of `sampling` (Leviathan et al. 2023, appendix A.1; Chen et al.
2023, theorem 1). The drafter is any model with the same tokens: a smaller one, or n-grams.

Beside `prefill`, the model that verifies offers

    extend(params, state, tokens_BT) -> (logits_BTV, state)
        reads several tokens a row: logits t follow token t
    rewind(state, count_B) -> state
        forgets the last tokens of each row

Shape letters: B prompt, R row (a sample of a prompt), K drafted token, T token read at a time (K and one), N
token generated, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding.processors import History, Sampling, edit, pick, truncate
from lm_jax.decoding.sampling import Prefill, Step
from lm_jax.decoding.text import Generated, Stop, Text, bucket, check_counts, fit_prompts, joined, row_keys

Extend = Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]
Rewind = Callable[[Any, jax.Array], Any]


class Drafter(NamedTuple):
    """A model that drafts, with its own parameters; see `sampling` for the functions."""

    prefill: Prefill
    step: Step
    params: Any


class Verifier(NamedTuple):
    """A model whose text is wanted."""

    prefill: Prefill
    extend: Extend
    rewind: Rewind
    params: Any


class Speculated(NamedTuple):
    """Text, and what it took.

    Attributes:
        generated: the text; see `Generated`.
        reads: int32 [R], how often the model read each row after its prompt.
    """

    generated: Generated
    reads: np.ndarray

    @property
    def tokens_per_read(self) -> float:
        """Tokens that each reading of a whole text brought: from 1 to the number of drafted ones and one."""
        return float((self.generated.lengths - 1).sum() / max(1, self.reads.sum()))


def generate(
    verifier: Verifier,
    drafter: Drafter,
    prompts: np.ndarray,
    lengths: np.ndarray,
    num_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int] | None = None,
    end_id: int | None = None,
    context_length: int | None = None,
    num_samples: int = 1,
    stop: Stop | None = None,
    num_drafted: int = 4,
) -> Speculated:
    """Continues each prompt by `num_tokens` tokens, or to its end. Arguments and errors as for `stream`."""
    pieces = list(
        stream(
            verifier, drafter, prompts, lengths, num_tokens, sampling, seeds, end_id, context_length,
            num_samples, chunk=4 if stop else num_tokens, stop=stop, num_drafted=num_drafted,
        )
    )  # fmt: skip
    made = joined([piece.generated for piece in pieces], num_tokens, end_id or 0)
    return Speculated(made, np.sum([piece.reads for piece in pieces], axis=0))


def stream(
    verifier: Verifier,
    drafter: Drafter,
    prompts: np.ndarray,
    lengths: np.ndarray,
    num_tokens: int,
    sampling: Sampling,
    seeds: Sequence[int] | None = None,
    end_id: int | None = None,
    context_length: int | None = None,
    num_samples: int = 1,
    chunk: int = 2,
    stop: Stop | None = None,
    num_drafted: int = 4,
) -> Iterator[Speculated]:
    """Continues each prompt as `sampling.stream` would, handing over what a few readings bring.

    The draws are others than there, and so is the text but for greedy; its distribution is the same.

    Args:
        verifier: the model.
        drafter: what proposes tokens, of the same vocabulary.
        prompts: int [B, T], padded on the right.
        lengths: int [B].
        num_tokens: the most tokens in each row.
        sampling: how each is chosen.
        seeds: one integer a prompt, from 0 below 2**32; by default 0 for all.
        end_id: a token that ends its row.
        context_length: the most tokens that either model can read.
        num_samples: how many continuations of each prompt.
        chunk: readings from one piece to the next.
        stop: see `Stop`; what a row has beyond it is dropped.
        num_drafted: tokens that are drafted at a time.

    Raises:
        UserError: a setting out of range, a text that would leave the context, or, on the way, logits that
            are not numbers.
    """
    sampling.check()
    check_counts(
        prompts=len(prompts), num_tokens=num_tokens, num_samples=num_samples, chunk=chunk,
        num_drafted=num_drafted,
    )  # fmt: skip
    text = Text.start(prompts, lengths, num_tokens, context_length, num_samples)
    fitted = fit_prompts(prompts, lengths, num_tokens, context_length, spare=num_drafted)
    key_R = row_keys(seeds, len(prompts), num_samples)
    end = -1 if end_id is None else end_id  # no token is -1
    rows = _begin(
        verifier.prefill, drafter.prefill, (verifier.params, drafter.params), *fitted, bucket(num_tokens),
        num_samples, num_drafted, num_tokens, sampling, key_R, end,
    )  # fmt: skip
    advance = partial(
        _advance, verifier.extend, verifier.rewind, drafter.step, num_drafted,
        (verifier.params, drafter.params), num_tokens, sampling, end, chunk,
    )  # fmt: skip
    return _write(text, rows, advance, end_id or 0, stop)


def _write(text, rows, advance, padding, stop):
    """`stream`, of what has been checked and read."""
    size_R = reads_R = np.zeros(len(text.length_R), np.int32)
    while not text.done_R.all():
        if size_R.any():
            rows = advance(rows)
        made = jax.device_get((rows.tokens_RN, rows.log_probs_RN, rows.size_R, rows.done_R, rows.reads_R))
        tokens, log_probs, new_size_R, done_R, new_reads_R = made
        added_R = new_size_R - size_R
        place_RN = np.minimum(size_R[:, None] + np.arange(max(1, added_R.max())), tokens.shape[1] - 1)
        tokens, log_probs = (np.take_along_axis(x, place_RN, axis=1) for x in (tokens, log_probs))
        piece = text.append(tokens, log_probs, added_R, done_R, padding, stop)
        if (text.done_R != done_R).any():
            rows = rows._replace(done_R=jnp.asarray(text.done_R))
        yield Speculated(piece, new_reads_R - reads_R)
        size_R, reads_R = new_size_R, new_reads_R


class _Rows(NamedTuple):
    """What is carried from reading to reading."""

    state: Any  # the model's, and the drafter's: of all tokens but the last
    draft_state: Any
    token_R: jax.Array  # the last one
    history: History
    tokens_RN: jax.Array
    log_probs_RN: jax.Array
    size_R: jax.Array
    done_R: jax.Array
    reads_R: jax.Array
    key_R: jax.Array


@partial(
    jax.jit,
    static_argnames=("prefill", "draft_prefill", "capacity", "room", "copies", "K"),
)
def _begin(
    prefill, draft_prefill, params, tokens_BT, length_B, capacity, room, copies, K, num_tokens, sampling,
    key_R, end,
):  # fmt: skip
    """Reads prompts and chooses the first token of each row."""
    logits_BV, state = prefill(params[0], tokens_BT, length_B, capacity)
    _, draft_state = draft_prefill(params[1], tokens_BT, length_B, capacity)
    logits_RV, state, draft_state, tokens_RT, length_R = jax.tree.map(
        lambda x: jnp.repeat(x, copies, axis=0), (logits_BV, state, draft_state, tokens_BT, length_B)
    )
    text_RS = jnp.pad(tokens_RT, ((0, 0), (0, room + K)))
    history = History(text_RS if sampling.reads_text else text_RS[:, :0], length_R, length_R)
    scores_RV = _distribution(logits_RV, history, sampling, end)
    token_R = pick(scores_RV, _uniform(key_R, jnp.zeros_like(length_R), 1)[:, 0])
    # Room beyond num_tokens for what the last reading brings too many.
    R = len(token_R)
    tokens_RN = jnp.zeros((R, room + K + 1), jnp.int32).at[:, 0].set(token_R)
    log_prob_R = _log_prob(logits_RV, jax.nn.softmax(scores_RV), token_R)
    log_probs_RN = jnp.zeros((R, room + K + 1)).at[:, 0].set(log_prob_R)
    one_R = jnp.ones(R, jnp.int32)
    done_R = (token_R == end) | (num_tokens == 1)
    return _Rows(
        state, draft_state, token_R, history.append(token_R), tokens_RN, log_probs_RN, one_R, done_R,
        0 * one_R, key_R,
    )  # fmt: skip


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnames="rows")
def _advance(extend, rewind, draft_step, K, params, num_tokens, sampling, end, limit, rows):
    """Drafts and reads up to `limit` times, or until all rows are done."""

    def unfinished(carry):
        n, rows = carry
        return (n < limit) & ~rows.done_R.all()

    def body(carry):
        n, rows = carry
        return n + 1, _read_once(extend, rewind, draft_step, K, params, num_tokens, sampling, end, rows)

    return jax.lax.while_loop(unfinished, body, (0, rows))[1]


def _read_once(extend, rewind, draft_step, K, params, num_tokens, sampling, end, rows):
    """Drafts K tokens, reads them, and keeps those that the model would have drawn, and one of its own."""
    draft_u_RT, accept_u_RK, own_u_R1 = jnp.split(
        _uniform(rows.key_R, 1 + rows.reads_R, 2 * K + 2), (K + 1, 2 * K + 1), axis=1
    )
    drafted = _draft(draft_step, params[1], sampling, end, rows, draft_u_RT)
    token_RK, q_RKV = drafted.token_TR[:K].T, jnp.swapaxes(drafted.q_TRV[:K], 0, 1)
    read_RT = jnp.concatenate([rows.token_R[:, None], token_RK], axis=1)
    logits_RTV, state = extend(params[0], rows.state, read_RT)
    score = partial(_distribution, sampling=sampling, end=end)
    p_RTV = jax.nn.softmax(jax.vmap(score, in_axes=(1, 0), out_axes=1)(logits_RTV, drafted.history))
    taken_RK = accept_u_RK * _chosen(q_RKV, token_RK) < _chosen(p_RTV[:, :K], token_RK)
    kept_R = jnp.cumprod(taken_RK, axis=1).sum(axis=1)
    own_R = pick(_residual(p_RTV, q_RKV, kept_R), own_u_R1[:, 0])

    place_1T = jnp.arange(K + 1)[None]
    new_RT = jnp.where(place_1T == kept_R[:, None], own_R[:, None], jnp.pad(token_RK, ((0, 0), (0, 1))))
    is_last_RT = (new_RT == end) & (place_1T <= kept_R[:, None])
    ends_R = is_last_RT.any(axis=1)
    added_R = jnp.where(ends_R, is_last_RT.argmax(axis=1), kept_R) + 1
    added_R = jnp.where(rows.done_R, 0, jnp.minimum(added_R, num_tokens - rows.size_R))
    size_R, row_R = rows.size_R + added_R, jnp.arange(len(kept_R))
    # What lies beyond a row's size the next reading overwrites; where a row is done, nothing is written.
    at_RT = jnp.where(rows.done_R[:, None], rows.tokens_RN.shape[1], rows.size_R[:, None] + place_1T)

    def write(old_RN, new_RT):
        return old_RN.at[row_R[:, None], at_RT].set(new_RT, mode="drop")

    # As they were when the last token that is kept had been read: those of a row that is done do not matter.
    draft_state, history = jax.tree.map(lambda x: x[kept_R, row_R], (drafted.state, drafted.history))
    return _Rows(
        rewind(state, K - kept_R),
        draft_state,
        own_R,
        history.append(own_R),
        write(rows.tokens_RN, new_RT),
        write(rows.log_probs_RN, _log_prob(logits_RTV, p_RTV, new_RT)),
        size_R,
        rows.done_R | ends_R | (size_R >= num_tokens),
        rows.reads_R + ~rows.done_R,
        rows.key_R,
    )


class _Drafted(NamedTuple):
    """What the drafter made of one token after another, of the last one kept and K drafted; T is first."""

    state: Any  # with that token read
    history: History  # with that token in it
    token_TR: jax.Array  # drawn behind it
    q_TRV: jax.Array  # and the probabilities that it was drawn by


def _draft(draft_step, params, sampling, end, rows, u_RT):
    """Drafts K tokens, and one more that is of no use, so that K are read."""

    def body(carry, u_R):
        state, token_R, history = carry
        logits_RV, state = draft_step(params, state, token_R)
        scores_RV = _distribution(logits_RV, history, sampling, end)
        token_R = pick(scores_RV, u_R)
        drafted = _Drafted(state, history, token_R, jax.nn.softmax(scores_RV))
        return (state, token_R, history.append(token_R)), drafted

    first = (rows.draft_state, rows.token_R, rows.history)
    return jax.lax.scan(body, first, u_RT.T)[1]


def _uniform(key_R, number_R, n):
    """The numbers of a row's reading, [R, n] from 0 below 1."""
    return jax.vmap(lambda key, number: jax.random.uniform(jax.random.fold_in(key, number), (n,)))(
        key_R, number_R
    )


def _distribution(logits_RV, history, sampling, end):
    """Logits whose softmax is what a token is drawn from; NaN where the settings leave none.

    Greedy has one token of probability 1.
    """
    logits_RV = edit(logits_RV, sampling, history, end)
    if isinstance(sampling.temperature, int | float) and sampling.temperature == 0:
        best_R1 = logits_RV.argmax(axis=-1)[:, None]
        only_RV = jnp.where(jnp.arange(logits_RV.shape[-1])[None] == best_R1, 0.0, -jnp.inf)
        return jnp.where(logits_RV.max(axis=-1, keepdims=True) > -jnp.inf, only_RV, jnp.nan)
    return truncate(logits_RV, sampling)


def _residual(p_RTV, q_RKV, kept_R):
    """Logits of the model's own token: of max(0, p - q) where a draft was refused, of p after the last."""
    index_R11 = kept_R[:, None, None]
    p_RV = jnp.take_along_axis(p_RTV, index_R11, axis=1)[:, 0]
    q_RV = jnp.take_along_axis(jnp.pad(q_RKV, ((0, 0), (0, 1), (0, 0))), index_R11, axis=1)[:, 0]
    rest_RV = jnp.maximum(p_RV - q_RV, 0)
    # Where p and q are equal but for rounding, a refusal leaves nothing: p itself is then as good.
    return jnp.log(jnp.where(rest_RV.sum(axis=1, keepdims=True) > 0, rest_RV, p_RV))


def _log_prob(logits, p, token):
    """The model's own log-probability of a token drawn from p; NaN where there was none to draw."""
    return jnp.where(jnp.isnan(_chosen(p, token)), jnp.nan, _chosen(jax.nn.log_softmax(logits), token))


def _chosen(values, index):
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]
