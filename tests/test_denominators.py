"""The gradient of a task whose losses have different denominators, against its definition."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from lm_jax.batch import Sums
from lm_jax.config import Config, OptimizerConfig, TrainConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.parallel.sharding import MeshConfig
from lm_jax.tasks.base import Task
from lm_jax.training.loop import Trainer
from lm_jax.training.step import first_state


class Pairs(NamedTuple):
    """Rows with two masks.

    Attributes:
        inputs: float32 [B, T].
        first: float32 [B, T], what counts for the first loss.
        second: float32 [B], what counts for the second.
    """

    inputs: Any
    first: Any
    second: Any


@dataclasses.dataclass(frozen=True)
class TwoLosses(Task):
    """A squared error for each position, and one for each row."""

    name: ClassVar[str] = "two_losses"
    adapter: ClassVar[str] = "none"
    evaluator: ClassVar[str] = "none"

    def make(self, model):
        return None

    def init(self, module, key, length):
        return {"w": jnp.linspace(-1.0, 1.0, 3)}

    def source(self, split, data, batch_size, seed):
        raise NotImplementedError

    def held_out(self, split, data, model, batch_size, process):
        raise NotImplementedError

    def shapes(self, data, batch_size):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), BATCH)

    def weights(self, batch):
        return {"positions": batch.first.sum(), "rows": batch.second.sum()}

    def losses(self, module, params, batch, carry=None, rngs=None):
        w = params["w"]
        per_position = (w[0] * batch.inputs - w[1]) ** 2
        per_row = (w[1] * batch.inputs.mean(axis=1) - w[2]) ** 2
        positions = Sums((per_position * batch.first).sum(), batch.first.sum())
        return {
            "positions": positions,
            "rows": Sums((per_row * batch.second).sum(), batch.second.sum()),
        }, None

    def figures(self, sums, split, data):
        raise NotImplementedError


random = np.random.default_rng(0)
BATCH = Pairs(
    random.normal(size=(8, 5)).astype(np.float32),
    (random.random((8, 5)) < np.linspace(0.1, 1, 8)[:, None]).astype(np.float32),
    np.float32([1, 0, 0, 0, 1, 0, 0, 1]),  # none in some parts and on some devices
)


def by_definition(params, batch):
    """The sum over losses k of total_k / W_k."""
    sums = TwoLosses().losses(None, params, batch)[0].values()
    return sum(s.total / jnp.maximum(s.weight, 1) for s in sums)


def assert_is_the_gradient(moved, metrics, batch):
    params = TwoLosses().init(None, None, 0)
    loss, gradient = jax.value_and_grad(by_definition)(params, batch)
    np.testing.assert_allclose(moved["w"], gradient["w"], rtol=1e-5, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    sums = TwoLosses().losses(None, params, batch)[0]
    parts = {name: float(s.total) / max(float(s.weight), 1) for name, s in sums.items()}
    assert {name: float(metrics[name]) for name in parts} == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("has_rows", [True, False], ids=["both", "no second loss"])
def test_parts_of_a_batch_share_the_denominators_of_the_whole(parts, has_rows):
    batch = BATCH if has_rows else BATCH._replace(second=np.zeros(8, np.float32))
    task, optimizer = TwoLosses(), optax.sgd(1.0)
    before = first_state(task.init(None, None, 0), optimizer)
    step = tiny.train_step(task, None, optimizer, TrainConfig(batch_size=8, accumulation=parts))
    after, metrics = jax.jit(step)(before, batch, jax.random.key(0))
    assert_is_the_gradient(jax.tree.map(jnp.subtract, before.params, after.params), metrics, batch)


@pytest.mark.parametrize("parts", [1, 2])
def test_devices_share_the_denominators_of_the_whole(parts):
    sgd = OptimizerConfig(
        name="sgd", momentum=0.0, learning_rate=1.0, schedule="constant", warmup_steps=0, weight_decay=0.0,
        clip_norm=0.0,
    )  # fmt: skip
    config = Config(
        model=GPTConfig(vocab_size=2, max_length=2), task=TwoLosses(), optimizer=sgd,
        train=TrainConfig(batch_size=8, accumulation=parts), mesh=MeshConfig(data=4),
    )  # fmt: skip
    trainer = Trainer(config)
    state = trainer.program.init()
    before = jax.device_get(state.params)
    after, metrics = trainer.step(state, BATCH)
    assert_is_the_gradient(jax.tree.map(np.subtract, before, jax.device_get(after.params)), metrics, BATCH)
