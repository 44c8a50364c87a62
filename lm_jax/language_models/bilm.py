"""Bidirectional language models such as ELMo: vectors of words in their sentences, and scores."""

import hashlib
from collections.abc import Container, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from lm_jax.errors import UserError
from lm_jax.language_models.base import PseudoScored, ScoredText
from lm_jax.language_models.causal import CausalLanguageModel, log_probs
from lm_jax.language_models.options import as_texts
from lm_jax.language_models.trained import Trained, shared
from lm_jax.models.elmo import ELMoConfig, State, init, init_state, mix_layers
from lm_jax.parallel.distributed import share
from lm_jax.text.base import Encoding
from lm_jax.text.characters import spell, spell_marks

_MARKS = 2  # the words before and after a sentence
_SENTENCES_PER_BATCH = 32
_MULTIPLE = 8  # of the words of a row
_WORDS_PER_BATCH = 1024  # whose own vectors are computed at a time


class EmbeddedSentences(NamedTuple):
    """The vectors of the words of sentences, without the marks of their begin and end.

    Attributes:
        layers_LBTD: float32, a vector for each layer, sentence and word, 0 at padding; layer 0 is the word's
            own vector. The first half of D is the forward direction's, the second the backward one's.
        mix_BTD: float32, the weighted sum of the layers.
        mask_BT: bool, False at padding.
        state: to be carried to the next call; None where the sentences were read in batches.
    """

    layers_LBTD: np.ndarray
    mix_BTD: np.ndarray
    mask_BT: np.ndarray
    state: State | None


class BiLM:
    """An ELMo, as AllenNLP published it, or with random weights.

    Args:
        config: the shape.
        params: the variables; None: random ones of seed 0.
    """

    family, task, evaluator, documents = "elmo", "none", "none", "line"
    step: int | None = None

    def __init__(self, config: ELMoConfig, params: Any = None):
        self.config = config
        self.params = init(config, jax.random.key(0)) if params is None else jax.device_put(params)
        self._known: dict[bytes, np.ndarray] = {}  # see `precompute`
        self._apply, self._encode = shared(_compiled, config.make())

    @property
    def _marks(self) -> np.ndarray:
        """The characters of the words before and after a sentence, int32 [2, C]."""
        return np.stack(spell_marks(self.config.word_length))

    def first_state(self, num_sentences: int) -> State:
        """The state before the first sentences, for calls of `embed` that carry it."""
        return init_state(self.config, num_sentences)

    def embed(
        self,
        sentences: Sequence[Sequence[str]],
        *,
        weights: Sequence[float] | None = None,
        gamma: float = 1.0,
        layer_norm: bool = False,
        state: State | None = None,
        cut: bool = False,
    ) -> EmbeddedSentences:
        """The vectors of all words after each layer, and their mix: Peters et al. 2018, equation 1.

        Args:
            sentences: the words of each sentence.
            weights: one for each layer, before the softmax; None: equal ones.
            gamma: a factor of the mix.
            layer_norm: whether the layers are normalised over all words before they are mixed.
            state: what `first_state` or the last call gave, to read row by row on from there, as AllenNLP
                does; None: each sentence is read from a fresh state.
            cut: whether only the first bytes are read of words that are too long.

        Raises:
            UserError: no sentences, an empty one, an empty word or one that is too long, a wrong number of
                weights, or a state of another number of sentences.
        """
        words = _checked(sentences, self.config.word_length - 2, cut)
        num_layers = self.config.num_layers + 1
        weights_L = np.zeros(num_layers) if weights is None else np.asarray(weights, float)
        if weights_L.shape != (num_layers,):
            raise UserError(f"{weights_L.size} weights for {num_layers} layers", "give one for each layer")
        if state is not None and (rows := len(state[0][0].h_BP)) != len(words):
            raise UserError(
                f"a state of {rows} sentences for {len(words)}", "give as many in each call that carries it"
            )
        lengths_B = np.array([len(row) for row in words])
        mask_BT = np.arange(lengths_B.max())[None] < lengths_B[:, None]
        layers_LBTD = np.zeros((num_layers, *mask_BT.shape, 2 * self.config.d_model), np.float32)
        for group_b, made_LbTD, last in self._batches(words, state):
            after = last if len(group_b) == len(words) else None
            layers_LBTD[:, group_b, : made_LbTD.shape[2]] = made_LbTD
        layers_LBTD *= mask_BT[None, ..., None]  # the mark after a sentence
        mix_BTD = np.asarray(mix_layers(layers_LBTD, mask_BT, weights_L, gamma, layer_norm))
        return EmbeddedSentences(layers_LBTD, mix_BTD, mask_BT, after)

    def each(
        self, sentences: Sequence[Sequence[str]], *, cut: bool = False
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The number of each sentence and its layers, float32 [L, T, D], from a fresh state, by length.

        Holds the vectors of one batch at a time, where `embed` holds all. Arguments and errors as there.
        """
        words = _checked(sentences, self.config.word_length - 2, cut)
        for group_b, made_LbTD, _ in self._batches(words, None):
            for i, sentence in enumerate(group_b):
                yield int(sentence), made_LbTD[:, i, : len(words[sentence])]

    def num_cut(self, sentences: Sequence[Sequence[str]]) -> int:
        """How many words are so long that only their first bytes are read."""
        most = self.config.word_length - 2
        return sum(len(_utf8(word)) > most for sentence in sentences for word in sentence)

    def _batches(
        self, words: Sequence[Sequence[bytes]], state: State | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, State]]:
        """Batches of similar length: the sentences' numbers, their layers, [L, b, T, D], and the state.

        With a state there is one batch, in the order of its rows.
        """
        lengths_B = np.array([len(row) for row in words])
        order, most = np.argsort(lengths_B, kind="stable"), _SENTENCES_PER_BATCH
        if state is not None:
            order, most = np.arange(len(words)), len(words)
        for first in range(0, len(words), most):
            group_b = order[first : first + most]
            made, after = self._read([words[i] for i in group_b], state)
            yield group_b, np.asarray(made, np.float32)[:, :, 1 : lengths_B[group_b].max() + 1], after

    def word_vectors(self, words: Sequence[str]) -> np.ndarray:
        """The own vectors of words, whatever their contexts: float32 [N, P].

        `<S>` and `</S>` are the marks of a sentence's begin and end. Of words that are too long the first
        bytes are read.
        """
        marks = {name: self._marks[i] for i, name in enumerate(("<S>", "</S>"))}
        rows_NC = spell([_utf8(word) for word in words], self.config.word_length)
        for row_C, word in zip(rows_NC, words, strict=True):
            row_C[:] = marks.get(word, row_C)
        made = [np.zeros((0, self.config.d_model), np.float32)]
        for first in range(0, len(rows_NC), _WORDS_PER_BATCH):
            some_WC = rows_NC[first : first + _WORDS_PER_BATCH]
            filled_WC = np.resize(some_WC, (_rows(len(some_WC)), self.config.word_length))
            made.append(np.asarray(self._encode(self.params, filled_WC), np.float32)[: len(some_WC)])
        return np.concatenate(made)

    def encoder_sha256(self) -> str:
        """SHA-256 of what makes words' own vectors: the parameters of the encoder and the marks."""
        digest = hashlib.sha256(self._marks.tobytes())
        for leaf in jax.tree.leaves(jax.device_get(self.params["params"]["encoder"])):
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()

    def precompute(self, words: Sequence[str], vectors_NP: np.ndarray | None = None) -> None:
        """Keeps the own vectors of words, so that `embed` and `each` do not compute them from characters.

        Args:
            words: a vocabulary; words outside it are read as before.
            vectors_NP: what `word_vectors` gave for them; None: it is called.

        Raises:
            UserError: vectors of another shape.
        """
        vectors_NP = self.word_vectors(words) if vectors_NP is None else np.asarray(vectors_NP, np.float32)
        if vectors_NP.shape != (len(words), self.config.d_model):
            raise UserError(
                f"vectors of shape {vectors_NP.shape} for {len(words)} words of width {self.config.d_model}",
                "give the vectors of this vocabulary, made by this model",
            )
        self._known = {_utf8(word): vector_P for word, vector_P in zip(words, vectors_NP, strict=True)}

    def _read(self, sentences: Sequence[Sequence[bytes]], state: State | None) -> tuple[Any, State]:
        """The layers of one batch of sentences, with their marks, and the state."""
        words_BT, distinct = _number(sentences, self._known)
        num_spelled = sum(word not in self._known for word in distinct)
        spelled, known = distinct[:num_spelled], distinct[num_spelled:]
        characters_WC = np.zeros((_rows(num_spelled + _MARKS), self.config.word_length), np.int32)
        characters_WC[:_MARKS] = self._marks
        characters_WC[_MARKS : _MARKS + num_spelled] = spell(spelled, self.config.word_length)
        if not self._known:
            return self._apply(self.params, characters_WC, words_BT, state)
        vectors_KP = np.zeros((_rows(len(known)), self.config.d_model), np.float32)
        for vector_P, word in zip(vectors_KP, known):
            vector_P[:] = self._known[word]
        words_BT[words_BT >= num_spelled + _MARKS] += len(characters_WC) - num_spelled - _MARKS
        return self._apply(self.params, characters_WC, words_BT, state, vectors_KP)


class BidirectionalLanguageModel(BiLM, CausalLanguageModel):
    """A bidirectional language model that was trained here, with its softmax and its vocabulary.

    `score` and `generate` are those of the forward direction, a left-to-right model of words.
    """

    config: ELMoConfig

    def __init__(self, trained: Trained):
        CausalLanguageModel.__init__(self, trained)
        self._known: dict[bytes, np.ndarray] = {}
        self._apply, self._encode = shared(_compiled, self.module)
        self._back_scorer, self._layers = shared(_trained_functions, self.module)
        self._id_of: dict[bytes, int] = {}
        if not self.config.spells:
            self._id_of = {self.tokenizer.token_bytes(i): i for i in range(self.tokenizer.vocab_size)}

    @property
    def _marks(self) -> np.ndarray:
        """In training the end token stands around each sentence and each document."""
        return np.stack([spell_marks(self.config.word_length)[1]] * 2)

    def score_back(self, texts: Sequence[str]) -> list[ScoredText]:
        """As `score`, from the right: log-probabilities of each text, given the end token behind it.

        A token's probability is given all that follow it. The first one is the mark before the text, which
        is scored as the end is by `score`.
        """
        texts = as_texts(texts, "texts")
        encodings = self.tokenizer.encode_batch(texts)
        begin, end = (np.array([i], np.int32) for i in (self.tokenizer.begin_id, self.tokenizer.end_id))
        streams = [np.concatenate([end, e.ids[::-1], begin]) for e in encodings]
        score = partial(self._score_carried, self._back_scorer)
        found = share(score, streams, [len(stream) - 1 for stream in streams])
        return list(map(self._scored_back, self._scores(texts, encodings, found), encodings))

    def _scored_back(self, ahead: ScoredText, encoding: Encoding) -> ScoredText:
        """The scored text, from one whose log-probabilities are in the order of reading."""
        return ahead._replace(
            spans=np.concatenate([[[0, 0]], encoding.spans]),
            log_probs=ahead.log_probs[::-1],
            unknown=np.concatenate([[False], ahead.unknown[:-1]]),
            complete=False,  # words are spelled from left to right
            log_spelling=None,
        )

    def pseudo_score(self, texts: Sequence[str]) -> list[PseudoScored]:
        """For each word the sum of its forward and its backward log-probability; the marks are left out."""
        label = "forward + backward log-probability, which compares with no left-to-right probability"
        return [
            PseudoScored(a.text, b.spans[1:], a.log_probs[:-1] + b.log_probs[1:], label)
            for a, b in zip(self.score(texts), self.score_back(texts), strict=True)
        ]

    def _read(self, sentences: Sequence[Sequence[bytes]], state: State | None) -> tuple[Any, State]:
        if self.config.spells:
            return super()._read(sentences, state)
        words_BT, distinct = _number(sentences, {})
        end, unknown = self.tokenizer.end_id, self.tokenizer.unknown_id
        ids = np.array([end, end, *(self._id_of.get(word, unknown) for word in distinct)], np.int32)
        segments_BT = np.where(words_BT < 0, -1, 0).astype(np.int32)
        return self._layers(self.params, ids[words_BT], state, segments_BT)


def _number(sentences: Sequence[Sequence[bytes]], known: Container[bytes]) -> tuple[np.ndarray, list[bytes]]:
    """Sentences as rows of the places of their words among the distinct ones, and these, the known ones last.

    Places begin behind those of the two marks, 0 and 1, which stand around each sentence; -1 is padding.
    """
    words = sorted(dict.fromkeys(w for row in sentences for w in row), key=lambda word: word in known)
    places = {word: i for i, word in enumerate(words, _MARKS)}
    T = -(-(max(map(len, sentences)) + _MARKS) // _MULTIPLE) * _MULTIPLE
    words_BT = np.full((len(sentences), T), -1, np.int32)
    for row, sentence in zip(words_BT, sentences, strict=True):
        row[: len(sentence) + _MARKS] = [0, *(places[word] for word in sentence), 1]
    return words_BT, words


def _rows(number: int) -> int:
    """A power of two of at least so many, that few shapes are compiled."""
    return 1 << max(0, number - 1).bit_length()


def _compiled(module: nn.Module) -> tuple[Any, Any]:
    layers, vectors = (partial(module.apply, method=f"spelled_{what}") for what in ("layers", "vectors"))
    return jax.jit(layers), jax.jit(vectors)


def _trained_functions(module: nn.Module) -> tuple[Any, Any]:
    scorer = partial(log_probs, module, method="hidden_back")
    return jax.jit(scorer), jax.jit(partial(module.apply, method="layers"))


def _utf8(word: str) -> bytes:
    return word.encode(errors="surrogateescape")


def _checked(sentences: Sequence[Sequence[str]], most: int, cut: bool) -> list[list[bytes]]:
    """The words as bytes."""
    if isinstance(sentences, str) or not len(sentences):
        raise UserError("no sentences", 'give lists of words, such as [["I", "ate"]]')
    made = []
    for number, sentence in enumerate(sentences):
        if isinstance(sentence, str):
            raise UserError(f"sentence {number} is a string", "split it into a list of words")
        if not len(sentence):
            raise UserError(f"sentence {number} has no words", "leave it out")
        words = [_utf8(word) for word in sentence]
        for word in words:
            if not word:
                raise UserError(f"sentence {number} has an empty word", "leave it out")
            if len(word) > most and not cut:
                raise UserError(
                    f"a word of {len(word)} bytes in sentence {number}, and the model reads {most}",
                    "give cut=True to read its first bytes, as the published models do",
                )
        made.append(words)
    return made
