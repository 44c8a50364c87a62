"""Beam search by the same prefill and step as sampling: the best texts that following a few at a time finds.

The rules are those of transformers, token for token: 2K candidates a step, of which those that end among the
first K are kept as finished by score / length^penalty (Wu et al. 2016, section 7, with the simpler penalty).

Shape letters: B prompt, K beam, R row (a beam of a prompt), C candidate, N token generated, V vocabulary.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding.processors import History, Sampling, edit
from lm_jax.decoding.sampling import Prefill, Step, bucket, fit_prompts
from lm_jax.errors import UserError

_NEVER = -1e9  # the score of what must not be chosen: finite, so that differences of it are numbers


class Found(NamedTuple):
    """The best texts of each prompt, the best first.

    Attributes:
        tokens: int32 [R, N]; text j of prompt i is row i * num_results + j. Past a row's length: the end
            token, or 0.
        log_probs: float32 [R, N], natural logarithms of the model's own probabilities; 0 past the length.
        lengths: int32 [R], tokens in each row, an end token counted.
        scores: float32 [R], by which they are ordered: the sum of log-probabilities, as processors left
            them, over length^length_penalty.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray


def search(
    prefill: Prefill,
    step: Step,
    params: Any,
    prompts: np.ndarray,
    lengths: np.ndarray,
    num_tokens: int,
    num_beams: int,
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
    num_results: int = 1,
    sampling: Sampling | None = None,
    end_id: int | None = None,
    context_length: int | None = None,
) -> Found:
    """Looks for the texts of the highest score that continue each prompt.

    Args:
        prefill: see `sampling`.
        step: see `sampling`.
        params: passed to both.
        prompts: int [B, T], padded on the right.
        lengths: int [B].
        num_tokens: the most that are generated in each row.
        num_beams: how many texts are followed at a time.
        length_penalty: the exponent of the length that divides a finished text's sum of log-probabilities:
            above 0 favours long texts, 0 compares the sums themselves.
        early_stopping: whether a prompt is done once it has `num_beams` finished texts. False: when no beam
            can beat them at its present length; "never": when none can at any length.
        num_results: how many texts of each prompt to return, up to num_beams.
        sampling: settings that look at the text so far, applied to log-probabilities; nothing is drawn.
        end_id: the token that finishes a text.
        context_length: the most tokens that the model can read.

    Raises:
        UserError: a setting out of range, a prompt that with `num_tokens` is longer than the context, or
            logits that are not numbers.
    """
    sampling = sampling or Sampling()
    sampling.check()
    if min(len(prompts), num_tokens, num_beams) < 1 or not 1 <= num_results <= num_beams:
        raise UserError(
            f"{len(prompts)} prompts, {num_tokens} tokens, {num_beams} beams and {num_results} results",
            "each must be 1 or more, and the results no more than the beams",
        )
    fitted = fit_prompts(prompts, lengths, num_tokens, context_length)
    found = _search(
        prefill,
        step,
        params,
        fitted.prompts,
        fitted.lengths,
        min(bucket(fitted.longest + num_tokens), fitted.limit),
        bucket(num_tokens),
        num_tokens,
        num_beams,
        float(length_penalty),
        early_stopping,
        sampling,
        -1 if end_id is None else end_id,
    )
    tokens, log_probs, sizes, scores = (np.asarray(x)[:, :num_results] for x in found)
    if not np.isfinite(scores).all() or (scores <= _NEVER / 2).any():
        raise UserError(
            "the model's logits are not numbers, or the settings leave no token to choose",
            "check its parameters and its context length, and what is banned",
        )
    sizes = sizes.reshape(-1)
    there = np.arange(num_tokens) < sizes[:, None]
    tokens, log_probs = (x.reshape(len(sizes), -1)[:, :num_tokens] for x in (tokens, log_probs))
    tokens = np.where(there, tokens, end_id or 0)
    return Found(tokens, np.where(there, log_probs, 0), sizes, scores.reshape(-1))


class _Texts(NamedTuple):
    """Texts of each prompt with their scores: those that go on, or those that are finished."""

    score_BK: jax.Array
    tokens_BKN: jax.Array
    log_probs_BKN: jax.Array
    length_BK: jax.Array

    def take(self, index_BK: jax.Array) -> "_Texts":
        def pick(x):
            return jnp.take_along_axis(x, index_BK.reshape(index_BK.shape + (1,) * (x.ndim - 2)), axis=1)

        return _Texts(*map(pick, self))


class _Beams(NamedTuple):
    n: jax.Array  # tokens generated
    state: Any
    logits_RV: jax.Array
    history: History
    live: _Texts
    done: _Texts
    open_B: jax.Array  # whether a live text may still get among the finished ones


@partial(
    jax.jit,
    static_argnames=("prefill", "step", "capacity", "room", "num_beams", "early_stopping"),
)
def _search(
    prefill, step, params, tokens_BT, length_B, capacity, room, num_tokens, num_beams, length_penalty,
    early_stopping, sampling, end,
):  # fmt: skip
    """The finished texts [B, K, N], in order, their log-probabilities, lengths and scores."""
    B, K = tokens_BT.shape[0], num_beams
    logits_BV, state = prefill(params, tokens_BT, length_B, capacity)
    logits_RV, state = jax.tree.map(lambda x: jnp.repeat(x, K, axis=0), (logits_BV, state))
    tokens_RS = jnp.repeat(jnp.pad(tokens_BT, ((0, 0), (0, room))), K, axis=0)
    length_R = jnp.repeat(length_B, K)
    history = History(tokens_RS if sampling.reads_text else tokens_RS[:, :0], length_R, length_R)
    zeros_BKN = jnp.zeros((B, K, room), jnp.int32)
    none = _Texts(
        jnp.full((B, K), _NEVER), zeros_BKN, zeros_BKN.astype(jnp.float32), jnp.zeros((B, K), jnp.int32)
    )
    # All beams begin alike; one of them alone is followed, so that they come apart.
    live = none._replace(score_BK=none.score_BK.at[:, 0].set(0))
    beams = _Beams(jnp.int32(0), state, logits_RV, history, live, none, jnp.ones(B, bool))
    advance = partial(_advance, num_tokens, length_penalty, early_stopping, sampling, end)

    def unfinished(beams):
        full = (beams.done.length_BK > 0).all() & (early_stopping is True)
        return (beams.n < num_tokens) & beams.open_B.any() & ~full

    def body(beams):
        beams, parent_R, token_R = advance(beams)
        state = jax.tree.map(lambda x: x[parent_R], beams.state)
        # The last tokens need not be read.
        logits_RV, state = jax.lax.cond(
            unfinished(beams), lambda s: step(params, s, token_R), lambda s: (beams.logits_RV, s), state
        )
        return beams._replace(logits_RV=logits_RV, state=state)

    done = jax.lax.while_loop(unfinished, body, beams).done
    return done.tokens_BKN, done.log_probs_BKN, done.length_BK, done.score_BK


def _advance(num_tokens, length_penalty, early_stopping, sampling, end, beams):
    """The beams one token longer; for each row, which row it continues and by which token."""
    candidates, parent_BC, token_BC = _candidates(beams, sampling, end)
    n, K = beams.n + 1, beams.live.score_BK.shape[1]
    ends_BC = (token_BC == end) | (n == num_tokens)
    rest_BC = jnp.where(ends_BC, _NEVER, candidates.score_BK)
    score_BK, best_BK = jax.lax.top_k(rest_BC, K)
    live = candidates.take(best_BK)._replace(score_BK=score_BK)

    full_B = (beams.done.length_BK > 0).all(axis=1) & (early_stopping is True)
    may_end_BC = ends_BC & (jnp.arange(2 * K)[None] < K) & (beams.open_B & ~full_B)[:, None]
    finished = candidates._replace(
        score_BK=jnp.where(may_end_BC, candidates.score_BK / n**length_penalty, _NEVER),
        length_BK=jnp.where(may_end_BC, n, 0),
    )
    merged = _Texts(*(jnp.concatenate(pair, axis=1) for pair in zip(beams.done, finished)))
    done = merged.take(jax.lax.top_k(merged.score_BK, K)[1])

    longest = jnp.where((early_stopping == "never") & (length_penalty > 0), num_tokens, n)
    reachable_B1 = live.score_BK[:, :1] / longest**length_penalty
    worst_BK = jnp.where(done.length_BK > 0, done.score_BK.min(axis=1, keepdims=True), _NEVER)
    open_B = beams.open_B & (reachable_B1 > worst_BK).any(axis=1)

    parent_BK = jnp.take_along_axis(parent_BC, best_BK, axis=1)
    parent_R = (parent_BK + K * jnp.arange(parent_BK.shape[0])[:, None]).reshape(-1)
    token_R = jnp.take_along_axis(token_BC, best_BK, axis=1).reshape(-1)
    history = jax.tree.map(lambda x: x[parent_R], beams.history).append(token_R)
    return _Beams(n, beams.state, beams.logits_RV, history, live, done, open_B), parent_R, token_R


def _candidates(beams: _Beams, sampling: Sampling, end: jax.Array) -> tuple[_Texts, jax.Array, jax.Array]:
    """The 2K best texts one token longer than a live one; its beam and the token, each [B, C]."""
    B, K = beams.live.score_BK.shape
    log_probs_RV = jax.nn.log_softmax(beams.logits_RV)
    V = log_probs_RV.shape[1]
    scores_RV = edit(log_probs_RV, sampling, beams.history, end) + beams.live.score_BK.reshape(-1, 1)
    score_BC, place_BC = jax.lax.top_k(scores_RV.reshape(B, K * V), 2 * K)
    parent_BC, token_BC = place_BC // V, (place_BC % V).astype(jnp.int32)
    log_prob_BC = jnp.take_along_axis(log_probs_RV.reshape(B, K * V), place_BC, axis=1)
    texts = beams.live.take(parent_BC)
    return (
        _Texts(
            score_BC,
            texts.tokens_BKN.at[:, :, beams.n].set(token_BC),
            texts.log_probs_BKN.at[:, :, beams.n].set(log_prob_BC),
            texts.length_BK,
        ),
        parent_BC,
        token_BC,
    )
