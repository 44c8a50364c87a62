"""WordPiece against a plain implementation, transformers, and what must hold of any text."""

import json
import pathlib
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import tokenizers as huggingface
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from lm_jax.errors import UserError
from lm_jax.text import base as encoding
from lm_jax.text import load as tokenizers
from lm_jax.text import wordpiece
from lm_jax.text.wordpiece import WordPiece

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden/wordpiece.json").read_text(encoding="utf-8"))
KINDS = {"cased": False, "uncased": True}
# What is hard: accents on their own, white space and control characters of all sorts, Hangul, CJK, names.
TEXT = st.text(
    "abceÉé\u0301ÄßŒ中文\ud55c.,!-[]_$^ \n\t\r\x00\x1c\x85\u200d\ufffd\xa0\u2028\u3000’😀"
) | st.text("the cat sat UNwanted ##e[SEP] \n")


def write(directory, vocabulary=GOLDEN["vocabulary"], **settings):
    (directory / "vocab.txt").write_text("".join(f"{t}\n" for t in vocabulary), encoding="utf-8")
    if settings:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind, tmp_path_factory):
    return tokenizers.load(write(tmp_path_factory.mktemp(kind), do_lower_case=KINDS[kind]))


def normalized(text, uncased):
    """BERT's cleaning, character by character as its published code has it."""
    text = "".join(
        " " if c in " \t\n\r" or unicodedata.category(c) in ("Zs", "Zl", "Zp") else c
        for c in text
        if c in "\t\n\r" or not (c == "\ufffd" or unicodedata.category(c).startswith("C"))
    )
    if uncased:
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        text = "".join(c.lower() for c in text)
    return text


def words_of(text):
    word = ""
    for c in text:
        is_word_of_its_own = (
            "\u4e00" <= c <= "\u9fff"
            or unicodedata.category(c).startswith("P")
            or (c.isascii() and not c.isalnum() and not c.isspace())
        )
        if c == " " or is_word_of_its_own:
            yield from filter(None, [word, c.strip()])
            word = ""
        else:
            word += c
    yield from filter(None, [word])


def longest_pieces(word, vocabulary):
    ids, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        end = max(
            (e for e in range(start + 1, len(word) + 1) if prefix + word[start:e] in vocabulary), default=0
        )
        if not end or len(word) > 100:
            return [vocabulary["[UNK]"]]
        ids.append(vocabulary[prefix + word[start:end]])
        start = end
    return ids


@settings(deadline=None, max_examples=300)
@given(text=TEXT)
def test_ids_equal_a_plain_implementation(kind, tokenizer, text):
    vocabulary = {token: number for number, token in enumerate(GOLDEN["vocabulary"])}
    words = words_of(normalized(text, KINDS[kind]))
    assert tokenizer.encode(text).ids.tolist() == [i for w in words for i in longest_pieces(w, vocabulary)]


def test_ids_equal_those_that_transformers_gave(kind, tokenizer):
    assert [ids.tolist() for ids in tokenizer.encode_ids(GOLDEN["texts"])] == GOLDEN["ids"][kind]
    assert len({i for ids in GOLDEN["ids"][kind] for i in ids}) > 50


@pytest.mark.parity
def test_ids_equal_transformers(kind, shared):
    transformers = pytest.importorskip("transformers")
    text = (shared / "data/wikitext2-valid.txt").read_text(encoding="utf-8")
    spec = "wordpiece-uncased" if KINDS[kind] else "wordpiece"
    tokenizer = tokenizers.train(spec, [text], vocab_size=2000)
    oracle = transformers.BertTokenizer(vocab=tokenizer._library.get_vocab(), do_lower_case=KINDS[kind])
    play = (shared / "data/tinyshakespeare.txt").read_text(encoding="utf-8")[:200_000]
    for some in (text[:500_000], play):
        assert tokenizer.encode(some).ids.tolist() == oracle(some, add_special_tokens=False)["input_ids"]


@settings(deadline=None, max_examples=300)
@given(text=TEXT)
def test_spans_are_the_bytes_that_pieces_were_made_of(kind, tokenizer, text):
    data, (ids, spans) = text.encode(), tokenizer.encode(text)
    assert spans.dtype == np.int64
    assert spans.shape == (len(ids), 2)
    assert np.all(spans[:, 0] <= spans[:, 1])
    assert np.all(spans[:-1, 1] <= spans[1:, 0])
    for token_id, (first, last) in zip(ids.tolist(), spans.tolist()):
        part = data[first:last].decode()
        if token_id != tokenizer.unknown_id and "\ud55c" not in text:
            assert normalized(part, KINDS[kind]).encode() == tokenizer.token_bytes(token_id)
    if not KINDS[kind]:  # all that is printed is in some span
        left = bytes(b for i, b in enumerate(data) if not ((spans[:, 0] <= i) & (i < spans[:, 1])).any())
        assert not normalized(left.decode(), False).strip()


@given(text=st.text() | st.text("a\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff"))
def test_edges_of_characters_are_those_of_their_bytes(text):
    assert np.diff(wordpiece._byte_edges(text)).tolist() == [len(c.encode()) for c in text]


def test_the_first_token_of_a_character_spans_all_of_it(tmp_path):
    tokenizer = tokenizers.load(write(tmp_path, do_lower_case=True))
    ids, spans = tokenizer.encode("a \ud55c é")
    assert tokenizer.decode(ids) == "a \u1112\u1161\u11ab e"
    assert spans.tolist() == [[0, 1], [2, 5], [5, 5], [5, 5], [6, 8]]


@settings(deadline=None, max_examples=200)
@given(text=TEXT)
def test_no_token_reaches_across_where_a_text_is_cut(tokenizer, text):
    whole = tokenizer.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_PIECE", 2)
        assert len(tokenizer._pieces("a\n" * 9)) > 2
        cut = tokenizer.encode(text)
    assert cut.ids.tolist() == whole.ids.tolist()
    assert cut.spans.tolist() == whole.spans.tolist()


@given(text=TEXT)
@settings(deadline=None, max_examples=50)
def test_a_word_is_a_piece_and_those_that_continue_it(kind, tokenizer, text):
    is_start = tokenizer.starts_word[tokenizer.encode(text).ids]
    words = words_of(normalized(text, KINDS[kind]))
    vocabulary = {token: i for i, token in enumerate(GOLDEN["vocabulary"])}
    sizes = [len(longest_pieces(word, vocabulary)) for word in words]
    assert is_start.tolist() == [place == 0 for size in sizes for place in range(size)]
    assert tokenizer.starts_word[list(tokenizer.special_ids.values())].all()


def test_wordpiece_is_lossy_and_says_so(tokenizer):
    assert not tokenizer.lossless
    assert tokenizer.token_bytes(tokenizer.end_id) == b""
    assert tokenizer.decode([tokenizer.end_id, *tokenizer.encode("the cat, sat").ids]) == "the cat , sat"
    assert tokenizer.decode(tokenizer.encode("tokenization 😀").ids) == "tokenization [UNK]"


def test_the_name_of_a_special_token_is_plain_text(tokenizer):
    ids = tokenizer.encode("a [SEP] [MASK] [UNK]").ids.tolist()
    assert not set(tokenizer.special_ids.values()) - {tokenizer.unknown_id} & set(ids)
    assert ids.count(tokenizer.unknown_id) <= 3
    assert tokenizer.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert tokenizer.require_special("mask") == 4


LINES = "The cat sat on a mat. A dog ate it! Naïve cafés, 日本; ab ba ab ba cd dc xyz\n"


def test_learned_pieces_build_every_word_of_the_text():
    for spec, uncased in {"wordpiece": False, "wordpiece-uncased": True}.items():
        tokenizer = tokenizers.train(spec, iter([LINES, LINES * 3]), vocab_size=90)
        assert isinstance(tokenizer, WordPiece)
        assert tokenizer.lowercase is uncased
        assert tokenizer.vocab_size <= 90
        ids = tokenizer.encode(LINES).ids
        assert tokenizer.unknown_id not in ids
        assert tokenizer.decode(ids).split() == list(words_of(normalized(LINES, uncased)))
        more = tokenizers.train(spec, [LINES], vocab_size=200)
        assert len(more.encode(LINES).ids) == len(list(words_of(normalized(LINES, uncased))))


def test_learning_gives_the_same_vocabulary_in_every_process():
    program = (
        "from lm_jax.text import load as tokenizers\n"
        f"print(tokenizers.train('wordpiece', [{LINES!r}], vocab_size=90).fingerprint())"
    )
    command = [sys.executable, "-c", program]
    root = pathlib.Path(__file__).parents[1]
    found = {
        subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout for _ in range(3)
    }
    assert len(found) == 1


def test_rare_characters_are_left_out():
    tokenizer = tokenizers.train("wordpiece", ["ab ab ab aQ\n"], vocab_size=50, min_count=2)
    assert tokenizer.encode("ab aQ").ids.tolist() == [tokenizer.encode("ab").ids[0], tokenizer.unknown_id]
    with pytest.raises(UserError, match=r"vocab_size=8 is too small .* 3 characters; give it 10 or more"):
        tokenizers.train("wordpiece", ["ab aQ\n"], vocab_size=8)


def test_case_is_dropped_where_the_vocabulary_has_none(tmp_path):
    assert not tokenizers.load(write(tmp_path)).lowercase
    small = [token for token in GOLDEN["vocabulary"] if token.startswith("[") or token == token.lower()]
    uncased = tokenizers.load(write(tmp_path, small) / "vocab.txt")
    assert uncased.lowercase
    assert uncased.encode("CAT").ids.tolist() == [small.index("cat")]
    accents = tokenizers.load(write(tmp_path, small, do_lower_case=True, strip_accents=False))
    assert accents.encode("CAFÉ").ids.tolist() == [small.index("café")]


def test_settings_that_are_null_are_defaults_and_wrong_ones_are_named(tmp_path):
    null = dict.fromkeys(("do_lower_case", "strip_accents", "tokenize_chinese_chars"))
    unset = tokenizers.load(write(tmp_path))
    assert tokenizers.load(write(tmp_path, **null)).fingerprint() == unset.fingerprint()
    with pytest.raises(UserError, match=r"tokenizer_config.json: do_lower_case='no' is not true or false"):
        tokenizers.load(write(tmp_path, do_lower_case="no"))


@pytest.mark.parity
def test_berts_own_json_and_vocab_txt_are_the_same_tokenizer(tmp_path, kind, tokenizer):
    transformers = pytest.importorskip("transformers")
    numbers = {token: number for number, token in enumerate(GOLDEN["vocabulary"])}
    transformers.BertTokenizer(vocab=numbers, do_lower_case=KINDS[kind]).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    loaded = tokenizers.train(f"wordpiece:{tmp_path}", [])
    assert [i.tolist() for i in loaded.encode_ids(GOLDEN["texts"])] == GOLDEN["ids"][kind]
    assert (loaded.end_id, loaded.lowercase) == (tokenizer.end_id, KINDS[kind])


def with_long_words(library):
    library.model.max_input_chars_per_word = 10_000


def without_end(library):
    library.model = huggingface.models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")


def by_white_space(library):
    library.pre_tokenizer = pre_tokenizers.Whitespace()


def normalizing_otherwise(library):
    library.normalizer = normalizers.NFC()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_long_words, "has max_input_chars_per_word=10000; set it to 1000 or less"),
        (without_end, r"has no \[SEP\]; give the vocabulary of a BERT"),
        (by_white_space, r"is not BERT's WordPiece \(WordPiece, BertNormalizer, Whitespace\)"),
        (normalizing_otherwise, r"is not BERT's WordPiece \(WordPiece, NFC, BertPreTokenizer\)"),
    ],
)
def test_another_kind_of_wordpiece_is_refused(tmp_path, change, message):
    library = huggingface.Tokenizer(huggingface.models.WordPiece({"[UNK]": 0, "[SEP]": 1}, unk_token="[UNK]"))
    library.normalizer, library.pre_tokenizer = (
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    )
    change(library)
    library.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=message):
        tokenizers.load(tmp_path)


def test_a_malformed_vocabulary_raises_user_error(tmp_path):
    (tmp_path / "vocab.txt").write_text("some\ntext\n")
    with pytest.raises(UserError, match=r"vocab.txt has no \[SEP\]"):
        tokenizers.load(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match=r"vocab.txt is not UTF-8"):
        tokenizers.load(tmp_path)
