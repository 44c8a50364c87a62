"""The training step and the loop around it."""

import math
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lm_jax.batch import Batch, Sums
from lm_jax.checkpoint import Checkpoints, TrainState
from lm_jax.config import Config, make_model
from lm_jax.data import pipeline
from lm_jax.errors import UserError
from lm_jax.metrics import likelihood
from lm_jax.optimizers import make_optimizer, make_schedule
from lm_jax.progress import LiveLine, MetricWriter
from lm_jax.sharding import by_rows, make_mesh, replicated

TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def init_state(
    model: nn.Module, optimizer: optax.GradientTransformation, seed: int, length: int
) -> TrainState:
    """A model's first parameters and an optimizer that has seen nothing; pure, so that it can be jitted."""
    tokens_BT = jnp.zeros((1, length), jnp.int32)
    params = model.init(jax.random.key(seed), tokens_BT)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_train_step(model: nn.Module, objective: Any, optimizer: optax.GradientTransformation) -> TrainStep:
    """The pure function `(state, batch, key) -> (state, metrics)`.

    Metrics are scalars: loss (nats per token), grad_norm before clipping, param_norm after the update.
    """

    def train_step(
        state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        rngs = {"dropout": jax.random.fold_in(key, state.step)}

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            sums, carry = objective(model, params, batch, state.carry, rngs)
            return sums.mean, carry

        (loss, carry), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norms = {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
        return TrainState(state.step + 1, params, opt_state, carry), {"loss": loss, **norms}

    return train_step


class Trainer:
    """A resolved recipe's model with its optimizer on a mesh, compiled: what `fit` steps and evaluates with.

    Raises:
        UserError: a model that cannot be built, or a mesh that this machine does not have.
    """

    def __init__(self, config: Config):
        self.config, model = config, make_model(config.model)
        self.mesh = make_mesh(config.mesh, config.train.batch_size)
        whole, rows = replicated(self.mesh), by_rows(self.mesh)
        optimizer = make_optimizer(config.optimizer, config.train.num_steps)
        length = config.data.sequence_length
        self._init = jax.jit(
            lambda: init_state(model, optimizer, config.train.seed, length), out_shardings=whole
        )
        # The old state's memory holds the new one.
        self.step = jax.jit(
            make_train_step(model, config.objective, optimizer),
            in_shardings=(whole, rows, whole),
            out_shardings=whole,
            donate_argnums=0,
        )
        self._evaluate = jax.jit(
            lambda params, batch: config.objective(model, params, batch)[0],
            in_shardings=(whole, rows),
            out_shardings=whole,
        )
        self._shapes = jax.eval_shape(self._init)
        self.key = jax.device_put(jax.random.fold_in(jax.random.key(config.train.seed), 1), whole)

    def init(self) -> TrainState:
        """The state before the first step."""
        return self._init()

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state, for restoring into."""
        whole = replicated(self.mesh)
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=whole), self._shapes)

    def evaluate(self, params: Any, batches: Iterator[Batch]) -> tuple[float, float]:
        """Total nats and weight over batches that cover a part once."""
        sums: list[Sums] = [self._evaluate(params, batch) for batch in batches]
        sums = jax.device_get(sums)
        return sum(float(s.total) for s in sums), sum(float(s.weight) for s in sums)


def fit(trainer: Trainer, data: pipeline.Data, workdir: pathlib.Path, params: Any = None) -> bool:
    """Trains from the latest checkpoint in `workdir`, or from the start, to `train.num_steps`.

    Args:
        trainer: the compiled recipe.
        data: the prepared corpus, with a part "train" and a part "valid".
        workdir: where checkpoints and metrics.jsonl go.
        params: parameters to start from instead of random ones.

    Returns:
        False where SIGTERM or SIGINT ended it early, with everything saved.

    Raises:
        UserError: a loss that is not finite, or a damaged checkpoint.
    """
    config, train = trainer.config, trainer.config.train
    source = pipeline.make_source(data.splits["train"], config.data, train.batch_size, train.seed)
    with Checkpoints(workdir) as checkpoints, _Signals() as signals:
        state, first = _start(trainer, checkpoints, params)
        writer = MetricWriter(workdir / "metrics.jsonl", first)
        line = LiveLine("training", train.num_steps, first)
        monitor = _Monitor(config, checkpoints, writer, line, first)
        batches: pipeline.prefetch[Batch] = pipeline.prefetch(source, first, train.num_steps)
        with line, batches:
            for step, batch in enumerate(batches, start=first + 1):
                state, metrics = trainer.step(state, batch, trainer.key)
                monitor.log(step, metrics, batches.waited_seconds)
                last = step == train.num_steps
                if last or step % train.eval_every == 0:
                    monitor.settle()
                    _evaluate_and_save(trainer, state, step, data.splits["valid"], checkpoints, writer, line)
                elif step % train.checkpoint_every == 0 or signals.received:
                    monitor.settle()
                    checkpoints.save(state)
                if signals.received and not last:
                    line.say(f"stopped at step {step}, saved; the same command goes on from here")
                    return False
    return True


def _start(trainer: Trainer, checkpoints: Checkpoints, params: Any) -> tuple[TrainState, int]:
    step = checkpoints.latest_step()
    if step is not None:
        return checkpoints.restore(step, trainer.abstract_state()), step
    state = trainer.init()
    if params is not None:
        state = state._replace(params=jax.device_put(params, replicated(trainer.mesh)))
    return state, 0


def _evaluate_and_save(
    trainer: Trainer,
    state: TrainState,
    step: int,
    valid: pipeline.Split,
    checkpoints: Checkpoints,
    writer: MetricWriter,
    line: LiveLine,
) -> None:
    config = trainer.config
    batches = pipeline.evaluation_batches(
        valid,
        config.train.batch_size,
        config.data.sequence_length,
        separate_documents=config.data.separate_documents,
    )
    nats, weight = trainer.evaluate(state.params, batches)
    loss = nats / weight
    if not math.isfinite(loss):
        raise _not_finite("validation loss", loss, step, checkpoints)
    bits = likelihood.bits_per_byte(nats, valid.num_bytes)
    writer.write(step, valid_loss=loss, valid_bits_per_byte=float(bits))
    line.say(f"step {step:>6}  validation {loss:.4f} nats/token  {float(bits):.4f} bits/byte")
    checkpoints.save(state, loss)


def _not_finite(what: str, value: float, step: int, checkpoints: Checkpoints) -> UserError:
    good = checkpoints.latest_step()
    where = f"the last good checkpoint is step {good}" if good is not None else "no checkpoint was saved yet"
    return UserError(
        f"the {what} at step {step} is {value}; {where} in {checkpoints.directory}",
        "lower optimizer.learning_rate or optimizer.clip_norm, and train in another --workdir",
    )


class _Monitor:
    """Reads each step's metrics once the next step is under way, so that the device never waits for us."""

    def __init__(
        self, config: Config, checkpoints: Checkpoints, writer: MetricWriter, line: LiveLine, first: int
    ):
        self._config, self._checkpoints, self._writer, self._line = config, checkpoints, writer, line
        self._schedule = make_schedule(config.optimizer, config.train.num_steps)
        self._pending: tuple[int, dict[str, jax.Array], float] | None = None
        self._tokens_per_step = config.train.batch_size * config.data.sequence_length
        self._mark = (first, time.monotonic(), 0.0)  # step, time and seconds waited at the last line

    def log(self, step: int, metrics: dict[str, jax.Array], waited: float) -> None:
        """Takes the metrics of a step just dispatched, and deals with those of the one before."""
        self.settle()
        self._pending = (step, metrics, waited)

    def settle(self) -> None:
        """Waits for the pending step; raises where it went wrong."""
        if self._pending is None:
            return
        step, metrics, waited = self._pending
        self._pending = None
        values = {name: float(value) for name, value in metrics.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise _not_finite(name, value, step, self._checkpoints)
        if step % self._config.train.log_every == 0 or step == self._config.train.num_steps:
            self._write(step, values, waited)

    def _write(self, step: int, values: dict[str, float], waited: float) -> None:
        now = time.monotonic()
        mark_step, mark_time, mark_waited = self._mark
        seconds = max(now - mark_time, 1e-9)
        speed, wait = (step - mark_step) * self._tokens_per_step / seconds, (waited - mark_waited) / seconds
        self._mark = (step, now, waited)
        rate = float(self._schedule(step - 1))
        self._writer.write(
            step, **values, learning_rate=rate, tokens_per_second=round(speed), input_wait=round(wait, 4)
        )
        self._line.update(step, f"loss {values['loss']:.3f}  {speed:,.0f} tokens/s  input wait {wait:.1%}")


class _Signals:
    """Notes SIGTERM and SIGINT while it is entered; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received = 0
        self._old: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received += 1
        if self.received > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt

    def __enter__(self) -> "_Signals":
        try:
            self._old = {n: signal.signal(n, self._note) for n in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not the main thread: its owner handles signals
            self._old = {}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
