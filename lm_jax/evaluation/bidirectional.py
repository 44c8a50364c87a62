"""The evaluator of bidirectional language models such as ELMo."""

from typing import Any

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.evaluation import causal
from lm_jax.evaluation.base import Evaluation, Statistics, measure
from lm_jax.evaluation.texts import Text
from lm_jax.metrics import likelihood
from lm_jax.text.base import grouped

_CHARACTERS_PER_GROUP = 1 << 20  # scored at a time, so that memory does not grow with the text


def evaluate(model: Any, text: Text, name: str, stride: int | None, report: Progress) -> Evaluation:
    """Scores a text in both directions; see `evaluation.base.evaluate`.

    The metrics are those of the causal evaluator, of the forward direction, which compare with those of any
    left-to-right model; and the perplexity of each direction by the full softmax, with the states carried
    through each document, and with each line on its own, as sentences are read for their vectors.
    """
    ahead = causal.evaluate(model, text, name, stride, report)
    columns: dict[str, list[tuple[float, int]]] = {}
    done = 0
    for group in grouped(text.documents, lambda document: len(document.text), _CHARACTERS_PER_GROUP):
        texts = [document.text for document in group]
        lines = [one.removesuffix("\n").split("\n") for one in texts]
        flat, ends = [line for of_text in lines for line in of_text], np.cumsum([len(one) for one in lines])
        for direction, score in (("forward", model.score), ("backward", model.score_back)):
            found = columns.setdefault(f"{direction}_perplexity", [])
            found += [(-scored.log_probs.sum(), len(scored.log_probs)) for scored in score(texts)]
            of_lines = [(-scored.log_probs.sum(), len(scored.log_probs)) for scored in score(flat)]
            for end, of_text in zip(ends, lines, strict=True):
                parts = of_lines[end - len(of_text) : end]
                sums = (sum(nats for nats, _ in parts), sum(tokens for _, tokens in parts))
                columns.setdefault(f"{direction}_perplexity_by_line", []).append(sums)
        done += len(group)
        report(f"scoring {text.name} in both directions", done, len(text.documents))
    statistics = {metric: _statistics(pairs) for metric, pairs in columns.items()}
    row = ahead.row
    row.metrics |= measure(statistics, {})
    return Evaluation(row, {**ahead.statistics, **statistics})


def _statistics(pairs: list[tuple[float, int]]) -> Statistics:
    nats_D, tokens_D = (np.array(column, float) for column in zip(*pairs, strict=True))
    return Statistics((nats_D, tokens_D), likelihood.perplexity, same=("tokens", "oov"))
