"""Mixtures of models with different tokens, word by word: p(word) = Σ_k w_k p_k(word).

A text is cut into segments: white space with the word behind it, and at last the white space at the end with
the end of the text. Where a model's tokens begin with white space, only the next token tells that a word has
ended. So each model's probability of a segment is that of its tokens, times that of white space or the end
behind it, divided by that of white space or the end before it: see `word_scores`. These are the probabilities
of segments after a segment, of which each model has a distribution. (A model of several possible tokens for a
string gives a string the probability of the tokens that its tokenizer makes, so that the sum over strings may
be less than one.)
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from lm_jax.errors import UserError
from lm_jax.language_models.base import ExpectedText, Expects, ScoredText
from lm_jax.language_models.described import Described
from lm_jax.language_models.mixtures.base import Component, Reading, check_complete
from lm_jax.language_models.mixtures.mixture import (
    Situations,
    checked,
    describe,
    documents_of,
    num_parameters,
)  # fmt: skip
from lm_jax.language_models.mixtures.models import ModelComponent
from lm_jax.language_models.mixtures.weights import Weights, mixed
from lm_jax.language_models.options import as_texts
from lm_jax.language_models.word_scores import boundary_tokens, of_words
from lm_jax.text.base import Tokenizer
from lm_jax.text.words import word_spans


class WordMixture(Described):
    """A mixture of models with any tokens, by word. Its scores have a span for each segment.

    Args:
        components: models that tell what else was expected (`Expects`).
        weights: their weights.

    Raises:
        UserError: a component that is no such model, or a wrong number of weights.
    """

    family, task, evaluator = "mixture", "causal", "causal"
    step: int | None = None

    def __init__(self, components: Sequence[Component], weights: Weights):
        for component in components:
            if not isinstance(component, ModelComponent) or not isinstance(component.model, Expects):
                raise UserError(
                    f"{component.name} among models with different tokens, which mix by word",
                    "leave it out, or mix models with equal tokens",
                )
        self.components, self.situations = tuple(components), Situations(components)
        self.weights = checked(weights, components, self.situations)
        self._models = cast(tuple[ModelComponent, ...], self.components)
        self.documents = documents_of(components)

    @property
    def num_parameters(self) -> int:
        """Numbers that the models hold, each model once."""
        return num_parameters(self.components)

    def describe_context(self, stride: int | None = None) -> dict[str, Any]:
        """The components with their settings, their weights, and where these come from."""
        made = describe(self.components, self.weights, self.situations, stride)
        return made | {"mixed": "by word, with the correction for leading spaces"}

    def read(self, texts: Sequence[str], stride: int | None = None) -> list[list[Reading]]:
        """What each component says of segments, [texts][K].

        Raises:
            UserError: a text that a component does not pay every byte of, or in which one of its tokens goes
                on behind the end of a word.
        """
        texts = as_texts(texts, "texts")
        situated = self.weights.by_situation_SK is not None
        columns = [segments(component, texts, stride, situated) for component in self._models]
        return [list(row) for row in zip(*columns, strict=True)]

    def score(self, texts: Sequence[str], stride: int | None = None) -> list[ScoredText]:
        """Log-probabilities of each text's segments and its end; see `Scores`. Errors as of `read`."""
        made = []
        for row in self.read(texts, stride):
            log_weights_TK = self.weights.log(self.situations.combine([one.situations for one in row]))
            log_probs = mixed(log_weights_TK, np.stack([one.scored.log_probs for one in row], axis=1))
            before = " or ".join(dict.fromkeys(one.scored.conditioned_on for one in row))
            made.append(row[0].scored._replace(log_probs=log_probs, conditioned_on=before))
        return made


def segments(
    component: ModelComponent, texts: Sequence[str], stride: int | None = None, situated: bool = True
) -> list[Reading]:
    """The probabilities of each text's segments by one model, and the situations before them.

    White space at the end of a text is a segment by itself, which only the end can follow: the end's
    log-probability is then 0.

    Args:
        component: a model with the capability `Expects`.
        texts: the texts.
        stride: as of `Scores.score`.
        situated: whether the situations are asked for, which takes as long again; otherwise they are 0.
    """
    boundary_V = word_boundaries(component.tokenizer)
    expected = component.model.expect(texts, boundary_V, stride)
    situations = [np.zeros(len(one.scored.log_probs), np.int64) for one in expected]
    if situated:
        situations = [reading.situations for reading in component.read(texts, stride)]
    all_words = bool(boundary_V.all())
    rows = zip(expected, situations, strict=True)
    return [_of_text(component.name, all_words, *row) for row in rows]


def word_boundaries(tokenizer: Tokenizer) -> np.ndarray:
    """bool [V], the tokens that tell that a word has ended; the unknown one where every other token does."""
    tokens_V = boundary_tokens(tokenizer)
    if tokenizer.unknown_id is not None and tokens_V.sum() == len(tokens_V) - 1:
        tokens_V[tokenizer.unknown_id] = True
    return tokens_V


def _of_text(name: str, all_words: bool, expected: ExpectedText, situations_T: np.ndarray) -> Reading:
    scored = check_complete(name, expected.scored)
    size, words_W2 = len(scored.text), word_spans(scored.text)
    ends_W = words_W2[:, 1]
    first_W = np.searchsorted(scored.spans[:, 0], ends_W)  # the token behind each word
    if not np.array_equal(scored.spans[first_W, 0], ends_W):
        odd = int(ends_W[np.flatnonzero(scored.spans[first_W, 0] != ends_W)[0]])
        near = scored.text[max(0, odd - 10) : odd + 10].decode(errors="replace")
        raise UserError(
            f"{name} has a token that goes on behind a word, at byte {odd}: {near!r}",
            "mix models whose tokens end with words, or models with equal tokens",
        )
    if scored.unknown[first_W].any() and not all_words:
        raise UserError(
            f"{name} has no token for white space that the text has", "mix models of bytes or byte pairs"
        )
    of_bytes = scored._replace(log_probs=scored.byte_log_probs, log_spelling=None)
    nats = of_words(of_bytes, words_W2, expected.log_shares).nats
    starts = np.append(0, ends_W)
    edges = np.append(starts, size)
    situations = situations_T[np.append(0, first_W)]
    if edges[-2] < size:  # white space at the end
        edges, nats = np.append(edges, size), np.append(nats, 0.0)
        situations = np.append(situations, situations[-1])
    spans = np.stack([edges[:-1], edges[1:]], axis=1)
    unknown = np.zeros(len(spans), bool)
    return Reading(ScoredText(scored.text, spans, -nats, unknown, scored.conditioned_on, True), situations)
