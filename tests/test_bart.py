"""The encoder-decoder: sizes, causality, padding, its cache, and that its variants are the same function."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_gpt

from lm_jax.errors import UserError
from lm_jax.models.bart import BARTConfig
from lm_jax.models.base import EncodesDecodes, LeftToRight, read
from lm_jax.models.transformer import convert_layers

SMALL = BARTConfig(
    vocab_size=29, num_tokens=27, max_length=12, num_layers=2, num_encoder_layers=1, num_heads=2, d_model=16,
    logits_bias=True, scale_embedding=True,
)  # fmt: skip
MODERN = dataclasses.replace(
    SMALL, position="rope", norm_first=True, norm="rms", mlp="swiglu", use_bias=False, tied_head=False,
    logits_bias=False,
)  # fmt: skip
BOTH = pytest.mark.parametrize("config", [SMALL, MODERN], ids=["published", "modern"])
SOURCE, TARGET = np.random.default_rng(0).integers(27, size=(2, 2, 10)).astype(np.int32)
SEGMENTS = np.where(np.arange(10) < [[10], [6]], 0, -1).astype(np.int32)


def first_params(config):
    """Random variables, biases and norms too."""
    rng = np.random.default_rng(0)
    shapes = tiny_gpt.shapes(config.make())
    return jax.tree.map(lambda x: np.float32(rng.normal(scale=0.3, size=x.shape)), shapes)


def logits(config, params, source, target, segments=None, **options):
    module = config.make()

    def run(params):
        def call(m):
            memory = m.encode(source, segments, **options)
            return m.logits(m.decode(target, memory, segments, **options))

        return module.apply(params, method=call)

    return jax.jit(run)(params)


@BOTH
def test_cost_counts_the_parameters(config):
    shapes = tiny_gpt.shapes(config.make())
    assert config.cost(8).parameters == sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))
    assert isinstance(config.make(), EncodesDecodes)
    assert not isinstance(config.make(), LeftToRight)


@BOTH
def test_no_logit_depends_on_a_later_token_and_all_depend_on_the_whole_source(config):
    params, module = first_params(config), config.make()

    def of_rows(source_SD, target_TD):
        def call(m):
            half = m.encoder(source_SD[None], jnp.arange(10)[None], None, None)[0]
            memory = m.read_memory(half)
            hidden, _ = m.decoder(target_TD[None], jnp.arange(10)[None], None, None, memory, True)
            return m.logits(hidden)[0, :, 0]

        return module.apply(params, method=call)

    vectors = np.random.default_rng(1).normal(size=(2, 10, 16)).astype(np.float32)
    by_source, by_target = jax.jit(jax.jacrev(of_rows, (0, 1)))(*vectors)
    assert (np.abs(by_source).max(axis=-1) > 0).all()
    depends = np.abs(by_target).max(axis=-1) > 0
    np.testing.assert_array_equal(depends, np.tri(10, dtype=bool))


@BOTH
def test_padding_changes_nothing_and_padded_tokens_are_impossible(config):
    params = first_params(config)
    together = logits(config, params, SOURCE, TARGET, SEGMENTS)
    alone = logits(config, params, SOURCE[1:, :6], TARGET[1:])
    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)
    assert (together[..., 27:] == -np.inf).all()
    other = np.where(SEGMENTS < 0, 3, SOURCE)
    np.testing.assert_array_equal(logits(config, params, other, TARGET, SEGMENTS), together)


@BOTH
def test_the_cache_gives_the_logits_of_the_whole_pass_for_several_rows_of_a_source(config):
    params, module = first_params(config), config.make()
    targets = np.concatenate([TARGET, TARGET[::-1]])[[0, 2, 1, 3]]  # two rows for each source
    expected = logits(config, params, SOURCE[[0, 0, 1, 1]], targets, SEGMENTS[[0, 0, 1, 1]])

    @jax.jit
    def run(params):
        def read_source(m):
            return m.read_memory(m.encode(SOURCE, SEGMENTS), SEGMENTS)

        memory = module.apply(params, method=read_source)
        lengths = np.full(4, 3, np.int32)
        made, state = module.apply(params, memory, targets[:, :5], lengths, 12, method="prefill")
        made = [made]
        for t in range(3, 10):
            one, state = module.apply(params, memory, state, targets[:, t], method="step")
            made.append(one)
        return jnp.stack(made, axis=1)

    np.testing.assert_allclose(run(params), expected[:, 2:], atol=1e-5)


@BOTH
@pytest.mark.parametrize("change", [{"remat": True}, {"scan_layers": True, "remat": True}])
def test_scanned_and_rematerialised_layers_are_the_same_function(config, change):
    other, params = dataclasses.replace(config, **change), first_params(config)

    def loss(config, params):
        return jax.nn.log_softmax(logits(config, params, SOURCE, TARGET, SEGMENTS)[..., :27]).mean()

    value, gradient = jax.value_and_grad(lambda p: loss(config, p))(params)
    again, other_gradient = jax.value_and_grad(lambda p: loss(other, p))(
        convert_layers(params, other.scan_layers)
    )
    assert float(again) == pytest.approx(float(value), abs=1e-6)
    gradient = convert_layers(gradient, other.scan_layers)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other_gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_bfloat16_is_near_float32():
    params = first_params(SMALL)
    exact = np.asarray(logits(SMALL, params, SOURCE, TARGET, SEGMENTS))[..., :27]
    made = np.asarray(logits(dataclasses.replace(SMALL, dtype="bfloat16"), params, SOURCE, TARGET, SEGMENTS))
    assert made.dtype == np.float32
    assert np.corrcoef(made[..., :27].ravel(), exact.ravel())[0, 1] > 0.999


def test_heads_read_the_decoder_after_the_last_token():
    params, module = first_params(SMALL), SMALL.make()
    made = jax.jit(lambda p: module.apply(p, SOURCE, SEGMENTS, method=read))(params)
    for row, length in enumerate((10, 6)):
        tokens = SOURCE[row : row + 1, :length]
        shifted = np.concatenate([tokens[:, -1:], tokens[:, :-1]], axis=1)

        def call(m, tokens=tokens, shifted=shifted):
            return m.decode(shifted, m.encode(tokens))

        np.testing.assert_allclose(made[row, :length], module.apply(params, method=call)[0], atol=1e-5)


def test_wrong_shapes_are_refused():
    with pytest.raises(UserError, match="13 tokens for a model that reads 12"):
        tiny_gpt.apply(SMALL.make(), first_params(SMALL), np.zeros((1, 13), np.int32), method="encode")
    with pytest.raises(UserError, match=r"num_encoder_layers=-1"):
        dataclasses.replace(SMALL, num_encoder_layers=-1).check()
