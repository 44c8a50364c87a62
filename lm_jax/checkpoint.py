"""Checkpoints by Orbax: the latest and the best, parameters apart from the rest, and proof that they are whole."""

import hashlib
import json
import math
import pathlib
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from lm_jax.errors import UserError


class TrainState(NamedTuple):
    """All that a training step reads and writes.

    Attributes:
        step: int32 [], updates so far; also the position in the data.
        params: the model's variables.
        opt_state: the optimizer's.
        carry: the model's state between batches; None where windows stand alone.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    carry: Any = None


class Checkpoints:
    """The checkpoints of one run directory, in `checkpoints/STEP/`.

    Kept are the latest, to resume from, and the one with the lowest validation loss.

    Args:
        workdir: the run directory.
        read_only: never write, nor tidy up; for evaluation beside a run that still trains.
    """

    def __init__(self, workdir: pathlib.Path, read_only: bool = False):
        self.directory = pathlib.Path(workdir).resolve() / "checkpoints"
        if read_only and not self.directory.is_dir():
            raise UserError(f"no checkpoints in {workdir}", "give a run directory that train.py has written")
        # A policy, not max_to_keep: with best_fn that would delete the newest checkpoint.
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(1),
                preservation_policy.BestN(get_metric_fn=_loss, reverse=True, n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=_loss,
            best_mode="min",
            preservation_policy=policy,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, state: TrainState, valid_loss: float | None = None) -> None:
        """Saves in the background; the state may be donated at once.

        Args:
            state: what to save.
            valid_loss: nats per token on the validation part, if it was just measured; never NaN.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return  # a stop just after a regular save
        rest = _numbered((state.opt_state, state.carry))
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            rest=ocp.args.StandardSave(rest),
            proof=ocp.args.JsonSave({"params": checksum(state.params), "rest": checksum(rest)}),
        )
        assert valid_loss is None or math.isfinite(valid_loss)
        metrics = None if valid_loss is None else {"valid_loss": valid_loss}
        self._manager.save(step, args=items, metrics=metrics, force=True)

    def latest_step(self) -> int | None:
        """The step to resume from; None where nothing was saved."""
        return max(self._manager.all_steps(), default=None)

    def best_step(self) -> int | None:
        """The step with the lowest validation loss; the latest where none was measured."""
        best = self._manager.best_step()
        return self.latest_step() if best is None else best

    def choose(self, which: str) -> int:
        """The step that "best", "latest" or a number names.

        Raises:
            UserError: there is no such checkpoint.
        """
        steps = sorted(self._manager.all_steps())
        if not steps:
            raise UserError(
                f"no checkpoint in {self.directory}", "train longer, or give another run directory"
            )
        named = {"best": self.best_step(), "latest": self.latest_step()}.get(which)
        if named is None:
            named = int(which) if which.isdigit() else -1
        if named not in steps:
            raise UserError(
                f"no checkpoint {which} in {self.directory}", f"choose best, latest or one of {steps}"
            )
        return named

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state at a step, laid out as `like` (arrays or `jax.ShapeDtypeStruct`s with shardings).

        Raises:
            UserError: the checkpoint is damaged, or of another shape.
        """
        rest = (like.opt_state, like.carry)
        got = self._restore(step, {"params": like.params, "rest": _numbered(rest)})
        leaves = [got["rest"][name] for name in _numbered(rest)]
        opt_state, carry = jax.tree.unflatten(jax.tree.structure(rest), leaves)
        at_step = jax.device_put(jnp.asarray(step, jnp.int32), like.step.sharding)
        return TrainState(at_step, got["params"], opt_state, carry)

    def restore_params(self, step: int, like: Any) -> Any:
        """The parameters alone, laid out as `like`; see `restore`."""
        return self._restore(step, {"params": like})["params"]

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _restore(self, step: int, like: dict[str, Any]) -> Any:
        path = self.directory / str(step)
        remedy = f"remove {path} to go on from an earlier checkpoint, or start anew in another directory"
        args = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
        try:
            got = self._manager.restore(step, args=ocp.args.Composite(proof=ocp.args.JsonRestore(), **args))
        except Exception as error:  # Orbax and TensorStore raise many kinds for one cause
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise UserError(f"checkpoint {path} cannot be read ({reason})", remedy) from error
        for name in like:
            # Orbax itself does not notice bytes that changed on the disk.
            if checksum(got[name]) != got["proof"][name]:
                raise UserError(
                    f"checkpoint {path} is damaged: its {name} do not match their checksum", remedy
                )
        return got


def checksum(tree: Any) -> str:
    """A digest of every bit of a tree of arrays, the same on any number of devices.

    Each array is reduced where it lies: the sum of its words, each times an odd number that depends on its
    place, modulo 2^32; any single changed word, and almost any other change, changes the sum.
    """
    words = [int(word) for word in jax.device_get(_word_sums(jax.tree.leaves(tree)))]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


@jax.jit
def _word_sums(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_word_sum(jnp.asarray(leaf)) for leaf in leaves]


def _word_sum(array: jax.Array) -> jax.Array:
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[array.dtype.itemsize]
    bits = (
        array.astype(jnp.uint8) if array.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(array, unsigned)
    )
    words = bits.reshape(-1).astype(jnp.uint32)
    place = jax.lax.iota(jnp.uint32, words.size)
    return jnp.sum(words * (place * jnp.uint32(0x9E3779B2) + jnp.uint32(1)), dtype=jnp.uint32)


def _loss(metrics: dict[str, float]) -> float:
    return metrics["valid_loss"]


def _numbered(tree: Any) -> dict[str, Any]:
    """A tree as {"000": leaf, ...}, so that Orbax need not know optax's own containers."""
    return {f"{i:03}": leaf for i, leaf in enumerate(jax.tree.leaves(tree))}
