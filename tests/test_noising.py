"""Noised rows against the published procedures, written out plainly, and against their definitions."""

import collections
import dataclasses
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax.data import noising
from lm_jax.data.noising import NOISES, Noise, Vocabulary, add_noise
from lm_jax.errors import UserError
from lm_jax.text import load as tokenizers

END, MASK, STOP = 0, 1, 2
WORD, PIECE, VOCAB = 10, 30, 50  # ids below PIECE begin words, the others continue them


def vocabulary(whole_words=True):
    kinds = np.where((np.arange(VOCAB) < PIECE) | (not whole_words), noising.STARTS, 0)
    kinds[[END, MASK]] |= noising.SPECIAL
    kinds[[END, STOP]] |= noising.ENDS
    return Vocabulary(kinds.astype(np.int64) << 32, MASK, np.arange(2, VOCAB, dtype=np.int32))


def noised(noise, rows, seed=(0,), first_row=0, width=None):
    """(tokens, places) of each row, without padding."""
    lengths = [len(row) for row in rows]
    tokens = np.full((len(rows), width or max(lengths)), 7, np.uint16)
    for row, line in zip(tokens, rows):
        row[: len(line)] = line
    found = add_noise(noise, vocabulary(noise.whole_words), tokens, np.array(lengths), list(seed), first_row)
    return [
        (t[:n].tolist(), p[:n].tolist()) for t, n, p in zip(found.tokens_BT, found.lengths_B, found.places_BT)
    ]


def words_of(row, whole_words=True):
    """Lists of the places of each word."""
    words = []
    for place, token in enumerate(row):
        if token in (END, MASK):
            continue
        if whole_words and token >= PIECE and place and row[place - 1] not in (END, MASK):
            words[-1].append(place)
        else:
            words.append([place])
    return words


def sentences_of(row):
    """Lists of places."""
    sentences, ends = [], (END, STOP)
    for place, token in enumerate(row):
        if not place or (row[place - 1] in ends and token not in ends):
            sentences.append([])
        sentences[-1].append(place)
    return sentences


TOKENS = st.one_of(
    st.sampled_from([END, STOP, STOP]), st.integers(WORD, VOCAB - 1), st.integers(WORD, VOCAB - 1)
)
ROWS = st.lists(st.lists(TOKENS, max_size=30), min_size=1, max_size=4).filter(any)
SHARES = st.sampled_from([0.0, 0.1, 0.3, 1.0])
ANY = st.builds(
    Noise, *[SHARES] * len(NOISES), span_mean=st.sampled_from([0.3, 1.0, 3.0]),
    random_share=st.sampled_from([0.0, 0.5]), whole_words=st.booleans(),
).filter(lambda noise: noise.active)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(noise=ANY, rows=ROWS, seed=st.integers(0, 9))
def test_untouched_tokens_of_text_and_noised_text_rebuild_each_other(noise, rows, seed):
    width = max(map(len, rows)) + seed % 3
    for row, (tokens, places) in zip(rows, noised(noise, rows, [seed], width=width)):
        kept = [place for place in places if place >= 0]
        assert len(set(kept)) == len(kept)
        assert len(tokens) <= width
        for token, place in zip(tokens, places):
            if place >= 0:
                assert token == row[place]
            else:
                assert token == MASK or (token not in (END, MASK) and (noise.replace or noise.random_share))
        assert {p for p, token in enumerate(row) if token == END} <= set(kept), "ends of documents stay"
        if not noise.permute and not noise.rotate:
            assert kept == sorted(kept)
        if not noise.delete and not noise.infill:
            assert len(tokens) == len(row)


@settings(deadline=None, max_examples=60)
@given(noise=ANY, rows=ROWS, seed=st.integers(0, 9))
def test_a_row_depends_on_its_number_and_content_alone(noise, rows, seed):
    width = max(map(len, rows))
    whole = noised(noise, rows, [seed, 1], 5, width)
    for number, row in enumerate(rows):
        assert noised(noise, [row], [seed, 1], 5 + number, width) == [whole[number]]


@settings(deadline=None, max_examples=60)
@given(
    rows=ROWS, share=SHARES, whole_words=st.booleans(), name=st.sampled_from(["replace", "mask", "delete"])
)
def test_words_are_changed_as_a_whole_and_as_many_as_the_share(rows, share, whole_words, name):
    if not share:
        return
    noise = dataclasses.replace(Noise(whole_words=whole_words), **{name: share})
    for row, (tokens, places) in zip(rows, noised(noise, rows)):
        words = words_of(row, whole_words)
        changed = [word for word in words if set(word).isdisjoint(places)]
        assert len(changed) == math.ceil(round(share * len(words), 9))
        assert set(range(len(row))) - set(places) == {place for word in changed for place in word}
        if name == "mask":
            assert all(token == MASK for token, place in zip(tokens, places) if place < 0)
        if name == "delete":
            assert min(places, default=0) >= 0


@settings(deadline=None, max_examples=60)
@given(rows=ROWS, share=st.sampled_from([0.3, 0.5, 1.0]), seed=st.integers(0, 9))
def test_sentences_stay_whole_when_they_are_permuted(rows, share, seed):
    for row, (_, places) in zip(rows, noised(Noise(permute=share), rows, [seed])):
        sentences = sentences_of(row)
        order, left = [], list(places)
        while left:
            sentence = next(s for s in sentences if s[0] == left[0])
            assert left[: len(sentence)] == sentence
            left = left[len(sentence) :]
            order.append(sentence)
        assert len(order) == len(sentences)
        moved = sum(a != b for a, b in zip(order, sentences))
        assert moved <= math.ceil(share * len(sentences))


@settings(deadline=None, max_examples=60)
@given(rows=ROWS, seed=st.integers(0, 9))
def test_a_rotated_row_begins_with_another_token(rows, seed):
    for row, (_, places) in zip(rows, noised(Noise(rotate=1.0), rows, [seed])):
        first = places[0] if row else 0
        assert places == [*range(first, len(row)), *range(first)]


@settings(deadline=None, max_examples=100)
@given(
    rows=ROWS,
    share=st.sampled_from([0.1, 0.3, 1.0]),
    mean=st.sampled_from([1.0, 3.0]),
    seed=st.integers(0, 9),
)
def test_each_missing_span_is_of_whole_words_and_has_a_mask(rows, share, mean, seed):
    for row, (_, places) in zip(rows, noised(Noise(infill=share, span_mean=mean), rows, [seed])):
        missing = set(range(len(row))) - set(places)
        words = words_of(row)
        gone = [word for word in words if not missing.isdisjoint(word)]
        assert missing == {place for word in gone for place in word}
        assert len(gone) <= math.ceil(round(share * len(words), 9))
        before = -1
        for masks, place in _runs(places, len(row)):
            assert masks or place == before + 1, "what is missing has a mask in its place"
            before = place


def _runs(places, end):
    """The number of masks before each kept place, and before the end."""
    masks = 0
    for place in [*places, end]:
        if place < 0:
            masks += 1
        else:
            yield masks, place
            masks = 0


def test_shares_of_words_are_rounded_up_once():
    rows = [[WORD] * n for n in range(1, 41)]
    for share in (0.07, 0.1, 0.15, 0.3):
        found = noised(Noise(mask=share), rows)
        masks = [tokens.count(MASK) for tokens, _ in found]
        assert masks == [-(-round(100 * share) * n // 100) for n in range(1, 41)]


NUM_ROWS = 20_000
ROW = [WORD, WORD + 1, PIECE, WORD + 2, STOP, WORD + 3, PIECE, END, WORD + 4, WORD + 5]


def shares_of(noise, seed=0, row=ROW, width=None):
    """How often each result occurs, as a share: of lists of places, -1 for masks."""
    counts = collections.Counter(
        tuple(places) for _, places in noised(noise, [row] * NUM_ROWS, [seed], 0, width)
    )
    return {result: count / NUM_ROWS for result, count in counts.items()}


def assert_equal_distributions(found, expected):
    """Within five standard errors of the difference, for each outcome."""
    for outcome in found.keys() | expected.keys():
        p, q = found.get(outcome, 0), expected.get(outcome, 0)
        mean = max((p + q) / 2, 3 / NUM_ROWS)
        assert abs(p - q) < 5 * math.sqrt(mean * 2 / NUM_ROWS), (outcome, p, q)


def published_infill(row, share, mean):
    """fairseq's spans: each at another word, one mask for those that overlap; without words an insertion."""
    words = words_of(row)
    left, order = math.ceil(round(share * len(words), 9)), random.sample(range(len(words)), len(words))
    starts, inserts, covered = set(), [], set()
    for first in order:
        if left <= 0:
            break
        size = min(left, _poisson(mean))
        left -= size
        if size == 0:
            inserts.append(words[first][0])
            continue
        starts.add(words[first][0])
        for word in words[first : first + size]:
            if END in row[words[first][0] : word[0]]:
                break  # another document
            covered |= {place for place in word if place != words[first][0]}
    result = []
    for place in range(len(row)):
        result += [-1] * inserts.count(place)
        if place in starts and place not in covered:
            result.append(-1)
        elif place not in covered:
            result.append(place)
    return tuple(result)


def _poisson(mean):
    count, product = 0, random.random()
    while product > math.exp(-mean):
        count, product = count + 1, product * random.random()
    return count


@pytest.mark.parametrize(("share", "mean"), [(0.3, 3.0), (0.5, 1.0), (1.0, 3.0), (0.3, 0.5)])
def test_infilling_has_the_distribution_of_the_published_procedure(share, mean):
    random.seed(1)
    counts = collections.Counter(published_infill(ROW, share, mean) for _ in range(NUM_ROWS))
    expected = {result: count / NUM_ROWS for result, count in counts.items()}
    assert_equal_distributions(shares_of(Noise(infill=share, span_mean=mean), width=40), expected)
    assert len(expected) > 20


def test_words_sentences_and_rotations_are_equally_likely():
    for name, share, number in (
        ("mask", 0.3, 35),
        ("delete", 0.3, 35),
        ("permute", 1.0, 6),
        ("rotate", 1.0, 10),
    ):
        found = shares_of(dataclasses.replace(Noise(), **{name: share}))
        assert len(found) == number
        assert_equal_distributions(found, dict.fromkeys(found, 1 / number))


def test_a_share_of_the_sentences_changes_places():
    row = [WORD, STOP] * 4
    found = shares_of(Noise(permute=0.5), row=row)
    as_sentences = {tuple(p // 2 for p in places[::2]): share for places, share in found.items()}
    swaps = {}
    for a in range(4):
        for b in range(a):
            order = list(range(4))
            order[a], order[b] = b, a
            swaps[tuple(order)] = 1 / 12
    assert_equal_distributions(as_sentences, swaps | {(0, 1, 2, 3): 1 / 2})


def test_random_tokens_are_uniform_over_those_that_are_not_special():
    for noise, share in ((Noise(replace=1.0), 1.0), (Noise(mask=1.0, random_share=0.4), 0.4)):
        tokens = np.array([t for t, _ in noised(noise, [[WORD] * 10] * 4000)]).reshape(-1)
        counts = np.bincount(tokens, minlength=VOCAB)
        assert counts[END] == 0
        assert abs(counts[MASK] / len(tokens) - (1 - share)) < 5 * math.sqrt(0.25 / len(tokens))
        expected = share * len(tokens) / (VOCAB - 2)
        assert np.abs(counts[2:] - expected).max() < 5 * math.sqrt(expected)


def test_a_share_of_the_rows_is_rotated():
    rows = [list(range(WORD, WORD + 20))] * 4000
    moved = np.mean([places[0] != 0 for _, places in noised(Noise(rotate=0.3), rows)])
    assert abs(moved - 0.3 * 19 / 20) < 5 * math.sqrt(0.21 / 4000)


def test_figures_of_bart_at_its_length():
    """Of 126 words 38 are in spans of 3 on average; overlaps leave fewer missing."""
    rows = [list(range(WORD, PIECE)) * 6 + [WORD] * 6] * 4000
    found = noised(Noise(infill=0.3), rows, width=128)
    missing = np.array([126 - sum(place >= 0 for place in places) for _, places in found])
    masks = np.array([tokens.count(MASK) for tokens, _ in found])
    assert missing.max() <= math.ceil(0.3 * 126)
    assert 32 < missing.mean() < 36
    random.seed(0)
    plain = [published_infill(rows[0], 0.3, 3.0) for _ in range(1000)]
    assert abs(np.mean([p.count(-1) for p in plain]) - masks.mean()) < 0.3
    assert abs(np.mean([126 - sum(q >= 0 for q in p) for p in plain]) - missing.mean()) < 0.5


def test_noises_differ_between_steps_rows_and_each_other():
    rows = [list(range(WORD, PIECE))] * 3
    results = [tuple(p) for step in range(2) for _, p in noised(Noise(mask=0.4), rows, [0, step])]
    assert len(set(results)) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": 1.2}, r"task\.mask=1.2; it must lie in \[0, 1\]"),
        ({"rotate": -0.1}, r"task\.rotate=-0.1"),
        ({"span_mean": 0.0}, r"task\.span_mean=0.0"),
        ({"mask": 0.0}, r"no noise: the text would be copied; give one of task\.permute"),
    ],
)
def test_invalid_noises_raise_user_error(change, message):
    with pytest.raises(UserError, match=message):
        noising.check(dataclasses.replace(Noise(mask=0.1), **change), "task.")


def test_only_noises_that_write_masks_need_a_mask_token():
    tokenizer = tokenizers.train("byte", [])
    for name in NOISES:
        noise = dataclasses.replace(Noise(), **{name: 0.5})
        if name in ("mask", "infill"):
            with pytest.raises(UserError, match=r"has no 'mask' token.*data\.tokenizer=bpe-bart"):
                Vocabulary.of(tokenizer, noise)
        else:
            assert len(Vocabulary.of(tokenizer, noise).ordinary) == 256


@pytest.mark.parametrize("kind", ["wordpiece", "bpe-bart"])
def test_words_and_sentences_are_those_of_the_tokenizer(kind):
    text = "unbelievably long words. are masked! whole " * 4
    tokenizer = tokenizers.train(kind, [text], 300)
    ids = tokenizer.encode_ids([text])[0]
    noise = Noise(mask=0.3, permute=1.0)
    known = Vocabulary.of(tokenizer, noise)
    assert set(known.ordinary.tolist()) == set(range(tokenizer.vocab_size)) - set(
        tokenizer.special_ids.values()
    )
    found = add_noise(noise, known, ids[None], np.array([len(ids)]), [3])
    kept = found.places_BT[0][found.places_BT[0] >= 0]
    assert tokenizer.special_ids["mask"] in found.tokens_BT[0]
    words = np.cumsum(tokenizer.starts_word[ids])
    for word in range(1, words.max() + 1):
        places = np.flatnonzero(words == word)
        assert np.isin(places, kept).all() or not np.isin(places, kept).any()
