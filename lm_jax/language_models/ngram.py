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
from lm_jax.errors import UserError
from lm_jax.language_models.base import ExpectedText, LeftToRight, ScoredText
from lm_jax.language_models.logits import Logits, one_text
from lm_jax.language_models.options import as_texts, check_stride
from lm_jax.ngram import counts, smoothing
from lm_jax.ngram.model import LN_10, NGramModel
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.ngram.spelling import Speller
from lm_jax.ngram.vocabulary import BOS, EOS, SPECIALS, UNK, Vocabulary
from lm_jax.text.base import Encoding, Tokenizer

_LEAST = -98.5 * LN_10  # nats; generation takes less for 0: ARPA files write 10^-99 for it


def make_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """A tokenizer's tokens as words, in the order of their ids, without the end and the unknown token.

    Tokens are told apart by their ids: further special tokens, and others without a name of their own, get
    names such as <5>.
    """
    names = list(SPECIALS)
    taken = set(names)
    special = {tokenizer.end_id, tokenizer.unknown_id}
    for token_id, name in enumerate(tokenizer.token_names()):
        if token_id in special:
            continue
        while not name or name in taken:
            name = b"<%d>%b" % (token_id, name)
        names.append(name)
        taken.add(name)
    return Vocabulary(names)


def word_ids(tokenizer: Tokenizer, vocabulary: Vocabulary) -> np.ndarray:
    """int32 [vocab_size]: the word of each token in the vocabulary that `make_vocabulary` made.

    Raises:
        UserError: the vocabulary has more or fewer words than the tokenizer has tokens.
    """
    is_word = np.ones(tokenizer.vocab_size, np.bool_)
    is_word[tokenizer.end_id] = False
    if tokenizer.unknown_id is not None:
        is_word[tokenizer.unknown_id] = False
    if is_word.sum() + len(SPECIALS) != len(vocabulary):
        raise UserError(
            f"an n-gram model of {len(vocabulary)} words does not belong to a tokenizer of "
            f"{tokenizer.vocab_size} tokens",
            "restore the files of the run",
        )
    ids = np.full(tokenizer.vocab_size, UNK, np.int32)
    ids[is_word] = np.arange(len(SPECIALS), len(vocabulary))
    ids[tokenizer.end_id] = EOS
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


@dataclasses.dataclass(eq=False, repr=False)
class NGramLanguageModel(LeftToRight):
    """An n-gram model over a tokenizer's tokens; each end of text, or of a line of words, begins a sentence.

    Attributes:
        model: the n-grams.
        tokenizer: from text to ids.
        documents: how its training text was cut.
        bos: whether a sentence begins after `<s>`; otherwise its first word has no history.
        eos: whether the ends of sentences are scored.
        speller: see `LeftToRight`.
    """

    model: NGramModel
    tokenizer: Tokenizer
    documents: str = "line"
    bos: bool = True
    eos: bool = True
    speller: Speller | None = None

    def __post_init__(self) -> None:
        self.family, self.task = "ngram", "causal"
        self.step: int | None = None
        self._word_of = word_ids(self.tokenizer, self.model.vocabulary)
        # Kept: each access to a bound method gives a new object, for which decoders would compile again.
        self._kept_decoder = Decoder(self._prefill, self._step, params=None)

    def describe_context(self, stride: int | None = None) -> dict[str, Any]:
        """How many tokens the longest n-grams have, and what differs from the common way."""
        flags = {"normalised": self.model.normalised, "bos": self.bos, "eos": self.eos}
        return {"order": self.model.order} | {name: False for name, flag in flags.items() if not flag}

    def score(self, texts: Sequence[str], stride: int | None = None) -> list[ScoredText]:
        """Log-probabilities of each text after a beginning of sentence; `stride` has no effect.

        Without `eos`, the ends of sentences and of the text are not among the tokens.

        Args:
            texts: the texts.
            stride: accepted for the same signature as other families.

        Raises:
            UserError: a lone text or what is no text, or a text that the tokenizer cannot encode.
        """
        texts = as_texts(texts, "texts")
        check_stride(stride, None)
        if not texts:
            return []
        encodings = self.tokenizer.encode_batch(texts)
        end = np.array([self.tokenizer.end_id], np.int32)
        tokens = np.concatenate([end, *(part for e in encodings for part in (e.ids, end))])
        stream = make_stream(tokens, self._word_of)
        log_probs = self.model.score(stream, self.bos).log_probs[stream != BOS]
        ends = np.cumsum([len(e.ids) + 1 for e in encodings])
        parts = np.split(log_probs, ends[:-1])
        before = SPECIALS[BOS].decode() if self.bos else "nothing"
        scored = [one._replace(conditioned_on=before) for one in self._scores(texts, encodings, parts)]
        return scored if self.eos else list(map(self._without_ends, scored, encodings))

    def _without_ends(self, scored: ScoredText, encoding: Encoding) -> ScoredText:
        """A scored text without the ends of sentences; what they stand for is then not paid for."""
        kept = self._is_scored(np.append(encoding.ids, self.tokenizer.end_id))
        spans, log_probs, unknown = (x[kept] for x in (scored.spans, scored.log_probs, scored.unknown))
        return scored._replace(
            spans=spans, log_probs=log_probs, unknown=unknown, complete=False, log_spelling=None
        )

    def expect(
        self,
        texts: Sequence[str],
        among_V: np.ndarray | None = None,
        stride: int | None = None,
        since: Sequence[int] | None = None,
    ) -> list[ExpectedText]:
        """As `score`, with what the model expected at the place of each token; see `Expects`."""
        among_V = np.zeros(len(self._word_of), bool) if among_V is None else among_V
        made, end = [], np.array([self.tokenizer.end_id], np.int32)
        for i, (text, scored) in enumerate(zip(texts, self.score(texts, stride), strict=True)):
            stream = np.concatenate([end, self.tokenizer.encode(text).ids, end])
            kept = np.flatnonzero(self._is_scored(stream[1:]))
            asked_T = scored.ends_after(-1 if since is None else since[i])
            best_T, (log_shares_T, log_best_T) = np.zeros(len(kept), bool), np.full((2, len(kept)), np.nan)
            for t in np.flatnonzero(asked_T).tolist():
                place = kept[t] + 1
                history = stream[max(0, place - max(1, self.model.order - 1)) : place]
                log_probs_V = self._after(history)[self._word_of]
                best = log_probs_V.argmax()
                best_T[t], log_best_T[t] = best == stream[place], log_probs_V[best]
                with np.errstate(divide="ignore"):
                    log_shares_T[t] = np.log(np.exp(log_probs_V[among_V]).sum())
            made.append(ExpectedText(scored, best_T, log_shares_T, log_best_T))
        return made

    def logits(self, text: str, stride: int | None = None) -> Logits:
        """What the model expects at each place of a text: log-probabilities of the tokenizer's tokens.

        Arguments and errors are those of `score`.
        """
        check_stride(stride, None)
        stream = np.insert(self.tokenizer.encode(one_text(text)).ids, 0, self.tokenizer.end_id)
        length = max(1, self.model.order - 1)
        places = range(1, len(stream) + 1)
        rows = [self._after(stream[max(0, t - length) : t])[self._word_of] for t in places]
        ids = np.append(stream[1:], np.int32(self.tokenizer.end_id))
        return Logits(np.array(rows, np.float32), np.zeros(len(rows)), ids, self.tokenizer)

    def _is_scored(self, tokens: np.ndarray) -> np.ndarray:
        """bool [T], of the tokens of a text and its end: without `eos` the ends of sentences are not."""
        return np.full(len(tokens), True) if self.eos else tokens != self.tokenizer.end_id

    def _after(self, history: np.ndarray) -> np.ndarray:
        """Natural log p of each word of the vocabulary after tokens, float64; -1 is not a token."""
        words = self._word_of[history[history >= 0]]
        words[words == EOS] = BOS  # a token after an end begins a sentence
        if not self.bos:
            words = words[np.flatnonzero(np.append(BOS, words) == BOS)[-1] :]
        return self.model.next_log_probs(words)

    def next_log_probs(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Natural log of the probability of every token after each history; see `NextTokens`.

        The last column is the unknown word, where no token stands for it.
        """
        has_unknown = self.tokenizer.unknown_id is not None
        words = self._word_of if has_unknown else np.append(self._word_of, np.int32(UNK))
        begin = np.int32(self.tokenizer.end_id)
        rows = [self._after(np.append(begin, ids).astype(np.int32))[words] for ids in histories]
        return np.array(rows, np.float64).reshape(len(histories), len(words))

    def _decoder(self) -> Decoder:
        return self._kept_decoder

    def _log_probs(self, history_BN: np.ndarray) -> np.ndarray:
        """Natural log p of each token after the tokens of each history, float32 [B, V]; -1 is not a token.

        Unknown tokens have none, so that they are never generated: a softmax gives their share to the others.
        Nor do tokens with the probability that ARPA files write for 0.
        """
        distinct_UN, of_B = np.unique(np.asarray(history_BN), axis=0, return_inverse=True)
        rows_UV = np.empty((len(distinct_UN), len(self._word_of)), np.float32)
        for row_V, history in zip(rows_UV, distinct_UN):
            log_probs = self._after(history)
            log_probs[UNK] = -np.inf
            log_probs[log_probs < _LEAST] = -np.inf
            row_V[:] = log_probs[self._word_of]
        return rows_UV[of_B.reshape(-1)]

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
