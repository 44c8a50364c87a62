"""The evaluator of bidirectional language models such as ELMo."""

from typing import Any

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.evaluation import causal
from lm_jax.evaluation.base import Evaluation, Statistics, measure
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import ScoredText
from lm_jax.metrics import likelihood
from lm_jax.text.base import grouped

_METRICS = ("backward_perplexity", "forward_perplexity_by_line", "backward_perplexity_by_line")
_CHARACTERS_PER_GROUP = 1 << 20  # scored at a time, so that memory does not grow with the text


def evaluate(model: Any, text: Text, name: str, stride: int | None, report: Progress) -> Evaluation:
    """Scores a text in both directions; see `evaluation.base.evaluate`.

    The metrics are those of the causal evaluator, of the forward direction, which compare with those of any
    left-to-right model; and the perplexity of each direction by the full softmax, with the states carried
    through each document, and with each line on its own, as sentences are read for their vectors.
    """
    ahead = causal.evaluate(model, text, name, stride, report)
    columns: dict[str, list[tuple[float, int]]] = {name: [] for name in _METRICS}
    back, *by_line = columns.values()
    for group in grouped(text.documents, lambda document: len(document.text), _CHARACTERS_PER_GROUP):
        texts = [document.text for document in group]
        lines = [one.removesuffix("\n").split("\n") for one in texts]
        back += map(_sums, model.score_back(texts))
        for found, score in zip(by_line, (model.score, model.score_back), strict=True):
            of_lines = iter(score([line for of_text in lines for line in of_text]))
            for of_text in lines:
                parts = [_sums(next(of_lines)) for _ in of_text]
                found.append((sum(nats for nats, _ in parts), sum(tokens for _, tokens in parts)))
        report(f"scoring {text.name} from both sides", len(back), len(text.documents))
    statistics = {
        "forward_perplexity": ahead.statistics["perplexity"],
        **{metric: _statistics(pairs) for metric, pairs in columns.items()},
    }
    ahead.row.metrics |= measure(statistics, {})
    return ahead._replace(statistics={**ahead.statistics, **statistics})


def _sums(scored: ScoredText) -> tuple[float, int]:
    """Nats and tokens."""
    return -scored.log_probs.sum(), len(scored.log_probs)


def _statistics(pairs: list[tuple[float, int]]) -> Statistics:
    nats_D, tokens_D = (np.array(column, float) for column in zip(*pairs, strict=True))
    return Statistics((nats_D, tokens_D), likelihood.perplexity, same=("tokens", "oov"))
