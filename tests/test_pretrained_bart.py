"""BART in Hugging Face's form: the golden file, and transformers itself both ways."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny_gpt
from tokenizers import pre_tokenizers

import lm_jax
from lm_jax.errors import UserError
from lm_jax.export import export
from lm_jax.models.bart import BARTConfig
from lm_jax.tasks.frames import PairFrame

GOLDEN = dict(np.load(pathlib.Path(__file__).parent / "golden" / "bart.npz"))
CONFIG = {
    "model_type": "bart", "vocab_size": 261, "max_position_embeddings": 24, "d_model": 16,
    "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "is_encoder_decoder": True, "bos_token_id": 0,
    "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip
GENERATION = {
    "beams": {
        "num_beams": 4, "max_length": 14, "min_length": 6, "length_penalty": 2.0, "no_repeat_ngram_size": 3,
        "early_stopping": True, "forced_bos_token_id": 0,
    },
    "sums": {"num_beams": 3, "max_length": 12, "length_penalty": 0.0, "early_stopping": "never"},
    "greedy": {"num_beams": 1, "max_length": 14, "min_length": 5},
}  # fmt: skip
VOCABULARY = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "<mask>"]
TOKENS = GOLDEN["tokens"].astype(np.int32)
SEGMENTS = np.where(np.arange(16) < GOLDEN["lengths"][:, None], 0, -1).astype(np.int32)
TEXTS = ["".join(VOCABULARY[i] for i in row[1 : n - 1]) for row, n in zip(TOKENS, GOLDEN["lengths"])]


def weights_of(model):
    """The golden weights of a model as transformers saves them: tied ones once."""
    return {n.removeprefix(f"{model}/"): x for n, x in GOLDEN.items() if n.startswith(f"{model}/")}


def write(directory, arrays, **fields):
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG | fields))
    safetensors.numpy.save_file(arrays, directory / "model.safetensors")
    write_tokenizer(directory, VOCABULARY)
    return directory


def write_tokenizer(directory, vocabulary):
    (directory / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (directory / "merges.txt").write_text("#version: 0.2\n")


def apply(lm, *inputs, method="encode"):
    return tiny_gpt.apply(lm.module, lm.params, *inputs, method=method)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bart") / "model", weights_of("generation"))


@pytest.fixture(scope="module")
def pretrained(directory):
    return lm_jax.load(directory)


def test_states_logits_and_loss_are_the_golden_ones(pretrained):
    memory = apply(pretrained, TOKENS, SEGMENTS)
    np.testing.assert_allclose(memory, GOLDEN["encoded"], atol=1e-4)  # padding included
    hidden = apply(pretrained, GOLDEN["inputs"].astype(np.int32), memory, SEGMENTS, method="decode")
    logits = apply(pretrained, hidden, method="logits")
    np.testing.assert_allclose(logits, GOLDEN["logits"], atol=1e-4)
    log_probs = jax.nn.log_softmax(logits)[np.arange(3)[:, None], np.arange(9), GOLDEN["targets"]]
    assert -log_probs.mean() == pytest.approx(float(GOLDEN["loss"]), abs=1e-5)
    assert pretrained.frame == PairFrame((0,), (0,), 2, 2, 1)
    assert [
        pretrained.frame.source(e.ids, 24).tolist() for e in pretrained.tokenizer.encode_batch(TEXTS)
    ] == [row[:n].tolist() for row, n in zip(TOKENS, GOLDEN["lengths"])]


@pytest.mark.parametrize("name", list(GENERATION))
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_published_settings_of_generation_give_the_golden_tokens(pretrained, tmp_path, name, file):
    fields = GENERATION[name] | {"forced_eos_token_id": 2}
    if file == "config.json":
        lm = lm_jax.load(write(tmp_path / "model", weights_of("generation"), **fields))
    else:
        lm = lm_jax.load(write(tmp_path / "model", weights_of("generation"), num_beams=7))
        (tmp_path / "model" / file).write_text(json.dumps({**fields, "eos_token_id": 2}))
        lm = lm_jax.load(tmp_path / "model")
    for row, made in zip(GOLDEN[f"generated/{name}"], lm.generate(TEXTS), strict=True):
        expected = row[1:].tolist()
        end = expected.index(2) + 1
        assert made.tokens.tolist() == expected[:end]
        assert set(expected[end:]) <= {1}
    alone = lm.generate(TEXTS[2:])[0]
    assert alone.tokens.tolist() == lm.generate(TEXTS)[2].tokens.tolist()


def test_scores_of_targets_are_those_of_the_logits(pretrained):
    targets = ["abc", "", "Hgfab0", "a"]
    sources = [*TEXTS, TEXTS[0]]
    scored = pretrained.score_targets(sources, targets)
    for source, target, made in zip(sources, targets, scored, strict=True):
        rows = [[0, *(VOCABULARY.index(c) for c in text), 2] for text in (source, target)]
        tokens, labels = (np.array([row], np.int32) for row in rows)
        inputs = np.concatenate([[[2]], labels[:, :-1]], axis=1)
        hidden = apply(pretrained, inputs, apply(pretrained, tokens), method="decode")
        expected = jax.nn.log_softmax(apply(pretrained, hidden, method="logits"))[0]
        np.testing.assert_allclose(made.log_probs, expected[np.arange(len(rows[1])), rows[1]], atol=1e-5)
        assert made.tokens == [b"", *(c.encode() for c in target), b""]
        assert made.complete
    with pytest.raises(UserError, match="1 sources and 2 targets"):
        pretrained.score_targets(["a"], ["b", "c"])
    with pytest.raises(UserError, match="a target of 32 tokens for a model that writes 23"):
        pretrained.score_targets(["a"], ["b" * 30])
    with pytest.raises(UserError, match="max_tokens=24 for a model that writes 23"):
        pretrained.generate(["a"], 24)


def test_a_model_with_labels_is_the_golden_one(tmp_path):
    names = {"0": "NO", "1": "maybe", "2": "yes"}
    fields = {"architectures": ["BartForSequenceClassification"], "id2label": names}
    lm = lm_jax.load(write(tmp_path / "model", weights_of("sequence"), **fields))
    made = apply(lm, TOKENS, SEGMENTS, method=None)
    np.testing.assert_allclose(made, GOLDEN["class_logits"], atol=1e-4)
    export(lm, tmp_path / "out")
    there = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    wanted = weights_of("sequence")
    assert there.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(there[name], array)


@pytest.mark.parametrize(
    "tied",
    [
        ["model.shared.weight"],
        ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"],
        ["lm_head.weight"],
        [
            "model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight",
            "lm_head.weight",
        ],
    ],
)  # fmt: skip
def test_the_token_embedding_is_read_under_each_of_its_names(pretrained, tmp_path, tied):
    arrays = weights_of("generation")
    shared = arrays.pop("model.shared.weight")
    lm = lm_jax.load(write(tmp_path / "model", arrays | {name: shared.copy() for name in tied}))
    for ours, wanted in zip(jax.tree.leaves(lm.params), jax.tree.leaves(pretrained.params), strict=True):
        np.testing.assert_array_equal(ours, wanted)
    if len(tied) > 1:
        with pytest.raises(UserError, match=r"differs from shared\.weight"):
            lm_jax.load(write(tmp_path / "other", arrays | {n: shared + i for i, n in enumerate(tied)}))


def test_an_untied_head_is_kept(tmp_path):
    arrays = weights_of("generation") | {"lm_head.weight": np.ones((261, 16), np.float32)}
    lm = lm_jax.load(write(tmp_path / "model", arrays, tie_word_embeddings=False))
    np.testing.assert_array_equal(lm.params["params"]["head"]["embedding"], 1)
    export(lm, tmp_path / "out")
    there = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    assert there.keys() == arrays.keys()


def test_wrong_files_are_refused(tmp_path):
    arrays = weights_of("generation")
    for i, (fields, message) in enumerate(
        [
            ({"encoder_ffn_dim": 25}, "encoder_ffn_dim=25 and 24 of the decoder"),
            ({"decoder_start_token_id": 0}, "decoder_start_token_id=0 .*only the end token, 2"),
            ({"activation_function": "relu"}, "activation_function='relu'"),
            ({"early_stopping": "often", "num_beams": 2}, "early_stopping='often'"),
            ({"forced_eos_token_id": 3}, "forced_eos_token_id=3 in .*config.json"),
        ]
    ):
        with pytest.raises(UserError, match=message):
            lm_jax.load(write(tmp_path / f"model{i}", arrays, **fields))
    with pytest.raises(UserError, match=r"decoder\.layers\.1\.fc1\.weight"):
        lm_jax.load(
            write(
                tmp_path / "less", {n: x for n, x in arrays.items() if "decoder.layers.1.fc1.weight" not in n}
            )
        )


@pytest.mark.parametrize(
    ("layers", "width", "heads", "parameters"), [(6, 768, 12, 139_420_416), (12, 1024, 16, 406_291_456)]
)
def test_published_sizes(layers, width, heads, parameters):
    config = BARTConfig(vocab_size=50265, max_length=1024, num_layers=layers, d_model=width, num_heads=heads)
    module = config.make()
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 4), jnp.int32))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters == config.cost(1024).parameters


def their_model(kind, shape):
    """transformers' model of a shape, with random weights, biases and norms too."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    encoder_layers, decoder_layers, width, heads, is_scaled = shape
    config = transformers.BartConfig(
        vocab_size=len(VOCABULARY), max_position_embeddings=40, encoder_layers=encoder_layers,
        decoder_layers=decoder_layers, d_model=width, encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=50, decoder_ffn_dim=50, scale_embedding=is_scaled,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


KINDS = ["BartModel", "BartForConditionalGeneration", "BartForSequenceClassification"]


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 1, 48, 4, True), (1, 2, 24, 1, False)])
def test_both_directions_equal_transformers(tmp_path, kind, shape):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = their_model(kind, shape)
    directory = tmp_path / "theirs"
    theirs.save_pretrained(directory)
    write_tokenizer(directory, VOCABULARY)
    lm = lm_jax.load(directory)
    source = {"input_ids": torch.tensor(TOKENS).long(), "attention_mask": torch.tensor(SEGMENTS >= 0).long()}
    inputs = {} if "Class" in kind else {"decoder_input_ids": torch.tensor(GOLDEN["inputs"]).long()}
    with torch.no_grad():
        made = theirs(**source, **inputs)
    if "Class" in kind:
        ours = apply(lm, TOKENS, SEGMENTS, method=None)
        np.testing.assert_allclose(ours, made.logits.numpy(), atol=1e-4)
    else:
        memory = apply(lm, TOKENS, SEGMENTS)
        ours = apply(lm, GOLDEN["inputs"].astype(np.int32), memory, SEGMENTS, method="decode")
        np.testing.assert_allclose(memory, made.encoder_last_hidden_state.numpy(), atol=1e-4)
        wanted = made.last_hidden_state if kind == "BartModel" else made.logits
        ours = ours if kind == "BartModel" else apply(lm, ours, method="logits")
        np.testing.assert_allclose(ours, wanted.numpy(), atol=1e-4)
    export(lm, tmp_path / "ours")
    back = getattr(transformers, kind).from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        again = back(**source, **inputs)
    np.testing.assert_array_equal(again[0].numpy(), made[0].numpy())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert (
        tokenizer("abc de", add_special_tokens=False).input_ids == lm.tokenizer.encode("abc de").ids.tolist()
    )


@pytest.mark.parity
@pytest.mark.slow
def test_the_published_size_equals_transformers(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.BartForConditionalGeneration(
        transformers.BartConfig(encoder_layers=6, decoder_layers=6, d_model=768, encoder_attention_heads=12,
        decoder_attention_heads=12, encoder_ffn_dim=3072, decoder_ffn_dim=3072)
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model", [*VOCABULARY[:-1], *(f"w{i}" for i in range(50004)), "<mask>"])
    lm = lm_jax.load(tmp_path / "model")
    tokens = np.random.default_rng(0).integers(4, 50264, size=(1, 24)).astype(np.int32)
    with torch.no_grad():
        made = theirs(input_ids=torch.tensor(tokens).long(), decoder_input_ids=torch.tensor(tokens).long())
    memory = apply(lm, tokens)
    np.testing.assert_allclose(memory, made.encoder_last_hidden_state.numpy(), atol=1e-4)
    logits = apply(lm, apply(lm, tokens, memory, method="decode"), method="logits")
    np.testing.assert_allclose(logits, made.logits.numpy(), atol=1e-4)
    [ours] = lm.generate(["abc"], 12, num_beams=3)
    source = torch.tensor([[0, *lm.tokenizer.encode("abc").ids.tolist(), 2]])
    [wanted] = theirs.generate(input_ids=source, max_length=13, num_beams=3)
    assert ours.tokens.tolist() == wanted[1:].tolist()


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 1, 48, 4, True), (1, 2, 24, 1, False)])
def test_loss_and_generated_tokens_equal_those_of_transformers(tmp_path, shape):
    torch = pytest.importorskip("torch")
    theirs = their_model("BartForConditionalGeneration", shape)
    ids, mask = torch.tensor(TOKENS).long(), torch.tensor(SEGMENTS >= 0).long()
    theirs.save_pretrained(tmp_path / "loss")
    write_tokenizer(tmp_path / "loss", VOCABULARY)
    lm = lm_jax.load(tmp_path / "loss")
    targets = [TEXTS[2], TEXTS[0], "ab"]
    rows = [[0, *(VOCABULARY.index(c) for c in text), 2] for text in targets]
    scored = np.concatenate([one.log_probs for one in lm.score_targets(TEXTS, targets)])
    labels = torch.full((3, max(map(len, rows))), -100)
    for i, row in enumerate(rows):
        labels[i, : len(row)] = torch.tensor(row)
    with torch.no_grad():
        assert -scored.mean() == pytest.approx(theirs(ids, mask, labels=labels).loss.item(), abs=1e-4)
        for name, settings in GENERATION.items():
            theirs.generation_config = type(theirs.generation_config)(
                **settings, bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
                forced_eos_token_id=2,
            )  # fmt: skip
            theirs.save_pretrained(tmp_path / name)
            write_tokenizer(tmp_path / name, VOCABULARY)
            ours = lm_jax.load(tmp_path / name).generate(TEXTS)
            for row, made in zip(theirs.generate(ids, attention_mask=mask).tolist(), ours, strict=True):
                end = row.index(2, 1) + 1
                assert made.tokens.tolist() == row[1:end]
                assert set(row[end:]) <= {1}
