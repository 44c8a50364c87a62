"""The training step: a pure function of its state and a batch, to be jitted, or lowered for other devices."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lm_jax.batch import Sums
from lm_jax.config import TrainConfig
from lm_jax.models.base import CONSTANTS
from lm_jax.training import averaging
from lm_jax.training.averaging import Average

_PLAIN = TrainConfig()


class TrainState(NamedTuple):
    """The state that a training step reads and returns.

    Attributes:
        step: int32 [], updates so far; also the position in the data.
        params: the module's variables; the collection "constants" is not trained.
        opt_state: the optimizer's state.
        carry: what the task carries between batches, such as a model's state; None if rows are independent.
        average: an average of the parameters; None if none is kept.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    carry: Any = None
    average: Average | None = None

    @property
    def evaluated_params(self) -> Any:
        """The parameters for evaluation: the average, if there is one."""
        return self.params if self.average is None else self.average.params


# (params, batch, carry, rngs) -> (losses by name, carry); see `Task.losses`.
Losses = Callable[[Any, Any, Any, Any], tuple[Mapping[str, Sums], Any]]
Weights = Callable[[Any], Mapping[str, jax.Array]]
TrainStep = Callable[[TrainState, Any, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def first_state(
    params: Any, optimizer: optax.GradientTransformation, carry: Any = None, train: TrainConfig = _PLAIN
) -> TrainState:
    """The initial state with these parameters; a pure function."""
    average = None if train.average == "none" else averaging.start(params, train.average_patience)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(_split(params)[0]), carry, average)


def _split(params: Any) -> tuple[Any, dict[str, Any]]:
    """The variables that are trained, and the others."""
    if not isinstance(params, Mapping) or CONSTANTS not in params:
        return params, {}
    trained = {name: collection for name, collection in params.items() if name != CONSTANTS}
    return trained, {CONSTANTS: params[CONSTANTS]}


def _joined(trained: Any, constants: Mapping[str, Any]) -> Any:
    return {**trained, **constants} if constants else trained


def make_train_step(
    losses: Losses,
    weights: Weights,
    optimizer: optax.GradientTransformation,
    train: TrainConfig = _PLAIN,
    rate_factor: Callable[[Any], float | None] = lambda batch: None,
    schedule: optax.Schedule | None = None,
) -> TrainStep:
    """The pure function `(state, batch, key) -> (state, metrics)`.

    It minimises the sum over losses k of total_k / W_k, where W_k is the denominator of the whole batch,
    independent of gradient accumulation.

    Metrics are scalars: loss (that sum), each loss by its name where there are several, grad_norm before
    clipping, param_norm after the update, and the learning_rate of this update, where the schedule is given.

    Args:
        losses: `Task.losses` of the module that is trained.
        weights: `Task.weights`.
        optimizer: from the gradient to the update.
        train: its `accumulation` and `average`.
        rate_factor: the factor of the learning rate for a batch of this shape; None: 1.
        schedule: the optimizer's learning rates, for the metrics.
    """
    averages: dict[str, Callable[..., Any]] = {
        "none": lambda average, params: None,
        "ema": partial(averaging.ema, decay=train.average_decay),
        "triggered": averaging.triggered,
    }

    def train_step(state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(key, state.step)
        denominators = weights(batch)
        trained, constants = _split(state.params)
        objective = partial(_objective, losses, denominators, constants)
        add_up = (
            partial(_add_up, train.accumulation, list(denominators)) if train.accumulation > 1 else _whole
        )
        (totals, grads), carry = add_up(objective, trained, batch, state.carry, key)
        main = next(iter(denominators.values()))
        grads = jax.tree.map(lambda g: g / main, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        factor = rate_factor(batch)
        if factor is not None:
            updates = jax.tree.map(lambda u: factor * u, updates)
        trained = optax.apply_updates(trained, updates)
        params = _joined(trained, constants)
        metrics = _metrics(totals, denominators) | {
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(trained),
        }
        if schedule is not None:
            rate = jnp.asarray(schedule(state.step))
            metrics["learning_rate"] = rate if factor is None else factor * rate
        average = averages[train.average](state.average, params)
        return TrainState(state.step + 1, params, opt_state, carry, average), metrics

    return train_step


def _objective(
    losses: Losses,
    weights: Mapping[str, jax.Array],
    constants: Mapping[str, Any],
    params: Any,
    batch: Any,
    carry: Any,
    key: jax.Array,
) -> tuple[jax.Array, Any]:
    """The objective of some rows times the main denominator; each loss's total; the next carry.

    It is not yet divided by the main denominator, so that with one loss the gradient is that of a sum.
    """
    sums, carry = losses(_joined(params, constants), batch, carry, {"dropout": key})
    main, *others = weights
    total = jnp.asarray(sums[main].total)
    for name in others:
        ratio = jnp.where(weights[name] > 0, weights[main] / jnp.maximum(weights[name], 1e-30), 0)
        total += sums[name].total * ratio
    return total, ({name: sums[name].total for name in weights}, carry)


def _metrics(totals: Mapping[str, jax.Array], weights: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    main, *others = weights
    means = {main: totals[main] / weights[main]}
    for name in others:
        means[name] = jnp.where(weights[name] > 0, totals[name] / jnp.maximum(weights[name], 1e-30), 0)
    loss = means[main]
    for name in others:
        loss += means[name]
    return {"loss": loss, **(means if others else {})}


def _whole(objective: Callable, params: Any, batch: Any, carry: Any, key: jax.Array) -> tuple[Any, Any]:
    """The losses' totals and the objective's gradient of a batch, and the next carry."""
    (_, (totals, carry)), grads = jax.value_and_grad(objective, has_aux=True)(params, batch, carry, key)
    return (totals, grads), carry


def _add_up(
    parts: int, names: Iterable[str], objective: Callable, params: Any, batch: Any, carry: Any, key: jax.Array
) -> tuple[Any, Any]:
    """`_whole`, a part of the rows at a time; part i has rows i, i + parts, ..., so that no row moves."""

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

    def join(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

    def add(sums: Any, part: Any) -> tuple[Any, Any]:
        number, batch, carry = part
        of_part, carry = _whole(objective, params, batch, carry, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, sums, of_part), carry

    zeros = (dict.fromkeys(names, jnp.zeros(())), jax.tree.map(jnp.zeros_like, params))
    sums, carry = jax.lax.scan(add, zeros, (jnp.arange(parts), *jax.tree.map(split, (batch, carry))))
    return sums, jax.tree.map(join, carry)
