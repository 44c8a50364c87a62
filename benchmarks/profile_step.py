"""Profiles a training step by operation: `taskset -c 1 python benchmarks/profile_step.py`, half a minute.

Runs a recipe's compiled step on random tokens under jax's profiler and adds up the time of XLA's operations
by purpose. The share of the peak rate of a matrix product is measured in the same run. For CPUs, which run
operations one after the other.

    --config=configs/gpt.py     with --config.FIELD=VALUE as for train.py
    --vocabulary=4096           where the recipe leaves it to the tokenizer
    --steps=20
    --operations=0              also list so many operations, the longest first
"""

import argparse
import collections
import pathlib
import re
import sys
import tempfile
import time

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()

import jax
import jax.numpy as jnp
import numpy as np
from jax.profiler import ProfileData, ProfileOptions

from lm_jax import config as config_module
from lm_jax import fields, flags
from lm_jax.batch import Batch
from lm_jax.parallel.sharding import make_mesh
from lm_jax.training.program import Program

# The purpose of an operation, by the path of names that traced it; the first pattern that matches applies.
PARTS = (
    ("optimizer and norms of the gradient", r"^(?!.*jvp)"),
    ("head and loss", r"logits|jvp\(\)/|jit\(_where\)|take_along_axis"),
    ("products of the blocks", r"/(qkv|out|up|down|gate)/.*dot_general$"),
    ("attention: its products", r"attention/.*(->|dot_general)"),
    ("attention: softmax, masks, copies", r"attention/"),
    ("norms", r"norm"),
    ("MLP: GELU", r"mlp/"),
    ("embeddings", r"embedding"),
    ("the rest", r""),
)


def peak(dtype: str) -> float:
    """Floating-point operations a second of a product of matrices of 1,024 by 1,024; the fastest run."""
    x = jnp.ones((1024, 1024), dtype)
    product = jax.jit(lambda x: jax.lax.dot(x, x, preferred_element_type=jnp.float32))
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        product(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(seconds)


def operations(hlo: str) -> dict[str, str]:
    """The names of a compiled program's operations -> the path of names that traced each."""
    found = re.finditer(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?(?:op_name="([^"]*)".*)?$', hlo, re.MULTILINE)
    return {match[1]: match[2] or "" for match in found}


def traced(program: Program, batch: Batch, steps: int) -> tuple[dict[str, float], float]:
    """Seconds per step of each operation, and of a whole step without tracing."""
    state, key = program.init(), jax.random.key(0)
    seconds: dict[str, float] = collections.Counter()
    options = ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            state, metrics = program.step(state, batch, key)
        jax.block_until_ready(metrics)
        start = time.perf_counter()
        for _ in range(steps):
            state, metrics = program.step(state, batch, key)
            jax.block_until_ready(metrics)
        whole = (time.perf_counter() - start) / steps
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(steps):
                state, metrics = program.step(state, batch, key)
                jax.block_until_ready(metrics)
        [path] = pathlib.Path(folder).rglob("*.xplane.pb")
        for plane in ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    seconds[event.name] += event.duration_ns * 1e-9 / steps
    return seconds, whole


def main() -> None:
    """Reads the flags, runs the step and prints the table."""
    argv, values = flags.split_fields(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/gpt.py")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--operations", type=int, default=0)
    arguments = parser.parse_args(argv)
    config = fields.override(config_module.load(arguments.config)[1], values).resolved(arguments.vocabulary)
    program = Program(config, make_mesh(config.mesh))
    rows, length = config.train.batch_size, config.data.sequence_length
    ids = np.random.default_rng(0).integers(0, config.model.vocab_size, (rows, length + 1), np.int32)
    batch = Batch(ids[:, :-1], ids[:, 1:], np.ones((rows, length), np.float32))

    names = operations(program.lower_step().compile().as_text())
    found, whole = traced(program, batch, arguments.steps)
    seconds = {name: found[name] for name in names if name in found}
    parts: dict[str, float] = dict.fromkeys((part for part, _ in PARTS), 0.0)
    for name, time_of in seconds.items():
        parts[next(part for part, pattern in PARTS if re.search(pattern, names[name]))] += time_of

    total = sum(seconds.values())
    print(f"a step of {rows} x {length} tokens: {whole * 1e3:.1f} ms, {total * 1e3:.1f} ms when traced")
    for part, time_of in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {part:<38} {time_of * 1e3:8.1f} ms {time_of / total:6.1%}")
    if (cost := config.model.cost(length)) is None:
        return
    flops, best = cost.training * rows * length, peak(config.model.dtype)
    print(
        f"model: {flops / 1e9:.2f} GFLOP a step, {flops / whole / 1e9:.0f} GFLOP/s, "
        f"{flops / whole / best:.0%} of the product's peak of {best / 1e9:.0f}"
    )
    for name, time_of in sorted(seconds.items(), key=lambda item: -item[1])[: arguments.operations]:
        print(f"  {time_of * 1e3:8.2f} ms  {name:<32} {names[name]}")


if __name__ == "__main__":
    main()
