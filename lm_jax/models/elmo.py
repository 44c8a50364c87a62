"""ELMo's bidirectional language model (Peters et al. 2018): vectors of words in their contexts.

A word's characters give its vector by a convolution (Kim et al. 2016), highways (Srivastava et al. 2015) and
a projection. Two stacks of LSTMs with projections read the vectors, one from the left and one from the right.
The directions never mix; a layer's vector of a word is both outputs side by side.

Shape letters, beside those of `recurrent.py`:
    W  distinct words of a batch    C  characters of a word    T  words of a sentence, with its two marks
    L  layers, with the words' own vectors as the first one    D  2 · P
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax.errors import UserError
from lm_jax.models.base import ModelConfig
from lm_jax.models.recurrent import LayerState, RecurrentLayer, first_state
from lm_jax.text.characters import NUM_CHARACTERS, SLOTS

Activation = Literal["relu", "tanh"]
_LAYER_NORM_EPSILON = 1e-13  # as AllenNLP's scalar mix

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
        character_dim: the width of a character's vector.
        filters: the width and the number of each group of filters.
        num_highways: highways behind the filters.
        activation: behind the maximum over a word's places.
        word_length: C, the characters that are read of a word, with its two marks.
    """

    family: ClassVar[str] = "elmo"
    reads: ClassVar[str] = "both sides"
    adapter: ClassVar[str] = "bilm"

    d_model: int = 512
    hidden: int = 4096
    num_layers: int = 2
    cell_clip: float = 3.0
    projection_clip: float = 3.0
    residual: bool = True
    character_dim: int = 16
    filters: tuple[tuple[int, int], ...] = (
        (1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024),
    )  # fmt: skip
    num_highways: int = 2
    activation: Activation = "relu"
    word_length: int = SLOTS

    def check(self) -> None:
        """Raises UserError for a size or a clip out of range, or filters wider than a word."""
        for name in ("d_model", "hidden", "num_layers", "character_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} of an ELMo", "give 1 or more")
        for name in ("cell_clip", "projection_clip", "num_highways"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} of an ELMo", "give 0 or more")
        if self.activation not in get_args(Activation):
            raise UserError(f"activation={self.activation!r} of an ELMo", "choose relu or tanh")
        if self.word_length < 3:
            raise UserError(f"word_length={self.word_length} of an ELMo", "give 3 or more")
        if not self.filters or any(not (0 < w <= self.word_length and n > 0) for w, n in self.filters):
            raise UserError(
                f"filters={self.filters} of an ELMo with words of {self.word_length} characters",
                "give one or more pairs of a width within a word and a number above 0",
            )

    def make(self) -> nn.Module:
        """The module."""
        return ELMo(self)

    @property
    def num_filters(self) -> int:
        """The filters of all widths."""
        return sum(number for _, number in self.filters)


class CharacterEncoder(nn.Module):
    """Vectors of words by their characters: convolution, maximum, activation, highways, projection."""

    config: ELMoConfig

    @nn.compact
    def __call__(self, characters_WC: jax.Array) -> jax.Array:
        """Vectors [W, P] of words, from the numbers of their characters, int [W, C]."""
        config = self.config
        table = nn.Embed(NUM_CHARACTERS, config.character_dim, name="characters")
        x_WCE = table(characters_WC)
        found = [
            nn.Conv(number, (width,), padding="VALID", name=f"filters_{i}")(x_WCE).max(axis=1)
            for i, (width, number) in enumerate(config.filters)
        ]
        activation = nn.relu if config.activation == "relu" else jnp.tanh
        x_WF = activation(jnp.concatenate(found, axis=-1))
        for i in range(config.num_highways):
            x_WF = Highway(name=f"highway_{i}")(x_WF)
        if config.num_filters == config.d_model:
            return x_WF
        return nn.Dense(config.d_model, name="projection")(x_WF)


class Highway(nn.Module):
    """g · relu(x A + a) + (1 − g) · x with g = sigmoid(x B + b): Srivastava et al. 2015, equation 3."""

    @nn.compact
    def __call__(self, x_WF: jax.Array) -> jax.Array:
        """The same shape."""
        gate = nn.Dense(x_WF.shape[-1], bias_init=nn.initializers.constant(-2.0), name="gate")
        g_WF = nn.sigmoid(gate(x_WF))
        return g_WF * nn.relu(nn.Dense(x_WF.shape[-1], name="transform")(x_WF)) + (1 - g_WF) * x_WF


class ELMo(nn.Module):
    """The two directions above the characters."""

    config: ELMoConfig

    def setup(self) -> None:
        """The submodules."""
        self.encoder = CharacterEncoder(self.config)
        self.forward = [self._layer() for _ in range(self.config.num_layers)]
        self.backward = [self._layer() for _ in range(self.config.num_layers)]

    def _layer(self) -> RecurrentLayer:
        config = self.config
        return RecurrentLayer(
            "lstm", config.hidden, config.d_model, forget_bias=1.0,
            cell_clip=config.cell_clip, projection_clip=config.projection_clip,
        )  # fmt: skip

    def __call__(
        self, characters_WC: jax.Array, words_BT: jax.Array, state: State | None = None
    ) -> tuple[jax.Array, State]:
        """The vectors of words after each layer.

        Args:
            characters_WC: int, the characters of the distinct words; see `text.characters.spell`.
            words_BT: int, the words of sentences, as rows of `characters_WC`; negative at padding, where the
                states stay as they are. Padding is on the right.
            state: of an earlier call; None: zeros.

        Returns:
            float32 [L, B, T, D], 0 at padding, and the state: the forward direction's after the last word,
            the backward one's after the first.
        """
        real_BT = words_BT >= 0
        x_BTP = self.encoder(characters_WC)[jnp.maximum(words_BT, 0)]
        state = init_state(self.config, words_BT.shape[0]) if state is None else state
        before = [pair[0] for pair in state], [pair[1] for pair in state]
        real_TB1 = real_BT.T[..., None].astype(jnp.float32)
        x_TBP = jnp.swapaxes(x_BTP, 0, 1)
        ahead, ahead_state = self._read(self.forward, x_TBP, real_TB1, before[0])
        back, back_state = self._read(self.backward, x_TBP[::-1], real_TB1[::-1], before[1])
        layers_LTBD = jnp.stack(
            [jnp.concatenate([f, b[::-1]], axis=-1) for f, b in zip(ahead, back, strict=True)]
        )
        layers_LBTD = jnp.where(real_BT[None, ..., None], jnp.swapaxes(layers_LTBD, 1, 2), 0)
        return layers_LBTD, tuple(zip(ahead_state, back_state, strict=True))

    def _read(self, layers: Any, x_TBP: jax.Array, real_TB1: jax.Array, before: Any) -> tuple[Any, Any]:
        """The input and the output of each layer, and the states after them, in one direction."""
        outputs, after = [x_TBP], []
        for i, (layer, layer_state) in enumerate(zip(layers, before, strict=True)):
            h_TBP, last = layer(x_TBP, layer_state, None, False, real_TB1)
            x_TBP = x_TBP + h_TBP if i and self.config.residual else h_TBP
            outputs.append(x_TBP)
            after.append(last)
        return outputs, after


def init_state(config: ELMoConfig, batch_size: int) -> State:
    """The states before the first word: zeros."""
    one = first_state("lstm", batch_size, config.hidden, config.d_model)
    return ((one, one),) * config.num_layers


def init(config: ELMoConfig, key: jax.Array) -> Any:
    """Random variables of a model of this shape."""
    words_11 = jnp.zeros((1, 1), jnp.int32)
    return jax.jit(ELMo(config).init)(key, jnp.zeros((1, config.word_length), jnp.int32), words_11)


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
    shares_L = nn.softmax(jnp.asarray(weights_L, jnp.float32))
    mixed_BTD = gamma * jnp.einsum("l,lbtd->btd", shares_L, layers_LBTD)
    return jnp.where(mask_BT[..., None], mixed_BTD, 0)
