"""BERT, a transformer encoder, with later variants by other fields of its config.

Devlin et al. 2019 (BERT); Xiong et al. 2020 (pre-norm); Warner et al. 2024 (ModernBERT: pre-norm, rope, gated
units, no biases). Fields are independent, so that an ablation changes one. Shape letters: `layers.py`.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax.errors import UserError
from lm_jax.models.attention import encoder_mask
from lm_jax.models.base import Cost
from lm_jax.models.layers import Dense, Dropout, Embed
from lm_jax.models.products import matmul_transposed
from lm_jax.models.transformer import Stack, StackConfig, layer_sizes, make_norm, norm_size
from lm_jax.models.transformer_config import TransformerConfig


@dataclass(frozen=True)
class BERTConfig(TransformerConfig):
    """The shape of a BERT. As published, "base" is 12 layers, 12 heads, 768 wide, 512 long.

    A text's length counts [CLS] and [SEP].
    """

    family: ClassVar[str] = "bert"
    published_as: ClassVar[tuple[str, ...]] = ("bert",)
    pooling: ClassVar[str] = "first"
    reads: ClassVar[str] = "both sides"
    adapter: ClassVar[str] = "encoder"
    free_fields: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "attention_dropout", "dtype", "scan_layers", "remat"}
    )
    counts: ClassVar[tuple[str, ...]] = (*TransformerConfig.counts, "num_types")
    rates: ClassVar[tuple[str, ...]] = ("dropout", "attention_dropout")

    mlp: str = "gelu_exact"  # gelu_exact, gelu (its tanh approximation), or swiglu: gated hidden units
    layer_norm_epsilon: float = 1e-12  # added to the variance, or to rms's mean square
    num_types: int = 2  # token types, which tell the two texts of a pair apart; 0: no embedding of them
    norm_first: bool = False  # norms before attention and MLP and at the end, or after each sum, as published
    pooler: bool = False  # a dense layer with tanh on the first position, for tasks on whole texts
    attention_dropout: float = 0.0  # of attention probabilities; 0.1 as published, as dropout

    def stack(self) -> StackConfig:
        """The shape of the blocks."""
        return replace(super().stack(), norm_first=self.norm_first, attention_dropout=self.attention_dropout)

    def make(self) -> "BERT":
        """The module."""
        return BERT(self)

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
