"""The evaluator of models that write a text, given the text with noise: BARTs before fine-tuning."""

import dataclasses
from typing import Any

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.data.noising import HELD_OUT
from lm_jax.errors import UserError
from lm_jax.evaluation.base import Evaluation, Statistics, measure, row_of
from lm_jax.evaluation.row import Metric
from lm_jax.evaluation.texts import Text
from lm_jax.metrics import likelihood
from lm_jax.text.words import count_words

_NO_BITS = "no bits per byte: the model is given most of the text that it writes"
_TEXTS_AT_ONCE = 256  # between two updates of the progress bar


def evaluate(model: Any, text: Text, name: str, stride: int | None, report: Progress) -> Evaluation:
    """Reconstructs a text from its noised form; see `evaluation.base.evaluate`.

    The noise is `HELD_OUT`, the same in each call, whatever the training's was. The metric is the perplexity
    exp(nats / tokens) of the text's tokens, without the special ones around each piece.

    Raises:
        UserError: a stride.
    """
    if stride is not None:
        raise UserError("stride with a model of sources and targets", "leave it out")
    texts = [document.text for document in text.documents]
    log_probs: list[np.ndarray] = []
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        log_probs += model.reconstruct(texts[first : first + _TEXTS_AT_ONCE], first)
        report(f"reconstructing {text.name}", len(log_probs), len(texts))
    tokens_D = np.array([len(x) for x in log_probs], float)
    nats_D = -np.array([x.sum() for x in log_probs])
    context = {**model.describe_context(), **dataclasses.asdict(HELD_OUT)}
    statistics = {
        "reconstruction_perplexity": Statistics(
            (nats_D, tokens_D), likelihood.perplexity, same=("tokens", *context)
        )
    }
    nats = float(nats_D.sum())
    row = row_of(
        model,
        text,
        name,
        conditioned_on="the text with noise, and the tokens before",
        context=context,
        counts={
            "tokens": int(tokens_D.sum()),
            "words": sum(count_words(t.encode()) for t in texts),
            "bytes": sum(len(t.encode()) for t in texts),
        },
        sums={"nats": nats if np.isfinite(nats) else None},
        metrics=measure(statistics, {}) | {"bits_per_byte": Metric(None, None, _NO_BITS)},
    )
    return Evaluation(row, statistics)
