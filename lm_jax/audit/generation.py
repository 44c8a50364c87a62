"""The check that what a model writes comes from the distribution by which it scores."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.audit.distributions import tokens_of
from lm_jax.audit.largest import Largest, gaps
from lm_jax.audit.samples import Passage
from lm_jax.errors import UserError
from lm_jax.evaluation.audited import FAILED, NOT_APPLICABLE, Check
from lm_jax.language_models.base import Generates, Generation, ScoredText
from lm_jax.language_models.next_tokens import NextTokens

_NAME = "one_distribution"
_PROMPT, _LONGEST = 72, 32  # tokens of a prompt, and tokens that are generated after it
_SIMULATIONS = 10_000  # of the drawn tokens: an honest model is further off than all of them once in so many
_ROUNDING = 1e-3  # nats


class Written(NamedTuple):
    """A generated text.

    Attributes:
        prompt: what it continues.
        before: the tokens of the prompt.
        generation: what was generated.
        is_sampled: whether tokens were drawn; otherwise each is the most probable one.
    """

    prompt: str
    before: np.ndarray
    generation: Generation
    is_sampled: bool

    @property
    def text(self) -> str:
        """The prompt and its continuation."""
        return self.prompt + self.generation.text

    @property
    def ids(self) -> np.ndarray:
        """The tokens of the text."""
        return np.concatenate([self.before, self.generation.tokens])

    def place(self, token: int) -> str:
        """Where a generated token is, for reports."""
        return f"token {token} of what follows {self.prompt[-20:]!r}"


def write(model: Any, passages: Sequence[Passage], greedy: bool, seed: int) -> list[Written] | str:
    """Continuations of the beginnings of passages, within the model's context.

    Args:
        model: any model.
        passages: whose beginnings are continued.
        greedy: whether also the most probable tokens are generated, and the empty text is continued.
        seed: of the draws.

    Returns:
        The texts; or why there are none.
    """
    if not isinstance(model, Generates) or not hasattr(model, "tokenizer"):
        return "the model does not generate"
    tokenizer, context = model.tokenizer, getattr(model, "context", None)
    size = _PROMPT if context is None else min(_PROMPT, context // 2)
    prompts = [""] if greedy else []
    for passage in passages:
        spans = tokenizer.encode(passage.text).spans[:size]
        end = int(spans[-1, 1]) if len(spans) else 0
        prompts.append(passage.text.encode()[:end].decode(errors="ignore"))
    before = tokenizer.encode_prompts(prompts)
    num_tokens = _LONGEST if context is None else min(_LONGEST, context - 1 - max(map(len, before)))
    made: list[Written] = []
    try:
        for temperature in (1.0, 0.0) if greedy else (1.0,):
            found = model.generate(prompts, max(1, num_tokens), temperature=temperature, seed=seed)
            made += [Written(*parts, temperature > 0) for parts in zip(prompts, before, found, strict=True)]
    except UserError as error:
        return f"it cannot generate: {error.cause}"
    return made


class _Told(NamedTuple):
    """What a model tells of the tokens at the places of N generated ones.

    Attributes:
        log_probs_NW: the distributions.
        excluded_W: bool, what generation may leave out: the unknown token, and outcomes that are no tokens.
        log_excluded_N: natural log of their probability.
    """

    log_probs_NW: np.ndarray
    excluded_W: np.ndarray
    log_excluded_N: np.ndarray


class _Claim:
    """That generation is the distribution of scores, or that without the tokens that it leaves out.

    Attributes:
        largest: the errors of log-probabilities.
        off: the log-probability of all drawn tokens less the expected one, nats.
    """

    def __init__(self, leaves_out: bool):
        self._leaves_out = leaves_out
        self.largest, self.off = Largest(), 0.0
        self._random, self._simulated = np.random.default_rng(0), np.zeros(_SIMULATIONS)

    def compare(self, one: Written, tokens: np.ndarray, log_probs: np.ndarray, told: _Told | None) -> None:
        """Takes the log-probabilities of some generated tokens, those with the given numbers, as scored."""
        if self._leaves_out and told is not None:
            log_probs = log_probs - np.log1p(-np.exp(told.log_excluded_N[tokens]))
        errors = gaps(one.generation.log_probs[tokens], log_probs)
        self.largest.add(errors, lambda n: one.place(int(tokens[n])))

    def add_draws(self, one: Written, told: _Told) -> None:
        """Takes drawn tokens, and simulates drawing them."""
        log_probs_NW = told.log_probs_NW
        if self._leaves_out:
            kept_NW = np.where(told.excluded_W[None], -np.inf, log_probs_NW)
            log_probs_NW = kept_NW - np.log1p(-np.exp(told.log_excluded_N))[:, None]
        for log_probs_W, token in zip(log_probs_NW, one.generation.tokens):
            probs_W = np.exp(log_probs_W)
            cumulative_W = np.cumsum(probs_W)
            places = self._random.random(_SIMULATIONS) * cumulative_W[-1]
            drawn = np.searchsorted(cumulative_W, places, side="right")
            mean = probs_W @ np.where(probs_W > 0, log_probs_W, 0.0)
            self.off += float(log_probs_W[token] - mean)
            self._simulated += log_probs_W[np.minimum(drawn, len(probs_W) - 1)] - mean

    @property
    def most_off(self) -> float:
        """The largest distance of all simulations, nats."""
        return max(float(np.abs(self._simulated).max()), _ROUNDING)


def _ask(model: Any, one: Written) -> _Told:
    histories = [one.ids[: len(one.before) + n] for n in range(len(one.generation.tokens))]
    log_probs_NW = model.next_log_probs(histories)
    excluded_W = np.arange(log_probs_NW.shape[1]) >= model.tokenizer.vocab_size
    if model.tokenizer.unknown_id is not None:
        excluded_W[model.tokenizer.unknown_id] = True
    excluded_N = np.logaddexp.reduce(log_probs_NW[:, excluded_W], axis=1, initial=-np.inf)
    return _Told(log_probs_NW, excluded_W, excluded_N)


def one_distribution(
    model: Any, written: Sequence[Written] | str, scored: Sequence[ScoredText], tolerance: float
) -> Check:
    """Whether generated tokens have the log-probabilities by which the text that they make is scored.

    Where a text is read back as other tokens, those before the first other one are compared. Where the model
    tells its next tokens, all generated tokens are compared with these distributions too, and the drawn ones
    must be as probable as draws from them: their log-probability together at most as far from the expected
    one as the furthest of 10,000 simulations.

    n-grams never generate the unknown token, whose probability the others share. Then generation must be the
    distribution of scores without it: that is stated.

    Args:
        model: it scores, and generates or not.
        written: what `write` gave.
        scored: the scores of these texts.
        tolerance: of log-probabilities, nats.
    """
    if isinstance(written, str):
        return Check(_NAME, NOT_APPLICABLE, written)
    claims = [_Claim(False), _Claim(True)]
    tells, num_tokens, num_read_back = isinstance(model, NextTokens), 0, 0
    for one, score in zip(written, scored, strict=True):
        told = _ask(model, one) if tells else None
        every, (read_back, log_probs) = np.arange(len(one.generation.tokens)), _read_back(model, one, score)
        num_tokens, num_read_back = num_tokens + len(every), num_read_back + len(read_back)
        for claim in claims:
            claim.compare(one, read_back, log_probs, told)
            if told is not None:
                claim.compare(one, every, told.log_probs_NW[every, one.generation.tokens], told)
                if one.is_sampled:
                    claim.add_draws(one, told)
    whole, without = claims
    leaves_out = whole.largest.error > tolerance and without.largest.error <= tolerance
    claim = without if leaves_out else whole
    against = "scores, and all with the distributions" if tells else "scores"
    what = f"{num_read_back} of {num_tokens} tokens of {len(written)} generated texts with {against}, in nats"
    what += ", but for unknown tokens, which are never generated" if leaves_out else ""
    check = claim.largest.check(_NAME, tolerance, what)
    return _with_draws(check, abs(claim.off), claim.most_off) if tells and check.status != FAILED else check


def _read_back(model: Any, one: Written, scored: ScoredText) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the leading generated tokens that the scored text has too, and their scores."""
    ids, places = tokens_of(model, one.text, scored)
    size, start = min(len(ids), len(one.ids)), len(one.before)
    same = int(np.append(ids[:size] == one.ids[:size], False).argmin())
    numbers = np.flatnonzero(places[start:same] >= 0)
    return numbers, scored.log_probs[places[start + numbers]]


def _with_draws(check: Check, off: float, most: float) -> Check:
    """The check with that of the drawn tokens."""
    said = f"the drawn ones together are {off:.1f} nats from what is expected (at most {most:.1f} by chance)"
    if off <= most:
        return check._replace(what=f"{check.what}; {said}")
    what, where = f"{said}: they come from another distribution", "the drawn tokens together"
    return check._replace(status=FAILED, what=what, error=off, tolerance=most, where=where)
