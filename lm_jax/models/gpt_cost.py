"""What a GPT costs, from its config alone: parameters, and floating-point operations."""

from typing import NamedTuple

from lm_jax.models.gpt import GPTConfig


class Flops(NamedTuple):
    """Floating-point operations, a multiplication and an addition being two.

    Attributes:
        forward: of reading.
        training: of reading and of the gradient, which is twice that again.
    """

    forward: int
    training: int


def num_parameters(config: GPTConfig) -> int:
    """How many numbers are trained.

    Raises:
        UserError: a size that is still left to the tokenizer or the data.
    """
    c = config
    c.check_resolved()
    norm = c.d_model * (2 if c.norm == "layer" and c.use_bias else 1)
    block = (1 if c.parallel_block else 2) * norm
    block += sum(inputs * outputs + c.use_bias * outputs for inputs, outputs in _kernels(c))
    rows = c.vocab_size * (1 if c.tied_head else 2) + c.max_length * (c.position == "learned")
    return c.num_layers * block + norm + rows * c.d_model


def flops_per_token(config: GPTConfig, length: int) -> Flops:
    """Operations of the matrix products for each token of rows of `length` tokens.

    A product with an [I, O] matrix is 2·I·O, and the head is one; a layer's attention adds 4·length·D. That
    is table 1 of Kaplan et al. 2020 with the head, and appendix B of Chowdhery et al. 2022: what published
    model FLOPs utilisation counts. So causal attention counts as if nothing were skipped, and what remat
    computes twice counts once. Norms, activations, softmax, embeddings and the optimizer are left out.

    Raises:
        UserError: a size that is still left to the tokenizer or the data.
    """
    c = config
    c.check_resolved()
    block = sum(2 * inputs * outputs for inputs, outputs in _kernels(c)) + 4 * length * c.d_model
    forward = c.num_layers * block + 2 * c.d_model * c.vocab_size
    return Flops(forward, 3 * forward)


def _kernels(config: GPTConfig) -> list[tuple[int, int]]:
    """Input and output widths of a block's products."""
    D, F = config.d_model, config.mlp_width
    qkv = (config.num_heads + 2 * config.kv_heads) * config.head_width
    return [(D, qkv), (D, D), *[(D, F)] * (2 if config.mlp == "swiglu" else 1), (F, D)]
