"""GPT-2, a causal transformer language model, with later variants by other fields of its config.

Radford et al. 2019 (GPT-2); Touvron et al. 2023 (LLaMA: rope, rms, swiglu); Chowdhery et al. 2022 (PaLM:
parallel blocks, no biases). Fields are independent, so that an ablation changes one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax.errors import UserError
from lm_jax.models.attention import (
    ATTENTIONS,
    AttentionCore,
    KeyValueCache,
    causal_mask,
    segment_mask,
    split_fused_heads,
)
from lm_jax.models.base import Cost
from lm_jax.models.heads import mask_padding
from lm_jax.models.layers import Dropout, Embed
from lm_jax.models.products import matmul_transposed
from lm_jax.models.transformer import Stack, StackConfig, layer_sizes, make_norm, norm_size
from lm_jax.models.transformer_config import TransformerConfig

_normal = nn.initializers.normal


@dataclass(frozen=True)
class GPTConfig(TransformerConfig):
    """The shape of a GPT. GPT-2 "124M" is 12 layers, 12 heads, 768 wide, 1024 long, 50257 tokens."""

    family: ClassVar[str] = "gpt"
    published_as: ClassVar[tuple[str, ...]] = ("gpt2", "gpt_neox", "llama")
    free_fields: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "dtype", "attention", "scan_layers", "remat"}
    )
    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        **TransformerConfig.choices,
        "attention": tuple(ATTENTIONS),
    }
    counts: ClassVar[tuple[str, ...]] = (*TransformerConfig.counts, "num_kv_heads")

    dropout: float = 0.0  # of embeddings, attention probabilities and residual branches
    num_kv_heads: int = 0  # heads of keys and values, shared by groups of the others; 0: num_heads
    parallel_block: bool = False  # attention and MLP read the same norm and are added together
    tied_head: bool = True  # the head is the token embedding
    attention: str = (
        "full"  # full, block_causal: skips what is later, or fused: cuDNN's for bfloat16 on a GPU
    )

    @property
    def kv_heads(self) -> int:
        """`num_kv_heads`, or its value for 0."""
        return self.num_kv_heads or self.num_heads

    def stack(self) -> StackConfig:
        """The shape of the blocks."""
        return replace(
            super().stack(),
            num_kv_heads=self.num_kv_heads,
            parallel=self.parallel_block,
            # Keeps the residual stream's variance from growing with depth (Radford et al. 2019, section 2.3).
            residual_scale=(2 * self.num_layers) ** -0.5,
            core=self.attention_core(),
        )

    def attention_core(self) -> AttentionCore:
        """How queries meet keys, here and with a cache. A subclass returns its own; see `AttentionCore`."""
        return ATTENTIONS[self.attention]

    def check(self) -> None:
        """Raises UserError for a value that no model can have, or two that do not go together."""
        super().check()
        self.check_divides("num_heads", "num_kv_heads")
        if self.attention == "fused" and self.dropout:
            raise UserError(
                f"model.attention=fused cannot drop probabilities, but model.dropout={self.dropout}",
                "set model.dropout=0 or model.attention=full",
            )

    def make(self) -> "GPT":
        """The module."""
        return GPT(self)

    def cost(self, length: int) -> Cost:
        """Parameters, and operations of the matrix products for each token of rows of `length` tokens.

        A product with an [I, O] matrix is 2·I·O operations, the head is one, and a layer's attention adds
        4·length·D: table 1 of Kaplan et al. 2020 with the head, and appendix B of Chowdhery et al. 2022,
        which published figures of model FLOPs utilisation count. So causal attention counts as if nothing
        were skipped, and what remat computes twice counts once. Norms, activations, softmax, embeddings and
        the optimizer are left out.

        Raises:
            UserError: a size that is still left to the tokenizer or the data.
        """
        self.check_resolved()
        D, V, stack = self.d_model, self.vocab_size, self.stack()
        block, products = layer_sizes(stack)
        rows = V * (1 if self.tied_head else 2) + self.max_length * (self.position == "learned")
        forward = self.num_layers * (2 * products + 4 * length * D) + 2 * D * V
        return Cost(self.num_layers * block + norm_size(stack) + rows * D, forward, 3 * forward)

    def convert_from_format_1(self, variables: Any) -> Any:
        """Variables whose q, k and v are still columns of one matrix, in the layout of today."""
        return split_fused_qkv(variables, self)


class GPT(nn.Module):
    """A GPT. Its state is a `KeyValueCache` (see `init_state`), or None to read rows from their start.

    The layers' parameters are `layer_0`, `layer_1`, ...; with `scan_layers` they are `layers`, stacked along
    a first axis. `convert_layers` makes either from the other. Decode unrolled: a scan copies the cache.
    """

    config: GPTConfig

    def setup(self):
        """Makes the layers, named as parameters are."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        c.check()
        c.check_resolved()
        self.token_embedding = Embed(c.vocab_size, c.d_model, dtype, embedding_init=_normal(0.02))
        if c.position == "learned":
            self.position_embedding = Embed(c.max_length, c.d_model, dtype, embedding_init=_normal(0.02))
        self.drop = Dropout(c.dropout)
        self.stack = Stack(c.stack())
        nn.share_scope(self, self.stack)  # layers are named beside the embedding
        self.final_norm = make_norm(c.stack())
        if not c.tied_head:
            self.head = Embed(c.vocab_size, c.d_model, dtype, embedding_init=_normal(0.02))

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
            state: keys and values of the tokens before these; each row continues at its own position.
            segments: int [B, T]; where it changes within a row, attention is reset. Positions continue.
                Negative ones are padding.
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
            mask_BHTS = None if segments is None else segment_mask(segments)
        else:
            if segments is not None:
                raise UserError("a key/value cache holds one segment", "pass segments or state, not both")
            position_BT = state.position_B[:, None] + jnp.arange(T)[None]
            mask_BHTS = causal_mask(position_BT, capacity)

        x_BTD = self.token_embedding(tokens_BT)
        if self.config.position == "learned":
            x_BTD += self.position_embedding(position_BT)
        x_BTD = self.drop(x_BTD, deterministic=not train)
        caches = None if state is None else state.layers
        x_BTD, caches = self.stack(x_BTD, caches, mask_BHTS, position_BT, state is None, train=train)
        x_BTD = self.final_norm(x_BTD)
        if state is None:
            return x_BTD, None
        assert caches is not None
        x_BTD = jnp.where((position_BT < capacity)[:, :, None], x_BTD, jnp.nan)
        return x_BTD, KeyValueCache(caches, state.position_B + T)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Unnormalised natural-log probabilities of the next token, float32 [..., V]."""
        head = self.token_embedding if self.config.tied_head else self.head
        return mask_padding(matmul_transposed(hidden, head.embedding), self.config.known_tokens)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int) -> KeyValueCache:
        """An empty cache with room for `length` tokens in each row."""
        c = self.config
        if not 0 < length <= c.max_length:
            raise UserError(
                f"a cache of {length} tokens for a context of {c.max_length}",
                f"choose between 1 and {c.max_length}",
            )
        return KeyValueCache.empty(
            batch_size, length, c.num_layers, c.kv_heads, c.head_width, jnp.dtype(c.dtype)
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

    def extend(self, state: KeyValueCache, tokens_BT: jax.Array) -> tuple[jax.Array, KeyValueCache]:
        """Reads several tokens a row: the logits that follow each, float32 [B, T, V], and the state."""
        hidden_BTD, new_state = self.hidden(tokens_BT, state)
        assert new_state is not None
        return self.logits(hidden_BTD), new_state

    @nn.nowrap
    def rewind(self, state: KeyValueCache, count_B: jax.Array) -> KeyValueCache:
        """The state without the last `count_B` tokens of each row."""
        return state._replace(position_B=state.position_B - count_B)


def split_fused_qkv(tree: Any, config: GPTConfig) -> Any:
    """Parameters of format 1, whose `qkv` was one matrix [D, (H + 2 G) K], in today's layout.

    Args:
        tree: anything with the parameters' names: variables, gradients or moments, layers stacked or not.
        config: the model's.
    """

    def split(path: tuple[Any, ...], x: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        is_fused = name.endswith(("qkv/kernel", "qkv/bias"))
        return split_fused_heads(x, config.num_heads, config.kv_heads) if is_fused else x

    return jax.tree_util.tree_map_with_path(split, tree)
