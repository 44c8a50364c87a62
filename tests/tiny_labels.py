"""Recipes that learn labels in seconds, and the records that they learn from."""

import dataclasses
import json
import pathlib
import random

from lm_jax.config import Config, OptimizerConfig, TrainConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.bert import BERTConfig
from lm_jax.tasks.base import Task
from lm_jax.tasks.classification import Classification
from lm_jax.tasks.tagging import Tagging

NAMES, THINGS, VERBS = ("ann", "bob", "eve"), ("tea", "corn", "jam"), ("likes", "hates")


def records(number: int, seed: int = 0) -> list[dict]:
    """Sentences of a name, a verb and a thing: the verb is their label, and tags mark names and things."""
    draw, made = random.Random(seed), []
    for _ in range(number):
        verb = draw.randrange(2)
        words = [draw.choice(NAMES), VERBS[verb], draw.choice(THINGS), draw.choice(THINGS)]
        made.append(
            {
                "text": " ".join(words),
                "label": ("good", "bad")[verb],
                "tags": ["B-PER", "O", "B-OBJ", "I-OBJ"],
                "second": words[0],
                "score": verb + 0.5,
            }
        )
    return made


def write(path: pathlib.Path, rows: list[dict]) -> str:
    """The corpus of records."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


def config(corpus: str, task: Task | None = None, **train: int) -> Config:
    """One layer, 16 wide, WordPiece."""
    return Config(
        data=DataConfig(
            corpus=corpus, split="tail:0.2,0.2", tokenizer="wordpiece", vocab_size=60, sequence_length=16
        ),
        model=BERTConfig(num_layers=1, num_heads=2, d_model=16, pooler=isinstance(task, Tagging)),
        task=Classification() if task is None else task,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        train=dataclasses.replace(
            TrainConfig(num_steps=40, batch_size=8, eval_every=20, checkpoint_every=20, sample_tokens=0),
            **train,
        ),
    )
