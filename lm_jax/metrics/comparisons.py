"""All pairs of several systems on the same documents: effects with intervals, and paired tests.

The documents are drawn once for all systems, and exchanged once for all pairs: the work for documents grows
with the number of systems, and only that for the metric grows with the number of pairs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lm_jax.batch import Array
from lm_jax.metrics.resampling import (
    RESAMPLES,
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
    pairs_swapped_sum,
    rounding,
    rows_sum,
    rows_swapped,
    rows_taken,
    stack,
)
from lm_jax.metrics.significance import holm


class Comparison(NamedTuple):
    """Two systems a and b on the same documents.

    The numbers but the first are NaN where the metric is not a finite number on some of the draws.

    Attributes:
        difference: metric(a) − metric(b).
        low: the lower end of its 95 % interval, by the bootstrap.
        high: the upper end.
        p_value: of the paired bootstrap; below 0.05 where the interval leaves 0 out.
        least_p_value: the smallest that this number of resamples can give.
        randomization_p_value: of approximate randomisation.
        least_randomization_p_value: the smallest that this number of trials can give.
        holm_p_value: that of approximate randomisation by Holm's correction for all pairs.
    """

    difference: float
    low: float
    high: float
    p_value: float
    least_p_value: float
    randomization_p_value: float
    least_randomization_p_value: float
    holm_p_value: float


Pair = tuple[int, int]


def compare_all(
    statistics: Mapping[str, tuple[Sequence[Statistics], Metric]],
    *,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
    of_rows: bool = False,
) -> dict[str, dict[Pair, Comparison]]:
    """Compares all pairs (i, j), i < j, of K systems in several metrics.

    Each number is that of `paired_bootstrap`, `approximate_randomization` and `holm` of the pair. The p-value
    of randomisation is what Holm's correction takes: it keeps its level with any number of documents.

    Args:
        statistics: by name, what each system has of a metric, arrays [D, ...] with the same D documents; and
            the metric, as for `bootstrap_interval`.
        num_resamples: of the bootstrap, and trials of the randomisation.
        seed: of `jax.random`.
        of_rows: as for `bootstrap_interval`, of all the metrics.

    Returns:
        By name and pair.

    Raises:
        UserError: statistics that do not pair up.
    """
    stacks = {name: stack(metric, *systems) for name, (systems, metric) in statistics.items()}
    together, arrays = join(stacks, {name: metric for name, (_, metric) in statistics.items()})
    if not arrays:
        return {}
    draws = draw(None, num_resamples, seed, len(arrays[0]))
    pairs = list(itertools.combinations(range(arrays[0].shape[1]), 2))
    values_RKM = evaluate(together, rows_taken if of_rows else rows_sum, arrays, draws)
    exchanged_RP2M = _exchanged(together, arrays, draws, pairs, of_rows)
    found = {}
    for m, (name, stacked) in enumerate(stacks.items()):
        whole_K = on_the_whole(statistics[name][1], stacked, of_rows)
        found[name] = _corrected(
            {
                (i, j): _compare(
                    tuple(x[:, [i, j]] for x in stacked),
                    values_RKM[:, [i, j], m],
                    exchanged_RP2M[:, p, :, m],
                    whole_K[[i, j]],
                    of_rows,
                )
                for p, (i, j) in enumerate(pairs)
            }
        )
    return found


def _exchanged(
    metric: Metric, arrays: tuple[np.ndarray, ...], draws: Array, pairs: Sequence[Pair], of_rows: bool
) -> np.ndarray:
    """The metrics of both systems of each pair after each trial's exchanges, [R, P, 2, M]."""
    if not of_rows:
        values_RQM = evaluate(metric, pairs_swapped_sum, arrays, draws)
        return np.stack([values_RQM[:, : len(pairs)], values_RQM[:, len(pairs) :]], axis=2)
    values = [
        evaluate(metric, rows_swapped, tuple(x[:, list(pair)] for x in arrays), draws) for pair in pairs
    ]
    return np.stack(values, axis=1)


def _compare(
    stacked: tuple[np.ndarray, ...],
    values_R2: np.ndarray,
    exchanged_R2: np.ndarray,
    whole_2: np.ndarray,
    of_rows: bool,
) -> Comparison:
    """Two systems, from a metric on all documents, on each resample and after each trial's exchanges."""
    small_sample = SmallSample(stacked, of_rows)
    differences, observed = differences_of(values_R2, whole_2)
    tolerance = rounding(values_R2, stacked)
    exchanged, _ = differences_of(exchanged_R2, whole_2)
    with np.errstate(invalid="ignore"):
        extreme = np.abs(exchanged) >= abs(observed) - rounding(exchanged_R2, stacked)
    least = 1 / (1 + len(values_R2))
    return Comparison(
        *interval(observed, differences, tolerance, small_sample.tail(0.95)),
        p_value=expanded_p(differences, observed, tolerance, small_sample),
        least_p_value=small_sample.p_value(least),
        randomization_p_value=monte_carlo_p(extreme, exchanged, observed),
        least_randomization_p_value=least,
        holm_p_value=math.nan,
    )


def _corrected(comparisons: Mapping[Pair, Comparison]) -> dict[Pair, Comparison]:
    """The comparisons with Holm's correction for all of them that have a p-value."""
    tested = [pair for pair, one in comparisons.items() if math.isfinite(one.randomization_p_value)]
    adjusted = holm(np.array([comparisons[pair].randomization_p_value for pair in tested]))
    by_pair = dict(zip(tested, adjusted.tolist(), strict=True))
    return {pair: one._replace(holm_p_value=by_pair.get(pair, math.nan)) for pair, one in comparisons.items()}
