"""Intervals and tests against exact enumeration, scipy's tests, coverage by simulation, and known laws."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.metrics import resampling
from lm_jax.metrics.likelihood import bits_per_byte
from lm_jax.metrics.significance import (
    approximate_randomization,
    bootstrap_interval,
    holm,
    mcnemar,
    mean_interval,
    paired_bootstrap,
    sign_test,
)


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    num_bytes = rng.integers(100, 2000, 80)
    return num_bytes * rng.normal(1.4, 0.2, 80), num_bytes


def test_bits_per_byte_in_one_call(documents):
    nats, num_bytes = documents
    interval = bootstrap_interval(nats, num_bytes, metric=bits_per_byte)
    assert interval.estimate == nats.sum() / num_bytes.sum() / np.log(2)
    # The delta method's standard error of a ratio.
    residuals = nats - nats.sum() / num_bytes.sum() * num_bytes
    error = np.sqrt((residuals**2).sum()) / num_bytes.sum() / np.log(2)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert interval == bootstrap_interval(nats, num_bytes, metric=bits_per_byte)
    assert interval != bootstrap_interval(nats, num_bytes, metric=bits_per_byte, seed=1)
    narrower = bootstrap_interval(nats, num_bytes, metric=bits_per_byte, confidence=0.5)
    assert interval.low < narrower.low < narrower.high < interval.high


def test_every_resample_of_three_documents():
    numerators, denominators = np.array([1.0, 2.0, 6.0]), np.array([1.0, 4.0, 2.0])
    resamples = np.array(list(itertools.product(range(3), repeat=3)))
    values = numerators[resamples].sum(1) / denominators[resamples].sum(1)
    interval = bootstrap_interval(
        numerators, denominators, resamples=resamples, confidence=0.8, method="percentile"
    )
    np.testing.assert_allclose(interval[1:], np.quantile(values, [0.1, 0.9]), rtol=1e-6)
    one = bootstrap_interval(numerators, resamples=resamples)
    assert one.estimate == 3


def test_random_resamples_are_uniform():
    rows = np.arange(5.0)
    counts = np.stack([rows == k for k in range(5)], axis=1).astype(float)
    interval = bootstrap_interval(counts, metric=lambda c: c[3], num_resamples=20_000, confidence=0.9)
    # The count of one row of five is Binomial(5, 1/5): P(0) = 0.33, P(X <= 2) = 0.94.
    assert (interval.low, interval.high) == (0, 3)
    mean = bootstrap_interval(counts, metric=lambda c: (c == 0).mean(), num_resamples=20_000, confidence=0.5)
    assert (mean.low, mean.high) == pytest.approx((0.2, 0.4))


@pytest.mark.slow
def test_coverage():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        weights = rng.integers(1, 20, 60)
        scores = weights * rng.normal(2.0, 1.0, 60)
        interval = bootstrap_interval(scores, weights, num_resamples=500, seed=trial)
        covered += interval.low <= 2.0 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


def test_randomization_of_every_swap():
    a, b = np.array([3.0, 1.0, 4.0, 2.0, 5.0]), np.array([1.0, 1.5, 2.0, 1.0, 3.5])
    swaps = np.array(list(itertools.product([False, True], repeat=5)))
    differences = np.where(swaps, b - a, a - b).mean(1)
    extreme = (np.abs(differences) >= abs((a - b).mean()) - 1e-12).sum()
    assert extreme == 4  # nothing swapped, all, and the document of the smallest difference, both ways
    result = approximate_randomization(a, b, swaps=swaps)
    assert result.difference == pytest.approx((a - b).mean())
    assert result.p_value == pytest.approx((1 + extreme) / (1 + 32))


def test_p_values_are_those_of_a_t_test():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    a = rng.normal(size=200)
    for shift in (0.0, 0.1, 0.2):
        b = a + rng.normal(shift, 1.0, 200)
        expected = stats.ttest_rel(a, b).pvalue
        assert paired_bootstrap(a, b).p_value == pytest.approx(expected, abs=0.02)
        assert approximate_randomization(a, b).p_value == pytest.approx(expected, abs=0.02)


def test_a_system_against_itself(documents):
    for test in (paired_bootstrap, approximate_randomization):
        assert test(documents, documents) == (0, 1)


def test_paired_bootstrap_of_a_clear_difference(documents):
    nats, num_bytes = documents
    result = paired_bootstrap(
        (nats * 1.1, num_bytes), (nats, num_bytes), metric=bits_per_byte, num_resamples=999, method="shifted"
    )
    assert result.difference > 0
    assert result.p_value == 1 / 1000


def test_metrics_of_matrices(documents):
    counts = np.random.default_rng(3).integers(0, 5, (80, 2, 2))
    interval = bootstrap_interval(counts, metric=_trace_share, num_resamples=300)
    assert interval.estimate == pytest.approx(np.trace(counts.sum(0)) / counts.sum())
    assert interval.low < interval.estimate < interval.high


def _trace_share(counts):
    return jnp.trace(counts) / counts.sum()


def test_sign_test_and_mcnemar():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    wins, losses = (a > b).sum(), (a < b).sum()
    result = sign_test(a, b)
    assert result.p_value == pytest.approx(stats.binomtest(int(wins), int(wins + losses)).pvalue, rel=1e-12)
    assert result.difference == pytest.approx((wins - losses) / 60)
    a, b = rng.random(5000) < 0.8, rng.random(5000) < 0.78
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    result = mcnemar(a, b)
    assert result.p_value == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-9)
    assert result.difference == pytest.approx(a.mean() - b.mean())
    assert sign_test([1, 2], [1, 2]) == (0, 1)


def test_holm():
    # Holm 1979: 0.01 · 4, 0.013 · 3 (kept from falling below), 0.03 · 2, 0.04.
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.013]), [0.06, 0.04, 0.06, 0.04])
    np.testing.assert_allclose(holm([0.5, 0.6]), [1, 1])
    assert holm([]).size == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: bootstrap_interval(np.ones(3), np.ones(4)),
        lambda: bootstrap_interval(np.ones(0), np.ones(0)),
        lambda: bootstrap_interval(np.ones(3), confidence=95),
        lambda: bootstrap_interval(np.ones(3), resamples=np.zeros((5, 2), int)),
        lambda: bootstrap_interval(np.ones(3), resamples=np.full((5, 3), 3)),
        lambda: bootstrap_interval(np.ones(3), num_resamples=0),
        lambda: bootstrap_interval(),
        lambda: paired_bootstrap(np.ones(3), np.ones(4)),
        lambda: paired_bootstrap(np.ones(3), np.ones(3), method="one-sided"),
        lambda: sign_test([1, 2], [1]),
        lambda: sign_test([1, np.nan], [1, 2]),
        lambda: mcnemar([0, 2], [0, 1]),
        lambda: holm([0.1, np.nan]),
        lambda: bootstrap_interval(np.array([1j, 2])),
        lambda: bootstrap_interval(np.ones(3), num_resamples=2.5),
        lambda: bootstrap_interval(np.ones(3), seed=2**32),
        lambda: bootstrap_interval(np.ones(3), confidence=np.nan),
        lambda: mean_interval([1.0, 2.0], level=2),
    ],
)
def test_wrong_requests_raise_errors(call):
    with pytest.raises(UserError):
        call()


def test_documents_beyond_one_batch(monkeypatch, documents):
    whole = bootstrap_interval(*documents, num_resamples=100)
    monkeypatch.setattr(resampling, "_DRAWS_AT_A_TIME", 80 * 7)
    in_parts = bootstrap_interval(*documents, num_resamples=100)
    np.testing.assert_allclose(in_parts, whole, rtol=1e-6)


def test_small_differences_of_large_values_are_seen():
    # In float32 a number near 1e6 has steps of 1/16.
    rng = np.random.default_rng(5)
    a = 1e6 + rng.normal(0, 0.01, 200)
    b = a - 0.05 + rng.normal(0, 0.01, 200)
    interval = bootstrap_interval(a, num_resamples=500)
    assert interval.low < interval.estimate < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * a.std() / np.sqrt(200), rel=0.15)
    for test in (paired_bootstrap, approximate_randomization):
        result = test(a, b)
        assert result.difference == pytest.approx((a - b).mean())
        assert result.p_value < 0.001
        assert test(a, a[::-1] * 0 + a) == (0, 1)


@pytest.mark.parametrize("value", [1e6 + 0.1, 0.1, 1e300, -1e-300])
def test_an_estimate_lies_in_its_interval(value):
    interval = bootstrap_interval(np.full(50, value), num_resamples=50)
    assert interval.low <= interval.estimate == np.full(50, value).sum() / 50 <= interval.high
    np.testing.assert_allclose((interval.low, interval.high), value, rtol=1e-12)


def test_a_metric_that_is_no_number_on_some_draws_has_no_p_value():
    a, b = (np.ones(4), np.array([1.0, 0, 0, 0])), (2 * np.ones(4), np.array([1.0, 0, 0, 0]))
    for test in (paired_bootstrap, approximate_randomization):
        assert np.isnan(test((np.array([1.0, np.inf]),), (np.array([1.0, 2.0]),)).p_value)
    assert np.isnan(paired_bootstrap(a, b, num_resamples=100).p_value)


def test_bleu_has_the_digits_of_float64():
    from lm_jax.metrics import overlap

    rng = np.random.default_rng(6)
    totals = rng.integers(5, 30, (40, 4))
    statistics = (rng.integers(1, totals), totals, totals[:, 0], totals[:, 0] + 1)
    resamples = rng.integers(0, 40, (20, 40))
    interval = bootstrap_interval(
        *statistics, metric=overlap.bleu, resamples=resamples, confidence=0.5, method="percentile"
    )
    values = [overlap.bleu(*(x[rows].sum(0) for x in statistics)) for rows in resamples]
    np.testing.assert_allclose(interval[1:], np.quantile(values, [0.25, 0.75]), rtol=1e-13)
