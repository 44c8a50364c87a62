"""BERT in Hugging Face's form: the golden file, transformers itself both ways, and real weights."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import scipy.stats
import tiny_gpt

import lm_jax
from lm_jax import embed
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation.base import evaluate
from lm_jax.evaluation.texts import Text
from lm_jax.export import export
from lm_jax.language_models.encoder import EncoderLanguageModel, _padded
from lm_jax.pretrained import huggingface
from lm_jax.text.wordpiece import WordPiece

GOLDEN = dict(np.load(pathlib.Path(__file__).parent / "golden" / "bert.npz"))
CONFIG = {
    "model_type": "bert", "vocab_size": 37, "max_position_embeddings": 24, "hidden_size": 16,
    "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "hidden_act": "gelu",
}  # fmt: skip
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnop",
    *(f"##{c}" for c in "abcdefghijklmnop"),
]
SEGMENTS = np.where(np.arange(24) < GOLDEN["lengths"][:, None], 0, -1)
INPUTS = (GOLDEN["tokens"].astype(np.int32), SEGMENTS.astype(np.int32), GOLDEN["types"].astype(np.int32))


def weights_of(model):
    """The golden weights of a model as transformers saves them: tied ones once."""
    found = {n.removeprefix(f"{model}/"): x for n, x in GOLDEN.items() if n.startswith(f"{model}/")}
    return {n: x for n, x in found.items() if "decoder" not in n and "position_ids" not in n}


def write(directory, arrays, **fields):
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG | fields))
    safetensors.numpy.save_file(arrays, directory / "model.safetensors")
    (directory / "vocab.txt").write_text("\n".join(WORDS))
    return directory


def apply(lm, *inputs, method="encode"):
    return tiny_gpt.apply(lm.module, lm.params, *inputs, method=method)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return lm_jax.load(write(tmp_path_factory.mktemp("bert") / "model", weights_of("pretraining")))


def test_hidden_states_and_logits_are_the_golden_ones(pretrained):
    hidden = apply(pretrained, *INPUTS)
    np.testing.assert_allclose(hidden, GOLDEN["hidden"][-1], atol=1e-4)  # padding included
    np.testing.assert_allclose(apply(pretrained, hidden, method="logits"), GOLDEN["masked_logits"], atol=1e-4)
    np.testing.assert_allclose(
        apply(pretrained, hidden, method="pair_logits"), GOLDEN["pair_logits"], atol=1e-4
    )


def test_token_vectors_are_those_of_every_layer(pretrained):
    _, sown = pretrained.module.apply(pretrained.params, *INPUTS, method="encode", mutable=["intermediates"])
    blocks = sown["intermediates"]["backbone"]["blocks"]
    np.testing.assert_allclose(np.stack(blocks), GOLDEN["hidden"], atol=1e-4)
    text = "abc dab"
    [made] = pretrained.embed_tokens([text])
    assert made.layers_LTD.shape[0] == 3
    assert made.spans.tolist()[0] == [0, 0]
    assert made.spans.tolist()[-1] == [7, 7]
    ids = np.concatenate([[2], pretrained.tokenizer.encode(text).ids, [3]])[None].astype(np.int32)
    np.testing.assert_allclose(made.layers_LTD[-1], apply(pretrained, ids)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("model", "architecture", "logits"),
    [
        ("sequence", "BertForSequenceClassification", "class_logits"),
        ("token", "BertForTokenClassification", "tag_logits"),
    ],
)
def test_models_with_labels_are_the_golden_ones(tmp_path, model, architecture, logits):
    names = {"0": "NO", "1": "maybe", "2": "yes"}
    fields = {"architectures": [architecture], "id2label": names}
    lm = lm_jax.load(write(tmp_path / "model", weights_of(model), **fields))
    made = apply(lm, *INPUTS, method=None)
    is_token = SEGMENTS >= 0 if model == "token" else slice(None)
    np.testing.assert_allclose(made[is_token], GOLDEN[logits][is_token], atol=1e-4)
    [labelled] = lm.label(["abc dab"])
    assert labelled.names == ("NO", "maybe", "yes")
    np.testing.assert_allclose(labelled.probabilities.sum(axis=-1), 1, rtol=1e-5)
    export(lm, tmp_path / "out")
    there = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    wanted = weights_of(model)
    assert there.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(there[name], array)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["architectures"], config["id2label"]) == ([architecture], names)
    old = lm_jax.load(write(tmp_path / "old", weights_of(model), id2label=names))
    assert old.task == lm.task, "the pooler tells where no architecture is named"


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_bare_encoder_with_and_without_a_prefix(tmp_path, prefix):
    arrays = {
        n.removeprefix("bert."): x for n, x in weights_of("pretraining").items() if n.startswith("bert.")
    }
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    named = {}
    for name, array in arrays.items():
        for new, older in old.items():
            name = name.replace(new, older)
        named[prefix + name] = array
    named[f"{prefix}embeddings.position_ids"] = np.arange(24)[None]
    lm = lm_jax.load(write(tmp_path / "model", named, max_window_layers=3, bos_token_id=None))
    hidden = apply(lm, *INPUTS)
    np.testing.assert_allclose(hidden, GOLDEN["hidden"][-1], atol=1e-4)
    pooled = apply(lm, hidden[:, 0], method="pool")
    np.testing.assert_allclose(pooled, GOLDEN["pooled"], atol=1e-4)
    with pytest.raises(UserError, match=r"m is a bert without a head, which predicts nothing .*embed"):
        evaluate(lm, Text("t", [Document("d", "a b")]), "m")


def test_export_gives_the_same_arrays(pretrained, tmp_path):
    export(pretrained, tmp_path / "out")
    there = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    wanted = weights_of("pretraining")
    assert there.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(there[name], array)
    back = lm_jax.load(tmp_path / "out")
    assert (back.config, back.trained.task) == (pretrained.config, pretrained.trained.task)


def test_another_decoder_than_the_embedding_is_refused(tmp_path):
    arrays = weights_of("pretraining")
    arrays["cls.predictions.decoder.weight"] = arrays["bert.embeddings.word_embeddings.weight"] + 1
    with pytest.raises(UserError, match=r"decoder.weight in .* differs from embeddings.word_embeddings"):
        lm_jax.load(write(tmp_path / "model", arrays))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu' in .*; only 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key' in .*; only"),
        ({"is_decoder": True}, "is_decoder=True in"),
        ({"hidden_size": "wide"}, "config.json: hidden_size='wide' is not a whole number"),
        ({"hidden_size": True}, "config.json: hidden_size=True is not a whole number"),
        ({"num_hidden_layers": None}, "has no field 'num_hidden_layers'"),
        ({"num_hidden_layers": 10**9}, "num_layers=1000000000, and there are"),
        ({"hidden_size": 10**12}, "hidden_size=1000000000000 in"),
        ({"hidden_size": 10**30}, "hidden_size=10*0 in"),
        ({"vocab_size": 10**400}, "vocab_size has a number that is out of range"),
        ({"layer_norm_eps": 10**400}, "layer_norm_eps has a number that is out of range"),
        ({"intermediate_size": 20}, r"intermediate.dense.weight .* has the shape \[24, 16\]"),
    ],
)
def test_a_wrong_config_is_a_one_line_error(tmp_path, fields, message):
    with pytest.raises(UserError, match=message) as error:
        lm_jax.load(write(tmp_path / "model", weights_of("pretraining"), **fields))
    assert "\n" not in str(error.value)


def test_masks_are_filled(pretrained):
    [[first, second], [only]] = pretrained.fill(["a [MASK] c [MASK]", "[MASK] b"], top_k=3)
    assert [len(c) for c in (first, second, only)] == [3, 3, 3]
    ids = pretrained.tokenizer.encode("a b c d").ids
    row = np.array([[2, ids[0], 4, ids[2], 4, 3]], np.int32)
    hidden = apply(pretrained, row)
    logits = apply(pretrained, hidden, method="logits")[0]
    expected = logits[2] - np.log(np.exp(logits[2]).sum())
    best = np.argsort(-expected)[:3]
    np.testing.assert_allclose([c.log_prob for c in first], expected[best], atol=1e-5)
    assert [c.text for c in first] == [pretrained.tokenizer.decode([i]) for i in best]
    assert pretrained.fill("a [MASK] c [MASK]", top_k=3) == [first, second], "a text alone"
    with pytest.raises(UserError, match=r"has no mask; write \[MASK\] where"):
        pretrained.fill(["a b"])


def test_pseudo_log_likelihood_masks_one_token_at_a_time(pretrained):
    text = "ab cde"
    ids = pretrained.tokenizer.encode(text).ids
    starts = pretrained.tokenizer.starts_word[ids]
    for within_word in (False, True):
        [made] = pretrained.pseudo_score([text], within_word)
        for i, token in enumerate(ids):
            row = ids.copy()
            row[i] = 4
            for j in range(i + 1, len(ids)):
                if starts[j] or not within_word:
                    break
                row[j] = 4
            hidden = apply(pretrained, np.concatenate([[2], row, [3]])[None].astype(np.int32))
            logits = apply(pretrained, hidden, method="logits")[0, i + 1]
            expected = logits[token] - np.log(np.exp(logits).sum())
            assert made.log_probs[i] == pytest.approx(expected, abs=1e-5)
        assert "compares with no left-to-right probability" in made.method
        several = pretrained.pseudo_score(["", "a b c d", text], within_word)
        assert [len(one.log_probs) for one in several] == [0, 4, len(ids)]
        np.testing.assert_allclose(several[2].log_probs, made.log_probs, atol=1e-5)


def test_vectors_of_texts_do_not_depend_on_others(pretrained):
    texts = ["a", "abc defg hi", "b c", "p" * 15]
    together = pretrained.embed(texts, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(pretrained.embed([text], normalize=True)[0], vector, atol=1e-5)
    assert pretrained.embed([]).shape == (0, 16)
    assert pretrained.are_cut(["a b", "a b c"], max_tokens=4) == [False, True]
    with pytest.raises(UserError, match="max_tokens=25 with a context of 24"):
        pretrained.embed(["a"], max_tokens=25)


def test_vectors_in_bfloat16_are_those_of_the_float32_parameters(pretrained):
    """For batches, kernels are cast once."""
    config = dataclasses.replace(pretrained.config, dtype="bfloat16")
    module = pretrained.module.clone(backbone=config.make())
    lm = EncoderLanguageModel(pretrained.trained._replace(config=config, module=module))
    ids = [2, *pretrained.tokenizer.encode("a b c").ids, 3, 0, 0, 0]
    tokens_1T = np.array([ids], np.int32)
    hidden = apply(lm, tokens_1T, np.where(tokens_1T == 0, -1, 0).astype(np.int32))
    assert hidden.dtype == jnp.bfloat16
    np.testing.assert_array_equal(lm.embed(["a b c"], "first")[0], hidden[0, 0].astype(np.float32))


@pytest.mark.parametrize("length", [1, 4, 5, 33, 64, 65, 128, 129, 500, 512])
def test_rows_have_few_lengths_and_little_padding(length):
    padded = _padded(length, 512)
    assert length <= padded <= max(4, length * 9 / 8 + 4)
    assert len({_padded(n, 512) for n in range(1, 513)}) == 40
    assert _padded(length, 511) <= 511 or length == 512


def test_vectors_are_written_and_compared(pretrained, tmp_path, capsys):
    directory = write(tmp_path / "model", weights_of("pretraining"))
    table, out = tmp_path / "t.csv", tmp_path / "new" / "v.npy"
    rows = [("a b", "a c", 1.5), ("abc", "d", 0.5), ("p o", "p", 3.0), ("b " * 30, "b", 2.0), ("", "c", 1.0)]
    table.write_text("".join(f"{a},{b},{score}\n" for a, b, score in rows))
    command = [f"--model={directory}", f"--text=csv:{table}#1", "--second=2"]
    embed.main([*command, "--score=3", f"--out={out}"])
    firsts, seconds = (pretrained.embed([row[i] for row in rows]) for i in (0, 1))
    np.testing.assert_allclose(np.load(out), firsts, atol=1e-5)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(firsts, seconds)]
    shown, warned = capsys.readouterr()
    wanted = scipy.stats.spearmanr(cosines, [row[2] for row in rows]).statistic
    assert f"Spearman's correlation of 5 pairs: {wanted:.4f}" in shown
    assert "1 of 5 texts: too long, only the first tokens were read" in warned
    out.unlink()
    for wrong, message in (("--score=4", "has no field '4'"), ("--score=2", "has no finite number")):
        with pytest.raises(UserError, match=message):
            embed.main([*command, wrong, f"--out={out}"])
        assert not out.exists(), "noticed before the work"


@pytest.mark.parity
@pytest.mark.slow
def test_the_published_size_equals_transformers(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.BertForPreTraining(transformers.BertConfig()).eval()
    theirs.save_pretrained(tmp_path / "model")
    words = [*WORDS[:5], *(f"w{i}" for i in range(5, 30522))]
    (tmp_path / "model" / "vocab.txt").write_text("\n".join(words))
    lm = lm_jax.load(tmp_path / "model")
    assert sum(x.size for x in jax.tree.leaves(lm.params)) == 110_106_428
    tokens = np.random.default_rng(0).integers(30522, size=(1, 24)).astype(np.int32)
    with torch.no_grad():
        made = theirs(torch.tensor(tokens).long(), output_hidden_states=True)
    hidden = apply(lm, tokens)
    np.testing.assert_allclose(hidden, made.hidden_states[-1].numpy(), atol=1e-4)
    np.testing.assert_allclose(apply(lm, hidden, method="logits"), made.prediction_logits, atol=1e-4)


KINDS = [
    "BertModel", "BertForPreTraining", "BertForMaskedLM", "BertForSequenceClassification",
    "BertForTokenClassification",
]  # fmt: skip


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 48, 4, 64), (1, 24, 1, 50)])
def test_both_directions_equal_transformers(tmp_path, kind, shape):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    layers, width, heads, inner = shape
    fields = {
        "vocab_size": 37,
        "max_position_embeddings": 24,
        "num_hidden_layers": layers,
        "hidden_size": width,
    }
    torch.manual_seed(0)
    config = transformers.BertConfig(**fields, num_attention_heads=heads, intermediate_size=inner)
    theirs = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "vocab.txt").write_text("\n".join(WORDS))
    lm = lm_jax.load(tmp_path / "theirs")
    tokens, segments, types = INPUTS
    inputs = {
        "input_ids": torch.tensor(tokens).long(),
        "attention_mask": torch.tensor(segments >= 0).long(),
        "token_type_ids": torch.tensor(types).long(),
    }
    with torch.no_grad():
        made = theirs(**inputs)
    is_text = SEGMENTS >= 0 if "Token" in kind else slice(None)
    if "Classification" in kind:
        ours = np.asarray(lm.module.apply(lm.params, *INPUTS))
        np.testing.assert_allclose(ours[is_text], made.logits.numpy()[is_text], atol=1e-4)
    elif kind == "BertModel":
        np.testing.assert_allclose(apply(lm, *INPUTS), made.last_hidden_state.numpy(), atol=1e-4)
    else:
        hidden = apply(lm, *INPUTS)
        logits = made.prediction_logits if kind == "BertForPreTraining" else made.logits
        np.testing.assert_allclose(apply(lm, hidden, method="logits"), logits.numpy(), atol=1e-4)
    export(lm, tmp_path / "ours")
    back = getattr(transformers, kind).from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        again = back(**inputs)
    for ours, wanted in zip(again.to_tuple(), made.to_tuple(), strict=True):
        np.testing.assert_array_equal(ours.numpy(), wanted.numpy())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert tokenizer("abc de").input_ids[1:-1] == lm.tokenizer.encode("abc de").ids.tolist()


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("within_word", [False, True])
def test_pseudo_log_likelihoods_are_those_of_transformers(tmp_path, within_word):
    """Salazar et al. 2020, eq. 2, one row a token, by BertForMaskedLM with random weights."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=37, max_position_embeddings=24, num_hidden_layers=2, hidden_size=16,
        num_attention_heads=2, intermediate_size=24,
    )  # fmt: skip
    theirs = transformers.BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizerFast(str(tmp_path / "model" / "vocab.txt"))
    texts = ["ab cde", "a b c d", "p", "fed abc onm k"]
    for text, made in zip(
        texts, lm_jax.load(tmp_path / "model").pseudo_score(texts, within_word), strict=True
    ):
        encoding = tokenizer(text, return_tensors="pt")
        words, expected = encoding.word_ids(), []
        for i in range(1, len(words) - 1):
            ids = encoding.input_ids.clone()
            masked = (
                [j for j, word in enumerate(words) if j >= i and word == words[i]] if within_word else [i]
            )
            ids[0, masked] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = theirs(ids, attention_mask=encoding.attention_mask).logits[0, i]
            expected.append(float(logits.log_softmax(-1)[encoding.input_ids[0, i]]))
        np.testing.assert_allclose(made.log_probs, expected, atol=1e-4)
        assert made.total == pytest.approx(sum(expected), abs=1e-4)


def test_the_tokenizer_of_a_directory_is_read(pretrained):
    assert isinstance(pretrained.tokenizer, WordPiece)
    assert huggingface.FORMS.get("bert").prefix == "bert."
