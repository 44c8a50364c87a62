"""The training step: a pure function of its state, to be jitted, vmapped over seeds, or lowered elsewhere."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lm_jax.batch import Batch


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
    """

    step: jax.Array
    params: Any
    opt_state: Any
    carry: Any = None


TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def init_carry(model: nn.Module, order: str, batch_size: int) -> Any:
    """The state of a `Recurrent` model before the first batch; None where rows stand alone."""
    if order == "contiguous" and isinstance(model, Recurrent) and model.carries_state:
        return model.init_state(batch_size)
    return None


def init_state(
    model: nn.Module, optimizer: optax.GradientTransformation, seed: int, length: int, carry: Any = None
) -> TrainState:
    """A model's first parameters and an optimizer that has seen nothing; pure, so that it can be jitted."""
    tokens_BT = jnp.zeros((1, length), jnp.int32)
    params = model.init(jax.random.key(seed), tokens_BT)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry)


def make_train_step(model: nn.Module, objective: Any, optimizer: optax.GradientTransformation) -> TrainStep:
    """The pure function `(state, batch, key) -> (state, metrics)`.

    Metrics are scalars: loss (nats per token), grad_norm before clipping, param_norm after the update.
    """

    def train_step(
        state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        rngs = {"dropout": jax.random.fold_in(key, state.step)}

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            sums, carry = objective(model, params, batch, state.carry, rngs)
            return sums.mean, carry

        (loss, carry), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norms = {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
        return TrainState(state.step + 1, params, opt_state, carry), {"loss": loss, **norms}

    return train_step
