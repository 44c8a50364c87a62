"""Whether one model is better than another on the same text, in any metric."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lm_jax.errors import UserError
from lm_jax.evaluation.base import RESAMPLES_OF_ROWS, Evaluation, Statistics
from lm_jax.evaluation.row import Difference, Row
from lm_jax.metrics import significance
from lm_jax.metrics.comparisons import Comparison, compare_all
from lm_jax.metrics.resampling import RESAMPLES

_SHOWN = 3  # metrics of a row that tables show


def compare(evaluations: Sequence[Evaluation], seed: int = 0) -> None:
    """Writes into each row its differences to the rows before it, in all metrics of the whole text.

    Of these, `Row.difference` is the one to the first row in the first metric that compares. Rows of
    different texts, of a single document that cannot be cut into blocks, or without a comparable metric get
    none. Why other metrics do not compare with the first row's is written into the row's notes.
    """
    first, *others = evaluations
    for other in others:
        other.row.notes.extend(_warnings(other, first))
    found = _compare(evaluations, seed)
    for place, one in enumerate(evaluations):
        one.row.differences = [
            found[metric, to, place]
            for to in range(place)
            for metric in one.row.overall
            if (metric, to, place) in found
        ]
        to_first = (found.get((metric, 0, place)) for metric in one.row.overall)
        one.row.difference = next(filter(None, to_first), None) if place else None


def difference(a: Evaluation, b: Evaluation, metric: str, seed: int = 0) -> Difference | None:
    """The value of a less that of b, with paired tests; None where the two do not compare.

    Where the metric is the share of documents that are right, also McNemar's test. None, too, where the
    metric is not a finite number on some resamples of the documents, as where one of them is empty.
    """
    return _compare_in([b, a], [metric], seed).get((metric, 0, 1)) if comparable(a, b, metric) else None


# By metric, and the places of the other row and of the row.
_Found = dict[tuple[str, int, int], Difference]


def _compare(evaluations: Sequence[Evaluation], seed: int) -> _Found:
    """The differences of all pairs of rows that compare; metrics of the same rows are resampled together."""
    together: dict[tuple[int, ...], list[str]] = {}
    for metric in dict.fromkeys(name for one in evaluations for name in one.row.overall):
        for places in _groups(evaluations, metric):
            if len(places) > 1:
                together.setdefault(places, []).append(metric)
    found: _Found = {}
    for places, metrics in together.items():
        of_group = _compare_in([evaluations[i] for i in places], metrics, seed)
        found |= {(metric, places[i], places[j]): one for (metric, i, j), one in of_group.items()}
    return found


def _groups(evaluations: Sequence[Evaluation], metric: str) -> list[tuple[int, ...]]:
    """The places of the rows in groups whose values of a metric compare."""
    groups: list[list[int]] = []
    for place, one in enumerate(evaluations):
        group = next((g for g in groups if comparable(one, evaluations[g[0]], metric)), None)
        if group is None:
            groups.append([place])
        else:
            group.append(place)
    return [tuple(group) for group in groups]


def _compare_in(group: Sequence[Evaluation], metrics: Sequence[str], seed: int) -> _Found:
    """The differences of all pairs of rows that compare in all of these metrics."""
    found: _Found = {}
    for of_rows, num_resamples in ((False, RESAMPLES), (True, RESAMPLES_OF_ROWS)):
        wanted = {
            # From the last to the first row: what a row has more than those before it.
            metric: ([one.statistics[metric].arrays for one in reversed(group)], statistics.metric)
            for metric, statistics in group[0].statistics.items()
            if metric in metrics and statistics.of_rows == of_rows
        }
        compared = compare_all(wanted, num_resamples=num_resamples, seed=seed, of_rows=of_rows)
        for metric, by_pair in compared.items():
            for pair, comparison in by_pair.items():
                j, i = (len(group) - 1 - place for place in pair)
                if math.isfinite(comparison.p_value):
                    both = (group[j].statistics[metric], group[i].statistics[metric])
                    found[metric, i, j] = _difference(
                        group[i].row.model, metric, comparison, len(by_pair), _mcnemar(*both)
                    )
    return found


def _difference(to: str, metric: str, found: Comparison, pairs: int, mcnemar: float | None) -> Difference:
    is_tested = math.isfinite(found.randomization_p_value)
    return Difference(
        to,
        metric,
        found.difference,
        found.p_value,
        mcnemar,
        (found.low, found.high),
        found.randomization_p_value if is_tested else None,
        found.holm_p_value if is_tested else None,
        pairs,
        found.least_p_value,
        found.least_randomization_p_value,
    )


def _warnings(a: Evaluation, b: Evaluation) -> Iterator[str]:
    """Why values of a do not compare with those of b, which stand in the same table."""
    if a.row.metrics.keys() != b.row.metrics.keys():
        return  # another table
    if not _same_documents(a.row, b.row):
        yield f"another text than {b.row.model}'s: no value of the two rows compares"
        return
    differs: dict[tuple[str, ...], list[str]] = {}
    for metric, statistics in list(a.statistics.items())[:_SHOWN]:
        if names := tuple(n for n in statistics.same if _said(a.row, n) != _said(b.row, n)):
            differs.setdefault(names, []).append(metric.replace("_", " "))
    for names, metrics in differs.items():
        said = ", ".join(f"{_said(a.row, n)} {n} here, {_said(b.row, n)} there" for n in names)
        yield f"{', '.join(metrics)} do not compare with {b.row.model}'s: {said}"


def _same_documents(a: Row, b: Row) -> bool:
    """Whether two rows are about the same documents, each and all, by their digests."""
    parts = ("documents", "text_sha256", "documents_sha256")
    return all(getattr(a, part) == getattr(b, part) for part in parts)


def check_same_documents(rows: Sequence[Row]) -> None:
    """Checks that rows about one text are about the same documents, each and all.

    Raises:
        UserError: they are not, as where a file changed while models were evaluated.
    """
    first: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        other = first.setdefault((row.split, repr(row.data), tuple(row.counts)), row)
        if not _same_documents(row, other):
            raise UserError(
                f"{row.model} was evaluated on other documents of {row.split} than {other.model}",
                "run the command again while nothing changes the text",
            )


def comparable(a: Evaluation, b: Evaluation, metric: str) -> bool:
    """Whether the difference of two models in a metric can be tested.

    It can if their values compare (see `on_one_scale`), and if both have the same documents, or blocks of
    them, at least two.
    """
    if not on_one_scale(a, b, metric):
        return False
    arrays = [one.statistics[metric].arrays for one in (a, b)]
    return (
        a.row.resampled == b.row.resampled
        and a.row.documents == b.row.documents
        and [x.shape for x in arrays[0]] == [x.shape for x in arrays[1]]
        and len(arrays[0][0]) > 1
    )


def on_one_scale(a: Evaluation, b: Evaluation, metric: str) -> bool:
    """Whether the values of two models in a metric compare.

    They do if both are of the same documents and have a value, and if the counts and settings that the metric
    names agree (`Statistics.same`).
    """
    return (
        all(metric in e.statistics and _has_value(e.row, metric) for e in (a, b))
        and _same_documents(a.row, b.row)
        and all(_said(a.row, name) == _said(b.row, name) for name in a.statistics[metric].same)
    )


def _has_value(row: Row, metric: str) -> bool:
    return metric in row.metrics and row.metrics[metric].value is not None


def _said(row: Row, name: str) -> Any:
    """A count of a row, or a setting of its context."""
    return row.counts[name] if name in row.counts else row.context.get(name)


def _mcnemar(ours: Statistics, theirs: Statistics) -> float | None:
    """The p-value of McNemar's test where a metric is the share of documents that are right."""
    if not (_is_share_of_right(ours) and _is_share_of_right(theirs)):
        return None
    return significance.mcnemar(ours.arrays[0], theirs.arrays[0]).p_value


def _is_share_of_right(statistics: Statistics) -> bool:
    """Whether a metric is the mean of outcomes that are 0 or 1, one for each document."""
    if statistics.metric is not significance.ratio or statistics.less_is_better:
        return False
    right_D, number_D = statistics.arrays
    return bool((number_D == 1).all() and np.isin(right_D, (0, 1)).all())
