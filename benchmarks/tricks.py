"""Effect of each optimization of speed on the final loss: `python benchmarks/tricks.py`, some minutes.

Trains a small GPT on the characters of Python's documentation with and without each trick, with the same
batches and initial parameters for each seed. Printed are the final losses (nats per character, mean over
seeds), their difference for each seed, and the range over seeds: a trick is harmless if its difference is
small compared with that range.

    --steps=300    updates; the loss is the mean of the last tenth
    --seeds=3
    --only=TEXT    the tricks whose names contain this
"""

import argparse
import dataclasses
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()

import jax

from lm_jax import fast, fields
from lm_jax.config import Config, OptimizerConfig, TrainConfig
from lm_jax.data import pipeline
from lm_jax.models import layers
from lm_jax.models.gpt import GPTConfig
from lm_jax.parallel.sharding import make_mesh
from lm_jax.tasks.causal import Causal
from lm_jax.training.program import Program

BASE = Config(
    data=pipeline.DataConfig(corpus="python-docs", tokenizer="char", sequence_length=256),
    model=GPTConfig(num_layers=2, num_heads=4, d_model=64, attention="block_causal"),
    task=Causal(chunk_length=64),
    optimizer=OptimizerConfig(learning_rate=4e-3, warmup_steps=50),
    train=TrainConfig(batch_size=4),
)
DROPPING = {"model.dropout": "0.1"}


# Trick -> the recipe's fields with it; those without it; the context in which it is traced without it.
TRICKS: dict[str, tuple[dict[str, str], dict[str, str], Callable[[], Any]]] = {
    "causal attention by blocks": ({}, {"model.attention": "full"}, nullcontext),
    "logits by chunks": ({}, {"task.chunk_length": "0"}, nullcontext),
    "fast forms (lm_jax/fast.py)": ({}, {}, fast.plain),
    "the CPU's weight gradient": (
        {},
        {},
        lambda: mock.patch.object(fast, "_outer_on_cpu", fast._outer),
    ),
    "bfloat16": ({"model.dtype": "bfloat16"}, {}, nullcontext),
    "fast dropout (rate 0.1)": (
        DROPPING,
        DROPPING,
        lambda: mock.patch.object(layers, "dropout", layers.dropout.__wrapped__),
    ),
}


def final_losses(
    data: pipeline.Data, values: dict[str, str], traced_in: Callable[[], Any], steps: int, seeds: int
) -> list[float]:
    """For each seed, the mean loss of the last tenth of the steps."""
    losses = []
    for seed in range(seeds):
        train = dataclasses.replace(BASE.train, num_steps=steps, seed=seed)
        config = fields.override(dataclasses.replace(BASE, train=train), values)
        config = config.resolved(data.tokenizer.vocab_size)
        source = pipeline.make_source(data.splits["train"], config.data, train.batch_size, seed)
        seen = []
        with traced_in():
            program = Program(config, make_mesh(config.mesh))
            state, key = program.init(), jax.random.key(seed)
            for step in range(steps):
                state, metrics = program.step(state, source.batch(step), key)
                seen.append(metrics["loss"])
        losses.append(statistics.fmean(map(float, seen[-max(1, steps // 10) :])))
    return losses


def main() -> None:
    """Reads the flags, trains and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="")
    flags = parser.parse_args()
    data = pipeline.prepare(BASE.data)
    base = final_losses(data, {}, nullcontext, flags.steps, flags.seeds)
    print(f"range over seeds {max(base) - min(base):.4f}: {' '.join(f'{loss:.4f}' for loss in base)}\n")
    print(f"{'trick':<28}{'with':>8}{'without':>9}   difference in each seed")
    for name, (with_it, without_it, traced_in) in TRICKS.items():
        if flags.only not in name:
            continue
        on = final_losses(data, with_it, nullcontext, flags.steps, flags.seeds) if with_it else base
        off = base
        if without_it or traced_in is not nullcontext:
            off = final_losses(data, without_it, traced_in, flags.steps, flags.seeds)
        differences = " ".join(f"{a - b:+.4f}" for a, b in zip(on, off, strict=True))
        print(
            f"{name:<28}{statistics.fmean(on):8.4f}{statistics.fmean(off):9.4f}   {differences}", flush=True
        )


if __name__ == "__main__":
    main()
