"""Whether one model is better than another on the same text, in any metric."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lm_jax.errors import UserError
from lm_jax.evaluation.base import Evaluation, Statistics
from lm_jax.evaluation.row import Difference, Row
from lm_jax.metrics import significance

_SHOWN = 3  # metrics of a row that tables show


def compare(evaluations: Sequence[Evaluation], seed: int = 0) -> None:
    """Writes into each row but the first its difference to the first one, in the first metric that compares.

    Rows of different texts, of a single document, or without a comparable metric get none. Why other metrics
    do not compare is written into the row's notes.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        other.row.notes.extend(_warnings(other, first))
        metric = next((m for m in other.row.metrics if comparable(other, first, m)), None)
        if metric is None:
            continue
        found = difference(other, first, metric, seed)
        # NaN where the metric is undefined on some samples of the documents, as where one of them is empty.
        other.row.difference = found if math.isfinite(found.p_value) else None


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
    """Whether two models can be compared in a metric.

    They can if they were evaluated on the same documents, at least two, if both have a value, and if the
    counts and settings that the metric names agree (`Statistics.same`).
    """
    rows = (a.row, b.row)
    return (
        all(metric in row.metrics and row.metrics[metric].value is not None for row in rows)
        and _same_documents(a.row, b.row)
        and a.row.documents > 1
        and all(_said(a.row, name) == _said(b.row, name) for name in a.statistics[metric].same)
    )


def _said(row: Row, name: str) -> Any:
    """A count of a row, or a setting of its context."""
    return row.counts[name] if name in row.counts else row.context.get(name)


def difference(a: Evaluation, b: Evaluation, metric: str, seed: int = 0) -> Difference:
    """The value of a less that of b, with the p-value of a paired bootstrap over documents.

    Where the metric is the share of documents that are right, also that of McNemar's test.
    """
    ours, theirs = a.statistics[metric], b.statistics[metric]
    test = significance.paired_bootstrap(
        ours.arrays, theirs.arrays, metric=ours.metric, seed=seed, of_rows=ours.of_rows
    )
    mcnemar = None
    if _is_share_of_right(ours) and _is_share_of_right(theirs):
        mcnemar = significance.mcnemar(ours.arrays[0], theirs.arrays[0]).p_value
    return Difference(b.row.model, metric, test.difference, test.p_value, mcnemar)


def _is_share_of_right(statistics: Statistics) -> bool:
    """Whether a metric is the mean of outcomes that are 0 or 1, one for each document."""
    if statistics.metric is not significance.ratio or statistics.less_is_better:
        return False
    right_D, number_D = statistics.arrays
    return bool((number_D == 1).all() and np.isin(right_D, (0, 1)).all())
