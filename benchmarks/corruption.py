"""Speed of masking rows, with one thread: `python benchmarks/corruption.py`, a few seconds.

Rows of 128 tokens, of 1 to 4 tokens a word. The table shows the median rate over the rounds.
"""

import argparse
import statistics
import time

import numpy as np

from lm_jax.data.corruption import UNITS, Masking, mask_rows

LENGTH, VOCAB_SIZE, MASK_ID = 128, 30_522, 103


def rate(masking: Masking, num_rows: int, rounds: int) -> float:
    """Tokens per second."""
    random = np.random.default_rng(0)
    tokens = random.integers(1000, VOCAB_SIZE, (num_rows, LENGTH), dtype=np.int32)
    maskable = np.ones(tokens.shape, bool)
    maskable[:, [0, LENGTH // 2, -1]] = False
    starts, lengths = random.random(tokens.shape) < 0.75, np.full(num_rows, LENGTH)
    seconds, calls = [], max(1, 16_000 // tokens.size)
    for number in range(rounds + 1):
        start = time.perf_counter()
        for call in range(calls):
            seed = [number, call]
            mask_rows(masking, tokens, maskable, starts, lengths, MASK_ID, VOCAB_SIZE, seed)
        seconds.append(time.perf_counter() - start)
    return calls * tokens.size / statistics.median(seconds[1:])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    print(f"{'unit':<8}{'budget':<12}" + "".join(f"{rows:>6} x {LENGTH}" for rows in (16, 256)))
    for unit in UNITS:
        for exact in (True, False):
            masking = Masking(unit=unit, exact=exact)
            rates = "".join(f"{rate(masking, rows, rounds) / 1e6:10.1f} M" for rows in (16, 256))
            print(f"{unit:<8}{'exact' if exact else 'random':<12}{rates} tokens/s")
