"""Checkpoints by Orbax: the latest, the best and those asked for are kept, and damaged files are detected."""

import contextlib
import functools
import logging
import math
import os
import pathlib
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from lm_jax import seal
from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.parallel.distributed import is_writer, together
from lm_jax.progress import say
from lm_jax.seal import Seal

CHECKPOINTS = "checkpoints"  # in a run directory
_METRICS = "metrics"  # Orbax's item with the validation loss
_UNFINISHED = re.compile(r"(\d+)\.orbax-checkpoint-tmp.*")  # the directory of a checkpoint before its rename
_REPLACED = ".replaced"  # directory of the checkpoints that are no longer kept, before they are removed


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Drops what absl's logger is given by this thread: Orbax warns about behaviour that was requested."""
    logger, thread = logging.getLogger("absl"), threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > logging.WARNING

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


class Spaced(NamedTuple):
    """Orbax's policy that keeps, for each of some steps, the first checkpoint at or after it.

    The choice depends on the checkpoints alone, and no later one changes it.

    Attributes:
        steps: in any order.
    """

    steps: Sequence[int]

    @classmethod
    def evenly(cls, number: int, num_steps: int) -> Self:
        """So many steps at equal distances, of which the last one is the run's last."""
        return cls([math.ceil(i * num_steps / number) for i in range(1, number + 1)])

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Which of the checkpoints to keep; they have a `step`."""
        there = sorted(one.step for one in checkpoints)
        chosen = {next((step for step in there if step >= wanted), None) for wanted in self.steps}
        return [one.step in chosen for one in checkpoints]


_NONE = Spaced(())


class Checkpoints:
    """The checkpoints of one run directory, in `checkpoints/STEP/`.

    The item `params` holds the parameters for evaluation: the average, if the run keeps one. Two checkpoints
    are always kept: the latest, to resume from, and the one with the lowest validation loss.

    Args:
        workdir: the run directory.
        read_only: write and delete nothing; for evaluation while a run still trains.
        spaced: which others are kept; None: all.
    """

    def __init__(self, workdir: pathlib.Path, read_only: bool = False, spaced: Spaced | None = _NONE):
        self.directory = pathlib.Path(workdir).resolve() / CHECKPOINTS
        if read_only and not self.directory.is_dir():
            raise UserError(f"no checkpoints in {workdir}", "give a run directory that train.py has written")
        self._read_only, self._spaced = read_only, spaced
        # Processes that restore together share the work of checking digests.
        several = jax.process_count() > 1 and not read_only
        self._share = (jax.process_index(), jax.process_count()) if several else (0, 1)
        # The step being written, and the dtypes and shapes of its items; Orbax writes one step at a time.
        self._saving: tuple[int, dict[str, dict[str, str]]] = (-1, {})

    @functools.cached_property
    def _manager(self) -> Any:
        """Orbax's manager, made on first use, since making it would delay the first step of a new run."""
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy

        # A policy, not max_to_keep: with best_fn that would delete the newest checkpoint.
        best = preservation_policy.BestN(
            get_metric_fn=_loss, reverse=True, n=1, keep_checkpoints_without_metrics=False
        )
        others = preservation_policy.PreserveAll() if self._spaced is None else self._spaced
        policy = preservation_policy.AnyPreservationPolicy([preservation_policy.LatestN(1), best, others])
        for path in self._paths():  # Orbax would take a damaged loss for another one, or for none
            self._check_loss(path)
        unfinished = [] if self._read_only else self._remove_unfinished()
        alone: dict[str, Any] = {}
        if self._read_only:  # each process reads by itself
            me = jax.process_index()
            alone = {"primary_host": me, "active_processes": {me}, "barrier_sync_key_prefix": f"process_{me}"}
        with _without_warnings():
            options = ocp.CheckpointManagerOptions(
                best_fn=_loss,
                best_mode="min",
                preservation_policy=policy,
                create=not self._read_only,
                read_only=self._read_only,
                # A process killed while it removes a checkpoint in place would leave a damaged one.
                todelete_subdir=None if self._read_only else _REPLACED,
                multiprocessing_options=ocp.options.MultiprocessingOptions(**alone),
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            )
        try:
            with _without_warnings():
                manager = ocp.CheckpointManager(self.directory, options=options)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # The only file that it reads besides the losses, and that it still changes after the seal.
            cause = str(error).partition("\n")[0][:200]
            raise UserError(
                f"a _CHECKPOINT_METADATA in {self.directory} is damaged: {cause}",
                "remove the checkpoint, or restore the file",
            ) from None
        if unfinished:
            step = max(manager.all_steps(), default=None)
            where = "from the beginning" if step is None else f"from step {step}"
            names = " and ".join(map(str, unfinished))
            say(f"the run was stopped while it wrote checkpoint {names}: it continues {where}")
        return manager

    def _paths(self) -> list[pathlib.Path]:
        """The directories of the saved steps."""
        found = self.directory.iterdir() if self.directory.is_dir() else ()
        return sorted((path for path in found if path.name.isdecimal()), key=lambda path: int(path.name))

    def _remove_unfinished(self) -> list[int]:
        """Removes what a killed process has left of checkpoints; returns their steps.

        Orbax would do it too, but may fail where a part of one is already gone.
        """
        if not is_writer() or not self.directory.is_dir():
            return []
        self._remove_replaced()
        steps = []
        for path in self.directory.iterdir():
            if match := _UNFINISHED.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
                steps.append(int(match[1]))
        return sorted(steps)

    def _remove_replaced(self) -> None:
        """Removes the checkpoints that are no longer kept. Call it where none is being written."""
        if is_writer():
            shutil.rmtree(self.directory / _REPLACED, ignore_errors=True)

    def save(self, step: int, params: Any, rest: Any, valid_loss: float | None = None) -> None:
        """Saves in the background; the arrays may be donated after the call.

        Args:
            step: the number of updates so far. A step that is already saved is not saved again.
            params: the parameters for evaluation.
            rest: the other state that training needs to resume; any pytree.
            valid_loss: the validation loss, if it was measured at this step; finite.
        """
        import orbax.checkpoint as ocp

        if step in self._manager.all_steps():
            return  # a signal arrived just after a regular save
        items = {"params": params, "rest": _numbered(rest)}
        args = ocp.args.Composite(**{name: ocp.args.StandardSave(tree) for name, tree in items.items()})
        assert valid_loss is None or math.isfinite(valid_loss)
        self._finish()
        self._saving = (step, {name: _form(tree) for name, tree in items.items()})
        metrics = None if valid_loss is None else {"valid_loss": valid_loss}
        with self._writing(), _without_warnings():
            self._manager.save(step, args=args, metrics=metrics, force=True)

    def latest_step(self) -> int | None:
        """The step to resume from; None if nothing was saved."""
        if not self.directory.is_dir():
            return None
        return max(self._manager.all_steps(), default=None)

    def best_step(self) -> int | None:
        """The step with the lowest validation loss; the latest step if none was measured."""
        best = self._manager.best_step()
        return self.latest_step() if best is None else best

    def all_steps(self) -> list[int]:
        """The steps of all finished checkpoints, the first one first.

        Raises:
            UserError: there is none.
        """
        if not (steps := sorted(self._manager.all_steps())):
            raise UserError(
                f"no checkpoint in {self.directory}", "train longer, or give another run directory"
            )
        return steps

    def choose(self, which: str) -> int:
        """The step that "best", "latest" or a number names.

        Raises:
            UserError: there is no such checkpoint.
        """
        steps = self.all_steps()
        named = {"best": self.best_step(), "latest": self.latest_step(), **{str(n): n for n in steps}}
        found = named.get(which)
        if found is None:
            raise UserError(
                f"no checkpoint {which[:80]} in {self.directory}", f"choose best, latest or one of {steps}"
            )
        return found

    def restore(self, step: int, params: Any, rest: Any) -> tuple[Any, Any]:
        """The parameters and the rest that were saved at a step.

        Args:
            step: a saved step.
            params: arrays or `jax.ShapeDtypeStruct`s with the shardings to restore to.
            rest: the same for the rest.

        Raises:
            UserError: the checkpoint is damaged, or its arrays have other shapes.
        """
        got = self._restore(step, {"params": params, "rest": _numbered(rest)})
        leaves = [got["rest"][name] for name in _numbered(rest)]
        return got["params"], jax.tree.unflatten(jax.tree.structure(rest), leaves)

    def restore_params(self, step: int, like: Any) -> Any:
        """The parameters alone, with the shardings of `like`; see `restore`."""
        return self._restore(step, {"params": like})["params"]

    def read_params(self, step: int) -> Any:
        """The parameters alone, with the shapes that were saved, on one device."""
        path = self.directory / str(step)
        return self.restore_params(step, _tree(_forms(self._seal_of(path), path)["params"]))

    def sizes(self, step: int) -> tuple[int, int]:
        """The number of arrays of the parameters and of the numbers in them; errors as for `restore`."""
        path = self.directory / str(step)
        forms = _forms(self._seal_of(path), path)["params"].values()
        return len(forms), sum(math.prod(map(int, re.findall(r"\d+", f.partition("[")[2]))) for f in forms)

    def close(self) -> None:
        """Waits until all writes are finished."""
        if "_manager" in vars(self):
            self._finish()
            self._manager.close()

    def _finish(self) -> None:
        """Waits for the checkpoint that is being written, and removes those that it replaces."""
        with self._writing():
            self._manager.wait_until_finished()
        if not self._read_only:
            self._remove_replaced()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Raises OSError where there is no room: TensorStore has errors of its own."""
        try:
            yield
        except OSError as error:
            if error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror, str(self.directory)) from None
        except ValueError as error:
            found = re.search(r"os_error_code='(\d+)'", str(error))
            if isinstance(error, UserError) or not found:
                raise
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(self.directory)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _restore(self, step: int, like: dict[str, Any]) -> Any:
        import orbax.checkpoint as ocp

        path = self.directory / str(step)
        # Orbax does not detect changed bytes, and its own errors are longer than one line.
        first, stride = self._share
        # Before Orbax waits for all processes: a process that finds damage must not leave the others waiting.
        with together() if stride > 1 else contextlib.nullcontext():
            names = sorted(self._seal_of(path).states)[first::stride]
            found = self._seal_of(path, *names) if names else self._seal_of(path)
            forms = _forms(found, path)
            for item, tree in like.items():
                _check_form(path, forms[item], _form(tree))
        args = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**args))
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # of a file that fits its digest
            cause = str(error).partition("\n")[0][:200]
            raise UserError(f"checkpoint {path} is damaged: {cause}", _remedy(path)) from None

    def _check_loss(self, path: pathlib.Path) -> None:
        try:
            self._seal_of(path, _METRICS)
            if (file := path / _METRICS / _METRICS).is_file():
                JsonObject.read(file).take("valid_loss", float)  # earlier versions did not seal it
        except UserError:
            if self._read_only:
                time.sleep(0.3)  # a process that trains may be deleting it
                if not path.is_dir():
                    return
            raise

    def _seal_of(self, path: pathlib.Path, *names: str) -> Seal:
        """The seal of a checkpoint, after a check of these files, which is of all bytes."""
        remedy = _remedy(path)
        try:
            found = seal.read(path)
            if found is not None and names:
                found = seal.check(path, *names, remedy=remedy, whole=True)
        except UserError as error:
            raise UserError(f"checkpoint {error.cause}", remedy) from None
        if found is None:
            raise UserError(f"checkpoint {path} is damaged: {seal.FILE} is missing", remedy)
        return found

    def _seal(self) -> None:
        """Writes the seal; Orbax calls it when all files are written, just before the final rename."""
        if not is_writer():
            return
        step, forms = self._saving
        [path] = self.directory.glob(f"{step}.orbax-checkpoint-tmp*")
        items = {*forms, _METRICS}  # Orbax still changes files of its own beside them
        names = [name for name in seal.files_in(path) if name.partition("/")[0] in items]
        seal.write_whole(path, names, {"forms": forms})


def _remedy(path: pathlib.Path) -> str:
    return f"remove {path} to use an earlier checkpoint, or start again in another directory"


def _forms(found: Seal, path: pathlib.Path) -> dict[str, dict[str, str]]:
    """The dtypes and shapes of a checkpoint's arrays, by its items."""
    items = JsonObject(found.facts, str(path / seal.FILE)).inner("forms")
    forms = {}
    for item in ("params", "rest"):
        inner = items.inner(item)
        forms[item] = {name: inner.take(name, str) for name in inner.values}
    return forms


def _form(tree: Any) -> dict[str, str]:
    """The dtype and shape of each array of a tree, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _tree(forms: dict[str, str]) -> Any:
    """Nested dicts of shapes on one device: the inverse of `_form`."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    tree: dict[str, Any] = {}
    for name, form in forms.items():
        *parents, last = re.findall(r"\['([^']*)'\]", name)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        dtype, _, shape = form.partition("[")
        sizes = [int(size) for size in shape.rstrip("]").split(",") if size]
        node[last] = jax.ShapeDtypeStruct(sizes, np.dtype(dtype), sharding=place)
    return tree


def _check_form(path: pathlib.Path, there: dict[str, str], here: dict[str, str]) -> None:
    for name in there | here:
        if there.get(name) != here.get(name):
            raise UserError(
                f"checkpoint {path} does not fit the config: {name} is {there.get(name, 'absent')} there "
                f"and {here.get(name, 'absent')} here",
                "use the config that it was trained with",
            )


def _loss(metrics: dict[str, float]) -> float:
    return metrics["valid_loss"]


def _numbered(tree: Any) -> dict[str, Any]:
    """A tree as {"000": leaf, ...}, since Orbax does not know optax's containers."""
    return {f"{i:03}": leaf for i, leaf in enumerate(jax.tree.leaves(tree))}
