"""Opened models as components of mixtures."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding.decoder import LARGEST
from lm_jax.decoding.text import bucket
from lm_jax.errors import UserError
from lm_jax.language_models.base import LeftToRight, Scores, require
from lm_jax.language_models.causal import CausalLanguageModel
from lm_jax.language_models.mixtures.base import Component, Functions, Next, Reading, Recent
from lm_jax.language_models.ngram import NGramLanguageModel, make_stream
from lm_jax.language_models.options import as_texts
from lm_jax.language_models.trained import shared
from lm_jax.metrics.chunked import chunked
from lm_jax.metrics.likelihood import token_log_probs
from lm_jax.ngram.vocabulary import BOS, EOS, UNK
from lm_jax.text.base import Encoding

# The highest probability of a token up to which each situation goes, but the last.
CONFIDENCES = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9)
_KEPT = 2  # lists of texts: those that a mixture is fitted on, and those that it scores
_LOG_CONFIDENCES = np.log(CONFIDENCES).astype(np.float32)


def as_component(model: Any, name: str) -> "ModelComponent":
    """An opened model as a component.

    Raises:
        UserError: it gives texts no probability.
    """
    require(model, Scores, "give whole texts a probability")
    if isinstance(model, NGramLanguageModel):
        return NGramComponent(model, name)
    if is_causal(model):
        return CausalComponent(model, name)
    return ModelComponent(model, name)


def is_causal(model: Any) -> bool:
    """Whether a model is a module that predicts each token from those before it."""
    return isinstance(model, CausalLanguageModel) and model.evaluator == "causal"


class ModelComponent(Component):
    """Any model that gives texts a probability. It has one situation.

    Args:
        model: the model.
        name: what to call it.
    """

    kind = "model"

    def __init__(self, model: Any, name: str):
        self.model, self.name, self.tokenizer = model, name, model.tokenizer
        decoder = model._decoder() if isinstance(model, LeftToRight) else None
        self._decoder, self.context = decoder, decoder and decoder.context_length

    def describe(self, stride: int | None = None) -> dict[str, Any]:
        """The model's name and its own settings."""
        return {"model": self.name, **self.model.describe_context(stride)}

    def models(self) -> Iterator[Any]:
        """The model."""
        yield self.model

    def read(self, texts: Sequence[str], stride: int | None = None) -> list[Reading]:
        """See `Component`."""
        made = self.model.score(texts, stride)
        return [Reading(scored, np.zeros(len(scored.log_probs), np.int64)) for scored in made]

    def next(self, history: np.ndarray) -> tuple[np.ndarray, int]:
        """See `Component`.

        Raises:
            UserError: the model does not tell what follows, or a history longer than what it reads.
        """
        if self._decoder is None:
            raise UserError(
                f"{self.name} does not tell what may follow a text", "leave it out of the mixture"
            )
        tokens = np.append(np.int32(self.tokenizer.begin_id), history).astype(np.int32)
        if self.context is not None and len(tokens) > self.context:
            raise UserError(
                f"a history of {len(history)} tokens, and {self.name} reads {self.context - 1}",
                "give its last tokens",
            )
        width = min(bucket(len(tokens)), self.context or LARGEST)
        tokens_1T = np.pad(tokens, (0, width - len(tokens)))[None]
        length_1 = np.array([len(tokens)], np.int32)
        logits_1V = _prefilled(self._decoder.prefill, self._decoder.params, tokens_1T, length_1, width)
        log_probs_V = jax.nn.log_softmax(np.asarray(logits_1V[0], np.float32))
        return np.asarray(log_probs_V, float), int(self._situate(log_probs_V[None])[0])

    def functions(self) -> Functions | None:
        """The model's own decoder."""
        if self._decoder is None:
            return None
        made = _from_decoder(self._decoder.prefill, self._decoder.step, self._situate)
        return Functions(*made, self._decoder.params, self.context)

    _situate: Callable[[jax.Array], jax.Array] = staticmethod(lambda x_BV: jnp.zeros(len(x_BV), jnp.int32))


class CausalComponent(ModelComponent):
    """A module that predicts each token from those before it.

    Its situation is how sure it is: the interval of `CONFIDENCES` that its highest probability is in.
    """

    kind, num_situations = "neural", len(CONFIDENCES) + 1

    def __init__(self, model: CausalLanguageModel, name: str):
        super().__init__(model, name)
        self._recent = Recent(_KEPT)

    def read(self, texts: Sequence[str], stride: int | None = None) -> list[Reading]:
        """See `Component`."""
        return self._recent.get((tuple(texts), stride), lambda: self._read(texts, stride))

    def _read(self, texts: Sequence[str], stride: int | None) -> list[Reading]:
        texts, encodings, values = read_tokens(self.model, texts, stride, _confident, 2)
        scored = self.model._scores(texts, encodings, [values_T2[:, 0] for values_T2 in values])
        return [Reading(one, x[:, 1].astype(np.int64)) for one, x in zip(scored, values, strict=True)]

    _situate = staticmethod(lambda log_probs_BV: confidence(log_probs_BV))


class NGramComponent(ModelComponent):
    """An n-gram model. Its situation is the number of tokens in the longest history that it has seen."""

    kind = "ngram"

    def __init__(self, model: NGramLanguageModel, name: str):
        super().__init__(model, name)
        if not model.eos:
            raise UserError(f"{name} does not score the ends of texts", "open it without --no-eos")
        self.num_situations = max(1, model.model.order)

    def read(self, texts: Sequence[str], stride: int | None = None) -> list[Reading]:
        """See `Component`."""
        texts = as_texts(texts, "texts")
        made, end = [], np.array([self.tokenizer.end_id], np.int32)
        for scored, ids in zip(
            self.model.score(texts, stride), self.tokenizer.encode_ids(texts), strict=True
        ):
            stream = make_stream(np.concatenate([end, ids, end]), self.model._word_of)
            matched = self.model.model.score(stream, self.model.bos).matched
            before = np.append(0, matched[:-1])[stream != BOS]
            made.append(Reading(scored, np.minimum(before, self.num_situations - 1).astype(np.int64)))
        return made

    def next(self, history: np.ndarray) -> tuple[np.ndarray, int]:
        """See `Component`. Where no token stands for the unknown word, it is the last column."""
        tokens = np.append(np.int32(self.tokenizer.end_id), history).astype(np.int32)
        words = self.model._word_of
        if self.tokenizer.unknown_id is None:
            words = np.append(words, np.int32(UNK))
        return self.model._after(tokens)[words], self._matched(tokens)

    def functions(self) -> Functions:
        """The model's own decoder, whose state is the last tokens."""
        assert self._decoder is not None
        return Functions(*_of_ngrams(self), params=None)

    def _matched(self, tokens: np.ndarray) -> int:
        """The tokens in the longest history that ends a row of tokens; 0 at the beginning of a sentence."""
        words = self.model._word_of[tokens[tokens >= 0]]
        begin = np.flatnonzero(words == EOS)[-1:]
        if not len(words) or words[-1] == EOS or self.num_situations == 1:
            return 0
        words = np.where(words == EOS, BOS, words)[int(begin[0]) if len(begin) else 0 :]
        words = words[1:] if len(begin) and not self.model.bos else words
        return len(self.model.model.trie.suffixes(words[-(self.num_situations - 1) :]))


def confidence(log_probs_BV: jax.Array) -> jax.Array:
    """The interval of `CONFIDENCES` in which the highest probability of each row lies, int32 [B]."""
    return jnp.searchsorted(jnp.asarray(_LOG_CONFIDENCES), log_probs_BV.max(axis=-1)).astype(jnp.int32)


def read_tokens(
    model: CausalLanguageModel,
    texts: Sequence[str],
    stride: int | None,
    function: Callable[[nn.Module], Any],
    width: int,
) -> tuple[list[str], list[Encoding], list[np.ndarray]]:
    """The texts, their tokens, and what a function of the module gives for each token, float [T, width].

    Args:
        model: the model.
        texts: the texts.
        stride: as of `Scores.score`.
        function: module -> jitted (params, inputs_BT, targets_BT, state) -> (values [B, T, width], state);
            the same object in all calls.
        width: see above.
    """
    texts = as_texts(texts, "texts")
    encodings = model.tokenizer.encode_batch(texts)
    values = model._per_token(encodings, stride, shared(function, model.module), (width,))
    return texts, encodings, values


def logits(module: nn.Module, params: Any, hidden_BTD: jax.Array) -> Any:
    """The logits of hidden states, [B, T, V]."""
    return module.apply(params, hidden_BTD, method="logits")


def _confident(module: nn.Module) -> Any:
    """The log-probability of each target, and the situation there."""

    def measure(logits_BCV: jax.Array, targets_BC: jax.Array) -> jax.Array:
        logits_BCV = logits_BCV.astype(jnp.float32)
        highest_BC = logits_BCV.max(axis=-1) - jax.nn.logsumexp(logits_BCV, axis=-1)
        situation_BC = confidence(highest_BC[..., None])
        return jnp.stack([token_log_probs(logits_BCV, targets_BC), situation_BC], axis=-1)

    def read(params: Any, inputs_BT: jax.Array, targets_BT: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        hidden_BTD, state = module.apply(params, inputs_BT, state, method="hidden")
        return chunked(measure, partial(logits, module), params, hidden_BTD, targets_BT), state

    return jax.jit(read)


@partial(jax.jit, static_argnums=(0, 4))
def _prefilled(prefill: Any, params: Any, tokens_BT: jax.Array, length_B: jax.Array, capacity: int) -> Any:
    return prefill(params, tokens_BT, length_B, capacity)[0]


@lru_cache(maxsize=64)
def _from_decoder(prefill: Any, step: Any, situate: Any) -> tuple[Any, Any]:
    """A decoder's functions with log-probabilities and situations for logits; the same for equal ones."""

    def after(logits_BV: jax.Array, state: Any) -> tuple[Next, Any]:
        log_probs_BV = jax.nn.log_softmax(logits_BV)
        return Next(log_probs_BV, situate(log_probs_BV)), state

    return lambda *arguments: after(*prefill(*arguments)), lambda *arguments: after(*step(*arguments))


@lru_cache(maxsize=64)
def _of_ngrams(component: NGramComponent) -> tuple[Any, Any]:
    """As `_from_decoder`: the model's logits are log-probabilities, without the share of the unknown word."""

    def matched(history_BN: np.ndarray) -> np.ndarray:
        return np.array([component._matched(row) for row in np.asarray(history_BN)], np.int32)

    def after(log_probs_BV: jax.Array, history_BN: jax.Array) -> tuple[Next, Any]:
        shape = jax.ShapeDtypeStruct((history_BN.shape[0],), jnp.int32)
        return Next(log_probs_BV, jax.pure_callback(matched, shape, history_BN)), history_BN

    decoder = component.model._decoder()
    return (
        lambda *arguments: after(*decoder.prefill(*arguments)),
        lambda *arguments: after(*decoder.step(*arguments)),
    )
