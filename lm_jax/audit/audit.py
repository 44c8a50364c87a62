"""Proves on samples of a text that a model's scores are honest."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax import runtime
from lm_jax.audit import checks, distributions, generation, strings
from lm_jax.audit.samples import Cut, Passage, cut, draw
from lm_jax.evaluation.audited import FAILED, NOT_APPLICABLE, Audit, Check
from lm_jax.evaluation.base import Evaluation
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import ScoredText, Scores
from lm_jax.language_models.next_tokens import NextTokens

SAMPLES = 16  # passages
FEW = 4  # beside an evaluation
_SEED = 0
_ALONE, _CONTINUED, _PROMPTS = 4, 2, 4  # at most: texts scored alone, histories continued, prompts
_NEIGHBOURS = ["", "a"]  # other texts beside those that are scored again


class Samples(NamedTuple):
    """The sampled texts with their scores, in the order of the passages.

    Attributes:
        passages: the texts.
        scored: their scores, in a batch with all variants.
        cuts: where each is cut.
        replaced: the scores with another end.
        alone: the scores without what is behind the cut.
        among: the scores in the reverse order, with other neighbours.
        single: the scores of the last ones, each in a call of its own.
    """

    passages: Sequence[Passage]
    scored: Sequence[ScoredText]
    cuts: Sequence[Cut]
    replaced: Sequence[ScoredText]
    alone: Sequence[ScoredText]
    among: Sequence[ScoredText]
    single: Sequence[ScoredText]


def audit(
    model: Scores,
    text: Text,
    samples: int = SAMPLES,
    stride: int | None = None,
    whole: Sequence[ScoredText] | None = None,
    tolerance: float | None = None,
) -> Audit:
    """The five checks of a model's scores, on passages of a text that are drawn with a fixed seed.

    normalised: the probabilities of all next tokens sum to one, and are those that texts are scored by.
    causal: no token's score depends on later bytes.
    complete: each byte is paid for once.
    one_distribution: generated text has the probabilities by which it is scored.
    independent: other texts in a batch, their order and their lengths change nothing.

    Args:
        model: it scores texts. The check of sums needs `NextTokens`; without it there is a bound from above.
        text: at least one document.
        samples: passages of 600 characters; of shorter documents there are more.
        stride: as of `Scores.score`.
        whole: the scores of each document of the text that a row of results is made of: these must be
            complete, and equal those of the passages.
        tolerance: the largest difference of log-probabilities that is allowed, nats; None: `tolerance_of`.

    Raises:
        UserError: a text that the model cannot score.
    """
    random = np.random.default_rng(_SEED)
    tolerance = tolerance_of(model) if tolerance is None else tolerance
    made = _score(model, text, samples, stride, random)
    passages, scored = made.passages, made.scored
    normalised, places = _normalised(model, text, made, samples, stride, tolerance, random)
    documents = passages if whole is None else text.documents
    names, texts = [one.name for one in documents], [one.text for one in documents]
    prompts, greedy = passages[: min(_PROMPTS, samples // 2)], samples > FEW
    found = (
        normalised,
        checks.causal(passages, scored, made.cuts, made.replaced, made.alone, whole, tolerance),
        checks.complete(names, texts, scored if whole is None else whole),
        generation.one_distribution(model, prompts, greedy, tolerance, _SEED),
        checks.independent(passages, scored, made.among, made.single, tolerance),
    )
    sampled = {
        "seed": _SEED,
        "bytes": sum(len(one.text) for one in scored),
        "tokens": sum(len(one.log_probs) for one in scored),
        "passages": [[p.name, p.start, p.start + len(one.text)] for p, one in zip(passages, scored)],
        "histories": places,
    }
    return Audit(found, sampled)


def add(evaluation: Evaluation, model: Any, text: Text, stride: int | None = None) -> None:
    """Audits the scores of an evaluation by few samples, into its row, with a note for each failed check.

    Rows of models that do not score whole texts are left as they are.
    """
    if not isinstance(model, Scores):
        return
    evaluation.row.audit = audit(model, text, FEW, stride, evaluation.scored)
    evaluation.row.notes.extend(f"audit: {check.line()}" for check in evaluation.row.audit.failed)


def tolerance_of(model: Any) -> float:
    """How far two computations of one log-probability may be apart, in nats, by the model's precision.

    In float32 those of a large model differ by some 1e-5 between shapes of batches. Matrix products of
    accelerators are less exact, and bfloat16 has three decimal places.
    """
    if getattr(getattr(model, "config", None), "dtype", "float32") != "float32":
        return 0.1
    return 1e-4 if runtime.platform() == "cpu" else 1e-2


def _score(
    model: Scores, text: Text, samples: int, stride: int | None, random: np.random.Generator
) -> Samples:
    """The passages with all their scores."""
    passages = draw(text.documents, samples, getattr(model, "context", None), random)
    cuts, size = cut(passages, random), len(passages)
    texts = [passage.text for passage in passages]
    made = model.score([*texts, *(one.replaced for one in cuts), *(one.alone for one in cuts)], stride)
    among = model.score([*texts[::-1], *_NEIGHBOURS], stride)[:size][::-1]
    single = [model.score([one], stride)[0] for one in texts[-max(1, min(_ALONE, samples // 2)) :]]
    scored, replaced, alone = made[:size], made[size : 2 * size], made[2 * size :]
    return Samples(passages, scored, cuts, replaced, alone, among, single)


def _normalised(
    model: Scores,
    text: Text,
    made: Samples,
    samples: int,
    stride: int | None,
    tolerance: float,
    random: np.random.Generator,
) -> tuple[Check, list[list[int]]]:
    """The check of sums, and the histories: numbers of a passage and of tokens.

    Where tokens stand for many strings, of which each has a probability, these are checked too.
    """
    continued = min(_CONTINUED, samples // 2)
    by_strings = not isinstance(model, NextTokens) or any(one.log_spelling is not None for one in made.scored)
    check, places = Check("normalised", NOT_APPLICABLE, ""), []
    if isinstance(model, NextTokens):
        asked = distributions.histories(model, made.passages, made.scored, random)
        check = distributions.normalised(model, made.passages, asked, continued, tolerance, stride)
        places = [[one.passage, len(one.ids)] for one in asked]
    if by_strings and check.status != FAILED:
        bound = strings.at_most_one(model, text.documents, made.passages, max(1, continued), stride)
        if bound.status == FAILED or not check.what:
            return bound, places
        check = check._replace(what=f"{check.what}; {bound.what}")
    return check, places
