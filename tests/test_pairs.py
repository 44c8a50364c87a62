"""Pairs of segments against the published procedure, written out plainly, and what must hold of any pair."""

import collections
import math
import random
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax.data.pairs import (
    find_sentences,
    next_sentence_pairs,
    read_pairs,
    sentence_ends,
    sentence_order_pairs,
)
from lm_jax.data.store import TokenStream
from lm_jax.errors import UserError
from lm_jax.text import load as tokenizers

SEP, FULL_STOP, QUESTION_MARK, WORD = 0, 1, 2, 3
ENDS = np.array([FULL_STOP, QUESTION_MARK])
MAKERS = {"next": next_sentence_pairs, "order": sentence_order_pairs}


def stream_of(documents):
    """Documents of token ids."""
    tokens = [SEP] + [token for document in documents for token in [*document, SEP]]
    offsets = np.cumsum([1] + [len(document) + 1 for document in documents])
    return TokenStream(np.array(tokens, np.uint16), offsets)


def of_sentences(documents):
    """Documents of sentences of the given lengths, each ended by a full stop."""
    return stream_of(
        [[t for size in sizes for t in [WORD] * (size - 1) + [FULL_STOP]] for sizes in documents]
    )


def plain_sentences(document, start, longest):
    """The ranges of the sentences of a document that begins at a place in the stream."""
    sentences, first = [], 0
    for place, token in enumerate(document):
        is_last = place + 1 == len(document)
        if is_last or (token in ENDS and document[place + 1] not in ENDS):
            sentences += [range(i, min(i + longest, place + 1)) for i in range(first, place + 1, longest)]
            first = place + 1
    return [range(start + s.start, start + s.stop) for s in sentences]


def joined(sentences):
    return [place for sentence in sentences for place in sentence]


def published_pairs(documents, room, short_share):
    """BERT's `create_instances_from_document` of every document, with places in the stream for tokens."""
    for number, document in enumerate(documents):
        target = random.randint(2, room) if random.random() < short_share else room
        chunk, i = [], 0
        while i < len(document):
            chunk.append(document[i])
            if i == len(document) - 1 or len(joined(chunk)) >= target:
                a_end = random.randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
                a, b = joined(chunk[:a_end]), []
                is_random = len(chunk) == 1 or random.random() < 0.5
                if is_random:
                    other = random.choice([d for n, d in enumerate(documents) if n != number])
                    for sentence in other[random.randint(0, len(other) - 1) :]:
                        b += sentence
                        if len(b) >= target - len(a):
                            break
                    i -= len(chunk) - a_end
                else:
                    b = joined(chunk[a_end:])
                yield (*truncated(a, b, room), int(is_random))
                chunk = []
            i += 1


def published_orders(documents, room, short_share):
    """ALBERT's pairs; a chunk of one sentence is divided after a random token."""
    for document in documents:
        target = random.randint(2, room) if random.random() < short_share else room
        chunk = []
        for sentence in document:
            chunk.append(sentence)
            if sentence is document[-1] or len(joined(chunk)) >= target:
                tokens = joined(chunk)
                if len(tokens) > 1:
                    middle = random.randint(1, len(tokens) - 1)
                    if len(chunk) > 1:
                        middle = len(joined(chunk[: random.randint(1, len(chunk) - 1)]))
                    pair = tokens[:middle], tokens[middle:]
                    is_swapped = random.random() < 0.5
                    yield (*truncated(*(pair[::-1] if is_swapped else pair), room), int(is_swapped))
                chunk = []


def truncated(a, b, room):
    a, b = list(a), list(b)
    while len(a) + len(b) > room:
        del (a if len(a) > len(b) else b)[0 if random.random() < 0.5 else -1]
    return a[0], len(a), b[0], len(b)


def rows_of(table):
    return [tuple(row) for row in zip(*(column.tolist() for column in table[:5]))]


def sentences_of(stream, longest):
    return [
        plain_sentences(stream.document(i).tolist(), int(stream.offsets[i]), longest)
        for i in range(len(stream.lengths))
    ]


TOKENS = st.sampled_from([FULL_STOP, QUESTION_MARK, WORD, WORD, WORD, WORD])
DOCUMENTS = st.lists(st.lists(TOKENS, max_size=40), min_size=1, max_size=6)


@pytest.mark.parametrize("block", [3, 1 << 22])  # tokens that are searched at a time
@settings(deadline=None, max_examples=100)
@given(documents=DOCUMENTS, length=st.integers(5, 30))
def test_documents_are_divided_into_sentences(block, documents, length):
    stream = stream_of(documents)
    with mock.patch("lm_jax.data.pairs._BLOCK", block):
        found = find_sentences(stream, ENDS, length)
    expected = [sentences for sentences in sentences_of(stream, length - 3) if sentences]
    assert found.documents.tolist() == [i for i, document in enumerate(documents) if document]
    assert found.counts.tolist() == [len(sentences) for sentences in expected]
    for first, sentences in zip(found.firsts, expected):
        edges = [s.start for s in sentences] + [sentences[-1].stop]
        assert found.edges[first : first + len(edges)].tolist() == edges
    assert len(found.edges) == sum(len(sentences) + 1 for sentences in expected)


@pytest.mark.parametrize("kind", MAKERS)
@settings(deadline=None, max_examples=100)
@given(documents=DOCUMENTS, length=st.integers(5, 30), seed=st.integers(0, 99))
def test_any_pair_is_of_one_row_and_of_its_documents(kind, documents, length, seed):
    stream = stream_of(documents)
    sentences = find_sentences(stream, ENDS, length)
    if kind == "next" and len(sentences.documents) < 2:
        return
    table = MAKERS[kind](sentences, length, seed, 0)
    owner = np.repeat(np.arange(len(documents)), stream.lengths + 1)  # of the place after it
    for start_a, length_a, start_b, length_b, label, document in zip(*table):
        assert length_a >= 1
        assert length_b >= 1
        assert length_a + length_b + 3 <= length
        places_a, places_b = start_a + np.arange(length_a), start_b + np.arange(length_b)
        assert not (stream.tokens[np.concatenate([places_a, places_b])] == SEP).any()
        assert set(owner[places_a - 1]) == {document}
        other = set(owner[places_b - 1])
        assert len(other) == 1
        assert (other == {document}) == (kind == "order" or label == 0)
        if kind == "next" and label == 0:
            assert start_b >= start_a + length_a
        if kind == "order":
            first, second = (places_b, places_a) if label else (places_a, places_b)
            assert first[-1] < second[0]
        is_full = length_a + length_b == length - 3
        if not is_full and (kind == "order" or label == 0):  # not truncated
            gap = start_a - start_b - length_b if label else start_b - start_a - length_a
            assert gap == 0
    used = set(table.documents.tolist())
    assert used == {i for i, document in enumerate(documents) if len(document) > (kind == "order")}


def test_without_long_sentences_each_token_is_read():
    """Pairs that follow cover each document, since unused sentences are read again."""
    stream = of_sentences([[2, 1, 3, 1, 1, 2]] * 9)
    table = next_sentence_pairs(find_sentences(stream, ENDS, 40), 40, 0, 0, short_share=0.0)
    covered = np.zeros(len(stream.tokens), bool)
    for start_a, length_a, start_b, length_b, label, _ in zip(*table):
        assert not covered[start_a : start_a + length_a].any()
        covered[start_a : start_a + length_a] = True
        if label == 0:
            covered[start_b : start_b + length_b] = True
    assert np.array_equal(covered, stream.tokens != SEP)
    assert 0 < table.labels.mean() < 1


NUM_SEEDS = 1500


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(("short_share", "room"), [(0.0, 6), (0.5, 6), (0.0, 7)])
def test_pairs_have_the_distribution_of_the_published_procedure(kind, short_share, room):
    stream = of_sentences([[2, 3, 1, 4, 2], [5, 1, 8], [1], [2, 2]])
    sentences = find_sentences(stream, ENDS, room + 3)
    plain = sentences_of(stream, room)
    random.seed(0)
    published = published_pairs if kind == "next" else published_orders
    found, expected = collections.Counter(), collections.Counter()
    sizes = np.zeros((2, NUM_SEEDS))
    for seed in range(NUM_SEEDS):
        pairs = rows_of(MAKERS[kind](sentences, room + 3, seed, 1, short_share))
        others = list(published(plain, room, short_share))
        found.update(pairs)
        expected.update(others)
        sizes[:, seed] = len(pairs), len(others)
    assert len(found) > 10
    for pair in found.keys() | expected.keys():
        n, m = found[pair], expected[pair]
        assert abs(n - m) < 5 * math.sqrt(max(n + m, 6)), (pair, n, m)
    error = math.sqrt(sizes.var(axis=1).sum() / NUM_SEEDS)
    assert abs(sizes[0].mean() - sizes[1].mean()) <= 5 * error


@pytest.mark.parametrize("kind", MAKERS)
def test_a_table_is_a_function_of_the_seed_and_the_epoch(kind):
    sentences = find_sentences(of_sentences([[3, 5, 2, 4] * 5] * 4), ENDS, 20)
    tables = {place: rows_of(MAKERS[kind](sentences, 20, *place)) for place in [(0, 0), (0, 1), (1, 0)]}
    assert len({tuple(table) for table in tables.values()}) == 3
    for place, table in tables.items():
        assert rows_of(MAKERS[kind](sentences, 20, *place)) == table


@pytest.mark.parametrize("documents", [[[3, 3]], [[], [3, 3], []], [[]]])
def test_next_sentences_of_a_single_document_raise_user_error(documents):
    sentences = find_sentences(of_sentences(documents), ENDS, 20)
    with pytest.raises(UserError, match=r"data\.documents=paragraph or line"):
        next_sentence_pairs(sentences, 20, 0, 0)
    assert len(sentence_order_pairs(sentences, 20, 0, 0).labels) == sum(map(bool, documents))


def test_rows_too_short_for_a_pair_raise_user_error():
    with pytest.raises(UserError, match="sequence_length=4"):
        find_sentences(of_sentences([[3], [3]]), ENDS, 4)


@pytest.mark.parametrize("extra", [0, 4])
@pytest.mark.parametrize("kind", MAKERS)
def test_rows_are_read_as_bert_reads_pairs(kind, extra):
    stream = of_sentences([[3, 5, 2, 4] * 3, [20], [1, 1]])
    stream = stream._replace(tokens=np.arange(100, 100 + len(stream.tokens), dtype=np.uint16))
    is_end = of_sentences([[3, 5, 2, 4] * 3, [20], [1, 1]]).tokens == FULL_STOP
    sentences = find_sentences(stream, stream.tokens[is_end], 12)
    table = MAKERS[kind](sentences, 12, 3, 0)
    rows = np.random.default_rng(0).permutation(len(table.labels))
    read = read_pairs(table, rows, stream.tokens, 12 + extra, cls_id=1, sep_id=2, pad_id=7)
    assert {(a.dtype.name, a.shape) for a in read} == {("int32", (len(rows), 12 + extra))}
    for row, tokens, segments, types in zip(rows, *(a.tolist() for a in read)):
        (start_a, a), (start_b, b) = [(table[k][row], table[k + 1][row]) for k in (0, 2)]
        text_a, text_b = stream.tokens[start_a : start_a + a], stream.tokens[start_b : start_b + b]
        padding = 12 + extra - a - b - 3
        assert tokens == [1, *text_a, 2, *text_b, 2] + [7] * padding
        assert segments == [0] * (a + b + 3) + [-1] * padding
        assert types == [0] * (a + 2) + [1] * (b + 1) + [0] * padding


def test_the_ends_of_sentences_are_found_in_a_vocabulary():
    tokenizer = tokenizers.train("byte", [])
    assert sentence_ends(tokenizer).tolist() == sorted(b".?!")
    tokenizer = tokenizers.train("word", ["a. b ... c? d e.g f! . U.S."])
    words = [tokenizer.token_bytes(i) for i in sentence_ends(tokenizer)]
    assert sorted(words) == [b".", b"...", b"U.S.", b"a.", b"c?", b"f!"]
