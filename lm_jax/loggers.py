"""Where the numbers of a run go beside metrics.jsonl: TensorBoard, or a logger of the user's own.

To add one: `@LOGGERS.register("NAME")` above a class like `TensorBoard`, in a file that --import names, and
`--config.train.loggers=NAME`. `examples/loggers.py` has two.
"""

import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from lm_jax.errors import UserError
from lm_jax.registry import Registry


class LoggedRun(NamedTuple):
    """What a logger is told of a run when it is opened.

    Attributes:
        directory: the run directory.
        config: the recipe, dotted field name -> value.
        step: the step that the run continues from, 0 for a new one. Steps that come again were lost when the
            run stopped: the new numbers count.
    """

    directory: pathlib.Path
    config: Mapping[str, Any]
    step: int

    @property
    def id(self) -> str:
        """A name that is the same when the run is resumed: 16 hexadecimal digits, of its directory."""
        return hashlib.sha256(str(self.directory.absolute()).encode()).hexdigest()[:16]


class Logger(Protocol):
    """What receives the numbers of a run; one process of a run has loggers.

    It is made by a call with a `LoggedRun`, before the first step.
    """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the numbers of a step, such as loss, learning_rate or validation_loss."""
        ...

    def close(self) -> None:
        """Ends the log; called once, also after an error."""
        ...


LOGGERS: Registry[Callable[[LoggedRun], Logger]] = Registry(
    "logger", {"tensorboard": "lm_jax.loggers:TensorBoard"}
)


class TensorBoard:
    """Event files in the directory `tensorboard` of the run.

    Raises:
        UserError: tensorboardX is not installed.
    """

    def __init__(self, run: LoggedRun):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError(
                "TensorBoard's event files need tensorboardX", "type pip install 'lm_jax[tensorboard]'"
            ) from None
        # purge_step makes TensorBoard ignore later steps that an interrupted run wrote.
        self._events = SummaryWriter(str(run.directory / "tensorboard"), purge_step=run.step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a scalar for each number."""
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the files."""
        self._events.close()
