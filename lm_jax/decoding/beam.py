"""Beam search: the texts with the highest score that following a few at a time finds.

The rules are those of transformers, token for token: each step takes the 2K best candidates; those that end
among the first K become finished texts, with score sum / length^penalty (Wu et al. 2016, section 7, with the
simpler penalty). A text of probability 0 is never followed and never finished.

Shape letters: B prompt, K beam, R row (a beam of a prompt), C candidate, N generated token, V vocabulary.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding import memory
from lm_jax.decoding.decoder import Decoder, Limits, Prompts, Stop, check_counts, plain, with_bonus
from lm_jax.decoding.settings import History, Sampling, check_number, edit
from lm_jax.decoding.text import bucket, fit_prompts
from lm_jax.errors import UserError

_PLAIN = Sampling()


class BeamSettings(NamedTuple):
    """How texts are searched for.

    Attributes:
        num_beams: how many texts are followed at a time.
        length_penalty: the exponent of the length that divides a finished text's sum of log-probabilities:
            above 0 favours long texts, 0 compares the sums themselves.
        early_stopping: when a prompt is done. True: once it has `num_beams` finished texts. False: when no
            beam can beat them at its present length. "never": when no beam can beat them at any length.
    """

    num_beams: int
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def checked(self) -> "BeamSettings":
        """With Python's numbers in place of NumPy's and JAX's.

        Raises:
            UserError: a value of another type or out of range.
        """
        beams = BeamSettings(*map(plain, self))
        check_counts(num_beams=beams.num_beams)
        check_number("length_penalty", beams.length_penalty, -10, 10)
        if not (isinstance(beams.early_stopping, bool) or beams.early_stopping == "never"):
            raise UserError(f"early_stopping={beams.early_stopping!r}", 'give True, False or "never"')
        return beams


class Found(NamedTuple):
    """The best texts of each prompt, the best first.

    Attributes:
        tokens: int32 [R, N]; text j of prompt i is row i * num_samples + j. After a row's length: the end
            token, or 0.
        log_probs: float32 [R, N], natural logarithms of the model's own probabilities; 0 after the length.
        lengths: int32 [R], tokens in each row, an end token counted.
        scores: float32 [R], which orders them: the sum of log-probabilities, as edited by the settings,
            over length^length_penalty.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray


def search(
    decoder: Decoder, prompts: Prompts, limits: Limits, beams: BeamSettings, sampling: Sampling = _PLAIN
) -> Found:
    """Searches for the texts of the highest score that continue each prompt.

    Args:
        decoder: the model.
        prompts: what to continue.
        limits: how much to generate. `num_samples` is how many texts of each prompt to return, at most
            `num_beams`. `stop` is called for each candidate with the number of its prompt's first row: a
            text that it ends is finished, as by the end token. The search then returns to the host at each
            token.
        beams: how to search.
        sampling: only the settings that depend on the text so far apply, to log-probabilities; nothing is
            drawn.

    Raises:
        UserError: a setting out of range, a prompt that with `num_tokens` is longer than the context, logits
            that are not numbers, or fewer texts of a probability above 0 than `num_samples`.
    """
    sampling.check()
    limits, beams = limits.checked(), beams.checked()
    if limits.num_samples > beams.num_beams:
        raise UserError(
            f"{limits.num_samples} results of {beams.num_beams} beams", "ask for no more than the beams"
        )
    prompts = prompts.checked(decoder.context_length)
    memory.check(decoder, prompts, limits, beams.num_beams)
    tokens_BT, length_B, capacity = fit_prompts(prompts, limits.num_tokens, decoder.context_length, spare=-1)
    sizes = _Sizes(capacity, bucket(limits.num_tokens), beams.num_beams)
    rules = _Rules(limits.num_tokens, float(beams.length_penalty), sampling, limits.end)
    found = _begin(decoder.prefill, sizes, decoder.params, tokens_BT, length_B, sampling)
    if limits.stop is None:
        found = _run(decoder.step, beams.early_stopping, decoder.params, found, rules)
    else:
        hits = partial(_hits, limits.stop, limits.num_samples)
        found = _run_with_stops(decoder.step, beams.early_stopping, decoder.params, found, rules, hits)
    return _found(jax.device_get(found.done), jax.device_get(found.live.score_BK), limits)


def _found(done, live_score_BK, limits):
    """The best of the finished texts [B, K, N] as rows."""
    if np.isnan(done.score_BK).any() or np.isnan(live_score_BK).any():
        raise UserError("the model's logits are not numbers", "check its parameters and its context length")
    count_B = (done.length_BK > 0).sum(axis=1)
    least = int(count_B.min())
    if least < limits.num_samples:
        raise UserError(
            f"prompt {count_B.argmin()} has {least} continuations of a probability above 0; the model and "
            "the settings leave no token to choose",
            f"ask for {least}, or ban less" if least else "check the vocabulary, and what is banned",
        )
    score_R, tokens_RN, log_probs_RN, length_R = (
        x[:, : limits.num_samples].reshape(-1, *x.shape[2:]) for x in done
    )
    tokens_RN, log_probs_RN = (x[:, : limits.num_tokens] for x in (tokens_RN, log_probs_RN))
    there_RN = np.arange(limits.num_tokens) < length_R[:, None]
    tokens_RN = np.where(there_RN, tokens_RN, limits.padding)
    return Found(tokens_RN, np.where(there_RN, log_probs_RN, 0), length_R, score_R)


class _Sizes(NamedTuple):
    """What decides the shapes of a search."""

    capacity: int
    room: int
    num_beams: int


class _Rules(NamedTuple):
    """Settings of a search whose values are traced."""

    num_tokens: int
    length_penalty: float
    sampling: Sampling
    end: int  # -1: no token ends a text


class _Texts(NamedTuple):
    """Texts of each prompt with their scores, either live or finished; the score of no text is -inf."""

    score_BK: jax.Array
    tokens_BKN: jax.Array
    log_probs_BKN: jax.Array
    length_BK: jax.Array  # of finished texts; 0: no text

    def take(self, index_BK: jax.Array) -> "_Texts":
        def pick(x):
            return jnp.take_along_axis(x, index_BK.reshape(index_BK.shape + (1,) * (x.ndim - 2)), axis=1)

        return _Texts(*map(pick, self))


class _Candidates(NamedTuple):
    """The 2K best texts one token longer than a live one."""

    texts: _Texts
    parent_BC: jax.Array  # the beam that each continues
    token_BC: jax.Array
    stops_BC: jax.Array  # bool, whether `Limits.stop` ends it


class _Beams(NamedTuple):
    n: jax.Array  # tokens generated
    state: Any
    logits_RV: jax.Array
    history: History
    live: _Texts
    done: _Texts
    open_B: jax.Array  # whether a live text may still become one of the best finished ones
    is_over: jax.Array  # for all prompts


@partial(jax.jit, static_argnames=("prefill", "sizes"))
def _begin(prefill, sizes, params, tokens_BT, length_B, sampling):
    """Reads prompts; no text has a token yet."""
    B, K, N = tokens_BT.shape[0], sizes.num_beams, sizes.room
    logits_BV, state = prefill(params, tokens_BT, length_B, sizes.capacity)
    logits_RV, state = jax.tree.map(lambda x: jnp.repeat(x, K, axis=0), (logits_BV, state))
    tokens_RS = jnp.repeat(jnp.pad(tokens_BT, ((0, 0), (0, N))), K, axis=0)
    length_R = jnp.repeat(length_B, K)
    history = History(tokens_RS if sampling.reads_text else tokens_RS[:, :0], length_R, length_R)
    zeros_BKN = jnp.zeros((B, K, N), jnp.int32)
    none = _Texts(
        jnp.full((B, K), -jnp.inf), zeros_BKN, zeros_BKN.astype(jnp.float32), jnp.zeros((B, K), jnp.int32)
    )
    # All beams begin equal: only the first is followed, or all would stay equal.
    live = none._replace(score_BK=none.score_BK.at[:, 0].set(0))
    return _Beams(jnp.int32(0), state, logits_RV, history, live, none, jnp.ones(B, bool), jnp.array(False))


@partial(jax.jit, static_argnames=("step", "early_stopping"), donate_argnames="beams")
def _run(step, early_stopping, params, beams, rules):
    """The whole search on the device."""

    def body(beams):
        return _advance(step, early_stopping, params, beams, rules, _candidates(beams, rules))

    return jax.lax.while_loop(lambda beams: ~beams.is_over, body, beams)


def _run_with_stops(step, early_stopping, params, beams, rules, hits):
    """The search where the host decides which candidates are finished."""
    while not beams.is_over:
        candidates = _candidates_once(beams, rules)
        stops_BC = hits(np.asarray(candidates.texts.tokens_BKN)[:, :, : int(beams.n) + 1])
        candidates = candidates._replace(stops_BC=stops_BC)
        beams = _advance_once(step, early_stopping, params, beams, rules, candidates)
    return beams


def _hits(stop: Stop, num_results: int, tokens_BCN: np.ndarray) -> np.ndarray:
    """Whether `stop` would end each text, [B, C]."""
    return np.array(
        [[stop(i * num_results, text) is not None for text in texts] for i, texts in enumerate(tokens_BCN)]
    )


def _advance(step, early_stopping, params, beams, rules, candidates):
    """The beams one token longer, and their state with that token read."""
    n, K = beams.n + 1, beams.live.score_BK.shape[1]
    score_BC = candidates.texts.score_BK
    ends_BC = (candidates.token_BC == rules.end) | (n == rules.num_tokens) | candidates.stops_BC
    score_BK, best_BK = jax.lax.top_k(jnp.where(ends_BC, -jnp.inf, score_BC), K)
    live = candidates.texts.take(best_BK)._replace(score_BK=score_BK)
    done, open_B = _finish(early_stopping, beams, rules, candidates.texts, ends_BC, live)
    full = (done.length_BK > 0).all() & (early_stopping is True)
    is_over = (n == rules.num_tokens) | ~open_B.any() | full

    parent_BK = jnp.take_along_axis(candidates.parent_BC, best_BK, axis=1)
    parent_R = (parent_BK + K * jnp.arange(parent_BK.shape[0])[:, None]).reshape(-1)
    token_R = jnp.take_along_axis(candidates.token_BC, best_BK, axis=1).reshape(-1)
    history, state = jax.tree.map(lambda x: x[parent_R], (beams.history, beams.state))
    # The last tokens need not be read.
    logits_RV, state = jax.lax.cond(
        is_over, lambda s: (beams.logits_RV, s), lambda s: step(params, s, token_R), state
    )
    return _Beams(n, state, logits_RV, history.append(token_R), live, done, open_B, is_over)


_advance_once = jax.jit(_advance, static_argnames=("step", "early_stopping"), donate_argnames="beams")


def _finish(early_stopping, beams, rules, texts, ends_BC, live):
    """The finished texts, with those that end among the first K; and whether each prompt continues."""
    n, K = beams.n + 1, live.score_BK.shape[1]
    full_B = (beams.done.length_BK > 0).all(axis=1) & (early_stopping is True)
    may_end_BC = ends_BC & (jnp.arange(2 * K)[None] < K) & (beams.open_B & ~full_B)[:, None]
    may_end_BC &= texts.score_BK != -jnp.inf
    finished = texts._replace(
        score_BK=jnp.where(may_end_BC, texts.score_BK / n**rules.length_penalty, -jnp.inf),
        length_BK=jnp.where(may_end_BC, n, 0),
    )
    merged = _Texts(*(jnp.concatenate(pair, axis=1) for pair in zip(beams.done, finished)))
    done = merged.take(jax.lax.top_k(merged.score_BK, K)[1])

    is_longest = (early_stopping == "never") & (rules.length_penalty > 0)
    reachable_B = live.score_BK[:, 0] / jnp.where(is_longest, rules.num_tokens, n) ** rules.length_penalty
    return done, beams.open_B & (reachable_B > done.score_BK.min(axis=1))


def _candidates(beams, rules):
    """The best texts one token longer; a dead beam (score -inf) has none, whatever its logits are."""
    B, K = beams.live.score_BK.shape
    log_probs_RV = jax.nn.log_softmax(beams.logits_RV)
    V = log_probs_RV.shape[1]
    scores_RV = with_bonus(log_probs_RV, beams.state)
    edited_RV = edit(scores_RV, rules.sampling, beams.history, rules.end)
    live_R1 = beams.live.score_BK.reshape(-1, 1)
    is_dead_R1 = (live_R1 == -jnp.inf) | (beams.logits_RV.max(axis=-1, keepdims=True) == -jnp.inf)
    scores_RV = jnp.where(is_dead_R1, -jnp.inf, edited_RV + live_R1)
    scores_RV = jnp.where(jnp.isnan(scores_RV), jnp.nan, scores_RV)  # top_k puts NaN first, but -NaN last
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
    return _Candidates(texts, parent_BC, token_BC, jnp.zeros(token_BC.shape, bool))


_candidates_once = jax.jit(_candidates)
