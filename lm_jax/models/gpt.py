"""GPT-2, a causal transformer language model, with later variants by other fields of its config.

Radford et al. 2019 (GPT-2); Touvron et al. 2023 (LLaMA: rope, rms, swiglu); Chowdhery et al. 2022 (PaLM:
parallel blocks, no biases). Fields are independent, so that an ablation changes one.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax import fast
from lm_jax.errors import UserError
from lm_jax.models.attention import (
    ATTENTIONS,
    AttentionCore,
    KeyValueCache,
    causal_mask,
    segment_mask,
    split_fused_heads,
)
from lm_jax.models.base import Cost, ModelConfig
from lm_jax.models.heads import mask_padding
from lm_jax.models.layers import Dropout, Embed
from lm_jax.models.products import matmul_transposed
from lm_jax.models.transformer import (
    MLPS,
    NORMS,
    Stack,
    StackConfig,
    convert_layers,
    layer_sizes,
    make_norm,
    norm_size,
)

_normal = nn.initializers.normal
_BLOCK = 1024  # tokens whose logits are computed at a time, for a few rows on a CPU
_CHOICES = {
    "position": ("learned", "rope", "none"),
    "norm": NORMS,
    "mlp": tuple(MLPS),
    "attention": tuple(ATTENTIONS),
    "dtype": ("float32", "bfloat16"),
}


@dataclass(frozen=True)
class GPTConfig(ModelConfig):
    """The shape of a GPT. GPT-2 "124M" is 12 layers, 12 heads, 768 wide, 1024 long, 50257 tokens."""

    family: ClassVar[str] = "gpt"
    published_as: ClassVar[str] = "gpt2"
    free_fields: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "dtype", "attention", "scan_layers", "remat"}
    )

    max_length: int = 0  # longest context, in tokens; 0: data.sequence_length
    num_layers: int = 4  # number of blocks
    num_heads: int = 4  # attention heads in a block; divides d_model
    num_kv_heads: int = 0  # heads of keys and values, shared by groups of the others; 0: num_heads
    d_model: int = 128  # width of the residual stream
    d_ff: int = 0  # width inside the MLP; 0: 4 * d_model, or 2/3 of that with swiglu: as many parameters
    position: str = "learned"  # learned: an embedding is added, rope: queries and keys are rotated, or none
    rope_theta: float = 10000.0  # rope's base: its slowest pair turns once in about 2π times as many tokens
    norm: str = "layer"  # layer, or rms: no mean taken out and no bias
    mlp: str = "gelu"  # gelu, or swiglu: gated hidden units
    parallel_block: bool = False  # attention and MLP read the same norm and are added together
    tied_head: bool = True  # the head is the token embedding
    use_bias: bool = True  # of products and layer norms
    dropout: float = 0.0  # of embeddings, attention probabilities and residual branches
    layer_norm_epsilon: float = 1e-5  # added to the variance, or to rms's mean square
    dtype: str = "float32"  # of computation, or bfloat16; parameters are float32
    attention: str = (
        "full"  # full, block_causal: skips what is later, or fused: cuDNN's for bfloat16 on a GPU
    )
    scan_layers: bool = False  # layers are one stacked parameter tree and compile once
    remat: bool = False  # backward recomputes blocks and keeps less; on a CPU that needs scan_layers too

    @property
    def head_width(self) -> int:
        """Width of an attention head."""
        return self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        """`num_kv_heads`, or its value for 0."""
        return self.num_kv_heads or self.num_heads

    @property
    def mlp_width(self) -> int:
        """`d_ff`, or its value for 0; with swiglu rounded up to a multiple of 8."""
        return self.d_ff or (8 * math.ceil(self.d_model / 3) if self.mlp == "swiglu" else 4 * self.d_model)

    def stack(self) -> StackConfig:
        """The shape of the blocks."""
        return StackConfig(
            self.num_layers,
            self.num_heads,
            self.d_model,
            self.mlp_width,
            self.num_kv_heads,
            norm=self.norm,
            mlp=self.mlp,
            parallel=self.parallel_block,
            use_bias=self.use_bias,
            dropout=self.dropout,
            attention_dropout=self.dropout,
            layer_norm_epsilon=self.layer_norm_epsilon,
            # Keeps the residual stream's variance from growing with depth (Radford et al. 2019, section 2.3).
            residual_scale=(2 * self.num_layers) ** -0.5,
            rope_theta=self.rope_theta if self.position == "rope" else 0.0,
            core=self.attention_core(),
            dtype=jnp.dtype(self.dtype),
            scan_layers=self.scan_layers,
            remat=self.remat,
        )

    def attention_core(self) -> AttentionCore:
        """How queries meet keys, here and with a cache. A subclass returns its own; see `AttentionCore`."""
        return ATTENTIONS[self.attention]

    def check(self) -> None:
        """Raises UserError for a value that no model can have, or two that do not go together."""
        for name, options in _CHOICES.items():
            if getattr(self, name) not in options:
                raise UserError(f"model.{name}={getattr(self, name)!r}", f"choose {' or '.join(options)}")
        for name in ("num_layers", "num_heads", "d_model"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)}", "it must be 1 or more")
        for name in ("vocab_size", "max_length", "num_kv_heads", "d_ff"):
            if getattr(self, name) < 0:
                raise UserError(f"model.{name}={getattr(self, name)}", "it must be 0 or more")
        for name in ("layer_norm_epsilon", "rope_theta"):
            if not getattr(self, name) > 0:
                raise UserError(f"model.{name}={getattr(self, name)}", "it must be above 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout={self.dropout}", "it must lie in [0, 1)")
        self._check_combinations()

    @property
    def context_length(self) -> int:
        """`max_length`; 0 while it is left to the data."""
        return self.max_length

    def free(self) -> frozenset[str]:
        """`free_fields`, and the longest text unless each place has a parameter of its own."""
        return self.free_fields | ({"max_length"} if self.position != "learned" else frozenset())

    def resolved(self, vocab_size: int, length: int) -> "GPTConfig":
        """With the tokenizer's vocabulary and, where `max_length` is 0, the data's length."""
        return replace(super().resolved(vocab_size, length), max_length=self.max_length or length)

    def check_resolved(self) -> None:
        """Raises UserError where a size is still left to the tokenizer or the data."""
        super().check_resolved()
        if self.max_length < 1:
            raise UserError(f"model.max_length={self.max_length}", "a model itself needs 1 or more")

    def make(self) -> "GPT":
        """The module."""
        return GPT(self)

    def for_inference(self) -> "GPTConfig":
        """Layers one by one: a scan copies the cache at each token."""
        return replace(self, scan_layers=False)

    def convert(self, variables: Any) -> Any:
        """Variables with the layers stacked or one by one, as `scan_layers` says."""
        return convert_layers(variables, self.scan_layers)

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

    def describe_context(self) -> dict[str, Any]:
        """The length of the windows in which texts are read."""
        return {"window": self.max_length}

    def _check_combinations(self) -> None:
        for whole, part in (("d_model", "num_heads"), ("num_heads", "num_kv_heads")):
            if getattr(self, part) and getattr(self, whole) % getattr(self, part):
                raise UserError(
                    f"model.{whole}={getattr(self, whole)} does not divide into "
                    f"model.{part}={getattr(self, part)}",
                    "make it a multiple",
                )
        if self.position == "rope" and self.head_width % 2:
            raise UserError(
                f"model.position=rope turns pairs of features, but a head has {self.head_width} of them",
                "make model.d_model / model.num_heads even",
            )
        if self.attention == "fused" and self.dropout:
            raise UserError(
                f"model.attention=fused cannot drop probabilities, but model.dropout={self.dropout}",
                "set model.dropout=0 or model.attention=full",
            )


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
        return self._logits_of_few(last_B1D[:, 0]), state._replace(position_B=length_B)

    def step(self, state: KeyValueCache, token_B: jax.Array) -> tuple[jax.Array, KeyValueCache]:
        """Reads one token a row: the logits that follow it, float32 [B, V], and the state."""
        hidden_B1D, new_state = self.hidden(token_B[:, None], state)
        assert new_state is not None
        return self._logits_of_few(hidden_B1D[:, 0]), new_state

    def extend(self, state: KeyValueCache, tokens_BT: jax.Array) -> tuple[jax.Array, KeyValueCache]:
        """Reads several tokens a row: the logits that follow each, float32 [B, T, V], and the state."""
        hidden_BTD, new_state = self.hidden(tokens_BT, state)
        assert new_state is not None
        B, T, D = hidden_BTD.shape
        return self._logits_of_few(hidden_BTD.reshape(B * T, D)).reshape(B, T, -1), new_state

    @nn.nowrap
    def rewind(self, state: KeyValueCache, count_B: jax.Array) -> KeyValueCache:
        """The state without the last `count_B` tokens of each row."""
        return state._replace(position_B=state.position_B - count_B)

    def _logits_of_few(self, hidden_BD: jax.Array) -> jax.Array:
        """`logits`, by blocks of the vocabulary where that is faster: for 2 to 16 rows on a CPU.

        XLA copies the kernel of a product before it multiplies; the copy of a block stays in the CPU's cache.
        """
        head = self.token_embedding if self.config.tied_head else self.head
        few = 2 <= hidden_BD.shape[0] <= 16 and hidden_BD.dtype == jnp.float32
        if not few or not fast.is_on_for_cpu() or self.config.vocab_size < 4 * _BLOCK:
            return self.logits(hidden_BD)
        head_VD, whole = head.embedding, self.config.vocab_size // _BLOCK

        def block(i: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(head_VD, i * _BLOCK, _BLOCK) @ hidden_BD.T

        blocks_VB = jax.lax.map(block, jnp.arange(whole)).reshape(whole * _BLOCK, -1)
        logits_BV = jnp.concatenate([blocks_VB, head_VD[whole * _BLOCK :] @ hidden_BD.T]).T
        return mask_padding(logits_BV, self.config.known_tokens)


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
