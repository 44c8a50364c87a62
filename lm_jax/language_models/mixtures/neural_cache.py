"""The neural cache: tokens of the document so far, weighted by how similar their contexts are.

Grave, Joulin and Usunier 2017, "Improving Neural Language Models with a Continuous Cache", equation 2: with
h_t what the head of a model reads to predict token x_t,

    p(w | x_<t) ∝ Σ_{i<t, x_i = w} exp(theta h_t · h_i)

The model itself and the cache are two components of a mixture: their weight λ is fitted as all weights are.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.language_models.causal import CausalLanguageModel
from lm_jax.language_models.mixtures.base import (
    Component,
    Functions,
    Next,
    Reading,
    Recent,
    appended,
    buffer_of,
)  # fmt: skip
from lm_jax.language_models.mixtures.models import logits, read_tokens
from lm_jax.language_models.trained import shared
from lm_jax.text.base import Encoding

_THETAS = (0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_ROWS = 256  # places of a text at a time
MOST_TOKENS = 2000  # of the document that the cache holds, as the paper's largest


class NeuralCache(Component):
    """A neural cache. Where it holds nothing, at the beginning of a text, every token has one probability.

    Args:
        model: a module that predicts each token from those before it.
        name: what to call the model.
        theta: how much the similarity of contexts counts; 0: not at all.
        most_tokens: how many of the last tokens it holds.
    """

    kind = "neural cache"

    def __init__(
        self, model: CausalLanguageModel, name: str, theta: float = 0.05, most_tokens: int = MOST_TOKENS
    ):
        if not theta >= 0 or most_tokens < 1:
            raise UserError(
                f"a neural cache with theta={theta} of {most_tokens} tokens", "give 0 or more, and 1 or more"
            )
        self.model, self.model_name, self.tokenizer = model, name, model.tokenizer
        self.name, self.theta, self.most_tokens = f"{name}+cache", theta, most_tokens
        self.context = model.context
        self._recent = Recent(1)  # vectors take much memory

    def describe(self, stride: int | None = None) -> dict[str, Any]:
        """The model, its own settings, and those of the cache."""
        settings = {"theta": self.theta, "most_tokens": self.most_tokens}
        return {
            "neural cache": self.model_name,
            **settings,
            **self.model.describe_context(stride),
        }

    def choices(self) -> Mapping[str, Sequence[Any]]:
        """Thetas."""
        return {"theta": _THETAS}

    def models(self) -> Iterator[Any]:
        """The model."""
        yield self.model

    def read(self, texts: Sequence[str], stride: int | None = None) -> list[Reading]:
        """See `Component`."""
        texts, encodings, vectors = self._vectors(texts, stride)
        end = self.tokenizer.end_id
        log_probs = [
            self._log_probs(hidden_TD, np.append(encoding.ids, end))
            for encoding, hidden_TD in zip(encodings, vectors, strict=True)
        ]
        scored = self.model._scores(texts, encodings, log_probs)
        return [Reading(one, np.zeros(len(one.log_probs), np.int64)) for one in scored]

    def _vectors(
        self, texts: Sequence[str], stride: int | None
    ) -> tuple[list[str], list[Encoding], list[np.ndarray]]:
        """The texts, their tokens, and what the head reads to predict each, [T, D]."""
        width = _width(self.model)
        return self._recent.get(
            (tuple(texts), stride), lambda: read_tokens(self.model, texts, stride, _hidden, width)
        )

    def next(self, history: np.ndarray) -> tuple[np.ndarray, int]:
        """See `Component`."""
        text_ids = np.append(history, self.tokenizer.end_id).astype(np.int32)  # the last one is not read
        hidden_TD = _hidden_of(self.model, text_ids)
        log_probs_V = np.full(self.tokenizer.vocab_size, -np.log(self.tokenizer.vocab_size))
        if len(history):
            shares = self._shares(hidden_TD, len(history), len(history) + 1)[0]
            with np.errstate(divide="ignore"):
                log_probs_V = np.log(np.bincount(history, shares, self.tokenizer.vocab_size))
        return log_probs_V, 0

    def functions(self) -> Functions:
        """The state holds the model's own, what its head read at each place, and the tokens."""
        prefill, step = shared(_functions, self.model.module)
        params = (self.model.params, jnp.float32(self.theta), jnp.int32(self.most_tokens))
        return Functions(prefill, step, params, self.context)

    def _log_probs(self, hidden_TD: np.ndarray, ids_T: np.ndarray) -> np.ndarray:
        """The log-probability of each token, float64 [T]."""
        log_probs = np.full(len(ids_T), -np.log(self.tokenizer.vocab_size))
        for start in range(1, len(ids_T), _ROWS):
            end = min(start + _ROWS, len(ids_T))
            shares_RC = self._shares(hidden_TD, start, end)
            first = end - 1 - shares_RC.shape[1]
            is_token_RC = ids_T[first : end - 1] == ids_T[start:end, None]
            with np.errstate(divide="ignore"):
                log_probs[start:end] = np.log((shares_RC * is_token_RC).sum(axis=1))
        return log_probs

    def _shares(self, hidden_TD: np.ndarray, start: int, end: int) -> np.ndarray:
        """The share of each token that the cache holds, at some places, [end − start, C].

        Columns are the tokens up to that before the last place.
        """
        first = max(0, start - self.most_tokens)
        scores_RC = self.theta * (hidden_TD[start:end] @ hidden_TD[first : end - 1].T)
        place_R1, place_1C = np.arange(start, end)[:, None], np.arange(first, end - 1)[None]
        is_held_RC = (place_1C < place_R1) & (place_1C >= place_R1 - self.most_tokens)
        scores_RC = np.where(is_held_RC, scores_RC, -np.inf)
        shares_RC = np.exp(scores_RC - scores_RC.max(axis=1, keepdims=True))
        return np.asarray(shares_RC / shares_RC.sum(axis=1, keepdims=True))


def _width(model: CausalLanguageModel) -> int:
    """The size of what the head of a model reads."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    made = jax.eval_shape(lambda p, t: model.module.apply(p, t, method="hidden")[0], model.params, tokens)
    return int(made.shape[-1])


def _hidden(module: nn.Module) -> Any:
    """What the head reads, in float32."""

    def read(params: Any, inputs_BT: jax.Array, targets_BT: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        hidden_BTD, state = module.apply(params, inputs_BT, state, method="hidden")
        return hidden_BTD.astype(jnp.float32), state

    return jax.jit(read)


def _hidden_of(model: CausalLanguageModel, ids: np.ndarray) -> np.ndarray:
    """What the head reads to predict each of a text's ids, [T, D]."""
    encoding = Encoding(ids[:-1], np.zeros((len(ids) - 1, 2), np.int64))
    return model._per_token([encoding], None, shared(_hidden, model.module), (_width(model),))[0]


class _State(NamedTuple):
    """The state of a decoder: C tokens of room.

    Attributes:
        inner: the model's own.
        keys_BCD: what the head read to predict each token.
        buffer: the tokens, int32 [B, C], and how many they are.
        query_BD: what the head reads to predict the next one.
    """

    inner: Any
    keys_BCD: jax.Array
    buffer: tuple[jax.Array, jax.Array]
    query_BD: jax.Array


def _functions(module: nn.Module) -> tuple[Any, Any]:
    """`prefill` and `step` of a decoder; params are the model's, theta and the size of the cache."""

    def look(params: Any, state: _State) -> tuple[Next, _State]:
        model, theta, most = params
        tokens_BC, count_B = state.buffer
        place_1C = jnp.arange(tokens_BC.shape[1])[None]
        is_held_BC = (place_1C < count_B[:, None]) & (place_1C >= count_B[:, None] - most)
        scores_BC = theta * jnp.einsum("bd,bcd->bc", state.query_BD, state.keys_BCD)
        shares_BC = jax.nn.softmax(scores_BC, axis=-1, where=is_held_BC)
        last_BD = state.query_BD[:, None]
        logits_BV = logits(module, model, last_BD)[:, 0]
        row_B1 = jnp.arange(len(count_B))[:, None]
        probs_BV = jnp.zeros(logits_BV.shape, jnp.float32).at[row_B1, tokens_BC].add(shares_BC)
        uniform_BV = jax.nn.softmax(jnp.where(jnp.isfinite(logits_BV), 0.0, -jnp.inf))
        probs_BV = jnp.where(count_B[:, None] > 0, probs_BV, uniform_BV)
        return Next(jnp.log(probs_BV), jnp.zeros(len(count_B), jnp.int32)), state

    def prefill(params: Any, tokens_BT: jax.Array, length_B: jax.Array, capacity: int) -> tuple[Next, _State]:
        apply: Any = module.apply
        hidden_BTD = apply(params[0], tokens_BT, method="hidden")[0].astype(jnp.float32)
        inner = apply(params[0], tokens_BT, length_B, capacity, method="prefill")[1]
        buffer = buffer_of(tokens_BT, length_B, capacity)
        room = buffer[0].shape[1]
        keys_BCD = jnp.pad(hidden_BTD, ((0, 0), (0, max(0, room - hidden_BTD.shape[1])), (0, 0)))[:, :room]
        query_BD = jnp.take_along_axis(hidden_BTD, (length_B - 1)[:, None, None], axis=1)[:, 0]
        return look(params, _State(inner, keys_BCD, buffer, query_BD))

    def step(params: Any, state: _State, token_B: jax.Array) -> tuple[Next, _State]:
        is_place_BC = jnp.arange(state.keys_BCD.shape[1])[None] == state.buffer[1][:, None]
        keys_BCD = jnp.where(is_place_BC[..., None], state.query_BD[:, None], state.keys_BCD)
        hidden_B1D, inner = module.apply(params[0], token_B[:, None], state.inner, method="hidden")
        buffer = appended(state.buffer, token_B)
        return look(params, _State(inner, keys_BCD, buffer, hidden_B1D[:, 0].astype(jnp.float32)))

    return prefill, step
