"""Masked rows against the published algorithms, written out plainly, and against their distributions."""

import collections
import math
import random

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax.data import corruption, draws
from lm_jax.data.corruption import UNITS, Masking, mask_rows
from lm_jax.errors import UserError

MASK, VOCAB = 3, 50


def mask(masking, tokens, maskable, starts, seed=(0,), first_row=0):
    lengths = np.full(len(tokens), tokens.shape[1])
    return mask_rows(masking, tokens, maskable, starts, lengths, MASK, VOCAB, list(seed), first_row)


def repeated(row, num_rows):
    return np.tile(np.asarray(row), (num_rows, 1))


def chosen_sets(masked):
    """How often each set of predictions occurs in the rows, as a share."""
    rows = zip(masked.positions_BP.tolist(), masked.weights_BP.sum(axis=1).astype(int).tolist())
    counts = collections.Counter(tuple(positions[:count]) for positions, count in rows)
    return {positions: count / len(masked.inputs_BT) for positions, count in counts.items()}


def assert_equal_distributions(found, expected, num_found, num_expected):
    """Within five standard errors of the difference, for each outcome."""
    for outcome in found.keys() | expected.keys():
        p, q = found.get(outcome, 0), expected.get(outcome, 0)
        mean = max((p + q) / 2, 3 / min(num_found, num_expected))
        assert abs(p - q) < 5 * math.sqrt(mean * (1 / num_found + 1 / num_expected)), (outcome, p, q)


def words_of(maskable, starts):
    """Lists of positions, of a single row."""
    words = []
    for place, (is_maskable, is_start) in enumerate(zip(maskable, starts)):
        if is_maskable and place and maskable[place - 1] and not is_start:
            words[-1].append(place)
        elif is_maskable:
            words.append([place])
    return words


def published_words(words, budget):
    """BERT's whole words: `create_masked_lm_predictions`."""
    order, chosen = list(words), []
    random.shuffle(order)
    for word in order:
        if len(chosen) + len(word) <= budget:
            chosen += word
    return tuple(sorted(chosen))


def published_spans(words, budget, p, longest, runs):
    """SpanBERT's spans: anchors are drawn until one is not yet masked."""
    lengths = range(1, longest + 1)
    tokens, chosen = [t for word in words for t in word], []
    while len(chosen) < budget:
        span = random.choices(lengths, [p * (1 - p) ** (n - 1) for n in lengths])[0]
        anchor = random.choice(tokens)
        if anchor in chosen:
            continue
        first = next(i for i, word in enumerate(words) if anchor in word)
        for word in words[first : first + span]:
            if runs[word[0]] == runs[anchor]:
                chosen += [t for t in word if t not in chosen]
        del chosen[budget:]
    return tuple(sorted(chosen))


ROWS = st.integers(1, 30).flatmap(
    lambda length: st.tuples(
        st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=1, max_size=4),
        st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=4, max_size=4),
    )
)
MASKINGS = st.builds(
    Masking,
    rate=st.sampled_from([0.15, 0.4, 0.9]),
    unit=st.sampled_from(UNITS),
    exact=st.booleans(),
    max_predictions=st.sampled_from([0, 1, 3, 100]),
    max_span=st.sampled_from([1, 3, 10]),
)


@settings(deadline=None, max_examples=150)
@given(masking=MASKINGS, rows=ROWS, seed=st.integers(0, 9))
def test_any_row_is_masked_as_it_says(masking, rows, seed):
    maskable, starts = np.array(rows[0]), np.array(rows[1])[: len(rows[0])]
    length = maskable.shape[1]
    tokens = np.random.default_rng(seed).integers(5, VOCAB, maskable.shape).astype(np.uint16)
    tokens_before, maskable_before, starts_before = tokens.copy(), maskable.copy(), starts.copy()
    masked = mask(masking, tokens, maskable, starts, [seed])
    assert np.array_equal(tokens, tokens_before)
    assert np.array_equal(maskable, maskable_before)
    assert np.array_equal(starts, starts_before)
    num_predictions = masking.num_predictions(length)
    assert num_predictions <= min(length, masking.max_predictions or length)
    assert [a.dtype for a in masked] == [np.int32, np.int32, np.int32, np.float32]
    assert {a.shape for a in masked[1:]} == {(len(tokens), num_predictions)}
    budget = min(masking.max_predictions or length, max(1, round(length * masking.rate)))
    for row, (inputs, positions, targets, weights) in enumerate(zip(*masked)):
        count = int(weights.sum())
        assert np.array_equal(weights, np.arange(num_predictions) < count)
        assert not positions[count:].any()
        assert not targets[count:].any()
        chosen = positions[:count]
        assert (np.diff(chosen) > 0).all()
        assert maskable[row, chosen].all()
        assert np.array_equal(targets[:count], tokens[row, chosen])
        elsewhere = np.delete(np.arange(length), chosen)
        assert np.array_equal(inputs[elsewhere], tokens[row, elsewhere])
        available = maskable[row].sum()
        if masking.exact and masking.unit != "word":
            assert count == min(budget, available)
        if masking.unit == "word":
            sizes_left = []
            for word in words_of(maskable[row], starts[row]):
                assert np.isin(word, chosen).all() or not np.isin(word, chosen).any()
                sizes_left += [] if word[0] in chosen else [len(word)]
            if masking.exact:
                assert count <= budget
                assert all(count + size > budget for size in sizes_left)


@settings(deadline=None, max_examples=50)
@given(masking=MASKINGS, rows=ROWS, seed=st.integers(0, 9))
def test_a_row_depends_on_its_number_and_content_alone(masking, rows, seed):
    maskable, starts = np.array(rows[0]), np.array(rows[1])[: len(rows[0])]
    tokens = np.random.default_rng(seed).integers(5, VOCAB, maskable.shape)
    whole = mask(masking, tokens, maskable, starts, [seed, 1])
    for first in range(len(tokens)):
        part = slice(first, first + 1)
        alone = mask(masking, tokens[part], maskable[part], starts[part], [seed, 1], first)
        assert all(np.array_equal(a[part], b) for a, b in zip(whole, alone))


def test_seeds_differ():
    tokens, yes = repeated(np.arange(5, 45), 3), np.ones((3, 40), bool)
    for unit in UNITS:
        results = [mask(Masking(unit=unit), tokens, yes, yes, [7, step]).inputs_BT for step in (0, 1)]
        assert not np.array_equal(*results)
        assert len({tuple(row) for row in np.concatenate(results)}) == 6


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.5])
@pytest.mark.parametrize("most", [0, 20])
def test_the_budget_is_the_published_one_for_every_length(rate, most):
    lengths, width = np.arange(1, 301), 300
    maskable = np.arange(width) < lengths[:, None]
    masking = Masking(rate=rate, max_predictions=most)
    tokens = np.full(maskable.shape, 9)
    masked = mask_rows(masking, tokens, maskable, maskable, lengths, MASK, VOCAB, [0])
    expected = [min(most or width, max(1, round(n * rate))) for n in lengths.tolist()]
    assert masked.weights_BP.sum(axis=1).tolist() == expected
    assert [masking.num_predictions(n) for n in lengths.tolist()] == expected


def test_the_length_of_a_row_counts_special_tokens_but_not_padding():
    maskable = np.zeros((1, 40), bool)
    maskable[:, 1:19] = True
    tokens = np.full((1, 40), 9)
    masked = mask_rows(Masking(), tokens, maskable, maskable, np.array([20]), MASK, VOCAB, [0])
    assert masked.weights_BP.tolist() == [[1, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("exact", [True, False])
def test_a_row_without_maskable_tokens_has_no_predictions(unit, exact):
    maskable = np.array([[False] * 20, [True] * 20])
    masked = mask(Masking(0.5, unit, exact), np.full((2, 20), 9), maskable, maskable)
    assert masked.weights_BP.any(axis=1).tolist() == [False, True]
    assert (masked.inputs_BT[0] == 9).all()


NUM_ROWS = 20_000
#           [CLS] a ##a ##a b c ##c [SEP] d ##d
MASKABLE = np.array([0, 1, 1, 1, 1, 1, 1, 0, 1, 1], bool)
STARTS = np.array([1, 1, 0, 0, 1, 1, 0, 1, 1, 0], bool)


def mask_many(masking, seed=0):
    rows = [repeated(row, NUM_ROWS) for row in (np.arange(10, 20), MASKABLE, STARTS)]
    return mask(masking, *rows, [seed])


def test_each_set_of_tokens_is_equally_likely():
    found = chosen_sets(mask_many(Masking(0.2)))
    assert_equal_distributions(found, dict.fromkeys(found, 1 / 28), NUM_ROWS, 10**9)
    assert len(found) == 28


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 8])
def test_whole_words_have_the_distribution_of_the_published_algorithm(budget):
    found = chosen_sets(mask_many(Masking(budget / 10, "word")))
    random.seed(budget)
    words = words_of(MASKABLE, STARTS)
    samples = [published_words(words, budget) for _ in range(NUM_ROWS)]
    expected = {s: c / NUM_ROWS for s, c in collections.Counter(samples).items()}
    assert_equal_distributions(found, expected, NUM_ROWS, NUM_ROWS)


@pytest.mark.parametrize(("budget", "longest"), [(1, 2), (3, 1), (4, 2), (5, 10)])
def test_spans_have_the_distribution_of_the_published_algorithm(budget, longest):
    found = chosen_sets(mask_many(Masking(budget / 10, "span", span_p=0.4, max_span=longest)))
    random.seed(budget)
    words, runs = words_of(MASKABLE, STARTS), np.cumsum(~MASKABLE)
    samples = [published_spans(words, budget, 0.4, longest, runs) for _ in range(NUM_ROWS)]
    expected = {s: c / NUM_ROWS for s, c in collections.Counter(samples).items()}
    assert_equal_distributions(found, expected, NUM_ROWS, NUM_ROWS)


@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=12, max_size=12), min_size=1, max_size=5),
    budget=st.integers(0, 40),
)
def test_items_that_do_not_fit_are_skipped_in_order(sizes, budget):
    taken = corruption._fit(np.array(sizes, np.int32), np.full(len(sizes), budget))
    for row, found in zip(sizes, taken.tolist()):
        left = budget
        for size, is_taken in zip(row, found):
            assert is_taken == (size <= left)
            left -= size * is_taken


@pytest.mark.parametrize("first_spans", [1, 2, 40])
@settings(deadline=None, max_examples=60)
@given(rows=ROWS, rate=st.sampled_from([0.15, 0.5, 0.9]), seed=st.integers(0, 9))
def test_spans_are_those_of_one_token_after_the_other(first_spans, rows, rate, seed):
    maskable, starts = np.array(rows[0]), np.array(rows[1])[: len(rows[0])]
    masking, length = Masking(rate, "span", max_span=4), maskable.shape[1]
    keys, noise = np.random.default_rng(seed).integers(0, 2**64, (2, *maskable.shape), np.uint64)
    keys, budgets = draws.keys(keys, maskable), np.full(len(maskable), round(rate * length))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corruption, "_likely_spans", lambda *_: first_spans)
        chosen, choices = corruption._choose_spans(masking, keys, maskable, starts, budgets, noise)
    lengths = corruption._span_lengths(masking, noise)
    for row in range(len(maskable)):
        words, runs, expected = words_of(maskable[row], starts[row]), np.cumsum(~maskable[row]), {}
        for anchor in np.argsort(keys[row])[: maskable[row].sum()].tolist():
            if anchor not in expected:
                first = next(i for i, word in enumerate(words) if anchor in word)
                span = [t for word in words[first : first + lengths[row, anchor]] for t in word]
                expected |= {
                    t: noise[row, anchor] for t in span if runs[t] == runs[anchor] and t not in expected
                }
        expected = dict(list(expected.items())[: budgets[row]])
        assert {t: choices[row, t] for t in np.flatnonzero(chosen[row]).tolist()} == expected


def test_without_an_exact_budget_tokens_and_words_are_independent():
    for unit, parts in (("token", np.flatnonzero(MASKABLE)), ("word", np.flatnonzero(MASKABLE & STARTS))):
        masked = mask_many(Masking(0.3, unit, exact=False))
        is_chosen = np.zeros((NUM_ROWS, 10))
        rows, ranks = np.nonzero(masked.weights_BP)
        is_chosen[rows, masked.positions_BP[rows, ranks]] = 1
        is_chosen = is_chosen[:, parts]
        bound = 5 * math.sqrt(0.3 * 0.7 / NUM_ROWS)
        assert np.abs(is_chosen.mean(axis=0) - 0.3).max() < bound
        pairs = np.corrcoef(is_chosen.T) - np.eye(len(parts))
        assert np.abs(pairs).max() < 5 / math.sqrt(NUM_ROWS)


def test_without_an_exact_budget_spans_have_a_binomial_number_of_tokens():
    counts = mask_many(Masking(0.3, "span", exact=False)).weights_BP.sum(axis=1).astype(int)
    found = np.bincount(counts, minlength=9) / NUM_ROWS
    expected = scipy.stats.binom.pmf(np.arange(9), 8, 0.3)
    assert_equal_distributions(dict(enumerate(found)), dict(enumerate(expected)), NUM_ROWS, 10**9)


def test_what_exceeds_the_room_is_dropped_at_random():
    found = chosen_sets(mask_many(Masking(0.9, exact=False, max_predictions=2)))
    pairs = {s: share for s, share in found.items() if len(s) == 2}
    assert_equal_distributions(pairs, dict.fromkeys(pairs, 1 / 28), NUM_ROWS, 10**9)
    assert len(pairs) == 28


@pytest.mark.parametrize("length", [1, 2, 16, 128, 512])
@pytest.mark.parametrize("rate", [0.01, 0.15, 0.5])
def test_the_room_is_exceeded_with_a_probability_below_one_in_a_million(length, rate):
    for unit in ("token", "span"):
        room = Masking(rate, unit, exact=False).num_predictions(length)
        tail = scipy.stats.binom(length, rate).sf
        assert tail(room) < 1e-6
        assert room == 1 or tail(room - 1) >= 1e-6
    room, num_words = Masking(rate, "word", exact=False).num_predictions(length), -(-length // 2)
    assert room == length or scipy.stats.binom(num_words, rate).sf(room // 2) < 1e-6


@pytest.mark.parametrize("unit", UNITS)
def test_predicted_tokens_are_replaced_in_the_published_shares(unit):
    tokens = np.random.default_rng(1).integers(10, VOCAB, (2000, 64))
    yes = np.ones(tokens.shape, bool)
    masked = mask(Masking(0.25, unit, max_span=1), tokens, yes, yes)
    read = np.take_along_axis(masked.inputs_BT, masked.positions_BP, axis=1).reshape(-1)
    targets = masked.targets_BP.reshape(-1)
    total = len(read)
    assert total == 2000 * 16
    for share, expected in (
        ((read == targets).mean(), 0.1 + 0.1 / VOCAB),
        ((read == MASK).mean(), 0.8 + 0.1 / VOCAB),
    ):
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / total)
    replaced = read[(read != targets) & (read < 10) & (read != MASK)]
    counts = np.bincount(replaced, minlength=10)[[0, 1, 2, 4, 5, 6, 7, 8, 9]]  # ids that are never targets
    expected = total * 0.1 / VOCAB
    assert np.abs(counts - expected).max() < 5 * math.sqrt(expected)
    assert len(np.unique(read)) == VOCAB


def test_a_span_is_replaced_as_a_whole():
    tokens = repeated(np.arange(10, 30), 2000)
    starts = np.zeros(tokens.shape, bool)
    masked = mask(Masking(0.4, "span", mask_share=0.5, random_share=0), tokens, starts | True, starts)
    num_masked = (masked.inputs_BT == MASK).sum(axis=1)
    assert set(num_masked.tolist()) == {0, 8}
    assert abs((num_masked == 8).mean() - 0.5) < 5 * math.sqrt(0.25 / 2000)


def test_spans_have_the_published_lengths():
    noise = np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64)
    lengths = corruption._span_lengths(Masking(), noise)
    weights = 0.2 * 0.8 ** np.arange(10)
    expected = np.append(0, weights / weights.sum())
    found = np.bincount(lengths) / len(lengths)
    assert np.abs(found - expected).max() < 5 * math.sqrt(0.25 / len(lengths))
    assert round(float(expected @ np.arange(11)), 1) == 3.8  # the mean that the paper tells


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0.0}, {"rate": 1.0}, {"rate": math.nan}, {"unit": "letter"}, {"max_predictions": -1},
        {"mask_share": 0.8, "random_share": 0.3}, {"mask_share": -0.1}, {"span_p": 1.0}, {"max_span": 0},
    ],
)  # fmt: skip
def test_an_invalid_value_raises_user_error(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Masking(**wrong).check()
    Masking().check()
