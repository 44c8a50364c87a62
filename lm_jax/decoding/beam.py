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
from lm_jax.decoding.sampling import Prefill, Step
from lm_jax.decoding.text import Stop, bucket, check_counts, fit_prompts
from lm_jax.errors import UserError

_NEVER = -1e9  # the score of what must not be chosen: finite, so that differences of it are numbers
_PLAIN = Sampling()


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
    sampling: Sampling = _PLAIN,
    end_id: int | None = None,
    context_length: int | None = None,
    stop: Stop | None = None,
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
        stop: see `Stop`, asked for each candidate under the number of its prompt's first row: a text that it
            would end is finished, as by the end token. The search then visits the host at each token.

    Raises:
        UserError: a setting out of range, a prompt that with `num_tokens` is longer than the context, or
            logits that are not numbers.
    """
    sampling.check()
    check_counts(prompts=len(prompts), num_tokens=num_tokens, num_beams=num_beams, num_results=num_results)
    if num_results > num_beams:
        raise UserError(f"{num_results} results of {num_beams} beams", "ask for no more than the beams")
    fitted = fit_prompts(prompts, lengths, num_tokens, context_length)
    end = -1 if end_id is None else end_id  # no token is -1
    rules = _Rules(num_tokens, float(length_penalty), sampling, end)
    beams = _begin(prefill, params, *fitted, bucket(num_tokens), num_beams, sampling)
    if stop is None:
        beams = _run(step, early_stopping, params, beams, rules)
    else:
        beams = _run_with_stops(step, early_stopping, params, beams, rules, partial(_hits, stop, num_results))
    done = jax.device_get(beams.done)
    return _found(_Texts(*(x[:, :num_results] for x in done)), num_tokens, end_id or 0)


def _found(texts, num_tokens, padding):
    """Finished texts [B, K, N] as rows."""
    if not np.isfinite(texts.score_BK).all() or (texts.score_BK <= _NEVER / 2).any():
        raise UserError(
            "the model's logits are not numbers, or the settings leave no token to choose",
            "check its parameters and its context length, and what is banned",
        )
    length_R = texts.length_BK.reshape(-1)
    there_RN = np.arange(num_tokens) < length_R[:, None]
    tokens_RN, log_probs_RN = (
        x.reshape(len(length_R), -1)[:, :num_tokens] for x in (texts.tokens_BKN, texts.log_probs_BKN)
    )
    tokens_RN = np.where(there_RN, tokens_RN, padding)
    return Found(tokens_RN, np.where(there_RN, log_probs_RN, 0), length_R, texts.score_BK.reshape(-1))


class _Rules(NamedTuple):
    """What a search is told; numbers, by which nothing is compiled anew."""

    num_tokens: int
    length_penalty: float
    sampling: Sampling
    end: int


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


class _Candidates(NamedTuple):
    """The 2K best texts one token longer than a live one, with the beam that each continues and its token."""

    texts: _Texts
    parent_BC: jax.Array
    token_BC: jax.Array


class _Beams(NamedTuple):
    n: jax.Array  # tokens generated
    state: Any
    logits_RV: jax.Array
    history: History
    live: _Texts
    done: _Texts
    open_B: jax.Array  # whether a live text may still get among the finished ones
    is_over: jax.Array  # for all prompts


@partial(jax.jit, static_argnames=("prefill", "capacity", "room", "num_beams"))
def _begin(prefill, params, tokens_BT, length_B, capacity, room, num_beams, sampling):
    """Reads prompts; no text has a token yet."""
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
    return _Beams(jnp.int32(0), state, logits_RV, history, live, none, jnp.ones(B, bool), jnp.array(False))


@partial(jax.jit, static_argnames=("step", "early_stopping"), donate_argnames="beams")
def _run(step, early_stopping, params, beams, rules):
    """The whole search on the device."""

    def body(beams):
        candidates = _candidates(beams, rules)
        stops_BC = jnp.zeros(candidates.token_BC.shape, bool)
        return _advance(step, early_stopping, params, beams, rules, candidates, stops_BC)

    return jax.lax.while_loop(lambda beams: ~beams.is_over, body, beams)


def _run_with_stops(step, early_stopping, params, beams, rules, hits):
    """The search where the host says which candidates are finished."""
    while not beams.is_over:
        candidates = _candidates_once(beams, rules)
        stops_BC = hits(np.asarray(candidates.texts.tokens_BKN)[:, :, : int(beams.n) + 1])
        beams = _advance_once(step, early_stopping, params, beams, rules, candidates, stops_BC)
    return beams


def _hits(stop: Stop, num_results: int, tokens_BCN: np.ndarray) -> np.ndarray:
    """Whether `stop` would end each text, [B, C]."""
    return np.array(
        [[stop(i * num_results, text) is not None for text in texts] for i, texts in enumerate(tokens_BCN)]
    )


def _advance(step, early_stopping, params, beams, rules, candidates, stops_BC):
    """The beams one token longer, and their state with that token read."""
    n, K = beams.n + 1, beams.live.score_BK.shape[1]
    score_BC, parent_BC, token_BC = candidates.texts.score_BK, candidates.parent_BC, candidates.token_BC
    ends_BC = (token_BC == rules.end) | (n == rules.num_tokens) | stops_BC
    score_BK, best_BK = jax.lax.top_k(jnp.where(ends_BC, _NEVER, score_BC), K)
    live = candidates.texts.take(best_BK)._replace(score_BK=score_BK)
    done, open_B = _finish(early_stopping, beams, rules, candidates.texts, ends_BC, live)
    full = (done.length_BK > 0).all() & (early_stopping is True)
    is_over = (n == rules.num_tokens) | ~open_B.any() | full

    parent_BK = jnp.take_along_axis(parent_BC, best_BK, axis=1)
    parent_R = (parent_BK + K * jnp.arange(parent_BK.shape[0])[:, None]).reshape(-1)
    token_R = jnp.take_along_axis(token_BC, best_BK, axis=1).reshape(-1)
    history, state = jax.tree.map(lambda x: x[parent_R], (beams.history, beams.state))
    # The last tokens need not be read.
    logits_RV, state = jax.lax.cond(
        is_over, lambda s: (beams.logits_RV, s), lambda s: step(params, s, token_R), state
    )
    return _Beams(n, state, logits_RV, history.append(token_R), live, done, open_B, is_over)


_advance_once = jax.jit(_advance, static_argnames=("step", "early_stopping"), donate_argnames="beams")


def _finish(early_stopping, beams, rules, texts, ends_BC, live):
    """The finished texts, with those that end among the first K; for each prompt whether it goes on."""
    n, K = beams.n + 1, live.score_BK.shape[1]
    full_B = (beams.done.length_BK > 0).all(axis=1) & (early_stopping is True)
    may_end_BC = ends_BC & (jnp.arange(2 * K)[None] < K) & (beams.open_B & ~full_B)[:, None]
    finished = texts._replace(
        score_BK=jnp.where(may_end_BC, texts.score_BK / n**rules.length_penalty, _NEVER),
        length_BK=jnp.where(may_end_BC, n, 0),
    )
    merged = _Texts(*(jnp.concatenate(pair, axis=1) for pair in zip(beams.done, finished)))
    done = merged.take(jax.lax.top_k(merged.score_BK, K)[1])

    is_longest = (early_stopping == "never") & (rules.length_penalty > 0)
    reachable_B1 = live.score_BK[:, :1] / jnp.where(is_longest, rules.num_tokens, n) ** rules.length_penalty
    worst_BK = jnp.where(done.length_BK > 0, done.score_BK.min(axis=1, keepdims=True), _NEVER)
    return done, beams.open_B & (reachable_B1 > worst_BK).any(axis=1)


def _candidates(beams, rules):
    B, K = beams.live.score_BK.shape
    log_probs_RV = jax.nn.log_softmax(beams.logits_RV)
    V = log_probs_RV.shape[1]
    edited_RV = edit(log_probs_RV, rules.sampling, beams.history, rules.end)
    scores_RV = edited_RV + beams.live.score_BK.reshape(-1, 1)
    score_BC, place_BC = jax.lax.top_k(scores_RV.reshape(B, K * V), 2 * K)
    parent_BC, token_BC = place_BC // V, (place_BC % V).astype(jnp.int32)
    log_prob_BC = jnp.take_along_axis(log_probs_RV.reshape(B, K * V), place_BC, axis=1)
    texts = beams.live.take(parent_BC)
    texts = _Texts(
        score_BC,
        texts.tokens_BKN.at[:, :, beams.n].set(token_BC),
        texts.log_probs_BKN.at[:, :, beams.n].set(log_prob_BC),
        texts.length_BK,
    )
    return _Candidates(texts, parent_BC, token_BC)


_candidates_once = jax.jit(_candidates)
