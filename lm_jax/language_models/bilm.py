"""Bidirectional language models such as ELMo: vectors of words in their sentences."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from lm_jax.errors import UserError
from lm_jax.language_models.trained import shared
from lm_jax.models.elmo import ELMoConfig, State, init, init_state, mix_layers
from lm_jax.text.characters import spell, spell_marks

_MARKS = 2  # the words before and after a sentence
_SENTENCES_PER_BATCH = 32
_MULTIPLE = 8  # of the words of a row


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
        self._apply = shared(_compiled, config.make())

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
            yield group_b, np.asarray(made)[:, :, 1 : lengths_B[group_b].max() + 1], after

    def _read(self, sentences: Sequence[Sequence[bytes]], state: State | None) -> tuple[Any, State]:
        """The layers of one batch of sentences, with their marks, and the state."""
        distinct = {word: i for i, word in enumerate(dict.fromkeys(w for row in sentences for w in row), 2)}
        T = -(-(max(map(len, sentences)) + _MARKS) // _MULTIPLE) * _MULTIPLE
        words_BT = np.full((len(sentences), T), -1, np.int32)
        for row, sentence in zip(words_BT, sentences, strict=True):
            row[: len(sentence) + _MARKS] = [0, *(distinct[word] for word in sentence), 1]
        num_rows = 1 << (len(distinct) + _MARKS - 1).bit_length()  # few shapes
        characters_WC = np.zeros((num_rows, self.config.word_length), np.int32)
        characters_WC[:_MARKS] = spell_marks(self.config.word_length)
        characters_WC[_MARKS : _MARKS + len(distinct)] = spell(list(distinct), self.config.word_length)
        return self._apply(self.params, characters_WC, words_BT, state)


def _compiled(module: nn.Module) -> Any:
    return jax.jit(module.apply)


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
