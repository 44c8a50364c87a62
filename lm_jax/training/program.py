"""A recipe's training as programs for a mesh: compiled where they run, or for devices described only."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lm_jax.batch import Batch
from lm_jax.config import Config, make_model
from lm_jax.parallel.sharding import by_name, by_rows, check_batch, replicated
from lm_jax.training import averaging
from lm_jax.training.optimizers import make_optimizer, make_schedule
from lm_jax.training.step import (
    TrainState,
    init_carry,
    init_params,
    make_train_step,
    start_from,
)


class Program:
    """A resolved recipe's functions, jitted with their shardings for a mesh; making it computes nothing.

    Attributes:
        config: the recipe.
        mesh: the devices.
        model: the linen module.
        optimizer: as optax has it.
        state: shapes, dtypes and shardings of a `TrainState`.
        batch: those of a batch without segments, [B, T].
        key: those of the key that dropout is drawn with.
        init_params: () -> the model's first parameters.
        init_from: params -> the state before the first step with these, whose memory it takes.
        rows_evaluated: how many rows `evaluate` reads: as many at a time as training does.
        init_carry: () -> what `evaluate` starts with.
        step: (state, batch, key) -> (state, metrics); the old state's memory holds the new one.
        evaluate: (params, batch, carry) -> (Sums, carry).
        observe: (state, validation loss) -> state, where the recipe averages; it may begin to.

    Raises:
        UserError: a model that cannot be built, or a batch that the mesh cannot share.
    """

    def __init__(self, config: Config, mesh: Mesh):
        self.config, self.mesh, train = config, mesh, config.train
        check_batch(mesh, train.batch_size, train.accumulation)
        self.model = make_model(config.model)
        self.optimizer = make_optimizer(config.optimizer, train.num_steps)
        whole, rows = replicated(mesh), by_rows(mesh)
        self.rows_evaluated = train.batch_size // train.accumulation
        carry = partial(init_carry, self.model, config.data.order)
        length = config.data.sequence_length

        # Jitted by itself, so that it is traced once: for the shapes and for the values.
        first_params = jax.jit(partial(init_params, self.model, train.seed, length))

        def first_state(params: Any) -> TrainState:
            return start_from(params, self.optimizer, carry(train.batch_size), train)

        shapes = jax.eval_shape(lambda: first_state(first_params()))
        places = by_name(mesh, shapes)._replace(carry=jax.tree.map(lambda _: rows, shapes.carry))
        self.state = jax.tree.map(_placed, shapes, places)
        tokens: Any = jax.ShapeDtypeStruct((train.batch_size, length), jnp.int32, sharding=rows)
        self.batch = Batch(tokens, tokens, tokens.update(dtype=jnp.float32))
        self.key = _placed(jax.eval_shape(lambda: jax.random.key(0)), whole)

        objective = config.objective if mesh.size == 1 else partial(_by_rows, config.objective, mesh)
        self.init_params: Any = jax.jit(lambda: first_params(), out_shardings=places.params)
        self.init_from: Any = jax.jit(
            first_state, in_shardings=(places.params,), out_shardings=places, donate_argnums=0
        )
        self.init_carry = jax.jit(partial(carry, self.rows_evaluated), out_shardings=rows)
        self.step = jax.jit(
            make_train_step(
                self.model,
                objective,
                self.optimizer,
                train,
                config.data.usual_length,
                make_schedule(config.optimizer, train.num_steps),
            ),
            in_shardings=(places, rows, whole),
            out_shardings=(places, whole),
            donate_argnums=0,
        )
        self.evaluate = jax.jit(
            partial(objective, self.model),
            in_shardings=(places.params, rows, rows),
            out_shardings=(whole, rows),
        )
        self.observe = jax.jit(_observe, out_shardings=places, donate_argnums=0)

    def init(self) -> TrainState:
        """The state before the first step.

        In two programs, so that random numbers are gone before the optimizer's state is there. Both are
        forgotten: what XLA keeps of them takes 40 MiB for 4 layers, more than the parameters.
        """
        state = self.init_from(self.init_params())
        self.init_params.clear_cache()
        self.init_from.clear_cache()
        return state

    def lower_step(self) -> jax.stages.Lowered:
        """The training step for the mesh's devices, ready to be compiled; none of them need exist here."""
        return self.step.lower(self.state, self.batch, self.key)


def _placed(shape: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)


def _by_rows(objective: Any, mesh: Mesh, model: nn.Module, params: Any, batch: Batch, *rest: Any) -> Any:
    """The objective, with what every module returns for each row and position divided by rows.

    Left to itself XLA gathers the rows of all devices where parameters are shared over fsdp: with scanned
    layers five times the memory of data parallelism instead of less. How other axes lie is left to it.
    """

    def place(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.ndim < 3 or x.shape[:2] != batch.inputs.shape:
            return x
        return jax.lax.with_sharding_constraint(x, by_rows(mesh, x.ndim))

    def interceptor(method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        return jax.tree.map(place, method(*args, **kwargs))

    with nn.intercept_methods(interceptor):
        return objective(model, params, batch, *rest)


def _observe(state: TrainState, valid_loss: Any) -> TrainState:
    assert state.average is not None
    return state._replace(average=averaging.observe(state.average, valid_loss))
