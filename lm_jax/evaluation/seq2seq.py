"""The evaluator of models that write a target, given a source."""

from typing import Any

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation.base import Evaluation, Statistics, Texts, measure, row_of
from lm_jax.evaluation.generated import Decoding, generate, signatures, text_statistics
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import Generates, LanguageModel, ScoresTargets, require
from lm_jax.metrics import likelihood

_AT_ONCE = 256  # pairs between two updates of the progress bar
_DECODING = Decoding()


def evaluate(
    model: LanguageModel,
    text: Text,
    name: str,
    stride: int | None,
    report: Progress,
    decoding: Decoding = _DECODING,
) -> Evaluation:
    """Scores targets, and generates them from their sources; see `evaluation.base.evaluate`.

    The metrics are the perplexity of the targets' tokens given their sources, their ends counted (of targets
    that are too long for the model the tokens that fit; the count `cut_targets` tells how many); and of the
    generated texts BLEU, chrF, ROUGE (F, the mean over pairs), the ratio of their length to the targets', and
    the share of distinct bigrams.
    """
    scorer = require(model, ScoresTargets, "score targets")
    writer = require(model, Generates, "write targets")
    sources = [document.text for document in text.documents]
    targets = [_target(document, scorer.target_field, text.name) for document in text.documents]
    scored = []
    for first in range(0, len(sources), _AT_ONCE):
        places = slice(first, first + _AT_ONCE)
        scored += scorer.score_targets(sources[places], targets[places], cut=True)
        report(f"scoring targets of {text.name}", len(scored), len(sources))
    nats_D = -np.array([one.log_probs.sum() for one in scored])
    tokens_D = np.array([len(one.log_probs) for one in scored], float)
    hypotheses = generate(writer, sources, decoding, f"targets of {text.name}", report)
    statistics = {
        "target_perplexity": Statistics((nats_D, tokens_D), likelihood.perplexity, same=("tokens",))
    }
    statistics |= text_statistics(hypotheses, targets)
    counts = {"pairs": len(sources), "tokens": int(tokens_D.sum())}
    if num_cut := sum(one.spans[-1, 0] < len(one.text) for one in scored):
        counts["cut_targets"] = int(num_cut)
    context: dict[str, Any] = {**scorer.describe_context(), **decoding.context(model), **signatures()}  # type: ignore[attr-defined]
    nats = float(nats_D.sum())
    row = row_of(
        model,
        text._replace(documents=[d._replace(text=d.text + t) for d, t in zip(text.documents, targets)]),
        name,
        conditioned_on="a source",
        context=context,
        counts=counts,
        sums={"nats": nats if np.isfinite(nats) else None},
        metrics=measure(statistics, {}),
    )
    return Evaluation(row, statistics, texts=Texts(sources, targets, hypotheses))


def _target(document: Document, field: str, name: str) -> str:
    value = document.fields.get(field)
    if not isinstance(value, str) or not value.strip():
        raise UserError(
            f"{document.name} of {name} has no text in its field {field!r}",
            "give a corpus with sources and targets, such as tsv:FILE#COLUMN or parallel:SOURCES,TARGETS",
        )
    return value
