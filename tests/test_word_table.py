"""Words and their ids found by numpy, against a pattern and dictionaries."""

import collections
import itertools

import numpy as np
import plain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax.text import word_table
from lm_jax.text.simple import WordTokenizer
from lm_jax.text.word_table import WordTable, look_up, split

# All white space, NUL, and words on both sides of 8 and 16 bytes that differ in their last bytes only.
WORDS = [
    "a",
    "b",
    "é",
    "語",
    "\v",
    "a\fb",
    "\x1c",
    "\x85",
    "\xa0",
    "sevenee",
    "eight88",
    "sixteen_bytes__",
    "<s>",
    "</s>",
]
TEXTS = st.lists(st.sampled_from([*WORDS, "<unk>", *" \t\n\r\0"]), max_size=60).map("".join)
BYTES = st.lists(st.sampled_from([b"\xff", b"\0", b"\x80", b"seven77", b" ", b"\v", b"\n"]), max_size=60).map(
    b"".join
)


def tokens_of(text: bytes) -> list[bytes]:
    """The words and newlines of a text, the plain way."""
    lines = [plain.words(line) for line in text.split(b"\n")]
    return [*itertools.chain(*([*line, b"\n"] for line in lines[:-1])), *lines[-1]]


def ids_of(words: list[str], text: str) -> list[int]:
    """The ids that `WordTokenizer` defines, the plain way."""
    id_of = {word.encode(): i for i, word in enumerate(words, 2)} | {b"\n": 0}
    return [id_of.get(word, 1) for word in tokens_of(text.encode().removesuffix(b"\n"))]


@settings(deadline=None)
@given(st.one_of(BYTES, TEXTS.map(str.encode)))
def test_words_are_what_lies_between_white_space(text):
    words = split(text)
    assert words.tolist() == tokens_of(text)
    assert [text[start:][:size] for start, size in zip(words.starts, words.sizes)] == tokens_of(text)


@settings(deadline=None)
@given(
    st.lists(st.one_of(BYTES, TEXTS.map(str.encode)), min_size=1, max_size=4),
    st.sampled_from([1, 9, 1 << 18]),
)
def test_new_words_get_ids_in_the_order_of_their_appearance(texts, piece):
    table = WordTable({})
    expected: dict[bytes, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_table, "_PIECE", piece)
        for text in texts:
            ids = look_up(table.find_or_add, text)
            assert ids.dtype == np.int32
            assert ids.tolist() == [expected.setdefault(word, len(expected)) for word in tokens_of(text)]
    assert table.ids == expected
    again = WordTable(dict(itertools.islice(expected.items(), 0, None, 2)))
    [text, *_] = texts
    assert look_up(again.find, text).tolist() == [again.ids.get(word, -1) for word in tokens_of(text)]


def test_words_whose_hashes_are_equal_stay_apart(monkeypatch):
    monkeypatch.setattr(word_table, "mix", lambda keys: np.zeros_like(keys))
    words = [f"{start}{i}".encode() for start in ("", "eightbyt", "sixteen-bytes---") for i in range(9)]
    table = WordTable({word: i for i, word in enumerate(words)})
    assert look_up(table.find, b" ".join([*words[::-1], b"x"])).tolist() == [*range(27)[::-1], -1]


def test_words_with_white_space_are_not_found():
    table = WordTable({b"": 0, b"a ": 1, b" a": 2, b"a b": 3, b"a\tb": 4, b"b" * 17 + b" ": 5, b"b": 6})
    assert look_up(table.find, b"a  a b a\tb " + b"b" * 17).tolist() == [-1, -1, 6, -1, 6, -1]


def test_a_table_of_many_words_grows():
    words = [f"{i:x}".encode() for i in range(100_000)]
    table = WordTable({})
    for first in range(0, len(words), 7_000):
        look_up(table.find_or_add, b" ".join(words[first : first + 7_000]))
    assert np.array_equal(look_up(table.find, b"\t".join(words)), np.arange(len(words)))


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=6), st.integers(0, 3), st.sampled_from([0, 3, 5]))
def test_a_word_tokenizer_is_trained_as_a_counter_would(texts, min_count, vocab_size):
    counted = collections.Counter(itertools.chain(*(plain.words(text.encode()) for text in texts)))
    kept = [w for w in counted if counted[w] >= min_count and w not in (b"<s>", b"</s>", b"<unk>", b"<UNK>")]
    kept.sort(key=lambda word: (-counted[word], word))
    trained = WordTokenizer.train(texts, vocab_size, min_count)
    assert trained.words == [word.decode() for word in kept][: vocab_size - 2 if vocab_size else None]


@settings(deadline=None)
@given(
    st.lists(TEXTS, max_size=6), TEXTS, st.lists(st.sampled_from(["a", "\n", "", "<s>", "a b"]), max_size=3)
)
def test_many_texts_are_encoded_as_each_by_itself(texts, training, more):
    words = WordTokenizer.train([training]).words + more
    tokenizer = WordTokenizer(words)
    ids = tokenizer.encode_ids(texts)
    assert [row.tolist() for row in ids] == [ids_of(words, text) for text in texts]
    for text, (row, spans) in zip(texts, tokenizer.encode_batch(texts), strict=True):
        data = text.encode()
        assert row.tolist() == ids_of(words, text)
        assert row.dtype == np.int32
        assert [data[a:b] for a, b in spans] == tokens_of(data.removesuffix(b"\n"))
        assert spans.dtype == np.int64
        assert spans.shape == (len(row), 2)
