"""The tables of the HTML report."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_jax.evaluation.breakdown import Breakdown
from lm_jax.evaluation.differing import DifferingWords, Occurrence, WordDifference
from lm_jax.evaluation.row import Difference, Row
from lm_jax.files import dump_json
from lm_jax.report.figures import NUM_COLOURS
from lm_jax.report.markup import Cell, Column, table
from lm_jax.report.numbers import effect, effect_interval, holm_p, label
from lm_jax.report.table import interval, value

_ABSENT = object()  # the value of a field that a config does not have
_NONE = Cell("–")


def results(rows: Sequence[Row], places: Sequence[int]) -> str:
    """All metrics and counts of rows with the same ones, the headline first, with its interval.

    Args:
        rows: the rows.
        places: of each in the report, which give them their colours.
    """
    headline = rows[0].headline
    columns = [
        Column("model", [Cell(row.model, None, f"series-{p % NUM_COLOURS}") for row, p in zip(rows, places)]),
        Column(label(headline), [_headline(row, rows) for row in rows]),
        Column("95 % interval", [_interval(row, headline) for row in rows]),
        *_differences(rows),
        *(
            Column(label(metric), [_value(row, metric) for row in rows])
            for metric in dict.fromkeys(name for row in rows for name in row.overall)
            if metric != headline
        ),
        *(
            Column(label(c), [_count(row.counts[c]) for row in rows])
            for c in rows[0].counts
            if _varies(rows, c)
        ),
        Column("parameters", [_count(row.parameters) for row in rows]),
        Column("trained on", [_count(row.training_tokens) for row in rows]),
        *_texts(rows),
    ]
    known = [column for column in columns if any(cell.shown != "–" for cell in column.cells)]
    over = ", ".join(dict.fromkeys(row.resampled for row in rows))
    return table(known, f"Metrics of the whole text; intervals are over {over}.", "rows sortable")


def _value(row: Row, metric: str) -> Cell:
    """The value of a metric, which other rows of the table may have alone."""
    return Cell(value(row, metric), row.metrics[metric].value) if metric in row.metrics else _NONE


def _varies(rows: Sequence[Row], count: str) -> bool:
    """Whether rows differ in a count; what they share is said above the tables."""
    return len({row.counts[count] for row in rows}) > 1


def _texts(rows: Sequence[Row]) -> Iterator[Column]:
    """Which text each row is about, where that is not one for all."""
    if len({row.text_sha256 for row in rows}) > 1:
        yield Column("documents", [_count(row.documents) for row in rows])
        yield Column("text", [Cell(row.split) for row in rows], is_text=True)


def _headline(row: Row, rows: Sequence[Row]) -> Cell:
    """The value of the headline, marked where it is the best on one text."""
    headline = row.headline
    ours, sign = row.metrics[headline].value, 1 if row.metrics[headline].less_is_better else -1
    theirs = [other.metrics[headline].value for other in rows if other is not row]
    one_text = len(rows) > 1 and len({other.text_sha256 for other in rows}) == 1
    is_best = ours is not None and all(x is None or sign * ours <= sign * x for x in theirs)
    return Cell(value(row, headline), ours, "best" if one_text and is_best else "")


def _interval(row: Row, metric: str) -> Cell:
    ends = row.metrics[metric].interval
    return Cell(interval(row, metric), None if ends is None else ends[0])


def _count(count: int | None) -> Cell:
    return _NONE if count is None else Cell(f"{count:,}", count)


def _differences(rows: Sequence[Row]) -> Iterator[Column]:
    """What each row has less than the first one, and how sure that is."""
    first = next((row.difference for row in rows if row.difference is not None), None)
    if first is None:
        return
    alike = [row.difference if row.difference and row.difference[:2] == first[:2] else None for row in rows]
    yield Column(
        f"{label(first.metric)} less {first.to}",
        [_NONE if d is None else Cell(_minus(effect(d)), d.value) for d in alike],
    )
    yield Column("its 95 % interval", [Cell(_minus(effect_interval(d)), _low(d)) for d in alike])
    yield Column("p (Holm)", [_NONE if d is None else Cell(holm_p(d), d.holm_p_value) for d in alike])


def _low(difference: Difference | None) -> float | None:
    """The lower end of the interval of a difference, by which its column is sorted."""
    return None if difference is None or difference.interval is None else difference.interval[0]


def _minus(number: str) -> str:
    return number.replace("-", "−")


def parts(rows: Sequence[Row]) -> str:
    """The metrics of parts of the text, a line for each, with each model's value; "" if there are none."""
    names = [name for name in rows[0].metrics if name not in rows[0].overall]
    if not names:
        return ""
    pairs = [name.split("/", 1) for name in names]
    columns = [
        Column("part", [Cell(part) for _, part in pairs]),
        Column("metric", [Cell(label(metric)) for metric, _ in pairs], is_text=True),
    ]
    for row in rows:
        columns.append(Column(row.model, [Cell(value(row, n), row.metrics[n].value) for n in names]))
        columns.append(Column("95 % interval", [_interval(row, name) for name in names]))
    return table(columns, "Parts of the text", "sortable")


def breakdown(one: Breakdown) -> str:
    """The numbers of a breakdown: a line for each part."""
    columns = [
        Column("part", [Cell(part) for part in one.parts]),
        Column(f"{one.unit.rpartition(' ')[2]}s", [_count(int(count)) for count in one.counts]),
    ]
    for model, values_P in one.values.items():
        columns.append(Column(model, [_measured(x) for x in values_P.tolist()]))
        columns.append(Column("95 % interval", [_ends(*ends) for ends in one.intervals[model].tolist()]))
    return table(columns, f"{one.title}, {one.unit}", "sortable")


def differing_words(one: DifferingWords) -> str:
    """The words on which two models differ most, and single occurrences with what precedes them."""
    first, second = one.models
    words = [
        Column("word", [Cell(item.word) for item in one.words]),
        Column("times", [_count(item.times) for item in one.words]),
        *_bits(one.models, one.words),
    ]
    places = [f"{item.document}, byte {item.start:,}" for item in one.occurrences]
    occurrences = [
        Column("word", [Cell(item.word) for item in one.occurrences]),
        Column("before it", [Cell(" ".join(item.before.split())) for item in one.occurrences], is_text=True),
        *_bits(one.models, one.occurrences),
        Column("where", [Cell(place) for place in places], is_text=True),
    ]
    return table(
        words, f"Words on which {first} and {second} differ most: bits of all occurrences", "sortable"
    ) + table(occurrences, "Single occurrences, in bits", "sortable")


def _bits(models: Sequence[str], items: Sequence[WordDifference] | Sequence[Occurrence]) -> list[Column]:
    """The bits of each model, and the difference."""
    of_models = [
        Column(name, [Cell(f"{item.bits[i]:.1f}", item.bits[i]) for item in items])
        for i, name in enumerate(models)
    ]
    less = [Cell(f"{item.difference:+.1f}".replace("-", "−"), item.difference) for item in items]
    return [*of_models, Column("difference", less)]


def _measured(x: float) -> Cell:
    return Cell(f"{x:.3f}", x) if math.isfinite(x) else _NONE


def _ends(low: float, high: float) -> Cell:
    return Cell(f"{low:.3f}–{high:.3f}", low) if math.isfinite(low + high) else _NONE


def configurations(configs: Mapping[str, Mapping[str, Any]]) -> str:
    """The fields of config.json side by side. Those in which models that have them differ are marked.

    Args:
        configs: by the model's name, values by their dotted names.
    """
    names = list(dict.fromkeys(name for config in configs.values() for name in config))
    kinds = [_kind([config.get(name, _ABSENT) for config in configs.values()]) for name in names]
    columns = [
        Column("field", [Cell(name, None, kind) for name, kind in zip(names, kinds, strict=True)]),
        *(Column(model, [_setting(config, name) for name in names]) for model, config in configs.items()),
    ]
    differing = kinds.count("differs")
    caption = (
        f"config.json of each run: {differing} of {len(names)} fields differ (≠) between runs that have them"
    )
    choice = '<label class="screen"><input type="checkbox" checked> without fields that all share</label>'
    shown = table(columns, caption, "configurations")
    return f'<div class="only">{choice if len(configs) > 1 else ""}{shown}</div>'


def _kind(values: Sequence[Any]) -> str:
    """Whether runs differ in a field, all share it, or only some have it."""
    had = {dump_json(value) for value in values if value is not _ABSENT}
    if len(had) > 1:
        return "differs"
    return "some" if _ABSENT in values else "same" if len(values) > 1 else ""


def _setting(config: Mapping[str, Any], name: str) -> Cell:
    value = config.get(name, _ABSENT)
    return (
        _NONE if value is _ABSENT else Cell(value if isinstance(value, str) and value else dump_json(value))
    )
