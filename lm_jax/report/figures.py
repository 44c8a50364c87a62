"""Figures: axes to draw in, and how well classifiers tell classes apart."""

import io
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from lm_jax.evaluation.base import Predictions
from lm_jax.metrics.classification import confusion_matrix
from lm_jax.metrics.curves import precision_recall_curve, roc_auc, roc_curve
from lm_jax.report.markup import PICTURES

_MOST_CLASSES = 40  # in a figure of a confusion matrix
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
