"""What every evaluator returns, and the registry of evaluators.

An evaluator is a function that applies a model to a text and returns an `Evaluation`: a row of results, and
for each metric the statistics of each document that it is computed from. Each kind of task has one, in a file
of its own. To add yours, write one and register it where your program starts, or in an installed package:

    @EVALUATORS.register("mine")
    def evaluate(model, text, name, stride, report): ...
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.errors import UserError
from lm_jax.evaluation.row import Metric, Row
from lm_jax.evaluation.score_cache import ScoreCache
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import LanguageModel, ScoredText
from lm_jax.metrics import significance
from lm_jax.registry import Registry


class Statistics(NamedTuple):
    """What a metric of one text is computed from.

    Attributes:
        arrays: each [D, ...], one row for each document.
        metric: from the sums of these arrays over documents to the value; traceable by jax, one function
            object in all calls.
        less_is_better: whether a smaller value is better.
        same: names of counts, or of settings in the context, in which two rows must agree for their values to
            be comparable.
        of_rows: whether the metric takes the arrays themselves and not their sums: for metrics of ranks.
    """

    arrays: tuple[np.ndarray, ...]
    metric: Callable[..., Any]
    less_is_better: bool = True
    same: tuple[str, ...] = ()
    of_rows: bool = False


class Predictions(NamedTuple):
    """What a model of labels predicts, for figures.

    Attributes:
        names: the K classes.
        labels: int [N], of each text or word.
        probabilities: [N, K].
    """

    names: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray


class Texts(NamedTuple):
    """What a model generated, beside what was asked for; lists of equal length."""

    prompts: Sequence[str]
    references: Sequence[str]
    hypotheses: Sequence[str]


class Failure(NamedTuple):
    """A document without a score.

    Attributes:
        document: its name.
        reason: why it has none.
    """

    document: str
    reason: str


class Evaluation(NamedTuple):
    """A row of results, and by metric what each document contributes to it.

    Attributes:
        row: the results.
        statistics: by metric.
        predictions: of a model of labels; None for others.
        texts: of an evaluator that generates; None for others.
        scored: what each document's tokens were given, in the order of the documents, of an evaluator that
            scores whole texts left to right; None for others, and where one has no score. To be read one
            after the other: those of a large text are on disk.
        failures: the documents without a score, or with probability 0, and why.
        documents: the names of the documents.
    """

    row: Row
    statistics: Mapping[str, Statistics]
    predictions: Predictions | None = None
    texts: Texts | None = None
    scored: Sequence[ScoredText] | None = None
    failures: Sequence[Failure] = ()
    documents: Sequence[str] = ()


class Evaluator(Protocol):
    """Applies a model to a text."""

    def __call__(self, model: Any, text: Text, name: str, stride: int | None, report: Progress) -> Evaluation:
        """See `evaluate`."""
        ...


EVALUATORS: Registry[Evaluator] = Registry(
    "evaluator",
    {
        "bidirectional": "lm_jax.evaluation.bidirectional:evaluate",
        "causal": "lm_jax.evaluation.causal:evaluate",
        "classification": "lm_jax.evaluation.classification:evaluate",
        "continuation": "lm_jax.evaluation.continuation:evaluate",
        "denoising": "lm_jax.evaluation.denoising:evaluate",
        "harness": "lm_jax.evaluation.harness:evaluate",
        "last_word": "lm_jax.evaluation.last_word:evaluate",
        "masked": "lm_jax.evaluation.masked:evaluate",
        "minimal_pairs": "lm_jax.evaluation.minimal_pairs:evaluate",
        "multiple_choice": "lm_jax.evaluation.multiple_choice:evaluate",
        "regression": "lm_jax.evaluation.regression:evaluate",
        "seq2seq": "lm_jax.evaluation.seq2seq:evaluate",
        "tagging": "lm_jax.evaluation.tagging:evaluate",
    },
)
SCORING = ("bidirectional", "causal", "harness")  # evaluators that take a `ScoreCache`
GENERATING = ("continuation", "seq2seq")  # evaluators that take a `generated.Decoding`
# Zero-shot tasks: evaluators of any model that gives texts a probability -> the field of records that is the
# text, unless the corpus names another.
ZERO_SHOT = {"last_word": "text", "minimal_pairs": "sentence_good", "multiple_choice": "query"}
ALONE = "no interval: it is over documents, and there is one"
RESAMPLES_OF_ROWS = 2000  # a metric of ranks sorts the documents of each


def _ignore(description: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


def evaluate(
    model: LanguageModel,
    text: Text,
    name: str,
    stride: int | None = None,
    report: Progress = _ignore,
    task: str = "",
    decoding: Any = None,
    cache: ScoreCache | None = None,
) -> Evaluation:
    """Evaluates a model on a text, by the evaluator that the model names.

    Args:
        model: any model.
        text: its documents.
        name: what to call the model in the row.
        stride: tokens from one window to the next, for models that read windows; None: the model's default.
        report: called with (description, documents done, documents in all).
        task: the name of another evaluator than the model's own, such as "continuation"; "": the model's.
        decoding: a `generated.Decoding`, for evaluators that generate; None: the defaults.
        cache: where evaluators of left-to-right models keep scores and find them again; None: nowhere.

    Raises:
        UserError: no documents, an unknown evaluator, a model without the capability that it needs, or a text
            that the model cannot read.
    """
    if not text.documents:
        raise UserError(f"nothing to score in {text.name}", "give a text with at least one document")
    evaluator = task or model.evaluator
    if evaluator == "none":
        raise UserError(
            f"{name} is a {model.family} without a head, which predicts nothing that can be evaluated",
            "train it for a task (init_from), or compare its vectors (python -m lm_jax.embed)",
        )
    extra: tuple[Any, ...] = ()
    if cache is not None and evaluator in SCORING:
        extra = (cache,)
    elif decoding is not None and evaluator in GENERATING:
        extra = (decoding,)
    evaluate_text: Any = EVALUATORS.get(evaluator)
    made: Evaluation = evaluate_text(model, text, name, stride, report, *extra)
    return made._replace(documents=[document.name for document in text.documents])


def row_of(model: Any, text: Text, name: str, **measured: Any) -> Row:
    """The row of a model on a text.

    Args:
        model: any model.
        text: the text.
        name: what to call the model.
        measured: the other fields of `Row`; `text_sha256` is that of the documents' texts if it is not given.
    """
    measured.setdefault("text_sha256", text.sha256())
    measured.setdefault("documents_sha256", text.documents_sha256())
    header = {
        "model": name,
        "family": model.family,
        "task": model.task,
        "step": model.step,
        "split": text.name,
        "documents": len(text.documents),
        "data": text.data,
    }
    return Row(**header, **measured)


def measure(
    statistics: Mapping[str, Statistics], reasons: Mapping[str, str], alone: str = ALONE
) -> dict[str, Metric]:
    """The values of metrics, with 95 % bootstrap intervals over documents, or what has rows in the arrays.

    Args:
        statistics: by metric, the headline first.
        reasons: why a metric has no value, for those that must not have one.
        alone: why there is no interval where the arrays have one row.
    """
    values = {name: _value(s) for name, s in statistics.items()}
    num_documents = len(next(iter(statistics.values())).arrays[0])
    sampled = statistics if num_documents > 1 else {}
    of_sums = {name: (s.arrays, s.metric) for name, s in sampled.items() if not s.of_rows}
    intervals = significance.bootstrap_intervals(of_sums)
    for name in sampled.keys() - of_sums.keys():
        s = sampled[name]
        intervals[name] = significance.bootstrap_interval(
            *s.arrays, metric=s.metric, num_resamples=RESAMPLES_OF_ROWS, of_rows=True
        )
    metrics = {}
    for name, s in statistics.items():
        value: float | None = values[name]
        interval, why = None, ""
        if name in reasons:
            value, why = None, reasons[name]
        elif not math.isfinite(values[name]):
            value, why = None, f"no {name.replace('_', ' ')}: it is not a finite number"
        elif not sampled:
            why = alone
        elif not math.isfinite(intervals[name].low + intervals[name].high):
            why = "no interval: on some samples of the documents the metric is not a finite number"
        else:
            interval = (intervals[name].low, intervals[name].high)
        metrics[name] = Metric(value, interval, why, s.less_is_better)
    return metrics


def _value(statistics: Statistics) -> float:
    arrays = [np.asarray(x, float) for x in statistics.arrays]
    with np.errstate(all="ignore"):
        return float(statistics.metric(*(arrays if statistics.of_rows else (x.sum(axis=0) for x in arrays))))
