"""Where models differ: a metric of parts of a text, such as of its rare and its frequent words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.evaluation import word_parts
from lm_jax.evaluation.base import Evaluation
from lm_jax.evaluation.word_parts import Division
from lm_jax.evaluation.word_sums import WordSums, scored_together
from lm_jax.language_models.base import ScoredText
from lm_jax.metrics import ratios
from lm_jax.text.word_counts import WordCounts


class Breakdown(NamedTuple):
    """A metric of several models on each part of one text.

    Attributes:
        title: what the parts differ in, such as "word frequency in the training text".
        about: how the parts were made and what is measured, in one or two sentences.
        unit: of the values, such as "bits per word".
        parts: the P names of the parts, in their order.
        counts: int64 [P], words (or what `unit` counts) in each part.
        values: by model, float64 [P]; NaN where a part is empty.
        intervals: by model, float64 [P, 2], 95 % confidence intervals over documents; NaN without one.
        ordered: whether the parts are ranges of a quantity, which a curve may connect.
    """

    title: str
    about: str
    unit: str
    parts: tuple[str, ...]
    counts: np.ndarray
    values: Mapping[str, np.ndarray]
    intervals: Mapping[str, np.ndarray]
    ordered: bool = True

    def as_json(self) -> dict[str, Any]:
        """The breakdown as a JSON object; null for what is not a finite number."""
        return {
            **self._asdict(),
            "counts": self.counts.tolist(),
            "values": {name: plain(x) for name, x in self.values.items()},
            "intervals": {name: plain(x) for name, x in self.intervals.items()},
        }


def plain(x: Any) -> Any:
    """A number, or an array of numbers as lists, for JSON: None for what is not finite."""
    if isinstance(x, np.ndarray):
        return [plain(one) for one in x] if x.ndim else plain(x.item())
    return x if math.isfinite(x) else None


class Frequencies(NamedTuple):
    """How often words occur in a text.

    Attributes:
        counts: of its words.
        where: which text it is, such as "the training text of runs/gpt".
    """

    counts: WordCounts
    where: str


def breakdowns(evaluations: Sequence[Evaluation], frequencies: Frequencies | None = None) -> list[Breakdown]:
    """The bits of words, and of their bytes, by frequency, position, length, and more.

    The words are what stands between white space, the same ones for all models. The bits of a word are those
    of the tokens that begin in it or in the white space before it. What follows the last word of a document,
    white space and the end, is in no part; `about` tells its bits. So the bits of all words and of the ends
    add up to those of the text. A word outside a model's vocabulary has the probability of all such words,
    unless the model scores its spelling.

    Documents are read one at a time. The bootstrap draws documents; of more than 2,000, groups of neighbours.

    Args:
        evaluations: of models that score texts (`Evaluation.scored`), on the same text.
        frequencies: of words in the training text. None: words are counted in the scored text itself.

    Raises:
        UserError: a model that does not score texts, or models that were scored on different texts.
    """
    scored = scored_together(evaluations)
    if not scored:
        return []
    sums = WordSums(list(_divisions(scored, frequencies)), len(scored), len(scored[0]))
    for document in zip(*scored, strict=True):
        sums.add(document)
    return list(_each([one.row.model for one in evaluations], sums))


def _divisions(scored: Sequence[Sequence[ScoredText]], frequencies: Frequencies | None) -> Iterator[Division]:
    if frequencies is None:
        own = WordCounts(one.text.decode() for one in scored[0])
        yield word_parts.by_frequency(own.of, "the scored text itself")
    else:
        yield word_parts.by_frequency(frequencies.counts.of, frequencies.where)
        yield word_parts.by_seen(frequencies.counts.of, frequencies.where)
    yield word_parts.by_position()
    yield word_parts.by_length()
    yield word_parts.by_kind()
    yield word_parts.by_recency()
    for model in range(len(scored)):
        yield word_parts.by_vocabulary(model)


class _Measured(NamedTuple):
    """Bits per unit of the parts of all divisions, which are columns of the sums."""

    unit: str
    counts_P: np.ndarray
    values: dict[str, np.ndarray]  # by model, [P]
    intervals: dict[str, np.ndarray]  # by model, [P, 2]


def _measure(unit: str, models: Sequence[str], nats_MGP: np.ndarray, counts_GP: np.ndarray) -> _Measured:
    counts_P = counts_GP.sum(axis=0)
    found = np.flatnonzero(counts_P)
    measured = _Measured(unit, counts_P.astype(np.int64), {}, {})
    for name, nats_GP in zip(models, nats_MGP[:, :, found] / math.log(2), strict=True):
        values_P, ends_P2 = np.full(len(counts_P), np.nan), np.full((len(counts_P), 2), np.nan)
        values_P[found] = nats_GP.sum(axis=0) / counts_P[found]
        if len(nats_GP) > 1:
            ends_P2[found] = ratios.ratio_intervals(nats_GP, counts_GP[:, found])
        measured.values[name], measured.intervals[name] = values_P, ends_P2
    return measured


def _each(models: Sequence[str], sums: WordSums) -> Iterator[Breakdown]:
    """The breakdowns of all divisions but those of vocabularies that have every word."""
    no_bits_M = np.where(sums.complete_M, 0, np.nan)  # per byte
    units = (
        _measure("bits per word", models, sums.nats_MGP, sums.words_GP),
        _measure("bits per byte", models, sums.nats_MGP + no_bits_M[:, None, None], sums.bytes_GP),
    )
    for division, columns in zip(sums.divisions, sums.columns, strict=True):
        places = np.flatnonzero(units[0].counts_P[columns])
        title = division.title
        if division.model is not None:
            same = sums.same_vocabulary(division.model)
            if len(places) < 2 or same[0] < division.model:  # nothing is unknown, or it is shown already
                continue
            title = f"{title} of {', '.join(models[model] for model in same)}"
        if division.ordered and len(places):
            places = np.arange(places[0], places[-1] + 1)
        kept = columns.start + places
        for measured in units[: 1 + division.per_byte]:
            yield Breakdown(
                title,
                f"Words {division.about}. {_about(models, sums, measured.unit)}",
                measured.unit,
                tuple(division.parts[place] for place in places),
                measured.counts_P[kept],
                {name: values_P[kept] for name, values_P in measured.values.items()},
                {name: ends_P2[kept] for name, ends_P2 in measured.intervals.items()},
                division.ordered,
            )


def _about(models: Sequence[str], sums: WordSums, unit: str) -> str:
    """What a word's bits are, and those that no word has."""
    ends_M = sums.end_nats_M / math.log(2) / sums.num_documents
    listed = ", ".join(f"{bits:.2f} of {name}" for name, bits in zip(models, ends_M, strict=True))
    about = (
        "White space counts to the word after it, without the correction for leading spaces; the ends of "
        f"documents are in no part (bits for each: {listed})."
    )
    without = [name for name, complete in zip(models, sums.complete_M, strict=True) if not complete]
    if without and unit == "bits per byte":
        about += f" No bits per byte of {', '.join(without)}: some of the text is not scored."
    return about
