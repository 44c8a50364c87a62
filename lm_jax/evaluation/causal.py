"""The evaluator of models that give a text a probability, left to right: n-grams, RNNs, GPTs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.evaluation import blocks, protocol
from lm_jax.evaluation.base import ALONE, Evaluation, Statistics, measure, row_of
from lm_jax.evaluation.row import Metric
from lm_jax.evaluation.score_cache import ScoreCache
from lm_jax.evaluation.scoring import Failure, open_store, score_text
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import LanguageModel, ScoredText, Scores, require
from lm_jax.metrics import likelihood, significance
from lm_jax.text.words import count_words


class Way(NamedTuple):
    """How texts are scored, and what is made of the scores.

    Attributes:
        score: gives texts their scores.
        context: what a prediction depends on, for the record.
        count_words: the number of words in the bytes of a text.
        statistics: the statistics of each metric, from `Sums` of documents; the headline first.
        rolling: whether long documents are read in the windows of lm-evaluation-harness.
    """

    score: Callable[[Sequence[str]], Sequence[ScoredText]]
    context: dict[str, Any]
    count_words: Callable[[bytes], int]
    statistics: Callable[["Sums"], dict[str, Statistics]]
    rolling: bool = False


def evaluate(
    model: LanguageModel,
    text: Text,
    name: str,
    stride: int | None,
    report: Progress,
    cache: ScoreCache | None = None,
) -> Evaluation:
    """Scores a text; see `evaluation.base.evaluate`.

    The metrics are bits per byte = nats of tokens and of their bytes / (bytes ln 2), nats per token,
    perplexity = exp(nats / tokens), word perplexity = exp(nats / words), and the perplexity of the tokens
    inside the vocabulary. Each document counts an end-of-text token among its tokens. A word is what
    `text.words` defines.
    """
    scorer = require(model, Scores, "give whole texts a probability")
    context = scorer.describe_context(stride)
    way = Way(lambda texts: scorer.score(texts, stride), context, count_words, _statistics)
    return evaluate_by(way, model, text, name, report, cache)


def evaluate_by(
    way: Way, model: LanguageModel, text: Text, name: str, report: Progress, cache: ScoreCache | None
) -> Evaluation:
    """The evaluation of a model whose texts are scored in some way.

    The rows of a table are about the same documents. So a model that cannot score one, or gives one the
    probability 0, has no value of the metrics that need it; its row says which and why, and has the values
    on the other documents as a note.
    """
    counted_DN = np.full((len(text.documents), len(Sums._fields)), np.nan)
    place, complete, sample = 0, True, None

    def take(scored: ScoredText | None) -> None:
        nonlocal place, complete, sample
        if scored is not None:
            counted_DN[place] = _count(scored, way.count_words)
            complete, sample = complete and scored.complete, scored
        place += 1

    store = open_store(cache, model, text, way.rolling, sorted(way.context.items()))
    scored, failures = score_text(text, way.score, store, take, report)
    sums_D = Sums(*counted_DN.T)
    units = _units(scored, way)
    by_document = scored is None or units.parts is scored
    statistics = way.statistics(sums_D if by_document else _sums_of(units, way))
    if failures:
        metrics = _without_value(statistics, failures, text)
    else:
        ends = way.context.get("eos", True)
        metrics = measure(statistics, _reasons(sums_D, complete, ends, text), units.why)
    nats = float(sums_D.nats.sum())
    row = row_of(
        model,
        text,
        name,
        conditioned_on="" if sample is None else sample.conditioned_on,
        context=way.context,
        protocol={} if sample is None else protocol.of_scores(model, way.context, sample, way.rolling),
        counts={count: int(np.nansum(getattr(sums_D, count))) for count in COUNTS},
        sums={"nats": nats if np.isfinite(nats) else None},
        metrics=metrics,
        resampled=units.name,
        notes=[*_note_others(way, counted_DN), *filter(None, [units.note])],
    )
    impossible = [Failure(text.documents[i].name, "it has probability 0") for i in _impossible(sums_D)]
    return Evaluation(row, statistics, scored=scored, failures=(*failures, *impossible))


COUNTS = ("tokens", "words", "bytes", "oov")


class Sums(NamedTuple):
    """Sums over the tokens of one document or block, as numbers; or of each, as float64 arrays [D]."""

    nats: Any
    byte_nats: Any  # of the tokens and of their bytes
    bytes: Any
    tokens: Any
    words: Any
    oov: Any
    known_nats: Any  # of the tokens inside the vocabulary
    known_tokens: Any


def _units(scored: Sequence[ScoredText] | None, way: Way) -> blocks.Units:
    """What intervals resample: documents in the harness's protocol, whose words do not add up over blocks."""
    if scored is None:
        return blocks.Units(())
    if way.rolling:
        return blocks.Units(scored, why=ALONE if len(scored) == 1 else "")
    return blocks.units(scored)


def _sums_of(units: blocks.Units, way: Way) -> Sums:
    """The sums of each block."""
    counted = [_count(part, way.count_words) for part in units.parts]
    return Sums(*(np.array(column, float) for column in zip(*counted, strict=True)))


def _count(scored: ScoredText, count_words: Callable[[bytes], int]) -> Sums:
    return Sums(
        nats=-scored.log_probs.sum(),
        byte_nats=-scored.byte_log_probs.sum(),
        bytes=len(scored.text),
        tokens=len(scored.log_probs),
        words=count_words(scored.text),
        oov=scored.unknown.sum(),
        known_nats=-scored.log_probs[~scored.unknown].sum(),
        known_tokens=(~scored.unknown).sum(),
    )


def _statistics(sums_D: Sums) -> dict[str, Statistics]:
    """The statistics of each metric, the headline first.

    Bits per byte compare between any two models. The other metrics compare between models with as many
    tokens, of which as many are unknown: otherwise the two may not have scored the same part of the text.
    """
    same = ("tokens", "oov")
    nats, tokens = sums_D.nats, sums_D.tokens
    known = (sums_D.known_nats, sums_D.known_tokens)
    return {
        "bits_per_byte": Statistics((sums_D.byte_nats, sums_D.bytes), likelihood.bits_per_byte),
        "nats_per_token": Statistics((nats, tokens), significance.ratio, same=same),
        "perplexity": Statistics((nats, tokens), likelihood.perplexity, same=same),
        "word_perplexity": Statistics((nats, sums_D.words), likelihood.perplexity, same=same),
        "perplexity_without_oov": Statistics(known, likelihood.perplexity, same=same),
    }


def _without_value(
    statistics: Mapping[str, Statistics], failures: Sequence[Failure], text: Text
) -> dict[str, Metric]:
    """Metrics of a model that could not score some documents."""
    first = failures[0]
    count = f"{len(failures)} of {len(text.documents)} documents"
    why = f"{count} could not be scored (the first, {first.document}: {first.reason})"
    return {
        name: Metric(None, None, f"no {name.replace('_', ' ')}: {why}", one.less_is_better)
        for name, one in statistics.items()
    }


def _note_others(way: Way, counted_DN: np.ndarray) -> list[str]:
    """The values on the documents that have a finite score, if others have none."""
    good_D = np.isfinite(counted_DN).all(axis=1)
    if good_D.all() or not good_D.any():
        return []
    found = measure(way.statistics(Sums(*counted_DN[good_D].T)), {})
    said = ", ".join(f"{m.value:.4f} {n.replace('_', ' ')}" for n, m in list(found.items())[:3] if m.value)
    return [f"on the other {good_D.sum()} documents alone: {said}"]


def _impossible(sums_D: Sums) -> list[int]:
    """The documents that have probability 0, by their places."""
    places: list[int] = np.flatnonzero(np.isinf(sums_D.byte_nats) | np.isinf(sums_D.nats)).tolist()
    return places


def _reasons(sums_D: Sums, complete: bool, ends: bool, text: Text) -> dict[str, str]:
    """Why a metric has no value, for those that have none; `ends`: whether the ends of texts are scored."""
    reasons = {}
    if not complete:
        oov = int(sums_D.oov.sum())
        unscored = f"{oov} unknown tokens stand for text that" if oov else "white space between tokens"
        unscored = unscored if ends else "the end of a text"
        for metric in ("bits_per_byte", "byte_perplexity"):
            reasons[metric] = f"no {metric.replace('_', ' ')}: {unscored} is not scored"
    impossible = "a score is not a number"
    if places := _impossible(sums_D):
        count = f"{len(places)} of {len(sums_D.nats)} documents (the first, {text.documents[places[0]].name})"
        impossible = f"some of the text has probability 0, in {count}"
    for metrics, nats_D in (
        (("bits_per_byte", "byte_perplexity"), sums_D.byte_nats),
        (("nats_per_token", "perplexity", "word_perplexity"), sums_D.nats),
    ):
        if not np.isfinite(nats_D).all():
            reasons |= {metric: f"no {metric.replace('_', ' ')}: {impossible}" for metric in metrics}
    if not np.isfinite(sums_D.known_nats).all():
        reasons["perplexity_without_oov"] = f"no perplexity without oov: {impossible}"
    if not sums_D.words.any():
        reasons["word_perplexity"] = "no word perplexity: the text has no words"
    return reasons
