"""The evaluator of models that predict masked tokens from both sides: BERTs."""

import dataclasses
from typing import Any

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.evaluation.base import Evaluation, Statistics, measure, row_of
from lm_jax.evaluation.row import Metric
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.masked import MaskedLanguageModel
from lm_jax.metrics import likelihood, significance
from lm_jax.tasks.masked import HELD_OUT
from lm_jax.text.words import count_words

_NO_BITS = "no bits per byte: a masked model gives whole texts no probability"
_TEXTS_AT_ONCE = 256  # between two updates of the progress bar


def evaluate(
    model: MaskedLanguageModel, text: Text, name: str, stride: int | None, report: Progress
) -> Evaluation:
    """Predicts masked tokens of a text; see `evaluation.base.evaluate`.

    Tokens are masked by `HELD_OUT`, the same ones in each call, whatever the training's noise was. The
    metrics are the share of masked tokens that are the most probable ones, their perplexity
    exp(nats / masked tokens), and, for models trained on pairs of sentences, the share of pairs that are told
    right.
    """
    texts = [document.text for document in text.documents]
    predictions = []
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        predictions += model.predict_masked(texts[first : first + _TEXTS_AT_ONCE], first)
        report(f"predicting masked tokens of {text.name}", len(predictions), len(texts))
    masked_D = np.array([len(p.right) for p in predictions], float)
    right_D = np.array([p.right.sum() for p in predictions], float)
    nats_D = -np.array([p.log_probs.sum(dtype=float) for p in predictions])
    same = ("masked_tokens", *_context(model))
    statistics = {
        "masked_accuracy": Statistics((right_D, masked_D), significance.ratio, False, same),
        "masked_perplexity": Statistics((nats_D, masked_D), likelihood.perplexity, same=same),
    }
    counts = {
        "masked_tokens": int(masked_D.sum()),
        "words": sum(count_words(t.encode()) for t in texts),
        "bytes": sum(len(t.encode()) for t in texts),
    }
    if (found := model.predict_pairs(texts)) is not None:
        documents, is_right = found
        pairs_D = np.bincount(documents, minlength=len(texts)).astype(float)
        right_pairs_D = np.bincount(documents, weights=is_right, minlength=len(texts))
        statistics["pair_accuracy"] = Statistics(
            (right_pairs_D, pairs_D), significance.ratio, False, ("pairs", "window")
        )
        counts["pairs"] = int(pairs_D.sum())
    metrics = measure(statistics, {}) | {"bits_per_byte": Metric(None, None, _NO_BITS)}
    nats = float(nats_D.sum())
    row = row_of(
        model,
        text,
        name,
        conditioned_on="the tokens on both sides",
        context=_context(model),
        counts=counts,
        sums={"nats": nats if np.isfinite(nats) else None},
        metrics=metrics,
    )
    return Evaluation(row, statistics)


def _context(model: MaskedLanguageModel) -> dict[str, Any]:
    """What decides which tokens of a text are masked, and by what they are replaced."""
    return {"window": model.context, **dataclasses.asdict(HELD_OUT)}
