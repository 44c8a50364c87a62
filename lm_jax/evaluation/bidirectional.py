"""The evaluator of bidirectional language models such as ELMo."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.evaluation import blocks, causal
from lm_jax.evaluation.base import Evaluation, Statistics, measure
from lm_jax.evaluation.score_cache import ScoreCache
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import ScoredText
from lm_jax.metrics import likelihood
from lm_jax.text.base import grouped

_METRICS = ("backward_perplexity", "forward_perplexity_by_line", "backward_perplexity_by_line")
_CHARACTERS_PER_GROUP = 1 << 20  # scored at a time, so that memory does not grow with the text


def evaluate(
    model: Any,
    text: Text,
    name: str,
    stride: int | None,
    report: Progress,
    cache: ScoreCache | None = None,
) -> Evaluation:
    """Scores a text in both directions; see `evaluation.base.evaluate`.

    The metrics are those of the causal evaluator, of the forward direction, which compare with those of any
    left-to-right model; and the perplexity of each direction by the full softmax, with the states carried
    through each document, and with each line on its own, as sentences are read for their vectors.
    """
    ahead = causal.evaluate(model, text, name, stride, report, cache)
    if ahead.scored is None:
        return ahead
    columns: dict[str, list[ScoredText]] = {name: [] for name in _METRICS}
    back, *by_line = columns.values()
    for group in grouped(text.documents, lambda document: len(document.text), _CHARACTERS_PER_GROUP):
        texts = [document.text for document in group]
        lines = [one.removesuffix("\n").split("\n") for one in texts]
        back += model.score_back(texts)
        for found, score in zip(by_line, (model.score, model.score_back), strict=True):
            of_lines = iter(score([line for of_text in lines for line in of_text]))
            found += [_join(one, [next(of_lines) for _ in of_text]) for one, of_text in zip(texts, lines)]
        report(f"scoring {text.name} from both sides", len(back), len(text.documents))
    statistics = {
        "forward_perplexity": ahead.statistics["perplexity"],
        **{metric: _statistics(scored) for metric, scored in columns.items()},
    }
    ahead.row.metrics |= measure(statistics, {}, blocks.units(back).why)
    return ahead._replace(statistics={**ahead.statistics, **statistics})


def _join(text: str, lines: Sequence[ScoredText]) -> ScoredText:
    """The tokens of lines that were scored one by one, at their bytes of the whole text."""
    starts = np.cumsum([0, *(len(line.text) + 1 for line in lines[:-1])])
    return lines[0]._replace(
        text=text.encode(),
        spans=np.concatenate([line.spans + start for line, start in zip(lines, starts, strict=True)]),
        log_probs=np.concatenate([line.log_probs for line in lines]),
        unknown=np.concatenate([line.unknown for line in lines]),
        log_spelling=None,  # perplexity is that of tokens
    )


def _statistics(scored: Sequence[ScoredText]) -> Statistics:
    parts = blocks.units(scored).parts
    nats_D = np.array([-part.log_probs.sum() for part in parts])
    tokens_D = np.array([len(part.log_probs) for part in parts], float)
    return Statistics((nats_D, tokens_D), likelihood.perplexity, same=("tokens", "oov"))
