"""Tokenizers against transformers, a plain BPE, published counts, and what must hold of any text."""

import itertools
import json
import re

import numpy as np
import plain
import pytest
import tokenizers as huggingface
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from lm_jax.errors import UserError
from lm_jax.text import base as encoding
from lm_jax.text import bpe as byte_level_bpe
from lm_jax.text import load as tokenizers
from lm_jax.text.base import END

TEXT = (
    "The cat sat on the mat.\nThe cats' hat isn't 42 – naïve café, 日本 😀!\n\n  def f(x):\n\treturn x\n" * 3
)
# What is hard: combining marks, all sorts of white space, other scripts, names of special tokens.
ANY_TEXT = st.text() | st.text(
    "ab1 .'\n\r\t\0\v\f\x1c\x85\xa0\u2028\u3000é\u0301ß字😀<|endoftext|></s>", max_size=60
)


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train("bpe", [TEXT], vocab_size=300)


@pytest.fixture(scope="module")
def gpt2(shared):
    return tokenizers.load(shared / "fixtures/gpt2_tokenizer")


def make(kind, bpe):
    return bpe if kind == "bpe" else tokenizers.train(kind, [TEXT], vocab_size=300)


@pytest.mark.parametrize("kind", ["byte", "bpe", "char"])
@settings(deadline=None)
@given(text=ANY_TEXT)
def test_lossless_tokens_tile_any_text_and_give_its_bytes_back(kind, bpe, text):
    tokenizer = bpe if kind == "bpe" else tokenizers.train(kind, [text])
    data = text.encode()
    ids, spans = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert spans.dtype == np.int64
    assert spans.shape == (len(ids), 2)
    assert np.array_equal(np.append(spans[:, 0], len(data)), np.append(0, spans[:, 1]))
    assert [data[a:b] for a, b in spans] == [tokenizer.token_bytes(i) for i in ids.tolist()]
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_id not in ids


@settings(deadline=None)
@given(text=ANY_TEXT)
def test_words_lie_between_white_space_and_lines_are_sentences(text):
    tokenizer = tokenizers.train("word", [text])
    data, (ids, spans) = text.encode(), tokenizer.encode(text)
    tokens = [data[a:b] for a, b in spans]
    assert [t for t in tokens if t != b"\n"] == plain.words(data)
    assert len(ids) == len(tokens)
    assert np.all(spans[:-1, 1] <= spans[1:, 0])
    assert [t == b"\n" for t in tokens] == (ids == tokenizer.end_id).tolist()
    lines = [plain.words(line) for line in data.split(b"\n")]
    if lines[-1] == [] and len(lines) > 1 and data.endswith(b"\n"):
        lines.pop()
    assert int((ids == tokenizer.end_id).sum()) + 1 == len(lines)


@settings(deadline=None)
@given(text=ANY_TEXT)
def test_words_come_back_with_single_spaces(text):
    tokenizer = tokenizers.train("word", [text])
    reserved = {"<s>", "</s>", "<unk>", "<UNK>"}
    lines = text.encode().removesuffix(b"\n").decode().split("\n")
    words = [[w.decode() for w in plain.words(line.encode())] for line in lines]
    expected = "\n".join(" ".join("<unk>" if w in reserved else w for w in line) for line in words)
    assert tokenizer.decode(tokenizer.encode(text).ids) == expected


def test_wikitext_has_the_published_number_of_tokens(shared):
    text = (shared / "data/wikitext2-valid.txt").read_text(encoding="utf-8")
    tokenizer = tokenizers.train("word", [text])
    # Merity et al. 2016, table 1: 217,646 with a token for the end of each line, the last one the document's.
    assert len(tokenizer.encode(text).ids) + 1 == 217_646
    assert tokenizer.vocab_size - 2 == len(set(text.encode().split()) - {b"<unk>"})


def test_words_by_size_and_by_count_take_the_most_frequent():
    texts = ["b b b a a c </s> <unk>\n", "b c d"]
    assert tokenizers.train("word", texts).words == ["b", "a", "c", "d"]
    assert tokenizers.train("word", texts, vocab_size=4).words == ["b", "a"]
    by_count = tokenizers.train("word", texts, min_count=2)
    assert by_count.words == ["b", "a", "c"]
    assert by_count.encode("d </s> b").ids.tolist() == [by_count.unknown_id, by_count.unknown_id, 2]


@pytest.mark.parametrize("kind", ["word", "char"])
def test_a_vocabulary_without_room_raises_user_error(kind):
    with pytest.raises(UserError, match=r"vocab_size=1 leaves no room .* give it 3 or more, or 0"):
        tokenizers.train(kind, ["a b c"], vocab_size=1)
    assert tokenizers.train(kind, ["a b c"], vocab_size=3).vocab_size == 3


def test_characters_of_tinyshakespeare(shared):
    text = (shared / "data/tinyshakespeare.txt").read_text(encoding="utf-8")
    tokenizer = tokenizers.train("char", [text])
    assert tokenizer.characters == sorted(set(text))
    assert len(tokenizer.characters) == 65
    ids = tokenizer.encode(text).ids
    assert "".join(tokenizer.characters[i - 2] for i in ids[:5000]) == text[:5000]
    assert np.array_equal(np.bincount(ids)[2:], [text.count(c) for c in tokenizer.characters])


def test_rare_characters_are_unknown():
    tokenizer = tokenizers.train("char", ["aaabbc日"], vocab_size=4)
    ids, spans = tokenizer.encode("日ab\U0010ffff")
    assert ids.tolist() == [1, 2, 3, 1]
    assert spans.tolist() == [[0, 3], [3, 4], [4, 5], [5, 9]]
    assert tokenizer.decode(ids) == "\ufffdab\ufffd"


@pytest.mark.parity
@pytest.mark.parametrize("name", ["data/tinyshakespeare.txt", "data/wikitext2-valid.txt", None])
def test_gpt2_ids_equal_transformers(shared, gpt2, name):
    transformers = pytest.importorskip("transformers")
    oracle = transformers.GPT2Tokenizer(
        str(shared / "fixtures/gpt2_tokenizer/vocab.json"), str(shared / "fixtures/gpt2_tokenizer/merges.txt")
    )
    text = (
        (shared / name).read_text(encoding="utf-8") if name else TEXT + "\x00\xa0\u2028a\u0301 \x1c\ufeff'LL"
    )
    ids, spans = gpt2.encode(text)
    assert ids.tolist() == oracle.encode(text, add_special_tokens=False)
    assert spans[-1, 1] == len(text.encode())
    assert gpt2.decode(ids) == text


def test_gpt2_ids_equal_a_plain_implementation(shared, gpt2):
    regex = pytest.importorskip("regex")
    pattern = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    lines = (shared / "fixtures/gpt2_tokenizer/merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(lines)}
    vocab = json.loads((shared / "fixtures/gpt2_tokenizer/vocab.json").read_text(encoding="utf-8"))
    letters = dict(
        zip(sorted(vocab, key=vocab.get)[:256], [*range(33, 127), *range(161, 173), *range(174, 256)])
    )
    rest = [b for b in range(256) if b not in letters.values()]
    letters |= dict(zip(sorted(vocab, key=vocab.get)[len(letters) : 256], rest))
    letter_of = {byte: letter for letter, byte in letters.items()}

    def encode(word):
        parts = [letter_of[b] for b in word.encode()]
        while pairs := [p for p in itertools.pairwise(parts) if p in ranks]:
            best = min(pairs, key=ranks.get)
            i = list(itertools.pairwise(parts)).index(best)
            parts[i : i + 2] = ["".join(best)]
        return [vocab[p] for p in parts]

    expected = [i for word in pattern.findall(TEXT) for i in encode(word)]
    assert gpt2.encode(TEXT).ids.tolist() == expected
    assert (gpt2.vocab_size, gpt2.end_id) == (50257, 50256)


def test_gpt2_is_read_from_its_published_json_which_names_no_model_type(shared, gpt2, tmp_path):
    folder = shared / "fixtures/gpt2_tokenizer"
    merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    end = {"id": 50256, "content": END, "special": True}
    end |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    published = {
        "version": "1.0",
        "added_tokens": [end],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {"unk_token": "", "continuing_subword_prefix": "", "vocab": vocab, "merges": merges},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(published), encoding="utf-8")
    tokenizer = tokenizers.load(tmp_path)
    text = TEXT + "<|endoftext|>"
    assert tokenizer.encode(text).ids.tolist() == gpt2.encode(text).ids.tolist()
    assert (tokenizer.vocab_size, tokenizer.end_id) == (50257, 50256)


@settings(deadline=None, max_examples=300)
@given(text=st.text("a1.' \n\n\n\r\t\x1c\x85\xa0\u2028\u3000\u0301\u200b字") | ANY_TEXT)
def test_no_token_reaches_across_where_a_text_is_cut(text):
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_PIECE", 2)
        pieces = list(encoding.cut_where(text, byte_level_bpe._CUT))
    assert "".join(pieces) == text
    assert [part for piece in pieces for part, _ in split(piece)] == [part for part, _ in split(text)]


def test_long_texts_are_cut_and_put_together_again(bpe):
    text = "word\n" * 100_000
    assert len(list(encoding.cut_where(text, byte_level_bpe._CUT))) > 2
    ids = [e.ids for e in bpe.encode_batch(["a", text, "", "b"])]
    assert ids[1].tolist() == bpe._library.encode(text).ids
    assert [bpe.decode(i) for i in (ids[0], ids[2], ids[3])] == ["a", "", "b"]


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_the_name_of_a_special_token_is_plain_text(kind, bpe):
    text = "a<|endoftext|>b<unk></s>"
    tokenizer = bpe if kind == "bpe" else tokenizers.train(kind, [text])
    ids = tokenizer.encode(text).ids
    assert not {tokenizer.end_id, tokenizer.unknown_id} & set(ids.tolist())
    assert tokenizer.decode([tokenizer.end_id, *ids, tokenizer.end_id]) == text


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_saved_and_loaded_it_is_the_same(kind, bpe, tmp_path):
    tokenizer = make(kind, bpe)
    tokenizer.save(tmp_path / "new")
    again = tokenizers.load(tmp_path / "new")
    assert (again.kind, again.vocab_size, again.end_id, again.unknown_id, again.lossless) == (
        tokenizer.kind, tokenizer.vocab_size, tokenizer.end_id, tokenizer.unknown_id, tokenizer.lossless,
    )  # fmt: skip
    assert again.encode("The mat?<|endoftext|>\n").ids.tolist() == (
        tokenizer.encode("The mat?<|endoftext|>\n").ids.tolist()
    )
    assert again.fingerprint() == tokenizer.fingerprint()
    assert tokenizers.train(str(tmp_path / "new"), []).fingerprint() == tokenizer.fingerprint()
    if kind != "byte":
        assert (
            tokenizers.train(kind, ["another text"], vocab_size=261).fingerprint() != tokenizer.fingerprint()
        )


def test_a_saved_bpe_is_a_file_that_the_library_reads(bpe, tmp_path):
    bpe.save(tmp_path)
    library = huggingface.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode(TEXT).ids == bpe.encode(TEXT).ids.tolist()


def test_special_tokens_are_known_by_name(bpe):
    assert bpe.special_ids == {"eos": bpe.end_id}
    expected = {"byte": {"eos": 256}, "char": {"eos": 0, "unk": 1}, "word": {"eos": 0, "unk": 1}}
    for kind, special_ids in expected.items():
        assert tokenizers.train(kind, [TEXT]).special_ids == special_ids
    assert bpe.require_special("eos") == bpe.end_id
    with pytest.raises(
        UserError, match=r"the bpe tokenizer has no 'mask' token \(it has eos\); set data.tok"
    ):
        bpe.require_special("mask")


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_words_begin_with_white_space(kind, bpe):
    text = "The cat  sat on\tthe mat.\nThe caf\u00e9"
    tokenizer = bpe if kind == "bpe" else tokenizers.train(kind, [text])
    ids = tokenizer.encode(text).ids
    starts = tokenizer.starts_word[ids]
    words = [tokenizer.decode(word) for word in np.split(ids, np.flatnonzero(starts))]
    assert words == re.findall(r"^\S+|\s\S*", text)
    assert tokenizer.starts_word[tokenizer.end_id]
    assert tokenizer.starts_word.shape == (tokenizer.vocab_size,)


def test_every_token_is_a_word_to_a_word_tokenizer():
    assert tokenizers.train("word", [TEXT]).starts_word.all()


BART = ("<s>", "<pad>", "</s>", "<unk>")


def write_bart(directory, bpe):
    """A vocabulary in BART's form: four special tokens in front, the mask at the end, no mark of either."""
    model = bpe._definition()["model"]
    learned = sorted((token for token in model["vocab"] if token != END), key=model["vocab"].get)
    vocab = {token: number for number, token in enumerate([*BART, *learned, "<mask>"])}
    (directory / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = [" ".join(merge) for merge in model["merges"]]
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return vocab


def test_barts_special_tokens_are_found_by_name_and_decode_to_nothing(bpe, tmp_path):
    vocab = write_bart(tmp_path, bpe)
    tokenizer = tokenizers.load(tmp_path)
    names = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"}
    assert tokenizer.special_ids == {n: vocab[t] for n, t in (names | {"mask": "<mask>"}).items()}
    assert tokenizer.end_id == vocab["</s>"]
    text = "a cat<mask></s>"
    ids = tokenizer.encode(text).ids.tolist()
    assert not set(ids) & set(tokenizer.special_ids.values())
    assert tokenizer.decode([0, *ids, vocab["<mask>"], 2, 1]) == text
    assert len(ids) == len(bpe.encode(text).ids)


def test_settings_and_added_tokens_of_a_foreign_file_do_not_change_the_text(bpe, tmp_path):
    bpe.save(tmp_path)
    library = huggingface.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.enable_truncation(3)
    library.enable_padding(length=50)
    library.add_tokens(["\n\n  "])
    library.save(str(tmp_path / "foreign.json"))
    foreign = tokenizers.load(tmp_path / "foreign.json")
    ids, spans = foreign.encode(TEXT)
    assert foreign.vocab_size - 1 in ids
    assert foreign.decode(ids) == TEXT
    assert spans[-1, 1] == len(TEXT.encode())


def test_an_end_is_added_where_a_file_names_none(tmp_path):
    library = huggingface.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = huggingface.trainers.BpeTrainer(initial_alphabet=alphabet, vocab_size=260, show_progress=False)
    library.train_from_iterator([TEXT], trainer)
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = tokenizers.load(tmp_path)
    assert (tokenizer.end_id, tokenizer.vocab_size) == (260, 261)


def test_training_twice_gives_the_same_tokenizer(bpe):
    assert tokenizers.train("bpe", iter([TEXT]), vocab_size=300).fingerprint() == bpe.fingerprint()


@pytest.mark.parametrize("kind", tokenizers.KINDS)
def test_a_lone_surrogate_raises_user_error(kind, bpe):
    with pytest.raises(UserError, match=r"lone surrogate, U\+D83D, at character 2"):
        make(kind, bpe).encode("ab\ud83d")
    if kind != "byte":  # which learns nothing from a text
        with pytest.raises(UserError, match="lone surrogate"):
            tokenizers.train(kind, ["\ud83d"], vocab_size=300)


@pytest.mark.parametrize("kind", tokenizers.KINDS)
@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_an_id_outside_the_vocabulary_raises_user_error(kind, bpe, token_id):
    with pytest.raises(UserError, match="outside the vocabulary"):
        make(kind, bpe).decode([token_id])


def normalizing(library):
    library.normalizer = normalizers.NFC()


def with_prefix_space(library):
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def by_white_space(library):
    library.pre_tokenizer = pre_tokenizers.Whitespace()


def without_bytes(library):
    library.model = models.BPE(vocab={"a": 0}, merges=[])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (normalizing, "normalizes"),
        (with_prefix_space, "adds a space"),
        (by_white_space, "not a byte-level BPE"),
        (without_bytes, "no token for 255 of the 256 bytes"),
    ],
)
def test_a_tokenizer_that_would_not_give_the_bytes_back_is_refused(bpe, tmp_path, change, message):
    bpe.save(tmp_path)
    path = str(tmp_path / "tokenizer.json")
    library = huggingface.Tokenizer.from_file(path)
    change(library)
    library.save(path)
    with pytest.raises(UserError, match=message):
        tokenizers.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an object"),
        ("{}", "has no field 'model'"),
        ('{"kind": "word"}', "has no field 'words'"),
    ],
)
def test_a_damaged_file_raises_user_error(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=message):
        tokenizers.load(tmp_path)


def test_a_tokenizer_that_cannot_be_made_raises_user_error(tmp_path):
    with pytest.raises(UserError, match="did you mean byte"):
        tokenizers.train("bytes", [])
    with pytest.raises(UserError, match="nor a file"):
        tokenizers.train("bpe:/no/such/file", [])
    with pytest.raises(UserError, match="no tokenizer in"):
        tokenizers.load(tmp_path)
    with pytest.raises(UserError, match="vocab_size=0 is too small"):
        tokenizers.train("bpe", ["a"], vocab_size=0)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match=r"vocab.json has no tokens"):
        tokenizers.load(tmp_path)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
@pytest.mark.parametrize("run", ["a", "ab", " ", "\n", "."])
def test_long_runs_are_cut_to_learn_from_and_encoded_whole(kind, run):
    text = f"some words {run * 100_000} and others\n"
    if kind == "wordpiece" and run in " \n.":  # words of no, or of one character
        trained = tokenizers.train(kind, [text], 300)
    else:
        with pytest.warns(UserWarning, match=r"1 runs of more than 1,000 characters .* were cut"):
            trained = tokenizers.train(kind, [text], 300)
    ids, spans = trained.encode(text)
    if kind == "bpe":
        assert trained.decode(ids) == text
        assert spans[-1, 1] == len(text)


def test_only_long_runs_are_cut():
    texts = ["a b" * 999, "x" * 1000, " " * 1000, "", f"b {'x' * 2500} c", "y" * 1001 + " " * 2000 + "z"]
    cutter = encoding.RunCutter()
    pieces = [list(cutter.cut(text)) for text in texts]
    assert ["".join(parts) for parts in pieces] == texts
    assert [len(parts) for parts in pieces] == [1, 1, 1, 1, 3, 3]
    assert pieces[4] == ["b " + "x" * 1000, "x" * 1000, "x" * 500 + " c"]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("version",), 5, r"in the field 'version'"),
        (("truncation",), 5, r"in the field 'truncation'"),
        (("padding",), "x", r"in the field 'padding'"),
        (("normalizer",), {"type": "x"}, r"in the field 'normalizer'"),
        (("pre_tokenizer",), 7, r"in the field 'pre_tokenizer'"),
        (("pre_tokenizer", "use_regex"), 7, r"in the field 'pre_tokenizer.use_regex'"),
        (("pre_tokenizer",), None, "pre-tokenizer none"),
        (("pre_tokenizer",), {"type": "Sequence", "pretokenizers": []}, "pre-tokenizer none"),
        (("model",), None, "model=None is not an object"),
        (("model", "dropout"), {}, r"in the field 'model.dropout'"),
        (("model", "continuing_subword_prefix"), "##", r"model.continuing_subword_prefix is '##'; give"),
        (("model", "merges"), 7, r"in the field 'model'"),
        (("model", "vocab"), [], r"model: vocab=\(a list\) is not an object"),
        (("model", "vocab", "a"), "1", r"model, vocab: a='1' is not a whole number"),
        (("model", "vocab", "a"), -1, r"has \d+ tokens and the id -1"),
        (("model", "vocab", "a"), 2**32 - 1, r"has \d+ tokens and the id 4294967295"),
        (("model", "vocab", "a"), 10**400, r"has \d+ tokens and the id 1000"),
        (
            ("model", "type"),
            "Unigram",
            r"is a Unigram tokenizer \(SentencePiece's\), which is not offered; train",
        ),
        (("model", "type"), "WordLevel", r"is a WordLevel tokenizer, which is not offered"),
        (("added_tokens",), {}, r"added_tokens=\(an object\) is not a list"),
        (("added_tokens", 0), "x", r"added_tokens\[0\] is not an object"),
        (("added_tokens", 0, "id"), 10**9, r"has \d+ tokens and the id 1000000000"),
        (("added_tokens", 0, "content"), None, r"added_tokens\[0\]: content=None is not a text"),
    ],
)
def test_a_wrong_field_is_named_before_the_library_allocates(bpe, tmp_path, place, value, message):
    bpe.save(tmp_path)
    definition = json.loads((tmp_path / "tokenizer.json").read_text())
    part = definition
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(UserError, match=message) as caught:
        tokenizers.load(tmp_path)
    assert "tokenizer.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "tokenizer.json",
            {"kind": "char", "characters": ["a", "bc"]},
            r"characters\[1\] is not a character",
        ),
        (
            "tokenizer.json",
            {"kind": "char", "characters": ["a", "\ud800"]},
            r"characters\[1\] is not a character",
        ),
        ("tokenizer.json", {"kind": "char", "characters": ["a", "a"]}, "characters has 'a' twice"),
        ("tokenizer.json", {"kind": "char", "characters": "ab"}, "characters='ab' is not a list"),
        ("tokenizer.json", {"kind": "word", "words": ["a", 1]}, r"words\[1\] is not a text"),
        ("tokenizer.json", {"kind": "word", "words": ["\ud800"]}, r"words\[0\] has half a character"),
        ("vocab.json", ["a"], "vocab.json is not an object"),
        ("vocab.json", {"a": 1.5}, "vocab.json: a=1.5 is not a whole number"),
        ("vocab.json", {"a": 2**40}, "vocab.json has 1 tokens and the id 1099511627776"),
        ("spiece.model", 0, "spiece.model is a SentencePiece model, which is not offered; train one by"),
        (
            "tokenizer.model",
            0,
            "tokenizer.model is a SentencePiece model, which is not offered; train one by",
        ),
        ("gpt2.tiktoken", 0, "gpt2.tiktoken is a vocabulary of tiktoken, which is not offered; give the"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(json.dumps(content))
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UserError, match=message):
            tokenizers.load(path)


def test_a_pattern_that_takes_too_many_steps_is_an_error(bpe, tmp_path):
    bpe.save(tmp_path)
    library = huggingface.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    split = pre_tokenizers.Split(huggingface.Regex("(a+)+$"), "isolated")
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([split, last])
    library.save(str(tmp_path / "tokenizer.json"))
    loaded = tokenizers.load(tmp_path)
    assert loaded.decode(loaded.encode("aab").ids) == "aab"
    with pytest.raises(UserError, match=r"cannot encode the text: .*; look at the patterns"):
        loaded.encode("a" * 5000 + "b")
