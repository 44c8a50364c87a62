"""A report as one HTML file that needs nothing else: no network, no script, pictures inside."""

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from lm_jax.evaluation.causal import Row
from lm_jax.report.table import difference, interval, number

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .3em .7em; text-align: right; white-space: nowrap }
th { border-bottom: 2px solid #444 } tr:nth-child(even) { background: #f4f4f4 }
td:first-child, td:nth-child(2), th:first-child, th:nth-child(2) { text-align: left }
figure { margin: 1.5em 0 } figcaption, .note { color: #555 } code { background: #f4f4f4; padding: 0 .3em }
"""


def render(rows: Sequence[Row], curves: Mapping[str, Sequence[Mapping[str, float]]], command: str) -> str:
    """The report's HTML.

    Args:
        rows: one a model.
        curves: a model's lines of metrics.jsonl by its name; may lack models.
        command: what was typed.
    """
    parts = [_table(rows)]
    if any(row.bits_per_byte is not None for row in rows):
        parts.append(
            _figure(
                _bars(rows), "Bits per byte; the lines are 95 % intervals over documents. Less is better."
            )
        )
    if any(curves.values()):
        parts.append(
            _figure(_learning(curves), "Loss in training (thin) and on the validation part (thick).")
        )
    parts.append(_details(rows))
    parts.append(f"<p class=note>Made by <code>{html.escape(command)}</code></p>")
    body = "\n".join(parts)
    return (
        f"<!doctype html>\n<html lang=en><meta charset=utf-8><title>lm_jax evaluation</title>"
        f"<style>{_STYLE}</style>\n<h1>Evaluation</h1>\n{body}\n</html>\n"
    )


def _table(rows: Sequence[Row]) -> str:
    heads = (
        "model",
        "text",
        "documents",
        "tokens",
        "unknown",
        "perplexity",
        "per word",
        "bits per byte",
        "95 % interval",
    )
    lines = [
        (
            row.model,
            row.split,
            f"{row.documents:,}",
            f"{row.tokens:,}",
            f"{row.oov:,}",
            number(row.perplexity, ".2f"),
            number(row.word_perplexity, ".2f"),
            number(row.bits_per_byte, ".4f"),
            interval(row),
        )
        for row in rows
    ]
    head = "".join(f"<th>{h}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in line) + "</tr>\n" for line in lines)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _details(rows: Sequence[Row]) -> str:
    items = []
    for row in rows:
        facts = [
            f"family {row.family}",
            f"conditioned on {row.conditioned_on}",
            f"{row.bytes:,} bytes",
            f"text sha256 {row.text_sha256[:16]}…",
            *(f"{k} {v}" for k, v in row.context.items()),
        ]
        facts.extend(filter(None, (row.why, difference(row))))
        items.append(f"<li><b>{html.escape(row.model)}</b>: {html.escape('; '.join(facts))}</li>")
    return f"<ul class=note>{''.join(items)}</ul>"


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _bars(rows: Sequence[Row]) -> str:
    bars = [
        (row.model, row.bits_per_byte, row.bits_per_byte_ci) for row in rows if row.bits_per_byte is not None
    ]
    figure, picture = axes(7, 0.8 + 0.45 * len(bars))
    for y, (_, bits, ends) in enumerate(reversed(bars)):
        picture.barh(y, bits, color="#4878a8", height=0.6)
        if ends is not None:
            picture.plot(ends, (y, y), color="black", linewidth=2)
        picture.text(bits if ends is None else ends[1], y, f"  {bits:.3f}", va="center")
    picture.set_yticks(range(len(bars)), [name for name, _, _ in reversed(bars)])
    picture.set_xlabel("bits per byte")
    picture.margins(x=0.15)
    return _svg(figure)


def _learning(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    figure, picture = axes(7, 3.5)
    for i, (name, lines) in enumerate(curves.items()):
        for key, width, label in (("loss", 0.7, None), ("valid_loss", 2.0, name)):
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                picture.plot(*zip(*points, strict=True), color=f"C{i}", linewidth=width, label=label)
    picture.set_xlabel("step")
    picture.set_ylabel("nats per token")
    picture.legend(frameon=False)
    return _svg(figure)


def axes(width: float, height: float) -> Any:
    """A figure of so many inches and its axes, without a frame on the right and above."""
    from matplotlib.figure import Figure  # heavy; and Figure itself needs no display

    figure = Figure((width, height), layout="constrained")
    picture = figure.subplots()
    picture.spines[["top", "right"]].set_visible(False)
    return figure, picture


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
