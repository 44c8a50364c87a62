"""Several seeds of one recipe trained at once: the training step, vmapped."""

import contextlib
import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import averaging
from lm_jax.batch import Batch
from lm_jax.checkpoint import Checkpoints
from lm_jax.config import Config, make_model
from lm_jax.data import pipeline
from lm_jax.optimizers import make_optimizer, make_schedule
from lm_jax.progress import LiveLine
from lm_jax.train_step import TrainState, init_carry, init_state, make_train_step, start_from
from lm_jax.training import Looks, Signals, bytes_paid_for


class Seeds:
    """One recipe with several seeds, compiled: states, batches and metrics have a first axis for the seed.

    Args:
        configs: resolved recipes that differ in `train.seed` alone.
    """

    def __init__(self, configs: Sequence[Config]):
        config, train, order = configs[0], configs[0].train, configs[0].data.order
        model, optimizer = make_model(config.model), make_optimizer(config.optimizer, train.num_steps)
        self.config, self.seeds = config, jnp.array([c.train.seed for c in configs])
        self.key = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(self.seeds)
        self._init_carry = partial(init_carry, model, order)

        def first(seed: jax.Array) -> TrainState:
            carry = self._init_carry(train.batch_size)
            return init_state(model, optimizer, seed, config.data.sequence_length, carry, train)

        def first_from(params: Any, seed: jax.Array) -> TrainState:
            return start_from(params, optimizer, self._init_carry(train.batch_size), train)

        def observe(state: TrainState, loss: jax.Array) -> TrainState:
            assert state.average is not None
            return state._replace(average=averaging.observe(state.average, loss))

        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        self.state = jax.tree.map(partial(_placed, place), jax.eval_shape(first, self.seeds[0]))
        self._first = jax.jit(jax.vmap(first))
        self._first_from = jax.jit(jax.vmap(first_from, in_axes=(None, 0)))
        step = make_train_step(
            model,
            config.objective,
            optimizer,
            train,
            config.data.usual_length,
            make_schedule(config.optimizer, train.num_steps),
        )
        self.step = jax.jit(jax.vmap(step), donate_argnums=0)
        self.observe = jax.jit(jax.vmap(observe), donate_argnums=0)
        self._evaluate = jax.jit(jax.vmap(partial(config.objective, model), in_axes=(0, None, 0)))

    def start(self, params: Any = None) -> TrainState:
        """The state before the first step, with these parameters for every seed, or each with its own."""
        return self._first(self.seeds) if params is None else self._first_from(params, self.seeds)

    def evaluate(self, params: Any, split: pipeline.Split) -> tuple[np.ndarray, np.ndarray]:
        """Total nats and weights over a part, [S] each, read as `training.Trainer.evaluate` reads it."""
        data, train = self.config.data, self.config.train
        rows = train.batch_size // train.accumulation
        carry = self._init_carry(rows)
        carried = carry is not None
        carry = jax.tree.map(lambda x: jnp.stack([x] * len(self.seeds)), carry)
        sums = []
        for batch in pipeline.evaluation_batches(
            split, rows, data.sequence_length, separate_documents=data.separate_documents, carried=carried
        ):
            of_batch, carry = self._evaluate(params, batch, carry)
            sums.append(of_batch)
        sums = jax.device_get(sums)
        nats, weights = np.array([(s.total, s.weight) for s in sums], float).sum(axis=0)
        return nats, weights


def fit(
    configs: Sequence[Config],
    data: pipeline.Data,
    workdirs: Sequence[pathlib.Path],
    params: Any = None,
) -> bool:
    """Trains each seed in its directory as `training.fit` does, those at the same step together.

    Args:
        configs: resolved recipes that differ in `train.seed` alone.
        data: the prepared corpus.
        workdirs: one run directory each.
        params: parameters to start from instead of random ones.

    Returns:
        False where SIGTERM or SIGINT ended it early, with everything saved.

    Raises:
        UserError: a loss that is not finite, or a damaged checkpoint.
    """
    runs = list(zip(configs, workdirs, strict=True))
    with contextlib.ExitStack() as stack, Signals() as signals:
        opened = [stack.enter_context(Checkpoints(workdir)) for _, workdir in runs]
        # Whoever was killed between two saves left seeds at different steps.
        steps = [checkpoints.latest_step() or 0 for checkpoints in opened]
        for step in sorted(set(steps)):
            together = [i for i, s in enumerate(steps) if s == step]
            group = [runs[i] for i in together], [opened[i] for i in together]
            if step < configs[0].train.num_steps and not _fit(*group, data, step, params, signals):
                return False
    return True


def _fit(
    runs: Sequence[tuple[Config, pathlib.Path]],
    checkpoints: Sequence[Checkpoints],
    data: pipeline.Data,
    first: int,
    params: Any,
    signals: Signals,
) -> bool:
    configs, train, valid = [config for config, _ in runs], runs[0][0].train, data.splits["valid"]
    program = Seeds(configs)
    state = program.start(params)
    if first:
        state = _stack([c.restore(first, program.state) for c in checkpoints])
    sources = [
        pipeline.make_source(data.splits["train"], c.data, train.batch_size, c.train.seed) for c in configs
    ]
    batches: pipeline.prefetch[Batch] = pipeline.prefetch(
        lambda step: jax.tree.map(lambda *rows: np.stack(rows), *[s.batch(step) for s in sources]),
        first,
        train.num_steps,
    )
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(LiveLine(f"training {len(runs)} at once", train.num_steps, first))
        looks = [
            stack.enter_context(Looks(config, c, workdir, first, line, f"seed {config.train.seed}"))
            for (config, workdir), c in zip(runs, checkpoints, strict=True)
        ]
        stack.enter_context(batches)
        for step, batch in enumerate(batches, start=first + 1):
            state, metrics = program.step(state, batch, program.key)
            for look, of_seed in zip(looks, _unstack(jax.device_get(metrics), len(runs)), strict=True):
                look.log(step, of_seed, batches.waited_seconds)
                look.settle()
            stop = signals.received > 0
            losses: list[float | None] = [None] * len(runs)
            if step == train.num_steps or step % train.eval_every == 0:
                sums = program.evaluate(state.evaluated_params, valid)
                losses = [
                    look.evaluated(step, float(nats), float(weight), bytes_paid_for(data))
                    for look, nats, weight in zip(looks, *sums, strict=True)
                ]
                if train.average == "triggered":
                    state = program.observe(state, jnp.array(losses))
            elif not stop and step % train.checkpoint_every:
                continue
            for c, own, loss in zip(checkpoints, _unstack(state, len(runs)), losses, strict=True):
                c.save(own, loss)
            if stop and step < train.num_steps:
                line.say(f"stopped at step {step}, saved; the same command goes on from here")
                return False
    return True


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unstack(tree: Any, size: int) -> list[Any]:
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(size)]


def _placed(place: jax.sharding.Sharding, shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)
