"""Progress of a run: a live line on a terminal, lines in a log, and metrics.jsonl."""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lm_jax import files, seal
from lm_jax.files import JsonObject
from lm_jax.loggers import LOGGERS, LoggedRun, Logger
from lm_jax.user_code import blamed

_SECONDS_BETWEEN_LINES = 10.0  # in a log, where a live line would print too much


def say(line: str) -> None:
    """Prints a line to standard error, while no live line is shown."""
    print(" ".join(line.split()), file=sys.stderr, flush=True)


class LiveLine:
    """Progress of one piece of work: a bar with time left on a terminal, else a line every ten seconds.

    Args:
        description: the work, such as "training".
        total: units of work in all.
        done: units done before the start, by an earlier process.
        console: where to print; None: standard error.
        quiet: print nothing, because another process prints.
    """

    def __init__(
        self,
        description: str,
        total: int,
        done: int = 0,
        console: Console | None = None,
        quiet: bool = False,
    ):
        self._console = console or Console(stderr=True, quiet=quiet, emoji=False)
        self._description, self._total, self._first = description, total, done
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                TimeRemainingColumn(compact=True),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(description, total=total, completed=done, text="")
            self._bar.start()

    def update(self, done: int, text: str = "") -> None:
        """Shows that `done` units of work are finished."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=text)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self._start) / max(1, done - self._first) * (self._total - done)
            self.say(f"{self._description} {done}/{self._total}  {text}  {clock(left)} left")

    def say(self, line: str) -> None:
        """Prints a permanent line above the live one."""
        self._console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def close(self) -> None:
        """Ends the line; may be called twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Reporter:
    """Live lines for a callee that calls `report(description, done, total)`, one after the other.

    Work that ends within half a second shows nothing.
    """

    def __init__(self) -> None:
        self._description, self._start = "", 0.0
        self._line: LiveLine | None = None

    def __call__(self, description: str, done: int, total: int) -> None:
        if description != self._description:
            self.close()
            self._description, self._start = description, time.monotonic()
        if self._line is None and done < total and time.monotonic() - self._start > 0.5:
            self._line = LiveLine(description, total, done)
        if self._line is not None:
            self._line.update(done)
            if done >= total:
                self.close()

    def close(self) -> None:
        """Ends the line that is shown, if any."""
        if self._line is not None:
            self._line.close()
        self._line, self._description = None, ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class MetricWriter:
    """Appends lines of {"step": ..., name: value} to metrics.jsonl.

    Args:
        path: the file; its directory is created if it does not exist.
        step: the step that the run continues from. Later lines and an incomplete last line are deleted, so
            that the file of an interrupted run equals that of an uninterrupted one.
        loggers: what receives the same numbers; they are closed here.
    """

    def __init__(self, path: pathlib.Path, step: int, loggers: Mapping[str, Logger] = MappingProxyType({})):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        kept = [json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= step]
        with seal.staged(path.parent, grows=[path.name]) as stage:
            files.write_text(stage / path.name, "".join(kept))
        self._file = path.open("a", encoding="utf-8")
        self._loggers = loggers

    def write(self, step: int, **values: float) -> None:
        """Appends one line and flushes it."""
        self._file.write(json.dumps({"step": step} | values) + "\n")
        self._file.flush()
        for name, logger in self._loggers.items():
            with blamed(f"the logger {name} fails at step {step}"):
                logger.log(step, values)

    def seal(self) -> None:
        """Seals what has been written: a checkpoint of the last step may follow."""
        files.flush(self._file)
        seal.update(self._path, grows=True)

    def close(self) -> None:
        """Closes the file and the loggers."""
        self._file.close()
        with contextlib.ExitStack() as stack:  # all of them, also after an error
            for name, logger in self._loggers.items():
                stack.enter_context(blamed(f"the logger {name} cannot be closed"))
                stack.callback(logger.close)


def open_loggers(names: Iterable[str], run: LoggedRun) -> dict[str, Logger]:
    """The loggers of these names, opened for a run.

    Raises:
        UserError: no such logger, or one that cannot be opened.
    """
    opened = {}
    for name in dict.fromkeys(names):
        with blamed(f"the logger {name} cannot be opened"):
            opened[name] = LOGGERS.get(name)(run)
    return opened


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
    """The complete lines of a metrics.jsonl; an empty list if there is no file.

    Raises:
        UserError: the file is damaged: it is not what its run's seal says, or a line is not an object of a
            step and numbers.
    """
    if not seal.exists(path):
        return []
    *lines, _ = files.read_text(path).split("\n")  # behind the last newline: incomplete after a crash
    return [_metrics_of(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _metrics_of(line: str, where: str) -> dict[str, float]:
    values = JsonObject(files.parse_json(line, where), where)
    values.take("step", int)
    return {name: values.take(name, float) for name in values.values}


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, with hours where there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
