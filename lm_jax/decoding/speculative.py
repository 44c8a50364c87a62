"""Several tokens at a time: a cheap model drafts them, and the model itself reads them all at once.

What is written has exactly the distribution of `sampling` (Leviathan et al. 2023, appendix A.1; Chen et al.
2023, theorem 1). The drafter is any model with the same tokens: a smaller one, or n-grams.

Beside `prefill`, the model that verifies offers

    extend(params, state, tokens_BT) -> (logits_BTV, state)
        reads several tokens a row: logits t follow token t
    rewind(state, count_B) -> state
        forgets the last tokens of each row

Shape letters: B prompt, K drafted token, N token generated, V vocabulary.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding.processors import History, Sampling, draw, edit, truncate
from lm_jax.decoding.sampling import Generated, Prefill, Step, bucket, fit_prompts
from lm_jax.errors import UserError

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
        reads: int32 [B], how often the model read each row after its prompt.
    """

    generated: Generated
    reads: np.ndarray

    @property
    def tokens_per_read(self) -> float:
        """Tokens that each reading brought, on average: from 1 to the number of drafted tokens and one."""
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
    num_drafted: int = 4,
) -> Speculated:
    """Continues each prompt by `num_tokens` tokens, or to its end, as `sampling.generate` would.

    The draws are others than there, and so is the text but for greedy; its distribution is the same.

    Args:
        verifier: the model.
        drafter: what proposes tokens, of the same vocabulary.
        prompts: int [B, T], padded on the right.
        lengths: int [B].
        num_tokens: the most tokens in each row.
        sampling: how each is chosen.
        seeds: one integer a prompt; by default 0 for all.
        end_id: a token that ends its row.
        context_length: the most tokens that either model can read.
        num_drafted: tokens that are drafted at a time.

    Raises:
        UserError: a setting out of range, or a text that would leave the context.
    """
    sampling.check()
    if min(len(prompts), num_tokens, num_drafted) < 1:
        raise UserError(
            f"{len(prompts)} prompts, num_tokens={num_tokens}, num_drafted={num_drafted}",
            "each must be 1 or more",
        )
    fitted = fit_prompts(prompts, lengths, num_tokens, context_length)
    seed_B = np.array([0] * len(prompts) if seeds is None else seeds, np.uint32)
    tokens, log_probs, size_B, reads_B = jax.device_get(
        _generate(
            (verifier.prefill, verifier.extend, verifier.rewind),
            (drafter.prefill, drafter.step),
            (verifier.params, drafter.params),
            fitted.prompts,
            fitted.lengths,
            min(bucket(fitted.longest + num_tokens + num_drafted), fitted.limit),
            bucket(num_tokens),
            num_tokens,
            num_drafted,
            sampling,
            seed_B,
            -1 if end_id is None else end_id,
        )
    )
    there = np.arange(num_tokens) < size_B[:, None]
    tokens, log_probs = tokens[:, :num_tokens], log_probs[:, :num_tokens]
    if not np.isfinite(log_probs[there]).all():
        raise UserError("the model's logits are not numbers", "check its parameters and its context length")
    kept = Generated(np.where(there, tokens, end_id or 0), np.where(there, log_probs, 0), size_B)
    return Speculated(kept, reads_B)


class _Rows(NamedTuple):
    """What is carried from reading to reading."""

    state: Any  # the model's, and the drafter's: of all tokens but the last
    draft_state: Any
    token_B: jax.Array  # the last one
    history: History
    tokens_BN: jax.Array
    log_probs_BN: jax.Array
    size_B: jax.Array
    done_B: jax.Array
    reads_B: jax.Array
    key_B: jax.Array


@partial(jax.jit, static_argnums=(0, 1, 5, 6, 8))
def _generate(
    verifier, drafter, params, tokens_BT, length_B, capacity, room, num_tokens, K, sampling, seed_B, end
):
    """Tokens and log-probabilities [B, N], how many there are and how often they were read [B]."""
    B = tokens_BT.shape[0]
    logits_BV, state = verifier[0](params[0], tokens_BT, length_B, capacity)
    _, draft_state = drafter[0](params[1], tokens_BT, length_B, capacity)
    text_BS = jnp.pad(tokens_BT, ((0, 0), (0, room + K)))
    history = History(text_BS if sampling.reads_text else text_BS[:, :0], length_B, length_B)
    key_B2 = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(seed_B)
    token_B = draw(_distribution(logits_BV, sampling, history, end), key_B2[:, 1])
    log_prob_B = _chosen(jax.nn.log_softmax(logits_BV), token_B)
    # Room beyond num_tokens for what the last reading brings too many.
    tokens_BN = jnp.zeros((B, room + K + 1), jnp.int32).at[:, 0].set(token_B)
    log_probs_BN = jnp.zeros((B, room + K + 1)).at[:, 0].set(log_prob_B)
    ones_B = jnp.ones(B, jnp.int32)
    done_B = (token_B == end) | (num_tokens == 1)
    rows = _Rows(
        state, draft_state, token_B, history.append(token_B), tokens_BN, log_probs_BN, ones_B, done_B,
        0 * ones_B, key_B2[:, 0],
    )  # fmt: skip
    body = partial(_read_once, verifier, drafter, params, K, num_tokens, sampling, end)
    rows = jax.lax.while_loop(lambda rows: ~rows.done_B.all(), body, rows)
    return rows.tokens_BN, rows.log_probs_BN, rows.size_B, rows.reads_B


def _read_once(verifier, drafter, params, K, num_tokens, sampling, end, rows):
    """Drafts K tokens, reads them, and keeps those that the model would have drawn, and one of its own."""
    key_BKN = jax.vmap(lambda key: jax.random.split(key, K + 3))(rows.key_B)
    drafted, histories = _draft(drafter, params[1], K, sampling, end, rows, key_BKN)
    token_BK, q_BKV, draft_states = drafted
    read_BT = jnp.concatenate([rows.token_B[:, None], token_BK], axis=1)
    logits_BTV, state = verifier[1](params[0], rows.state, read_BT)
    scored = [_distribution(logits_BTV[:, i], sampling, histories[i], end) for i in range(K + 1)]
    p_BTV = jax.nn.softmax(jnp.stack(scored, axis=1))
    u_BK = jax.vmap(lambda key: jax.random.uniform(key, (K,)))(key_BKN[:, K])
    taken_BK = u_BK * _chosen(q_BKV, token_BK) < _chosen(p_BTV[:, :K], token_BK)
    kept_B = jnp.cumprod(taken_BK, axis=1).sum(axis=1)
    own_B = draw(_residual(p_BTV, q_BKV, kept_B), key_BKN[:, K + 1])

    place_BT = jnp.arange(K + 1)[None]
    new_BT = jnp.where(place_BT == kept_B[:, None], own_B[:, None], jnp.pad(token_BK, ((0, 0), (0, 1))))
    log_prob_BT = _chosen(jax.nn.log_softmax(logits_BTV), new_BT)
    is_last_BT = (new_BT == end) & (place_BT <= kept_B[:, None])
    ends_B = is_last_BT.any(axis=1)
    added_B = jnp.where(ends_B, is_last_BT.argmax(axis=1), kept_B) + 1
    added_B = jnp.where(rows.done_B, 0, jnp.minimum(added_B, num_tokens - rows.size_B))
    rows_B1, at_BT = jnp.arange(len(kept_B))[:, None], rows.size_B[:, None] + place_BT
    size_B = rows.size_B + added_B
    history = rows.history
    for i in range(K + 1):
        longer = history.append(new_BT[:, i])
        history = jax.tree.map(partial(_where, i < added_B), longer, history)
    return _Rows(
        verifier[2](state, K - kept_B),
        jax.tree.map(lambda *states: jnp.stack(states)[kept_B, rows_B1[:, 0]], *draft_states),
        own_B,
        history,
        rows.tokens_BN.at[rows_B1, at_BT].set(_where(~rows.done_B, new_BT, rows.tokens_BN[rows_B1, at_BT])),
        rows.log_probs_BN.at[rows_B1, at_BT].set(
            _where(~rows.done_B, log_prob_BT, rows.log_probs_BN[rows_B1, at_BT])
        ),
        size_B,
        rows.done_B | ends_B | (size_B >= num_tokens),
        rows.reads_B + ~rows.done_B,
        key_BKN[:, K + 2],
    )


def _draft(drafter, params, K, sampling, end, rows, key_BKN):
    """Tokens [B, K] and what they were drawn from [B, K, V]; the state after each, and the text before it."""
    state, token_B, history = rows.draft_state, rows.token_B, rows.history
    tokens, probs, states, histories = [], [], [], [history]
    for i in range(K):
        logits_BV, state = drafter[1](params, state, token_B)
        states.append(state)
        scores_BV = _distribution(logits_BV, sampling, history, end)
        token_B = draw(scores_BV, key_BKN[:, i])
        history = history.append(token_B)
        tokens.append(token_B)
        probs.append(jax.nn.softmax(scores_BV))
        histories.append(history)
    _, state = drafter[1](params, state, token_B)
    return (jnp.stack(tokens, axis=1), jnp.stack(probs, axis=1), [*states, state]), histories


def _distribution(logits_BV, sampling, history, end):
    """Logits whose softmax is what a token is drawn from; greedy has one token of probability 1."""
    logits_BV = edit(logits_BV, sampling, history, end)
    if isinstance(sampling.temperature, int | float) and sampling.temperature == 0:
        best_B1 = logits_BV.argmax(axis=-1)[:, None]
        return jnp.where(jnp.arange(logits_BV.shape[-1])[None] == best_B1, 0.0, -jnp.inf)
    return truncate(logits_BV, sampling)


def _residual(p_BTV, q_BKV, kept_B):
    """Logits of the model's own token: of max(0, p - q) where a draft was refused, of p after the last."""
    index_B11 = kept_B[:, None, None]
    p_BV = jnp.take_along_axis(p_BTV, index_B11, axis=1)[:, 0]
    q_BV = jnp.take_along_axis(jnp.pad(q_BKV, ((0, 0), (0, 1), (0, 0))), index_B11, axis=1)[:, 0]
    rest_BV = jnp.maximum(p_BV - q_BV, 0)
    # Where p and q are equal but for rounding, a refusal leaves nothing: p itself is then as good.
    return jnp.log(jnp.where(rest_BV.sum(axis=1, keepdims=True) > 0, rest_BV, p_BV))


def _chosen(values, index):
    return jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def _where(row_B, yes, no):
    return jnp.where(row_B.reshape(row_B.shape + (1,) * (yes.ndim - 1)), yes, no)
