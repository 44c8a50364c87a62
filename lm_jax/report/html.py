"""A report as one HTML file that needs no other file, no network and no script."""

import html
from collections.abc import Iterator, Mapping, Sequence

from lm_jax.evaluation.base import Predictions, Texts
from lm_jax.evaluation.protocol import differing
from lm_jax.evaluation.row import Row
from lm_jax.report.figures import (
    axes,
    checkpoint_curve,
    confusion,
    differences,
    operating_curves,
    plain_legend,
    svg,
)  # fmt: skip
from lm_jax.report.numbers import difference, label
from lm_jax.report.table import grouped, interval, value

_SHOWN, _LONGEST = 50, 600  # generated texts, and characters of each
_DIFFERENCES = "Differences to the first row with 95 % intervals, and p-values by Holm's correction."
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .3em .7em; text-align: right; white-space: nowrap }
th { border-bottom: 2px solid #444 } tr:nth-child(even) { background: #f4f4f4 }
td:first-child, td:nth-child(2), th:first-child, th:nth-child(2) { text-align: left }
.texts td { white-space: pre-wrap; text-align: left; vertical-align: top }
figure { margin: 1.5em 0 } figcaption, .note { color: #555 } code { background: #f4f4f4; padding: 0 .3em }
"""


def render(
    rows: Sequence[Row],
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    command: str,
    predictions: Mapping[str, Predictions] | None = None,
    generated: Mapping[str, Texts] | None = None,
) -> str:
    """The report's HTML.

    Args:
        rows: one for each model. Rows with different metrics are in separate tables.
        curves: the lines of metrics.jsonl, by the model's name; models may be missing.
        command: the command line.
        predictions: of models of labels, by the model's name.
        generated: of models that generated texts, by the model's name.
    """
    parts = []
    for group in grouped(rows):
        parts.append(_table(group))
        if any(row.metrics[row.headline].value is not None for row in group):
            parts.append(_figure(_bars(group), _caption(group[0])))
        parts.extend(f"<p class=note>{html.escape(line)}</p>" for line in differing(group))
        if picture := checkpoint_curve(group):
            parts.append(_figure(picture, "The headline by checkpoint; the bands are 95 % intervals."))
        if picture := differences(group):
            parts.append(_figure(picture, _DIFFERENCES))
        parts.append(_parts(group))
    parts.extend(_classifiers(predictions or {}))
    if any(curves.values()):
        parts.append(
            _figure(_learning(curves), "Loss in training (thin) and on the validation part (thick).")
        )
    parts.append(_details(rows))
    parts.extend(_generated(name, texts) for name, texts in (generated or {}).items())
    parts.append(f"<p class=note>Made by <code>{html.escape(command)}</code></p>")
    body = "\n".join(parts)
    return (
        f"<!doctype html>\n<html lang=en><meta charset=utf-8><title>lm_jax evaluation</title>"
        f"<style>{_STYLE}</style>\n<h1>Evaluation</h1>\n{body}\n</html>\n"
    )


def _classifiers(predictions: Mapping[str, Predictions]) -> Iterator[str]:
    """Figures of models of labels."""
    if picture := operating_curves(predictions):
        yield _figure(picture, "ROC and precision-recall curves; the second class is the positive one.")
    for name, one in predictions.items():
        if picture := confusion(one):
            yield _figure(picture, f"{name}: how often each class was predicted for each label.")


def _generated(name: str, texts: Texts) -> str:
    """The first texts that a model generated, beside what was asked for."""
    lines = list(zip(*texts, strict=True))[:_SHOWN]
    heads = "".join(f"<th>{head}</th>" for head in ("source or prompt", "reference", "generated"))
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_short(cell))}</td>" for cell in line) + "</tr>\n"
        for line in lines
    )
    title = f"{name}: the first {len(lines)} of {len(texts.prompts):,} texts"
    return f"<h2>{html.escape(title)}</h2>\n<table class=texts><tr>{heads}</tr>\n{body}</table>"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


def _table(rows: Sequence[Row]) -> str:
    """All counts and metrics, the headline last, with its interval."""
    counts, headline = list(rows[0].counts), rows[0].headline
    metrics = [*rows[0].overall[1:], headline]
    heads = ["model", "text", "documents", *map(label, (*counts, *metrics)), "95 % interval"]
    lines = [
        [
            row.model,
            row.split,
            f"{row.documents:,}",
            *(f"{row.counts[name]:,}" for name in counts),
            *(value(row, name) for name in metrics),
            interval(row, headline),
        ]
        for row in rows
    ]
    return _cells(heads, lines)


def _parts(rows: Sequence[Row]) -> str:
    """The metrics of parts of the text, a line for each, with each model's value and interval."""
    names = [name for name in rows[0].metrics if name not in rows[0].overall]
    heads = ["metric", "part", *(cell for row in rows for cell in (row.model, "95 % interval"))]
    lines = [
        [*name.split("/", 1), *(cell for row in rows for cell in (value(row, name), interval(row, name)))]
        for name in names
    ]
    return _cells(heads, lines) if lines else ""


def _cells(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in line) + "</tr>\n" for line in lines)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _caption(row: Row) -> str:
    better = "Less" if row.metrics[row.headline].less_is_better else "More"
    name = row.headline.replace("_", " ").capitalize()
    return f"{name}; the lines are 95 % intervals over {row.resampled}. {better} is better."


def _details(rows: Sequence[Row]) -> str:
    """The settings of each row, the other intervals, reasons for missing values, and differences."""
    items = []
    for row in rows:
        facts = [
            f"family {row.family}",
            f"conditioned on {row.conditioned_on}",
            *(f"{k} {v}" for k, v in row.context.items()),
            *(f"{label(name)} {interval(row, name)}" for name in row.overall if row.metrics[name].interval),
            f"text sha256 {row.text_sha256[:16]}…",
        ]
        sizes = {"parameters": row.parameters, "training tokens": row.training_tokens}
        facts.extend(f"{n:,} {name}" for name, n in sizes.items() if n is not None)
        facts.extend(filter(None, (row.metrics[row.headline].why, *row.notes, difference(row))))
        items.append(f"<li><b>{html.escape(row.model)}</b>: {html.escape('; '.join(facts))}</li>")
    return f"<ul class=note>{''.join(items)}</ul>"


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _bars(rows: Sequence[Row]) -> str:
    """A bar for each row that has a headline."""
    headline = rows[0].headline
    bars = [(row.model, row.metrics[headline]) for row in rows if row.metrics[headline].value is not None]
    figure, picture = axes(7, 0.8 + 0.45 * len(bars))
    for y, (_, metric) in enumerate(reversed(bars)):
        picture.barh(y, metric.value, color="#4878a8", height=0.6)
        end = metric.value
        if metric.interval is not None:
            picture.plot(metric.interval, (y, y), color="black", linewidth=2)
            end = metric.interval[1]
        picture.text(end, y, f"  {metric.value:.3f}", va="center")
    # A path may have a dollar sign, which matplotlib reads as the beginning of a formula.
    picture.set_yticks(range(len(bars)), [name for name, _ in reversed(bars)], parse_math=False)
    picture.set_xlabel(headline.replace("_", " "))
    picture.margins(x=0.15)
    return svg(figure)


def _learning(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    figure, picture = axes(7, 3.5)
    for i, (name, lines) in enumerate(curves.items()):
        for key, width, legend in (("loss", 0.7, None), ("valid_loss", 2.0, name)):
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                picture.plot(*zip(*points, strict=True), color=f"C{i}", linewidth=width, label=legend)
    picture.set_xlabel("step")
    picture.set_ylabel("loss")
    plain_legend(picture)
    return svg(figure)
