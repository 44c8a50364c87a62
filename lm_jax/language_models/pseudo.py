"""Masked models as scorers of sentences, by their pseudo-log-likelihood."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lm_jax.language_models.base import LanguageModel, ScoredText, Scores, require
from lm_jax.language_models.masked import MaskedLanguageModel
from lm_jax.language_models.options import check_stride


def scorer_of(model: LanguageModel, what_for: str) -> Scores:
    """The model, or a masked model's pseudo-log-likelihoods in place of log-probabilities.

    Their sums compare sentences under one model. They are no probabilities of texts: `conditioned_on` names
    them, and none is complete.

    Raises:
        UserError: a model without either; see `require`.
    """
    return (
        _PseudoScorer(model) if isinstance(model, MaskedLanguageModel) else require(model, Scores, what_for)
    )


class _PseudoScorer:
    """`Scores` by `MaskedLanguageModel.pseudo_score`, within words; the end of a text is no token."""

    def __init__(self, model: MaskedLanguageModel):
        self._model = model

    def score(self, texts: Sequence[str], stride: int | None = None) -> list[ScoredText]:
        """The pseudo-log-likelihood of each text. Raises as `pseudo_score`."""
        made, encodings = self._model.pseudo_score(texts), self._model.tokenizer.encode_batch(texts)
        unknown_id = self._model.tokenizer.unknown_id
        no_id = -1  # for a vocabulary without an unknown token
        return [
            ScoredText(
                one.text,
                one.spans,
                one.log_probs,
                np.asarray(encoding.ids == (no_id if unknown_id is None else unknown_id)),
                one.method,
                False,
            )
            for one, encoding in zip(made, encodings, strict=True)
        ]

    def describe_context(self, stride: int | None = None) -> dict[str, Any]:
        """The largest number of tokens that are read, special ones included; `stride` has no effect."""
        check_stride(stride, None)
        return {"window": self._model.context}
