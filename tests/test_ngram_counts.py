"""Counts against Python's own dictionaries."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ngram_text import count, encode, mark

from lm_jax import memory
from lm_jax.errors import UserError
from lm_jax.ngram import counts
from lm_jax.ngram.vocabulary import BOS, EOS, UNK, Vocabulary


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


def test_a_line_is_a_sentence_and_unknown_words_are_unk():
    words = Vocabulary(["b", "a"])
    assert encode(words, b"a b\n\nc a").tolist() == [BOS, 4, 3, EOS, BOS, EOS, BOS, UNK, 4, EOS]
    assert words.ids(["a", b"b", "c"]).tolist() == [4, 3, UNK]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=9), min_size=1, max_size=9),
    st.integers(1, 8),
    st.integers(1, 9),
)
def test_counts_are_those_of_a_dictionary(sentences, order, piece):
    sentences = [[3 + word if word else UNK for word in s] for s in sentences]
    stream = mark(*sentences)
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
    rank = {word: i for i, word in enumerate(dict.fromkeys([UNK, BOS, EOS, *itertools.chain(*sentences)]))}
    tails = [
        marked[max(i - order + 1, 0) : i + 1][::-1]
        for marked in ([BOS, *s, EOS] for s in sentences)
        for i in range(1, len(marked))
    ]
    last = tuple(max(tails, key=lambda words: [rank[word] for word in words])[::-1])
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
    stream = mark(*sentences)
    found = counts.count(stream, Vocabulary(str(i) for i in range(vocab_size)), 3)
    for n in (2, 3):
        expected = python_counts(sentences, n)
        assert ngrams(found.trie)[n - 1] == sorted(expected)
        assert found.counts[n - 1].tolist() == [expected[gram] for gram in sorted(expected)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: counts.count(np.array([], int), Vocabulary("ab"), 2), "empty"),
        (lambda: count(b"a b\n", 0), "order 0"),
        (lambda: count(b"a b\n", 9), "order 9"),
        (lambda: counts.count(np.array([3, 4]), Vocabulary("ab"), 2), "not sentences"),
        (lambda: counts.count(np.array([BOS, 3, EOS, 4]), Vocabulary("ab"), 2), "not sentences"),
        (lambda: counts.count(np.array([BOS, 7, EOS]), Vocabulary("ab"), 2), "vocabulary of 5"),
        (lambda: Vocabulary(["a", "b", "a"]), "twice"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_too_much_text_for_the_memory_is_refused_before_it_is_counted(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    with pytest.raises(UserError, match="GiB"):
        count(b"a b c\n" * 1000, 5)
    count(b"a b c\n" * 10, 5)
