"""The first parameters of a run that starts from another model: its backbone under the task's own head."""

from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax

from lm_jax.config import Config
from lm_jax.errors import UserError

BACKBONE, _HEAD = "backbone", "head"


def graft(config: Config, source: Any, name: str, same_labels: bool = True) -> Any:
    """Variables for the recipe's task, from those of another model of the same shape.

    If the source has the task's parameters, for the same labels, all are taken; parts of the head that
    nothing depends on (`Task.free_heads`) may be new or left over. Otherwise the backbone is taken and the
    head is new; no other parameter may be new or left over.

    Args:
        config: the resolved recipe.
        source: the variables of the other model, layers laid out as in `config.model`.
        name: the other model's, for errors.
        same_labels: whether the two models have the same classes, in the same order.

    Raises:
        UserError: the backbones differ.
    """
    module = config.task.make(config.model)

    def first() -> Any:
        return config.task.init(module, jax.random.key(config.train.seed), config.data.sequence_length)

    wanted, there = _shapes(jax.eval_shape(first)["params"]), _shapes(source["params"])
    free = tuple(f"{_HEAD}/{part}/" for part in config.task.free_heads)
    bound, theirs = ({k: x for k, x in of.items() if not k.startswith(free)} for of in (wanted, there))
    if bound == theirs and (same_labels or BACKBONE not in source["params"]):
        return source if wanted == there else _with_free_heads(source, wanted, there, first)
    inner = source["params"].get(BACKBONE, source["params"])
    backbone = {key: value for key, value in inner.items() if key != _HEAD}  # such as a left-to-right head
    ours = {key: x for key, x in wanted.items() if key.partition("/")[0] != _HEAD}
    theirs = {f"{BACKBONE}/{key}": shape for key, shape in _shapes(backbone).items()}
    if ours != theirs:
        differ = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        raise UserError(
            f"the parameters of {name} do not fit task={config.task.name}: {', '.join(differ[:3])} "
            f"{'and others ' if len(differ) > 3 else ''}differ",
            "start from a model of the same family and fields",
        )
    new = jax.jit(first)()
    return {**new, "params": {**new["params"], BACKBONE: backbone}}


def _with_free_heads(
    source: Any, wanted: dict[str, Any], there: dict[str, Any], first: Callable[[], Any]
) -> Any:
    """The source's variables of the wanted names; those that it lacks or has in another shape are new."""
    old = flax.traverse_util.flatten_dict(source["params"], sep="/")
    kept = {name: old[name] for name in wanted if wanted[name] == there.get(name)}
    if len(kept) < len(wanted):
        kept = flax.traverse_util.flatten_dict(jax.jit(first)()["params"], sep="/") | kept
    return {**source, "params": flax.traverse_util.unflatten_dict(kept, sep="/")}


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {key: x.shape for key, x in flax.traverse_util.flatten_dict(params, sep="/").items()}
