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
_STANDARD_ERRORS = 5.0  # that a mean may be off: of honest models one in two million is further off
_LEAST = 1e-3  # nats, for a standard error: rounding is no other distribution


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


class Compared(NamedTuple):
    """The tokens of a generated text that are tokens of the scored text too, N of them.

    Attributes:
        generated: float64 [N], their log-probabilities in generation.
        scored: float64 [N], those in the scored text.
        log_excluded: float64 [N], natural log of the probability of what generation may leave out: the
            unknown token, and outcomes that are no tokens. -inf where that is not known.
    """

    generated: np.ndarray
    scored: np.ndarray
    log_excluded: np.ndarray


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
        spans = tokenizer.encode(passage.text).spans
        end = int(spans[min(size, len(spans)) - 1, 1]) if len(spans) else 0
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


def one_distribution(
    model: Any, written: Sequence[Written] | str, scored: Sequence[ScoredText], tolerance: float
) -> Check:
    """Whether generated tokens have the log-probabilities by which the text that they make is scored.

    Where a text is read back as other tokens, those before the first other one are compared. Where the model
    tells its next tokens, the drawn tokens must also be as probable as tokens that are drawn from these
    distributions: their mean log-probability must be at most five standard errors off the expected one.

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
    tells = isinstance(model, NextTokens)
    distributions: list[Any] = [_next(model, one) if tells else None for one in written]
    plain, shared, num_tokens = Largest(), Largest(), 0
    for one, score, log_probs_NW in zip(written, scored, distributions, strict=True):
        num_tokens += len(one.generation.tokens)
        found = _compare(model, one, score, log_probs_NW)
        plain.add(gaps(found.generated, found.scored), one.place)
        without = found.scored - np.log1p(-np.exp(found.log_excluded))
        shared.add(gaps(found.generated, without), one.place)
    leaves_out = plain.error > tolerance and shared.error <= tolerance
    largest = shared if leaves_out else plain
    what = f"{largest.compared} of {num_tokens} tokens of {len(written)} generated texts, in nats"
    what += ", but for unknown tokens, which are never generated" if leaves_out else ""
    check = largest.check(_NAME, tolerance, what)
    if check.status == FAILED or not tells:
        return check
    if leaves_out:
        distributions = [_without(model, log_probs_NW) for log_probs_NW in distributions]
    return _add_draws(check, written, distributions)


def _next(model: NextTokens, one: Written) -> np.ndarray:
    """The distribution at the place of each generated token, [N, W]."""
    return model.next_log_probs([one.ids[: len(one.before) + t] for t in range(len(one.generation.tokens))])


def _compare(model: Any, one: Written, scored: ScoredText, log_probs_NW: np.ndarray | None) -> Compared:
    """The leading generated tokens that the scored text has too."""
    ids, places = tokens_of(model, one.text, scored)
    size = min(len(ids), len(one.ids))
    same = int(np.append(ids[:size] == one.ids[:size], False).argmin())
    kept = np.flatnonzero(places[len(one.before) : same] >= 0)
    generated = one.generation.log_probs[kept]
    log_excluded = np.full(len(kept), -np.inf)
    if log_probs_NW is not None:
        log_excluded = _log_excluded(model, log_probs_NW)[kept]
    return Compared(generated, scored.log_probs[places[len(one.before) : same][kept]], log_excluded)


def _log_excluded(model: Any, log_probs_NW: np.ndarray) -> np.ndarray:
    """Natural log of the probability of the unknown token and of what is no token, [N]."""
    excluded_W = _excluded(model, log_probs_NW.shape[1])
    return np.logaddexp.reduce(log_probs_NW[:, excluded_W], axis=1, initial=-np.inf)


def _without(model: Any, log_probs_NW: np.ndarray) -> np.ndarray:
    """The distributions of the other tokens."""
    kept_NW = np.where(_excluded(model, log_probs_NW.shape[1])[None], -np.inf, log_probs_NW)
    return kept_NW - np.log1p(-np.exp(_log_excluded(model, log_probs_NW)))[:, None]


def _excluded(model: Any, size: int) -> np.ndarray:
    """bool [W], the unknown token, and what is no token."""
    excluded_W = np.arange(size) >= model.tokenizer.vocab_size
    if model.tokenizer.unknown_id is not None:
        excluded_W[model.tokenizer.unknown_id] = True
    return excluded_W


def _add_draws(check: Check, texts: Sequence[Written], distributions: Sequence[Any]) -> Check:
    """The check with that of the drawn tokens: their mean log-probability against the expected one."""
    off = variance = 0.0
    for one, log_probs_NW in zip(texts, distributions, strict=True):
        if not one.is_sampled:
            continue
        tokens = one.generation.tokens
        drawn = log_probs_NW[np.arange(len(tokens)), tokens]
        probs_NW = np.exp(log_probs_NW)
        finite_NW = np.where(probs_NW > 0, log_probs_NW, 0.0)
        mean_N = (probs_NW * finite_NW).sum(axis=1)
        variance += float((probs_NW * (finite_NW - mean_N[:, None]) ** 2).sum())
        off += float((drawn - mean_N).sum())
    errors = abs(off) / max(np.sqrt(variance), _LEAST)
    said = f"the drawn ones are {errors:.1f} standard errors from what is expected"
    if errors <= _STANDARD_ERRORS:
        return check._replace(what=f"{check.what}; {said}")
    what = f"{said}: they come from another distribution"
    return check._replace(
        status=FAILED, what=what, error=errors, tolerance=_STANDARD_ERRORS, where="the mean log-probability"
    )
