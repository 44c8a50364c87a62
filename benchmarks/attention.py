"""Speed of block-causal and fused attention: `taskset -c 1 python benchmarks/attention.py`, about a minute.

Value and gradient of causal self-attention, 6 heads of 64, 2,048 tokens in rows of several lengths. All run
in turn in each round; printed is the speed-up over full attention, median and range over rounds.
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()

import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from lm_jax.models import attention

TOKENS, HEADS, WIDTH, ROUNDS = 2048, 6, 64, 9


def gradient(core: attention.AttentionCore, length: int, dtype: str) -> Callable[[], object]:
    """A compiled call that computes value and gradient."""
    query, key = (TOKENS // length, length, HEADS, WIDTH), (TOKENS // length, HEADS, length, WIDTH)
    arrays = [jax.random.normal(jax.random.key(i), x, dtype) for i, x in enumerate((query, key, key))]

    def total(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return core(q, k, v, is_causal=True).astype(jnp.float32).sum()

    compiled = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))
    jax.block_until_ready(compiled(*arrays))
    return lambda: jax.block_until_ready(compiled(*arrays))


def race(length: int, dtype: str) -> None:
    """Prints a line for one length of row."""
    cores = {"full": attention.full_attention, "fused": attention.fused_attention}
    for block in (64, 128, 256):
        if block < length:
            cores[f"blocks of {block}"] = partial(attention.block_causal_attention, block=block)
    runs = {name: gradient(core, length, dtype) for name, core in cores.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    full = seconds.pop("full")
    print(f"{dtype} rows of {length}: full {statistics.median(full) * 1e3:.0f} ms")
    for name, found in seconds.items():
        ratios = [a / b for a, b in zip(full, found)]
        print(f"  {name:<14} {statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    for dtype in ("float32", "bfloat16"):
        for length in (256, 512, 1024):
            race(length, dtype)
