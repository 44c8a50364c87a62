"""Optimizers against PyTorch's or the papers' formulas, and schedules against their shapes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from lm_jax.config import OptimizerConfig
from lm_jax.errors import UserError
from lm_jax.training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    _orthogonalise,
    check,
    make_optimizer,
    make_schedule,
)

PLAIN = {
    "learning_rate": 0.05, "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0, "clip_norm": 0.0,
}  # fmt: skip


def draw(seed, shapes):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: random.normal(size=s).astype(np.float32), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )


SHAPES = {"block": {"kernel": (6, 4), "bias": (4,)}, "token": {"embedding": (9, 4)}}
PARAMS, *GRADS = (draw(seed, SHAPES) for seed in range(6))


def train(config, params=PARAMS, grads=GRADS):
    optimizer = make_optimizer(config, len(grads))
    state = optimizer.init(params)
    for g in grads:
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(np.asarray, params)


def train_in_torch(make, params=PARAMS, grads=GRADS):
    torch = pytest.importorskip("torch")
    leaves = [torch.nn.Parameter(torch.tensor(p)) for p in jax.tree.leaves(params)]
    optimizer = make(torch, leaves)
    for g in grads:
        for leaf, gradient in zip(leaves, jax.tree.leaves(g), strict=True):
            leaf.grad = torch.tensor(gradient)
        optimizer.step()
    return jax.tree.unflatten(jax.tree.structure(params), [leaf.detach().numpy() for leaf in leaves])


@pytest.mark.parity
@pytest.mark.parametrize(
    ("fields", "make"),
    [
        (
            {"name": "adamw", "weight_decay": 0.0},
            lambda torch, p: torch.optim.AdamW(p, 0.05, (0.9, 0.99), 1e-8, weight_decay=0.0),
        ),
        ({"name": "sgd", "momentum": 0.8}, lambda torch, p: torch.optim.SGD(p, 0.05, momentum=0.8)),
        ({"name": "sgd", "momentum": 0.0}, lambda torch, p: torch.optim.SGD(p, 0.05)),
        (
            {"name": "adagrad", "initial_accumulator": 0.3},
            lambda torch, p: torch.optim.Adagrad(p, 0.05, initial_accumulator_value=0.3, eps=1e-8),
        ),
    ],
)
def test_updates_equal_pytorchs(fields, make):
    ours, theirs = train(OptimizerConfig(**(PLAIN | fields))), train_in_torch(make)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)


def test_lion_is_the_paper_s_program():
    x, m = PARAMS["block"]["kernel"], 0.0
    for g in (g["block"]["kernel"] for g in GRADS):
        x = x - 0.05 * (np.sign(0.9 * m + 0.1 * g) + 0.1 * x)
        m = 0.99 * m + 0.01 * g
    ours = train(OptimizerConfig(**(PLAIN | {"name": "lion", "weight_decay": 0.1})))
    np.testing.assert_allclose(ours["block"]["kernel"], x, atol=1e-5)


def test_adafactor_factors_large_matrices_as_the_paper_s_algorithm_4():
    x, *grads = (draw(seed, (128, 160)) for seed in range(4))
    ours = train(
        OptimizerConfig(**(PLAIN | {"name": "adafactor"})), {"kernel": x}, [{"kernel": g} for g in grads]
    )
    rows, columns = np.zeros((128, 1)), np.zeros((1, 160))
    for t, g in enumerate(grads, start=1):
        b2 = 1 - t**-0.8
        rows = b2 * rows + (1 - b2) * (g**2 + 1e-30).mean(axis=1, keepdims=True)
        columns = b2 * columns + (1 - b2) * (g**2 + 1e-30).mean(axis=0, keepdims=True)
        u = g / np.sqrt(rows * columns / rows.mean())
        u /= max(1, np.sqrt((u**2).mean()))
        x = x - 0.05 * max(1e-3, np.sqrt((x**2).mean())) * u
    np.testing.assert_allclose(ours["kernel"], x, atol=1e-4)


@pytest.mark.parity
def test_muon_is_pytorchs_for_kernels_and_adam_for_the_rest():
    def muon(torch, leaves):
        return torch.optim.Muon(leaves, 0.05, 0.0, 0.95, adjust_lr_fn="match_rms_adamw", ns_steps=5)

    config = OptimizerConfig(**(PLAIN | {"name": "muon", "momentum": 0.95}))
    ours, adam = train(config), train(OptimizerConfig(**PLAIN))
    np.testing.assert_array_equal(ours["token"]["embedding"], adam["token"]["embedding"])
    np.testing.assert_array_equal(ours["block"]["bias"], adam["block"]["bias"])
    kernel = {"kernel": PARAMS["block"]["kernel"]}
    theirs = train_in_torch(muon, kernel, [{"kernel": g["block"]["kernel"]} for g in GRADS])
    moved, expected = (tree["kernel"] - kernel["kernel"] for tree in (ours["block"], theirs))
    # PyTorch orthogonalises in bfloat16.
    assert np.linalg.norm(moved - expected) < 0.02 * np.linalg.norm(expected)


def test_matrices_of_all_shapes_are_orthogonalised_as_optax_does_one_by_one():
    shapes = {"wide": (3, 8), "tall": (8, 3), "alike": (3, 8), "square": (4, 4), "stacked": (2, 8, 3)}
    tree, one_by_one = draw(0, shapes), optax.contrib.scale_by_muon(beta=0.0, nesterov=False)
    for name, ours in _orthogonalise(tree).items():
        for x, made in zip(tree[name].reshape(-1, *ours.shape[-2:]), ours.reshape(-1, *ours.shape[-2:])):
            theirs, _ = one_by_one.update(jnp.asarray(x), one_by_one.init(x))
            np.testing.assert_allclose(made, theirs, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_stacked_layers_learn_as_layers_on_their_own(name):
    config = OptimizerConfig(**(PLAIN | {"name": name, "weight_decay": 0.1}))
    params = [jax.tree.map(lambda p, i=i: p + i, PARAMS["block"]) for i in range(2)]
    grads = [[jax.tree.map(lambda g, i=i: g * (i + 1), g["block"]) for g in GRADS] for i in range(2)]
    alone = [train(config, p, g) for p, g in zip(params, grads)]
    stack = lambda trees: jax.tree.map(lambda *x: np.stack(x), *trees)  # noqa: E731
    stacked = train(config, stack(params), [stack(g) for g in zip(*grads)])
    if name == "adafactor":  # its clipping and scale are those of an array, here of all layers
        assert jax.tree.map(np.shape, stacked) == jax.tree.map(np.shape, stack(alone))
        return
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), stacked, stack(alone))


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_only_matrices_decay(name):
    config = OptimizerConfig(**(PLAIN | {"name": name, "weight_decay": 0.5, "learning_rate": 1.0}))
    params = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    params["scale"] = np.ones((3, 2), np.float32)  # of three stacked layers
    nothing = jax.tree.map(np.zeros_like, params)
    learned = train(config, params, [nothing])
    np.testing.assert_allclose(learned["kernel"], 0.5)
    for still in ("bias", "scale"):
        np.testing.assert_array_equal(learned[still], 1)


def test_clipping_bounds_the_norm_of_the_gradient():
    config = OptimizerConfig(**(PLAIN | {"name": "sgd", "momentum": 0.0, "clip_norm": 0.5}))
    step = jax.tree.map(lambda a, b: (a - b) / 0.05, PARAMS, train(config, grads=GRADS[:1]))
    assert float(optax.tree.norm(step)) == pytest.approx(0.5, rel=1e-4)


def rates(**fields):
    schedule = make_schedule(OptimizerConfig(**({"learning_rate": 1.0, "final_ratio": 0.1} | fields)), 100)
    return np.array([float(schedule(step)) for step in range(101)])


@pytest.mark.parametrize("schedule", SCHEDULES.names())
def test_schedules_warm_up_and_end_at_their_final_rates(schedule):
    values = rates(schedule=schedule, warmup_steps=10)
    assert 0 < values[0] < values[5] < values[10] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(values[10:]))
    last = {"constant": 1.0, "inverse_sqrt": np.sqrt(10 / 100)}.get(schedule, 0.1)
    assert values[100] == pytest.approx(last)


def test_schedules_have_their_shapes():
    np.testing.assert_allclose(rates(schedule="linear", warmup_steps=0)[::50], [1, 0.55, 0.1], atol=1e-6)
    wsd = rates(schedule="wsd", warmup_steps=10, decay_ratio=0.2)
    np.testing.assert_allclose(wsd[[10, 80, 90, 100]], [1, 1, 0.55, 0.1], atol=1e-6)
    np.testing.assert_allclose(rates(schedule="inverse_sqrt", warmup_steps=16)[[16, 64]], [1, 0.5], atol=1e-6)
    assert rates(schedule="wsd", warmup_steps=200)[-1] == pytest.approx(1.0, rel=0.02)


def test_the_optimizer_is_pure_in_its_state():
    """What a sweep needs: seeds trained in one vmapped program are trained as alone."""
    optimizer = make_optimizer(OptimizerConfig(**PLAIN), 5)
    stacked = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), PARAMS)
    state = jax.vmap(optimizer.init)(stacked)
    both, _ = jax.vmap(optimizer.update)(jax.tree.map(lambda g: jnp.stack([g, g]), GRADS[0]), state, stacked)
    alone, _ = optimizer.update(GRADS[0], optimizer.init(PARAMS), PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-6), both, alone)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "adam", "unknown optimizer 'adam'.*adamw"),
        ("schedule", "step", "unknown schedule 'step'.*wsd"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(field, value, message):
    with pytest.raises(UserError, match=message):
        check(OptimizerConfig(**{field: value}))


@pytest.mark.parametrize(("field", "value"), [("decay_ratio", 0.0), ("momentum", 1.0)])
def test_an_invalid_value_is_named(field, value):
    with pytest.raises(UserError, match=f"optimizer.{field}="):
        OptimizerConfig(**{field: value}).check()
