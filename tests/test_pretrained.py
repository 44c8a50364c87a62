"""GPT-2 in Hugging Face's form: the golden file, transformers itself both ways, and wrong directories."""

import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny
import tiny_gpt

import lm_jax
from lm_jax import experiment, fields
from lm_jax.errors import UserError
from lm_jax.export import export, main
from lm_jax.models.gpt import GPTConfig
from lm_jax.models.transformer import convert_layers
from lm_jax.pretrained import gpt2, huggingface, weights
from lm_jax.pretrained.huggingface import Pretrained
from lm_jax.text.simple import ByteTokenizer, CharacterTokenizer

GOLDEN = dict(np.load(pathlib.Path(__file__).parent / "golden" / "gpt2.npz"))
RESULTS = {name: GOLDEN.pop(name) for name in ("tokens", "logits", "greedy")}
WTE = GOLDEN["wte.weight"]
CHARACTERS = CharacterTokenizer(map(chr, range(97, 97 + 35)))  # 37 tokens, as the golden file has
CONFIG = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
    "vocab_size": 37, "n_positions": 24, "n_ctx": 24, "n_embd": 16, "n_layer": 2, "n_head": 2,
    "n_inner": None, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1, "layer_norm_epsilon": 1e-5,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def write_golden(directory, changed=(), arrays=GOLDEN):
    """A directory as transformers writes it, of the golden file's weights."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG | dict(changed)))
    safetensors.numpy.save_file(arrays, directory / "model.safetensors")
    CHARACTERS.save(directory)
    return directory


def logits(lm, tokens):
    return tiny_gpt.apply(lm.module, lm.params, tokens)[0]


def test_an_imported_model_is_the_golden_one(tmp_path):
    lm = lm_jax.load(write_golden(tmp_path / "model"))
    np.testing.assert_allclose(logits(lm, RESULTS["tokens"]), RESULTS["logits"], atol=1e-4)
    shape = {"num_layers": 2, "num_heads": 2, "d_model": 16, "dropout": 0.1}
    assert lm.config == GPTConfig(vocab_size=37, num_tokens=37, max_length=24, **shape)
    prompts = [lm.tokenizer.decode(tokens[1:10]) for tokens in RESULTS["tokens"]]
    [scores] = lm.score(prompts[:1])
    assert scores.complete
    assert np.isfinite(scores.log_probs).all()


def test_names_with_a_prefix_masks_a_written_head_and_half_precision(tmp_path):
    older = {f"transformer.{name}": array.astype(np.float16) for name, array in GOLDEN.items()}
    older |= {f"transformer.h.{i}.attn.bias": np.ones((1, 1, 24, 24), bool) for i in range(2)}
    older["lm_head.weight"] = older["transformer.wte.weight"]
    lm = lm_jax.load(write_golden(tmp_path / "model", arrays=older))
    assert {leaf.dtype for leaf in jax.tree.leaves(lm.params)} == {np.dtype("float32")}
    np.testing.assert_allclose(logits(lm, RESULTS["tokens"]), RESULTS["logits"], atol=0.1)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 4000])
def test_export_and_import_give_the_same_parameters(tmp_path, max_shard_bytes):
    model, params = tiny_gpt.tiny(vocab_size=37, d_ff=24, scan_layers=True, tied_head=False)
    pretrained = Pretrained(model.config, params, CHARACTERS)
    huggingface.write(tmp_path / "model", pretrained, max_shard_bytes)
    shards = len(list((tmp_path / "model").glob("*.safetensors")))
    assert (shards == 1) == (max_shard_bytes == 10**9)
    back = huggingface.read(tmp_path / "model")
    jax.tree.map(np.testing.assert_array_equal, back.params, convert_layers(params, scan_layers=False))
    assert back.config == GPTConfig(**{**vars(model.config), "scan_layers": False})
    assert back.tokenizer.fingerprint() == CHARACTERS.fingerprint()


def test_export_adds_biases_and_drops_rows_that_pad_the_vocabulary(tmp_path):
    model, params = tiny_gpt.tiny(vocab_size=40, use_bias=False)
    huggingface.write(tmp_path / "model", Pretrained(model.config, params, CHARACTERS))
    lm = lm_jax.load(tmp_path / "model")
    tokens = tiny_gpt.random_tokens(2, 16)
    expected = tiny_gpt.apply(model, params, tokens)[0][..., :37]
    np.testing.assert_allclose(logits(lm, tokens), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"norm": "rms"}, "norm=rms"),
        ({"mlp": "swiglu"}, "mlp=swiglu"),
        ({"parallel_block": True}, "parallel_block=True"),
        ({"num_kv_heads": 1}, "num_kv_heads=1"),
    ],
)
def test_models_that_are_not_gpt2_are_not_exported(tmp_path, fields, named):
    model, params = tiny_gpt.tiny(vocab_size=37, **fields)
    with pytest.raises(UserError, match=named):
        huggingface.write(tmp_path / "model", Pretrained(model.config, params, CHARACTERS))
    assert not list(tmp_path.iterdir())


def test_the_published_size():
    config, _ = gpt2.read_config(
        {"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024, "n_layer": 12, "n_head": 12,
         "n_embd": 768}
    )  # fmt: skip
    assert config.cost(1024).parameters == 124_439_808
    names = weights.expand(gpt2.rules(config), 12)
    assert len(set(names.values())) == len(names) == 148


def other(directory, **fields):
    (directory / "config.json").write_text(json.dumps(CONFIG | fields))


def without(directory, key):
    arrays = {name: array for name, array in GOLDEN.items() if name != key}
    safetensors.numpy.save_file(arrays, directory / "model.safetensors")


def with_arrays(directory, changed):
    safetensors.numpy.save_file(GOLDEN | changed, directory / "model.safetensors")


def indexed(directory, index):
    (directory / "model.safetensors").unlink()
    (directory / weights.INDEX).write_text(json.dumps(index))


def in_two_shards(directory):
    shutil.copy(directory / "model.safetensors", directory / "a.safetensors")
    safetensors.numpy.save_file({"wte.weight": GOLDEN["wte.weight"]}, directory / "b.safetensors")
    where = dict.fromkeys(GOLDEN, "a.safetensors") | {"wte.weight": "b.safetensors"}
    indexed(directory, {"weight_map": where})


def cut_short(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def lacking_a_shard(directory):
    (directory / "model.safetensors").unlink()
    names = dict.fromkeys(GOLDEN, "model-00001-of-00002.safetensors")
    (directory / weights.INDEX).write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda d: other(d, model_type="mamba"), r"describes a model of type 'mamba'; give one of"),
        (lambda d: other(d, activation_function="relu"), "activation_function='relu' in .*; only 'gelu_new'"),
        (lambda d: other(d, scale_attn_by_inverse_layer_idx=True), "layer_idx=True in .*; only False"),
        (lambda d: other(d, n_embd="wide"), r"config.json: n_embd='wide' is not a whole number"),
        (lambda d: other(d, n_embd=None), "config.json has no field 'n_embd'"),
        (lambda d: other(d, n_embd=True), "config.json: n_embd=True is not a whole number"),
        (lambda d: other(d, n_embd=10**30), "n_embd=10+ in .*; restore"),
        (lambda d: other(d, n_layer=10**9), "of num_layers=1000000000, and there are 28 arrays"),
        (lambda d: other(d, n_head=0), "n_head=0 in .*; restore"),
        (lambda d: other(d, n_inner=1.5), "config.json: n_inner=1.5 is not a whole number"),
        (lambda d: other(d, hidden_size=8), "n_embd=16 in .*; restore the file .hidden_size may differ"),
        (lambda d: other(d, tie_word_embeddings="false"), "tie_word_embeddings='false' is not true or"),
        (lambda d: other(d, scale_attn_weights=1), "scale_attn_weights=1 in .*; only True"),
        (lambda d: other(d, resid_pdrop="0.1"), "config.json: resid_pdrop='0.1' is not a number"),
        (lambda d: other(d, attn_pdrop=[]), r"config.json: attn_pdrop=\(a list\) is not a number"),
        (lambda d: other(d, layer_norm_epsilon=10**400), "layer_norm_epsilon has a number that is out"),
        (lambda d: other(d, resid_pdrop=2), "model.dropout=2.0, by .*config.json"),
        (lambda d: other(d, layer_norm_epsilon=0), "model.layer_norm_epsilon=0.0, by .*config.json"),
        (lambda d: other(d, activation_function=None, use_cache="yes"), "use_cache='yes' is not true"),
        (lambda d: other(d, quantization_config={"bits": 4}), "has a quantization_config; give the weights"),
        (lambda d: other(d, auto_map={"AutoModel": "mine.py"}), "has an auto_map"),
        (lambda d: other(d, architectures="GPT2"), "config.json: architectures='GPT2' is not a list"),
        (lambda d: other(d, n_ctx="24"), "config.json: n_ctx='24' is not a whole number"),
        (lambda d: other(d, eos_token_id="0"), "eos_token_id='0' is not a whole number or a list"),
        (lambda d: other(d, pruned_heads={"0": [1]}), "pruned_heads=.*; only {} is supported"),
        (lambda d: other(d, model_type=["gpt2"]), r"describes a model of type \['gpt2'\]"),
        (lambda d: with_arrays(d, {"lm_head.weight": WTE + 1}), "lm_head.weight in .* differs from wte"),
        (lambda d: with_arrays(d, {"transformer.wte.weight": WTE}), "have wte.weight twice"),
        (lambda d: with_arrays(d, {"wte.weight": WTE.astype(np.int8)}), "wte.weight .* has the type I8"),
        (lambda d: indexed(d, []), "index.json has no object 'weight_map'"),
        (lambda d: indexed(d, {"weight_map": {}}), "index.json has no object 'weight_map'"),
        (lambda d: indexed(d, {"weight_map": {"wte.weight": 1}}), "wte.weight lies in 1, which is no file"),
        (lambda d: indexed(d, {"weight_map": {"wte.weight": "../x.safetensors"}}), "which is no file name"),
        (in_two_shards, "has wte.weight, as another shard does"),
        (lambda d: other(d, n_layer=3), r"lack h.2.attn.c_attn.bias, .* and 7 more; give weights"),
        (lambda d: other(d, n_layer=1), r"have h.1.attn.c_attn.bias, .*, which the architecture does not"),
        (lambda d: other(d, n_inner=100), r"h.0.mlp.c_fc.weight .* has the shape \[16, 64\], .* \[16, 100\]"),
        (lambda d: other(d, n_head=3), "model.d_model=16 does not divide"),
        (lambda d: without(d, "ln_f.bias"), "the weights in .* lack ln_f.bias; give"),
        (cut_short, "model.safetensors is damaged .*; copy it again"),
        (pickled, "has its weights in pytorch_model.bin, and only safetensors are read: .*; open it once"),
        (lacking_a_shard, "lacks model-00001-of-00002.safetensors, which its .* names; copy all"),
        (lambda d: (d / "model.safetensors").unlink(), "no model.safetensors in"),
        (lambda d: (d / "tokenizer.json").unlink(), "no tokenizer in"),
        (lambda d: ByteTokenizer().save(d), "has 257 tokens, its model 37; restore"),
        (lambda d: (d / "config.json").write_text("{"), "is not JSON"),
        (lambda d: other(d, n_embd=2 * 10**9, hidden_size=2 * 10**9), "a model of d_model=2000000000, and"),
    ],
)  # fmt: skip
def test_a_wrong_directory_is_a_one_line_error(tmp_path, spoil, line):
    directory = write_golden(tmp_path / "model")
    spoil(directory)
    with pytest.raises(UserError, match=line) as error:
        lm_jax.load(directory)
    assert "\n" not in str(error.value)


GOOD = {
    "a config of 2019": lambda d: (d / "config.json").write_text(
        json.dumps({k: CONFIG[k] for k in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")})
    ),
    "null for defaults": lambda d: other(d, layer_norm_epsilon=None, activation_function=None),
    "other names of sizes": lambda d: (d / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "vocab_size": 37, "max_position_embeddings": 24, "hidden_size": 16,
                    "num_hidden_layers": 2, "num_attention_heads": 2})
    ),
    "buffers": lambda d: with_arrays(
        d, {"h.0.attn.bias": np.ones((1, 1, 24, 24)), "h.1.attn.masked_bias": np.array(-1e4),
            "position_ids": np.arange(24)}
    ),
    "a head that is the embedding": lambda d: with_arrays(d, {"lm_head.weight": WTE.copy()}),
}  # fmt: skip


@pytest.mark.parametrize("change", GOOD)
def test_a_good_directory_that_differs_in_form_is_opened(tmp_path, change):
    directory = write_golden(tmp_path / "model")
    GOOD[change](directory)
    assert huggingface.is_directory(directory)
    made = huggingface.read(directory)
    assert made.config == huggingface.read(write_golden(tmp_path / "plain")).config
    np.testing.assert_array_equal(made.params["params"]["token_embedding"]["embedding"], GOLDEN["wte.weight"])


def test_rows_that_pad_the_vocabulary_have_probability_0(tmp_path):
    """As nanoGPT, which has 50,304 rows for 50,257 tokens."""
    directory = write_golden(tmp_path / "model")
    other(directory, vocab_size=40)
    rows = np.concatenate([GOLDEN["wte.weight"], np.full((3, 16), 9, np.float32)])
    with_arrays(directory, {"wte.weight": rows})
    lm, plain = lm_jax.load(directory), lm_jax.load(write_golden(tmp_path / "plain"))
    text = lm.tokenizer.decode(RESULTS["tokens"][0][1:10])
    np.testing.assert_allclose(lm.score([text])[0].log_probs, plain.score([text])[0].log_probs, atol=1e-5)
    for rows, said in ((43, "has 37 tokens, its model 43"), (36, "has 37 tokens, its model 36")):
        other(directory, vocab_size=rows)
        with pytest.raises(UserError, match=said):
            huggingface.read(directory)


def test_an_unknown_hub_name_fails_immediately(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(hub.HfApi, "model_info", refuse)
    with pytest.raises(
        UserError, match=r"the hub cannot be reached for nobody/nothing \(ConnectionError\); check the name"
    ):
        lm_jax.load("hf:nobody/nothing")


@pytest.mark.parametrize("name", ["a--b", "a..b", "a.", "a" * 120])
def test_a_name_that_the_hub_cannot_have_is_a_one_line_error(name):
    pytest.importorskip("huggingface_hub")
    with pytest.raises(UserError, match=r"hf:a.* is not a valid name on the hub; check the name"):
        lm_jax.load(f"hf:{name}")


def test_a_path_is_never_looked_up_on_the_hub():
    with pytest.raises(UserError, match=r"there is no directory gpt2; check the path, or type hf:gpt2"):
        lm_jax.load("gpt2")


def test_cached_hub_files_need_no_network(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    directory = write_golden(tmp_path / "model")

    def cached(name, local_files_only=False, **kwargs):
        assert name == "someone/small"
        assert local_files_only
        return str(directory)

    monkeypatch.setattr(hub, "snapshot_download", cached)
    assert lm_jax.load("hf:someone/small").config.d_model == 16


@pytest.mark.slow
def test_training_goes_on_from_an_imported_model_and_is_exported(tmp_path, capsys):
    source = write_golden(tmp_path / "source")
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh\n" * 300)
    recipe = tiny.config(text, num_steps=30)
    values = {"init_from": str(source), "optimizer.learning_rate": "1e-2", "data.sequence_length": "16"}
    tuned = experiment.override(recipe, values | {"model.scan_layers": "true", "model.dropout": "0"})
    assert tuned.model.d_model == 16
    assert tuned.model.scan_layers
    [valid, _] = experiment.run(tuned, tmp_path / "run")
    before = lm_jax.load(source).score(["abcdefgh\n"])[0].log_probs.sum()
    assert valid.sums["nats"] / valid.documents < -0.5 * before

    main([str(tmp_path / "run"), str(tmp_path / "exported")])
    assert "exported" in capsys.readouterr().out
    theirs, ours = lm_jax.load(tmp_path / "exported"), lm_jax.load(tmp_path / "run")
    np.testing.assert_allclose(
        theirs.score(["abcdefgh\n"])[0].log_probs, ours.score(["abcdefgh\n"])[0].log_probs, atol=1e-5
    )
    with pytest.raises(UserError, match="exported exists; give a new directory"):
        export(ours, tmp_path / "exported")
    with pytest.raises(UserError, match=r"another shape: model.num_layers \(2 there, 3 here\)"):
        experiment.run(fields.override(tuned, {"model.num_layers": "3"}), tmp_path / "other")


def make_theirs(directory, vocab_size, **fields):
    """transformers' GPT-2 with random weights, and its directory without a tokenizer."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocab_size, bos_token_id=vocab_size - 1, eos_token_id=vocab_size - 1, **fields
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(directory, max_shard_size="2MB")
    return theirs


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"n_positions": 40, "n_embd": 48, "n_layer": 3, "n_head": 4},
        {
            "n_positions": 33,
            "n_embd": 24,
            "n_layer": 1,
            "n_head": 1,
            "n_inner": 50,
            "layer_norm_epsilon": 1e-3,
        },
        {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 8, "tie_word_embeddings": False},
    ],
)
def test_both_directions_equal_transformers(shared, tmp_path, fields):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = make_theirs(tmp_path / "theirs", 50257, **fields)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shared / "fixtures" / "gpt2_tokenizer" / name, tmp_path / "theirs")
    lm = lm_jax.load(tmp_path / "theirs")
    ids = lm.tokenizer.encode("Once upon a time, there was a model that was not café.").ids[None]
    with torch.no_grad():
        expected = theirs(torch.tensor(ids.astype(int))).logits.numpy()
    np.testing.assert_allclose(logits(lm, ids), expected, atol=1e-4)

    export(lm, tmp_path / "ours")
    back = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        np.testing.assert_array_equal(back(torch.tensor(ids.astype(int))).logits.numpy(), expected)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    text = "Once upon a time, there was a model that was not café."
    assert tokenizer(text).input_ids == ids[0].tolist()
    assert tokenizer.eos_token_id == lm.tokenizer.end_id == 50256


@pytest.mark.slow
def test_importing_needs_no_torch(tmp_path):
    import subprocess

    directory = write_golden(tmp_path / "model")
    code = f"import sys, lm_jax; lm_jax.load({str(directory)!r})"
    code += "; assert not {'torch', 'transformers'} & set(sys.modules)"
    root = pathlib.Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
