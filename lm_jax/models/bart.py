"""BART, a transformer that reads a source on both sides and writes a target from left to right.

Lewis et al. 2020 (BART); Vaswani et al. 2017 (encoder and decoder); by other fields Xiong et al. 2020
(pre-norm) and what `gpt.py` cites. Fields are independent, so that an ablation changes one. Shape letters:
`layers.py`; here S is a position of the source and T one of the target, and several rows R of targets may
share a row B of sources.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax.errors import UserError
from lm_jax.models.attention import KeyValueCache, causal_mask, encoder_mask, segment_mask
from lm_jax.models.base import Cost
from lm_jax.models.heads import mask_padding
from lm_jax.models.layers import Dropout, Embed
from lm_jax.models.products import matmul_transposed
from lm_jax.models.transformer import Memory, Stack, StackConfig, layer_sizes, make_norm, norm_size
from lm_jax.models.transformer_config import TransformerConfig

_OFFSET = 2  # of positions in their tables, whose first rows are not used, as published


@dataclass(frozen=True)
class BARTConfig(TransformerConfig):
    """The shape of a BART. As published, "base" has 6 + 6 layers, 12 heads, is 768 wide and 1,024 long.

    `max_length` limits the source and the target, each with its marks.
    """

    family: ClassVar[str] = "bart"
    published_as: ClassVar[tuple[str, ...]] = ("bart",)
    pooling: ClassVar[str] = "last"
    reads: ClassVar[str] = "source and target"
    adapter: ClassVar[str] = "seq2seq"
    free_fields: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "attention_dropout", "dtype", "scan_layers", "remat"}
    )
    counts: ClassVar[tuple[str, ...]] = (*TransformerConfig.counts, "num_encoder_layers")
    rates: ClassVar[tuple[str, ...]] = ("dropout", "attention_dropout")

    num_encoder_layers: int = 0  # blocks of the encoder; 0: num_layers, which the decoder has
    mlp: str = "gelu_exact"  # gelu_exact, gelu (its tanh approximation), or swiglu: gated hidden units
    norm_first: bool = False  # norms before attention and MLP and at the end, or after each sum, as published
    attention_dropout: float = 0.0  # of attention probabilities
    scale_embedding: bool = False  # token embeddings are multiplied by the root of d_model
    tied_head: bool = True  # the head is the token embedding
    logits_bias: bool = False  # a bias of the logits, which published weights have

    @property
    def encoder_layers(self) -> int:
        """`num_encoder_layers`, or its value for 0."""
        return self.num_encoder_layers or self.num_layers

    def stack(self) -> StackConfig:
        """The shape of the decoder's blocks."""
        return replace(
            super().stack(),
            norm_first=self.norm_first,
            attention_dropout=self.attention_dropout,
            cross_attention=True,
        )

    def encoder_stack(self) -> StackConfig:
        """The shape of the encoder's blocks."""
        return replace(self.stack(), num_layers=self.encoder_layers, cross_attention=False)

    def make(self) -> "BART":
        """The module."""
        return BART(self)

    def cost(self, length: int) -> Cost:
        """Parameters and operations of the matrix products; see `GPTConfig.cost`.

        A token is one of the source with one of the target, and sources are as long as targets.

        Raises:
            UserError: a size that is still left to the tokenizer or the data.
        """
        self.check_resolved()
        D, stack = self.d_model, self.stack()
        block, products = layer_sizes(stack)
        cross = 4 * (D * D + D * self.use_bias) + norm_size(stack)
        tables = self.vocab_size * D * (1 if self.tied_head else 2) + self.vocab_size * self.logits_bias
        positions = 2 * (self.max_length + _OFFSET) * D * (self.position == "learned")
        norms = 2 * norm_size(stack) * (1 + self.norm_first)
        layers = self.encoder_layers + self.num_layers
        parameters = tables + positions + norms + layers * block + self.num_layers * cross
        attended = self.encoder_layers * length + self.num_layers * 2 * length
        forward = 2 * (layers * products + self.num_layers * 4 * D * D + self.vocab_size * D)
        forward += 4 * attended * D
        return Cost(parameters, forward, 3 * forward)


class BART(nn.Module):
    """The encoder and the decoder. Parameters are float32; computation is in `config.dtype`."""

    config: BARTConfig

    def setup(self):
        """Makes the layers, named as parameters are."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        c.check_resolved()
        self.token_embedding = Embed(c.vocab_size, c.d_model, dtype)
        self.encoder, self.decoder = _Half(c, c.encoder_stack()), _Half(c, c.stack())
        if not c.tied_head:
            self.head = Embed(c.vocab_size, c.d_model, dtype)
        if c.logits_bias:
            self.logits_bias = self.param("logits_bias", nn.initializers.zeros, (c.vocab_size,))

    def __call__(self, tokens_BS: jax.Array) -> jax.Array:
        """The logits of a target that is the source; with all parameters, for `init`."""
        return self.logits(self.decode(tokens_BS, self.encode(tokens_BS)))

    def encode(
        self,
        tokens_BS: jax.Array,
        segments: jax.Array | None = None,
        types: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """The encoder's vector of each position of the source, [B, S, D]; see `base.Encodes`.

        There are no types. Sows layers as `BERT.encode` does.

        Raises:
            UserError: more tokens than the model reads.
        """
        self._check_length(tokens_BS.shape[1])
        position_1S = jnp.arange(tokens_BS.shape[1])[None]
        mask_BHSS = None if segments is None else encoder_mask(segments)
        x_BSD = self._embed(tokens_BS)
        return self.encoder(x_BSD, position_1S, None, mask_BHSS, train=train)[0]

    def decode(
        self,
        tokens_BT: jax.Array,
        memory_BSD: jax.Array,
        memory_segments: jax.Array | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """What the head reads at each position of the target, [B, T, D]; see `base.EncodesDecodes`."""
        memory = self.read_memory(memory_BSD, memory_segments)
        return self.read_target(tokens_BT, memory, None, segments, train)[0]

    def read_memory(self, memory_BSD: jax.Array, segments: jax.Array | None = None) -> Memory:
        """The keys and values of a source for the decoder's layers, computed once for all tokens.

        Args:
            memory_BSD: `encode` of the source.
            segments: int [B, S] of the source; negative ones are padding. None: nothing is.
        """
        return self.decoder.stack.read_memory(memory_BSD, segments)

    def read_target(
        self,
        tokens_RT: jax.Array,
        memory: Memory,
        state: KeyValueCache | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, KeyValueCache | None]:
        """What the head reads at each position of the target, as `GPT.hidden`, with the source's `memory`.

        The rows of targets are those of the memory, or a multiple: then those of one source are adjacent.
        """
        T = tokens_RT.shape[1]
        capacity = self.config.max_length if state is None else state.capacity
        if state is None:
            self._check_length(T)
            position_RT = jnp.arange(T)[None]
            mask_RHTS = None if segments is None else segment_mask(segments)
        else:
            if segments is not None:
                raise UserError("a key/value cache holds one segment", "pass segments or state, not both")
            position_RT = state.position_B[:, None] + jnp.arange(T)[None]
            mask_RHTS = causal_mask(position_RT, capacity)
        caches = None if state is None else state.layers
        x_RTD = self._embed(tokens_RT)
        x_RTD, caches = self.decoder(x_RTD, position_RT, caches, mask_RHTS, memory, state is None, train)
        if state is None:
            return x_RTD, None
        x_RTD = jnp.where((position_RT < capacity)[:, :, None], x_RTD, jnp.nan)
        return x_RTD, KeyValueCache(caches, state.position_B + T)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Unnormalised natural-log probabilities of the next token, float32 [..., V]."""
        head = self.token_embedding if self.config.tied_head else self.head
        logits = matmul_transposed(hidden, head.embedding)
        if self.config.logits_bias:
            # XLA's CPU backend has a fast product of one row and a matrix, and does not use it for a sum.
            bias = jnp.expand_dims(self.logits_bias, tuple(range(logits.ndim - 1)))
            logits = jax.lax.optimization_barrier(logits) + bias
        return mask_padding(logits, self.config.known_tokens)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int) -> KeyValueCache:
        """An empty cache with room for `length` tokens of the target in each row."""
        c = self.config
        return KeyValueCache.empty(
            batch_size, length, c.num_layers, c.num_heads, c.head_width, jnp.dtype(c.dtype)
        )

    def prefill(
        self, memory: Memory, tokens_RT: jax.Array, length_R: jax.Array, capacity: int
    ) -> tuple[jax.Array, KeyValueCache]:
        """Reads beginnings of targets, padded on the right: the logits after each, [R, V], and the state."""
        hidden_RTD, state = self.read_target(tokens_RT, memory, self.init_state(tokens_RT.shape[0], capacity))
        assert state is not None
        last_R1D = jnp.take_along_axis(hidden_RTD, (length_R - 1)[:, None, None], axis=1)
        return self.logits(last_R1D[:, 0]), state._replace(position_B=length_R)

    def step(
        self, memory: Memory, state: KeyValueCache, token_R: jax.Array
    ) -> tuple[jax.Array, KeyValueCache]:
        """Reads one token a row: the logits that follow it, float32 [R, V], and the state."""
        hidden_R1D, new_state = self.read_target(token_R[:, None], memory, state)
        assert new_state is not None
        return self.logits(hidden_R1D[:, 0]), new_state

    def _embed(self, tokens: jax.Array) -> jax.Array:
        x = self.token_embedding(tokens)
        return x * self.config.d_model**0.5 if self.config.scale_embedding else x

    @nn.nowrap
    def _check_length(self, T: int) -> None:
        if self.config.max_length < T:
            raise UserError(
                f"{T} tokens for a model that reads {self.config.max_length}", "give shorter texts"
            )


class _Half(nn.Module):
    """The encoder or the decoder: positions and a norm of the embeddings, and a stack of blocks."""

    config: BARTConfig
    blocks: StackConfig

    def setup(self):
        """Makes the layers."""
        c = self.config
        if c.position == "learned":
            self.position_embedding = Embed(c.max_length + _OFFSET, c.d_model, jnp.dtype(c.dtype))
        self.embedding_norm = make_norm(self.blocks)
        self.drop = Dropout(c.dropout)
        self.stack = Stack(self.blocks)
        nn.share_scope(self, self.stack)
        if c.norm_first:
            self.final_norm = make_norm(self.blocks)

    def __call__(
        self,
        x_BTD: jax.Array,
        position_BT: jax.Array,
        caches: Any,
        mask_BHTS: jax.Array | None,
        memory: Memory | None = None,
        is_causal: bool = False,
        train: bool = False,
    ) -> tuple[jax.Array, Any]:
        """The blocks' result, [B, T, D], and the caches with these tokens in them."""
        if self.config.position == "learned":
            x_BTD = x_BTD + self.position_embedding(position_BT + _OFFSET)
        x_BTD = self.embedding_norm(x_BTD)
        self.sow("intermediates", "blocks", x_BTD)
        x_BTD = self.drop(x_BTD, deterministic=not train)
        x_BTD, caches = self.stack(x_BTD, caches, mask_BHTS, position_BT, is_causal, memory, train)
        return (self.final_norm(x_BTD) if self.config.norm_first else x_BTD), caches
