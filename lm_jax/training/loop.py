"""The training loop: batches, validation, checkpoints, signals."""

import contextlib
import itertools
import math
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import jax
import numpy as np

from lm_jax import fields
from lm_jax.batch import Sums
from lm_jax.checkpoint import Checkpoints, Spaced
from lm_jax.config import Config, TrainConfig
from lm_jax.data import pipeline
from lm_jax.data.prefetch import Prefetch
from lm_jax.errors import UserError
from lm_jax.loggers import LoggedRun
from lm_jax.parallel.distributed import Rows, StopVote, is_writer
from lm_jax.parallel.sharding import by_rows, make_mesh, replicated
from lm_jax.progress import LiveLine, MetricWriter, clock, open_loggers
from lm_jax.stopping import Noted
from lm_jax.tasks.base import Figure, Process
from lm_jax.text.base import Tokenizer
from lm_jax.training.program import Program
from lm_jax.training.step import TrainState

METRICS = "metrics.jsonl"  # in a run directory
_STEPS_MEASURED, _SECONDS_MEASURED = 10, 2.0  # at least, before the time left is estimated
_WORTH_SAYING = 30.0  # seconds


class Trainer:
    """A resolved recipe's program on the devices of this machine, or of all processes that have joined.

    Raises:
        UserError: the model cannot be built, or there are too few devices for the mesh.
    """

    def __init__(self, config: Config):
        self.config, self.mesh = config, make_mesh(config.mesh)
        self.program = Program(config, self.mesh)
        self.rows = Rows(by_rows(self.mesh), config.train.batch_size)
        seed = config.train.seed
        self.key = jax.jit(
            lambda: jax.random.fold_in(jax.random.key(seed), 1), out_shardings=replicated(self.mesh)
        )()

    def step(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update; `batch` has this process's rows of the global batch, and `state` is donated."""
        return self.program.step(state, self.rows.assemble(batch), self.key)

    def held_out(self, data: pipeline.Data) -> Iterator[Any]:
        """The batches of the validation part, of which the first is made at once.

        Raises:
            UserError: a part from which no batch can be made.
        """
        config, num_rows = self.config, self.program.rows_evaluated
        rows = Rows(by_rows(self.mesh), num_rows)
        batches = config.task.held_out(
            data.splits["valid"], config.data, config.model, num_rows, Process(rows.index, rows.count)
        )
        if (first := next(batches, None)) is None:
            raise UserError("the validation part gives no batch", "hold out more, or give data.valid")
        return map(rows.assemble, itertools.chain([first], batches))

    def validate(self, params: Any, data: pipeline.Data) -> list[Figure]:
        """The task's figures for the validation part, which is read once."""
        carry, found = self.program.init_carry(), []
        for batch in self.held_out(data):
            sums, carry = self.program.evaluate(params, batch, carry)
            found.append(sums)
        return self.config.task.figures(_added(jax.device_get(found)), data.splits["valid"], data)


def _added(found: list[dict[str, Sums]]) -> dict[str, Sums]:
    """Losses of batches added up in float64, in order."""

    def add(values: list[Any]) -> np.ndarray:
        return np.asarray(sum(float(value) for value in values))

    return {name: Sums(*(add(list(parts)) for parts in zip(*(s[name] for s in found)))) for name in found[0]}


def fit(trainer: Trainer, data: pipeline.Data, workdir: pathlib.Path, params: Any = None) -> bool:
    """Trains from the latest checkpoint in `workdir`, or from the start, to `train.num_steps`.

    Args:
        trainer: the compiled recipe.
        data: the prepared corpus, with a part "train" and a part "valid".
        workdir: where checkpoints and metrics.jsonl go.
        params: parameters to start from instead of random ones, if there is no checkpoint.

    Returns:
        False if SIGTERM, or a signal to another process, stopped it early; the state is saved.

    Raises:
        KeyboardInterrupt: SIGINT (Ctrl-C) stopped it early; the state is saved.
        UserError: a loss that is not finite, or a damaged checkpoint.
    """
    config, train, rows = trainer.config, trainer.config.train, trainer.rows
    source = config.task.source(data.splits["train"], config.data, train.batch_size, train.seed)
    with contextlib.ExitStack() as stack, _checkpoints(train, workdir) as checkpoints:
        state, first = _start(trainer, checkpoints, params, data.tokenizer)
        line = LiveLine("training", train.num_steps, first, quiet=not is_writer())
        monitor = Monitor(config, checkpoints, workdir, first, line)
        batches: Prefetch[Any] = Prefetch(
            lambda step: source.batch(step, rows.index, rows.count), first, train.num_steps
        )
        vote, signals = StopVote(trainer.mesh), Noted()
        with line, monitor, batches:
            for step, batch in enumerate(batches, start=first + 1):
                state, metrics = trainer.step(state, batch)
                if step == first + 1:  # not earlier: compiling takes long, and there is nothing to save
                    stack.enter_context(signals)
                monitor.log(step, metrics, batches.waited_seconds)
                last, stop = step == train.num_steps, vote.cast(signals.received > 0)
                if last or step % train.eval_every == 0:
                    monitor.settle()
                    loss = monitor.validated(step, trainer.validate(state.evaluated_params, data))
                    if train.average == "triggered":
                        state = trainer.program.observe(state, loss)
                    monitor.seal()
                    _save(checkpoints, state, loss)
                elif step % train.checkpoint_every == 0 or stop:
                    monitor.settle()
                    monitor.seal()
                    _save(checkpoints, state)
                if stop:
                    signals.answered = True
                    said = f"stopped at step {step}, saved; run the same command again to resume"
                    if signals.interrupted:
                        raise KeyboardInterrupt(*[said] * is_writer())
                    line.say(said)
                    return False
    return True


def _checkpoints(train: TrainConfig, workdir: pathlib.Path) -> Checkpoints:
    """The checkpoints of a run, of which as many are kept as the recipe says."""
    spaced = None if train.keep == "all" else Spaced.evenly(int(train.keep), train.num_steps)
    return Checkpoints(workdir, spaced=spaced)


def _start(
    trainer: Trainer, checkpoints: Checkpoints, params: Any, tokenizer: Tokenizer
) -> tuple[TrainState, int]:
    step = checkpoints.latest_step()
    if step is not None:
        return _restore(checkpoints, step, trainer.program.state), step
    if params is not None:
        state = trainer.program.init_from(jax.device_get(params))
    else:
        state = trainer.program.init()
    words = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    filled = trainer.config.model.with_vocabulary(state.params, words)
    if filled is state.params:
        return state, 0
    filled = jax.device_put(filled, jax.tree.map(lambda like: like.sharding, trainer.program.state.params))
    return state._replace(params=filled), 0


def _save(checkpoints: Checkpoints, state: TrainState, valid_loss: float | None = None) -> None:
    checkpoints.save(int(state.step), state.evaluated_params, _rest(state), valid_loss)


def _restore(checkpoints: Checkpoints, step: int, like: TrainState) -> TrainState:
    """The state at a step, laid out as `like` (arrays or `jax.ShapeDtypeStruct`s with shardings)."""
    params, rest = checkpoints.restore(step, like.evaluated_params, _rest(like))
    at_step = jax.device_put(np.asarray(step, np.int32), like.step.sharding)
    if like.average is None:
        return TrainState(at_step, params, *rest)
    opt_state, carry, trained_params, average = rest
    return TrainState(at_step, trained_params, opt_state, carry, average._replace(params=params))


def _rest(state: TrainState) -> tuple[Any, ...]:
    """The state that a checkpoint holds in addition to the evaluated parameters."""
    if state.average is None:
        return (state.opt_state, state.carry)
    return (state.opt_state, state.carry, state.params, state.average._replace(params=None))


def _open_writer(config: Config, workdir: pathlib.Path, first: int) -> MetricWriter:
    """metrics.jsonl, and the loggers that the recipe names."""
    names = [*(["tensorboard"] if config.train.tensorboard else []), *config.train.loggers]
    run = LoggedRun(workdir, dict(fields.flatten(config)), first)
    return MetricWriter(workdir / METRICS, first, open_loggers(names, run))


class Monitor:
    """Writes metrics.jsonl and the live line, and stops a run whose numbers are not finite.

    A step's metrics are read after the next step is dispatched, so that the device never waits for the host.

    Args:
        config: the resolved recipe.
        checkpoints: the run's.
        workdir: where metrics.jsonl goes.
        first: the step that the run continues from.
        line: the live line; it is not closed here.
    """

    def __init__(
        self,
        config: Config,
        checkpoints: Checkpoints,
        workdir: pathlib.Path,
        first: int,
        line: LiveLine,
    ):
        self._config, self._checkpoints, self._line = config, checkpoints, line
        self._writer = _open_writer(config, workdir, first) if is_writer() else None
        self._pending: tuple[int, Mapping[str, Any], float] | None = None
        self._tokens_per_step = config.task.num_tokens(config.data, config.train.batch_size)
        self._mark = (first, time.monotonic(), 0.0)  # step, time and seconds waited at the last line
        # Step and time at the first line, since when nothing is compiled; None: the time left has been said.
        self._compiled: tuple[int, float] | None = (first, math.inf)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def validated(self, step: int, figures: list[Figure]) -> float:
        """Writes the validation figures of a step; returns the first, which selects the best checkpoint.

        Raises:
            UserError: it is not finite.
        """
        loss = figures[0].value
        if not math.isfinite(loss):
            raise self._not_finite("validation loss", loss, step)
        self._write(step, **{figure.name: figure.value for figure in figures})
        shown = "  ".join(f"{figure.value:.4f} {figure.unit}" for figure in figures)
        self._line.say(f"step {step:>6}  validation {shown}")
        return loss

    def log(self, step: int, metrics: Mapping[str, Any], waited: float) -> None:
        """Takes the metrics of a step just dispatched, and writes those of the step before."""
        self.settle()
        self._pending = (step, metrics, waited)

    def settle(self) -> None:
        """Reports the pending step. Raises UserError if one of its metrics is not finite."""
        if self._pending is None:
            return
        step, metrics, waited = self._pending
        self._pending = None
        values = {name: float(value) for name, value in metrics.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise self._not_finite(name, value, step)
        if step % self._config.train.log_every == 0 or step == self._config.train.num_steps:
            self._report(step, values, waited)

    def seal(self) -> None:
        """Seals metrics.jsonl before a checkpoint: a resumed run then lacks no line."""
        if self._writer is not None:
            self._writer.seal()

    def _report(self, step: int, values: dict[str, float], waited: float) -> None:
        now = time.monotonic()
        mark_step, mark_time, mark_waited = self._mark
        seconds = max(now - mark_time, 1e-9)
        speed, wait = (step - mark_step) * self._tokens_per_step / seconds, (waited - mark_waited) / seconds
        self._mark = (step, now, waited)
        self._estimate(step, now)
        self._write(step, **values, tokens_per_second=round(speed), input_wait=round(wait, 4))
        self._line.update(step, f"loss {values['loss']:.3f}  {speed:,.0f} tokens/s  input wait {wait:.1%}")

    def _estimate(self, step: int, now: float) -> None:
        """Says once how long the steps that are left take, measured after the first ones were compiled."""
        if self._compiled is None:
            return
        first, start = self._compiled
        if start == math.inf:
            self._compiled = (step, now)
            return
        done, seconds, left = step - first, now - start, self._config.train.num_steps - step
        if done < _STEPS_MEASURED or seconds < _SECONDS_MEASURED:
            return
        self._compiled = None
        if (estimate := seconds / done * left) >= _WORTH_SAYING:
            each = f"{left:,} steps of {seconds / done:.3g} s"
            self._line.say(f"about {clock(estimate)} of training left: {each}; validations take more")

    def _not_finite(self, what: str, value: float, step: int) -> UserError:
        good = self._checkpoints.latest_step()
        where = (
            f"the last good checkpoint is step {good}" if good is not None else "no checkpoint was saved yet"
        )
        return UserError(
            f"the {what} at step {step} is {value}; {where} in {self._checkpoints.directory}",
            "lower optimizer.learning_rate or optimizer.clip_norm, and train in another --workdir",
        )

    def _write(self, step: int, **values: float) -> None:
        if self._writer is not None:
            self._writer.write(step, **values)
