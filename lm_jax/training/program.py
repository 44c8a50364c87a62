"""A recipe's training functions, jitted for a mesh; its devices may be descriptions only."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

from lm_jax.config import Config
from lm_jax.parallel.sharding import by_name, by_rows, check_batch, replicated
from lm_jax.training import averaging
from lm_jax.training.graft import BACKBONE
from lm_jax.training.optimizers import make_optimizer, make_schedule
from lm_jax.training.step import TrainState, first_state, make_train_step


class Program:
    """A resolved recipe's functions, jitted with their shardings for a mesh; making it computes nothing.

    Attributes:
        config: the recipe.
        mesh: the devices.
        module: the linen module that is trained.
        optimizer: the optax transformation.
        state: shapes, dtypes and shardings of a `TrainState`.
        batch: the same of a batch.
        key: the same of the dropout key.
        init_params: () -> the module's initial parameters.
        init_from: params -> the initial state with these parameters, which are donated.
        rows_evaluated: the number of rows that `evaluate` reads: as many as training reads at a time.
        init_carry: () -> the carry that `evaluate` starts with.
        step: (state, batch, key) -> (state, metrics); the state is donated.
        evaluate: (params, batch, carry) -> (losses by name, carry).
        observe: (state, validation loss) -> state; may start a triggered average.

    Raises:
        UserError: the model cannot be built, or the batch does not divide among the devices.
    """

    def __init__(self, config: Config, mesh: Mesh):
        self.config, self.mesh, train, task = config, mesh, config.train, config.task
        check_batch(mesh, train.batch_size, train.accumulation)
        self.module = task.make(config.model)
        self.optimizer = make_optimizer(config.optimizer, train.num_steps)
        whole, rows = replicated(mesh), by_rows(mesh)
        self.rows_evaluated = train.batch_size // train.accumulation
        carry = partial(task.init_carry, self.module, config.model, config.data)

        # Jitted by itself, so that it is traced once: for the shapes and for the values.
        first_params = jax.jit(
            lambda: task.init(self.module, jax.random.key(train.seed), config.data.sequence_length)
        )

        def start(params: Any) -> TrainState:
            return first_state(params, self.optimizer, carry(train.batch_size), train)

        shapes = jax.eval_shape(lambda: start(first_params()))
        places = by_name(mesh, shapes)._replace(carry=jax.tree.map(lambda _: rows, shapes.carry))
        self.state = jax.tree.map(_placed, shapes, places)
        self.batch = jax.tree.map(lambda x: _placed(x, rows), task.shapes(config.data, train.batch_size))
        self.key = _placed(jax.eval_shape(lambda: jax.random.key(0)), whole)

        self.init_params: Any = jax.jit(lambda: first_params(), out_shardings=places.params)
        self.init_from: Any = jax.jit(
            start, in_shardings=(places.params,), out_shardings=places, donate_argnums=0
        )
        self.init_carry = jax.jit(partial(carry, self.rows_evaluated), out_shardings=rows)
        losses = partial(task.losses, self.module)
        if not config.optimizer.backbone_rate:
            losses = partial(_without_backbone, losses)
        losses = losses if mesh.size == 1 else partial(_by_rows, losses, mesh)
        step = make_train_step(
            losses,
            task.weights,
            self.optimizer,
            train,
            partial(task.rate_factor, data=config.data),
            make_schedule(config.optimizer, train.num_steps),
        )
        self.step = jax.jit(
            step,
            in_shardings=(places, rows, whole),
            out_shardings=(places, whole),
            donate_argnums=0,
        )
        self.evaluate = jax.jit(
            losses,
            in_shardings=(places.params, rows, rows),
            out_shardings=(whole, rows),
        )
        self.observe = jax.jit(_observe, out_shardings=places, donate_argnums=0)

    def init(self) -> TrainState:
        """The state before the first step.

        Two programs, so that memory for random numbers is freed before the optimizer's state is allocated.
        Both programs are dropped afterwards, since XLA keeps memory for each.
        """
        state = self.init_from(self.init_params())
        self.init_params.clear_cache()
        self.init_from.clear_cache()
        return state

    def lower_step(self) -> jax.stages.Lowered:
        """The training step lowered for the mesh's devices, which need not exist on this machine."""
        return self.step.lower(self.state, self.batch, self.key)


def _placed(shape: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)


def _by_rows(losses: Callable[..., Any], mesh: Mesh, params: Any, batch: Any, *rest: Any) -> Any:
    """The losses, with each module's output per row and position sharded by rows.

    Otherwise XLA gathers the rows of all devices if parameters are sharded over fsdp, which with scanned
    layers takes several times the memory of data parallelism. Other axes are not constrained.
    """
    sizes = {x.shape[:2] for x in jax.tree.leaves(batch) if x.ndim >= 2}

    def place(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.ndim < 3 or x.shape[:2] not in sizes:
            return x
        return jax.lax.with_sharding_constraint(x, by_rows(mesh, x.ndim))

    def interceptor(method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        return jax.tree.map(place, method(*args, **kwargs))

    with nn.intercept_methods(interceptor):
        return losses(params, batch, *rest)


def _without_backbone(losses: Callable[..., Any], params: Any, *rest: Any) -> Any:
    """The losses, without gradients of the backbone, which takes two thirds of a step's time."""
    inner = params["params"]
    frozen = {name: jax.lax.stop_gradient(x) if name == BACKBONE else x for name, x in inner.items()}
    return losses({**params, "params": frozen}, *rest)


def _observe(state: TrainState, valid_loss: Any) -> TrainState:
    assert state.average is not None
    return state._replace(average=averaging.observe(state.average, valid_loss))
