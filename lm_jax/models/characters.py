"""Vectors of words by their characters: a convolution, highways and a projection, as ELMo's.

Kim et al. 2016 (the convolution), Srivastava et al. 2015 (highways), Peters et al. 2018 (the projection).

Shape letters, beside those of `layers.py`:
    W  words    C  characters of a word    E  width of a character's vector    F  filters of all widths
    P  width of a word's vector
"""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax.models.distinct import Encoder
from lm_jax.models.layers import Dense, Embed
from lm_jax.models.products import matmul
from lm_jax.models.recurrent import uniform
from lm_jax.text.characters import NUM_CHARACTERS


class CharacterEncoder(nn.Module):
    """Vectors of words by their characters: convolution, maximum, activation, highways, projection."""

    d_model: int  # P
    filters: tuple[tuple[int, int], ...]  # the width and the number of each group
    character_dim: int  # E, the width of a character's vector
    num_highways: int = 2
    activation: str = "relu"  # or tanh
    dtype: str = "float32"  # of products

    @nn.compact
    def __call__(self, characters_WC: jax.Array) -> jax.Array:
        """Vectors [W, P] of words, from the numbers of their characters, int [W, C]."""
        dtype, first = jnp.dtype(self.dtype), nn.initializers.lecun_normal()
        table = Embed(NUM_CHARACTERS, self.character_dim, dtype, uniform(1.0), name="characters")
        x_WCE = table(characters_WC)
        found = [
            Filters(width, number, name=f"filters_{i}")(x_WCE)
            for i, (width, number) in enumerate(self.filters)
        ]
        activation = nn.relu if self.activation == "relu" else jnp.tanh
        x_WF = activation(jnp.concatenate(found, axis=-1))
        for i in range(self.num_highways):
            x_WF = Highway(name=f"highway_{i}")(x_WF)
        if x_WF.shape[1] == self.d_model:
            return x_WF
        return Dense(self.d_model, dtype, first, name="projection")(x_WF)


class Filters(nn.Module):
    """The largest product of each filter with the windows of a word, in the dtype of what it reads.

    A product with all windows side by side: its gradient is faster than that of XLA's convolution on a CPU.
    """

    width: int
    number: int

    @nn.compact
    def __call__(self, x_WCE: jax.Array) -> jax.Array:
        """Maps [W, C, E] to [W, number]."""
        num_windows, features = x_WCE.shape[1] - self.width + 1, x_WCE.shape[2]
        shape = (self.width, features, self.number)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.number,))
        windows = jnp.concatenate([x_WCE[:, i : i + num_windows] for i in range(self.width)], axis=-1)
        found = matmul(windows, kernel.reshape(-1, self.number)).max(axis=1)
        return (found + bias[None]).astype(x_WCE.dtype)


class Highway(nn.Module):
    """g · relu(x A + a) + (1 − g) · x with g = sigmoid(x B + b): Srivastava et al. 2015, equation 3."""

    @nn.compact
    def __call__(self, x_WF: jax.Array) -> jax.Array:
        """The same shape."""
        width, first = x_WF.shape[-1], nn.initializers.lecun_normal()
        g_WF = nn.sigmoid(_Gate(name="gate")(x_WF))
        return g_WF * nn.relu(Dense(width, x_WF.dtype, first, name="transform")(x_WF)) + (1 - g_WF) * x_WF


class _Gate(nn.Module):
    """A dense layer whose bias starts at −2: at first a highway passes on most of what it reads."""

    @nn.compact
    def __call__(self, x_WF: jax.Array) -> jax.Array:
        width = x_WF.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (width, width))
        bias = self.param("bias", nn.initializers.constant(-2.0), (width,))
        return (matmul(x_WF, kernel) + bias[None]).astype(x_WF.dtype)


@lru_cache(maxsize=64)
def encoder(*fields: Any) -> Encoder:
    """A `CharacterEncoder` with these fields as a function, the same one each time."""
    return partial(_encode, CharacterEncoder(*fields, parent=None))


def _encode(module: nn.Module, variables: Any, characters_WC: jax.Array) -> jax.Array:
    made: Any = module.apply({"params": variables["params"]}, characters_WC)
    return made
