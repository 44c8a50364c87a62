"""What a GPT costs, against published sizes, flax's own shapes and XLA's own count."""

import math

import jax
import jax.numpy as jnp
import pytest
from tiny_gpt import EVERYTHING, shapes

from lm_jax.errors import UserError
from lm_jax.models.gpt import GPT, GPTConfig

SMALL = {"vocab_size": 256, "max_length": 64, "num_layers": 2, "num_heads": 4, "d_model": 128}
LLAMA = {"position": "rope", "norm": "rms", "mlp": "swiglu", "tied_head": False, "use_bias": False}


def gpt2(num_layers, num_heads, d_model):
    return GPTConfig(
        vocab_size=50257, max_length=1024, num_layers=num_layers, num_heads=num_heads, d_model=d_model
    )


def llama(num_layers, d_model, d_ff, num_kv_heads):
    shape = {"num_layers": num_layers, "d_model": d_model, "d_ff": d_ff, "num_kv_heads": num_kv_heads}
    return GPTConfig(vocab_size=32000, max_length=2048, num_heads=32, **shape, **LLAMA)


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (gpt2(12, 12, 768), 124_439_808),
        (gpt2(24, 16, 1024), 354_823_168),
        (llama(32, 4096, 11008, 32), 6_738_415_616),  # LLaMA 7B
        (llama(22, 2048, 5632, 4), 1_100_048_384),  # TinyLlama
        (llama(32, 4096, 14336, 8), 7_241_732_096),  # Mistral 7B
    ],
)
def test_published_sizes(config, published):
    assert config.cost(1).parameters == published


@pytest.mark.parametrize(
    "fields", [{name: value} for name, value in EVERYTHING.items()] + [EVERYTHING], ids=str
)
def test_parameters_are_those_of_the_model(fields):
    model = GPT(GPTConfig(**(SMALL | fields)))
    assert model.config.cost(1).parameters == sum(x.size for x in jax.tree.leaves(shapes(model)))


def test_swiglu_has_as_many_parameters_as_gelu():
    for d_model in (48, 192, 768, 1536):
        config = {"d_model": d_model, "vocab_size": 2, "max_length": 2, "use_bias": False}
        assert GPTConfig(**config).cost(1).parameters == GPTConfig(**config, mlp="swiglu").cost(1).parameters


def xla_flops(config, length):
    """Operations a token that XLA counts, forward and with the gradient, before it optimises anything."""
    model, tokens = GPT(config), jax.ShapeDtypeStruct((2, length), jnp.int32)

    def total(params, tokens):
        return model.apply(params, tokens)[0].sum()

    functions = (total, jax.value_and_grad(total))
    lowered = [jax.jit(f).lower(shapes(model), tokens) for f in functions]
    return [x.cost_analysis()["flops"] / (2 * length) for x in lowered]


@pytest.mark.parametrize("fields", [{}, {**LLAMA, "num_kv_heads": 1}, {"parallel_block": True}], ids=str)
def test_flops_of_products_are_close_to_xlas_count(fields):
    """Within 3 %: XLA counts norms, activations and softmax too, which 128 wide are 1 to 3 %."""
    config = GPTConfig(**(SMALL | fields))
    for counted, ours in zip(xla_flops(config, 64), config.cost(64)[1:], strict=True):
        assert 1 < counted / ours < 1.03


def test_block_causal_attention_skips_and_remat_repeats_flops():
    fields = SMALL | {"max_length": 512, "vocab_size": 2, "num_layers": 1}
    config = GPTConfig(**fields)
    products = config.cost(512).forward - config.cost(0).forward
    full, blocks = (xla_flops(GPTConfig(**fields, attention=a), 512) for a in ("full", "block_causal"))
    # Four blocks of queries meet 1, 2, 3 and 4 blocks of keys: 10 of 16. XLA counts softmax's part too.
    assert math.isclose((full[0] - blocks[0]) / products, 6 / 16, rel_tol=0.1)
    assert math.isclose((full[1] - blocks[1]) / products, 3 * 6 / 16, rel_tol=0.1)
    forward, training = xla_flops(GPTConfig(**fields, remat=True), 512)
    assert forward == full[0]
    assert 0.7 < (training - full[1]) / forward < 1  # all but the last product of each block, and the head


def test_training_is_six_operations_a_parameter():
    """Chowdhery et al. 2022, appendix B: 6N + 12·L·H·Q·T, N without what is only looked up or added."""
    config = llama(32, 4096, 11008, 32)
    looked_up = (32000 + 2 * 32 + 1) * 4096
    expected = 6 * (config.cost(1).parameters - looked_up) + 12 * 32 * 32 * 128 * 2048
    assert config.cost(2048).training == expected


def test_unresolved_sizes_are_an_error():
    with pytest.raises(UserError, match=r"model\.vocab_size=0"):
        GPTConfig().cost(8)
    with pytest.raises(UserError, match=r"model\.max_length=0"):
        GPTConfig(vocab_size=5).cost(8)
