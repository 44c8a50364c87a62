"""The evaluator of questions with several answers: is the right one the most probable one?"""

from collections.abc import Sequence

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation.base import Evaluation
from lm_jax.evaluation.texts import Text
from lm_jax.evaluation.zero_shot import (
    Asked,
    asked_after,
    credit,
    each,
    is_tied,
    log_prob,
    mean,
    zero_shot_row,
)
from lm_jax.language_models.base import LanguageModel, Scores, require

_CHOICES, _RIGHT = "choices", "gold"


def evaluate(model: LanguageModel, text: Text, name: str, stride: int | None, report: Progress) -> Evaluation:
    """Scores each choice of a record after its text; see `evaluation.base.evaluate`.

    Records have the fields `query` (their text: a context or a question), `choices`, a list of texts, and
    `gold`, the index of the right one from 0 on. A choice's score is the sum of the log-probabilities of its
    tokens after the query and a space; the end of the text is not scored. A record counts 1 if the right
    choice has the largest score, 1/n if n choices share it.

    The metrics are accuracy and accuracy_per_byte, where scores are divided by the choices' bytes. (The
    "acc_norm" of lm-evaluation-harness divides by characters, which is the same for ASCII.)

    Raises:
        UserError: a record without one of the fields, with fewer than two choices, an empty one, an index
            that is none, or a choice that the model cannot score.
    """
    scorer = require(model, Scores, "give choices a probability")
    settings = scorer.describe_context(stride)
    choices = [_choices(document) for document in text.documents]
    right = [_right(d, len(some)) for d, some in zip(text.documents, choices, strict=True)]
    items = [
        asked_after(d, _CHOICES, d.text, one)
        for d, some in zip(text.documents, choices, strict=True)
        for one in some
    ]

    def score(some: Sequence[Asked]) -> list:
        return scorer.score([one.text for one in some], stride)

    scored = list(each(score, items, text, report))
    left = iter([log_prob(*both) for both in zip(scored, items, strict=True)])
    sums = [[next(left) for _ in some] for some in choices]
    by_byte = [
        [total / len(one.encode()) for total, one in zip(totals, some, strict=True)]
        for totals, some in zip(sums, choices, strict=True)
    ]
    statistics = {
        metric: mean(np.array([credit(scores, k) for scores, k in zip(of_metric, right, strict=True)]))
        for metric, of_metric in (("accuracy", sums), ("accuracy_per_byte", by_byte))
    }
    counts = {
        "questions": len(choices),
        "choices": len(items),
        "ties": sum(map(is_tied, sums)),
        "oov": int(sum(one.unknown.sum() for one in scored)),
    }
    truth = list(zip(choices, right, strict=True))
    row = zero_shot_row(
        "multiple_choice", model, name, text, truth, counts, statistics, "the query", settings
    )
    return Evaluation(row, statistics)


def _choices(document: Document) -> list[str]:
    choices = document.texts_field(_CHOICES)
    if len(choices) < 2:
        raise UserError(
            f"document {document.name} has {len(choices)} texts in the field {_CHOICES!r}", "give two or more"
        )
    return choices


def _right(document: Document, num_choices: int) -> int:
    number = document.number(_RIGHT)
    if number not in range(num_choices):
        raise UserError(
            f"document {document.name} has {number:g} in the field {_RIGHT!r} and {num_choices} choices",
            f"give the index of the right one, 0 to {num_choices - 1}",
        )
    return int(number)
