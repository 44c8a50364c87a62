"""Recurrent language models: an embedding, recurrent layers and a softmax; with the options of AWD-LSTM.

Mikolov et al. 2010 (Elman's), Zaremba et al. 2014 (LSTM), Merity et al. 2017 (AWD-LSTM). Fields
are independent, so that an ablation changes one.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax.errors import UserError
from lm_jax.models.base import ModelConfig, Size
from lm_jax.models.heads import AdaptiveSoftmax, Head, check_cutoffs, mask_padding
from lm_jax.models.layers import Embed
from lm_jax.models.products import matmul_transposed
from lm_jax.models.recurrent import (
    CELLS,
    CarriesState,
    LayerState,
    RecurrentLayer,
    first_state,
    restarts,
    uniform,
)

RNNState = tuple[LayerState, ...]


@dataclass(frozen=True)
class RNNConfig(ModelConfig):
    """The shape of a recurrent language model and what is dropped of it in training."""

    family: ClassVar[str] = "rnn"
    sows_output: ClassVar[bool] = True
    free_fields: ClassVar[frozenset[str]] = frozenset(
        {"dtype", "locked_dropout", "weight_dropout"}
        | {f"{part}_dropout" for part in ("embedding", "input", "hidden", "output")}
    )

    cell: str = "lstm"  # lstm, gru or elman (tanh)
    num_layers: int = 2  # number of recurrent layers
    d_embedding: int = 256  # width of a token's vector
    d_hidden: int = 256  # units of a layer; of the last one d_embedding where the head is tied
    d_projection: int = 0  # an LSTM's outputs are projected to this width; 0: they are not
    layer_norm: bool = False  # of the gates' products and of an LSTM's memory
    forget_bias: float = 0.0  # where the forget gate of an LSTM starts
    tied_head: bool = False  # the head is the token embedding
    adaptive_cutoffs: tuple[int, ...] = ()  # ids at which the clusters of an adaptive softmax begin; (): none
    adaptive_ratio: float = 4.0  # how much narrower each cluster is than what comes before it
    embedding_dropout: float = 0.0  # of whole words, each at all of its positions
    input_dropout: float = 0.0  # of what the first layer reads
    hidden_dropout: float = 0.0  # of what the other layers read
    output_dropout: float = 0.0  # of what the head reads
    locked_dropout: bool = False  # these three drop the same features at all positions of a row
    weight_dropout: float = 0.0  # of the matrices from state to state
    dtype: str = "float32"  # of products, or bfloat16; parameters, gates and state are float32

    def check(self) -> None:
        """Raises UserError for a value that no model can have, or two that do not go together."""
        if self.cell not in CELLS:
            raise UserError(f"model.cell={self.cell!r}", f"choose {' or '.join(CELLS)}")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"model.dtype={self.dtype!r}", "choose float32 or bfloat16")
        for name, least in (
            ("num_layers", 1), ("d_embedding", 1), ("d_hidden", 1), ("vocab_size", 0), ("d_projection", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise UserError(f"model.{name}={getattr(self, name)}", f"it must be {least} or more")
        for part in ("embedding", "input", "hidden", "output", "weight"):
            rate = getattr(self, f"{part}_dropout")
            if not 0 <= rate < 1:
                raise UserError(f"model.{part}_dropout={rate}", "it must lie in [0, 1)")
        check_cutoffs(self.adaptive_cutoffs, self.adaptive_ratio, self.vocab_size)
        if self.d_projection and self.cell != "lstm":
            raise UserError(f"model.d_projection with model.cell={self.cell}", "only an LSTM has one")
        if self.tied_head and self.adaptive_cutoffs:
            raise UserError("model.adaptive_cutoffs with model.tied_head", "choose one of the two heads")
        if self.tied_head and self.d_projection not in (0, self.d_embedding):
            raise UserError(
                f"model.tied_head reads {self.d_embedding} features, model.d_projection={self.d_projection}",
                "make model.d_projection equal to model.d_embedding",
            )

    def make(self) -> "RNN":
        """The module."""
        return RNN(self)

    def size(self, length: int) -> Size:
        """The matrices and the embeddings, and the state of each layer."""
        gates = {"lstm": 4, "gru": 3}.get(self.cell, 1)
        parameters, inputs, kept = self.vocab_size * self.d_embedding, self.d_embedding, 0
        # All layers but the first and the last have one shape.
        for layer, times in {0: 1, 1: max(0, self.num_layers - 2), self.num_layers - 1: 1}.items():
            if not times:
                continue
            width = self.layer_width(layer)
            outputs = self.d_projection or width
            projection = width * outputs if self.d_projection else 0
            parameters += times * ((inputs + outputs) * gates * width + projection)
            kept += times * outputs
            inputs = outputs
        if self.adaptive_cutoffs:
            parameters += inputs * self.adaptive_cutoffs[0]
        elif not self.tied_head:
            parameters += inputs * self.vocab_size
        return Size(parameters, kept)

    def layer_width(self, layer: int) -> int:
        """Units of a layer, counted from 0."""
        narrow = self.tied_head and not self.d_projection and layer == self.num_layers - 1
        return self.d_embedding if narrow else self.d_hidden


class RNN(CarriesState):
    """A recurrent language model. Its state is a `LayerState` a layer; None means `init_state`.

    `hidden` sows what the last layer gave before any of it was dropped, [B, T, D], as "output" into the
    collection "intermediates", for tasks that ask for it.
    """

    config: RNNConfig

    def setup(self):
        """Makes the layers, named as parameters are."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        c.check()
        c.check_resolved()
        self.token_embedding = Embed(c.vocab_size, c.d_embedding, dtype, embedding_init=uniform(0.1))
        self.layers = [
            RecurrentLayer(
                c.cell,
                c.layer_width(i),
                c.d_projection,
                c.layer_norm,
                c.weight_dropout,
                c.forget_bias,
                dtype,
                name=f"layer_{i}",
            )
            for i in range(c.num_layers)
        ]
        if c.adaptive_cutoffs:
            self.head: nn.Module = AdaptiveSoftmax(c.vocab_size, c.adaptive_cutoffs, c.adaptive_ratio)
        elif not c.tied_head:
            self.head = Head(c.vocab_size, uniform(0.1))

    def hidden(
        self,
        tokens_BT: jax.Array,
        state: RNNState | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, RNNState]:
        """What the head reads at each position: position t depends on tokens up to t.

        Args:
            tokens_BT: int token ids.
            state: the state after the tokens before these; None: `init_state`.
            segments: int [B, T]; the state is reset where it changes within a row. The given state belongs to
                segment 0, so it is reset at once where a row starts with another.
            train: whether dropout is on; needs `rngs={"dropout": key}`.

        Returns:
            [B, T, D] in the compute dtype, and the state after these tokens.
        """
        c = self.config
        if state is None:
            state = self.init_state(tokens_BT.shape[0])
        keep_TB1 = None if segments is None else 1 - restarts(segments).T[:, :, None].astype(jnp.float32)
        h_TBD = self._drop(self._embed(tokens_BT.T, train), c.input_dropout, train)
        states: list[LayerState] = []
        for layer, layer_state in zip(self.layers, state, strict=True):
            if states:
                h_TBD = self._drop(h_TBD, c.hidden_dropout, train)
            h_TBD, layer_state = layer(h_TBD, layer_state, keep_TB1, train)
            states.append(layer_state)
        self.sow("intermediates", "output", h_TBD.transpose(1, 0, 2))
        h_TBD = self._drop(h_TBD, c.output_dropout, train)
        return h_TBD.transpose(1, 0, 2), tuple(states)

    def _embed(self, tokens_TB: jax.Array, train: bool) -> jax.Array:
        x_TBE, rate = self.token_embedding(tokens_TB), self.config.embedding_dropout
        if not train or not rate:
            return x_TBE
        keep_V = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, (self.config.vocab_size,))
        return x_TBE * (keep_V / (1 - rate)).astype(x_TBE.dtype)[tokens_TB][:, :, None]

    def _drop(self, x_TBD: jax.Array, rate: float, train: bool) -> jax.Array:
        if not train or not rate:
            return x_TBD
        shape = (1, *x_TBD.shape[1:]) if self.config.locked_dropout else x_TBD.shape
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, shape)
        return x_TBD * (keep / (1 - rate)).astype(x_TBD.dtype)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Unnormalised natural-log probabilities of the next token, float32 [..., V]."""
        if self.config.tied_head:
            logits = matmul_transposed(hidden, self.token_embedding.embedding)
        else:
            logits = self.head(hidden)
        return mask_padding(logits, self.config.known_tokens)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int = 0) -> RNNState:
        """The state before the first token; `length` is accepted, since other families need it."""
        c = self.config
        return tuple(
            first_state(c.cell, batch_size, c.layer_width(i), c.d_projection) for i in range(c.num_layers)
        )
