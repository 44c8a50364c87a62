"""ELMo's bidirectional language model (Peters et al. 2018): vectors of words in their contexts.

A word's characters give its vector by a convolution (Kim et al. 2016), highways (Srivastava et al. 2015) and
a projection; or it has a vector of its own. Two stacks of LSTMs with projections read the vectors, one from
the left and one from the right. The directions never mix; a layer's vector of a word is both outputs side by
side. One softmax predicts the next word of the one and the previous word of the other.

Shape letters, beside those of `recurrent.py`:
    W  distinct words of a batch    C  characters of a word    T  words of a sentence, with its two marks
    L  layers, with the words' own vectors as the first one    D  2 · P
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax.errors import UserError
from lm_jax.models.base import CONSTANTS, ModelConfig, Size
from lm_jax.models.characters import CharacterEncoder, encoder
from lm_jax.models.distinct import encode_distinct
from lm_jax.models.heads import AdaptiveSoftmax, TokenHead, check_cutoffs, mask_padding, mix
from lm_jax.models.layers import Dropout, Embed
from lm_jax.models.products import matmul_transposed
from lm_jax.models.recurrent import (
    CarriesState,
    LayerState,
    RecurrentLayer,
    first_state,
    real_restarts,
    uniform,
)
from lm_jax.text.characters import SLOTS, spell_vocabulary

_CHOICES = {
    "activation": ("relu", "tanh"),
    "encoder": ("characters", "words"),
    "mix": ("trained", "equal", "top", "bottom"),
    "dtype": ("float32", "bfloat16"),
}
_LAYER_NORM_EPSILON = 1e-13  # as AllenNLP's scalar mix
_CHARACTERS = "characters"

Direction = tuple[LayerState, ...]  # the states of the layers of a direction
# The states of the two directions of each layer: the forward one, and the backward one.
State = tuple[tuple[LayerState, LayerState], ...]


@dataclass(frozen=True)
class ELMoConfig(ModelConfig):
    """The shape of the model; the defaults are the published original model's.

    Attributes:
        d_model: P, the width of a word's vector and of a direction's output.
        hidden: H, the units of an LSTM.
        num_layers: LSTMs of each direction.
        cell_clip: the largest absolute value of an LSTM's memory; 0: any.
        projection_clip: that of its output; 0: any.
        residual: whether each layer from the second on adds its input to its output.
        encoder: whether a word is read by its "characters", or "words" have vectors of their own.
        character_dim: the width of a character's vector.
        filters: the width and the number of each group of filters.
        num_highways: highways behind the filters.
        activation: behind the maximum over a word's places.
        word_length: C, the characters that are read of a word, with its two marks.
        tied_head: whether the softmax has the vectors of `encoder` "words".
        adaptive_cutoffs: ids at which the clusters of an adaptive softmax begin; (): none.
        adaptive_ratio: how much narrower each cluster is than what comes before it.
        dropout: of what each LSTM and the softmax read.
        mix: which layers a head for labels reads: "trained", a weighted sum of all whose weights are
            trained; "equal", their mean; "top", the last one alone; "bottom", the words' own vectors alone.
        dtype: of products, or bfloat16; parameters, gates and state are float32.
    """

    family: ClassVar[str] = "elmo"
    reads: ClassVar[str] = "each side"
    adapter: ClassVar[str] = "bidirectional"
    pooling: ClassVar[str] = "mean"

    d_model: int = 512
    hidden: int = 4096
    num_layers: int = 2
    cell_clip: float = 3.0
    projection_clip: float = 3.0
    residual: bool = True
    encoder: str = "characters"
    character_dim: int = 16
    filters: tuple[tuple[int, int], ...] = (
        (1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024),
    )  # fmt: skip
    num_highways: int = 2
    activation: str = "relu"
    word_length: int = SLOTS
    tied_head: bool = False
    adaptive_cutoffs: tuple[int, ...] = ()
    adaptive_ratio: float = 4.0
    dropout: float = 0.0
    mix: str = "trained"
    dtype: str = "float32"

    def check(self) -> None:
        """Raises UserError for a value out of range, or two that do not go together."""
        for name in ("d_model", "hidden", "num_layers", "character_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} of an ELMo", "give 1 or more")
        for name in ("cell_clip", "projection_clip", "num_highways"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} of an ELMo", "give 0 or more")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(
                    f"{name}={getattr(self, name)!r} of an ELMo", f"choose {' or '.join(choices)}"
                )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout} of an ELMo", "it must lie in [0, 1)")
        self._check_words()
        check_cutoffs(self.adaptive_cutoffs, self.adaptive_ratio, self.vocab_size)
        if self.tied_head and (self.encoder != "words" or self.adaptive_cutoffs):
            wrong = "adaptive_cutoffs" if self.adaptive_cutoffs else f"encoder={self.encoder}"
            raise UserError(f"tied_head with {wrong} of an ELMo", "set tied_head=no, or the other one back")

    def _check_words(self) -> None:
        if self.word_length < 3:
            raise UserError(f"word_length={self.word_length} of an ELMo", "give 3 or more")
        is_good = [
            len(pair) == 2 and 0 < pair[0] <= self.word_length and pair[1] > 0 for pair in self.filters
        ]
        if not is_good or not all(is_good):
            raise UserError(
                f"filters={self.filters} of an ELMo with words of {self.word_length} characters",
                "give one or more pairs of a width within a word and a number above 0, as 1:32,2:64",
            )

    def make(self) -> nn.Module:
        """The module."""
        return ELMo(self)

    @property
    def character_fields(self) -> tuple[Any, ...]:
        """The fields of its `CharacterEncoder`."""
        sizes = (self.d_model, self.filters, self.character_dim, self.num_highways)
        return (*sizes, self.activation, self.dtype)

    @property
    def num_filters(self) -> int:
        """The filters of all widths."""
        return sum(number for _, number in self.filters)

    @property
    def spells(self) -> bool:
        """Whether words are read by their characters."""
        return self.encoder == "characters"

    def free(self) -> frozenset[str]:
        """Dropout, what a head reads, and the vocabulary of a model that reads characters."""
        names = frozenset({"dtype", "dropout", "mix"})
        return names | {"vocab_size", "num_tokens"} if self.spells else names

    def resolved(self, vocab_size: int, length: int) -> Self:
        """See `ModelConfig.resolved`; a model of characters takes any vocabulary."""
        if self.spells:
            return replace(self, vocab_size=vocab_size, num_tokens=vocab_size)
        return super().resolved(vocab_size, length)

    def with_vocabulary(self, variables: Any, token_bytes: Sequence[bytes]) -> Any:
        """The variables with the characters of each word of a vocabulary."""
        if not self.spells:
            return variables
        table_VC = jnp.asarray(spell_vocabulary(token_bytes, self.word_length), jnp.int16)
        return {**variables, CONSTANTS: jax.tree.map(lambda _: table_VC, variables[CONSTANTS])}

    def size(self, length: int) -> Size:
        """The matrices, and the outputs of the LSTMs."""
        P, H, F = self.d_model, self.hidden, self.num_filters
        parameters = 2 * self.num_layers * (8 * P * H + P * H)
        if self.spells:
            parameters += sum(w * self.character_dim * n for w, n in self.filters)
            parameters += self.num_highways * 2 * F * F + (F * P if F != P else 0)
        parameters += self.vocab_size * P * (self.encoder == "words")
        parameters += (self.adaptive_cutoffs or (self.vocab_size,))[0] * P * (not self.tied_head)
        return Size(parameters, 2 * self.num_layers * P)


class ELMo(CarriesState):
    """The two directions above the words' vectors, and the softmax.

    Published models have no softmax: their config has no vocabulary. `hidden`, `logits`, `prefill` and `step`
    are those of the forward direction, a left-to-right model.

    A model of characters has in the collection "constants" the characters of each word of the vocabulary,
    int16 [V, C]; see `ELMoConfig.with_vocabulary`.
    """

    config: ELMoConfig

    def setup(self) -> None:
        """The submodules, named as parameters are."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        c.check()
        if c.spells:
            self.encoder = CharacterEncoder(*c.character_fields)
        else:
            self.token_embedding = Embed(c.vocab_size, c.d_model, dtype, uniform(0.1))
        self.forward = [self._layer(dtype) for _ in range(c.num_layers)]
        self.backward = [self._layer(dtype) for _ in range(c.num_layers)]
        self.drop = Dropout(c.dropout)
        if c.adaptive_cutoffs:
            self.head: nn.Module = AdaptiveSoftmax(c.vocab_size, c.adaptive_cutoffs, c.adaptive_ratio)
        elif c.vocab_size and not c.tied_head:
            self.head = TokenHead(c.vocab_size, c.d_model)

    def _layer(self, dtype: Any) -> RecurrentLayer:
        config = self.config
        return RecurrentLayer(
            "lstm", config.hidden, config.d_model, forget_bias=1.0, dtype=dtype,
            cell_clip=config.cell_clip, projection_clip=config.projection_clip,
        )  # fmt: skip

    def __call__(
        self,
        tokens_BT: jax.Array,
        state: Direction | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, Direction]:
        """The forward direction's logits, float32 [B, T, V], and state; makes all parameters in `init`."""
        if self.is_initializing():
            self.hidden_back(tokens_BT)
        return super().__call__(tokens_BT, state, segments, train)

    def spelled_layers(
        self,
        characters_WC: jax.Array,
        words_BT: jax.Array,
        state: State | None = None,
        vectors_KP: jax.Array | None = None,
    ) -> tuple[jax.Array, State]:
        """`layers` of words that are given by their characters, whatever the vocabulary.

        Args:
            characters_WC: int, the characters of the distinct words; see `text.characters.spell`.
            words_BT: int, the words of sentences, as rows of `characters_WC`; negative at padding.
            state: of an earlier call; None: zeros.
            vectors_KP: own vectors of further words, which in `words_BT` have the numbers from W on.
        """
        known_NP = self.encoder(characters_WC)
        if vectors_KP is not None:
            known_NP = jnp.concatenate([known_NP, vectors_KP.astype(known_NP.dtype)])
        return self.layers_of(known_NP[jnp.maximum(words_BT, 0)], state, jnp.where(words_BT < 0, -1, 0))

    def spelled_vectors(self, characters_WC: jax.Array) -> jax.Array:
        """The own vectors, [W, P], of words that are given by their characters."""
        return self.encoder(characters_WC)

    def layers_of(
        self, x_BTP: jax.Array, state: State | None, segments: jax.Array | None, train: bool = False
    ) -> tuple[jax.Array, State]:
        """`layers`, of the words' own vectors."""
        state = init_state(self.config, len(x_BTP)) if state is None else state
        flipped = None if segments is None else segments[:, ::-1]
        ahead, ahead_state = self._read(self.forward, x_BTP, tuple(s[0] for s in state), segments, train)
        before = tuple(s[1] for s in state)
        back, back_state = self._read(self.backward, x_BTP[:, ::-1], before, flipped, train)
        layers_LBTD = jnp.stack(
            [jnp.concatenate([f, b[:, ::-1]], axis=-1) for f, b in zip(ahead, back, strict=True)]
        )
        if segments is not None:
            layers_LBTD = jnp.where(segments[None, ..., None] >= 0, layers_LBTD, 0)
        return layers_LBTD, tuple(zip(ahead_state, back_state, strict=True))

    def layers(
        self,
        tokens_BT: jax.Array,
        state: State | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, State]:
        """The vectors of words after each layer.

        Args:
            tokens_BT: int token ids.
            state: of an earlier call; None: zeros.
            segments: int [B, T]; both directions start anew where it changes. At negative numbers, padding,
                the states stay as they are.
            train: whether dropout is on; needs `rngs={"dropout": key}`.

        Returns:
            [L, B, T, D], 0 at padding, and the state: the forward direction's after the last word, the
            backward one's after the first.
        """
        return self.layers_of(self.vectors(tokens_BT), state, segments, train)

    def encode(
        self,
        tokens_BT: jax.Array,
        segments: jax.Array | None = None,
        types: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """The vectors after the last layer, [B, T, D]; `types` have no effect."""
        return self.layers(tokens_BT, None, segments, train)[0][-1]

    def vectors(self, tokens_BT: jax.Array) -> jax.Array:
        """The words' own vectors, [B, T, P]."""
        c = self.config
        if not c.spells:
            return self.token_embedding(tokens_BT)
        if self.is_initializing():
            shape = (c.vocab_size, c.word_length)
            self.put_variable(CONSTANTS, _CHARACTERS, jnp.zeros(shape, jnp.int16))
            self.encoder(jnp.zeros((1, c.word_length), jnp.int32))
        table_VC: jax.Array = self.get_variable(CONSTANTS, _CHARACTERS)
        return encode_distinct(encoder(*c.character_fields), self.encoder.variables, table_VC, tokens_BT)

    def hidden(
        self,
        tokens_BT: jax.Array,
        state: Direction | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, Direction]:
        """What the softmax reads of the forward direction, [B, T, P]; see `base.LeftToRight`."""
        return self._last(self.forward, self.vectors(tokens_BT), state, segments, train)

    def hidden_back(
        self,
        tokens_BT: jax.Array,
        state: Direction | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, Direction]:
        """`hidden` of the backward direction, of tokens in the order of its reading, from the right."""
        return self._last(self.backward, self.vectors(tokens_BT), state, segments, train)

    def hidden_both(
        self,
        ahead_BT: jax.Array,
        back_BT: jax.Array,
        state: tuple[Direction, Direction] | None,
        segments: tuple[jax.Array | None, jax.Array | None],
        train: bool = False,
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[Direction, Direction]]:
        """`hidden` and `hidden_back`, with the vector of each distinct word computed once."""
        x_BTP = self.vectors(jnp.concatenate([ahead_BT, back_BT], axis=1))
        ahead_BTP, back_BTP = jnp.split(x_BTP, [ahead_BT.shape[1]], axis=1)
        before = (None, None) if state is None else state
        ahead, ahead_state = self._last(self.forward, ahead_BTP, before[0], segments[0], train)
        back, back_state = self._last(self.backward, back_BTP, before[1], segments[1], train)
        return (ahead, back), (ahead_state, back_state)

    def _last(self, stack: Any, x_BTP: Any, state: Any, segments: Any, train: bool) -> tuple[jax.Array, Any]:
        state = self.init_state(len(x_BTP)) if state is None else state
        outputs, state = self._read(stack, x_BTP, state, segments, train)
        return self.drop(outputs[-1], deterministic=not train), state

    def _read(
        self, stack: Any, x_BTP: jax.Array, before: Direction, segments: Any, train: bool
    ) -> tuple[list[jax.Array], Direction]:
        """The input and the output of each layer of a direction, [B, T, P], and the states after them."""
        keep_TB1 = real_TB1 = None
        if segments is not None:
            keep_TB1 = 1 - real_restarts(segments).T[..., None].astype(jnp.float32)
            real_TB1 = (segments >= 0).T[..., None].astype(jnp.float32)
        x_TBP, outputs, after = jnp.swapaxes(x_BTP, 0, 1), [x_BTP], []
        for i, (layer, layer_state) in enumerate(zip(stack, before, strict=True)):
            x_TBP = self.drop(x_TBP, deterministic=not train)
            h_TBP, last = layer(x_TBP, layer_state, keep_TB1, train, real_TB1)
            x_TBP = x_TBP + h_TBP if i and self.config.residual else h_TBP
            outputs.append(jnp.swapaxes(x_TBP, 0, 1))
            after.append(last)
        return outputs, tuple(after)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Unnormalised natural-log probabilities of the next token, float32 [..., V]; of the previous one
        where the backward direction gave `hidden`.
        """
        if self.config.tied_head:
            logits = matmul_transposed(hidden, self.token_embedding.embedding)
        else:
            logits = self.head(hidden)
        return mask_padding(logits, self.config.known_tokens)

    def logits_of(self, hidden: jax.Array, ids_K: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The logits of the tokens `ids_K`, float32 [..., K], and of one token at each position, [...]."""
        return self.head.of(hidden, ids_K), self.head.of_each(hidden, ids)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int = 0) -> Direction:
        """A direction's states before its first token; `length` is accepted, since other families need it."""
        one = first_state("lstm", batch_size, self.config.hidden, self.config.d_model)
        return (one,) * self.config.num_layers


def init_state(config: ELMoConfig, batch_size: int) -> State:
    """The states before the first word: zeros."""
    one = first_state("lstm", batch_size, config.hidden, config.d_model)
    return ((one, one),) * config.num_layers


def init(config: ELMoConfig, key: jax.Array) -> Any:
    """Random variables of a model of this shape, without a softmax."""
    words_11 = jnp.zeros((1, 1), jnp.int32)
    characters_1C = jnp.zeros((1, config.word_length), jnp.int32)
    module = ELMo(replace(config, vocab_size=0, num_tokens=0))
    return jax.jit(partial(module.init, method="spelled_layers"))(key, characters_1C, words_11)


def mix_layers(
    layers_LBTD: Any, mask_BT: Any, weights_L: Any, gamma: Any = 1.0, norm: bool = False
) -> jax.Array:
    """ELMo's vectors, γ · Σ softmax(weights) · layer: Peters et al. 2018, equation 1.

    Args:
        layers_LBTD: the layers.
        mask_BT: bool, False at padding.
        weights_L: a weight for each layer, before the softmax.
        gamma: γ.
        norm: whether each layer is first normalised to mean 0 and variance 1 over all numbers of the batch
            that are no padding, as AllenNLP does.

    Returns:
        float32 [B, T, D], 0 at padding.
    """
    mask_1BT1 = mask_BT[None, ..., None]
    if norm:
        axes = (1, 2, 3)
        number = jnp.maximum(mask_BT.sum() * layers_LBTD.shape[-1], 1)
        mean_L111 = jnp.where(mask_1BT1, layers_LBTD, 0).sum(axes, keepdims=True) / number
        centred_LBTD = jnp.where(mask_1BT1, layers_LBTD - mean_L111, 0)
        variance_L111 = jnp.square(centred_LBTD).sum(axes, keepdims=True) / number
        layers_LBTD = centred_LBTD / jnp.sqrt(variance_L111 + _LAYER_NORM_EPSILON)
    mixed_BTD = mix(jnp.asarray(layers_LBTD), jnp.asarray(weights_L), gamma)
    return jnp.where(mask_BT[..., None], mixed_BTD, 0)
