"""How the numbers of a row were made: what a prediction depends on, in one form for all models."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lm_jax.evaluation.row import Row
from lm_jax.language_models.base import ScoredText

WINDOWS, ROLLING, WHOLE = "overlapping", "rolling, as of lm-evaluation-harness 0.4.13", "none"


class Protocol(NamedTuple):
    """What a model's numbers depend on besides its parameters.

    Attributes:
        windows: how a document that is longer than the context is read: `WINDOWS`, `ROLLING`, or as a whole.
        context: the most tokens before it that a prediction depends on; None: all of the document.
        stride: tokens from window to window; None without windows.
        beginning: what the first token of a document is conditioned on.
        reset: where the context begins anew.
        end: whether the end of the document is predicted, too.
        dtype: of the model's computation.
    """

    windows: str
    context: int | None
    stride: int | None
    beginning: str
    reset: str
    end: bool
    dtype: str


def of_scores(
    model: Any, context: Mapping[str, Any], scored: ScoredText, rolling: bool = False
) -> dict[str, Any]:
    """The protocol of a model that scores texts left to right, as the dict of a `Protocol`.

    Of a mixture it has only what is common to its parts.

    Args:
        model: the model.
        context: what its `describe_context` says.
        scored: a document's score.
        rolling: whether long documents are read in the harness's windows.
    """
    window, order = context.get("window"), context.get("order")
    if "components" in context:  # of a mixture, which each read in their own way
        return {"windows": "those of its parts", "beginning": scored.conditioned_on, "end": True}
    # The end of a text of words stands for the white space before it, too.
    spells = scored.log_spelling is not None and not rolling
    ends = len(scored.spans) > 0 and (spells or scored.spans[-1].tolist() == [len(scored.text)] * 2)
    # An n-gram model of words reads the end of a line as that of a sentence.
    by_line = model.family == "ngram" and getattr(getattr(model, "tokenizer", None), "kind", "") == "word"
    made = Protocol(
        windows=WHOLE if window is None else ROLLING if rolling else WINDOWS,
        context=window if order is None else order - 1,
        stride=None if window is None else window if rolling else context.get("stride"),
        beginning=scored.conditioned_on,
        reset="each line" if by_line else "each document",
        end=ends,
        dtype=getattr(getattr(model, "config", None), "dtype", "float32"),
    )
    return made._asdict()


def differing(rows: Sequence[Row]) -> list[str]:
    """A line for each protocol among the rows of a table, with the names of its rows; none if all are equal.

    Only what differs is said.
    """
    protocols = [row.protocol for row in rows if row.protocol]
    names = dict.fromkeys(name for protocol in protocols for name in protocol)
    differ = [name for name in names if any(p.get(name) != protocols[0].get(name) for p in protocols)]
    rows_of: dict[str, list[str]] = {}
    for row in rows if differ else ():
        said = ", ".join(_said(name, row.protocol[name]) for name in differ if name in row.protocol)
        rows_of.setdefault(said or "not recorded", []).append(row.model)
    return [f"protocol of {', '.join(models)}: {said}" for said, models in rows_of.items()]


def _said(name: str, value: Any) -> str:
    """A field of a protocol in words."""
    if isinstance(value, bool):
        return f"{name} {'scored' if value else 'not scored'}"
    if value is None:
        return f"{name} all of the document" if name == "context" else f"no {name}"
    return f"{name} {value}"
