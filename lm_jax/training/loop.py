"""The loop around the training step."""

import math
import pathlib
import signal
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any, Self

import jax

from lm_jax.batch import Batch
from lm_jax.checkpoint import Checkpoints
from lm_jax.config import Config
from lm_jax.data import pipeline
from lm_jax.data.prefetch import Prefetch
from lm_jax.errors import UserError
from lm_jax.metrics import likelihood
from lm_jax.parallel.distributed import Rows, StopVote, is_writer
from lm_jax.parallel.sharding import by_rows, make_mesh, replicated
from lm_jax.progress import LiveLine, MetricWriter
from lm_jax.training.program import Program
from lm_jax.training.step import TrainState


class Trainer:
    """A resolved recipe's program on the devices of this machine, or of all processes that have joined.

    Raises:
        UserError: a model that cannot be built, or a mesh that these machines do not have.
    """

    def __init__(self, config: Config):
        self.config, self.mesh = config, make_mesh(config.mesh)
        self.program = Program(config, self.mesh)
        self.rows = Rows(by_rows(self.mesh), config.train.batch_size)
        seed = config.train.seed
        self.key = jax.jit(
            lambda: jax.random.fold_in(jax.random.key(seed), 1), out_shardings=replicated(self.mesh)
        )()

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update by this process's rows of a batch and the others'; the old state is no more."""
        return self.program.step(state, self.rows.assemble(batch), self.key)

    def evaluate(self, params: Any, split: pipeline.Split) -> tuple[float, float]:
        """Total nats and weight over a part, read once; a carried state goes through each document."""
        data, carry, sums = self.config.data, self.program.init_carry(), []
        rows = Rows(by_rows(self.mesh), self.program.rows_evaluated)
        for batch in pipeline.evaluation_batches(
            split,
            self.program.rows_evaluated,
            data.sequence_length,
            rows.index,
            rows.count,
            separate_documents=data.separate_documents,
            carried=carry is not None,
        ):
            batch_sums, carry = self.program.evaluate(params, rows.assemble(batch), carry)
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
    config, train, rows = trainer.config, trainer.config.train, trainer.rows
    source = pipeline.make_source(data.splits["train"], config.data, train.batch_size, train.seed)
    with Checkpoints(workdir) as checkpoints, Signals() as signals:
        state, first = _start(trainer, checkpoints, params)
        line = LiveLine("training", train.num_steps, first, quiet=not is_writer())
        look = Looks(config, checkpoints, workdir, first, line)
        batches: Prefetch[Batch] = Prefetch(
            lambda step: source.batch(step, rows.index, rows.count), first, train.num_steps
        )
        vote = StopVote(trainer.mesh)
        with line, look, batches:
            for step, batch in enumerate(batches, start=first + 1):
                state, metrics = trainer.step(state, batch)
                look.log(step, metrics, batches.waited_seconds)
                last, stop = step == train.num_steps, vote.cast(signals.received > 0)
                if last or step % train.eval_every == 0:
                    look.settle()
                    nats, weight = trainer.evaluate(state.evaluated_params, data.splits["valid"])
                    loss = look.evaluated(step, nats, weight, bytes_paid_for(data))
                    if train.average == "triggered":
                        state = trainer.program.observe(state, loss)
                    checkpoints.save(state, loss)
                elif step % train.checkpoint_every == 0 or stop:
                    look.settle()
                    checkpoints.save(state)
                if stop and not last:
                    line.say(f"stopped at step {step}, saved; the same command goes on from here")
                    return False
    return True


def bytes_paid_for(data: pipeline.Data) -> int | None:
    """The size of the validation part; None where its tokens do not stand for all of its bytes."""
    return data.splits["valid"].num_bytes if data.tokenizer.lossless else None


def _start(trainer: Trainer, checkpoints: Checkpoints, params: Any) -> tuple[TrainState, int]:
    step = checkpoints.latest_step()
    if step is not None:
        return checkpoints.restore(step, trainer.program.state), step
    if params is not None:
        return trainer.program.init_from(jax.device_get(params)), 0
    return trainer.program.init(), 0


class Looks:
    """What is seen of a run while it goes on: its metrics, and the validation part.

    Each step's metrics are read once the next step is under way, so that the device never waits for us.

    Args:
        config: the resolved recipe.
        checkpoints: the run's.
        workdir: where metrics.jsonl goes.
        first: the step that the run goes on from.
        line: where it talks; stays open.
        name: which run it is, where several talk.
    """

    def __init__(
        self,
        config: Config,
        checkpoints: Checkpoints,
        workdir: pathlib.Path,
        first: int,
        line: LiveLine,
        name: str = "",
    ):
        self._config, self._checkpoints, self._line, self._name = config, checkpoints, line, name
        tensorboard = workdir / "tensorboard" if config.train.tensorboard else None
        self._writer = MetricWriter(workdir / "metrics.jsonl", first, tensorboard) if is_writer() else None
        self._pending: tuple[int, Mapping[str, Any], float] | None = None
        self._tokens_per_step = config.train.batch_size * config.data.sequence_length
        self._mark = (first, time.monotonic(), 0.0)  # step, time and seconds waited at the last line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def evaluated(self, step: int, nats: float, weight: float, num_bytes: int | None) -> float:
        """Takes the sums over the validation part; returns the loss in nats per token.

        Args:
            step: updates so far.
            nats: of all its tokens.
            weight: how many these are.
            num_bytes: see `bytes_paid_for`.

        Raises:
            UserError: it is not finite.
        """
        loss = nats / weight
        if not math.isfinite(loss):
            raise self._not_finite("validation loss", loss, step)
        values, shown = {"valid_loss": loss}, f"{loss:.4f} nats/token"
        if num_bytes is not None:
            bits = float(likelihood.bits_per_byte(nats, num_bytes))
            values, shown = values | {"valid_bits_per_byte": bits}, f"{shown}  {bits:.4f} bits/byte"
        self._write(step, **values)
        self._line.say(f"{self._name} step {step:>6}  validation {shown}".lstrip())
        return loss

    def log(self, step: int, metrics: Mapping[str, Any], waited: float) -> None:
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
                raise self._not_finite(name, value, step)
        if step % self._config.train.log_every == 0 or step == self._config.train.num_steps:
            self._tell(step, values, waited)

    def _tell(self, step: int, values: dict[str, float], waited: float) -> None:
        now = time.monotonic()
        mark_step, mark_time, mark_waited = self._mark
        seconds = max(now - mark_time, 1e-9)
        speed, wait = (step - mark_step) * self._tokens_per_step / seconds, (waited - mark_waited) / seconds
        self._mark = (step, now, waited)
        self._write(step, **values, tokens_per_second=round(speed), input_wait=round(wait, 4))
        self._line.update(step, f"loss {values['loss']:.3f}  {speed:,.0f} tokens/s  input wait {wait:.1%}")

    def _not_finite(self, what: str, value: float, step: int) -> UserError:
        good = self._checkpoints.latest_step()
        where = (
            f"the last good checkpoint is step {good}" if good is not None else "no checkpoint was saved yet"
        )
        of_whom = f" of {self._name}" if self._name else ""
        return UserError(
            f"the {what}{of_whom} at step {step} is {value}; {where} in {self._checkpoints.directory}",
            "lower optimizer.learning_rate or optimizer.clip_norm, and train in another --workdir",
        )

    def _write(self, step: int, **values: float) -> None:
        if self._writer is not None:
            self._writer.write(step, **values)


class Signals:
    """Notes SIGTERM and SIGINT while it is entered; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received = 0
        self._old: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received += 1
        if self.received > 1 and number == signal.SIGINT:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        try:
            self._old = {n: signal.signal(n, self._note) for n in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:  # not the main thread: its owner handles signals
            self._old = {}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
