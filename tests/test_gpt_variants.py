"""GPT's fields beside GPT-2's: against transformers' LLaMA and Phi, and each against the model without it."""

import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_gpt import EVERYTHING, apply, continue_greedily, random_tokens, shapes, tiny

from lm_jax.models.gpt import GPT, GPTConfig, split_fused_qkv
from lm_jax.models.transformer import convert_layers

GOLDEN = pathlib.Path(__file__).parent / "golden"
LLAMA = {
    "position": "rope", "norm": "rms", "mlp": "swiglu", "tied_head": False, "use_bias": False,
    "layer_norm_epsilon": 1e-3,
}  # fmt: skip
PHI = {"position": "rope", "parallel_block": True, "tied_head": False, "layer_norm_epsilon": 1e-3}

# Our modules and theirs; theirs are stacked where ours is one product for several.
LLAMA_BLOCK = {
    "attention_norm": ["input_layernorm"], "mlp_norm": ["post_attention_layernorm"],
    "attention/qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attention/out": ["self_attn.o_proj"],
    "mlp/gate": ["mlp.gate_proj"], "mlp/up": ["mlp.up_proj"], "mlp/down": ["mlp.down_proj"],
}  # fmt: skip
PHI_BLOCK = {
    "norm": ["input_layernorm"],
    "attention/qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attention/out": ["self_attn.dense"],
    "mlp/up": ["mlp.fc1"], "mlp/down": ["mlp.fc2"],
}  # fmt: skip


def by_heads(qkv, num_kv_heads, width):
    """Rows of all queries, keys and values as [slot, group, feature, ...]."""
    heads = qkv.reshape(-1, width, *qkv.shape[1:])
    q, k, v = np.split(heads, [-2 * num_kv_heads, -num_kv_heads])
    groups = [[*queries, k[g], v[g]] for g, queries in enumerate(np.split(q, num_kv_heads))]
    return np.stack([np.stack(slots) for slots in groups], axis=1)


def from_transformers(weights, block, final_norm, num_kv_heads, width):
    """Our parameters from those of a LlamaForCausalLM or PhiForCausalLM, whose kernels are (out, in)."""
    modules = {"token_embedding": ["model.embed_tokens"], "head": ["lm_head"], "final_norm": [final_norm]}
    for i in range(1 + max(int(name.split(".")[2]) for name in weights if ".layers." in name)):
        prefix = f"model.layers.{i}."
        modules |= {f"layer_{i}/{ours}": [prefix + t for t in theirs] for ours, theirs in block.items()}
    flat = {}
    for ours, theirs in modules.items():
        weight = np.concatenate([weights[f"{name}.weight"] for name in theirs])
        if ours in ("token_embedding", "head"):
            flat[f"{ours}/embedding"] = weight
            continue
        leaves = {"scale" if "norm" in ours else "kernel": weight}
        if f"{theirs[0]}.bias" in weights:
            leaves["bias"] = np.concatenate([weights[f"{name}.bias"] for name in theirs])
        for leaf, value in leaves.items():
            value = by_heads(value, num_kv_heads, width) if "qkv" in ours else value
            flat[f"{ours}/{leaf}"] = np.moveaxis(value, -1, 0) if leaf == "kernel" else value
    return {"params": flax.traverse_util.unflatten_dict(flat, sep="/")}


@pytest.mark.parametrize(
    ("file", "fields", "block", "final_norm"),
    [
        ("llama.npz", LLAMA, LLAMA_BLOCK, "model.norm"),
        ("phi.npz", PHI, PHI_BLOCK, "model.final_layernorm"),
    ],
)
def test_equals_the_golden_file(file, fields, block, final_norm):
    golden = np.load(GOLDEN / file)
    shape = {"vocab_size": 37, "max_length": 24, "num_layers": 2, "num_heads": 4, "d_model": 16, "d_ff": 40}
    model = GPT(GPTConfig(**shape, **fields, num_kv_heads=2, rope_theta=100.0))
    params = from_transformers(golden, block, final_norm, num_kv_heads=2, width=4)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes(model))
    np.testing.assert_allclose(apply(model, params, golden["tokens"])[0], golden["logits"], atol=1e-4)
    made = continue_greedily(model, params, golden["tokens"][:, :10], np.full(3, 10), 12)
    np.testing.assert_array_equal(made.tokens, golden["greedy"])


@pytest.mark.parity
@pytest.mark.slow
def test_equals_transformers():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 1, "max_position_embeddings": 40}
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **shape, **heads, tie_word_embeddings=False, rms_norm_eps=1e-3, initializer_range=0.3,
            bos_token_id=None, eos_token_id=None,
        )
    ).eval()  # fmt: skip
    ours = GPT(
        GPTConfig(
            vocab_size=97, max_length=40, num_layers=3, num_heads=6, num_kv_heads=1, d_model=48, d_ff=56,
            attention="fused", scan_layers=True, **LLAMA,
        )
    )  # fmt: skip
    weights = {name: value.numpy() for name, value in theirs.state_dict().items()}
    params = from_transformers(weights, LLAMA_BLOCK, "model.norm", num_kv_heads=1, width=8)
    params = convert_layers(params, scan_layers=True)
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


def test_no_bias_is_a_bias_of_zero():
    model, params = tiny()
    without, _ = tiny(use_bias=False)
    flat = flax.traverse_util.flatten_dict(params)
    zeroed = {path: x * (path[-1] != "bias") for path, x in flat.items()}
    left = {path: x for path, x in flat.items() if path[-1] != "bias"}
    assert flax.traverse_util.flatten_dict(shapes(without)).keys() == left.keys()
    tokens = random_tokens(2, 16)
    expected, _ = apply(model, flax.traverse_util.unflatten_dict(zeroed), tokens)
    logits_BTV, _ = apply(without, flax.traverse_util.unflatten_dict(left), tokens)
    np.testing.assert_allclose(logits_BTV, expected, atol=1e-6)


@pytest.mark.parametrize("attention", ["block_causal", "fused"])
def test_attention_changes_no_logit(attention):
    model, params = tiny(max_length=300)
    tokens = random_tokens(1, 300)  # more than two blocks
    other = GPT(GPTConfig(**{**vars(model.config), "attention": attention}))
    np.testing.assert_allclose(
        apply(other, params, tokens)[0], apply(model, params, tokens)[0], rtol=1e-4, atol=1e-4
    )


def loss_and_gradient(model, params, tokens):
    def loss(params):
        logits_BTV, _ = model.apply(params, tokens)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits_BTV), tokens[..., None], axis=-1).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
    ("fields", "scan", "remat"),
    [({}, True, False), ({}, False, True), (EVERYTHING, True, True)],
    ids=["scanned", "remat", "everything"],
)
def test_scanned_and_rematerialised_layers_are_the_plain_ones(fields, scan, remat):
    plain, params = tiny(**(fields | {"scan_layers": False, "remat": False}))
    model = GPT(GPTConfig(**{**vars(plain.config), "scan_layers": scan, "remat": remat}))
    tokens = random_tokens(2, 16)
    loss, gradient = loss_and_gradient(plain, params, tokens)
    converted = convert_layers(params, scan)
    assert jax.tree.map(jnp.shape, converted) == jax.tree.map(jnp.shape, shapes(model))
    other_loss, other_gradient = loss_and_gradient(model, converted, tokens)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    other_gradient = convert_layers(other_gradient, False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), other_gradient, gradient)


def test_layers_are_converted_in_order_and_back():
    layers = {f"layer_{i}": {"kernel": jnp.full((2, 3), i)} for i in range(12)}  # 10 follows 9, not 1
    unrolled = {"params": {"head": jnp.ones(2), **layers}}
    scanned = convert_layers(unrolled, scan_layers=True)
    assert scanned["params"].keys() == {"head", "layers"}
    np.testing.assert_array_equal(scanned["params"]["layers"]["kernel"][:, 1, 2], np.arange(12))
    assert convert_layers(scanned, scan_layers=True) == scanned
    back = convert_layers(scanned, scan_layers=False)
    assert jax.tree.structure(back) == jax.tree.structure(unrolled)
    jax.tree.map(np.testing.assert_array_equal, back, unrolled)


def test_scanned_layers_have_different_parameters_and_dropout():
    model, params = tiny(num_layers=3, d_model=64, scan_layers=True, dropout=0.5)
    first = jax.jit(model.init)(jax.random.key(0), random_tokens(1, 4))["params"]["layers"]
    for kernel in (first["mlp"]["up"]["kernel"], first["mlp"]["down"]["kernel"]):
        assert (kernel[0] != kernel[1]).all()
    assert abs(first["mlp"]["down"]["kernel"].std() / (0.02 / np.sqrt(2 * 3)) - 1) < 0.05
    # Each block adds 0 or 2 to what was 0: a sum of 2 or 4 is one that not all blocks have agreed on.
    flat = {path: jnp.zeros_like(x) for path, x in flax.traverse_util.flatten_dict(params).items()}
    flat["params", "layers", "mlp", "down", "bias"] += 1
    flat["params", "final_norm", "scale"] += 1
    hidden_BTD, _ = apply(
        model, flax.traverse_util.unflatten_dict(flat), random_tokens(1, 1), method="hidden", train=True,
        rngs={"dropout": jax.random.key(0)},
    )  # fmt: skip
    assert len(np.unique(hidden_BTD.round(3))) == 4


@pytest.mark.parametrize("scan", [False, True])
def test_fused_parameters_of_format_1_are_split(scan):
    model, params = tiny(num_heads=4, num_kv_heads=2, d_model=16, scan_layers=scan)

    def fuse(path, x):
        if path[-2].key != "qkv":
            return x
        q, k, v = x[..., :2, :, :].swapaxes(-3, -2), x[..., 2, :, :], x[..., 3, :, :]
        return jnp.concatenate([y.reshape(*x.shape[:-3], -1) for y in (q, k, v)], axis=-1)

    fused = jax.tree_util.tree_map_with_path(fuse, params)
    layer = fused["params"]["layers" if scan else "layer_1"]["attention"]["qkv"]
    assert layer["kernel"].shape[-2:] == (16, 32)
    assert layer["bias"].shape[-1:] == (32,)
    jax.tree.map(np.testing.assert_array_equal, split_fused_qkv(fused, model.config), params)
