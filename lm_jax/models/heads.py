"""Output layers other than the token embedding, and the mask of rows that pad a vocabulary.

A model with a head has the parameters `backbone` and `head`, so that the backbone can be trained by one task
and used by another.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from lm_jax.errors import UserError
from lm_jax.models.base import HasLayers, read
from lm_jax.models.layers import Dense, Dropout, LayerNorm
from lm_jax.models.products import matmul, matmul_transposed


class Head(nn.Module):
    """`hidden @ kernel + bias`, computed in the dtype of `hidden`; logits are float32 [..., V]."""

    vocab_size: int
    kernel_init: Initializer = nn.initializers.lecun_normal()
    use_bias: bool = True

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Maps [..., D] to logits [..., V]."""
        kernel_DV = self.param("kernel", self.kernel_init, (hidden.shape[-1], self.vocab_size))
        if self.use_bias:
            # As a row of the kernel: the sum and its gradient need no passes over all logits.
            bias_V = self.param("bias", nn.initializers.zeros, (self.vocab_size,))
            kernel_DV = jnp.concatenate([kernel_DV, bias_V[None]])
            hidden = jnp.concatenate([hidden, jnp.ones_like(hidden[..., :1])], axis=-1)
        return matmul(hidden, kernel_DV)


class TokenHead(nn.Module):
    """`hidden @ embedding.T + bias`, with a row for each token, of which a few are quickly taken.

    Parameters, float32: `embedding` [V, D] and `bias` [V].
    """

    vocab_size: int
    features: int

    def setup(self) -> None:
        """Makes the parameters."""
        first = nn.initializers.normal(1 / math.sqrt(self.features))
        self.embedding = self.param("embedding", first, (self.vocab_size, self.features))
        self.bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Maps [..., D] to logits, float32 [..., V]."""
        return _rows_with_bias(hidden, self.embedding, self.bias)

    def of(self, hidden: jax.Array, ids_K: jax.Array) -> jax.Array:
        """The logits of the tokens `ids_K`, float32 [..., K]."""
        return _rows_with_bias(hidden, self.embedding[ids_K], self.bias[ids_K])

    def of_each(self, hidden: jax.Array, ids: jax.Array) -> jax.Array:
        """The logit of one token at each position, float32 [...]; ids [...]."""
        products = hidden.astype(jnp.float32) * self.embedding[ids].astype(jnp.float32)
        return products.sum(axis=-1) + self.bias[ids]


def _rows_with_bias(hidden: jax.Array, rows_KD: jax.Array, bias_K: jax.Array) -> jax.Array:
    # As a column: the sum and its gradient need no passes over all logits.
    rows_KD = jnp.concatenate([rows_KD, bias_K[:, None]], axis=1)
    hidden = jnp.concatenate([hidden, jnp.ones_like(hidden[..., :1])], axis=-1)
    return matmul_transposed(hidden, rows_KD)


def mask_padding(logits: jax.Array, num_tokens: int) -> jax.Array:
    """Logits [..., V] with -inf from row `num_tokens` on: those rows pad the vocabulary, to a size that
    devices can share, and have probability 0.
    """
    if num_tokens == logits.shape[-1]:
        return logits
    is_token = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) < num_tokens
    return jnp.where(is_token, logits, -jnp.inf)


class AdaptiveSoftmax(nn.Module):
    """Log-probabilities through clusters (Grave et al. 2017, section 4), as in PyTorch.

    The head has the first `cutoffs[0]` tokens and one entry per cluster. Cluster i has the tokens from
    cutoffs[i] to the next cutoff and reads the hidden state projected to D / ratio^(i+1) features. So ids
    must be sorted from frequent to rare, as those of word tokenizers are.

    All clusters are computed at all positions; the vectors of rare tokens are narrower.
    """

    vocab_size: int
    cutoffs: tuple[int, ...]
    ratio: float = 4.0

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Natural-log probabilities, float32 [..., V], of hidden states [..., D]."""
        shortlist, num_clusters = self.cutoffs[0], len(self.cutoffs)
        head = nn.log_softmax(Head(shortlist + num_clusters, use_bias=False, name="head")(hidden))
        parts = [head[..., :shortlist]]
        for i, (first, end) in enumerate(pairwise((*self.cutoffs, self.vocab_size))):
            width = max(1, int(hidden.shape[-1] / self.ratio ** (i + 1)))
            narrow = Dense(width, hidden.dtype, use_bias=False, name=f"narrow_{i}")(hidden)
            inside = nn.log_softmax(Head(end - first, use_bias=False, name=f"cluster_{i}")(narrow))
            parts.append(head[..., shortlist + i, None] + inside)
        return jnp.concatenate(parts, axis=-1)


def check_cutoffs(cutoffs: tuple[int, ...], ratio: float, vocab_size: int) -> None:
    """Raises UserError for cutoffs that do not fit a vocabulary of `vocab_size` tokens (0: not known yet)."""
    if any(a >= b for a, b in pairwise((0, *cutoffs))):
        raise UserError(f"model.adaptive_cutoffs={cutoffs}", "give increasing ids above 0")
    if cutoffs and 0 < vocab_size <= cutoffs[-1]:
        raise UserError(
            f"model.adaptive_cutoffs={cutoffs} leave nothing of {vocab_size} tokens for the last cluster",
            f"end below {vocab_size}",
        )
    if not ratio >= 1:
        raise UserError(f"model.adaptive_ratio={ratio}", "it must be 1 or more")


class MaskedModel(nn.Module):
    """An encoder that predicts masked tokens, and whether the second text of a pair follows the first.

    The head of Devlin et al. 2019 (section 3.1 and `run_pretraining.py` of their code): tokens by a dense
    layer, an activation, a norm, and the products with the token embeddings plus a bias; pairs by a dense
    layer on the pooled output.

    Attributes:
        backbone: a module with `encode`, `vocabulary_logits` and, for pairs, `pool`.
        d_model: D.
        vocab_size: V.
        num_tokens: rows of the vocabulary from here on have probability 0.
        activation: of the dense layer.
        epsilon: of the norm.
        dtype: of computation.
        has_pairs: whether there is a head for pairs.
    """

    backbone: Any
    d_model: int
    vocab_size: int
    num_tokens: int
    activation: Callable[[jax.Array], jax.Array]
    epsilon: float = 1e-12
    dtype: jnp.dtype = jnp.float32
    has_pairs: bool = False

    def setup(self):
        """Makes the head."""
        self.head = _MaskedHead(self.d_model, self.vocab_size, self.epsilon, self.dtype, self.has_pairs)

    def __call__(self, tokens_BT: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """The logits at all positions, and those of pairs; with all parameters, for `init`."""
        hidden_BTD = self.backbone(tokens_BT)
        return self.logits(hidden_BTD), self.pair_logits(hidden_BTD) if self.has_pairs else None

    def encode(
        self,
        tokens_BT: jax.Array,
        segments: jax.Array | None = None,
        types: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """What the head reads at each position, [B, T, D]; see `base.Encodes`."""
        return self.backbone.encode(tokens_BT, segments, types, train)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Unnormalised natural-log probabilities of the token at each position, float32 [..., V]."""
        x = self.head.transform(hidden, self.activation)
        return mask_padding(self.backbone.vocabulary_logits(x) + self._bias(x.ndim), self.num_tokens)

    def pair_logits(self, hidden_BTD: jax.Array) -> jax.Array:
        """Unnormalised natural-log probabilities that B follows A, and that it does not, float32 [B, 2]."""
        return self.head.pairs(self.backbone.pool(hidden_BTD[:, 0])).astype(jnp.float32)

    def _bias(self, ndim: int) -> jax.Array:
        return jnp.expand_dims(self.head.bias, tuple(range(ndim - 1)))


class _MaskedHead(nn.Module):
    """The parameters of the head of a `MaskedModel`."""

    d_model: int
    vocab_size: int
    epsilon: float
    dtype: jnp.dtype
    has_pairs: bool

    def setup(self):
        """Makes the parameters."""
        self.dense = Dense(self.d_model, self.dtype)
        self.norm = LayerNorm(self.epsilon, self.dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))
        if self.has_pairs:
            self.pairs = Dense(2, self.dtype)

    def transform(self, hidden: jax.Array, activation: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """What is multiplied with the token embeddings, [..., D]."""
        return self.norm(activation(self.dense(hidden)))


class LabelModel(nn.Module):
    """A model of texts or tokens with a head of class scores, or of one number.

    Attributes:
        backbone: a module that `base.read` reads.
        num_outputs: N; classes, or 1 for a number.
        pooling: "first", "last" or "mean" over the positions that are not padding; "each": outputs for each.
        has_pooler: whether the backbone has a method `pool`, which follows the pooling "first".
        hidden_layer: whether a dense layer with tanh comes before the output.
        dropout: before each dense layer of the head.
        dtype: of computation.
        mix: of a backbone that is `HasLayers`, what the head reads: "trained", a weighted sum of all layers
            whose weights are trained; "equal", their mean; "top", the last one; "bottom", the first one.
    """

    backbone: Any
    num_outputs: int
    pooling: str
    has_pooler: bool = False
    hidden_layer: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    mix: str = "top"

    def setup(self):
        """Makes the head."""
        trained = self.mix == "trained"
        self.head = _LabelHead(self.num_outputs, self.hidden_layer, self.dropout, self.dtype, trained)

    def __call__(
        self,
        tokens_BT: jax.Array,
        segments: jax.Array | None = None,
        types: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Class scores, float32: [B, N], or [B, T, N] where `pooling` is "each".

        Args:
            tokens_BT: int token ids.
            segments: int [B, T]; negative ones are padding. None: nothing is.
            types: int [B, T]; 1 for the second text of a pair. None: 0.
            train: whether dropout is on; needs `rngs={"dropout": key}`.
        """
        return self.head(self._pooled(self._read(tokens_BT, segments, types, train), segments), train)

    def _read(self, tokens_BT: jax.Array, segments: Any, types: Any, train: bool) -> jax.Array:
        if self.mix == "top" or not isinstance(self.backbone, HasLayers):
            return read(self.backbone, tokens_BT, segments, types, train)
        layers_LBTD, _ = self.backbone.layers(tokens_BT, None, segments, train)
        if self.mix == "trained":
            return self.head.mixed(layers_LBTD)
        return layers_LBTD[0] if self.mix == "bottom" else layers_LBTD.mean(axis=0)

    def _pooled(self, hidden_BTD: jax.Array, segments: jax.Array | None) -> jax.Array:
        if self.has_pooler and (self.pooling == "first" or self.is_initializing()):
            pooled_BD = self.backbone.pool(hidden_BTD[:, 0])  # also to have its parameters, as the source has
            if self.pooling == "first":
                return pooled_BD
        if self.pooling == "each":
            return hidden_BTD
        return pool(hidden_BTD, segments, self.pooling)


class ScalarMix(nn.Module):
    """γ · Σ softmax(weights) · layer, of the layers [L, ...]: Peters et al. 2018, equation 1.

    Parameters: `weights` [L], equal at first, and `gamma`, at first 1.
    """

    @nn.compact
    def __call__(self, layers: jax.Array) -> jax.Array:
        """Maps [L, ...] to [...]."""
        weights_L = self.param("weights", nn.initializers.zeros, layers.shape[:1])
        gamma = self.param("gamma", nn.initializers.ones, ())
        return mix(layers, weights_L, gamma)


def mix(layers: jax.Array, weights_L: jax.Array, gamma: Any) -> jax.Array:
    """See `ScalarMix`."""
    shares_L = nn.softmax(weights_L.astype(jnp.float32)).astype(layers.dtype)
    return (gamma * jnp.tensordot(shares_L, layers, 1)).astype(layers.dtype)


class _LabelHead(nn.Module):
    num_outputs: int
    hidden_layer: bool
    dropout: float
    dtype: jnp.dtype
    has_mix: bool = False

    def setup(self):
        """Makes the layers, named as parameters are."""
        self.drop = Dropout(self.dropout)
        self.out = Dense(self.num_outputs, self.dtype)
        if self.has_mix:
            self.mix = ScalarMix()

    def mixed(self, layers_LBTD: jax.Array) -> jax.Array:
        """The weighted sum of the backbone's layers, [B, T, D]."""
        return self.mix(layers_LBTD)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.drop(x, deterministic=not train)
        if self.hidden_layer:
            x = jnp.tanh(Dense(x.shape[-1], self.dtype, name="dense")(x))
            x = self.drop(x, deterministic=not train)
        return self.out(x).astype(jnp.float32)


def pool(hidden_BTD: jax.Array, segments: jax.Array | None, pooling: str) -> jax.Array:
    """A vector for each row, [B, D].

    Args:
        hidden_BTD: a vector for each position.
        segments: int [B, T]; negative ones are padding, on the right. None: nothing is.
        pooling: "first", "last", "mean" or "max" over the positions that are not padding.
    """
    if pooling == "first":
        return hidden_BTD[:, 0]
    is_token_BT = jnp.ones(hidden_BTD.shape[:2], bool) if segments is None else segments >= 0
    if pooling == "last":
        last_B1 = jnp.sum(is_token_BT, axis=1, keepdims=True) - 1
        return jnp.take_along_axis(hidden_BTD, jnp.maximum(last_B1, 0)[:, :, None], axis=1)[:, 0]
    if pooling == "max":
        return jnp.where(is_token_BT[:, :, None], hidden_BTD, -jnp.inf).max(axis=1)
    weights_BT = is_token_BT.astype(jnp.float32)
    total_BD = jnp.einsum("BTD,BT->BD", hidden_BTD.astype(jnp.float32), weights_BT)
    return (total_BD / jnp.maximum(weights_BT.sum(axis=1, keepdims=True), 1)).astype(hidden_BTD.dtype)
