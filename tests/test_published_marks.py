"""Published GPT-2s with tokens of their own for the beginning and the end of texts."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny_gpt
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

import lm_jax
from lm_jax.decoding.settings import History, edit
from lm_jax.errors import UserError
from lm_jax.export import export
from lm_jax.language_models.options import Request
from lm_jax.metrics import likelihood
from lm_jax.pretrained import huggingface, marks
from lm_jax.pretrained.huggingface import Pretrained
from lm_jax.text.bpe import ByteLevelBPE

SPECIAL = ["[EOS]", "<s>", "<|im_end|>"]  # ids 0, 1 and 2
TEXT = "the cat sat on the mat and the cat ran"
NO_IDS = {"bos_token_id": None, "eos_token_id": None}


def library():
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([TEXT] * 3, trainer)
    return made


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A directory as transformers writes it, without any file that names its marks."""
    directory = tmp_path_factory.mktemp("published") / "model"
    tokenizer = ByteLevelBPE(library(), special={"eos": "[EOS]"})
    model, params = tiny_gpt.tiny(vocab_size=tokenizer.vocab_size)
    huggingface.write(directory, Pretrained(model.config, params, tokenizer))
    (directory / "tokenizer_config.json").unlink()
    return directory


def copy(published, directory, **files):
    """The directory with other files; of config.json only the given fields differ."""
    shutil.copytree(published, directory)
    config = json.loads((published / "config.json").read_text())
    files["config"] = config | NO_IDS | files.get("config", {})
    for name, values in files.items():
        (directory / f"{name}.json").write_text(json.dumps(values))
    return directory


EOS, BOS, OTHER = 0, 1, 2
WAYS = {
    "ids in config.json": ({"config": {"bos_token_id": BOS, "eos_token_id": EOS}}, BOS, [EOS]),
    "a list in generation_config.json": (
        {
            "config": {"eos_token_id": EOS},
            "generation_config": {"bos_token_id": BOS, "eos_token_id": [OTHER, EOS]},
        },
        BOS,
        [EOS, OTHER],
    ),
    "texts in tokenizer_config.json": (
        {"tokenizer_config": {"bos_token": "<s>", "eos_token": "[EOS]"}}, BOS, [EOS]
    ),
    "objects in special_tokens_map.json": (
        {"special_tokens_map": {"bos_token": {"content": "<s>"}, "eos_token": {"content": "<|im_end|>"}}},
        BOS,
        [OTHER],
    ),
    "ids of another vocabulary": (
        {
            "config": {"bos_token_id": 50256, "eos_token_id": 50256},
            "tokenizer_config": {"eos_token": "[EOS]"},
        },
        EOS,
        [EOS],
    ),
    "ids of ordinary tokens": (
        {"config": {"bos_token_id": 100, "eos_token_id": 100}, "tokenizer_config": {"eos_token": "[EOS]"}},
        EOS,
        [EOS],
    ),
    "no beginning": ({"config": {"eos_token_id": OTHER}}, OTHER, [OTHER]),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_marks_are_found(published, tmp_path, way):
    files, begin, ends = WAYS[way]
    directory = copy(published, tmp_path / "model", **files)
    tokenizer = huggingface._read_tokenizer(directory, is_causal=True)
    assert (tokenizer.begin_id, tokenizer.end_id, *tokenizer.other_end_ids) == (begin, *ends)
    assert tokenizer.begin_text == SPECIAL[begin]
    assert tokenizer.vocab_size == 270, "no token is added"


def test_scores_follow_the_beginning_and_pay_for_the_end(published, tmp_path):
    directory = copy(published, tmp_path / "model", config={"bos_token_id": BOS, "eos_token_id": OTHER})
    lm = lm_jax.load(directory)
    [scores] = lm.score(["the cat"])
    stream = np.concatenate([[BOS], lm.tokenizer.encode("the cat").ids, [OTHER]])
    logits = jax.jit(lm.module.apply)(lm.params, stream[None, :-1])[0]
    expected = likelihood.token_log_probs(logits, stream[None, 1:])[0]
    np.testing.assert_allclose(scores.log_probs, expected, atol=1e-5)
    assert scores.conditioned_on == "<s>"
    assert scores.complete

    # Texts begin with the one and end with the other when they are written, too.
    [made] = lm.generate(["the"], 4, forced=[5, OTHER, 7])
    assert made.tokens.tolist() == [5, OTHER]
    assert made.text == lm.tokenizer.decode([5])
    stream = np.concatenate([[BOS], lm.tokenizer.encode("the").ids])
    logits = jax.jit(lm.module.apply)(lm.params, stream[None])[0]
    [greedy] = lm.generate(["the"], 1, temperature=0)
    assert greedy.tokens[0] == logits[0, -1].argmax()


def test_each_token_of_a_list_ends_a_text(published, tmp_path):
    directory = copy(published, tmp_path / "model", generation_config={"eos_token_id": [EOS, OTHER]})
    tokenizer = huggingface._read_tokenizer(directory, is_causal=True)
    request = Request(tokenizer, ["a"], 9, {})
    assert request.limits.end_id == EOS
    assert request.limits.stop(0, np.array([5, 6])) is None
    assert request.limits.stop(0, np.array([5, OTHER, 7])) == 2
    assert request.text(0, np.array([5, OTHER])) == tokenizer.decode_bytes([5])
    logits = np.zeros((1, 6), np.float32)
    none = np.zeros((1, 0), np.int32)
    edited = edit(
        logits,
        Request(tokenizer, ["a"], 9, {"min_tokens": 1}).sampling,
        History(none, *[np.ones(1)] * 2),
        EOS,
    )
    assert np.isneginf(edited[0]).tolist() == [True, False, True, False, False, False], "neither may be first"
    stopping = Request(tokenizer, ["a"], 9, {"stop": [tokenizer.decode([5])]})
    assert stopping.limits.stop(0, np.array([5, OTHER, 7])) == 1


def test_tokens_that_were_added_have_their_ids(published, tmp_path):
    directory = copy(published, tmp_path / "model")
    (directory / "tokenizer.json").unlink()
    made = library()
    made.model.save(str(directory))
    size = made.get_vocab_size()
    (directory / "added_tokens.json").write_text(json.dumps({"covid": size + 1, "<sep>": size}))
    tokenizer = huggingface._read_tokenizer(directory, is_causal=True)
    assert tokenizer.encode("covid").ids.tolist() == [size + 1]
    assert b"<sep>" not in [tokenizer.token_bytes(size), tokenizer.decode_bytes([size])]
    assert tokenizer.decode(tokenizer.encode("a <sep> covid").ids) == "a <sep> covid"
    for added in ([], {"covid": "1"}, {"covid": size + 5}, {"\ud800": size}):
        (directory / "added_tokens.json").write_text(json.dumps(added))
        with pytest.raises(UserError, match=r"added_tokens\.json"):
            huggingface._read_tokenizer(directory, is_causal=True)


def test_export_keeps_the_marks(published, tmp_path):
    config = {"bos_token_id": BOS, "eos_token_id": [OTHER, EOS]}
    lm = lm_jax.load(copy(published, tmp_path / "model", config=config))
    export(lm, tmp_path / "exported")
    written = json.loads((tmp_path / "exported" / "tokenizer_config.json").read_text())
    assert (written["bos_token"], written["eos_token"]) == ("<s>", "<|im_end|>")
    back = huggingface._read_tokenizer(tmp_path / "exported", is_causal=True)
    assert (back.begin_id, back.end_id, back.other_end_ids) == (BOS, OTHER, (EOS,))


def test_lines_of_a_vocabulary_end_at_newlines_alone(tmp_path):
    """As the tokenizer's own reader counts them: others would give each later token another id."""
    lines = ["[PAD]", "\u2028", "\x85", "a\x0bb", "[UNK]", "[SEP]", "end"]
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = marks.vocabulary(tmp_path)
    assert (found["[UNK]"], found["[SEP]"], found["end"]) == (4, 5, 6)


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("generation_config", [], "generation_config.json is not an object"),
        ("generation_config", {"eos_token_id": "2"}, r"generation_config.json: eos_token_id='2' is not a"),
        ("generation_config", {"eos_token_id": [2, None]}, "eos_token_id is not a list of whole numbers"),
        ("config", {"bos_token_id": 1.0}, "/config.json: bos_token_id=1.0 is not a"),
        ("tokenizer_config", {"eos_token": 3}, "tokenizer_config.json: eos_token=3 is not a text"),
        (
            "special_tokens_map",
            {"bos_token": {"content": 3}},
            "special_tokens_map.json, bos_token: content=3 is not",
        ),
    ],
)
def test_damaged_files_are_one_line_errors(published, tmp_path, file, values, said):
    directory = copy(published, tmp_path / "model", **{file: values})
    with pytest.raises(UserError, match=said):
        marks.read(directory, {"a": 0})
