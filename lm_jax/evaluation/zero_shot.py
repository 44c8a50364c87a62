"""What the zero-shot tasks share: texts to score, by document and field, and rows of results."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation.base import Statistics, measure, row_of
from lm_jax.evaluation.labelled import labelled_sha256
from lm_jax.evaluation.row import Row
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import ScoredText
from lm_jax.metrics import significance
from lm_jax.text.base import grouped
from lm_jax.text.words import WHITE_SPACE, is_blank

T = TypeVar("T")
_ROUNDING = 1e-9  # of sums: n-grams give many sentences equal ones, added up in another order
_CHARACTERS_PER_GROUP = 1 << 18  # scored at a time, so that progress is reported


class Asked(NamedTuple):
    """A text that a model is asked about.

    Attributes:
        text: the text.
        document: the record that it is from.
        field: the field of that record, for errors.
        since: the byte at which the part begins whose probability counts.
    """

    text: str
    document: Document
    field: str
    since: int = 0


def asked(document: Document, field: str, sentence: str) -> Asked:
    """A whole sentence of a record.

    Raises:
        UserError: it is empty.
    """
    if is_blank(sentence):
        raise UserError(
            f"document {document.name} has an empty text in the field {field!r}",
            "write one, or leave the record out",
        )
    return Asked(sentence, document, field)


def asked_after(document: Document, field: str, context: str, target: str) -> Asked:
    """What follows a context: one space, unless either has white space there or the context is empty.

    All white space between the two counts as the target's, as in the tokens of GPT-2.

    Raises:
        UserError: an empty target.
    """
    whole = asked(document, field, target)
    kept = context.rstrip(WHITE_SPACE)
    between = "" if kept != context or not context or target[0] in WHITE_SPACE else " "
    return whole._replace(text=f"{context}{between}{target}", since=len(kept.encode()))


def text_field(text: Text, default: str) -> str:
    """The field or column of records that is their text."""
    return text.data.get("field", text.data.get("column", default))


def each(
    apply: Callable[[Sequence[Asked]], Sequence[T]], items: Sequence[Asked], text: Text, report: Progress
) -> Iterator[T]:
    """What a model says about each text, some at a time.

    Raises:
        UserError: a text that the model cannot score; names the document and the field.
    """
    done = 0
    for group in grouped(items, lambda one: len(one.text), _CHARACTERS_PER_GROUP):
        try:
            yield from apply(group)
        except UserError:
            for one in group:
                _apply_alone(apply, one)
            raise
        done += len(group)
        report(f"scoring {text.name}", done, len(items))


def _apply_alone(apply: Callable[[Sequence[Asked]], Any], one: Asked) -> None:
    """Raises UserError that names the text, if it cannot be scored."""
    try:
        apply([one])
    except UserError as error:
        raise UserError(
            f"document {one.document.name}, field {one.field!r}: {error.cause}", error.remedy
        ) from None


def target(scored: ScoredText, since: int = 0) -> np.ndarray:
    """bool [T], the tokens of the part of a text that begins at a byte; the end of the text is not one.

    A token that crosses the byte is part of it.
    """
    is_target = scored.ends_after(since) & (scored.spans[:, 1] > scored.spans[:, 0])
    if scored.log_spelling is not None:  # the end stands for white space before it, too
        is_target[-1] = False
    return is_target


def log_prob(scored: ScoredText, one: Asked) -> float:
    """Natural log of the probability of the part of a text that is asked about.

    Raises:
        UserError: the model's tokens cover none of it, or the sum is not a number.
    """
    is_target = target(scored, one.since)
    total = float(scored.log_probs[is_target].sum())
    if not is_target.any() or np.isnan(total):
        problem = "the score is not a number" if is_target.any() else "the model has no token for the text"
        raise UserError(
            f"document {one.document.name}, field {one.field!r}: {problem}", "leave the record out"
        )
    return total


def credit(scores: Sequence[float], right: int) -> float:
    """1 if the score of the right one is the largest, 1/n if n share the largest one, else 0."""
    largest = _largest(scores)
    return 1 / len(largest) if right in largest else 0.0


def is_tied(scores: Sequence[float]) -> bool:
    """Whether several share the largest score."""
    return len(_largest(scores)) > 1


def _largest(scores: Sequence[float]) -> list[int]:
    """The indices of the scores that are equal to the largest one but for rounding."""
    best = max(scores)
    return [i for i, score in enumerate(scores) if math.isclose(score, best, rel_tol=_ROUNDING)]


def mean(values_D: np.ndarray) -> Statistics:
    """The mean over documents, of which more is better."""
    return Statistics((values_D, np.ones_like(values_D)), significance.ratio, less_is_better=False)


def zero_shot_row(
    task: str,
    model: Any,
    name: str,
    text: Text,
    truth: Sequence[Any],
    counts: Mapping[str, int],
    statistics: Mapping[str, Statistics],
    conditioned_on: str,
    settings: Mapping[str, Any],
) -> Row:
    """A row of results of a task that the model was not trained for; its SHA-256 is of texts and truth."""
    row = row_of(
        model,
        text,
        name,
        text_sha256=labelled_sha256(text, truth),
        conditioned_on=conditioned_on,
        context=dict(settings),
        counts=dict(counts),
        sums={},
        metrics=measure(statistics, {}),
    )
    row.task = task
    return row
