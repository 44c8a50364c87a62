"""The neural probabilistic language model: a hidden layer over the last words' vectors, then a softmax.

Bengio et al. 2003, equation 1: y = b + W x + U tanh(d + H x), where x is the concatenation of the vectors.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax.errors import UserError
from lm_jax.models.base import ModelConfig, Size
from lm_jax.models.heads import Head, mask_padding
from lm_jax.models.layers import Dense, Embed
from lm_jax.models.recurrent import CarriesState, restarts, uniform


@dataclass(frozen=True)
class NNLMConfig(ModelConfig):
    """The shape of a neural probabilistic language model; the defaults are near Bengio's "MLP" on Brown."""

    family: ClassVar[str] = "nnlm"
    free_fields: ClassVar[frozenset[str]] = frozenset({"dropout", "dtype"})

    order: int = 5  # n: a token is predicted from the n - 1 before it
    d_embedding: int = 60  # width of a token's vector
    d_hidden: int = 100  # tanh units
    direct: bool = False  # the head reads the tokens' vectors too
    dropout: float = 0.0  # of the vectors and of the hidden units
    dtype: str = "float32"  # of computation, or bfloat16; parameters are float32

    def check(self) -> None:
        """Raises UserError for a value that no model can have."""
        for name, least in (("order", 2), ("d_embedding", 1), ("d_hidden", 1), ("vocab_size", 0)):
            if getattr(self, name) < least:
                raise UserError(f"model.{name}={getattr(self, name)}", f"it must be {least} or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout={self.dropout}", "it must lie in [0, 1)")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"model.dtype={self.dtype!r}", "choose float32 or bfloat16")

    def make(self) -> "NNLM":
        """The module."""
        return NNLM(self)

    def size(self, length: int) -> Size:
        """The matrices and the embeddings, and what the two products read."""
        vectors = (self.order - 1) * self.d_embedding
        read = self.d_hidden + (vectors if self.direct else 0)
        embeddings = self.vocab_size * self.d_embedding
        return Size(embeddings + vectors * self.d_hidden + read * self.vocab_size, vectors + self.d_hidden)

    def describe_context(self) -> dict[str, int]:
        """As for an n-gram model of this order."""
        return {"order": self.order}


class NNLM(CarriesState):
    """A neural probabilistic language model.

    Its state is the last n - 1 tokens, int32 [B, n - 1], -1 before a text; the vector of -1 is zero.
    """

    config: NNLMConfig

    def setup(self):
        """Makes the layers, named as parameters are."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        c.check()
        c.check_resolved()
        self.token_embedding = Embed(c.vocab_size, c.d_embedding, dtype, embedding_init=uniform(0.1))
        self.layer = Dense(c.d_hidden, dtype, nn.initializers.lecun_normal())
        self.head = Head(c.vocab_size, uniform(0.1))
        self.drop = nn.Dropout(c.dropout)

    def hidden(
        self,
        tokens_BT: jax.Array,
        state: jax.Array | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """What the head reads at each position: position t depends on tokens t - n + 2 to t.

        Args:
            tokens_BT: int token ids.
            state: the tokens before these.
            segments: int [B, T]; earlier tokens are ignored where it changes within a row. The given state
                belongs to segment 0, so it is ignored at once where a row starts with another.
            train: whether dropout is on; needs `rngs={"dropout": key}`.

        Returns:
            [B, T, D] in the compute dtype, and the state after these tokens.
        """
        (B, T), num_words = tokens_BT.shape, self.config.order - 1
        if state is None:
            state = self.init_state(B)
        seen_BS = jnp.concatenate([state, tokens_BT], axis=1)
        text_BT = jnp.zeros((B, T), int) if segments is None else restarts(segments).cumsum(axis=1)
        text_BS = jnp.pad(text_BT, ((0, 0), (num_words, 0)))
        vectors_BSE = self.token_embedding(seen_BS)

        words = []
        for first in range(1, num_words + 1):  # of the window of each position, from its oldest word on
            part = slice(first, first + T)
            is_read_BT = (text_BS[:, part] == text_BT) & (seen_BS[:, part] >= 0)
            words.append(jnp.where(is_read_BT[:, :, None], vectors_BSE[:, part], 0))
        x_BTI = self.drop(jnp.concatenate(words, axis=-1), deterministic=not train)
        h_BTH = self.drop(jnp.tanh(self.layer(x_BTI)), deterministic=not train)
        hidden_BTD = jnp.concatenate([h_BTH, x_BTI], axis=-1) if self.config.direct else h_BTH

        is_recent_BS = text_BS[:, -num_words:] == text_BS[:, -1:]
        return hidden_BTD, jnp.where(is_recent_BS, seen_BS[:, -num_words:], -1)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Unnormalised natural-log probabilities of the next token, float32 [..., V]."""
        return mask_padding(self.head(hidden), self.config.known_tokens)

    @nn.nowrap
    def init_state(self, batch_size: int, length: int = 0) -> jax.Array:
        """The state before the first token; `length` is accepted, since other families need it."""
        return jnp.full((batch_size, self.config.order - 1), -1, jnp.int32)
