"""Bootstrap intervals, paired significance tests, and Holm's correction for several tests.

The bootstrap and the randomisation test work on any metric made of sums. A statistic is an array [D, ...]
with one row for each document (or sentence, or other independent unit), and `metric` is a jnp function of the
statistics summed over D, one argument each: `likelihood.bits_per_byte` of nats and bytes, `overlap.bleu` of
BLEU's counts, and by default `ratio`.

    bootstrap_interval(nats_D, bytes_D, metric=bits_per_byte)
    paired_bootstrap((nats_a_D, bytes_D), (nats_b_D, bytes_D), metric=bits_per_byte)

The same seed gives the same result. Statistics may be of any size that float64 holds. The engine is in
`resampling`; many systems at once are compared by `comparisons`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lm_jax.batch import Array
from lm_jax.errors import UserError
from lm_jax.metrics.host import real
from lm_jax.metrics.resampling import (
    RESAMPLES,
    Interval,
    Metric,
    SmallSample,
    Statistics,
    differences_of,
    draw,
    evaluate,
    expanded_p,
    interval,
    join,
    monte_carlo_p,
    on_the_whole,
    ratio,
    rounding,
    rows_sum,
    rows_taken,
    stack,
    swapped_sum,
)


class Mean(NamedTuple):
    """A mean, and half the width of its confidence interval: 0 of a single value."""

    value: float
    half_width: float


def mean_interval(values_N: np.ndarray, level: float = 0.95) -> Mean:
    """The mean of a few values, such as a score by several seeds, with Student's interval.

    mean ± t · s / √N, where t is the quantile of Student's distribution with N − 1 degrees of freedom and s
    the sample's standard deviation (Student 1908).

    Raises:
        UserError: no values.
    """
    from scipy.special import stdtrit  # comes with jax

    values_N = real(values_N, "values").astype(float)
    if values_N.ndim != 1 or not len(values_N):
        raise UserError(f"values of shape {values_N.shape}", "give a row of at least one")
    _check_probability("level", level)
    if len(values_N) == 1:
        return Mean(float(values_N[0]), 0.0)
    error = values_N.std(ddof=1) / np.sqrt(len(values_N))
    return Mean(float(values_N.mean()), float(stdtrit(len(values_N) - 1, (1 + level) / 2) * error))


def mean_p_value(values_N: np.ndarray) -> float:
    """The two-sided p-value of a mean as far from 0 if the true one is 0, by Student's test (Student 1908).

    Of the differences of two settings' scores by the same seeds it is the paired t-test. NaN of a single
    value; 0 of equal values that are not 0, and 1 of zeros.

    Raises:
        UserError: no values.
    """
    from scipy.special import stdtr  # comes with jax

    mean, half_width = mean_interval(values_N)
    if len(values_N) == 1:
        return float("nan")
    if not half_width:
        return 0.0 if mean else 1.0
    error = np.std(values_N, ddof=1) / np.sqrt(len(values_N))
    return float(2 * stdtr(len(values_N) - 1, -abs(mean) / error))


class PairedTest(NamedTuple):
    """metric(a) − metric(b) on all documents, and the p-value of such a difference if neither is better.

    The p-value is NaN where the metric is not a finite number on all documents or on some of the draws.
    """

    difference: float
    p_value: float


def bootstrap_interval(
    *statistics: Array,
    metric: Metric = ratio,
    num_resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: Array | None = None,
    method: str = "expanded",
    of_rows: bool = False,
) -> Interval:
    """Bootstrap interval of a metric made of sums, between percentiles of its values on resampled documents.

    Documents are drawn with replacement, with all their statistics. With one document the interval has no
    width. By simulation (benchmarks/coverage.py), those of 95 % hold the true value 92 to 97 times of 100
    from 10 documents on, and about 90 times with 5.

    Args:
        *statistics: arrays [D, ...]; for the default metric numerators [D] and denominators [D], or scores
            [D] alone, for their mean.
        metric: from the summed statistics to a scalar, traceable by jax. Keep one function object, since a
            new lambda is compiled again.
        num_resamples: R; at 10,000 the ends move by about 1 % of the width from seed to seed.
        confidence: the probability between the ends; half of the rest lies beyond each.
        seed: of `jax.random`.
        resamples: [R, D] row numbers instead of the seed's.
        method: "expanded", which allows for few documents and for unequal ones (see
            `resampling.SmallSample`), or "percentile" (Efron and Tibshirani 1993, section 13.3).
        of_rows: whether `metric` takes the rows that are drawn, [D, ...], and not their sums: for metrics of
            ranks.
    """
    _check_probability("confidence", confidence)
    _check_method(method, ("expanded", "percentile"))
    stacked = stack(metric, statistics)
    draws = draw(resamples, num_resamples, seed, len(stacked[0]))
    values_R1 = evaluate(metric, rows_taken if of_rows else rows_sum, stacked, draws)
    estimate = on_the_whole(metric, stacked, of_rows)[0]
    tail = SmallSample(stacked, of_rows).tail(confidence) if method == "expanded" else (1 - confidence) / 2
    return interval(estimate, values_R1[:, 0], rounding(values_R1, stacked), tail)


def bootstrap_intervals(
    statistics: Mapping[str, tuple[Sequence[Array], Metric]],
    *,
    num_resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """`bootstrap_interval` of several metrics of the same documents: equal results in less time.

    The documents are drawn once for all metrics, an array that several metrics read is summed once, and one
    program is compiled.

    Args:
        statistics: by name, the arrays [D, ...] that a metric takes, and the metric.
        num_resamples: R.
        confidence: the probability between the ends.
        seed: of `jax.random`.
    """
    _check_probability("confidence", confidence)
    stacks = {name: stack(metric, list(arrays)) for name, (arrays, metric) in statistics.items()}
    together, arrays = join(stacks, {name: metric for name, (_, metric) in statistics.items()})
    if len({len(x) for x in arrays}) > 1:
        raise UserError("statistics of different documents", "give all of them one row for each document")
    if not arrays:
        return {}
    values_R1M = evaluate(together, rows_sum, arrays, draw(None, num_resamples, seed, len(arrays[0])))
    intervals = {}
    for (name, stacked), values_R in zip(stacks.items(), values_R1M[:, 0].T):
        estimate, tail = on_the_whole(statistics[name][1], stacked)[0], SmallSample(stacked).tail(confidence)
        intervals[name] = interval(estimate, values_R, rounding(values_R, arrays), tail)
    return intervals


def paired_bootstrap(
    statistics_a: Statistics,
    statistics_b: Statistics,
    *,
    metric: Metric = ratio,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
    resamples: Array | None = None,
    method: str = "expanded",
    of_rows: bool = False,
) -> PairedTest:
    """Paired bootstrap test of whether two systems scored on the same documents differ.

    The p-value is 1 less the confidence of the widest interval of the difference that leaves 0 out, in
    (0, 1]; 1 for a system against itself. It allows for few documents and for unequal ones, see
    `resampling.SmallSample`.

    Args:
        statistics_a: the arrays [D, ...] that `metric` takes, of one system.
        statistics_b: those of the other, row for row.
        metric: as for `bootstrap_interval`.
        num_resamples: R.
        seed: of `jax.random`.
        resamples: [R, D] row numbers instead of the seed's.
        method: "expanded"; "shifted", in which the differences d* of the resamples, shifted to mean 0, are
            the null distribution, and p = (1 + #{|d* − mean d*| ≥ |d|}) / (1 + R) (Noreen 1989; Riezler and
            Maxwell 2005): at a level of 5 % it is wrong in 8 to 15 of 100 cases with 27 documents
            (benchmarks/coverage.py); or "sacrebleu" for that tool's p = (1 + #{|d*| − mean |d*| > |d|}) /
            (1 + R), about half as large where the difference is clear.
        of_rows: as for `bootstrap_interval`.
    """
    _check_method(method, ("expanded", "shifted", "sacrebleu"))
    stacked = stack(metric, statistics_a, statistics_b)
    draws = draw(resamples, num_resamples, seed, len(stacked[0]))
    values_R2 = evaluate(metric, rows_taken if of_rows else rows_sum, stacked, draws)
    differences, observed = differences_of(values_R2, on_the_whole(metric, stacked, of_rows))
    tolerance = rounding(values_R2, stacked)
    if method == "expanded":
        return PairedTest(
            observed, expanded_p(differences, observed, tolerance, SmallSample(stacked, of_rows))
        )
    with np.errstate(invalid="ignore"):
        if method == "sacrebleu":
            extreme = np.abs(differences) - np.abs(differences).mean() > abs(observed)
        else:
            extreme = np.abs(differences - differences.mean()) >= abs(observed) - tolerance
    return PairedTest(observed, monte_carlo_p(extreme, differences, observed))


def approximate_randomization(
    statistics_a: Statistics,
    statistics_b: Statistics,
    *,
    metric: Metric = ratio,
    num_trials: int = RESAMPLES,
    seed: int = 0,
    swaps: Array | None = None,
) -> PairedTest:
    """Paired randomisation test of whether two systems scored on the same documents differ.

    Each trial exchanges the systems' outputs on each document with probability 1/2, and
    p = (1 + #{|d*| ≥ |d|}) / (1 + trials) (Noreen 1989; Yeh 2000). In (0, 1]; 1 for a system against itself.

    Args:
        statistics_a: the arrays [D, ...] that `metric` takes, of one system.
        statistics_b: those of the other, row for row.
        metric: as for `bootstrap_interval`.
        num_trials: the number of trials.
        seed: of `jax.random`.
        swaps: [trials, D] booleans instead of the seed's.
    """
    stacked = stack(metric, statistics_a, statistics_b)
    swaps = None if swaps is None else real(swaps, "swaps").astype(bool)
    draws = draw(swaps, num_trials, seed, len(stacked[0]))
    values_R2 = evaluate(metric, swapped_sum, stacked, draws)
    differences, observed = differences_of(values_R2, on_the_whole(metric, stacked))
    extreme = np.abs(differences) >= abs(observed) - rounding(values_R2, stacked)
    return PairedTest(observed, monte_carlo_p(extreme, differences, observed))


def sign_test(scores_a: Array, scores_b: Array) -> PairedTest:
    """Exact two-sided sign test on paired scores [D] (Conover 1999, section 3.4).

    Of the n documents on which the scores differ, k favour a: p = min(1, 2 · P(X ≤ min(k, n − k))) with
    X ~ Binomial(n, 1/2). Ties are dropped; p is 1 where all tie. `difference` is (k − (n − k)) / D.
    """
    from scipy.special import bdtr

    scores_a, scores_b = real(scores_a, "scores"), real(scores_b, "scores")
    if scores_a.shape != scores_b.shape or scores_a.ndim != 1 or not scores_a.size:
        raise UserError(
            f"scores of shape {scores_a.shape} and {scores_b.shape} are not pairs",
            "give one score for each document and system, at least one document",
        )
    if np.isnan(scores_a).any() or np.isnan(scores_b).any():
        raise UserError("scores contain NaN, which has no order", "leave these documents out")
    wins, losses = int((scores_a > scores_b).sum()), int((scores_a < scores_b).sum())
    p_value = min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))
    return PairedTest((wins - losses) / scores_a.size, p_value)


def mcnemar(correct_a: Array, correct_b: Array) -> PairedTest:
    """McNemar's exact test on paired outcomes [D], right or wrong (McNemar 1947).

    The sign test on the examples that only one of the two gets right; `difference` is that of the accuracies.
    """
    correct = [real(x, "outcomes") for x in (correct_a, correct_b)]
    if not all(np.isin(x, (0, 1)).all() for x in correct):
        raise UserError("outcomes that are neither 0 nor 1", "give whether each answer is right")
    return sign_test(*(x.astype(np.int8) for x in correct))


def holm(p_values: Array) -> np.ndarray:
    """Holm's adjusted p-values [M], in the order given (Holm 1979).

    Sorted ascending, p'_(i) = max over j ≤ i of min(1, (M − j + 1) · p_(j)). Rejecting where p' ≤ α keeps
    the probability of any false rejection at α or below, however the tests depend on each other.
    """
    p_values = real(p_values, "p-values").astype(float)
    if p_values.ndim != 1 or not ((p_values >= 0) & (p_values <= 1)).all():
        raise UserError("p-values that are not a row of numbers from 0 to 1", "leave NaN out")
    order = np.argsort(p_values)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return adjusted


def _check_probability(name: str, value: float) -> None:
    if not isinstance(value, int | float | np.number) or not 0 < value < 1:
        raise UserError(f"{name} is {value}", "give a probability between 0 and 1, such as 0.95")


def _check_method(method: str, known: Sequence[str]) -> None:
    if method not in known:
        raise UserError(f"no method {method!r}", f"use one of {', '.join(known)}")
