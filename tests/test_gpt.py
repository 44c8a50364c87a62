"""GPT against transformers' GPT-2 (golden file, and live where installed), and what holds of any decoder."""

import dataclasses
import math
import pathlib

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_gpt import EVERYTHING, apply, continue_greedily, random_tokens, shapes, tiny

from lm_jax.errors import UserError
from lm_jax.models.attention import full_attention
from lm_jax.models.gpt import GPT, GPTConfig
from lm_jax.models.layers import Dropout

GOLDEN = pathlib.Path(__file__).parent / "golden" / "gpt2.npz"

# What holds of any decoder holds of GPT-2 and of all that may be changed in it.
any_fields = pytest.mark.parametrize("fields", [{}, EVERYTHING], ids=["gpt2", "everything"])


def from_transformers(weights, num_layers, num_heads):
    """Our parameters from those of transformers' GPT2Model, whose kernels are (in, out) too."""
    modules = {"wte": "token_embedding", "wpe": "position_embedding", "ln_f": "final_norm"}
    inside = {
        "ln_1": "attention_norm", "attn.c_attn": "attention/qkv", "attn.c_proj": "attention/out",
        "ln_2": "mlp_norm", "mlp.c_fc": "mlp/up", "mlp.c_proj": "mlp/down",
    }  # fmt: skip
    for i in range(num_layers):
        modules |= {f"h.{i}.{theirs}": f"layer_{i}/{ours}" for theirs, ours in inside.items()}
    flat = {}
    for theirs, ours in modules.items():
        names = {"embedding": "weight"} if "embedding" in ours else {"kernel": "weight", "bias": "bias"}
        for leaf, name in names.items():
            leaf = "scale" if "norm" in ours and leaf == "kernel" else leaf
            value = jnp.asarray(weights[f"{theirs}.{name}"])
            if "qkv" in ours:  # columns: q, k and v, in each of these the heads
                value = value.reshape(*value.shape[:-1], 3, num_heads, -1)
            flat[f"{ours}/{leaf}"] = value
    return {"params": flax.traverse_util.unflatten_dict(flat, sep="/")}


def test_equals_the_golden_file():
    golden = np.load(GOLDEN)
    model = GPT(GPTConfig(vocab_size=37, max_length=24, num_layers=2, num_heads=2, d_model=16))
    params = from_transformers(golden, num_layers=2, num_heads=2)
    logits_BTV, _ = apply(model, params, golden["tokens"])
    np.testing.assert_allclose(logits_BTV, golden["logits"], atol=1e-4)
    made = continue_greedily(model, params, golden["tokens"][:, :10], np.full(3, 10), 12)
    np.testing.assert_array_equal(made.tokens, golden["greedy"])


@pytest.mark.parity
@pytest.mark.slow
def test_equals_transformers():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=97, n_positions=40, n_embd=24, n_layer=3, n_head=4, n_inner=56,
            layer_norm_epsilon=1e-3, initializer_range=0.3, bos_token_id=None, eos_token_id=None,
        )
    ).eval()  # fmt: skip
    ours = GPT(
        GPTConfig(
            vocab_size=97, max_length=40, num_layers=3, num_heads=4, d_model=24, d_ff=56,
            layer_norm_epsilon=1e-3,
        )
    )  # fmt: skip
    weights = theirs.transformer.state_dict()
    params = from_transformers(weights, num_layers=3, num_heads=4)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes(ours))

    tokens_BT = random_tokens(4, 40, vocab_size=97)
    with torch.no_grad():
        expected_BTV = theirs(torch.tensor(tokens_BT)).logits
        prompt = torch.tensor(tokens_BT[:, :7])
        expected = theirs.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=33
        )
    np.testing.assert_allclose(apply(ours, params, tokens_BT)[0], expected_BTV, atol=1e-4)
    made = continue_greedily(ours, params, tokens_BT[:, :7], np.full(4, 7), 33)
    np.testing.assert_array_equal(made.tokens, expected[:, 7:])


def test_the_published_shape_has_the_published_number_of_parameters():
    config = GPTConfig(vocab_size=50257, max_length=1024, num_layers=12, num_heads=12, d_model=768)
    assert sum(x.size for x in jax.tree.leaves(shapes(GPT(config)))) == 124_439_808


def test_first_parameters_are_as_gpt2s():
    config = GPTConfig(vocab_size=500, max_length=64, num_layers=3, num_heads=2, d_model=64)
    model, tokens = GPT(config), random_tokens(8, 64, vocab_size=500)
    params = jax.jit(model.init)(jax.random.key(0), tokens)
    logits_BTV, _ = apply(model, params, tokens)
    # ln V, and half the variance of a logit: a row of the head (0.02 each) times a normalised hidden state.
    nats = -jnp.take_along_axis(nn.log_softmax(logits_BTV[:, :-1]), tokens[:, 1:, None], axis=-1).mean()
    assert abs(nats - (math.log(500) + 0.02**2 * 64 / 2)) < 0.02
    for name, x in flax.traverse_util.flatten_dict(params["params"], sep="/").items():
        if name.endswith(("bias", "scale")):
            np.testing.assert_array_equal(x, float(name.endswith("scale")))
        else:
            residual = name.endswith(("attention/out/kernel", "mlp/down/kernel"))
            assert abs(x.std() / (0.02 / math.sqrt(2 * 3) if residual else 0.02) - 1) < 0.05, name


def sensitivity(model, params, T, segments=None):
    """Which tokens each position depends on: bool [T, T], from gradients with respect to embeddings."""
    tokens = jnp.arange(T)[None]  # all different, so that a row of the embedding is a position

    def hidden(embedding):
        changed = {"params": params["params"] | {"token_embedding": embedding}}
        hidden_BTD, _ = model.apply(changed, tokens, segments=segments, method="hidden")
        return hidden_BTD[0] @ jnp.arange(1.0, 9.0)  # a sum would be that of the last norm's bias

    jacobian_TVD = jax.jit(jax.jacrev(hidden))(params["params"]["token_embedding"])["embedding"]
    return (jacobian_TVD[:, :T] != 0).any(axis=2)


@any_fields
def test_no_position_depends_on_a_later_token(fields):
    model, params = tiny(**fields)
    np.testing.assert_array_equal(sensitivity(model, params, 9), np.tri(9, dtype=bool))


@any_fields
def test_no_position_depends_on_another_segment(fields):
    model, params = tiny(**fields)
    segments = jnp.array([[0, 0, 0, 1, 1, 0, 0, 2]])  # the second 0 is not the first
    expected = np.zeros((8, 8), bool)
    for start, stop in ((0, 3), (3, 5), (5, 7), (7, 8)):
        expected[start:stop, start:stop] = np.tri(stop - start)
    np.testing.assert_array_equal(sensitivity(model, params, 8, segments), expected)


@any_fields
def test_cached_pieces_equal_the_full_pass(fields):
    model, params = tiny(**fields)
    tokens = random_tokens(3, 16)
    full_BTV, none = apply(model, params, tokens)
    assert none is None
    state, pieces = model.init_state(3, 16), []
    for piece in np.split(tokens, [7, 8, 9], axis=1):
        logits_BTV, state = apply(model, params, piece, state)
        pieces.append(logits_BTV)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), full_BTV, atol=1e-5)
    np.testing.assert_array_equal(state.position_B, [16, 16, 16])


@dataclasses.dataclass(frozen=True)
class AlibiConfig(GPTConfig):
    """A GPT with a core of its own."""

    def attention_core(self):
        """Scores fall with the distance (Press et al. 2022)."""

        def alibi(q_BTHK, k_BGSK, v_BGSK, mask_BHTS=None, *, position_BT, **options):
            slope_H = 2.0 ** -jnp.arange(1, self.num_heads + 1)
            distance_BTS = position_BT[:, :, None] - jnp.arange(k_BGSK.shape[2])[None, None]
            bias_BHTS = -slope_H[None, :, None, None] * distance_BTS[:, None]
            return full_attention(q_BTHK, k_BGSK, v_BGSK, mask_BHTS, bias_BHTS=bias_BHTS, **options)

        return alibi


def test_a_config_s_own_core_is_used_with_a_cache_too():
    model, params = tiny(num_heads=4, num_kv_heads=2)
    model = GPT(AlibiConfig(**vars(model.config)))
    tokens, lengths = random_tokens(3, 12), np.array([4, 7, 5])
    full_BTV, _ = apply(model, params, tokens)
    plain_BTV, _ = apply(GPT(GPTConfig(**vars(model.config))), params, tokens)
    assert abs(full_BTV - plain_BTV)[:, 1:].max() > 0.01
    rows = np.arange(3)
    logits_BV, state = apply(model, params, tokens[:, :7], lengths, capacity=16, method="prefill")
    np.testing.assert_allclose(logits_BV, full_BTV[rows, lengths - 1], atol=1e-5)
    logits_BV, state = apply(model, params, state, tokens[rows, lengths], method="step")
    np.testing.assert_allclose(logits_BV, full_BTV[rows, lengths], atol=1e-5)
    after_BT = lengths[:, None] + np.arange(1, 5)
    logits_BTV, _ = apply(model, params, state, tokens[rows[:, None], after_BT], method="extend")
    np.testing.assert_allclose(logits_BTV, full_BTV[rows[:, None], after_BT], atol=1e-5)


@any_fields
def test_rows_of_unequal_length_go_on_from_their_own_position(fields):
    model, params = tiny(**fields)
    tokens, lengths = random_tokens(3, 16), np.array([2, 9, 5])
    full_BTV, _ = apply(model, params, tokens)
    padded = np.where(np.arange(9) < lengths[:, None], tokens[:, :9], 3)
    logits_BV, state = apply(model, params, padded, lengths, capacity=16, method="prefill")
    rows = np.arange(3)
    for _ in range(7):
        np.testing.assert_allclose(logits_BV, full_BTV[rows, lengths - 1], atol=1e-5)
        logits_BV, state = apply(model, params, state, tokens[rows, lengths], method="step")
        lengths = lengths + 1


@any_fields
def test_a_full_cache_is_nan_and_what_came_before_is_right(fields):
    model, params = tiny(**fields)
    tokens = random_tokens(2, 12)
    full_BTV, _ = apply(model, params, tokens)
    _, state = apply(model, params, tokens[:, :5], model.init_state(2, 8))
    logits_BTV, state = apply(model, params, tokens[:, 5:], state)
    np.testing.assert_allclose(logits_BTV[:, :3], full_BTV[:, 5:8], atol=1e-5)
    assert jnp.isnan(logits_BTV[:, 3:]).all()
    logits_BTV, _ = apply(model, params, tokens[:, :1], state)
    assert jnp.isnan(logits_BTV).all()


@any_fields
def test_greedy_text_goes_on_past_the_context(fields):
    """Equals a full pass over the row's context for each token; each row's window slides by itself."""
    model, params = tiny(max_length=8, **fields)
    prompts, lengths = random_tokens(3, 8), np.array([8, 1, 5])
    made = continue_greedily(model, params, prompts, lengths, 20)
    for prompt, length, tokens in zip(prompts, lengths, made.tokens, strict=True):
        context = list(prompt[:length])
        for token in tokens:
            if len(context) > 8:
                context = context[-4:]
            logits_BTV, _ = apply(model, params, np.array([context + [0] * (8 - len(context))]))
            expected = logits_BTV[0, len(context) - 1].argmax()
            assert token == expected
            context.append(token)


@any_fields
def test_bfloat16_is_close_to_float32(fields):
    model, params = tiny(**fields)
    half = GPT(GPTConfig(**{**vars(model.config), "dtype": "bfloat16"}))
    tokens = random_tokens(2, 16)
    exact, (logits, _) = apply(model, params, tokens)[0], apply(half, params, tokens)
    assert logits.dtype == jnp.float32
    assert apply(half, params, tokens, method="hidden")[0].dtype == jnp.bfloat16
    assert half.init_state(1, 4).layers[0].k_BGSK.dtype == jnp.bfloat16
    made = jax.eval_shape(half.init, jax.random.key(0), tokens)
    assert {x.dtype for x in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    assert 0 < abs(logits - exact).max() < 0.05 * exact.std()


def test_dropout_is_where_gpt2_has_it_and_only_in_training():
    model, params = tiny(dropout=0.5, num_layers=1)
    seen = []

    def note(next_function, args, kwargs, context):
        if isinstance(context.module, Dropout):
            seen.append((args[0].shape, context.module.rate))
        return next_function(*args, **kwargs)

    tokens = random_tokens(2, 6)
    with nn.intercept_methods(note):
        first, _ = apply(model, params, tokens, train=True, rngs={"dropout": jax.random.key(0)})
    embedding, attention, residual = (2, 6, 8), (2, 2, 6, 6), (2, 6, 8)
    assert seen == [(shape, 0.5) for shape in (embedding, attention, residual, residual)]
    same, _ = apply(model, params, tokens, train=True, rngs={"dropout": jax.random.key(0)})
    other, _ = apply(model, params, tokens, train=True, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    without, _ = apply(tiny(num_layers=1)[0], params, tokens)
    np.testing.assert_array_equal(apply(model, params, tokens)[0], without)


def test_logits_of_hidden_is_the_call():
    model, params = tiny()
    tokens = random_tokens(2, 5)
    hidden_BTD, _ = apply(model, params, tokens, method="hidden")
    logits_BTV = apply(model, params, hidden_BTD, method="logits")
    np.testing.assert_array_equal(logits_BTV, apply(model, params, tokens)[0])


def test_a_token_outside_the_vocabulary_gives_nan():
    model, params = tiny()
    assert jnp.isnan(apply(model, params, np.array([[3, 17]]))[0][0, 1]).all()


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda m, p: apply(m, p, random_tokens(1, 17)), "17 tokens exceed a context of 16"),
        (lambda m, p: apply(m, p, random_tokens(1, 5), m.init_state(1, 4)), "5 tokens exceed a context of 4"),
        (lambda m, p: m.init_state(1, 17), "a cache of 17 tokens for a context of 16"),
        (
            lambda m, p: apply(m, p, random_tokens(1, 2), m.init_state(1, 4), np.zeros((1, 2), int)),
            "pass segments or state",
        ),
        (lambda m, p: GPT(GPTConfig()).apply(p, random_tokens(1, 2)), "model.vocab_size=0"),
    ],
)
def test_misuse_is_a_one_line_error(call, line):
    with pytest.raises(UserError, match=line):
        call(*tiny())


@pytest.mark.parametrize(
    "fields",
    [
        {"num_layers": 0}, {"num_heads": 0}, {"d_model": 0}, {"vocab_size": -1}, {"max_length": -1},
        {"d_ff": -1}, {"num_heads": 3}, {"dropout": 1.0}, {"dropout": -0.1}, {"layer_norm_epsilon": 0.0},
        {"dtype": "float16"}, {"num_kv_heads": -1}, {"num_kv_heads": 3}, {"position": "sinusoidal"},
        {"position": "rope", "d_model": 12}, {"rope_theta": 0.0}, {"norm": "batch"}, {"mlp": "relu"},
        {"attention": "flash"}, {"attention": "fused", "dropout": 0.1},
    ],
)  # fmt: skip
def test_check_names_the_field(fields):
    GPTConfig().check()
    with pytest.raises(UserError, match=rf"model\.{next(iter(fields))}\b"):
        GPTConfig(**fields).check()
