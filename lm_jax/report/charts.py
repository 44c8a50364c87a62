"""Figures of what models achieve: values with intervals, curves of training, parts of a text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lm_jax.evaluation.breakdown import Breakdown
from lm_jax.evaluation.row import Row
from lm_jax.report.figures import NUM_COLOURS, axes, plain_legend, short, svg
from lm_jax.report.numbers import label, number

_LINES, _MARKERS = ("-", "--", "-.", ":"), "osD^vPX*"  # they tell models apart without colours
_WIDTH, _HEIGHT = 5.4, 3.2  # inches: on a phone the letters are still legible


def colour(place: int) -> str:
    """The colour of the model in a row of the report, in matplotlib's terms."""
    return f"C{place % NUM_COLOURS}"


def values(rows: Sequence[Row], places: Sequence[int]) -> str:
    """A point with its interval for each row that has a headline; "" if none has.

    Args:
        rows: with one headline.
        places: of the rows in the report.
    """
    headline = rows[0].headline
    shown = [(place, row) for place, row in zip(places, rows) if row.metrics[headline].value is not None]
    if not shown:
        return ""
    figure, picture = axes(_WIDTH, 0.75 + 0.42 * len(shown))
    for y, (place, row) in enumerate(reversed(shown)):
        value, interval, *_ = row.metrics[headline]
        if interval is not None:
            picture.plot(interval, (y, y), color=colour(place), linewidth=2.2, solid_capstyle="round")
        picture.plot(value, y, marker="o", markersize=8, color=colour(place))
        picture.annotate(
            number(headline, value), (value, y), (0, 8), textcoords="offset points", ha="center", fontsize=9
        )
    # A path may have a dollar sign, which matplotlib reads as the beginning of a formula.
    picture.set_yticks(range(len(shown)), [short(row.model) for _, row in reversed(shown)], parse_math=False)
    picture.set_ylim(-0.5, len(shown) - 0.25)
    picture.set_xlabel(label(headline))
    picture.margins(x=0.08)
    picture.grid(axis="x", linewidth=0.5)
    return svg(figure)


Curves = Mapping[str, Sequence[Mapping[str, float]]]  # by model, the lines of metrics.jsonl


def training(curves: Curves, places: Mapping[str, int]) -> str:
    """Each model's loss in training, thin, and on the validation part, thick, by step."""
    figure, picture = axes(_WIDTH, _HEIGHT)
    for name, lines in curves.items():
        own = {"color": colour(places[name])}
        thick = _curve(picture, lines, "valid_loss", **own, linewidth=2.2, marker="o", markersize=4)
        thin = _curve(picture, lines, "loss", **own, linewidth=0.8, alpha=0.75)
        for line in (thick or thin)[:1]:
            line.set_label(short(name))
    picture.set_ylabel("loss")
    return _by_step(figure, picture)


def validation(curves: Curves, places: Mapping[str, int]) -> str:
    """Each model's bits per byte on the validation part, by step; "" if no curve has them."""
    figure, picture = axes(_WIDTH, _HEIGHT)
    for name, lines in curves.items():
        style = {"color": colour(places[name]), "linestyle": _LINES[places[name] % len(_LINES)]}
        _curve(picture, lines, "valid_bits_per_byte", marker="o", linewidth=2.2, label=short(name), **style)
    if not picture.lines:
        return ""
    picture.set_ylabel("bits/byte")
    return _by_step(figure, picture)


def _curve(picture: Any, lines: Sequence[Mapping[str, float]], key: str, **style: Any) -> list[Any]:
    """Draws one metric of metrics.jsonl; the line, in a list, or none."""
    points = [(line["step"], line[key]) for line in lines if key in line]
    drawn: list[Any] = picture.plot(*zip(*points, strict=True), **style) if points else []
    return drawn


def _by_step(figure: Any, picture: Any) -> str:
    picture.set_xlabel("step")
    picture.grid(axis="y", linewidth=0.5)
    if picture.lines:
        plain_legend(picture)
    return svg(figure)


def breakdown(one: Breakdown, places: Mapping[str, int]) -> str:
    """Each model's value on each part, with intervals; lines connect ordered parts."""
    figure, picture = axes(_WIDTH, _HEIGHT)
    at, models = np.arange(len(one.parts)), list(one.values)
    for i, (name, values_P) in enumerate(one.values.items()):
        place, shift = (
            places[name],
            0.12 * (i - (len(models) - 1) / 2),
        )  # so that intervals do not hide others
        x, ends_P2 = at + shift, one.intervals[name]
        line = _LINES[place % len(_LINES)] if one.ordered else "none"
        marker = _MARKERS[place % len(_MARKERS)]
        style = {"color": colour(place), "linewidth": 1.6}
        picture.plot(x, values_P, linestyle=line, marker=marker, markersize=5, label=short(name), **style)
        picture.vlines(x, *ends_P2.T, **style)
    parts = list(map(short, one.parts))
    steep = max(map(len, parts), default=0) * len(parts) > 48
    turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if steep else {}
    picture.set_xticks(at, parts, parse_math=False, **turned)
    picture.set_ylabel(one.unit)
    picture.grid(axis="y", linewidth=0.5)
    plain_legend(picture, fontsize="small")
    return svg(figure)
