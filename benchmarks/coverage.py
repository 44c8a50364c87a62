"""How often 95 % intervals hold the true value, and how often tests at 5 % are wrong, on simulated texts.

    python benchmarks/coverage.py [--simulations=1000]

Documents have lengths whose logarithms are normal, with the deviations given: 1.8 is that of the test part of
the default corpus, in which 27 documents have 48 to 26,611 bytes. Rates in bits per byte are skewed and
differ between documents, and those of short documents vary more. Two models compared differ by noise of each
document: "alike" by noise of one distribution, "skewed" where that of one model is small and that of the
other one is an exponential distribution's, so that exchanging the two is not quite right.

A text of one document has tokens whose surprisals are skewed and follow a slow drift, an autoregression of
first order; it is cut into 30 blocks. Its rows give the tokens over which the drift loses 63 % of its memory.

Intervals, of the same resamples: percentile; BCa (Efron 1987); studentized, the bootstrap t by the delta
method; expanded, percentiles by Student's t with D − 1 degrees of freedom (Hesterberg 2015); and ours, the
same with the effective number of documents less 1, `lm_jax.metrics.resampling.SmallSample`. A share of 95 %
of 1,000 simulations has a standard error of 0.7 %. Fifty simulations share their resamples, and rows with one
number of documents share their random numbers.
"""

import argparse
import functools
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
from scipy.signal import lfilter
from scipy.special import ndtr, ndtri, stdtrit

from lm_jax.metrics.resampling import SmallSample, effective_number, expanded_p, interval, monte_carlo_p
from lm_jax.metrics.significance import holm

RESAMPLES = 2000
RATE = 1.9  # bits per byte, the true value
SPREADS = (0.0, 0.8, 1.2, 1.8)
NUMBERS = (5, 10, 27, 100, 300)
_SHARED = 50  # simulations with the same resamples
MODELS = 4  # of which all pairs are compared
Z = ndtri(0.975)


def documents(rng: np.random.Generator, D: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """The bits and the bytes of each document, [D]."""
    size_D = np.exp(rng.normal(7, spread, D))
    own_D = 0.35 * (rng.gamma(1, 1, D) - 1)
    noise_D = (rng.gamma(4, 0.5, D) - 2) * np.sqrt(100 / size_D)
    return size_D * (RATE + own_D + noise_D), size_D


@functools.lru_cache(maxsize=2)
def counts(group: int, D: int) -> np.ndarray:
    """How often each document is in each resample, float64 [R, D]."""
    rng = np.random.default_rng([group, D])
    return rng.multinomial(D, np.full(D, 1 / D), size=RESAMPLES).astype(float)


@functools.lru_cache(maxsize=2)
def signs(group: int, D: int) -> np.ndarray:
    """-1 where a trial exchanges the models' outputs on a document, else 1, float64 [R, D]."""
    return 1.0 - 2 * np.random.default_rng([1, group, D]).integers(0, 2, (RESAMPLES, D))


def intervals(x_D: np.ndarray, n_D: np.ndarray, counts_RD: np.ndarray) -> dict[str, tuple[float, float]]:
    """The interval of Σ x / Σ n by each method."""
    D = len(x_D)
    value = x_D.sum() / n_D.sum()
    totals_R = counts_RD @ n_D
    values_R = counts_RD @ x_D / totals_R

    def between(low: float, high: float) -> tuple[float, float]:
        return tuple(np.quantile(values_R, (low, high)))

    student = ndtr(-stdtrit(D - 1, 0.975) * np.sqrt(D / (D - 1)))
    ours = SmallSample([x_D[:, None], n_D[:, None]])
    return {
        "percentile": between(0.025, 0.975),
        "BCa": between(*_bca(x_D, n_D, values_R)),
        "studentized": _studentized(x_D, n_D, counts_RD, values_R, totals_R),
        "expanded": between(student, 1 - student),
        "ours": interval(value, values_R, 0.0, ours.tail(0.95))[1:],
    }


def _bca(x_D: np.ndarray, n_D: np.ndarray, values_R: np.ndarray) -> Iterator[float]:
    """The shares of resamples below the ends of the bias-corrected and accelerated interval."""
    value = x_D.sum() / n_D.sum()
    without_D = (x_D.sum() - x_D) / (n_D.sum() - n_D)
    off_D = without_D.mean() - without_D
    acceleration = (off_D**3).sum() / (6 * (off_D**2).sum() ** 1.5)
    bias = ndtri(np.clip((values_R < value).mean(), 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    for z in (-Z, Z):
        yield float(ndtr(bias + (bias + z) / (1 - acceleration * (bias + z))))


def _studentized(
    x_D: np.ndarray, n_D: np.ndarray, counts_RD: np.ndarray, values_R: np.ndarray, totals_R: np.ndarray
) -> tuple[float, float]:
    value = x_D.sum() / n_D.sum()
    error = np.sqrt(np.square(x_D - value * n_D).sum()) / n_D.sum()
    squares_R = (
        counts_RD @ x_D**2 - 2 * values_R * (counts_RD @ (x_D * n_D)) + values_R**2 * (counts_RD @ n_D**2)
    )
    errors_R = np.sqrt(np.maximum(squares_R, 0)) / totals_R
    t_R = np.divide(values_R - value, errors_R, out=np.zeros(RESAMPLES), where=errors_R > 0)
    low, high = np.quantile(t_R, (0.025, 0.975))
    return value - high * error, value - low * error


def p_values(a_D: np.ndarray, b_D: np.ndarray, n_D: np.ndarray, counts_RD: np.ndarray, signs_RD: np.ndarray):
    """The p-values of two models on the same documents, by test."""
    differences_R = counts_RD @ (a_D - b_D) / (counts_RD @ n_D)
    observed = (a_D - b_D).sum() / n_D.sum()
    both = [np.stack([a_D, b_D], axis=1), np.stack([n_D, n_D], axis=1)]
    shifted_R = np.abs(differences_R - differences_R.mean()) >= abs(observed)
    exchanged_R = np.abs(signs_RD @ (a_D - b_D) / n_D.sum()) >= abs(observed) * (1 - 1e-9)
    return {
        "bootstrap, shifted": monte_carlo_p(shifted_R, differences_R, observed),
        "bootstrap, ours": expanded_p(differences_R, observed, 0.0, SmallSample(both)),
        "randomisation": monte_carlo_p(exchanged_R, differences_R, observed),
    }


def rivals(rng: np.random.Generator, D: int, spread: float, kind: str) -> tuple[list[np.ndarray], np.ndarray]:
    """The bits of models that are equally good, each [D], and the bytes."""
    x_D, n_D = documents(rng, D, spread)
    deviation_D = n_D * np.sqrt(0.01 + 9 / n_D)
    models = [x_D + deviation_D * rng.normal(size=D) for _ in range(MODELS)]
    if kind == "skewed":
        models[0] = x_D + deviation_D * (rng.gamma(1, 1, D) - 1)
        models[1] = x_D + 0.2 * deviation_D * rng.normal(size=D)
    return models, n_D


def false_positives(seed: int, D: int, spread: float, kind: str) -> dict[str, float]:
    """Whether each test of two models is at most 0.05, and whether any is of all pairs by Holm."""
    models, n_D = rivals(np.random.default_rng(seed), D, spread, kind)
    counts_RD, signs_RD = (draw(seed // _SHARED, D) for draw in (counts, signs))
    tests = [p_values(a, b, n_D, counts_RD, signs_RD) for a, b in itertools.combinations(models, 2)]
    wrong = {name: p <= 0.05 for name, p in tests[0].items()}
    for name in ("bootstrap, ours", "randomisation"):
        wrong[f"Holm, {name}"] = holm(np.array([p[name] for p in tests])).min() <= 0.05
    return wrong


def coverage(seed: int, D: int, spread: float) -> dict[str, float]:
    """Whether the interval of each method holds the true value."""
    found = intervals(*documents(np.random.default_rng(seed), D, spread), counts(seed // _SHARED, D))
    return {name: low <= RATE <= high for name, (low, high) in found.items()}


def one_document(seed: int, num_tokens: int, memory: int) -> dict[str, float]:
    """Whether intervals of one document hold the true value: of its tokens, and of 30 blocks of them."""
    rng = np.random.default_rng(seed)
    keep = np.exp(-1 / memory) if memory else 0.0
    steps = rng.normal(size=num_tokens) * np.sqrt(1 - keep**2)
    steps[0] = rng.normal()
    drift_T = lfilter([1], [1, -keep], steps)
    bits_T = RATE * 4 * rng.gamma(1, 1, num_tokens) * np.exp(0.3 * drift_T - 0.3**2 / 2)
    blocks_B = np.add.reduceat(bits_T, np.arange(30) * num_tokens // 30)
    size_B = 4.0 * np.diff(np.append(np.arange(30) * num_tokens // 30, num_tokens))
    centred = blocks_B - blocks_B.mean()
    of_blocks = intervals(blocks_B, size_B, counts(seed // _SHARED, 30))["ours"]
    half = Z * bits_T.std() / 4 / np.sqrt(num_tokens)
    return {
        "tokens": abs(bits_T.mean() / 4 - RATE) <= half,
        "30 blocks": of_blocks[0] <= RATE <= of_blocks[1],
        "lag 1": float((centred[1:] * centred[:-1]).sum() / (centred**2).sum()),
    }


def shares(simulate: Callable[[int], dict[str, float]], number: int) -> dict[str, float]:
    """The mean of what each simulation gives."""
    total: dict[str, float] = defaultdict(float)
    for seed in range(number):
        for name, value in simulate(seed).items():
            total[name] += value / number
    return total


def show(title: str, key: str, number: int, rows: dict[str, Callable]) -> None:
    """Prints a table of shares, in percent."""
    heads: list[str] = []
    print(f"\n{title}")
    for label, simulate in rows.items():
        found = shares(simulate, number)
        if not heads:
            heads = list(found)
            print(f"| {key} | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}")
        cells = (f"{found[h]:.2f}" if h == "lag 1" else f"{100 * found[h]:.1f}" for h in heads)
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=1000)
    number = parser.parse_args().simulations
    start = time.perf_counter()
    sizes = {f"{D} of deviation {s} ({_effective(D, s):.1f})": (D, s) for s in SPREADS for D in NUMBERS}
    show(
        "Coverage of 95 % intervals of bits per byte (documents; in brackets the effective number), %",
        "documents",
        number,
        {label: lambda seed, at=at: coverage(seed, *at) for label, at in sizes.items()},
    )
    for kind in ("alike", "skewed"):
        show(
            f"False positives of paired tests of {kind} models at 5 %, and of any of "
            f"{MODELS * (MODELS - 1) // 2} pairs by Holm, %",
            "documents",
            number,
            {
                label: lambda seed, at=at, kind=kind: false_positives(seed, *at, kind)
                for label, at in sizes.items()
                if at[0] in (5, 10, 27, 100)
            },
        )
    show(
        "Coverage of 95 % intervals of one document, %",
        "tokens, memory of the drift",
        number // 2,
        {
            f"{n:,}, {m}": lambda seed, n=n, m=m: one_document(seed, n, m)
            for n in (4000, 25_000, 100_000)
            for m in (0, 50, 200, 1000)
        },
    )
    print(f"\n{number} simulations, {RESAMPLES} resamples, {time.perf_counter() - start:.0f} s")


def _effective(D: int, spread: float) -> float:
    """The median of the effective number of documents."""
    sizes = (documents(np.random.default_rng(seed), D, spread)[1][:, None] for seed in range(99))
    return float(np.median([effective_number([size_D1]) for size_D1 in sizes]))


if __name__ == "__main__":
    main()
