"""Tests of all pairs of models against the tests of each pair, SciPy's, and Holm's procedure by hand."""

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.stats
from test_evaluation import Uniform, text

from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation import bidirectional, blocks
from lm_jax.evaluation.base import Evaluation, Statistics, measure
from lm_jax.evaluation.compare import compare, difference
from lm_jax.evaluation.row import Row, read_rows, write_rows
from lm_jax.language_models.base import ScoredText
from lm_jax.metrics import correlation, likelihood, overlap, resampling, significance
from lm_jax.metrics.comparisons import compare_all
from lm_jax.metrics.resampling import SmallSample, effective_number
from lm_jax.text.words import count_words

D = 40


@pytest.fixture(scope="module")
def systems():
    """Nats of four systems, of which the last two are equal, and the bytes of forty documents."""
    rng = np.random.default_rng(0)
    size_D = np.exp(rng.normal(7, 1, D)).round()
    rate_D = 1.5 + rng.gamma(1, 0.3, D)
    nats = [size_D * (rate_D + 0.05 * k + 0.1 * rng.normal(size=D)) for k in range(3)]
    return [(x, size_D) for x in (*nats, nats[-1])]


@pytest.fixture(scope="module")
def compared(systems):
    return compare_all({"bits": (systems, likelihood.bits_per_byte), "ratio": (systems, significance.ratio)})


def test_all_pairs_have_what_the_tests_of_each_pair_give(systems, compared):
    bits = compared["bits"]
    assert list(bits) == list(itertools.combinations(range(4), 2))
    for (i, j), found in bits.items():
        pair = (systems[i], systems[j])
        bootstrap = significance.paired_bootstrap(*pair, metric=likelihood.bits_per_byte)
        swapped = significance.approximate_randomization(*pair, metric=likelihood.bits_per_byte)
        assert found.difference == bootstrap.difference
        assert found.p_value == pytest.approx(bootstrap.p_value, rel=1e-9)
        assert found.randomization_p_value == swapped.p_value
        assert found.low <= found.difference <= found.high
        assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)
        in_nats = compared["ratio"][i, j]
        assert found[1:3] == pytest.approx(np.array(in_nats[1:3]) / np.log(2))
        assert found[3:] == pytest.approx(in_nats[3:])
    assert bits[2, 3][:4] == (0, 0, 0, 1), "a system against itself"


def test_holm_over_all_pairs_by_hand(compared):
    found = compared["bits"]
    by_p = sorted(found, key=lambda pair: found[pair].randomization_p_value)
    largest = 0.0
    for rank, pair in enumerate(by_p):
        largest = max(largest, min(1.0, (len(by_p) - rank) * found[pair].randomization_p_value))
        assert found[pair].holm_p_value == pytest.approx(largest)


def test_tests_of_means_are_scipys():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=25), rng.normal(0.4, 1.2, size=25)
    [found] = compare_all({"mean": ([(a, np.ones(25)), (b, np.ones(25))], significance.ratio)})[
        "mean"
    ].values()
    swaps = scipy.stats.permutation_test(
        (a, b), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", n_resamples=20_000,
        vectorized=True, rng=0,
    )  # fmt: skip
    assert found.randomization_p_value == pytest.approx(swaps.pvalue, abs=0.02)
    assert found.p_value == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=0.25)
    # Percentiles of SciPy's bootstrap, further out by Student's t with D − 1 degrees of freedom.
    t = scipy.stats.t.ppf(0.975, 24) * np.sqrt(25 / 24)
    boot = scipy.stats.bootstrap(
        ((a - b),), np.mean, n_resamples=20_000, method="percentile", rng=0,
        confidence_level=1 - 2 * scipy.stats.norm.sf(t),
    )  # fmt: skip
    width = found.high - found.low
    assert (found.low, found.high) == pytest.approx(tuple(boot.confidence_interval), abs=0.06 * width)


def test_few_and_unequal_documents_widen_the_interval():
    equal, few, one_decides = np.ones(1000), np.ones(5), np.array([1e6, *[1.0] * 99])
    assert effective_number([equal]) == pytest.approx(1000)
    assert effective_number([one_decides]) == pytest.approx(1, abs=0.001)
    hits = np.array([1.0, *[0.0] * 9])
    assert effective_number([hits, np.ones(10)]) == pytest.approx(10), "of an accuracy the denominators count"
    assert effective_number([np.full(4, 1e300)]) == 4
    assert effective_number([np.zeros(4)]) == 4
    assert SmallSample([equal]).tail(0.95) == pytest.approx(0.025, rel=0.02)
    t = scipy.stats.t.ppf(0.975, 4) * np.sqrt(5 / 4)
    assert SmallSample([few]).tail(0.95) == pytest.approx(scipy.stats.norm.sf(t))
    small = SmallSample([few])
    assert small.p_value(small.tail(0.95)) == pytest.approx(0.05)
    assert small.p_value(0.6) == 1
    assert SmallSample([np.ones(1)]).p_value(1e-4) == 1, "one document tells nothing"


def test_metrics_of_ranks_are_tested_by_exchanging_the_rows():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=30)
    guesses = [truth + rng.normal(size=30), rng.normal(size=30), truth + 2 * rng.normal(size=30)]
    found = compare_all(
        {"spearman": ([(truth, x) for x in guesses], correlation.spearman)}, num_resamples=500, of_rows=True
    )["spearman"]
    observed = found[0, 1].difference
    expected = [scipy.stats.spearmanr(truth, x).statistic for x in guesses]
    assert observed == pytest.approx(expected[0] - expected[1])
    trials = []
    for _ in range(500):
        swap = rng.random(30) < 0.5
        both = (np.where(swap, guesses[i], guesses[1 - i]) for i in (1, 0))
        values = [scipy.stats.spearmanr(truth, x).statistic for x in both]
        trials.append(abs(values[0] - values[1]) >= abs(observed))
    assert found[0, 1].randomization_p_value == pytest.approx((1 + sum(trials)) / 501, abs=0.03)
    assert found[0, 1].low < observed < found[0, 1].high


def made(name, statistics, **changes):
    number = len(next(iter(statistics.values())).arrays[0])
    header = (name, "any", "any", None, "test", number, "0", "", {}, {"tokens": 9, "oov": 0}, {})
    row = Row(*header, measure(statistics, {}))
    return Evaluation(dataclasses.replace(row, **changes), statistics)


def test_each_row_has_its_differences_to_the_rows_before_it(systems, tmp_path):
    group = [
        made(
            str(k),
            {"bits": Statistics(x, likelihood.bits_per_byte), "nats": Statistics(x, significance.ratio)},
        )
        for k, x in enumerate(systems[:3])
    ]
    compare(group)
    assert [[(d.to, d.metric) for d in one.row.differences] for one in group] == [
        [],
        [("0", "bits"), ("0", "nats")],
        [("0", "bits"), ("0", "nats"), ("1", "bits"), ("1", "nats")],
    ]
    for one in group[1:]:
        assert one.row.difference == one.row.differences[0]
    of_pair = difference(group[2], group[1], "bits")
    last = group[2].row.differences[2]
    assert last._replace(holm_p_value=None, pairs=None) == of_pair._replace(holm_p_value=None, pairs=None)
    assert (last.pairs, of_pair.pairs) == (3, 1)
    assert last.value == pytest.approx(
        group[2].row.metrics["bits"].value - group[1].row.metrics["bits"].value
    )
    rows = [one.row for one in group]
    write_rows(tmp_path / "results.json", rows)
    assert read_rows(tmp_path / "results.json") == rows


def test_rows_fall_to_the_first_metric_that_compares(systems):
    """As an LSTM and an n-gram of one vocabulary, whose text has unknown words, beside a model of bytes."""
    same = ("tokens", "oov")

    def model(name, x, oov):
        statistics = {
            "bits_per_byte": Statistics(x, likelihood.bits_per_byte),
            "nats_per_token": Statistics(x, significance.ratio, same=same),
            "perplexity": Statistics(x, likelihood.perplexity, same=same),
        }
        one = made(name, statistics, counts={"tokens": 9, "oov": oov})
        if oov:
            one.row.metrics |= measure(statistics, {"bits_per_byte": "no bits per byte: 3 unknown tokens"})
        return one

    group = [model(name, x, oov) for name, x, oov in zip("abc", systems, (3, 3, 0))]
    compare(group)
    second, third = group[1].row, group[2].row
    assert (second.difference.metric, second.difference.to) == ("nats_per_token", "a")
    assert {d.metric for d in second.differences} == {"nats_per_token", "perplexity"}
    assert second.difference.pairs == 1
    assert (second.notes, third.difference, third.differences) == ([], None, [])
    [note] = third.notes
    assert note == "nats per token, perplexity do not compare with a's: 0 oov here, 3 there"
    # Perplexity is a monotone function of nats per token: no test may tell them apart.
    by_metric = {d.metric: d for d in second.differences}
    tests = [
        (by_metric[name].p_value, by_metric[name].randomization_p_value)
        for name in ("nats_per_token", "perplexity")
    ]
    assert tests[0] == pytest.approx(tests[1], abs=0.002)


def test_bleu_and_classes_of_other_numbers():
    rng = np.random.default_rng(3)
    totals = rng.integers(5, 30, (D, 4))
    hits = [rng.integers(1, totals), rng.integers(1, totals)]
    bleus = [Statistics((x, totals, totals[:, 0], totals[:, 0]), overlap.bleu, False) for x in hits]
    two, three = (Statistics((rng.random((D, k)),), _first, False) for k in (2, 3))
    group = [made("a", {"bleu": bleus[0], "share": two}), made("b", {"bleu": bleus[1], "share": three})]
    compare(group)
    [found] = group[1].row.differences
    assert found.metric == "bleu"
    assert found.p_value == pytest.approx(
        significance.paired_bootstrap(bleus[1].arrays, bleus[0].arrays, metric=overlap.bleu).p_value
    )


def _first(x):
    return x[0] / x.sum()


WORDS = ("the", "a", "quite", "longer", "words\n", "of", "text.\n", "Straße", "数据")


def lines(num_words, seed=0):
    return " ".join(np.random.default_rng(seed).choice(WORDS, num_words))


@pytest.mark.parametrize("content", [lines(9000), lines(3000).replace("\n", ""), lines(1500), "x" * 900, ""])
def test_blocks_tile_a_document_and_cut_no_word(content):
    data = content.encode()
    cuts = blocks.cut(data, 1000)
    assert (cuts[0], cuts[-1]) == (0, len(data))
    parts = [data[a:b] for a, b in itertools.pairwise(cuts)]
    assert b"".join(parts) == data
    assert sum(map(count_words, parts)) == count_words(data)
    assert all(part.decode() for part in parts) or not data
    sizes = np.diff(cuts)
    if len(cuts) > 2:
        assert len(sizes) == round(len(data) / 1000)
        assert 500 < sizes.min() <= sizes.max() < 1500
    if content.count("\n") > 500:
        assert all(part.endswith(b"\n") for part in parts[:-1])


def _tokens(data, width, seed=0):
    """A document in tokens of some bytes, whatever words and characters they cut."""
    edges = np.unique(np.append(np.arange(0, len(data), width), len(data)))
    spans = np.concatenate([np.stack([edges[:-1], edges[1:]], axis=1), [[len(data)] * 2]])
    log_probs = -np.random.default_rng(seed).gamma(1.0, 2.0, len(spans))
    return ScoredText(data, spans, log_probs, log_probs < -9, "nothing", True, log_probs / 2)


def test_blocks_of_other_tokenizers_have_the_same_bytes_and_every_token_once():
    data = lines(4000).encode()
    found = [blocks.units([_tokens(data, width)]) for width in (1, 3, 7)]
    for width, units in zip((1, 3, 7), found):
        assert units.name == f"30 blocks of about {len(data) // 30:,} bytes"
        assert [part.text for part in units.parts] == [part.text for part in found[0].parts]
        whole = _tokens(data, width)
        for name in ("log_probs", "unknown", "log_spelling"):
            joined = np.concatenate([getattr(part, name) for part in units.parts])
            np.testing.assert_array_equal(joined, getattr(whole, name))
        for part in units.parts:
            assert part.spans[:, 1].min() >= 0
            assert part.spans[:, 1].max() <= len(part.text)
    assert all(b"".join(part.tokens) == part.text for part in found[0].parts), "tokens of single bytes"


def test_a_text_of_one_document_has_intervals_and_tests_over_blocks():
    document = lines(3000)
    group = [evaluation.evaluate(Noisy(b, seed), text(document), str(b)) for b, seed in ((3.0, 0), (2.9, 1))]
    compare(group)
    for one in group:
        assert one.row.documents == 1
        assert one.row.resampled.startswith("30 blocks of about ")
        for metric in one.row.metrics.values():
            assert metric.interval[0] < metric.value < metric.interval[1]
    whole = evaluation.evaluate(Uniform(3.0), text(document), "m").row
    assert group[0].row.counts == whole.counts
    found = group[1].row.difference
    assert found.p_value == pytest.approx(found.least_p_value)
    assert found.randomization_p_value == 1 / 10_001
    several = [document[i * 3000 : (i + 1) * 3000] for i in range(4)]
    assert "blocks" in evaluation.evaluate(Uniform(3.0), text(*several), "m").row.resampled
    assert evaluation.evaluate(Uniform(3.0), text(*several * 3), "m").row.resampled == "documents"
    assert evaluation.evaluate(Uniform(3.0), text("a b", "c"), "m").row.resampled == "documents"


class Noisy(Uniform):
    """Bits of each byte with noise that is independent."""

    def __init__(self, bits, seed):
        super().__init__(bits)
        self.seed = seed

    def score(self, texts, stride=None):
        rng = np.random.default_rng(self.seed)
        return [
            s._replace(log_probs=s.log_probs * rng.gamma(50, 1 / 50, len(s.log_probs)))
            for s in super().score(texts)
        ]


def test_lines_that_were_scored_one_by_one_are_put_at_their_bytes():
    content = lines(4000).removesuffix("\n") + "\n"
    parts = [_tokens(line.encode(), 3) for line in content.removesuffix("\n").split("\n")]
    joined = bidirectional._join(content, parts)
    assert joined.tokens == [token for part in parts for token in part.tokens]
    assert joined.log_probs.sum() == pytest.approx(sum(part.log_probs.sum() for part in parts))
    assert len(blocks.units([joined]).parts) == 30


def test_neighbouring_blocks_that_are_alike_are_noted():
    data = lines(4000).encode()
    one = _tokens(data, 3)
    drift = 1 + np.linspace(0, 1, len(one.log_probs))
    assert blocks.units([one]).note == ""
    assert "alike (correlation 0." in blocks.units([one._replace(log_probs=-drift)]).note


def test_ends_of_intervals_hold_the_truth_as_often_as_they_say():
    """Documents of very different lengths and skewed rates; the whole table is in benchmarks/coverage.py."""
    rng = np.random.default_rng(4)
    covered = {"expanded": 0, "percentile": 0}
    for trial in range(300):
        size_D = np.exp(rng.normal(7, 1.2, 15))
        nats_D = size_D * (1.5 + rng.gamma(1, 0.5, 15))
        for method in covered:
            found = significance.bootstrap_interval(
                nats_D, size_D, num_resamples=1000, seed=trial, method=method
            )
            covered[method] += found.low <= 2 <= found.high
    assert 0.915 <= covered["expanded"] / 300 <= 0.985
    assert covered["percentile"] / 300 < 0.9


def test_holm_keeps_the_family_wise_error_at_the_level():
    rng = np.random.default_rng(5)
    wrong = wrong_bootstrap = 0
    for trial in range(300):
        size_D = np.exp(rng.normal(7, 1, 15))
        rate_D = 1.5 + rng.gamma(1, 0.5, 15)
        group = [(size_D * (rate_D + 0.1 * rng.normal(size=15)), size_D) for _ in range(4)]
        found = compare_all({"m": (group, significance.ratio)}, num_resamples=500, seed=trial)["m"].values()
        wrong += any(one.holm_p_value <= 0.05 for one in found)
        wrong_bootstrap += next(iter(found)).p_value <= 0.05
    # Two standard errors above 5 %.
    assert wrong / 300 <= 0.075
    assert wrong_bootstrap / 300 <= 0.075


def test_systems_that_do_not_pair_up_are_refused():
    with pytest.raises(UserError, match="do not pair up"):
        compare_all({"m": ([(np.ones(3),), (np.ones(4),)], significance.ratio)})
    assert compare_all({}) == {}


def test_a_value_that_is_no_number_on_some_draws_is_not_tested():
    x = [(np.ones(4), np.array([1.0, 0, 0, 0])), (2 * np.ones(4), np.array([1.0, 0, 0, 0]))]
    group = [made(name, {"m": Statistics(s, significance.ratio)}) for name, s in zip("ab", x)]
    compare(group)
    assert (group[1].row.difference, group[1].row.differences) == (None, [])
    assert resampling.LEAST_P == 1 / 10_001
