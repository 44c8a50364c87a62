"""The loop around the training step."""

import math
import pathlib
import signal
import time
from functools import partial
from types import FrameType
from typing import Any

import jax

from lm_jax.batch import Batch
from lm_jax.checkpoint import Checkpoints
from lm_jax.config import Config, make_model
from lm_jax.data import pipeline
from lm_jax.errors import UserError
from lm_jax.metrics import likelihood
from lm_jax.optimizers import make_optimizer, make_schedule
from lm_jax.progress import LiveLine, MetricWriter
from lm_jax.sharding import by_rows, make_mesh, replicated
from lm_jax.train_step import TrainState, init_carry, init_state, make_train_step


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
        first_carry = partial(init_carry, model, config.data.order, config.train.batch_size)

        def first_state() -> TrainState:
            return init_state(model, optimizer, config.train.seed, length, first_carry())

        self._shapes = jax.eval_shape(first_state)
        self._places = jax.tree.map(lambda _: whole, self._shapes)
        self._places = self._places._replace(carry=jax.tree.map(lambda _: rows, self._shapes.carry))
        self._init = jax.jit(first_state, out_shardings=self._places)
        # The old state's memory holds the new one.
        self.step = jax.jit(
            make_train_step(model, config.objective, optimizer),
            in_shardings=(self._places, rows, whole),
            out_shardings=(self._places, whole),
            donate_argnums=0,
        )
        self._init_carry = jax.jit(first_carry, out_shardings=rows)
        self._evaluate = jax.jit(
            partial(config.objective, model),
            in_shardings=(whole, rows, rows),
            out_shardings=(whole, rows),
        )
        self.key = jax.device_put(jax.random.fold_in(jax.random.key(config.train.seed), 1), whole)

    def init(self) -> TrainState:
        """The state before the first step."""
        return self._init()

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state, for restoring into."""
        return jax.tree.map(
            lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place),
            self._shapes,
            self._places,
        )

    def evaluate(self, params: Any, split: pipeline.Split) -> tuple[float, float]:
        """Total nats and weight over a part, read once; a carried state goes through each document."""
        carry, sums = self._init_carry(), []
        data = self.config.data
        for batch in pipeline.evaluation_batches(
            split,
            self.config.train.batch_size,
            data.sequence_length,
            separate_documents=data.separate_documents,
            carried=carry is not None,
        ):
            batch_sums, carry = self._evaluate(params, batch, carry)
            sums.append(batch_sums)
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
    nats, weight = trainer.evaluate(state.params, valid)
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
