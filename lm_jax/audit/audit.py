"""Proves on samples of a text that a model's scores are honest."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lm_jax import runtime
from lm_jax.audit import checks, distributions, generation, strings
from lm_jax.audit.distributions import Told, ask
from lm_jax.audit.samples import Passage, cut, draw
from lm_jax.errors import UserError
from lm_jax.evaluation.audited import FAILED, Audit, Check
from lm_jax.evaluation.base import Evaluation
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import ScoredText, Scores
from lm_jax.language_models.next_tokens import NextTokens

SAMPLES = 16  # passages
FEW = 4  # beside an evaluation
_SEED = 0
_SOME = 4  # at most: prompts; half as many texts are scored alone, and histories continued by many tokens


class _Texts:
    """Texts that several checks ask about, which are scored in one call: few shapes are then compiled."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, texts: Sequence[str]) -> slice:
        """Takes some texts, and tells where their scores will be."""
        self.texts.extend(texts)
        return slice(len(self.texts) - len(texts), len(self.texts))


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
    passages = draw(text.documents, samples, getattr(model, "context", None), random)
    cuts, few = cut(passages, random), max(2, min(_SOME, samples // 2))
    told = ask(model, passages, few // 2, random) if isinstance(model, NextTokens) else None
    written = generation.write(model, passages[:few], samples > FEW, _SEED)

    texts = _Texts()
    of_passages = texts.add([passage.text for passage in passages])
    of_replaced, of_alone = texts.add([one.replaced for one in cuts]), texts.add([one.alone for one in cuts])
    of_continued = texts.add([one.text for one in told.continuations] if told else [])
    of_written = texts.add([] if isinstance(written, str) else [one.text for one in written])
    made = model.score(texts.texts, stride)
    reordered = model.score(texts.texts[::-1], stride)[::-1]
    single = [model.score([passage.text], stride)[0] for passage in passages[-(few // 2) :]]

    scored = made[of_passages]
    sums = []
    if told:
        sums.append(distributions.normalised(model, told, passages, scored, made[of_continued], tolerance))
    if told is None or any(one.log_spelling is not None for one in scored):  # a token stands for many strings
        words = strings.continue_by_words(text.documents, passages, few // 2)
        sums.append(strings.at_most_one(words, [model.score(one.texts, stride) for one in words]))
    documents = passages if whole is None else text.documents
    names = [one.name for one in documents]
    found = (
        _joined(sums),
        checks.causal(passages, scored, cuts, made[of_replaced], made[of_alone], whole, tolerance),
        checks.complete(names, [one.text for one in documents], scored if whole is None else whole),
        generation.one_distribution(model, written, made[of_written], tolerance),
        checks.independent(passages, scored, reordered[of_passages], single, tolerance),
    )
    return Audit(found, _describe(passages, scored, told))


def _joined(sums: Sequence[Check]) -> Check:
    """The check of the tokens' distributions and that of the words that they spell as one."""
    failed = [check for check in sums if check.status == FAILED]
    return failed[0] if failed else sums[0]._replace(what="; ".join(check.what for check in sums))


def _describe(passages: Sequence[Passage], scored: Sequence[ScoredText], told: Told | None) -> dict[str, Any]:
    """What was sampled, as `Audit.sampled` says."""
    return {
        "seed": _SEED,
        "bytes": sum(len(one.text) for one in scored),
        "tokens": sum(len(one.log_probs) for one in scored),
        "passages": [[p.name, p.start, p.start + len(one.text)] for p, one in zip(passages, scored)],
        "histories": [[one.passage, len(one.ids)] for one in told.histories] if told else [],
    }


def add(evaluation: Evaluation, model: Any, text: Text, stride: int | None = None) -> None:
    """Audits the scores of an evaluation by few samples, into its row, with a note for each failed check.

    Rows of models that do not score whole texts are left as they are. What the model cannot read of the
    variants of passages is noted, and the row has no audit.
    """
    if not isinstance(model, Scores):
        return
    try:
        evaluation.row.audit = audit(model, text, FEW, stride, evaluation.scored)
    except UserError as error:
        evaluation.row.notes.append(f"no audit: {error.cause}")
        return
    evaluation.row.notes.extend(f"audit: {check.line()}" for check in evaluation.row.audit.failed)


def tolerance_of(model: Any) -> float:
    """How far two computations of one log-probability may be apart, in nats, by the model's precision.

    In float32 those of a large model differ by some 1e-5 between shapes of batches. Matrix products of
    accelerators are less exact, and bfloat16 has three decimal places.
    """
    if getattr(getattr(model, "config", None), "dtype", "float32") != "float32":
        return 0.1
    return 1e-4 if runtime.platform() == "cpu" else 1e-2
