"""Recurrent language models and the NNLM: what holds of any of them, and each field on its own."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from tiny_gpt import apply, decoder, random_tokens, shapes

from lm_jax.batch import Batch
from lm_jax.decoding.decoder import Limits, Prompts
from lm_jax.decoding.sampling import generate
from lm_jax.decoding.settings import Sampling
from lm_jax.errors import UserError
from lm_jax.models.nnlm import NNLM, NNLMConfig
from lm_jax.models.rnn import RNN, RNNConfig
from lm_jax.tasks.causal import Causal

_RNN = {"vocab_size": 17, "d_embedding": 6, "d_hidden": 8}
MODELS = {
    "lstm": RNN(RNNConfig(**_RNN, tied_head=True, forget_bias=1.0)),
    "projected": RNN(RNNConfig(**_RNN, d_projection=4, layer_norm=True)),
    "gru": RNN(RNNConfig(**_RNN, cell="gru", adaptive_cutoffs=(5, 9), adaptive_ratio=2.0)),
    "elman": RNN(RNNConfig(**_RNN, cell="elman", num_layers=1)),
    "nnlm": NNLM(NNLMConfig(vocab_size=17, order=4, d_embedding=6, d_hidden=8, direct=True)),
}
any_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def random_params(model):
    """Parameters large enough that every part of the model shows in the logits."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.float32(rng.normal(scale=0.5, size=x.shape)), shapes(model))


@any_model
def test_a_text_in_windows_equals_the_whole(model):
    params, tokens = random_params(model), random_tokens(3, 14)
    whole_BTV, last = apply(model, params, tokens)
    state, pieces = model.init_state(3), []
    for piece in np.split(tokens, [5, 6, 13], axis=1):
        logits_BTV, state = apply(model, params, piece, state)
        pieces.append(logits_BTV)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole_BTV, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state, last)
    assert jax.tree.map(jnp.shape, last) == jax.tree.map(jnp.shape, model.init_state(3))


@any_model
def test_a_segment_does_not_depend_on_others(model):
    params, tokens = random_params(model), random_tokens(2, 9)
    _, state = apply(model, params, random_tokens(2, 4, seed=1))
    segments = np.array([[0, 0, 0, 1, 1, 0, 0, 0, 0], [2, 2, 2, 2, 2, 3, 3, 3, 3]])
    logits_BTV, last = apply(model, params, tokens, state, segments)
    first = jax.tree.map(lambda s: s[:1], state)
    for row, start, stop, before in ((0, 0, 3, first), (0, 3, 5, None), (0, 5, 9, None), (1, 0, 5, None)):
        alone_BTV, _ = apply(model, params, tokens[row : row + 1, start:stop], before)
        np.testing.assert_allclose(logits_BTV[row, start:stop], alone_BTV[0], atol=1e-5)
    for row in (0, 1):
        _, alone = apply(model, params, tokens[row : row + 1, 5:])
        jax.tree.map(lambda a, b, r=row: np.testing.assert_allclose(a[r], b[0], atol=1e-5), last, alone)


@any_model
def test_no_position_depends_on_a_later_token(model):
    params, tokens = random_params(model), random_tokens(1, 8)
    logits_BTV, _ = apply(model, params, tokens)
    for place in range(8):
        changed = tokens.copy()
        changed[0, place] = (tokens[0, place] + 1) % 17
        differs_T = (apply(model, params, changed)[0] != logits_BTV).any(axis=2)[0]
        assert not differs_T[:place].any()
        assert differs_T[place]
        reach = model.config.order - 1 if isinstance(model, NNLM) else 8
        assert not differs_T[place + reach :].any(), "an NNLM sees the last n - 1 tokens"


@any_model
def test_prompts_of_unequal_length_go_on_from_their_own_state(model):
    params, tokens, lengths = random_params(model), random_tokens(3, 12), np.array([2, 8, 5])
    whole_BTV, _ = apply(model, params, tokens)
    padded = np.where(np.arange(8) < lengths[:, None], tokens[:, :8], 3)
    logits_BV, state = apply(model, params, padded, lengths, capacity=16, method="prefill")
    for _ in range(4):
        np.testing.assert_allclose(logits_BV, whole_BTV[np.arange(3), lengths - 1], atol=1e-5)
        logits_BV, state = apply(model, params, state, tokens[np.arange(3), lengths], method="step")
        lengths = lengths + 1


@pytest.mark.slow
@any_model
def test_generation_from_the_carry_equals_reading_the_whole_anew(model):
    params, prompts, lengths = random_params(model), random_tokens(2, 6), np.array([6, 3])
    made = generate(decoder(model, params), Prompts(prompts, lengths), Limits(12), Sampling(temperature=0))
    for prompt, length, tokens in zip(prompts, lengths, made.tokens, strict=True):
        text = np.concatenate([prompt[:length], tokens])[None]
        logits_TV = model.apply(params, text)[0][0]
        np.testing.assert_array_equal(logits_TV[length - 1 : -1].argmax(axis=-1), tokens)


@pytest.mark.slow
@any_model
def test_probabilities_sum_to_one_and_chunks_change_nothing(model):
    params, tokens = random_params(model), random_tokens(3, 8)
    logits_BTV, _ = apply(model, params, tokens)
    assert logits_BTV.dtype == jnp.float32
    if model.config.family == "rnn" and model.config.adaptive_cutoffs:
        np.testing.assert_allclose(jnp.exp(logits_BTV).sum(axis=-1), 1, rtol=1e-5)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((3, 7), np.float32))

    def loss(params, task):
        return task.losses(model, params, batch)[0]["nats"].mean

    values = [
        jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, Causal(chunk_length=n)) for n in (0, 3)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *values)


@pytest.mark.parametrize("name", ["lstm", "projected", "elman", "nnlm"])
def test_initial_parameters_give_a_nearly_uniform_distribution(name):
    model, tokens = MODELS[name], random_tokens(4, 20)
    logits_BTV, _ = apply(model, jax.jit(model.init)(jax.random.key(0), tokens), tokens)
    log_probs_BTV = scipy.special.log_softmax(logits_BTV, axis=-1)
    nats = -np.take_along_axis(log_probs_BTV[:, :-1], tokens[:, 1:, None], axis=-1).mean()
    assert abs(nats - math.log(17)) < 0.05


def test_nnlm_is_equation_1():
    """y = b + W x + U tanh(d + H x), Bengio et al. 2003, with zeros before the text."""
    model, tokens = MODELS["nnlm"], random_tokens(1, 7)
    p = random_params(model)["params"]
    padded = np.concatenate([np.zeros((3, 6)), p["token_embedding"]["embedding"][tokens[0]]])
    logits_TV = apply(model, {"params": p}, tokens)[0][0]
    for t in range(7):
        x = padded[t + 1 : t + 4].reshape(-1)
        h = np.tanh(x @ p["layer"]["kernel"] + p["layer"]["bias"])
        y = p["head"]["bias"] + np.concatenate([h, x]) @ p["head"]["kernel"]
        np.testing.assert_allclose(logits_TV[t], y, rtol=1e-4, atol=1e-5)


@any_model
def test_bfloat16_is_close_to_float32(model):
    half = type(model)(type(model.config)(**{**vars(model.config), "dtype": "bfloat16"}))
    params, tokens = random_params(model), random_tokens(2, 10)
    exact, (logits, state) = apply(model, params, tokens)[0], apply(half, params, tokens)
    assert logits.dtype == jnp.float32
    assert apply(half, params, tokens, method="hidden")[0].dtype == jnp.bfloat16
    assert jax.tree.map(jnp.result_type, state) == jax.tree.map(jnp.result_type, model.init_state(2))
    assert 0 < abs(logits - exact).max() < 0.1 * exact.std()


def dropped(**fields):
    """Hidden states in training and without dropout, of a model with these fields."""
    model = RNN(RNNConfig(vocab_size=17, d_embedding=32, d_hidden=32, num_layers=1, **fields))
    params, tokens = random_params(model), random_tokens(4, 16)
    rngs = {"dropout": jax.random.key(1)}
    return [
        np.asarray(apply(model, params, tokens, method="hidden", train=train, rngs=rngs)[0])
        for train in (True, False)
    ]


def test_locked_dropout_drops_the_same_features_at_all_positions():
    for locked in (False, True):
        train, plain = dropped(output_dropout=0.5, locked_dropout=locked)
        is_zero = train == 0
        assert 0.4 < is_zero.mean() < 0.6
        assert (is_zero == is_zero[:, :1]).all() == locked
        assert len(np.unique(is_zero[:, 0], axis=0)) == 4, "each row its own"
        np.testing.assert_allclose(train[~is_zero], 2 * plain[~is_zero], rtol=1e-5)


@pytest.mark.parametrize("field", ["input_dropout", "weight_dropout", "embedding_dropout"])
def test_each_dropout_acts_in_training_alone(field):
    train, plain = dropped(**{field: 0.5})
    np.testing.assert_array_equal(plain, dropped()[0])
    assert (train != plain).any()


def test_embedding_dropout_drops_words_and_weight_dropout_the_matrices_between_states():
    model = RNN(RNNConfig(vocab_size=300, d_embedding=4, d_hidden=4, embedding_dropout=0.3))
    tokens = np.arange(300)[None].repeat(2, axis=0)
    params = random_params(model)

    def embed(model):
        return model._embed(tokens.T, True)

    vectors = apply(model, params, method=embed, rngs={"dropout": jax.random.key(0)})
    is_zero = (vectors == 0).all(axis=-1)
    assert 0.2 < is_zero.mean() < 0.4
    assert (is_zero[:, 0] == is_zero[:, 1]).all(), "a word wherever it stands"
    table = params["params"]["token_embedding"]["embedding"]
    np.testing.assert_allclose(vectors[~is_zero[:, 0], 0], table[~is_zero[:, 0]] / 0.7, rtol=1e-5)

    # With one token there is no state yet for the dropped matrix to act on.
    model = RNN(RNNConfig(vocab_size=17, d_embedding=4, d_hidden=4, num_layers=1, weight_dropout=0.5))
    params, rngs = random_params(model), {"dropout": jax.random.key(0)}
    train, plain = (apply(model, params, tokens[:, 3:9], train=t, rngs=rngs)[0] for t in (True, False))
    np.testing.assert_array_equal(train[:, 0], plain[:, 0])
    assert (train[:, 1] != plain[:, 1]).any()


def test_penalties_are_those_of_awd_lstm():
    model = RNN(RNNConfig(vocab_size=17, d_embedding=6, d_hidden=8, output_dropout=0.5))
    params, tokens, key = random_params(model), random_tokens(3, 9), jax.random.key(0)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((3, 8), np.float32))
    rngs = {"dropout": key}

    def losses(task, rngs=None):
        return jax.jit(partial(task.losses, model))(params, batch, None, rngs)[0]

    plain = losses(Causal(), rngs)
    dropped_BTD, _ = apply(model, params, batch.inputs, train=True, rngs=rngs, method="hidden")
    raw_BTD, _ = apply(model, params, batch.inputs, method="hidden")
    activation, temporal = np.square(dropped_BTD).mean(), np.square(np.diff(raw_BTD, axis=1)).mean()
    for alpha, beta in ((2.0, 0.0), (0.0, 3.0), (2.0, 3.0)):
        task = Causal(activation_penalty=alpha, temporal_penalty=beta)
        sums = losses(task, rngs)
        expected = {"activation_penalty": alpha * activation, "temporal_penalty": beta * temporal}
        expected = {n: float(x) for n, x in expected.items() if x} | {"nats": float(plain["nats"].mean)}
        assert sums.keys() == task.weights(batch).keys()
        assert {n: float(s.mean) for n, s in sums.items()} == pytest.approx(expected, rel=1e-5)
        assert losses(task).keys() == {"nats"}, "evaluation has no penalties"


def test_a_tied_last_layer_is_as_wide_as_the_embedding():
    config = RNNConfig(vocab_size=50, num_layers=3, d_embedding=4, d_hidden=11, tied_head=True)
    params = shapes(RNN(config))["params"]
    assert [params[f"layer_{i}"]["recurrent"].shape for i in range(3)] == [(11, 44), (11, 44), (4, 16)]
    assert "head" not in params


def test_awd_lstm_has_the_published_number_of_parameters():
    """24 million for the Penn Treebank (Merity et al. 2017, table 1), with PyTorch's second biases."""
    config = RNNConfig(vocab_size=10_000, num_layers=3, d_embedding=400, d_hidden=1150, tied_head=True)
    ours = sum(x.size for x in jax.tree.leaves(shapes(RNN(config))))
    second_biases, head_bias = 4 * (1150 + 1150 + 400), 10_000
    assert ours + second_biases + head_bias == 24_221_600


def test_a_token_outside_the_vocabulary_gives_nan():
    for name in ("lstm", "nnlm"):
        assert jnp.isnan(apply(MODELS[name], random_params(MODELS[name]), np.array([[3, 17]]))[0][0, 1]).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"cell": "rnn"}, {"num_layers": 0}, {"d_embedding": 0}, {"d_hidden": 0}, {"vocab_size": -1},
        {"d_projection": -1}, {"d_projection": 4, "cell": "gru"}, {"dtype": "float16"},
        {"weight_dropout": 1.0}, {"input_dropout": -0.1}, {"adaptive_cutoffs": (5, 5)},
        {"adaptive_cutoffs": (5, 9), "vocab_size": 9}, {"adaptive_cutoffs": (5,), "tied_head": True},
        {"adaptive_ratio": 0.5}, {"tied_head": True, "d_projection": 4},
    ],
)  # fmt: skip
def test_check_names_the_field(fields):
    RNNConfig().check()
    with pytest.raises(UserError, match=rf"model\.{next(iter(fields))}\b"):
        RNNConfig(**fields).check()


@pytest.mark.parametrize(
    "fields", [{"order": 1}, {"d_embedding": 0}, {"d_hidden": 0}, {"dropout": 1.0}, {"dtype": "half"}]
)
def test_check_of_an_nnlm_names_the_field(fields):
    NNLMConfig().check()
    with pytest.raises(UserError, match=rf"model\.{next(iter(fields))}\b"):
        NNLMConfig(**fields).check()
