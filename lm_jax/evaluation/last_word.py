"""The evaluator of last words: does a model predict the last word of a passage?"""

from collections.abc import Sequence

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation.base import Evaluation, Statistics
from lm_jax.evaluation.texts import Text
from lm_jax.evaluation.zero_shot import Asked, asked, each, log_prob, mean, target, text_field, zero_shot_row
from lm_jax.language_models.base import ExpectedText, Expects, LanguageModel, require
from lm_jax.metrics import likelihood
from lm_jax.text.words import is_blank

_TEXT = "text"


def evaluate(model: LanguageModel, text: Text, name: str, stride: int | None, report: Progress) -> Evaluation:
    """Predicts the last word of each record's text; see `evaluation.base.evaluate`.

    The target is what follows the last space, with that space, as in lm-evaluation-harness's LAMBADA (Paperno
    et al. 2016). It is right if each of its tokens is the most probable one after the tokens before it, which
    is what greedy decoding gives; a word outside the vocabulary never is. The end of the text is not scored.

    The metrics are accuracy and word_perplexity, exp(nats of the targets / targets).

    Raises:
        UserError: a text without a space, or with nothing before or after the last one, or one that the model
            cannot score.
    """
    reader = require(model, Expects, "tell which token it expects most")
    settings = reader.describe_context(stride)
    field = text_field(text, _TEXT)
    items = [_last_word(document, field) for document in text.documents]

    def expect(some: Sequence[Asked]) -> list[ExpectedText]:
        return reader.expect([one.text for one in some], None, stride, [one.since for one in some])

    expected = list(each(expect, items, text, report))
    nats_D = -np.array([log_prob(e.scored, one) for e, one in zip(expected, items, strict=True)])
    masks = [target(e.scored, one.since) for e, one in zip(expected, items, strict=True)]
    right_D = np.array(
        [(e.best & ~e.scored.unknown)[mask].all() for e, mask in zip(expected, masks, strict=True)], float
    )
    statistics = {
        "accuracy": mean(right_D),
        "word_perplexity": Statistics((nats_D, np.ones_like(nats_D)), likelihood.perplexity),
    }
    counts = {
        "words": len(items),
        "tokens": int(sum(mask.sum() for mask in masks)),
        "oov": int(sum(e.scored.unknown[mask].sum() for e, mask in zip(expected, masks, strict=True))),
    }
    truth = [one.since for one in items]
    before = "the passage before the word"
    row = zero_shot_row("last_word", model, name, text, truth, counts, statistics, before, settings)
    return Evaluation(row, statistics)


def _last_word(document: Document, field: str) -> Asked:
    context, _, word = document.text.rpartition(" ")
    if is_blank(context) or is_blank(word):
        raise UserError(
            f"document {document.name} has no word after a space at the end of the field {field!r}",
            "give a passage whose last word is to be predicted",
        )
    return asked(document, field, document.text)._replace(since=len(context.encode()))
