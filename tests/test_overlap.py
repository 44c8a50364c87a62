"""n-grams, longest common subsequences, BLEU and ROUGE on ids, against plain Python and rouge_score."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.metrics import matching, overlap
from lm_jax.metrics.significance import bootstrap_interval

B, T, S = 120, 101, 110  # four words of bits, not whole ones


def _texts(rng, width):
    """Texts of 0 to `width` ids of vocabularies of 1 to 12, so that matches range from few to all.

    A quarter are permutations, whose few matches send carries across words without any.
    """
    texts = [rng.integers(0, rng.integers(1, 13), rng.integers(0, width + 1)) for _ in range(B)]
    texts[: B // 4] = [rng.permutation(width) for _ in range(B // 4)]
    texts[:4] = [np.array([], int), np.arange(width), np.arange(width), np.array([3])]
    return [text.tolist() for text in texts]


def _pad(texts, width):
    return np.array([text + [-1] * (width - len(text)) for text in texts], np.int32)


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    return _texts(rng, T), _texts(rng, S)


@pytest.fixture(scope="module")
def ids(pairs):
    return _pad(pairs[0], T), _pad(pairs[1], S)


def _ngrams(text, n):
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def _lcs(a, b):
    row = [0] * (len(b) + 1)
    for x in a:
        above, row = row, [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
    return row[-1]


def test_ngram_counts(pairs, ids):
    found = jax.device_get(jax.jit(matching.count_in, static_argnums=2)(*ids, 4))
    earlier = jax.device_get(jax.jit(matching.count_earlier, static_argnums=1)(ids[0], 4))
    for n in range(1, 5):
        valid = np.asarray(matching.are_ngrams(ids[0], n))
        for row, (a, b) in enumerate(zip(*pairs)):
            grams, in_b = _ngrams(a, n), collections.Counter(_ngrams(b, n))
            assert valid[row].tolist() == [True] * len(grams) + [False] * (T - len(grams))
            assert found[n - 1][row, : len(grams)].tolist() == [in_b[g] for g in grams]
            assert not found[n - 1][row, len(grams) :].any()
            before = collections.Counter()
            for position, gram in enumerate(grams):
                assert earlier[n - 1][row, position] == before[gram]
                before[gram] += 1


def test_lcs_length_is_that_of_the_dynamic_programme(pairs, ids):
    lengths = jax.jit(matching.lcs_length)(*ids)
    assert lengths.tolist() == [_lcs(a, b) for a, b in zip(*pairs)]


def test_lcs_mask_is_rouge_scores_subsequence(pairs, ids):
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    mask = np.asarray(jax.jit(matching.lcs_mask)(*ids))
    for row, (a, b) in enumerate(zip(*pairs)):
        assert np.flatnonzero(mask[row]).tolist() == rouge_scorer.lcs_ind(a, b)


def test_padding_width_changes_nothing(ids):
    wide = [np.pad(x, [(0, 0), (0, 40)], constant_values=-1) for x in ids]
    for function in (matching.lcs_mask, overlap.bleu_statistics):
        for a, b in zip(jax.tree.leaves(jax.jit(function)(*wide)), jax.tree.leaves(jax.jit(function)(*ids))):
            np.testing.assert_array_equal(a[..., : b.shape[-1]], b)


def test_ids_of_one_byte():
    # Padding and shifting fill with −1 and −2, which a byte without a sign does not have.
    a, b = np.array([[255, 254, 7, 255]], np.uint8), np.array([[254, 7, 254, 1]], np.uint8)
    for wide, narrow in zip(
        overlap.bleu_statistics(a.astype(int), b.astype(int)), overlap.bleu_statistics(a, b)
    ):
        np.testing.assert_array_equal(narrow, wide)
    assert overlap.bleu_statistics(a, b).totals.tolist() == [[4, 3, 2, 1]]
    with pytest.raises(UserError, match="ids are float"):
        overlap.rouge_n(a.astype(float), b, 1)


def test_texts_of_no_width():
    empty = np.zeros((2, 0), np.int32)
    assert np.all(np.array(overlap.rouge_l(empty, empty)) == 0)
    assert np.all(np.array(overlap.rouge_n(empty, empty, 2)) == 0)
    assert np.all(np.asarray(overlap.bleu(*overlap.bleu_statistics(empty, empty))) == 0)


def test_bleu_statistics_clip_by_the_best_reference(pairs):
    hypotheses, first = pairs
    second = first[::-1]
    references = np.stack([_pad(first, S), _pad(second, S)], axis=1)
    num_references = np.arange(B) % 2 + 1
    count = jax.jit(overlap.bleu_statistics, static_argnames="max_order")
    statistics = jax.device_get(count(_pad(hypotheses, T), references, num_references, max_order=3))
    for row, hypothesis in enumerate(hypotheses):
        present = [first[row], second[row]][: num_references[row]]
        for n in range(1, 4):
            most = collections.Counter()
            for reference in present:
                most |= collections.Counter(_ngrams(reference, n))
            common = collections.Counter(_ngrams(hypothesis, n)) & most
            assert statistics.matches[row, n - 1] == sum(common.values())
            assert statistics.totals[row, n - 1] == max(len(hypothesis) - n + 1, 0)
        closest = min((abs(len(r) - len(hypothesis)), len(r)) for r in present)[1]
        assert statistics.reference_length[row] == closest


def test_closest_reference_is_the_shorter_of_two():
    references = _pad([[1] * 5, [1] * 3, [1] * 9], 9)[None]
    count = jax.jit(overlap.bleu_statistics)
    assert count(_pad([[1] * 4], 9), references).reference_length.tolist() == [3]
    assert count(_pad([[1] * 4], 9), references, np.array([1])).reference_length.tolist() == [5]


def test_bleu_of_sums_is_the_corpus_score_and_has_an_interval(ids):
    statistics = jax.jit(overlap.bleu_statistics)(*ids)
    corpus = jax.jit(overlap.bleu)(*(x.sum(0) for x in statistics))
    interval = bootstrap_interval(*statistics, metric=overlap.bleu, num_resamples=200)
    assert interval.estimate == pytest.approx(float(corpus), rel=1e-6)
    assert interval.low < interval.estimate < interval.high


def test_brevity_penalty():
    np.testing.assert_allclose(
        overlap.brevity_penalty([10, 10, 12, 0, 0], [10, 12, 10, 3, 0]), [1, np.exp(-0.2), 1, 0, 0], rtol=1e-6
    )


def test_rouge_distinct_counts_sets(pairs, ids):
    for n in (1, 2):
        counts = jax.device_get(overlap.rouge_n(*ids, n, distinct=True))
        for row, (a, b) in enumerate(zip(*pairs)):
            a, b = set(_ngrams(a, n)), set(_ngrams(b, n))
            assert (counts.matches[row], counts.hypothesis[row], counts.reference[row]) == (
                len(a & b),
                len(a),
                len(b),
            )


def test_f_beta_weighs_recall():
    common = overlap.Overlap(*map(jnp.array, ([2, 0], [4, 0], [8, 0])))
    precision, recall, f = overlap.precision_recall_f(common, beta=2.0)
    np.testing.assert_allclose(precision, [0.5, 0])
    np.testing.assert_allclose(recall, [0.25, 0])
    np.testing.assert_allclose(f, [5 * 0.5 * 0.25 / (4 * 0.5 + 0.25), 0])


def test_no_recompilation_per_batch_of_one_shape(ids):
    traces = []

    @jax.jit
    def count(a, b):
        traces.append(1)
        return overlap.bleu_statistics(a, b)

    for shift in range(3):
        count(np.roll(ids[0], shift, 0), ids[1])
    assert len(traces) == 1


@pytest.mark.parametrize("shapes", [((2, 3), (3, 3)), ((3,), (3,))])
def test_unpaired_ids_raise_errors(shapes):
    with pytest.raises(UserError):
        matching.lcs_length(np.zeros(shapes[0], int), np.zeros(shapes[1], int))


def test_unknown_smoothing_and_missing_orders_raise_errors():
    statistics = overlap.bleu_statistics([[1, 2]], [[1, 2]], max_order=4)
    with pytest.raises(UserError, match="method0"):
        overlap.bleu(*statistics, smoothing="method9")
    with pytest.raises(UserError, match="max_order=5"):
        overlap.bleu(*statistics, order=5)
