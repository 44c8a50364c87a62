"""The evaluator of `--protocol=harness`: the numbers of lm-evaluation-harness 0.4.13 for the same text."""

import re

from lm_jax.data.corpora import Progress
from lm_jax.evaluation.base import Evaluation, Statistics
from lm_jax.evaluation.causal import Sums, Way, evaluate_by
from lm_jax.evaluation.score_cache import ScoreCache
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import LanguageModel, Scores, require
from lm_jax.language_models.rolling import score_rolling
from lm_jax.metrics import likelihood


def evaluate(
    model: LanguageModel,
    text: Text,
    name: str,
    stride: int | None,
    report: Progress,
    cache: ScoreCache | None = None,
) -> Evaluation:
    """Scores a text as `loglikelihood_rolling` does; see `evaluation.base.evaluate` and `rolling`.

    The metrics are the harness's, of sums over all documents: bits per byte, byte perplexity
    exp(nats / bytes) and word perplexity exp(nats / words). The end of a document is not scored. Its words
    are the parts between white space as `\\s` defines it, also empty ones at the ends:
    re.split(r"\\s+", text). `stride` has no effect: the windows do not overlap.
    """
    context = dict(require(model, Scores, "give whole texts a probability").describe_context())
    if "window" in context:
        context["stride"] = context["window"]
    way = Way(lambda texts: score_rolling(model, texts), context, count_words, _statistics, rolling=True)
    return evaluate_by(way, model, text, name, report, cache)


def count_words(data: bytes) -> int:
    """The harness's number of words (`Task.count_words`)."""
    return len(re.split(r"\s+", data.decode()))


def _statistics(sums_D: Sums) -> dict[str, Statistics]:
    """The statistics of each metric, the headline first."""
    return {
        "bits_per_byte": Statistics((sums_D.byte_nats, sums_D.bytes), likelihood.bits_per_byte),
        "byte_perplexity": Statistics((sums_D.byte_nats, sums_D.bytes), likelihood.perplexity),
        "word_perplexity": Statistics((sums_D.byte_nats, sums_D.words), likelihood.perplexity),
    }
