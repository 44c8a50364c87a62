"""GPT-2: a causal transformer language model (Radford et al. 2019; Vaswani et al. 2017)."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax.errors import UserError
from lm_jax.models.layers import (
    MLP,
    KeyValueCache,
    LayerCache,
    LayerNorm,
    SelfAttention,
    causal_mask,
    matmul,
    segment_mask,
)

_normal = nn.initializers.normal


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. GPT-2 "124M" is 12 layers, 12 heads, 768 wide, 1024 long, 50257 tokens."""

    family: ClassVar[str] = "gpt"
    vocab_size: int = 0  # number of tokens; 0: the tokenizer's
    max_length: int = 0  # longest context, in tokens; 0: data.sequence_length
    num_layers: int = 4  # number of blocks
    num_heads: int = 4  # attention heads in a block; divides d_model
    d_model: int = 128  # width of the residual stream
    d_ff: int = 0  # width inside the MLP; 0: 4 * d_model
    dropout: float = 0.0  # of embeddings, attention probabilities and residual branches
    layer_norm_epsilon: float = 1e-5  # added to the variance
    dtype: str = "float32"  # of computation, or bfloat16; parameters are float32

    def check(self) -> None:
        """Raises UserError for a value that no model can have."""
        for name in ("num_layers", "num_heads", "d_model"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)}", "it must be 1 or more")
        for name in ("vocab_size", "max_length", "d_ff"):
            if getattr(self, name) < 0:
                raise UserError(f"model.{name}={getattr(self, name)}", "it must be 0 or more")
        if self.d_model % self.num_heads:
            raise UserError(
                f"model.d_model={self.d_model} does not divide into model.num_heads={self.num_heads}",
                "make it a multiple",
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout={self.dropout}", "it must lie in [0, 1)")
        if self.layer_norm_epsilon <= 0:
            raise UserError(f"model.layer_norm_epsilon={self.layer_norm_epsilon}", "it must be above 0")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"model.dtype={self.dtype!r}", "choose float32 or bfloat16")


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + mlp(norm(x))."""

    config: GPTConfig

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        mask_BHTS: jax.Array,
        cache: LayerCache | None,
        position_BT: jax.Array,
        train: bool,
    ) -> tuple[jax.Array, LayerCache | None]:
        """Returns [B, T, D] and the layer's cache, which is None where none was given."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        # Keeps the residual stream's variance from growing with depth (Radford et al. 2019, section 2.3).
        out_init = _normal(0.02 * (2 * c.num_layers) ** -0.5)
        drop = nn.Dropout(c.dropout, deterministic=not train)

        h_BTD = LayerNorm(c.layer_norm_epsilon, dtype, name="attention_norm")(x_BTD)
        attention = SelfAttention(c.num_heads, dtype, c.dropout, out_init, name="attention")
        h_BTD, cache = attention(h_BTD, mask_BHTS, cache, position_BT, train)
        x_BTD += drop(h_BTD)

        h_BTD = LayerNorm(c.layer_norm_epsilon, dtype, name="mlp_norm")(x_BTD)
        h_BTD = MLP(c.d_ff or 4 * c.d_model, dtype, out_init, name="mlp")(h_BTD)
        return x_BTD + drop(h_BTD), cache


class GPT(nn.Module):
    """GPT-2. Its state is a `KeyValueCache` (see `init_state`), or None to read rows from their start."""

    config: GPTConfig

    def setup(self):
        """Makes the layers, named as parameters are."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        for name in ("vocab_size", "max_length"):
            if getattr(c, name) < 1:
                raise UserError(f"model.{name}={getattr(c, name)}", "a model itself needs 1 or more")
        self.token_embedding = nn.Embed(c.vocab_size, c.d_model, dtype, embedding_init=_normal(0.02))
        self.position_embedding = nn.Embed(c.max_length, c.d_model, dtype, embedding_init=_normal(0.02))
        self.drop = nn.Dropout(c.dropout)
        self.layers = [Block(c, name=f"layer_{i}") for i in range(c.num_layers)]
        self.final_norm = LayerNorm(c.layer_norm_epsilon, dtype)

    def __call__(
        self,
        tokens_BT: jax.Array,
        state: KeyValueCache | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, KeyValueCache | None]:
        """`logits` of `hidden`: float32 [B, T, V], and the state."""
        hidden_BTD, state = self.hidden(tokens_BT, state, segments, train)
        return self.logits(hidden_BTD), state

    def hidden(
        self,
        tokens_BT: jax.Array,
        state: KeyValueCache | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, KeyValueCache | None]:
        """What the head reads at each position: position t depends on tokens up to t.

        Args:
            tokens_BT: int token ids.
            state: keys and values of the tokens before these; each row goes on at its own position.
            segments: int [B, T]; where it changes within a row, attention starts anew. Positions go on.
            train: whether dropout is on; needs `rngs={"dropout": key}`.

        Returns:
            [B, T, D] in the compute dtype, and the state with these tokens in it (None where none was
            given). A position beyond the state's capacity is NaN, since a compiled program cannot raise.

        Raises:
            UserError: T exceeds the context, or both state and segments are given.
        """
        T = tokens_BT.shape[1]
        capacity = self.config.max_length if state is None else state.capacity
        if capacity < T:
            raise UserError(f"{T} tokens exceed a context of {capacity}", "shorten them or raise max_length")
        if state is None:
            position_BT = jnp.arange(T)[None]
            mask_BHTS = causal_mask(position_BT, T)
            if segments is not None:
                mask_BHTS &= segment_mask(segments)
        else:
            if segments is not None:
                raise UserError("a key/value cache holds one segment", "pass segments or state, not both")
            position_BT = state.position_B[:, None] + jnp.arange(T)[None]
            mask_BHTS = causal_mask(position_BT, capacity)

        caches = []
        x_BTD = self.token_embedding(tokens_BT) + self.position_embedding(position_BT)
        x_BTD = self.drop(x_BTD, deterministic=not train)
        for i, layer in enumerate(self.layers):
            cache = None if state is None else state.layers[i]
            x_BTD, cache = layer(x_BTD, mask_BHTS, cache, position_BT, train)
            caches.append(cache)
        x_BTD = self.final_norm(x_BTD)
        if state is None:
            return x_BTD, None
        x_BTD = jnp.where((position_BT < capacity)[:, :, None], x_BTD, jnp.nan)
        return x_BTD, KeyValueCache(tuple(c for c in caches if c is not None), state.position_B + T)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Unnormalised natural-log probabilities of the next token, float32 [..., V]; the head is tied."""
        return matmul(hidden, self.token_embedding.embedding.astype(hidden.dtype).T)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int) -> KeyValueCache:
        """An empty cache with room for `length` tokens in each row."""
        c = self.config
        if not 0 < length <= c.max_length:
            raise UserError(
                f"a cache of {length} tokens for a context of {c.max_length}",
                f"choose between 1 and {c.max_length}",
            )
        head_width = c.d_model // c.num_heads
        return KeyValueCache.empty(
            batch_size, length, c.num_layers, c.num_heads, head_width, jnp.dtype(c.dtype)
        )

    def prefill(
        self, tokens_BT: jax.Array, length_B: jax.Array, capacity: int
    ) -> tuple[jax.Array, KeyValueCache]:
        """Reads prompts padded on the right: the logits that follow each, float32 [B, V], and the state."""
        hidden_BTD, state = self.hidden(tokens_BT, self.init_state(tokens_BT.shape[0], capacity))
        assert state is not None
        last_B1D = jnp.take_along_axis(hidden_BTD, (length_B - 1)[:, None, None], axis=1)
        return self.logits(last_B1D[:, 0]), state._replace(position_B=length_B)

    def step(self, state: KeyValueCache, token_B: jax.Array) -> tuple[jax.Array, KeyValueCache]:
        """Reads one token a row: the logits that follow it, float32 [B, V], and the state."""
        hidden_B1D, new_state = self.hidden(token_B[:, None], state)
        assert new_state is not None
        return self.logits(hidden_B1D[:, 0]), new_state
