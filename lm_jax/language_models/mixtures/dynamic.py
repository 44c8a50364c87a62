"""Dynamic evaluation: a neural model learns from each part of a document before it reads the next one.

Krause et al. 2018, "Dynamic Evaluation of Neural Sequence Models": after the tokens of a segment are scored,
the parameters take a step of gradient descent on the segment's mean loss. Each document begins with the
trained parameters, so that documents do not influence each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.language_models.causal import CausalLanguageModel
from lm_jax.language_models.mixtures.base import Component, Reading, Recent
from lm_jax.language_models.mixtures.models import CONFIDENCES, confidence, logits
from lm_jax.language_models.options import as_texts
from lm_jax.language_models.trained import shared

_RATES = (0.02, 0.05, 0.1)


class DynamicEvaluation(Component):
    """A module whose parameters follow the document. Its situation is how sure it is; see `CausalComponent`.

    Tokens of a segment are scored by one window that ends with them and that is as long as the context
    allows; a model that carries a state reads the segments one after the other.

    Args:
        model: a module that predicts each token from those before it.
        name: what to call the model.
        rate: the learning rate.
        segment: tokens that are scored between two updates.
    """

    kind, num_situations = "neural", len(CONFIDENCES) + 1

    def __init__(self, model: CausalLanguageModel, name: str, rate: float = 0.05, segment: int = 32):
        most = model.context or segment
        if not rate >= 0 or not 1 <= segment <= most:
            raise UserError(
                f"dynamic evaluation with a rate of {rate} and segments of {segment} tokens",
                f"give a rate of 0 or more, and 1..{most} tokens",
            )
        if model.trained.mesh is not None and model.trained.mesh.size > 1:
            raise UserError(f"dynamic evaluation of {name} on {model.trained.mesh.size} devices", "use one")
        self.model, self.model_name, self.tokenizer = model, name, model.tokenizer
        self.name, self.rate, self.segment = f"{name}+dynamic", rate, segment
        self._recent = Recent(len(_RATES) + 1)
        self._read, self._learn = shared(_functions, model.module)

    def describe(self, stride: int | None = None) -> dict[str, Any]:
        """The model, its own settings, and the protocol."""
        return {
            "dynamic evaluation": self.model_name,
            **self.model.config.describe_context(),
            "update": "SGD on the mean loss of each segment after it is scored",
            "rate": self.rate,
            "segment": self.segment,
            "reset": "at each document",
        }

    def choices(self) -> Mapping[str, Sequence[Any]]:
        """Learning rates."""
        return {"rate": _RATES}

    def models(self) -> Iterator[Any]:
        """The model."""
        yield self.model

    def read(self, texts: Sequence[str], stride: int | None = None) -> list[Reading]:
        """See `Component`; `stride` has no effect."""
        return self._recent.get((tuple(texts), self.rate), lambda: self._follow_all(texts))

    def _follow_all(self, texts: Sequence[str]) -> list[Reading]:
        texts = as_texts(texts, "texts")
        values, encodings = [], self.tokenizer.encode_batch(texts)
        for encoding in encodings:
            ids = np.concatenate([[self.tokenizer.begin_id], encoding.ids, [self.tokenizer.end_id]])
            values.append(self._follow(ids, len(ids) - 1)[0])
        scored = self.model._scores(texts, encodings, [values_T2[:, 0] for values_T2 in values])
        return [Reading(one, x[:, 1].astype(np.int64)) for one, x in zip(scored, values, strict=True)]

    def next(self, history: np.ndarray) -> tuple[np.ndarray, int]:
        """See `Component`."""
        ids = np.concatenate([[self.tokenizer.begin_id], history, [self.tokenizer.end_id]])
        learned = len(history) // self.segment * self.segment
        _, params, state = self._follow(ids, learned)
        inputs_1S, _, _, place = self._window(ids, learned, len(history) + 1)
        logits_TV = jax.device_get(self._read(params, inputs_1S, state))[0].astype(np.float32)
        log_probs_V = jax.nn.log_softmax(logits_TV[place + len(history) - learned])
        return np.asarray(log_probs_V, float), int(confidence(log_probs_V[None])[0])

    def _follow(self, ids: np.ndarray, end: int) -> tuple[np.ndarray, Any, Any]:
        """What each of the first `end` predictions gave, [end, 2]; the parameters and state after them."""
        params, values_T2 = self.model.params, np.empty((end, 2))
        state = None if self.model.context is not None else self.model.module.init_state(1, self.segment)
        for start in range(0, end, self.segment):
            stop = min(start + self.segment, end)
            *rows, place = self._window(ids, start, stop)
            values_S2, params, state = self._learn(params, *rows, state, np.float32(self.rate))
            values_T2[start:stop] = np.asarray(values_S2)[place : place + stop - start]
        return values_T2, params, state

    def _window(
        self, ids: np.ndarray, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Inputs, targets and weights, [1, S] each, for predictions of a segment, and the place of the first.

        S is the context, or the segment where a state is carried. Padding on the right weighs 0.
        """
        length = self.model.context or self.segment
        first = max(0, start + self.segment - length) if self.model.context is not None else start
        inputs_1S, targets_1S = np.zeros((2, 1, length), np.int32)
        weights_1S = np.zeros((1, length), np.float32)
        inputs_1S[0, : stop - first], targets_1S[0, : stop - first] = (
            ids[first:stop],
            ids[first + 1 : stop + 1],
        )
        weights_1S[0, start - first : stop - first] = 1
        return inputs_1S, targets_1S, weights_1S, start - first


def _functions(module: nn.Module) -> tuple[Any, Any]:
    """Jitted: the logits of a window, and a segment's scores with the parameters that it leaves."""

    def read(params: Any, inputs_1S: jax.Array, state: Any) -> jax.Array:
        hidden_1SD, _ = module.apply(params, inputs_1S, state, method="hidden")
        return logits(module, params, hidden_1SD)

    def loss(params: Any, inputs_1S: Any, targets_1S: Any, weights_1S: Any, state: Any) -> Any:
        hidden_1SD, state = module.apply(params, inputs_1S, state, method="hidden")
        log_probs_SV = jax.nn.log_softmax(logits(module, params, hidden_1SD)[0].astype(jnp.float32))
        log_probs_S = jnp.take_along_axis(log_probs_SV, targets_1S[0][:, None], axis=1)[:, 0]
        values_S2 = jnp.stack([log_probs_S, confidence(log_probs_SV).astype(jnp.float32)], axis=-1)
        return -(log_probs_S * weights_1S[0]).sum() / weights_1S.sum(), (values_S2, state)

    def learn(params: Any, *rest: Any) -> tuple[jax.Array, Any, Any]:
        *batch, rate = rest
        gradients, (values_S2, state) = jax.grad(loss, has_aux=True)(params, *batch)
        params = jax.tree.map(lambda p, g: (p - rate * g).astype(p.dtype), params, gradients)
        return values_S2, params, state

    return jax.jit(read), jax.jit(learn)
