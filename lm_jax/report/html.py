"""A report as one HTML file that needs no other file and no network; without a script it is a static page."""

import base64
import hashlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata, resources

from lm_jax.evaluation.base import Evaluation, Predictions, Texts
from lm_jax.evaluation.breakdown import Breakdown
from lm_jax.evaluation.differing import DifferingWords
from lm_jax.evaluation.protocol import differing
from lm_jax.evaluation.row import Row
from lm_jax.report import charts, surprisal_view, tables
from lm_jax.report.figures import checkpoint_curve, confusion, differences, operating_curves
from lm_jax.report.markup import Cell, Column, data, escape, figure, name, section, table
from lm_jax.report.numbers import difference, label
from lm_jax.report.runs import Run
from lm_jax.report.table import blocks, grouped, interval

_DIFFERENCES = "Differences to the first row with 95 % intervals, and p-values by Holm's correction."
_PARTS = "Where the models differ"
_SHOWN, _LONGEST = 50, 600  # generated texts, and characters of each


def render(
    evaluations: Sequence[Evaluation],
    runs: Mapping[str, Run],
    command: str,
    breakdowns: Sequence[Breakdown] = (),
    differing_words: Sequence[DifferingWords] = (),
) -> str:
    """The report's HTML.

    Args:
        evaluations: one for each model. Rows with different metrics are in separate tables.
        runs: by the model's name; models may be missing.
        command: the command line.
        breakdowns: of models of these rows.
        differing_words: of pairs of these models.
    """
    rows = [one.row for one in evaluations]
    places = {row.model: place for place, row in reversed(list(enumerate(rows)))}
    for place, row in enumerate(rows):  # a run's curve has the colour of its first checkpoint
        run, at, step = row.model.rpartition("@")
        if at and step == str(row.step):
            places.setdefault(run, place)
    several = len({row.split for row in rows}) > 1
    predictions = {
        f"{one.row.model}, {one.row.split}" if several else one.row.model: one.predictions
        for one in evaluations
        if one.predictions is not None
    }
    sections = [
        section("results", "Results", *_results(rows)),
        section("text", "Surprisal in the text", *_text(evaluations)),
        section("parts", _PARTS, *_breakdowns(breakdowns, places), *_words(differing_words)),
        section("training", "Training", *_training(runs, places)),
        section("labels", "Labels", *_classifiers(predictions)),
        section("generated", "Generated texts", *_generated(evaluations)),
        section("notes", "Notes", _notes(rows)),
        section("configurations", "Configurations", *_configurations(runs, places)),
        section("reproduce", "Reproduce", *_commands(command)),
    ]
    return _page(rows, [part for part in sections if part])


def _page(rows: Sequence[Row], sections: Sequence[str]) -> str:
    """The whole file: its policy lets no other script run, and nothing be fetched."""
    package = resources.files("lm_jax.report")
    style, *scripts = (
        (package / file).read_text(encoding="utf-8")
        for file in ("page.css", "page.js", "surprisals.js", "surprisal_view.js")
    )
    script = "".join(scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    links = "".join(_link(part) for part in sections)
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>lm_jax evaluation</title>\n<style>\n{style}</style></head>\n<body>\n"
        f'<div class="bar"><div class="top"><nav aria-label="Sections">{links}</nav>'
        '<button type="button" id="theme" hidden>Theme</button></div></div>\n'
        f"<main><header><h1>Evaluation</h1>{_summary(rows)}</header>\n{body}\n</main>\n"
        f"<script>{script}</script>\n</body></html>\n"
    )


def _link(part: str) -> str:
    """A link to a section, from its identifier and its heading."""
    identifier, title = part.split('"', 2)[1], part.split("<h2>", 1)[1].split("</h2>", 1)[0]
    return f'<a href="#{identifier}">{title}</a>'


def _summary(rows: Sequence[Row]) -> str:
    """The texts that the models were evaluated on."""
    lines = []
    for digest in dict.fromkeys(row.text_sha256 for row in rows):
        same = [row for row in rows if row.text_sha256 == digest]
        models = "1 model" if len(same) == 1 else f"{len(same)} models"
        documents = "1 document" if same[0].documents == 1 else f"{same[0].documents:,} documents"
        counted = {unit: count for row in same for unit, count in row.counts.items()}
        counts = (f"{count:,} {escape(label(unit))}" for unit, count in _common(same, counted))
        facts = ", ".join((documents, *counts))
        where = f"{models} on {name(same[0].split)}: {facts}"
        lines.append(f'<p class="muted">{where}. SHA-256 <code>{digest[:16]}…</code></p>')
    return "".join(lines)


def _common(rows: Sequence[Row], counts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """The counts in which all rows that have them agree, such as bytes; tables leave these out."""
    for unit, count in counts.items():
        if count and all(row.counts.get(unit, count) == count for row in rows):
            yield unit, count


def _results(rows: Sequence[Row]) -> Iterator[str]:
    """For each group of rows with the same metrics: the table, a figure, and metrics of parts."""
    indices = {id(row): place for place, row in enumerate(rows)}
    for group in grouped(rows):
        places = [indices[id(row)] for row in group]
        yield tables.results(group, places)
        if picture := charts.values(group, places):
            yield figure(picture, _caption(group[0]))
        yield from (f'<p class="muted">{escape(line)}</p>' for line in differing(group))
        if picture := differences(group):
            yield figure(picture, _DIFFERENCES)
        if picture := checkpoint_curve(group):
            yield figure(picture, "The headline by checkpoint; the bands are 95 % intervals.")
        yield tables.parts(group)


def _caption(row: Row) -> str:
    better = "Less" if row.metrics[row.headline].less_is_better else "More"
    return (
        f"{row.headline.replace('_', ' ').capitalize()}; the lines are 95 % intervals over {row.resampled}. "
        f"{better} is better."
    )


def _breakdowns(breakdowns: Sequence[Breakdown], places: Mapping[str, int]) -> Iterator[str]:
    if not breakdowns:
        return
    shown = (
        figure(charts.breakdown(one, places), f"{one.title[:1].upper()}{one.title[1:]}, {one.unit}")
        + f'<details><summary>About, and the numbers</summary><p class="muted">{escape(one.about)}</p>'
        + f"{tables.breakdown(one)}</details>"
        for one in breakdowns
    )
    cells = "\n".join(f"<div>{one}</div>" for one in shown)
    yield f'<div class="figures">{cells}</div>'


def _words(differing_words: Sequence[DifferingWords]) -> Iterator[str]:
    for one in differing_words:
        if one.words:
            first, second = map(escape, one.models)
            summary = f"The {len(one.words)} words on which {first} and {second} differ most"
            yield f"<details><summary>{summary}</summary>{tables.differing_words(one)}</details>"


def _training(runs: Mapping[str, Run], places: Mapping[str, int]) -> Iterator[str]:
    curves = {model: run.curve for model, run in runs.items() if run.curve and model in places}
    if not curves:
        return
    loss = (
        "Loss in training (thin) and on the validation part (thick), in nats per token or as the task has it."
    )
    figures = [figure(charts.training(curves, places), loss)]
    if picture := charts.validation(curves, places):
        figures.append(figure(picture, "Bits per byte of the validation part, which compare between models."))
    yield f'<div class="figures">{"".join(figures)}</div>'


def _classifiers(predictions: Mapping[str, Predictions]) -> Iterator[str]:
    """Figures of models of labels."""
    if picture := operating_curves(predictions):
        yield figure(picture, "ROC and precision-recall curves; the second class is the positive one.")
    for model, one in predictions.items():
        if picture := confusion(one):
            yield figure(picture, f"{model}: how often each class was predicted for each label.")


def _generated(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """The first texts that each model generated, beside what was asked for."""
    for one in evaluations:
        if one.texts is None:
            continue
        number = min(_SHOWN, len(one.texts.prompts))
        title = f"{one.row.model}: the first {number} of {len(one.texts.prompts):,} texts"
        heads = ("source or prompt", "reference", "generated")
        yield table(
            [
                Column(head, [Cell(_short(text)) for text in texts[:_SHOWN]], is_text=True)
                for head, texts in zip(heads, Texts(*one.texts), strict=True)
            ],
            title,
            "long",
        )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


def _text(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """The text coloured by surprisal."""
    view = surprisal_view.view(evaluations)
    if view is None:
        return
    chosen = (("model", "Model"), ("minus", "Compared with"), ("per", "Colour by"), ("document", "Document"))
    tools = "".join(
        f'<label>{title}<select id="select-{identifier}"></select></label>' for identifier, title in chosen
    )
    about = (
        "−log₂ of the probability of each word given all that precedes it: of the tokens that begin in the "
        f"word or in the white space before it, {surprisal_view.PRECISION}. Point at a word, touch it, or "
        "move with the arrow keys."
    )
    others = f"Not scored on this text: {', '.join(view.others)}." if view.others else ""
    notes = " ".join(filter(None, (view.left_out, others)))
    yield (
        f'<p class="measure muted">{escape(about)} {escape(notes)}</p>'
        "<noscript><p>The coloured text needs JavaScript, which is off here.</p></noscript>"
        f'<div id="reader" hidden><div class="tools">{tools}</div>'
        '<p class="muted paper">Printed are the parts of the text that were on the screen.</p>'
        '<ol class="legend" id="legend" aria-label="Colours"></ol>'
        '<p class="muted measure" id="meaning"></p><p class="muted measure" id="marks"></p>'
        '<div class="reader"><div class="words" id="words" tabindex="0" role="group" '
        'aria-label="The text. Arrow keys move from word to word." aria-describedby="details"></div>'
        '<div class="details"><div id="details" aria-live="polite"><p class="muted">No word is chosen.</p>'
        "</div>"
        '<div class="steps"><button type="button" id="previous" '
        'aria-label="Previous word">← <span>Previous</span></button>'
        '<button type="button" id="next" aria-label="Next word"><span>Next</span> →</button>'
        "</div></div></div></div>"
    )
    yield data(view.data, "surprisals")


def _configurations(runs: Mapping[str, Run], places: Mapping[str, int]) -> Iterator[str]:
    configs = {model: run.config for model, run in runs.items() if run.config and model in places}
    if configs:
        yield tables.configurations(configs)


def _notes(rows: Sequence[Row]) -> str:
    """What is to know of each row."""
    items = []
    for place, row in enumerate(rows):
        lines = "".join(f"<li>{escape(line)}</li>" for line in _facts(row))
        title = f'<b class="swatch series-{place % 8}">{name(row.model)}</b>'
        items.append(f"<li>{title}<ul class=muted>{lines}</ul></li>")
    return f'<ul class="notes">{"".join(items)}</ul>'


def _facts(row: Row) -> Iterator[str]:
    """The settings of a row, its other intervals, reasons for missing values, notes, and its difference."""
    settings = (f"{key.replace('_', ' ')} {value}" for key, value in row.context.items())
    yield ", ".join((f"family {row.family}", f"conditioned on {row.conditioned_on}", *settings))
    sizes = {"parameters": row.parameters, "training tokens": row.training_tokens}
    if known := [f"{size:,} {unit}" for unit, size in sizes.items() if size is not None]:
        yield ", ".join(known)
    intervals = (
        f"{label(metric)} {interval(row, metric)}" for metric in row.overall if row.metrics[metric].interval
    )
    if listed := ", ".join(intervals):
        yield f"95 % intervals: {listed}"
    why, audit = row.metrics[row.headline].why, row.audit.line() if row.audit else ""
    yield from filter(None, (why, audit, blocks(row), *row.notes, difference(row)))
    yield f"text SHA-256 {row.text_sha256}"


def _commands(command: str) -> Iterator[str]:
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("lm_jax", "jax", "numpy"))
    yield f'<p class="muted">Made by Python {platform.python_version()}, {versions}, with the command</p>'
    yield f'<div class="command"><pre>{escape(command)}</pre></div>'
