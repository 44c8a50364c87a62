"""BERT, a transformer encoder, with later variants by other fields of its config.

Devlin et al. 2019 (BERT); Xiong et al. 2020 (pre-norm); Warner et al. 2024 (ModernBERT: pre-norm, rope, gated
units, no biases). Fields are independent, so that an ablation changes one. Shape letters: `layers.py`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax.errors import UserError
from lm_jax.models.attention import encoder_mask
from lm_jax.models.base import Cost, ModelConfig
from lm_jax.models.layers import Dense, Dropout, Embed
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

_CHOICES = {
    "position": ("learned", "rope", "none"),
    "norm": NORMS,
    "mlp": tuple(MLPS),
    "dtype": ("float32", "bfloat16"),
}


@dataclass(frozen=True)
class BERTConfig(ModelConfig):
    """The shape of a BERT. As published, "base" is 12 layers, 12 heads, 768 wide, 512 long."""

    family: ClassVar[str] = "bert"
    published_as: ClassVar[str] = "bert"
    pooling: ClassVar[str] = "first"
    reads: ClassVar[str] = "both sides"
    adapter: ClassVar[str] = "encoder"
    free_fields: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "attention_dropout", "dtype", "scan_layers", "remat"}
    )

    max_length: int = 0  # longest text, in tokens with [CLS] and [SEP]; 0: data.sequence_length
    num_layers: int = 4  # number of blocks
    num_heads: int = 4  # attention heads in a block; divides d_model
    d_model: int = 128  # width of the residual stream
    d_ff: int = 0  # width inside the MLP; 0: 4 * d_model, or 2/3 of that with swiglu: as many parameters
    num_types: int = 2  # token types, which tell the two texts of a pair apart; 0: no embedding of them
    position: str = "learned"  # learned: an embedding is added, rope: queries and keys are rotated, or none
    rope_theta: float = 10000.0  # rope's base: its slowest pair turns once in about 2π times as many tokens
    norm_first: bool = False  # norms before attention and MLP and at the end, or after each sum, as published
    norm: str = "layer"  # layer, or rms: no mean taken out and no bias
    mlp: str = "gelu_exact"  # gelu_exact, gelu (its tanh approximation), or swiglu: gated hidden units
    use_bias: bool = True  # of products and layer norms
    pooler: bool = False  # a dense layer with tanh on the first position, for tasks on whole texts
    dropout: float = 0.0  # of embeddings and residual branches; 0.1 as published
    attention_dropout: float = 0.0  # of attention probabilities; 0.1 as published
    layer_norm_epsilon: float = 1e-12  # added to the variance, or to rms's mean square
    dtype: str = "float32"  # of computation, or bfloat16; parameters are float32
    scan_layers: bool = False  # layers are one stacked parameter tree and compile once
    remat: bool = False  # backward recomputes blocks and keeps less; on a CPU that needs scan_layers too

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
            norm=self.norm,
            norm_first=self.norm_first,
            mlp=self.mlp,
            use_bias=self.use_bias,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            layer_norm_epsilon=self.layer_norm_epsilon,
            rope_theta=self.rope_theta if self.position == "rope" else 0.0,
            dtype=jnp.dtype(self.dtype),
            scan_layers=self.scan_layers,
            remat=self.remat,
        )

    def check(self) -> None:
        """Raises UserError for a value that no model can have, or two that do not go together."""
        for name, options in _CHOICES.items():
            if getattr(self, name) not in options:
                raise UserError(f"model.{name}={getattr(self, name)!r}", f"choose {' or '.join(options)}")
        for name in ("num_layers", "num_heads", "d_model"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)}", "it must be 1 or more")
        for name in ("vocab_size", "max_length", "d_ff", "num_types"):
            if getattr(self, name) < 0:
                raise UserError(f"model.{name}={getattr(self, name)}", "it must be 0 or more")
        for name in ("layer_norm_epsilon", "rope_theta"):
            if not getattr(self, name) > 0:
                raise UserError(f"model.{name}={getattr(self, name)}", "it must be above 0")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)}", "it must lie in [0, 1)")
        if self.d_model % self.num_heads:
            raise UserError(
                f"model.d_model={self.d_model} does not divide into model.num_heads={self.num_heads}",
                "make it a multiple",
            )
        if self.position == "rope" and self.d_model // self.num_heads % 2:
            raise UserError(
                f"model.position=rope with heads of width {self.d_model // self.num_heads}",
                "rope rotates pairs of features: make model.d_model / model.num_heads even",
            )

    @property
    def context_length(self) -> int:
        """`max_length`; 0 while it is left to the data."""
        return self.max_length

    def free(self) -> frozenset[str]:
        """`free_fields`, and the longest text unless each place has a parameter of its own."""
        return self.free_fields | ({"max_length"} if self.position != "learned" else frozenset())

    def resolved(self, vocab_size: int, length: int) -> "BERTConfig":
        """With the tokenizer's vocabulary and, where `max_length` is 0, the data's length."""
        return replace(super().resolved(vocab_size, length), max_length=self.max_length or length)

    def check_resolved(self) -> None:
        """Raises UserError where a size is still left to the tokenizer or the data."""
        super().check_resolved()
        if self.max_length < 1:
            raise UserError(f"model.max_length={self.max_length}", "a model itself needs 1 or more")

    def make(self) -> "BERT":
        """The module."""
        return BERT(self)

    def for_inference(self) -> "BERTConfig":
        """Layers one by one, which run faster than a scan."""
        return replace(self, scan_layers=False)

    def convert(self, variables: Any) -> Any:
        """Variables with the layers stacked or one by one, as `scan_layers` says."""
        return convert_layers(variables, self.scan_layers)

    def cost(self, length: int) -> Cost:
        """Parameters of the encoder, and operations of its matrix products; see `GPTConfig.cost`.

        A task's head is not included.

        Raises:
            UserError: a size that is still left to the tokenizer or the data.
        """
        self.check_resolved()
        D, stack = self.d_model, self.stack()
        block, products = layer_sizes(stack)
        rows = self.vocab_size + self.num_types + self.max_length * (self.position == "learned")
        pooler = (D * D + D) * self.pooler
        forward = self.num_layers * (2 * products + 4 * length * D)
        parameters = self.num_layers * block + norm_size(stack) * (1 + self.norm_first) + rows * D + pooler
        return Cost(parameters, forward, 3 * forward)

    def describe_context(self) -> dict[str, Any]:
        """The number of tokens that are read at once."""
        return {"window": self.max_length}


class BERT(nn.Module):
    """The encoder. Its parameters are float32, and it computes in `config.dtype`."""

    config: BERTConfig

    def setup(self):
        """Makes the layers, named as parameters are."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        c.check_resolved()
        stack = c.stack()
        self.token_embedding = Embed(c.vocab_size, c.d_model, dtype)
        if c.position == "learned":
            self.position_embedding = Embed(c.max_length, c.d_model, dtype)
        if c.num_types:
            self.type_embedding = Embed(c.num_types, c.d_model, dtype)
        self.embedding_norm = make_norm(stack)
        self.drop = Dropout(c.dropout)
        self.stack = Stack(stack)
        nn.share_scope(self, self.stack)
        if c.norm_first:
            self.final_norm = make_norm(stack)
        if c.pooler:
            self.pooler = Dense(c.d_model, dtype)

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        """`encode`; with all parameters, for `init`."""
        hidden_BTD = self.encode(tokens_BT)
        if self.config.pooler:
            self.pool(hidden_BTD[:, 0])
        return hidden_BTD

    def encode(
        self,
        tokens_BT: jax.Array,
        segments: jax.Array | None = None,
        types: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """A vector for each position, [B, T, D]; see `base.Encodes`.

        Sows the sum of the embeddings after its norm, and the output of each block, as "blocks" into the
        collection "intermediates"; not with `scan_layers`.

        Raises:
            UserError: more tokens than the model reads.
        """
        c, T = self.config, tokens_BT.shape[1]
        if c.max_length < T:
            raise UserError(f"{T} tokens for a model that reads {c.max_length}", "give shorter texts")
        position_1T = jnp.arange(T)[None]
        x_BTD = self.token_embedding(tokens_BT)
        if c.num_types:
            x_BTD += self.type_embedding(jnp.zeros_like(tokens_BT) if types is None else types)
        if c.position == "learned":
            x_BTD += self.position_embedding(position_1T)
        x_BTD = self.embedding_norm(x_BTD)
        self.sow("intermediates", "blocks", x_BTD)
        x_BTD = self.drop(x_BTD, deterministic=not train)
        mask_BHTS = None if segments is None else encoder_mask(segments)
        x_BTD, _ = self.stack(x_BTD, None, mask_BHTS, position_1T, train=train)
        return self.final_norm(x_BTD) if c.norm_first else x_BTD

    def pool(self, first_BD: jax.Array) -> jax.Array:
        """The pooled output, tanh(dense(x)), of the vectors at the first position, [B, D]."""
        return jnp.tanh(self.pooler(first_BD))

    def vocabulary_logits(self, x: jax.Array) -> jax.Array:
        """Products of vectors [..., D] with all token embeddings, float32 [..., V]."""
        return matmul_transposed(x, self.token_embedding.embedding)
