"""Speed of BERT's masking and of BART's noises, with one thread: `python benchmarks/corruption.py`.

A few seconds. Rows of 128 tokens; 3 of 4 tokens begin a word, and 1 of 17 ends a sentence. The cases take
turns, and the table shows the median rate over the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lm_jax.data import noising
from lm_jax.data.corruption import UNITS, Masking, mask_rows
from lm_jax.data.noising import Noise, Vocabulary, add_noise

LENGTH, VOCAB_SIZE, MASK_ID = 128, 30_522, 103

Case = Callable[[list[int]], Any]


NOISES = {
    "permute": Noise(permute=1.0),
    "replace": Noise(replace=0.15),
    "mask": Noise(mask=0.15),
    "delete": Noise(delete=0.15),
    "infill": Noise(infill=0.3),
    "rotate": Noise(rotate=1.0),
    "permute + infill": Noise(permute=1.0, infill=0.3),
    "permute + infill + rotate": Noise(permute=1.0, infill=0.3, rotate=1.0),
}


def masking_case(masking: Masking, num_rows: int) -> Case:
    """Masks rows of a batch."""
    random = np.random.default_rng(0)
    tokens = random.integers(1000, VOCAB_SIZE, (num_rows, LENGTH), dtype=np.int32)
    maskable = np.ones(tokens.shape, bool)
    maskable[:, [0, LENGTH // 2, -1]] = False
    starts, lengths = random.random(tokens.shape) < 0.75, np.full(num_rows, LENGTH)
    return lambda seed: mask_rows(masking, tokens, maskable, starts, lengths, MASK_ID, VOCAB_SIZE, seed)


def noise_case(noise: Noise, num_rows: int) -> Case:
    """Adds noise to rows of a batch."""
    random = np.random.default_rng(0)
    tokens = random.integers(1000, VOCAB_SIZE, (num_rows, LENGTH), dtype=np.int32)
    is_start, is_end = random.random((2, VOCAB_SIZE)) < [[0.75], [1 / 17]]
    kinds = (is_start * noising.STARTS + is_end * noising.ENDS).astype(np.int64) << 32
    vocabulary = Vocabulary(kinds, MASK_ID, np.arange(1000, VOCAB_SIZE, dtype=np.int32))
    lengths = np.full(num_rows, LENGTH)
    return lambda seed: add_noise(noise, vocabulary, tokens, lengths, seed)


def rates(cases: dict[str, Case], num_rows: int, rounds: int) -> dict[str, float]:
    """Tokens per second of each case."""
    calls = max(1, 16_000 // (num_rows * LENGTH))
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            for call in range(calls):
                case([number, call])
            seconds[name].append(time.perf_counter() - start)
    return {name: calls * num_rows * LENGTH / statistics.median(times[1:]) for name, times in seconds.items()}


def main(rounds: int) -> None:
    """Prints a line for each case."""
    maskings = {
        f"BERT {unit}, {'exact' if exact else 'random'} budget": Masking(unit=unit, exact=exact)
        for unit in UNITS
        for exact in (True, False)
    }
    found = []
    for num_rows in (16, 256):
        cases = {name: masking_case(masking, num_rows) for name, masking in maskings.items()}
        cases |= {f"BART {name}": noise_case(noise, num_rows) for name, noise in NOISES.items()}
        found.append(rates(cases, num_rows, rounds))
    print(f"{'M tokens/s':<32}{f'16 x {LENGTH}':>10}{f'256 x {LENGTH}':>10}")
    for name in found[0]:
        print(f"{name:<32}" + "".join(f"{of_size[name] / 1e6:10.1f}" for of_size in found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    main(parser.parse_args().rounds)
