"""Mixtures of language models with equal tokens: p(token) = Σ_k w_k p_k(token)."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding.decoder import Decoder
from lm_jax.errors import UserError
from lm_jax.language_models.base import LeftToRight, ScoredText
from lm_jax.language_models.described import Described, size_of
from lm_jax.language_models.mixtures.base import Component, Functions, Next, Reading, check_complete
from lm_jax.language_models.mixtures.weights import Weights, mixed
from lm_jax.language_models.options import as_texts


class Situations:
    """The situations of a mixture: every combination of those of its components, one of each kind.

    Args:
        components: the mixture's.
    """

    def __init__(self, components: Sequence[Component]):
        kinds: dict[str, int] = {}
        for k, component in enumerate(components):
            if component.num_situations > 1:
                kinds.setdefault(component.kind, k)
        self._used = list(kinds.values())
        self._sizes = [components[k].num_situations for k in self._used]
        self.names = list(kinds)

    def __len__(self) -> int:
        return int(np.prod(self._sizes, dtype=int))

    def combine(self, situations: Sequence[Any]) -> Any:
        """The number of the combination, from the situations of all components: arrays of one shape."""
        combined = situations[0] * 0
        for k, size in zip(self._used, self._sizes, strict=True):
            combined = combined * size + situations[k]
        return combined


class TokenMixture(Described):
    """A mixture of components with equal tokenizers, as a language model that scores; see `Mixture`.

    Args:
        components: the components.
        weights: their weights.

    Raises:
        UserError: tokenizers that differ, or a number of weights that is not that of the components.
    """

    family, task, evaluator = "mixture", "causal", "causal"
    step: int | None = None

    def __init__(self, components: Sequence[Component], weights: Weights):
        check_tokens(components)
        self.components, self.situations = tuple(components), Situations(components)
        self.weights = checked(weights, components, self.situations)
        self.tokenizer = components[0].tokenizer
        self.documents = documents_of(components)

    @property
    def context(self) -> int | None:
        """The largest number of tokens that `next_log_probs` can read; None: any number."""
        return min((c.context for c in self.components if c.context is not None), default=None)

    @property
    def num_parameters(self) -> int:
        """Numbers that the models hold, each model once."""
        return num_parameters(self.components)

    def describe_context(self, stride: int | None = None) -> dict[str, Any]:
        """The components with their settings, their weights, and where these come from."""
        return describe(self.components, self.weights, self.situations, stride) | {"mixed": "by token"}

    def read(self, texts: Sequence[str], stride: int | None = None) -> list[list[Reading]]:
        """What each component says, [texts][K], checked to be complete."""
        texts = as_texts(texts, "texts")
        columns = [component.read(texts, stride) for component in self.components]
        rows = [list(row) for row in zip(*columns, strict=True)]
        for row in rows:
            for component, one in zip(self.components, row, strict=True):
                check_complete(component.name, one.scored)
        return rows

    def score(self, texts: Sequence[str], stride: int | None = None) -> list[ScoredText]:
        """Log-probabilities of each text's tokens and its end.

        Args:
            texts: the texts.
            stride: as of `Scores.score`, for the components that read windows.

        Raises:
            UserError: as of the components, or a text that one of them does not pay every byte of.
        """
        return [self._mixed(row) for row in self.read(texts, stride)]

    def _mixed(self, row: Sequence[Reading]) -> ScoredText:
        scored = [reading.scored for reading in row]
        log_weights_TK = self.weights.log(self.situations.combine([reading.situations for reading in row]))
        log_probs = mixed(log_weights_TK, np.stack([one.log_probs for one in scored], axis=1))
        log_spelling = None
        if any(one.log_spelling is not None for one in scored):
            of_bytes = mixed(log_weights_TK, np.stack([one.byte_log_probs for one in scored], axis=1))
            log_spelling = of_bytes - log_probs
        before = " or ".join(dict.fromkeys(one.conditioned_on for one in scored))
        made = scored[0]._replace(log_probs=log_probs, log_spelling=log_spelling)
        return made._replace(conditioned_on=before)

    def next_log_probs(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Natural log of the probability of every token after each history, float64 [N, V + 1].

        The last column is what is no token: the share of n-grams' unknown word.

        Args:
            histories: the ids of tokens from the beginning of a text on, int [T]; the token before a text is
                not among them.

        Raises:
            UserError: a history that is longer than what a component reads.
        """
        rows = [self._next(np.asarray(history, np.int32)) for history in histories]
        return np.array(rows).reshape(len(rows), self.tokenizer.vocab_size + 1)

    def _next(self, history: np.ndarray) -> np.ndarray:
        vocab_size, told = self.tokenizer.vocab_size, [c.next(history) for c in self.components]
        situation = self.situations.combine([np.array([situation]) for _, situation in told])
        log_weights_K = self.weights.log(situation)[0]
        log_probs_KW = np.full((len(told), vocab_size + 1), -np.inf)
        for row_W, (log_probs_W, _) in zip(log_probs_KW, told, strict=True):
            row_W[:vocab_size] = log_probs_W[:vocab_size]
            row_W[vocab_size] = np.logaddexp.reduce(log_probs_W[vocab_size:], initial=-np.inf)
        return np.logaddexp.reduce(log_weights_K[:, None] + log_probs_KW, axis=0)


class Mixture(TokenMixture, LeftToRight):
    """A `TokenMixture` whose components all tell what may follow, so that it also writes texts."""

    def __init__(self, components: Sequence[Component], weights: Weights):
        super().__init__(components, weights)
        functions = [component.functions() for component in self.components]
        present = [one for one in functions if one is not None]
        if len(present) < len(functions):
            raise UserError("a component that only scores", "use a TokenMixture")
        combine = functools.partial(_combined, self.weights, self.situations)
        prefill, step = _functions(present, combine)
        lengths = [one.context_length for one in present if one.context_length is not None]
        params = tuple(one.params for one in present)
        self._kept_decoder = Decoder(prefill, step, params, min(lengths, default=None))

    def _decoder(self) -> Decoder:
        return self._kept_decoder


def mix(components: Sequence[Component], weights: Weights) -> TokenMixture:
    """A mixture by token, which also writes texts if all its parts can. Errors as of `TokenMixture`."""
    writes = all(component.functions() is not None for component in components)
    return Mixture(components, weights) if writes else TokenMixture(components, weights)


def have_equal_tokens(components: Sequence[Component]) -> bool:
    """Whether the components' tokenizers give the same ids, and texts begin and end with the same token."""
    marks = {(c.tokenizer.fingerprint(), c.tokenizer.begin_id, c.tokenizer.end_id) for c in components}
    return len(marks) == 1


def check_tokens(components: Sequence[Component]) -> None:
    """Raises UserError unless there are components, with equal tokens."""
    if not components:
        raise UserError("a mixture of nothing", "give at least one component")
    if not have_equal_tokens(components):
        raise UserError(
            f"{', '.join(c.name for c in components)} have different tokens",
            "mix them by word, or train them with data.tokenizer=PATH of the first one's",
        )


def checked(weights: Weights, components: Sequence[Component], situations: Situations) -> Weights:
    """The weights, divided by their sum.

    Raises:
        UserError: not one for each component and situation, a negative one, or a sum that is not 1.
    """
    table_SK = weights.by_situation_SK
    all_K = _checked(np.asarray(weights.all_K, float), (len(components),))
    if table_SK is not None:
        table_SK = _checked(np.asarray(table_SK, float), (len(situations), len(components)))
    return weights._replace(all_K=all_K, by_situation_SK=table_SK)


def _checked(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.shape != shape:
        raise UserError(
            f"weights of shape {values.shape} where {shape} are needed", "give one for each component"
        )
    sums = values.sum(axis=-1, keepdims=True)
    if not (values >= 0).all() or np.abs(sums - 1).max() > 1e-6:
        raise UserError(
            f"the weights {values.tolist()}"[:100],
            "give numbers of 0 or more whose sum is 1, such as 0.7,0.3",
        )
    return values / sums


def describe(
    components: Sequence[Component], weights: Weights, situations: Situations, stride: int | None
) -> dict[str, Any]:
    """The settings of a mixture, for the record."""
    parts = [c.describe(stride) for c in components]
    for part, weight in zip(parts, weights.all_K.tolist(), strict=True):
        part["weight"] = round(weight, 6)
    by = {}
    if weights.by_situation_SK is not None:
        by = {"weights_by": situations.names, "situations": len(situations)}
    return {"components": parts, "weights": weights.how} | by


def documents_of(components: Sequence[Component]) -> str:
    """How the first model's training text was cut into documents."""
    return next((model.documents for c in components for model in c.models()), "file")


def num_parameters(components: Sequence[Component]) -> int:
    """Numbers that the models of components hold, each model once."""
    models = {id(model): model for component in components for model in component.models()}
    return sum(size_of(model) or 0 for model in models.values())


def _combined(weights: Weights, situations: Situations, parts: Sequence[Next]) -> jax.Array:
    """Natural log of the mixture's probabilities, float32 [B, V]."""
    situation_B = situations.combine([part.situation_B for part in parts])
    table_SK = weights.all_K[None] if weights.by_situation_SK is None else weights.by_situation_SK
    if weights.by_situation_SK is None:
        situation_B = situation_B * 0
    log_weights_BK = jnp.log(jnp.asarray(table_SK, jnp.float32))[situation_B]
    vocab_size = min(part.log_probs_BV.shape[-1] for part in parts)  # without what pads a vocabulary
    log_probs_KBV = jnp.stack([part.log_probs_BV[:, :vocab_size] for part in parts])
    return jax.nn.logsumexp(log_weights_BK.T[:, :, None] + log_probs_KBV, axis=0)


def _functions(parts: Sequence[Functions], combine: Any) -> tuple[Any, Any]:
    """`prefill` and `step` of a decoder whose state is those of the components."""
    prefills, steps = [part.prefill for part in parts], [part.step for part in parts]

    def prefill(params: Any, tokens_BT: jax.Array, length_B: jax.Array, capacity: int) -> Any:
        made = [f(p, tokens_BT, length_B, capacity) for f, p in zip(prefills, params, strict=True)]
        return combine([told for told, _ in made]), tuple(state for _, state in made)

    def step(params: Any, state: Any, token_B: jax.Array) -> Any:
        made = [f(p, s, token_B) for f, p, s in zip(steps, params, state, strict=True)]
        return combine([told for told, _ in made]), tuple(new for _, new in made)

    return prefill, step
