"""A recipe that trains in a second, and the text it is trained on: what many tests need."""

import dataclasses
import pathlib
import random
from functools import partial
from typing import Any

from lm_jax.config import Config, OptimizerConfig, TrainConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.training.step import TrainStep, make_train_step

_WORDS = "the a model language data reads learns writes old new text byte café and of with it".split()  # noqa: SIM905


def write_text(path: pathlib.Path, num_lines: int = 400, seed: int = 0) -> pathlib.Path:
    """Lines of words with some order in them, some of them not ASCII."""
    draw = random.Random(seed)
    lines = []
    for _ in range(num_lines):
        start = draw.randrange(len(_WORDS))
        lines.append(
            " ".join(_WORDS[(start + 3 * i) % len(_WORDS)] for i in range(draw.randrange(3, 12))) + ".\n"
        )
    path.write_text("".join(lines), encoding="utf-8")
    return path


def config(text: pathlib.Path, **train: int) -> Config:
    """One layer, 16 wide, bytes, dropout on."""
    return Config(
        data=DataConfig(
            corpus=f"text:{text}",
            documents="line",
            split="hash:0.1,0.1",
            tokenizer="byte",
            sequence_length=32,
        ),
        model=GPTConfig(num_layers=1, num_heads=2, d_model=16, dropout=0.1),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=2),
        train=dataclasses.replace(
            TrainConfig(
                num_steps=12, batch_size=4, eval_every=4, checkpoint_every=3, log_every=1, sample_tokens=8
            ),
            **train,
        ),
    )


def train_step(task: Any, module: Any, optimizer: Any, *rest: Any, **named: Any) -> TrainStep:
    """`make_train_step` for a task's losses of a module."""
    return make_train_step(partial(task.losses, module), task.weights, optimizer, *rest, **named)
