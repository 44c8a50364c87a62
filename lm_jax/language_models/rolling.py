"""Scores of texts as lm-evaluation-harness 0.4.13 makes them, by `loglikelihood_rolling`.

The first token follows a beginning token. A text longer than the model's context is read in windows that do
not overlap, of which the last one is filled up with tokens before it that are only read: those of its
functions `get_rolling_token_windows`, with `context_len=1`, and `make_disjoint_window`. The end of the text
is not scored.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lm_jax.errors import UserError, with_article
from lm_jax.language_models.base import LanguageModel, ScoredText, Scores, require


@runtime_checkable
class Rolls(Protocol):
    """The capability of scoring texts in the windows of lm-evaluation-harness."""

    def score_rolling(self, texts: Sequence[str]) -> list[ScoredText]:
        """As `Scores.score`, in these windows and without the end of each text."""
        ...


def score_rolling(model: LanguageModel, texts: Sequence[str]) -> list[ScoredText]:
    """The scores of texts as lm-evaluation-harness makes them.

    A model that reads a text of any length as a whole has one window.

    Raises:
        UserError: the model does not give texts a probability, or reads windows of its own.
    """
    if isinstance(model, Rolls):
        return model.score_rolling(texts)
    scorer = require(model, Scores, "give whole texts a probability")
    if "window" in scorer.describe_context():
        raise UserError(
            f"{with_article(model.family)} model does not score texts in the harness's windows",
            "leave --protocol=harness out",
        )
    return [without_end(scored) for scored in scorer.score(texts)]


def without_end(scored: ScoredText) -> ScoredText:
    """A score without the token at the end of the text, if it has one.

    Where the end stands for white space before it, that is still paid for.
    """
    length = len(scored.text)
    if not len(scored.spans) or scored.spans[-1].tolist() != [length, length]:
        if scored.log_spelling is None:
            return scored
        return scored._replace(log_probs=np.append(scored.log_probs[:-1], 0.0))
    cut: dict[str, Any] = {
        name: value[:-1] for name, value in scored._asdict().items() if isinstance(value, np.ndarray)
    }
    return scored._replace(**cut)
