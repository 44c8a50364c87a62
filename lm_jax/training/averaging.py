"""Averages of the parameters over training steps, which evaluation uses instead of the parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Average(NamedTuple):
    """An average of parameters, and the state that decides when it starts. Checkpoints store all of it.

    Attributes:
        params: the average; the current parameters until a triggered average starts.
        size: int32 [], how many parameter sets were averaged; 0 before the start.
        history: float32 [1 + patience], validation losses: the lowest of all but the latest `patience`, then
            these in order; inf until they are measured.
    """

    params: Any
    size: jax.Array
    history: jax.Array


def start(params: Any, patience: int) -> Average:
    """The average before training: the first parameters, copied, since both may be donated."""
    copied = jax.tree.map(jnp.array, params)
    return Average(copied, jnp.zeros((), jnp.int32), jnp.full((1 + patience,), jnp.inf))


def ema(average: Average, params: Any, decay: float) -> Average:
    """Exponential moving average: decay · average + (1 − decay) · params.

    After n updates the decay is at most (1 + n) / (10 + n), so that initial parameters soon lose weight.
    """
    decay_now = jnp.minimum(decay, (1 + average.size) / (10 + average.size))
    mean = _averaged(lambda a, p: a + (1 - decay_now) * (p - a), average.params, params)
    return average._replace(params=mean, size=average.size + 1)


def triggered(average: Average, params: Any) -> Average:
    """The mean of the parameters of all steps since the trigger; before it, the latest parameters."""
    size = jnp.where(average.size > 0, average.size + 1, 0)
    share = 1 / jnp.maximum(size, 1)
    mean = _averaged(lambda a, p: jnp.where(size > 0, a + share * (p - a), p), average.params, params)
    return average._replace(params=mean, size=size)


def _averaged(mean: Callable[[jax.Array, jax.Array], jax.Array], average: Any, params: Any) -> Any:
    """The mean of each pair of arrays; the parameter itself where it is of integers, a constant."""

    def one(a: jax.Array, p: jax.Array) -> jax.Array:
        return mean(a, p) if jnp.issubdtype(p.dtype, jnp.floating) else p

    return jax.tree.map(one, average, params)


def observe(average: Average, valid_loss: jax.Array) -> Average:
    """Records a loss; starts the average if it exceeds the lowest loss before the latest `patience`.

    Non-monotonically triggered averaged SGD (Merity et al. 2018, algorithm 1).
    """
    history = average.history
    begins = (average.size == 0) & (valid_loss > history[0])
    older = jnp.minimum(history[0], history[1])
    history = jnp.concatenate([older[None], history[2:], jnp.float32(valid_loss)[None]])
    return average._replace(size=jnp.where(begins, 1, average.size), history=history)
