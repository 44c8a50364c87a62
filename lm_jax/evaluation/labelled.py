"""What the evaluators of labels share: texts or pairs with what their fields say about them, and rows."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from lm_jax.data.corpora import Progress
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation.base import Statistics, measure, row_of
from lm_jax.evaluation.row import Row
from lm_jax.evaluation.texts import Text
from lm_jax.text.base import grouped
from lm_jax.text.words import is_blank

T = TypeVar("T")
_CHARACTERS_PER_GROUP = 1 << 20  # labelled at a time, so that progress is reported


def item(document: Document, second_field: str) -> str | tuple[str, str]:
    """The text of a document, or the pair that it holds.

    Raises:
        UserError: an empty text, or no second text.
    """
    second = document.text_field(second_field) if second_field else None
    if is_blank(document.text) or (second is not None and is_blank(second)):
        raise UserError(f"document {document.name} has an empty text", "write one, or leave the record out")
    return document.text if second is None else (document.text, second)


def predicted(
    apply: Callable[[Sequence[Any]], Sequence[T]], items: Sequence[Any], text: Text, report: Progress
) -> Iterator[T]:
    """What a model says about each item, some at a time."""
    done = 0
    for group in grouped(items, lambda one: len("".join(one)), _CHARACTERS_PER_GROUP):
        yield from apply(group)
        done += len(group)
        report(f"labelling {text.name}", done, len(items))


def class_number(model: Any, document: Document, name: str) -> int:
    """The number of a class by its name.

    Raises:
        UserError: the model has no such class.
    """
    if name not in model.classes:
        shown = ", ".join(model.classes[:20]) + (", ..." if len(model.classes) > 20 else "")
        raise UserError(
            f"document {document.name} has the label {name!r} in the field {model.label_field!r}, which the "
            f"model does not know (it knows {shown})",
            "correct the label, or leave the record out",
        )
    return model.classes.index(name)


def make_row(
    model: Any,
    name: str,
    text: Text,
    truth: Sequence[Any],
    counts: Mapping[str, int],
    statistics: Mapping[str, Statistics],
    reasons: Mapping[str, str],
    second_field: str = "",
) -> Row:
    """A row of results; its SHA-256 is of texts, second texts and labels.

    Args:
        model: what was evaluated.
        name: what to call it.
        text: its documents.
        truth: the label of each document.
        counts: what was counted.
        statistics: by metric, the headline first.
        reasons: why a metric has no value.
        second_field: the field with the second text of a pair.
    """
    return row_of(
        model,
        text,
        name,
        text_sha256=labelled_sha256(text, truth, second_field),
        conditioned_on="the whole text",
        context=model.describe_context(),
        counts=dict(counts),
        sums={},
        metrics=measure(statistics, reasons),
    )


def labelled_sha256(text: Text, truth: Sequence[Any], second_field: str = "") -> str:
    """SHA-256 of texts, second texts and labels; arguments as of `make_row`."""
    digest = hashlib.sha256()
    for document, label in zip(text.documents, truth, strict=True):
        second = document.text_field(second_field) if second_field else ""
        digest.update(json.dumps([document.text, second, label]).encode())
    return digest.hexdigest()
