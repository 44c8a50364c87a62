"""Bootstrap intervals, paired significance tests, and Holm's correction for several tests.

The bootstrap and the randomisation test work on any metric made of sums. A statistic is an array [D, ...]
with one row for each document (or sentence, or other independent unit), and `metric` is a jnp function of the
statistics summed over D, one argument each: `likelihood.bits_per_byte` of nats and bytes, `overlap.bleu` of
BLEU's counts, and by default `ratio`.

    bootstrap_interval(nats_D, bytes_D, metric=bits_per_byte)
    paired_bootstrap((nats_a_D, bytes_D), (nats_b_D, bytes_D), metric=bits_per_byte)

Resampling is one jitted function with bounded memory, in float64 on the host's CPU whatever the program's
precision is: float32 loses small differences of large sums. The same seed gives the same result. Statistics
may be of any size that float64 holds.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.batch import Array
from lm_jax.errors import UserError
from lm_jax.metrics.host import real, whole

Metric = Callable[..., Any]
Statistics = Array | Sequence[Array]

_DRAWS_AT_A_TIME = 1 << 18  # row numbers held at once: 1 MB, which stays in the cache of a CPU
_MOST_DRAWS = 1 << 24  # whose keys take 128 MB


def ratio(total: Array, weight: Array) -> Array:
    """total / weight: a mean, an accuracy, nats per token."""
    return total / weight


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


RESAMPLES = 10_000  # by default
LEAST_P = 1 / (1 + RESAMPLES)  # of a test that no resample contradicts: the true p-value may be smaller


class Interval(NamedTuple):
    """A metric's value on all documents, and the ends of its confidence interval.

    The ends are NaN where the metric is not a finite number on some of the draws.
    """

    estimate: float
    low: float
    high: float


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
    of_rows: bool = False,
) -> Interval:
    """Percentile bootstrap interval of a metric made of sums (Efron and Tibshirani 1993, section 13.3).

    Documents are drawn with replacement, with all their statistics. With one document the interval has no
    width; with fewer than about 20 it is too narrow.

    Args:
        *statistics: arrays [D, ...]; for the default metric numerators [D] and denominators [D], or scores
            [D] alone, for their mean.
        metric: from the summed statistics to a scalar, traceable by jax. Keep one function object, since a
        new lambda is compiled again. num_resamples: R; at 10,000 the ends move by about 1 % of the width from
        seed to seed.
        confidence: the probability between the ends; half of the rest lies beyond each.
        seed: of `jax.random`.
        resamples: [R, D] row numbers instead of the seed's.
        of_rows: whether `metric` takes the rows that are drawn, [D, ...], and not their sums: for metrics of
            ranks.
    """
    _check_probability("confidence", confidence)
    stacked = _stack(metric, statistics)
    draws = _draws(resamples, num_resamples, seed, len(stacked[0]))
    values_R1 = _evaluate(metric, _rows_taken if of_rows else _rows_sum, stacked, draws)
    estimate = _on_the_whole(metric, stacked, of_rows)[0]
    return _interval(estimate, values_R1[:, 0], _rounding(values_R1, stacked), confidence)


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
    arrays: list[np.ndarray] = []
    metrics, places, estimates = [], [], []
    for of_metric, metric in statistics.values():
        stacked = _stack(metric, list(of_metric))
        metrics.append(metric)
        places.append(tuple(_place(x, arrays) for x in stacked))
        estimates.append(_on_the_whole(metric, stacked)[0])
    if len({len(x) for x in arrays}) > 1:
        raise UserError("statistics of different documents", "give all of them one row for each document")
    if not arrays:
        return {}
    together = _Together(tuple(metrics), tuple(places))
    values_R1M = _evaluate(
        together, _rows_sum, tuple(arrays), _draws(None, num_resamples, seed, len(arrays[0]))
    )
    intervals = {}
    for name, estimate, values_R in zip(statistics, estimates, values_R1M[:, 0].T):
        intervals[name] = _interval(estimate, values_R, _rounding(values_R, arrays), confidence)
    return intervals


def paired_bootstrap(
    statistics_a: Statistics,
    statistics_b: Statistics,
    *,
    metric: Metric = ratio,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
    resamples: Array | None = None,
    method: str = "two-sided",
    of_rows: bool = False,
) -> PairedTest:
    """Paired bootstrap test of whether two systems scored on the same documents differ.

    The differences d* of the resamples, shifted to mean 0, are the null distribution, and p = (1 + #{|d* −
    mean d*| ≥ |d|}) / (1 + R) (Noreen 1989; Riezler and Maxwell 2005). In (0, 1]; 1 for a system against
    itself.

    Args:
        statistics_a: the arrays [D, ...] that `metric` takes, of one system.
        statistics_b: those of the other, row for row.
        metric: as for `bootstrap_interval`.
        num_resamples: R.
        seed: of `jax.random`.
        resamples: [R, D] row numbers instead of the seed's.
        method: "two-sided", or "sacrebleu" for that tool's p = (1 + #{|d*| − mean |d*| > |d|}) / (1 + R),
            about half as large where the difference is clear.
        of_rows: as for `bootstrap_interval`.
    """
    if method not in ("two-sided", "sacrebleu"):
        raise UserError(f"no method {method!r} of the paired bootstrap", "use 'two-sided' or 'sacrebleu'")
    stacked = _stack(metric, statistics_a, statistics_b)
    draws = _draws(resamples, num_resamples, seed, len(stacked[0]))
    values_R2 = _evaluate(metric, _rows_taken if of_rows else _rows_sum, stacked, draws)
    differences, observed = _differences(values_R2, _on_the_whole(metric, stacked, of_rows))
    with np.errstate(invalid="ignore"):
        if method == "sacrebleu":
            extreme = np.abs(differences) - np.abs(differences).mean() > abs(observed)
        else:
            centred = np.abs(differences - differences.mean())
            extreme = centred >= abs(observed) - _rounding(values_R2, stacked)
    return PairedTest(observed, _monte_carlo_p(extreme, differences, observed))


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
    stacked = _stack(metric, statistics_a, statistics_b)
    swaps = None if swaps is None else real(swaps, "swaps").astype(bool)
    draws = _draws(swaps, num_trials, seed, len(stacked[0]))
    values_R2 = _evaluate(metric, _swapped_sum, stacked, draws)
    differences, observed = _differences(values_R2, _on_the_whole(metric, stacked))
    extreme = np.abs(differences) >= abs(observed) - _rounding(values_R2, stacked)
    return PairedTest(observed, _monte_carlo_p(extreme, differences, observed))


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


@dataclass(frozen=True)
class _Together:
    """Several metrics as one function of all sums; equal ones are compiled once."""

    metrics: tuple[Callable[..., Any], ...]
    places: tuple[tuple[int, ...], ...]

    def __call__(self, *sums: Array) -> Array:
        values = [metric(*(sums[i] for i in at)) for metric, at in zip(self.metrics, self.places)]
        return jnp.stack(values)


def _place(x: np.ndarray, arrays: list[np.ndarray]) -> int:
    """The index of an array in a list, to which it is appended if it is missing."""
    for place, other in enumerate(arrays):
        if np.array_equal(x, other):
            return place
    arrays.append(x)
    return len(arrays) - 1


def _check_probability(name: str, value: float) -> None:
    if not isinstance(value, int | float | np.number) or not 0 < value < 1:
        raise UserError(f"{name} is {value}", "give a probability between 0 and 1, such as 0.95")


def _interval(estimate: float, values_R: np.ndarray, tolerance: float, confidence: float) -> Interval:
    """The interval; an end that only rounding puts beyond the estimate is moved there."""
    if not np.isfinite(values_R).all():
        return Interval(float(estimate), math.nan, math.nan)
    low, high = np.quantile(values_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    low = estimate if 0 < low - estimate <= tolerance else low
    high = estimate if 0 < estimate - high <= tolerance else high
    return Interval(float(estimate), float(low), float(high))


def _stack(metric: Metric, *systems: Statistics) -> tuple[np.ndarray, ...]:
    """The statistics of K systems, each array [D, K, ...] in float64."""
    if not all(hasattr(system, "ndim") or isinstance(system, Sequence) for system in systems):
        raise UserError("statistics that are no arrays", "give an array, or a list of arrays, of each system")
    arrays_by_system = [
        [real(x, "statistics").astype(float) for x in ([system] if hasattr(system, "ndim") else system)]
        for system in systems
    ]
    if metric is ratio:
        arrays_by_system = [[*a, np.ones_like(a[0])] if len(a) == 1 else a for a in arrays_by_system]
    shapes = [[x.shape for x in arrays] for arrays in arrays_by_system]
    first = shapes[0][0] if shapes[0] else ()
    if any(s != shapes[0] for s in shapes) or not first or any(not s or s[0] != first[0] for s in shapes[0]):
        raise UserError(
            f"statistics of shapes {shapes} do not pair up",
            "give each system the same arrays, all with one row for each document",
        )
    if not first[0]:
        raise UserError("there are no documents to resample", "give statistics of at least one document")
    return tuple(np.stack(arrays, axis=1) for arrays in zip(*arrays_by_system))


def _on_the_whole(metric: Metric, stacked: tuple[np.ndarray, ...], of_rows: bool = False) -> np.ndarray:
    """The metric of each system on all documents, [K]."""
    sums = [x.swapaxes(0, 1) if of_rows else x.sum(axis=0) for x in stacked]
    with _float64(), np.errstate(all="ignore"):
        values = [np.asarray(metric(*(s[k] for s in sums))) for k in range(len(sums[0]))]
    if any(value.ndim for value in values):
        raise UserError(f"a metric of shape {values[0].shape}", "give one that returns a scalar")
    return np.asarray(values, float)


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    """Computes in float64, which TPUs do not have: on the CPU where jax has it."""
    with jax.enable_x64(True), _on_the_cpu():
        yield


def _on_the_cpu() -> contextlib.AbstractContextManager[Any]:
    """Places arrays on the CPU; of a process that was started without that backend, where jax does."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


def _draws(given: Array | None, num: int, seed: int, num_documents: int) -> Array:
    """The input of each draw of documents: a key, or the given rows or swaps, checked."""
    if given is None:
        seed = whole(seed, "seed", -(2**31), 2**32 - 1)  # jax would drop further bits
        num = whole(num, "the number of draws", 1, _MOST_DRAWS)
        with _on_the_cpu():
            return jax.random.split(jax.random.key(seed), num)
    given = real(given, "draws")
    fits = given.ndim == 2 and len(given) and given.shape[1] == num_documents
    are_rows = given.dtype == bool or np.issubdtype(given.dtype, np.integer)
    if (
        not fits
        or not are_rows
        or (given.dtype != bool and not 0 <= given.min() <= given.max() < num_documents)
    ):
        raise UserError(
            f"draws of shape {given.shape} do not fit {num_documents} documents",
            "give at least one draw, each of as many row numbers or swaps as there are documents",
        )
    return given


def _rows_sum(x_DK: jax.Array, draw: jax.Array) -> jax.Array:
    """The sum over documents drawn with replacement, [K, ...]; `draw` is a key or the rows themselves."""
    return x_DK[_rows(x_DK.shape[0], draw)].sum(axis=0)


def _rows_taken(x_DK: jax.Array, draw: jax.Array) -> jax.Array:
    """Documents drawn with replacement, [K, D, ...]; `draw` as for `_rows_sum`."""
    return x_DK[_rows(x_DK.shape[0], draw)].swapaxes(0, 1)


def _rows(D: int, draw: jax.Array) -> jax.Array:
    # Faster than `jax.random.randint` (see benchmarks/RESULTS.md); the bias is at most D / 2³².
    return (jax.random.bits(draw, (D,), jnp.uint32) % D).astype(int) if _is_key(draw) else draw


def _swapped_sum(x_D2: jax.Array, draw: jax.Array) -> jax.Array:
    """The sums of two systems that exchange some documents, [2, ...]; `draw` is a key or says which."""
    swap_D = jax.random.bernoulli(draw, np.float32(0.5), x_D2.shape[:1]) if _is_key(draw) else draw
    swap = jnp.expand_dims(swap_D, range(1, x_D2.ndim))
    return jnp.where(swap, x_D2[:, ::-1], x_D2).sum(axis=0)


def _is_key(draw: jax.Array) -> bool:
    return jnp.issubdtype(draw.dtype, jax.dtypes.prng_key)


def _evaluate(
    metric: Metric, sum_drawn: Callable, stacked: tuple[np.ndarray, ...], draws: Array
) -> np.ndarray:
    """The metric of K systems on each of R draws of documents, [R, K]; [R, K, ...] where it is an array."""
    batch_size = min(len(draws), max(1, _DRAWS_AT_A_TIME // len(stacked[0])))
    with _float64():
        values = _evaluate_jit(metric, sum_drawn, stacked, draws, batch_size)
        return np.asarray(values, float)


@functools.partial(jax.jit, static_argnames=("metric", "sum_drawn", "batch_size"))
def _evaluate_jit(metric, sum_drawn, stacked, draws, batch_size):
    def value(draw):
        return jax.vmap(metric)(*(sum_drawn(x, draw) for x in stacked))

    return jax.lax.map(value, draws, batch_size=batch_size)


def _differences(values_R2: np.ndarray, whole_2: np.ndarray) -> tuple[np.ndarray, float]:
    """What the first system has more than the second, on each draw [R] and on all documents."""
    with np.errstate(invalid="ignore"):
        return values_R2[:, 0] - values_R2[:, 1], float(whole_2[0] - whole_2[1])


def _rounding(values: np.ndarray, statistics: Sequence[np.ndarray]) -> float:
    """The largest rounding error of equal values from sums in another order, so that these count as ties."""
    num_documents = len(statistics[0])
    return max(16, num_documents) * float(np.finfo(float).eps) * float(np.abs(values).max(initial=0))


def _monte_carlo_p(extreme: np.ndarray, differences: np.ndarray, observed: float) -> float:
    """(1 + #extreme) / (1 + R), which counts the sample itself (Davison and Hinkley 1997, equation 4.11)."""
    if not (np.isfinite(differences).all() and np.isfinite(observed)):
        return math.nan
    return float((1 + extreme.sum()) / (1 + extreme.size))
