"""Text to ids to counts, against Python's own dictionaries."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax.errors import UserError
from lm_jax.ngram import counts, memory, vocabulary, word_table
from lm_jax.ngram.vocabulary import BOS, EOS, UNK, Vocabulary

# Letters of one, two and three bytes, so that words fall on both sides of eight bytes, and every delimiter.
texts = st.text(st.sampled_from("aabcé語 \n\t\r\0\v"), max_size=200).map(lambda text: text.encode())


def python_sentences(text: bytes) -> list[list[bytes]]:
    """The sentences of a text, by the rules of lmplz but for the last line."""
    lines = text.split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    return [
        [word for word in line.translate(bytes.maketrans(b"\0\t\r", b"   ")).split(b" ") if word]
        for line in lines
    ]


def python_counts(sentences: list[list[int]], order: int) -> collections.Counter:
    """All n-grams of one order."""
    marked = [(BOS, *sentence, EOS) for sentence in sentences]
    return collections.Counter(s[i : i + order] for s in marked for i in range(len(s) - order + 1))


def ngrams(trie) -> list[list[tuple[int, ...]]]:
    """The n-grams of a trie by order, in the order of their ids."""
    found = [[(int(word),) for word in trie.words[0]]]
    for words, starts in zip(trie.words[1:], trie.first_child, strict=True):
        context = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        found.append([(*found[-1][c], int(word)) for c, word in zip(context, words, strict=True)])
    return found


@given(texts)
def test_stream_is_the_words_in_order_of_first_appearance(text):
    words, stream = vocabulary.read(text)
    sentences = python_sentences(text)
    index = {
        word: i
        for i, word in enumerate(dict.fromkeys([b"<unk>", b"<s>", b"</s>", *itertools.chain(*sentences)]))
    }
    assert words.words == list(index)
    expected = [i for s in sentences for i in (BOS, *(index[word] for word in s), EOS)]
    assert stream.tolist() == expected
    assert words.encode(text).tolist() == expected


@given(texts, texts)
def test_encode_marks_words_outside_the_vocabulary(text, other):
    words, _ = vocabulary.read(text)
    expected = [
        i
        for s in python_sentences(other)
        for i in (BOS, *(words.words.index(w) if w in words.words else UNK for w in s), EOS)
    ]
    assert words.encode(other).tolist() == expected


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_pieces_of_any_size_give_the_same_stream(monkeypatch, tmp_path, piece):
    text = ("a bb ccc\n\nlonger-than-eight-bytes a longer-than-eight-bytes! " * 9).encode()
    whole = vocabulary.read(text)[1]
    monkeypatch.setattr(vocabulary, "_PIECE", piece)
    (tmp_path / "text").write_bytes(text)
    assert np.array_equal(vocabulary.read(tmp_path / "text")[1], whole)


def test_long_words_with_the_same_hash_stay_apart(monkeypatch):
    monkeypatch.setattr(
        word_table,
        "_hash",
        lambda words, windows, seed: np.full(len(words.starts), (seed % 3) << 8, np.uint64),
    )
    names = [f"a-rather-long-word-{i:02d}".encode() for i in range(3)]
    text = b" ".join([*names, *names[::-1], names[1], b"short"]) + b"\n"
    words, stream = vocabulary.read(text)
    assert words.words[3:] == [*names, b"short"]
    assert stream.tolist() == [BOS, 3, 4, 5, 5, 4, 3, 4, 6, EOS]
    assert Vocabulary(words.words).encode(text).tolist() == stream.tolist()


def test_words_with_white_space_are_not_found_in_text():
    words = Vocabulary(["\n", "\n\n", "a b", "a"])
    assert words.encode(b"a b\n").tolist() == [BOS, 6, UNK, EOS]
    assert words.ids(["\n", "a b", "zzz"]).tolist() == [3, 5, UNK]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=9), min_size=1, max_size=9),
    st.integers(1, 8),
    st.integers(1, 9),
)
def test_counts_are_those_of_a_dictionary(sentences, order, piece):
    sentences = [[3 + word if word else UNK for word in s] for s in sentences]
    stream = vocabulary.mark(
        np.array([*itertools.chain(*sentences)], np.int64), np.array([len(s) for s in sentences])
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts, "_PIECE", piece)
        found = counts.count(stream, Vocabulary("abcdef"), order)
    for n, level in enumerate(ngrams(found.trie), 1):
        expected = python_counts(sentences, n) | collections.Counter()
        if n == 1:
            assert {gram: c for gram, c in zip(level, found.counts[0].tolist(), strict=True) if c} == expected
            continue
        assert level == sorted(expected)
        assert found.counts[n - 1].tolist() == [expected[gram] for gram in level]
        below = ngrams(found.trie)[n - 2]
        assert [below[i] for i in found.suffixes[n - 2]] == [gram[1:] for gram in level]
    tails = [
        marked[i - order + 1 if i >= order else 0 : i + 1][::-1]
        for marked in ([BOS, *s, EOS] for s in sentences)
        for i in range(1, len(marked))
    ]
    last = tuple(max(tails)[::-1])
    assert [ngrams(found.trie)[n][i] for n, i in enumerate(found.last)] == [
        last[-n:] for n in range(1, len(last) + 1)
    ]


def test_ids_of_more_than_sixteen_bits():
    rng = np.random.default_rng(0)
    vocab_size = 150_000
    sentences = [
        list(map(int, s))
        for s in rng.integers(3, vocab_size, (200, 50)) // rng.integers(1, 40_000, (200, 1)) + 3
    ]
    stream = vocabulary.mark(np.concatenate(sentences), np.array([50] * 200))
    found = counts.count(stream, Vocabulary(str(i) for i in range(vocab_size)), 3)
    for n in (2, 3):
        expected = python_counts(sentences, n)
        assert ngrams(found.trie)[n - 1] == sorted(expected)
        assert found.counts[n - 1].tolist() == [expected[gram] for gram in sorted(expected)]


def test_vocabulary_limits():
    text = b"a a a b b c d d\nb <unk> c\n"
    words, stream = vocabulary.limit(*vocabulary.read(text, literal_unk=True), min_count=2, max_size=3)
    assert words.words[3:] == [b"a", b"b", b"c"]  # d is as frequent as c, and comes later
    assert stream.tolist() == [BOS, 3, 3, 3, 4, 4, 5, UNK, UNK, EOS, BOS, 4, UNK, 5, EOS]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: counts.from_text(b"", 2), "empty"),
        (lambda: counts.from_text(b"a b\n", 0), "order 0"),
        (lambda: counts.from_text(b"a b\n", 9), "order 9"),
        (lambda: counts.from_text(b"a b\nc <s> d\n", 2), "<s> as a word, first in line 2"),
        (lambda: counts.from_text(b"a </s>", 2), "</s> as a word, first in line 1"),
        (lambda: counts.from_text(b"<unk> b\n", 2), "literal_unk"),
        (lambda: counts.from_text("no/such/file", 2), "no/such/file"),
        (lambda: counts.count(np.array([3, 4]), Vocabulary("ab"), 2), "not sentences"),
        (lambda: counts.count(np.array([BOS, 3, EOS, 4]), Vocabulary("ab"), 2), "not sentences"),
        (lambda: counts.count(np.array([BOS, 7, EOS]), Vocabulary("ab"), 2), "vocabulary of 5"),
        (lambda: Vocabulary(["a", "b", "a"]), "twice"),
        (lambda: vocabulary.mark(np.arange(3), np.array([1, 1])), "3 ids"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_too_much_text_for_the_memory_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    with pytest.raises(UserError, match="GiB"):
        counts.from_text(b"a b c\n" * 1000, 5)
    counts.from_text(b"a b c\n" * 10, 5)
