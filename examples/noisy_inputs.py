"""A custom task: the causal task, with some of the input tokens replaced by random ones in training.

    python train.py --config=examples/noisy_inputs.py
    python eval.py --model=runs/noisy_inputs --import=examples/noisy_inputs.py

Xie et al. 2017, "Data noising as smoothing in neural network language models", section 3.3. The class is all
that is needed: the step, the mesh, checkpoints, resume, scores and reports treat it as the built-in tasks.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lm_jax import config as config_module
from lm_jax.batch import Batch
from lm_jax.config import Config
from lm_jax.data.batches import Source
from lm_jax.data.pipeline import DataConfig
from lm_jax.data.store import Split
from lm_jax.errors import UserError
from lm_jax.models.base import ModelConfig
from lm_jax.tasks.base import TASKS
from lm_jax.tasks.causal import Causal


@TASKS.register("noisy_causal")
@dataclass(frozen=True)
class NoisyCausal(Causal):
    """The causal task with noise in its inputs; the targets stay as they are."""

    name: ClassVar[str] = "noisy_causal"

    noise: float = 0.1  # share of the input tokens that are replaced by random tokens of the training text

    def check(self, model: ModelConfig, data: DataConfig) -> None:
        """Raises UserError for a share outside [0, 1)."""
        super().check(model, data)
        if not 0 <= self.noise < 1:
            raise UserError(f"task.noise={self.noise}", "it must lie in [0, 1)")

    def source(self, split: Split, data: DataConfig, batch_size: int, seed: int) -> Source:
        """The causal task's batches, with noise that depends on the seed, the step and the row alone."""
        return _NoisySource(super().source(split, data, batch_size, seed), split, self.noise, seed)


class _NoisySource:
    def __init__(self, clean: Source, split: Split, noise: float, seed: int):
        self._clean, self._tokens, self._noise, self._seed = clean, split.tokens, noise, seed
        self.steps_per_epoch = clean.steps_per_epoch

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> Batch:
        """The rows of one process in the batch of a step."""
        batch = self._clean.batch(step, process_index, process_count)
        inputs, rows = np.array(batch.inputs), len(batch.inputs)
        for row in range(rows):
            random = np.random.default_rng([self._seed, step, process_index * rows + row])
            is_noise = random.random(inputs.shape[1]) < self._noise
            drawn = random.integers(
                len(self._tokens), size=int(is_noise.sum())
            )  # by their frequency in the text
            inputs[row, is_noise] = self._tokens[drawn]
        return batch._replace(inputs=inputs)


def get_config(variant: str = "") -> Config:
    """The recipe of configs/gpt.py with noise."""
    _, gpt = config_module.load(f"gpt:{variant}")
    return dataclasses.replace(gpt, task=NoisyCausal())
