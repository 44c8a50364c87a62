"""The evaluator of models that give a text a probability, left to right: n-grams, RNNs, GPTs."""

from typing import Any, NamedTuple

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.evaluation import blocks
from lm_jax.evaluation.base import Evaluation, Statistics, measure, row_of
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import LanguageModel, ScoredText, Scores, require
from lm_jax.metrics import likelihood, significance
from lm_jax.text.base import grouped
from lm_jax.text.words import count_words

_CHARACTERS_PER_GROUP = 1 << 20  # scored at a time, so that memory does not grow with the text


def evaluate(model: LanguageModel, text: Text, name: str, stride: int | None, report: Progress) -> Evaluation:
    """Scores a text; see `evaluation.base.evaluate`.

    The metrics are bits per byte = nats of tokens and of their bytes / (bytes ln 2), nats per token,
    perplexity = exp(nats / tokens), word perplexity = exp(nats / words), and the perplexity of the tokens
    inside the vocabulary. Each document counts an end-of-text token among its tokens. A word is what
    `text.words` defines.
    """
    scorer = require(model, Scores, "give whole texts a probability")
    scored: list[ScoredText] = []
    for group in grouped(text.documents, lambda document: len(document.text), _CHARACTERS_PER_GROUP):
        scored.extend(scorer.score([document.text for document in group], stride))
        report(f"scoring {text.name}", len(scored), len(text.documents))
    units = blocks.units(scored)
    sums_D = _Sums(*(np.array(column, float) for column in zip(*map(_count, units.parts), strict=True)))
    statistics = _statistics(sums_D)
    nats = float(sums_D.nats.sum())
    row = row_of(
        model,
        text,
        name,
        conditioned_on=scored[-1].conditioned_on,
        context=scorer.describe_context(stride),
        counts={count: int(getattr(sums_D, count).sum()) for count in ("tokens", "words", "bytes", "oov")},
        sums={"nats": nats if np.isfinite(nats) else None},
        metrics=measure(statistics, _reasons(sums_D, all(one.complete for one in scored)), units.why),
        resampled=units.name,
        notes=[units.note] if units.note else [],
    )
    return Evaluation(row, statistics, scored=scored)


class _Sums(NamedTuple):
    """Sums over the tokens of one document or block, as numbers; or of each, as float64 arrays [D]."""

    nats: Any
    byte_nats: Any  # of the tokens and of their bytes
    bytes: Any
    tokens: Any
    words: Any
    oov: Any
    known_nats: Any  # of the tokens inside the vocabulary
    known_tokens: Any


def _count(scored: ScoredText) -> _Sums:
    return _Sums(
        nats=-scored.log_probs.sum(),
        byte_nats=-scored.byte_log_probs.sum(),
        bytes=len(scored.text),
        tokens=len(scored.log_probs),
        words=count_words(scored.text),
        oov=scored.unknown.sum(),
        known_nats=-scored.log_probs[~scored.unknown].sum(),
        known_tokens=(~scored.unknown).sum(),
    )


def _statistics(sums_D: _Sums) -> dict[str, Statistics]:
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


def _reasons(sums_D: _Sums, complete: bool) -> dict[str, str]:
    """Why a metric has no value, for those that have none."""
    reasons = {}
    if not complete:
        oov = int(sums_D.oov.sum())
        unscored = f"{oov} unknown tokens stand for text that" if oov else "white space between tokens"
        reasons["bits_per_byte"] = f"no bits per byte: {unscored} is not scored"
    if not np.isfinite(sums_D.byte_nats).all():
        reasons["bits_per_byte"] = "no bits per byte: some of the text has probability 0"
    for metric in ("nats_per_token", "perplexity", "word_perplexity"):
        if not np.isfinite(sums_D.nats).all():
            reasons[metric] = f"no {metric.replace('_', ' ')}: some of the text has probability 0"
    if not np.isfinite(sums_D.known_nats).all():
        reasons["perplexity_without_oov"] = "no perplexity without oov: some of the text has probability 0"
    if not sums_D.words.any():
        reasons["word_perplexity"] = "no word perplexity: the text has no words"
    return reasons
