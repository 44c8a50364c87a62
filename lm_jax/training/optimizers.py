"""Optimizers and learning-rate schedules, made with optax.

To add one: `@OPTIMIZERS.register("NAME")` or `@SCHEDULES.register("NAME")` above a function like those below.
"""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lm_jax.config import OptimizerConfig
from lm_jax.errors import UserError
from lm_jax.registry import Registry

# (config, warm-up steps, steps after these) -> the rate at each step after the warm-up.
Shape = Callable[[OptimizerConfig, int, int], optax.Schedule]
SCHEDULES: Registry[Shape] = Registry("schedule", {})
# config -> the transformation from clipped gradients to updates, before weight decay and the rate.
OPTIMIZERS: Registry[Callable[[OptimizerConfig], optax.GradientTransformation]] = Registry("optimizer", {})


def check(config: OptimizerConfig) -> None:
    """Raises UserError if the optimizer or the schedule is not registered."""
    OPTIMIZERS.get(config.name)
    SCHEDULES.get(config.schedule)


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up to learning_rate, then the config's schedule, up to num_steps."""
    warmup = min(config.warmup_steps, num_steps)
    after = SCHEDULES.get(config.schedule)(config, warmup, max(1, num_steps - warmup))
    if not warmup:
        return after
    # The rate of step 0 is 1 / (warmup + 1) of the peak, not 0.
    start = config.learning_rate / (warmup + 1)
    return optax.join_schedules([optax.linear_schedule(start, config.learning_rate, warmup), after], [warmup])


@SCHEDULES.register("cosine")
def _cosine(config: OptimizerConfig, warmup: int, num_steps: int) -> optax.Schedule:
    """Loshchilov and Hutter 2017, without restarts."""
    return optax.cosine_decay_schedule(config.learning_rate, num_steps, config.final_ratio)


@SCHEDULES.register("linear")
def _linear(config: OptimizerConfig, warmup: int, num_steps: int) -> optax.Schedule:
    return optax.linear_schedule(config.learning_rate, config.learning_rate * config.final_ratio, num_steps)


@SCHEDULES.register("constant")
def _constant(config: OptimizerConfig, warmup: int, num_steps: int) -> optax.Schedule:
    return optax.constant_schedule(config.learning_rate)


@SCHEDULES.register("inverse_sqrt")
def _inverse_sqrt(config: OptimizerConfig, warmup: int, num_steps: int) -> optax.Schedule:
    """Vaswani et al. 2017, section 5.3, with the peak where the warm-up ends."""
    first = max(1, warmup)
    return lambda count: config.learning_rate * jnp.sqrt(first / (first + jnp.maximum(count, 0)))


@SCHEDULES.register("wsd")
def _wsd(config: OptimizerConfig, warmup: int, num_steps: int) -> optax.Schedule:
    """Warm-up, stable, decay (Hu et al. 2024, section 4), with a linear decay (Hägele et al. 2024)."""
    decay = min(num_steps, max(1, round(config.decay_ratio * (warmup + num_steps))))
    return optax.join_schedules(
        [_constant(config, warmup, num_steps), _linear(config, warmup, decay)], [num_steps - decay]
    )


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Clip by global norm, scale, add the weight decay, and multiply by the schedule's rate.

    With `backbone_rate` or `layer_decay` below 1 the rate of each layer of the backbone is another; see
    `_layer_rates`. A backbone with the rate 0 has no part in the norm, and no moments are kept for it.
    """
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    whole = optax.chain(
        *clip,
        OPTIMIZERS.get(config.name)(config),
        optax.add_decayed_weights(config.weight_decay, _matrices),
        optax.scale_by_learning_rate(make_schedule(config, num_steps)),
    )
    if not config.backbone_rate:
        return optax.partition({"trained": whole, "frozen": optax.set_to_zero()}, _trained_or_frozen)
    if config.backbone_rate == config.layer_decay == 1:
        return whole

    def by_layer(updates: Any, params: Any) -> Any:
        return jax.tree.map(jnp.multiply, updates, _layer_rates(config, params))

    return optax.chain(whole, optax.stateless(by_layer))


_LAYER = re.compile(r"/(?:layer|forward|backward)_(\d+)/")
_EMBEDS = re.compile(r"embedding|/encoder/(?:filters|highway|projection)")  # the last: ELMo's, of characters


def _layer_rates(config: OptimizerConfig, params: Any) -> Any:
    """The factor of each parameter's rate: a number, or one for each of the layers that it stacks.

    1 for the head; `backbone_rate` times `layer_decay` to the power of the distance from the head for the
    backbone, which is 1 for its last layer, pooler and final norm, and one more than that of its first layer
    for its embeddings (Howard and Ruder 2018, section 3.2; Clark et al. 2020).
    """
    names = jax.tree_util.tree_map_with_path(lambda path, _: _in_backbone(path), params)
    if not any(jax.tree.leaves(names)):
        raise UserError(
            "optimizer.backbone_rate or layer_decay with a task whose model has no head of its own",
            "set both to 1",
        )
    num_layers = _num_layers(params)

    def rate(path: tuple[Any, ...], x: jax.Array) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not _in_backbone(path):
            return 1.0
        distance: Any = 1
        if match := _LAYER.search(name):
            distance = num_layers - int(match[1])
        elif "/layers/" in name:
            distance = num_layers - jnp.arange(x.shape[0]).reshape(-1, *[1] * (x.ndim - 1))
        elif _EMBEDS.search(name):
            distance = num_layers + 1
        return config.backbone_rate * config.layer_decay**distance

    return jax.tree_util.tree_map_with_path(rate, params)


def _num_layers(params: Any) -> int:
    """The number of layers in parameters whose names have `layer_i`, or `layers` where they are stacked."""
    found = [0]
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if match := _LAYER.search(name):
            found.append(int(match[1]) + 1)
        elif "/layers/" in name:
            found.append(x.shape[0])
    return max(found)


def _in_backbone(path: tuple[Any, ...]) -> bool:
    return "backbone" in jax.tree_util.keystr(path, simple=True, separator="/").split("/")


def _trained_or_frozen(params: Any) -> Any:
    """Labels of the parameters for `backbone_rate=0`."""
    labels = jax.tree_util.tree_map_with_path(
        lambda path, _: "frozen" if _in_backbone(path) else "trained", params
    )
    if "frozen" not in jax.tree.leaves(labels):
        raise UserError(
            "optimizer.backbone_rate=0 with a task whose model has no head of its own", "set it to 1"
        )
    return labels


@OPTIMIZERS.register("adamw")
def _adam(config: OptimizerConfig) -> optax.GradientTransformation:
    """With weight decay: AdamW (Loshchilov and Hutter 2019)."""
    return optax.scale_by_adam(config.b1, config.b2, config.epsilon)


@OPTIMIZERS.register("sgd")
def _sgd(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.trace(config.momentum) if config.momentum else optax.identity()


@OPTIMIZERS.register("adagrad")
def _adagrad(config: OptimizerConfig) -> optax.GradientTransformation:
    """Duchi et al. 2011."""
    return optax.scale_by_rss(config.initial_accumulator, config.epsilon)


@OPTIMIZERS.register("adafactor")
def _adafactor(config: OptimizerConfig) -> optax.GradientTransformation:
    """Shazeer and Stern 2018, algorithm 4, with the constants given there."""
    return optax.chain(
        _on_matrices(optax.scale_by_factored_rms()),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )


@OPTIMIZERS.register("lion")
def _lion(config: OptimizerConfig) -> optax.GradientTransformation:
    """Chen et al. 2023."""
    return optax.scale_by_lion(config.b1, config.b2)


@OPTIMIZERS.register("muon")
def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Jordan et al. 2024 for matrices between layers, AdamW for embeddings, heads, biases and norms.

    Updates have the usual size of AdamW's (Liu et al. 2025, equation 4), so that rates are comparable.
    """

    def match_adam(tree: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda x: 0.2 * math.sqrt(max(x.shape[-2:])) * x, tree)

    matrices = optax.chain(
        optax.trace(config.momentum, nesterov=True),
        _on_matrices(optax.chain(optax.stateless(_orthogonalise), optax.stateless(match_adam))),
    )
    return optax.partition({"muon": matrices, "adam": _adam(config)}, _muon_or_adam)


def _on_matrices(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies a transformation to kernels with several output axes as matrices [..., inputs, outputs]."""

    def flatten(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(_as_matrix, tree)

    def init(params: Any) -> Any:
        return inner.init(flatten(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        new, state = inner.update(flatten(updates), state, None if params is None else flatten(params))
        return jax.tree.map(lambda new, old: new.reshape(old.shape), new, updates), state

    return optax.GradientTransformation(init, update)


def _as_matrix(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
    """Projections to heads [..., inputs, slots, heads, width] flattened to [..., inputs, outputs]."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return x.reshape(*x.shape[:-3], -1) if re.search(r"(qkv|query|key_value)/kernel$", name) else x


def _orthogonalise(tree: Any, params: Any = None) -> Any:
    """Sets all singular values of each matrix to about 1; stacked layers are separate matrices.

    Matrices of one shape are processed together, which is faster than one after another as in optax (see
    benchmarks/RESULTS.md).
    """
    leaves, structure = jax.tree.flatten(tree)
    is_tall = [x.shape[-2] > x.shape[-1] for x in leaves]
    wide = [x.mT if tall else x for x, tall in zip(leaves, is_tall, strict=True)]
    made = list(leaves)
    for shape in dict.fromkeys(x.shape[-2:] for x in wide):
        alike = [i for i, x in enumerate(wide) if x.shape[-2:] == shape]
        parts = [wide[i].reshape(-1, *shape) for i in alike]
        ends = list(itertools.accumulate(len(part) for part in parts))
        together = jnp.split(_newton_schulz(jnp.concatenate(parts)), ends[:-1])
        for i, x in zip(alike, together, strict=True):
            x = x.reshape(wide[i].shape)
            made[i] = x.mT if is_tall[i] else x
    return jax.tree.unflatten(structure, made)


def _newton_schulz(x_NIO: jax.Array) -> jax.Array:
    """Five steps of the quintic iteration, with the coefficients of Jordan et al. 2024."""

    def step(_, x):
        gram = x @ x.mT
        return 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x

    x_NIO /= jnp.linalg.norm(x_NIO, axis=(-2, -1), keepdims=True) + 1e-7
    return jax.lax.fori_loop(0, 5, step, x_NIO)


def _matrices(params: optax.Params) -> optax.Params:
    """Which parameters are matrices; with stacked layers vectors have two axes, too."""

    def is_matrix(path: tuple[Any, ...], x: jax.Array) -> bool:
        return x.ndim >= 2 and not jax.tree_util.keystr(path, simple=True).endswith(("bias", "scale"))

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def _muon_or_adam(params: optax.Params) -> optax.Params:
    def label(path: tuple[Any, ...], is_matrix: bool) -> str:
        return "muon" if is_matrix and "embedding" not in jax.tree_util.keystr(path) else "adam"

    return jax.tree_util.tree_map_with_path(label, _matrices(params))
