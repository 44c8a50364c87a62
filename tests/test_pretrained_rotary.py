"""LLaMA and GPT-NeoX in Hugging Face's form: golden files, transformers itself, and wrong directories."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny_gpt

import lm_jax
from lm_jax import config as config_module
from lm_jax.errors import UserError
from lm_jax.models.transformer import convert_layers
from lm_jax.pretrained import huggingface
from lm_jax.pretrained.base import form_of
from lm_jax.pretrained.huggingface import Pretrained
from lm_jax.text.simple import CharacterTokenizer

ROOT = pathlib.Path(__file__).parents[1]
CHARACTERS = CharacterTokenizer(map(chr, range(97, 97 + 35)))  # 37 tokens, as the golden files have
SHAPE = {
    "vocab_size": 37, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 24, "tie_word_embeddings": False,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}}
CONFIGS = {
    "llama": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], **SHAPE, **ROPE, "hidden_act": "silu",
        "num_key_value_heads": 2, "rms_norm_eps": 1e-3, "attention_bias": False, "mlp_bias": False,
    },
    "gpt_neox": {
        "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], **SHAPE, **ROPE,
        "hidden_act": "gelu_new", "layer_norm_eps": 1e-3, "use_parallel_residual": False,
    },
}  # fmt: skip
# The same rotation as versions of transformers before 5 name it.
OLDER = {
    "llama": {"rope_parameters": None, "rope_theta": 100.0, "rope_scaling": None},
    "gpt_neox": {"rope_parameters": None, "rotary_emb_base": 100, "rotary_pct": 1.0},
}
LLAMA = {"position": "rope", "norm": "rms", "mlp": "swiglu"}
# Every field that the forms leave open, in models of 37 tokens and two rows more.
EXPORTED = {
    "a default GPT with rope": {"position": "rope"},
    "exact GELU, no biases": {
        "position": "rope", "mlp": "gelu_exact", "use_bias": False, "tied_head": False, "rope_theta": 100.0,
        "scan_layers": True,
    },
    "LLaMA, grouped heads": {
        **LLAMA, "num_heads": 4, "num_kv_heads": 2, "d_model": 16, "use_bias": False, "tied_head": False,
        "layer_norm_epsilon": 1e-3, "rope_theta": 100.0,
    },
    "LLaMA, one key head, biases": {**LLAMA, "num_heads": 4, "num_kv_heads": 1, "d_model": 16},
}  # fmt: skip


def golden(kind):
    """The arrays of a golden file, and its results."""
    arrays = dict(np.load(ROOT / "tests" / "golden" / f"{kind}.npz"))
    return arrays, {name: arrays.pop(name, None) for name in ("tokens", "logits", "greedy")}


def write_golden(directory, kind, changed=(), more=()):
    """A directory as transformers writes it, of a golden file's weights."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIGS[kind] | dict(changed)))
    safetensors.numpy.save_file(golden(kind)[0] | dict(more), directory / "model.safetensors")
    CHARACTERS.save(directory)
    return directory


def logits(lm, tokens):
    return tiny_gpt.apply(lm.module, lm.params, tokens)[0]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("older", [False, True])
def test_an_imported_model_is_the_golden_one(kind, older, tmp_path):
    lm = lm_jax.load(write_golden(tmp_path / "model", kind, OLDER[kind] if older else ()))
    _, results = golden(kind)
    np.testing.assert_allclose(logits(lm, results["tokens"]), results["logits"], atol=1e-4)
    [scores] = lm.score(["abc"])
    assert scores.complete


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_exported_model_is_the_golden_one(kind, tmp_path):
    read = huggingface.read(write_golden(tmp_path / "model", kind))
    huggingface.write(tmp_path / "again", read)
    wanted, found = golden(kind)[0], safetensors.numpy.load_file(tmp_path / "again" / "model.safetensors")
    if kind == "gpt_neox":  # the name that every version of transformers reads
        wanted["embed_out.weight"] = wanted.pop("lm_head.weight")
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {name: config[name] for name in CONFIGS[kind]} == CONFIGS[kind]


@pytest.mark.parametrize("name", EXPORTED)
def test_export_and_import_give_the_same_logits(name, tmp_path):
    model, params = tiny_gpt.tiny(vocab_size=39, **EXPORTED[name])
    huggingface.write(tmp_path / "model", Pretrained(model.config, params, CHARACTERS))
    lm = lm_jax.load(tmp_path / "model")
    tokens = tiny_gpt.random_tokens(2, 16)
    plain = convert_layers(params, scan_layers=False)
    module = type(model)(dataclasses.replace(model.config, scan_layers=False))
    expected = tiny_gpt.apply(module, plain, tokens)[0][..., :37]
    np.testing.assert_allclose(logits(lm, tokens), expected, atol=1e-5)


def test_the_form_fits_the_recipe():
    def title(recipe, **changed):
        return form_of(dataclasses.replace(config_module.load(recipe)[1].model, **changed)).title

    assert title("gpt") == "GPT-NeoX"
    assert title("shakespeare_char") == "GPT-2"
    assert title("gpt", norm="rms", mlp="swiglu", num_kv_heads=2) == "LLaMA"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"position": "rope", "norm": "rms"},
         ("a gpt model with model.norm=rms, model.mlp=gelu has no published form; "
         "model.norm=layer for GPT-NeoX's, or model.mlp=swiglu for LLaMA's")),
        ({**LLAMA, "parallel_block": True},
         "model.parallel_block=True has no published form; model.parallel_block=False for LLaMA's"),
        ({"position": "rope", "num_kv_heads": 1},
         "model.num_kv_heads=1 has no published form; train with model.num_kv_heads=0 for GPT-NeoX's"),
        ({"position": "none"}, "model.position=none has no published form; model.position=learned for"),
    ],
)  # fmt: skip
def test_a_model_without_a_form_names_the_fields_that_differ(fields, said, tmp_path):
    model, params = tiny_gpt.tiny(vocab_size=37, **fields)
    with pytest.raises(UserError) as error:
        huggingface.write(tmp_path / "model", Pretrained(model.config, params, CHARACTERS))
    for part in said.split("; "):
        assert part in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu' in .*; only 'silu' is supported"),
        ("llama", {"mlp_bias": True}, "attention_bias and mlp_bias differ in .*; only both or none"),
        ("llama", {"head_dim": 8}, "head_dim=8 in .*; only hidden_size / num_attention_heads"),
        ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "rope_type='llama3' in .*; only 'default'"),
        ("llama", {"rope_parameters": [1]}, "rope_parameters is not an object"),
        ("llama", {"rope_parameters": None, "rope_scaling": {"factor": 2}}, "rope_scaling={'factor': 2} in"),
        ("llama", {"num_key_value_heads": 3}, "num_heads=4 does not divide into"),
        ("llama", {"num_key_value_heads": 4}, r"k_proj.weight .* has the shape \[8, 16\], .*\[16, 16\]"),
        ("llama", {"num_attention_heads": 0}, "num_attention_heads=0 in"),
        ("llama", {"rms_norm_eps": "small"}, "rms_norm_eps='small' is not a number"),
        ("gpt_neox", {"use_parallel_residual": True}, "use_parallel_residual=True in .*; only False"),
        ("gpt_neox", {"use_parallel_residual": None}, "use_parallel_residual=True in .*; only False"),
        ("gpt_neox", {"rope_parameters": None}, "0.25 of a head's features are rotated in .*; only 1"),
        ("gpt_neox", {"attention_bias": False}, "attention_bias=False in .*; only True is supported"),
        ("gpt_neox", {"hidden_act": "relu"}, "hidden_act='relu' in .*; only 'gelu_new'"),
    ],
)
def test_a_wrong_directory_is_a_one_line_error(kind, changed, said, tmp_path):
    with pytest.raises(UserError, match=said) as error:
        lm_jax.load(write_golden(tmp_path / "model", kind, changed))
    assert "\n" not in str(error.value)


def test_buffers_of_older_files_are_not_read(tmp_path):
    more = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32) for i in range(2)}
    lm = lm_jax.load(write_golden(tmp_path / "a", "llama", more=more))
    more = {"gpt_neox.layers.1.attention.bias": np.ones((1, 1, 24, 24), np.float32)}
    lm_jax.load(write_golden(tmp_path / "b", "gpt_neox", more=more))
    assert jax.tree.leaves(lm.params)[0].dtype == np.float32


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_transformers_computes_the_same_logits(name, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model, params = tiny_gpt.tiny(vocab_size=39, **EXPORTED[name])
    huggingface.write(tmp_path / "model", Pretrained(model.config, params, CHARACTERS))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    kind = {"LlamaForCausalLM", "GPTNeoXForCausalLM"}
    assert type(theirs).__name__ in kind
    lm, tokens = lm_jax.load(tmp_path / "model"), tiny_gpt.random_tokens(2, 16)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(logits(lm, tokens), expected, atol=1e-4)
    prompt = torch.tensor(tokens[:, :6])
    made = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=9, eos_token_id=None
    )
    ours = tiny_gpt.continue_greedily(lm.module, lm.params, tokens[:, :6], np.full(2, 6), 9)
    np.testing.assert_array_equal(ours.tokens, made[:, 6:].numpy())
