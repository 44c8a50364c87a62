"""The training step: a pure function of its state, to be jitted, vmapped over seeds, or lowered elsewhere."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lm_jax.batch import Batch
from lm_jax.config import TrainConfig
from lm_jax.training import averaging
from lm_jax.training.averaging import Average

_PLAIN = TrainConfig()


@runtime_checkable
class Recurrent(Protocol):
    """What a model fulfils beside `hidden` and `logits` whose state goes on from batch to batch.

    Where data.order is contiguous, training starts with `init_state`, passes each batch's state to the next
    (without its gradient: truncated back-propagation through time) and keeps it in checkpoints; validation
    carries it through each document.

    - `model.init_state(batch_size)` is what `hidden` starts from where its state is None: a pytree of arrays
      whose first axis is the row, and which need no parameters. It is a function of the config alone.
    - `model.hidden(tokens_BT, state, segments=..., train=...)` returns a state of the same shapes and dtypes.
      Where `segments` [B, T] change, the state starts anew before that token is read; the state handed in
      belongs to segment 0, so that a row whose first segment is another starts anew at once. None: one
      segment, 0.
    """

    carries_state: ClassVar[bool]

    def init_state(self, batch_size: int) -> Any:
        """The state before anything was read."""
        ...


class TrainState(NamedTuple):
    """All that a training step reads and writes.

    Attributes:
        step: int32 [], updates so far; also the position in the data.
        params: the model's variables.
        opt_state: the optimizer's.
        carry: the model's state between batches; None where rows stand alone.
        average: an average of the parameters; None where none is kept.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    carry: Any = None
    average: Average | None = None

    @property
    def evaluated_params(self) -> Any:
        """What evaluation and the finished model use: the average, where there is one."""
        return self.params if self.average is None else self.average.params


TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def init_carry(model: nn.Module, order: str, batch_size: int) -> Any:
    """The state of a `Recurrent` model before the first batch; None where rows stand alone."""
    if order == "contiguous" and isinstance(model, Recurrent) and model.carries_state:
        return model.init_state(batch_size)
    return None


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int | jax.Array,
    length: int,
    carry: Any = None,
    train: TrainConfig = _PLAIN,
) -> TrainState:
    """A model's first parameters and an optimizer that has seen nothing; pure, so that it can be jitted."""
    return start_from(init_params(model, seed, length), optimizer, carry, train)


def init_params(model: nn.Module, seed: int | jax.Array, length: int) -> Any:
    """A model's first parameters; pure, too."""
    return model.init(jax.random.key(seed), jnp.zeros((1, length), jnp.int32))


def start_from(
    params: Any, optimizer: optax.GradientTransformation, carry: Any = None, train: TrainConfig = _PLAIN
) -> TrainState:
    """The state before the first step, with these parameters."""
    average = None if train.average == "none" else averaging.start(params, train.average_patience)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry, average)


def make_train_step(
    model: nn.Module,
    objective: Any,
    optimizer: optax.GradientTransformation,
    train: TrainConfig = _PLAIN,
    usual_length: int | None = None,
    schedule: optax.Schedule | None = None,
) -> TrainStep:
    """The pure function `(state, batch, key) -> (state, metrics)`.

    Metrics are scalars: loss (nats per token), grad_norm before clipping, param_norm after the update, and
    the learning_rate of this update, where the schedule is given.

    Args:
        model: has `hidden` and `logits`.
        objective: what is minimised; see `objectives`.
        optimizer: from the gradient to the update.
        train: its `accumulation` and `average`.
        usual_length: where rows vary in length, as data.vary_length has it, the length to which the learning
            rate belongs; that of other rows is in proportion (Merity et al. 2017, section 4.1).
        schedule: the optimizer's learning rates, to be told.
    """
    averages: dict[str, Callable[..., Any]] = {
        "none": lambda average, params: None,
        "ema": partial(averaging.ema, decay=train.average_decay),
        "triggered": averaging.triggered,
    }

    def total(params: Any, batch: Batch, carry: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        sums, carry = objective(model, params, batch, carry, {"dropout": key})
        return sums.total, (sums.weight, carry)

    def train_step(
        state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(key, state.step)
        add_up = partial(_add_up, train.accumulation) if train.accumulation > 1 else _whole
        (nats, weight, grads), carry = add_up(total, state.params, batch, state.carry, key)
        grads = jax.tree.map(lambda g: g / weight, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        share = 1.0 if usual_length is None else batch.inputs.shape[1] / usual_length
        if usual_length is not None:
            updates = jax.tree.map(lambda u: share * u, updates)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": nats / weight,
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
        }
        if schedule is not None:
            metrics["learning_rate"] = share * jnp.asarray(schedule(state.step))
        average = averages[train.average](state.average, params)
        return TrainState(state.step + 1, params, opt_state, carry, average), metrics

    return train_step


def _whole(total: Callable, params: Any, batch: Batch, carry: Any, key: jax.Array) -> tuple[Any, Any]:
    """Nats, weight and the nats' gradient of a batch, and the model's next state."""
    (nats, (weight, carry)), grads = jax.value_and_grad(total, has_aux=True)(params, batch, carry, key)
    return (nats, weight, grads), carry


def _add_up(
    parts: int, total: Callable, params: Any, batch: Batch, carry: Any, key: jax.Array
) -> tuple[Any, Any]:
    """`_whole`, a part of the rows at a time.

    Nats are summed, and divided by all weights once: a part counts by its tokens. Part i has the rows i,
    i + parts, ..., so that each device keeps the rows that it has.
    """

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

    def join(x: jax.Array) -> jax.Array:
        return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

    def add(sums: Any, part: Any) -> tuple[Any, Any]:
        number, batch, carry = part
        of_part, carry = _whole(total, params, batch, carry, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, sums, of_part), carry

    zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    sums, carry = jax.lax.scan(add, zeros, (jnp.arange(parts), *jax.tree.map(split, (batch, carry))))
    return sums, jax.tree.map(join, carry)
