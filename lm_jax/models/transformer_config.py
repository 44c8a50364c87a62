"""The fields and methods that the configs of GPT, BERT and other transformers share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax.numpy as jnp

from lm_jax.errors import UserError
from lm_jax.models.base import ModelConfig
from lm_jax.models.transformer import MLPS, NORMS, StackConfig, convert_layers


@dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """The shape of a transformer that reads texts of limited length.

    Attributes:
        choices: the values that a text field may have, by its name.
        counts: fields that may be 0 or more; `num_layers`, `num_heads` and `d_model` are 1 or more.
        rates: fields from 0 to below 1.
    """

    choices: ClassVar[Mapping[str, Sequence[str]]] = {
        "position": ("learned", "rope", "none"),
        "norm": NORMS,
        "mlp": tuple(MLPS),
        "dtype": ("float32", "bfloat16"),
    }
    counts: ClassVar[tuple[str, ...]] = ("vocab_size", "max_length", "d_ff")
    rates: ClassVar[tuple[str, ...]] = ("dropout",)

    max_length: int = 0  # longest text, in tokens; 0: data.sequence_length
    num_layers: int = 4  # number of blocks
    num_heads: int = 4  # attention heads in a block; divides d_model
    d_model: int = 128  # width of the residual stream
    d_ff: int = 0  # width inside the MLP; 0: 4 * d_model, or 2/3 of that with swiglu: as many parameters
    position: str = "learned"  # learned: an embedding is added, rope: queries and keys are rotated, or none
    rope_theta: float = 10000.0  # rope's base: its slowest pair turns once in about 2π times as many tokens
    norm: str = "layer"  # layer, or rms: no mean taken out and no bias
    mlp: str = "gelu"  # gelu (its tanh approximation), gelu_exact, or swiglu: gated hidden units
    use_bias: bool = True  # of products and layer norms
    dropout: float = 0.0  # of embeddings and residual branches
    layer_norm_epsilon: float = 1e-5  # added to the variance, or to rms's mean square
    dtype: str = "float32"  # of computation, or bfloat16; parameters are float32
    scan_layers: bool = False  # layers are one stacked parameter tree and compile once
    remat: bool = False  # backward recomputes blocks and keeps less; on a CPU that needs scan_layers too

    @property
    def head_width(self) -> int:
        """Width of an attention head."""
        return self.d_model // self.num_heads

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
            mlp=self.mlp,
            use_bias=self.use_bias,
            dropout=self.dropout,
            attention_dropout=self.dropout,
            layer_norm_epsilon=self.layer_norm_epsilon,
            rope_theta=self.rope_theta if self.position == "rope" else 0.0,
            dtype=jnp.dtype(self.dtype),
            scan_layers=self.scan_layers,
            remat=self.remat,
        )

    def check(self) -> None:
        """Raises UserError for a value that no model can have, or two that do not go together."""
        for name, options in self.choices.items():
            if getattr(self, name) not in options:
                raise UserError(f"model.{name}={getattr(self, name)!r}", f"choose {' or '.join(options)}")
        least_of = {"num_layers": 1, "num_heads": 1, "d_model": 1} | dict.fromkeys(self.counts, 0)
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise UserError(f"model.{name}={getattr(self, name)}", f"it must be {least} or more")
        for name in ("layer_norm_epsilon", "rope_theta"):
            if not getattr(self, name) > 0:
                raise UserError(f"model.{name}={getattr(self, name)}", "it must be above 0")
        for name in self.rates:
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)}", "it must lie in [0, 1)")
        self.check_divides("d_model", "num_heads")
        if self.position == "rope" and self.head_width % 2:
            raise UserError(
                f"model.position=rope turns pairs of features, but a head has {self.head_width} of them",
                "make model.d_model / model.num_heads even",
            )

    def check_divides(self, whole: str, part: str) -> None:
        """Raises UserError unless the field `whole` is a multiple of the field `part`; 0 divides all."""
        if getattr(self, part) and getattr(self, whole) % getattr(self, part):
            raise UserError(
                f"model.{whole}={getattr(self, whole)} does not divide into "
                f"model.{part}={getattr(self, part)}",
                "make it a multiple",
            )

    @property
    def context_length(self) -> int:
        """`max_length`; 0 while it is left to the data."""
        return self.max_length

    def free(self) -> frozenset[str]:
        """`free_fields`, and the longest text unless each place has a parameter of its own."""
        return self.free_fields | ({"max_length"} if self.position != "learned" else frozenset())

    def resolved(self, vocab_size: int, length: int) -> Self:
        """With the tokenizer's vocabulary and, where `max_length` is 0, the data's length."""
        return replace(super().resolved(vocab_size, length), max_length=self.max_length or length)

    def check_resolved(self) -> None:
        """Raises UserError where a size is still left to the tokenizer or the data."""
        super().check_resolved()
        if self.max_length < 1:
            raise UserError(f"model.max_length={self.max_length}", "a model itself needs 1 or more")

    def for_inference(self) -> Self:
        """Layers one by one: a scan is slower, and copies a cache at each token."""
        return replace(self, scan_layers=False)

    def convert(self, variables: Any) -> Any:
        """Variables with the layers stacked or one by one, as `scan_layers` says."""
        return convert_layers(variables, self.scan_layers)

    def describe_context(self) -> dict[str, Any]:
        """The number of tokens that are read at once."""
        return {"window": self.max_length}
