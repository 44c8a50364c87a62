"""Figures: axes to draw in, results by checkpoint, differences, and how well classes are told apart."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lm_jax.evaluation.base import Predictions
from lm_jax.evaluation.row import Metric, Row
from lm_jax.metrics.classification import confusion_matrix
from lm_jax.metrics.curves import precision_recall_curve, roc_auc, roc_curve
from lm_jax.report.markup import PICTURES
from lm_jax.report.numbers import holm_p, label

_MOST_CLASSES = 40  # in a figure of a confusion matrix
_BETTER, _WORSE = "#1b6ca8", "#b5482a"  # than the first row; told apart without red and green
_VARIABLES = {"#000000": "var(--ink)", "#ffffff": "none", "#b0b0b0": "var(--rule)"}  # the last: grids
NUM_COLOURS = 8  # of models, in page.css
_LONGEST = 32  # characters of a name
_MOST_NUMBERS = 15  # classes whose counts are written in its cells


def axes(width: float, height: float, columns: int = 1) -> Any:
    """A figure of this size in inches, and its axes without the right and the upper frame line.

    With several columns there are that many axes, side by side.
    """
    from matplotlib.figure import Figure  # a heavy import; Figure needs no display

    figure = Figure((width, height), layout="constrained")
    pictures = figure.subplots(1, columns)
    for picture in np.ravel(pictures):
        picture.spines[["top", "right"]].set_visible(False)
    return figure, pictures


def short(name: str) -> str:
    """A user's name, or the end of a long one, without what a figure cannot hold: control characters."""
    text = " ".join(name.split()).translate(PICTURES)
    text = text if len(text) <= _LONGEST else f"…{text[1 - _LONGEST :]}"
    return f"\u200b{text}" if text.startswith("_") else text  # legends leave out what begins with this


def plain_legend(picture: Any, **options: Any) -> None:
    """A legend that shows names as they are: in a path, matplotlib reads a dollar sign as a formula's."""
    for text in picture.legend(frameon=False, **options).get_texts():
        text.set_parse_math(False)


def svg(figure: Any) -> str:
    """The figure as an SVG element of a page: its letters are text, its colours the variables of page.css.

    So it is dark on a dark page. matplotlib's black is the page's ink, its n-th colour is that of the n-th
    model, and its white is left out.
    """
    import matplotlib.colors  # a heavy import; it has rc_context, too

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the page's reader may have a font for it
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    series = {matplotlib.colors.to_hex(f"C{i}"): f"var(--series-{i % NUM_COLOURS})" for i in range(10)}
    variables = {**series, **_VARIABLES}

    def themed(style: re.Match[str]) -> str:
        return re.sub(r"#[0-9a-f]{6}", lambda colour: variables.get(colour[0], colour[0]), style[0])

    text = re.sub(r'style="[^"]*"', themed, text[text.index("<svg") :])
    # Names of parts, which figures of one page share, and a rule for all of the page.
    return re.sub(r'(?s) id="[a-z0-9.]+_[0-9]+"|<metadata>.*?</metadata>|<style.*?</style>', "", text)


def checkpoint_curve(rows: Sequence[Row]) -> str:
    """The headline of several checkpoints of a run against their steps, with 95 % intervals; "" for none.

    Rows of a run's checkpoints are named RUN@STEP. Each run is a line.
    """
    runs: dict[str, list[tuple[int, Metric]]] = {}
    for row in rows:
        run, at, step = row.model.rpartition("@")
        if at and step == str(row.step) and row.metrics[row.headline].value is not None:
            runs.setdefault(run, []).append((int(step), row.metrics[row.headline]))
    runs = {run: sorted(points) for run, points in runs.items() if len(points) > 1}
    if not runs:
        return ""
    figure, picture = axes(7, 3.5)
    for i, (run, points) in enumerate(runs.items()):
        steps, metrics = zip(*points, strict=True)
        picture.plot(steps, [metric.value for metric in metrics], color=f"C{i}", marker=".", label=run)
        ends = [metric.interval or (metric.value, metric.value) for metric in metrics]
        picture.fill_between(steps, *zip(*ends, strict=True), color=f"C{i}", alpha=0.2, linewidth=0)
    picture.set_xlabel("step")
    picture.set_ylabel(rows[0].headline.replace("_", " "))
    plain_legend(picture)
    return svg(figure)


def confusion(predictions: Predictions) -> str:
    """How many texts or words of each class (row) were given each class (column); "" for too many classes.

    The colour is the share of the row.
    """
    names = list(map(short, predictions.names))
    if len(names) > _MOST_CLASSES:
        return ""
    guesses = predictions.probabilities.argmax(axis=1)
    counts = confusion_matrix(predictions.labels, guesses, num_classes=len(names))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2 + 0.35 * len(names)
    figure, picture = axes(size + 0.5, size)
    picture.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= _MOST_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            colour = "#fefefe" if shares[row, column] > 0.5 else "#010101"  # on blue on any page
            picture.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize="small")
    rotation = 90 if len(names) > 4 else 0
    picture.set_xticks(range(len(names)), names, rotation=rotation, parse_math=False)
    picture.set_yticks(range(len(names)), names, parse_math=False)
    picture.set_xlabel("predicted")
    picture.set_ylabel("label")
    return svg(figure)


def operating_curves(predictions: Mapping[str, Predictions]) -> str:
    """The ROC and the precision-recall curve of each model with two classes, by its name; "" if none has two.

    The second class is the positive one.
    """
    figure, (roc, recall) = axes(9, 4, columns=2)
    for name, one in predictions.items():
        if len(one.names) != 2 or len(np.unique(one.labels)) < 2:
            continue
        scores = one.probabilities[:, 1]
        rates, precisions = roc_curve(one.labels, scores), precision_recall_curve(one.labels, scores)
        name = short(name)
        area = f"{name}, AUC {float(roc_auc(one.labels, scores)):.4f}"
        roc.plot(rates.false_positive_rates, rates.true_positive_rates, label=area)
        recall.step(precisions.recall, precisions.precision, where="post", label=name)
    if not roc.lines:
        return ""
    roc.plot((0, 1), (0, 1), color="grey", linewidth=0.7)
    for picture, x, y in (
        (roc, "false positive rate", "true positive rate"),
        (recall, "recall", "precision"),
    ):
        picture.set_xlabel(x)
        picture.set_ylabel(y)
    plain_legend(roc, fontsize="small", loc="lower right")
    return svg(figure)


def differences(rows: Sequence[Row]) -> str:
    """The difference of each row to the first one, with its 95 % interval; "" if none has one.

    Rows are those of one table. Metrics have axes of their own, since their units differ; beside each
    difference is its p-value by Holm's correction. The axis and the colour tell which side is better.
    """
    by_metric: dict[str, list[Row]] = {}
    for row in rows:
        if row.difference is not None:
            by_metric.setdefault(row.difference.metric, []).append(row)
    if not by_metric:
        return ""
    height = 1 + 0.45 * max(map(len, by_metric.values()))
    figure, pictures = axes(max(7.0, 5.5 * len(by_metric)), height, columns=len(by_metric))
    for picture, (metric, of_metric) in zip(np.ravel(pictures), by_metric.items(), strict=True):
        _draw_differences(picture, metric, of_metric)
    return svg(figure)


def _draw_differences(picture: Any, metric: str, rows: Sequence[Row]) -> None:
    less_is_better = rows[0].metrics[metric].less_is_better
    names = []
    for y, row in enumerate(reversed(rows)):
        one = row.difference
        if one is None:
            continue
        names.append(f"{short(row.model)} − {short(one.to)}")
        colour = _BETTER if (one.value < 0) == less_is_better else _WORSE
        picture.plot(one.value, y, "o", color=colour)
        end = one.value
        if one.interval is not None:
            picture.plot(one.interval, (y, y), color=colour, linewidth=2)
            end = max(one.interval)
        p = holm_p(one)
        shown = "" if p == "–" else f"  p {p}" if p.startswith("≤") else f"  p = {p}"
        picture.text(end, y, shown, va="center", fontsize="small")
    picture.axvline(0, color="grey", linewidth=0.7)
    picture.set_yticks(range(len(names)), names, parse_math=False)
    picture.set_ylim(-0.6, len(names) - 0.4)
    picture.set_xlabel(f"difference in {label(metric)} ({'less' if less_is_better else 'more'} is better)")
    picture.margins(x=0.2)
