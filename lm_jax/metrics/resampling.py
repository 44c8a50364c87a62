"""The engine of the bootstrap and of randomisation tests: resampled sums, and what few documents allow.

Statistics of K systems are stacked, each array [D, K, ...], so that all see the same draws of documents.
Resampling is one jitted function with bounded memory, in float64 on the host's CPU whatever the program's
precision is: float32 loses small differences of large sums.
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

RESAMPLES = 10_000  # by default
LEAST_P = 1 / (1 + RESAMPLES)  # of a test that no resample contradicts: the true p-value may be smaller
_DRAWS_AT_A_TIME = 1 << 18  # row numbers held at once: 1 MB, which stays in the cache of a CPU
_MOST_DRAWS = 1 << 24  # whose keys take 128 MB


def ratio(total: Array, weight: Array) -> Array:
    """total / weight: a mean, an accuracy, nats per token."""
    return total / weight


class Interval(NamedTuple):
    """A metric's value on all documents, and the ends of its confidence interval.

    The ends are NaN where the metric is not a finite number on some of the draws.
    """

    estimate: float
    low: float
    high: float


def effective_number(stacked: Sequence[np.ndarray]) -> float:
    """How many documents of equal size say as much as these: (Σ a)² / Σ a² (Kish 1965).

    a is what a document adds to an array, summed over systems and further axes without signs. Of several
    arrays the largest number counts: of an accuracy, that of the denominators and not that of the hits.

    Args:
        stacked: arrays [D, K, ...].
    """
    numbers = []
    for x in stacked:
        sizes_D = np.abs(x).reshape(len(x), -1).sum(axis=1)
        if 0 < sizes_D.max() < math.inf:
            shares_D = sizes_D / sizes_D.max()
            numbers.append(float(shares_D.sum() ** 2 / np.square(shares_D).sum()))
    return max(numbers, default=float(len(stacked[0])))


class SmallSample:
    """How intervals and p-values of the bootstrap are widened for few documents of unequal size.

    The percentiles of a bootstrap sample give too narrow intervals: its deviation is too small by
    √((D − 1) / D), and its quantiles are the normal distribution's where Student's are needed. The expanded
    percentile interval (Hesterberg 2015) reaches further into the tails, up to
    Φ(−√(D / (D − 1)) · t), t being the quantile of Student's distribution. Here this has n − 1 degrees of
    freedom, where n is the effective number of documents: a few long ones decide the sums. benchmarks/
    coverage.py compares this with other intervals.

    Args:
        stacked: the statistics, arrays [D, K, ...].
        of_rows: whether the metric takes the rows themselves, so that all documents say as much.
    """

    def __init__(self, stacked: Sequence[np.ndarray], of_rows: bool = False):
        D = len(stacked[0])
        self._narrow = math.sqrt((D - 1) / D)
        self._freedom = max(1.0, (D if of_rows else effective_number(stacked)) - 1)

    def tail(self, confidence: float) -> float:
        """The share of a bootstrap sample that lies beyond each end of an interval."""
        from scipy.special import ndtr, stdtrit  # comes with jax

        if not self._narrow:  # of one document all samples are equal
            return (1 - confidence) / 2
        return float(ndtr(-stdtrit(self._freedom, (1 + confidence) / 2) / self._narrow))

    def p_value(self, share: float) -> float:
        """The two-sided p-value if this share of a bootstrap sample lies on the other side of 0.

        Below 0.05 where the interval of 95 % leaves 0 out, from an effective number of four documents on.
        With fewer the tails are beyond all resamples, and the p-value is larger.
        """
        from scipy.special import ndtri, stdtr

        return min(1.0, 2 * float(stdtr(self._freedom, self._narrow * min(0.0, float(ndtri(share))))))


def join(
    stacks: Mapping[str, tuple[np.ndarray, ...]], metrics: Mapping[str, Metric]
) -> tuple[Metric, tuple[np.ndarray, ...]]:
    """Several metrics as one, [M] in their order, of all their arrays; an equal array is kept once.

    Args:
        stacks: the stacked statistics of each metric.
        metrics: each metric, by the same names.
    """
    arrays: list[np.ndarray] = []
    places = tuple(tuple(_place(x, arrays) for x in stacked) for stacked in stacks.values())
    return _Together(tuple(metrics[name] for name in stacks), places), tuple(arrays)


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


def stack(metric: Metric, *systems: Statistics) -> tuple[np.ndarray, ...]:
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


def on_the_whole(metric: Metric, stacked: tuple[np.ndarray, ...], of_rows: bool = False) -> np.ndarray:
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


def draw(given: Array | None, num: int, seed: int, num_documents: int) -> Array:
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


def rows_sum(x_DK: jax.Array, draw: jax.Array) -> jax.Array:
    """The sum over documents drawn with replacement, [K, ...]; `draw` is a key or the rows themselves."""
    return x_DK[_rows(x_DK.shape[0], draw)].sum(axis=0)


def rows_product(x_DK: jax.Array, draw: jax.Array) -> jax.Array:
    """`rows_sum` as a product with how often each document is drawn: faster for arrays of many columns."""
    rows_D = _rows(len(x_DK), draw)
    times_D = jnp.zeros(len(x_DK), x_DK.dtype).at[rows_D].add(1)
    return jnp.tensordot(times_D, x_DK, axes=1)


def rows_taken(x_DK: jax.Array, draw: jax.Array) -> jax.Array:
    """Documents drawn with replacement, [K, D, ...]; `draw` as for `rows_sum`."""
    return x_DK[_rows(x_DK.shape[0], draw)].swapaxes(0, 1)


def _rows(D: int, draw: jax.Array) -> jax.Array:
    # Faster than `jax.random.randint` (see benchmarks/RESULTS.md); the bias is at most D / 2³².
    return (jax.random.bits(draw, (D,), jnp.uint32) % D).astype(int) if _is_key(draw) else draw


def rows_swapped(x_D2: jax.Array, draw: jax.Array) -> jax.Array:
    """The documents of two systems that exchange some, [2, D, ...]; `draw` as for `swapped_sum`."""
    return _swapped(x_D2, draw).swapaxes(0, 1)


def pairs_swapped_sum(x_DK: jax.Array, draw: jax.Array) -> jax.Array:
    """`swapped_sum` of all P pairs i < j of K systems with the same exchanges, [2 P, ...]."""
    swap_D = _swaps(x_DK, draw).astype(x_DK.dtype)
    moved_K = jnp.tensordot(swap_D, x_DK, axes=1)
    kept_K = jnp.tensordot(1 - swap_D, x_DK, axes=1)
    first, second = np.triu_indices(x_DK.shape[1], 1)
    return jnp.concatenate([kept_K[first] + moved_K[second], kept_K[second] + moved_K[first]])


def swapped_sum(x_D2: jax.Array, draw: jax.Array) -> jax.Array:
    """The sums of two systems that exchange some documents, [2, ...]; `draw` is a key or says which."""
    return _swapped(x_D2, draw).sum(axis=0)


def _swapped(x_D2: jax.Array, draw: jax.Array) -> jax.Array:
    swap = jnp.expand_dims(_swaps(x_D2, draw), range(1, x_D2.ndim))
    return jnp.where(swap, x_D2[:, ::-1], x_D2)


def _swaps(x_DK: jax.Array, draw: jax.Array) -> jax.Array:
    return jax.random.bernoulli(draw, np.float32(0.5), x_DK.shape[:1]) if _is_key(draw) else draw


def _is_key(draw: jax.Array) -> bool:
    return jnp.issubdtype(draw.dtype, jax.dtypes.prng_key)


def evaluate(
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


def rounding(values: np.ndarray, statistics: Sequence[np.ndarray]) -> float:
    """The largest rounding error of equal values from sums in another order, so that these count as ties."""
    num_documents = len(statistics[0])
    return max(16, num_documents) * float(np.finfo(float).eps) * float(np.abs(values).max(initial=0))


def interval(estimate: float, values_R: np.ndarray, tolerance: float, tail: float) -> Interval:
    """The interval that leaves out a share `tail` of the values on resamples on each side.

    An end that only rounding puts beyond the estimate is moved there.
    """
    if not np.isfinite(values_R).all():
        return Interval(float(estimate), math.nan, math.nan)
    low, high = np.quantile(values_R, [tail, 1 - tail])
    low = estimate if 0 < low - estimate <= tolerance else low
    high = estimate if 0 < estimate - high <= tolerance else high
    return Interval(float(estimate), float(low), float(high))


def expanded_p(
    differences: np.ndarray, observed: float, tolerance: float, small_sample: SmallSample
) -> float:
    """The p-value of the expanded percentile interval of a difference, from its values on resamples."""
    upto, from_ = differences <= tolerance, differences >= -tolerance
    shares = [monte_carlo_p(beyond, differences, observed) for beyond in (upto, from_)]
    return small_sample.p_value(min(shares)) if np.isfinite(shares).all() else math.nan


def differences_of(values_R2: np.ndarray, whole_2: np.ndarray) -> tuple[np.ndarray, float]:
    """What the first system has more than the second, on each draw [R] and on all documents."""
    with np.errstate(invalid="ignore"):
        return values_R2[:, 0] - values_R2[:, 1], float(whole_2[0] - whole_2[1])


def monte_carlo_p(extreme: np.ndarray, differences: np.ndarray, observed: float) -> float:
    """(1 + #extreme) / (1 + R), which counts the sample itself (Davison and Hinkley 1997, equation 4.11)."""
    if not (np.isfinite(differences).all() and np.isfinite(observed)):
        return math.nan
    return float((1 + extreme.sum()) / (1 + extreme.size))


def by_document(metric: Metric, statistics: Sequence[Array]) -> np.ndarray:
    """A metric of sums on each document alone, float64 [D]; NaN or infinite where it is undefined there.

    Args:
        metric: as for `evaluate`.
        statistics: what it takes, arrays [D, ...].
    """
    with _float64():
        return np.asarray(_by_document_jit(metric, tuple(np.asarray(x, float) for x in statistics)), float)


@functools.partial(jax.jit, static_argnames=("metric",))
def _by_document_jit(metric, statistics):
    return jax.vmap(metric)(*statistics)
