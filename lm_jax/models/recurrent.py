"""Recurrent layers: Elman's, the GRU and the LSTM, each equal to PyTorch's given its weights.

A layer's product with its inputs is one matrix product before the scan over time; only what depends on the
step before is inside the scan.

Shape letters, beside those of `layers.py`:
    G  gates, side by side: H of an Elman layer; 3·H of a GRU: r, z, n; 4·H of an LSTM: i, f, g, o
    H  units of a cell               P  width of a layer's output: that of the projection, or H
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax import fast
from lm_jax.models.products import matmul


class LayerState(NamedTuple):
    """The state of a layer between tokens, float32.

    Attributes:
        h_BP: its last output.
        c_BH: an LSTM's memory; None in other layers.
    """

    h_BP: jax.Array
    c_BH: jax.Array | None = None


# (small, x_BG, u_BG, state) -> (m_BH, c_BH): one step, given the products of the input and of the state with
# the weights. `small` holds the parameters that are not matrices; m is the output before a projection.
Cell = Callable[[Any, jax.Array, jax.Array, LayerState], tuple[jax.Array, jax.Array | None]]


def _elman(small: Any, x_BG: jax.Array, u_BG: jax.Array, state: LayerState) -> tuple[jax.Array, None]:
    """Elman 1990, with tanh."""
    return jnp.tanh(x_BG + u_BG), None


def _gru(small: Any, x_BG: jax.Array, u_BG: jax.Array, state: LayerState) -> tuple[jax.Array, None]:
    """Cho et al. 2014, with the reset gate behind the product, as in cuDNN and PyTorch."""
    xr, xz, xn = jnp.split(x_BG, 3, axis=-1)
    ur, uz, un = jnp.split(u_BG, 3, axis=-1)
    r, z = nn.sigmoid(xr + ur), nn.sigmoid(xz + uz)
    n = jnp.tanh(xn + r * (un + small["candidate_bias"][None]))
    return (1 - z) * n + z * state.h_BP, None


def _lstm(
    small: Any, x_BG: jax.Array, u_BG: jax.Array, state: LayerState, clip: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Hochreiter and Schmidhuber 1997 with forget gates (Gers et al. 2000) and no peepholes."""
    i, f, g, o = jnp.split(x_BG + u_BG, 4, axis=-1)
    assert state.c_BH is not None
    c_BH = nn.sigmoid(f) * state.c_BH + nn.sigmoid(i) * jnp.tanh(g)
    if clip:
        c_BH = jax.lax.clamp(-clip, c_BH, clip)
    shown_BH = c_BH
    if "memory_scale" in small:
        shown_BH = _normalise(c_BH, small["memory_scale"]) + small["memory_bias"][None]
    return nn.sigmoid(o) * jnp.tanh(shown_BH), c_BH


_CELLS: dict[str, tuple[int, Cell]] = {"elman": (1, _elman), "gru": (3, _gru), "lstm": (4, _lstm)}
CELLS = tuple(_CELLS)


def _normalise(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Layer normalisation over the last axis, without a bias (Ba et al. 2016, equation 4)."""
    x = x - x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-5) * scale[None]


def _advance(
    cell: Cell, small: Any, x_BG: jax.Array, u_BG: jax.Array, state: LayerState
) -> tuple[jax.Array, jax.Array | None]:
    x_BG = x_BG.astype(jnp.float32)
    if "recurrent_scale" in small:
        u_BG = _normalise(u_BG, small["recurrent_scale"])
    return cell(small, x_BG, u_BG, state)


def _fast_recur(cell, weights, x_TBG, keep_TB1, state, real_TB1=None, clip=0.0):
    return fast.recur(partial(_advance, cell), clip, weights, x_TBG, keep_TB1, state, real_TB1)


@fast.replaced_by(_fast_recur)
def recur(
    cell: Cell,
    weights: dict[str, Any],
    x_TBG: jax.Array,
    keep_TB1: jax.Array | None,
    state: LayerState,
    real_TB1: jax.Array | None = None,
    clip: float = 0.0,
) -> tuple[jax.Array, LayerState]:
    """Runs a cell over time.

    Args:
        cell: a step.
        weights: float32 `recurrent` [P, G] and, where there is a projection, `projection` [H, P], used in
            the dtype of x; and `small`, see `Cell`.
        x_TBG: the inputs' product with their weights.
        keep_TB1: float32, 0 where the state is reset before a step and else 1; None: ones. Has no gradient.
        state: before the first step.
        real_TB1: float32, 0 at padding, where the state stays as it is, and else 1; None: ones. Has no
            gradient.
        clip: the largest absolute value of a projection; 0: any.

    Returns:
        The states' h after each step, float32 [T, B, P], and the state after the last.
    """

    def step(state, inputs):
        x_BG, keep_B1, real_B1 = inputs
        if keep_B1 is not None:
            state = jax.tree.map(lambda s: s * keep_B1, state)
        u_BG = matmul(state.h_BP.astype(x_BG.dtype), weights["recurrent"])
        m_BH, c_BH = _advance(cell, weights["small"], x_BG, u_BG, state)
        if "projection" in weights:
            m_BH = matmul(m_BH.astype(x_BG.dtype), weights["projection"])
            m_BH = jax.lax.clamp(-clip, m_BH, clip) if clip else m_BH
        after = LayerState(m_BH, c_BH)
        if real_B1 is not None:
            after = jax.tree.map(lambda new, old: jnp.where(real_B1 > 0, new, old), after, state)
        return after, after.h_BP

    state, outputs_TBP = jax.lax.scan(step, state, (x_TBG, keep_TB1, real_TB1))
    return outputs_TBP, state


class RecurrentLayer(nn.Module):
    """A layer of one of the `CELLS`.

    Parameters, float32: `input` [I, G], `recurrent` [P, G], `projection` [H, P] and `bias` [G], which is the
    sum of PyTorch's two; a GRU's `candidate_bias` [H] is the part of n in PyTorch's `bias_hh`, behind r.
    With `layer_norm` (Ba et al. 2016, equations 20–22) both products are normalised, over all gates at once,
    and so is an LSTM's memory where it is shown.
    """

    cell: str
    features: int  # H
    projection: int = 0  # P, of an LSTM; 0: none
    layer_norm: bool = False
    weight_dropout: float = 0.0  # of `recurrent`, one mask a call (Merity et al. 2017, section 2)
    forget_bias: float = 0.0  # where an LSTM's f starts
    dtype: Any = jnp.float32
    cell_clip: float = 0.0  # the largest absolute value of an LSTM's memory; 0: any; only of LSTMs
    projection_clip: float = 0.0  # that of a projection

    @nn.compact
    def __call__(
        self,
        x_TBI: jax.Array,
        state: LayerState,
        keep_TB1: jax.Array | None,
        train: bool,
        real_TB1: jax.Array | None = None,
    ) -> tuple[jax.Array, LayerState]:
        """The outputs, [T, B, P] in `dtype`, and the state after them; see `recur`."""
        num_gates, cell = _CELLS[self.cell]
        H, P, G = self.features, self.projection or self.features, num_gates * self.features
        first = uniform(1 / math.sqrt(H))
        input_IG = self.param("input", first, (x_TBI.shape[-1], G))
        small: dict[str, jax.Array] = {}
        weights: dict[str, Any] = {"recurrent": self.param("recurrent", first, (P, G)), "small": small}
        bias_G = self.param("bias", self._first_bias, (G,))
        if self.projection:
            weights["projection"] = self.param("projection", first, (H, P))
        if self.cell == "gru":
            small["candidate_bias"] = self.param("candidate_bias", nn.initializers.zeros, (H,))
        x_TBG = matmul(x_TBI.astype(self.dtype), input_IG)
        if self.layer_norm:
            x_TBG = self._add_norms(x_TBG, small)
        x_TBG = (x_TBG + bias_G[None, None]).astype(self.dtype)
        if train and self.weight_dropout:
            drop = nn.Dropout(self.weight_dropout, deterministic=False)
            weights["recurrent"] = drop(weights["recurrent"])
        if self.cell_clip:
            cell = partial(_lstm, clip=self.cell_clip)
        h_TBP, state = recur(cell, weights, x_TBG, keep_TB1, state, real_TB1, self.projection_clip)
        return h_TBP.astype(self.dtype), state

    def _first_bias(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        bias = jnp.zeros(shape)
        return (
            bias.at[self.features : 2 * self.features].set(self.forget_bias) if self.cell == "lstm" else bias
        )

    def _add_norms(self, x_TBG: jax.Array, small: dict[str, jax.Array]) -> jax.Array:
        """Normalises the inputs' product, and adds to `small` what normalises the rest."""
        ones, zeros, G = nn.initializers.ones, nn.initializers.zeros, x_TBG.shape[-1]
        small["recurrent_scale"] = self.param("recurrent_scale", ones, (G,))
        if self.cell == "lstm":
            small["memory_scale"] = self.param("memory_scale", ones, (self.features,))
            small["memory_bias"] = self.param("memory_bias", zeros, (self.features,))
        return _normalise(x_TBG, self.param("input_scale", ones, (G,))[None])


def first_state(cell: str, batch_size: int, features: int, projection: int = 0) -> LayerState:
    """The state before the first token: zeros."""
    h_BP = jnp.zeros((batch_size, projection or features))
    return LayerState(h_BP, jnp.zeros((batch_size, features)) if cell == "lstm" else None)


def restarts(segments: jax.Array) -> jax.Array:
    """True where the state is reset, bool [B, T]: the segment is not the one before it, initially 0."""
    return segments != jnp.pad(segments[:, :-1], ((0, 0), (1, 0)))


def real_restarts(segments: jax.Array) -> jax.Array:
    """`restarts` between the positions that are not padding: the state goes through padding unchanged."""
    places_BT = jnp.where(segments >= 0, jnp.arange(segments.shape[1]), -1)
    last_BT = jnp.pad(jax.lax.cummax(places_BT, axis=1)[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    before_BT = jnp.take_along_axis(segments, jnp.maximum(last_BT, 0), axis=1)
    return (segments >= 0) & (segments != jnp.where(last_BT < 0, 0, before_BT))


def flush_right(tokens_BT: jax.Array, length_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows padded on the right as rows padded on the left, and segments: 0 for padding, then 1."""
    T = tokens_BT.shape[1]
    place_BT = jnp.arange(T)[None] - (T - length_B)[:, None]
    return jnp.take_along_axis(tokens_BT, place_BT % T, axis=1), (place_BT >= 0).astype(jnp.int32)


def uniform(bound: float) -> nn.initializers.Initializer:
    """Draws from -bound to bound."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class CarriesState(nn.Module):
    """Common methods of models whose state summarises any number of tokens."""

    carries_state: ClassVar[bool] = True

    def __call__(
        self,
        tokens_BT: jax.Array,
        state: Any = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, Any]:
        """`logits` of `hidden`: float32 [B, T, V], and the state."""
        hidden_BTD, state = self.hidden(tokens_BT, state, segments, train)
        return self.logits(hidden_BTD), state

    def prefill(self, tokens_BT: jax.Array, length_B: jax.Array, capacity: int) -> tuple[jax.Array, Any]:
        """Reads prompts padded on the right: the logits that follow each, float32 [B, V], and the state."""
        tokens_BT, segments = flush_right(tokens_BT, length_B)
        hidden_BTD, state = self.hidden(tokens_BT, segments=segments)
        return self.logits(hidden_BTD[:, -1]), state

    def step(self, state: Any, token_B: jax.Array) -> tuple[jax.Array, Any]:
        """Reads one token a row: the logits that follow it, float32 [B, V], and the state."""
        hidden_B1D, state = self.hidden(token_B[:, None], state)
        return self.logits(hidden_B1D[:, 0]), state
