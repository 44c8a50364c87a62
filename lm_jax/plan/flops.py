"""Floating-point operations of a recipe's training step, counted in two ways."""

import dataclasses
from typing import Any

import jax

from lm_jax.config import Config
from lm_jax.parallel.sharding import MeshConfig, make_mesh
from lm_jax.training.program import Program


def num_tokens(config: Config) -> int:
    """Tokens of a batch."""
    return config.task.num_tokens(config.data, config.train.batch_size)


def model_flops(config: Config) -> int | None:
    """The model's own count of a step's operations, over all devices; None where it has none."""
    cost = config.model.cost(config.data.sequence_length)
    return None if cost is None else cost.training * num_tokens(config)


def unrolled_flops(config: Config) -> float:
    """Operations that XLA counts in a step with all layers, chunks and parts written out.

    Counted for one device, before anything is optimised: nothing is compiled. XLA counts a loop's body once.
    """
    replace = dataclasses.replace
    written_out = replace(
        config,
        model=config.model.for_inference(),
        task=_without_chunks(config.task),
        train=replace(config.train, accumulation=1),
        mesh=MeshConfig(),
    )
    one = make_mesh(written_out.mesh, jax.devices("cpu")[:1])
    cost: Any = Program(written_out, one).lower_step().cost_analysis()
    return cost["flops"]


def _without_chunks(task: Any) -> Any:
    return dataclasses.replace(task, chunk_length=0) if hasattr(task, "chunk_length") else task
