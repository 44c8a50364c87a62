"""Output layers other than the token embedding, and the mask of rows that pad a vocabulary."""

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from lm_jax.errors import UserError
from lm_jax.models.layers import Dense
from lm_jax.models.products import matmul


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
