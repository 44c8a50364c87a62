"""n-gram models as language models."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.data.pipeline import Data
from lm_jax.decoding.decoder import Decoder
from lm_jax.language_models.base import LeftToRight, ScoredText
from lm_jax.ngram import counts, smoothing
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.ngram.vocabulary import BOS, EOS, UNK, Vocabulary
from lm_jax.text.base import Tokenizer


def make_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """A tokenizer's tokens as words, without the end and the unknown token."""
    special = {tokenizer.end_id, tokenizer.unknown_id}
    return Vocabulary(tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size) if i not in special)


def word_ids(tokenizer: Tokenizer, vocabulary: Vocabulary) -> np.ndarray:
    """int32 [vocab_size]: the word of each token; EOS for an end, UNK for a token outside the vocabulary."""
    ids = vocabulary.ids(tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size))
    ids[tokenizer.end_id] = EOS
    if tokenizer.unknown_id is not None:
        ids[tokenizer.unknown_id] = UNK
    return ids


def make_stream(tokens: np.ndarray, word_of: np.ndarray) -> np.ndarray:
    """A token store's stream, `end d1 end d2 end`, as sentences `<s> d1 </s> <s> d2 </s>`."""
    words = word_of[np.asarray(tokens[1:])]
    begins = np.concatenate([[0], np.flatnonzero(words[:-1] == EOS) + 1])
    return np.insert(words, begins, BOS)


def fit(config: NGramConfig, data: Data, report: Progress) -> NGramModel:
    """Counts the training part and estimates a model over its tokenizer's tokens.

    Args:
        config: the model.
        data: the prepared corpus; weights of the smoothing are fitted on its part "valid".
        report: called with (description, done, total).

    Raises:
        UserError: too little memory, or a text from which no discounts can be estimated.
    """
    vocabulary = make_vocabulary(data.tokenizer)
    word_of = word_ids(data.tokenizer, vocabulary)
    stream, held_out = (make_stream(data.splits[part].tokens, word_of) for part in ("train", "valid"))
    counted = counts.count(stream, vocabulary, config.order, report)
    return smoothing.estimate(counted, config, held_out, report)


@dataclasses.dataclass(eq=False)
class NGramLanguageModel(LeftToRight):
    """An n-gram model over a tokenizer's tokens; each end of text, or of a line of words, begins a sentence.

    Attributes:
        model: the n-grams.
        tokenizer: from text to ids.
        documents: how its training text was cut.
    """

    model: NGramModel
    tokenizer: Tokenizer
    documents: str = "line"

    def __post_init__(self) -> None:
        self.family, self.task = "ngram", "causal"
        self.step: int | None = None
        self._word_of = word_ids(self.tokenizer, self.model.vocabulary)
        # Kept: each access to a bound method gives a new object, for which decoders would compile again.
        self._kept_decoder = Decoder(self._prefill, self._step, params=None)

    def describe_context(self, stride: int | None = None) -> dict[str, Any]:
        """How many tokens the longest n-grams have."""
        return {"order": self.model.order} | ({} if self.model.normalised else {"normalised": False})

    def score(self, texts: Sequence[str], stride: int | None = None) -> list[ScoredText]:
        """Log-probabilities of each text after a beginning of sentence; `stride` has no effect.

        Args:
            texts: the texts.
            stride: accepted for the same signature as other families.

        Raises:
            UserError: a text that the tokenizer cannot encode.
        """
        encodings = self.tokenizer.encode_batch(list(texts))
        end = np.array([self.tokenizer.end_id], np.int32)
        tokens = np.concatenate([end, *(part for e in encodings for part in (e.ids, end))])
        stream = make_stream(tokens, self._word_of)
        log_probs = self.model.score(stream).log_probs[stream != BOS]
        ends = np.cumsum([len(e.ids) + 1 for e in encodings])
        parts = np.split(log_probs, ends[:-1])
        return [self._scores(*row) for row in zip(texts, encodings, parts, strict=True)]

    def _decoder(self) -> Decoder:
        return self._kept_decoder

    def _log_probs(self, history_BN: np.ndarray) -> np.ndarray:
        """Natural log p of each token after the tokens of each history, float32 [B, V]; -1 is not a token.

        Unknown tokens have none, so that they are never generated: a softmax gives their share to the others.
        """
        rows = []
        for history in np.asarray(history_BN):
            words = self._word_of[history[history >= 0]]
            words[words == EOS] = BOS  # a token after an end begins a sentence
            with np.errstate(divide="ignore"):
                log_probs = np.log(self.model.next_distribution(words))
            log_probs[UNK] = -np.inf
            rows.append(log_probs[self._word_of])
        return np.array(rows, np.float32)

    def _logits(self, history_BN: jax.Array) -> jax.Array:
        shape = jax.ShapeDtypeStruct((history_BN.shape[0], self.tokenizer.vocab_size), jnp.float32)
        return jax.pure_callback(self._log_probs, shape, history_BN)

    def _prefill(
        self, params: Any, tokens_BT: jax.Array, length_B: jax.Array, capacity: int
    ) -> tuple[jax.Array, jax.Array]:
        """The state is the history: the last tokens of each row, -1 before its beginning."""
        num_tokens = max(1, self.model.order - 1)
        place_BN = length_B[:, None] - num_tokens + jnp.arange(num_tokens)[None]
        taken_BN = jnp.take_along_axis(tokens_BT, jnp.maximum(place_BN, 0), axis=1)
        history_BN = jnp.where(place_BN >= 0, taken_BN, -1)
        return self._logits(history_BN), history_BN

    def _step(self, params: Any, history_BN: jax.Array, token_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        history_BN = jnp.concatenate([history_BN[:, 1:], token_B[:, None]], axis=1)
        return self._logits(history_BN), history_BN
