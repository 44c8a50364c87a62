"""Accumulation and averages of the training step, and its metrics."""

import dataclasses
import json
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from test_carry import DecayConfig

from lm_jax import experiment
from lm_jax.batch import Batch
from lm_jax.checkpoint import Checkpoints
from lm_jax.config import TrainConfig
from lm_jax.data import pipeline
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.loggers import LoggedRun
from lm_jax.metrics.chunked import chunked_cross_entropy
from lm_jax.metrics.likelihood import cross_entropy
from lm_jax.progress import MetricWriter, open_loggers, read_metrics
from lm_jax.tasks.causal import Causal
from lm_jax.training import averaging
from lm_jax.training import loop as training
from lm_jax.training.step import first_state

CONFIG = DecayConfig(vocab_size=17)
MODULE = CONFIG.make()
STREAMS = DataConfig(order="contiguous", vary_length=True, sequence_length=6)
SGD = optax.sgd(1.0)


# The factor of the rate where rows do not vary in length, and where they do.
FACTORS = [
    partial(Causal().rate_factor, data=data)
    for data in (dataclasses.replace(STREAMS, vary_length=False), STREAMS)
]


def batch_of(weights_B, seed=0, length=6):
    """Rows of which as many tokens count as is said."""
    tokens = np.random.default_rng(seed).integers(17, size=(len(weights_B), length + 1)).astype(np.int32)
    weights = (np.arange(length) < np.array(weights_B)[:, None]).astype(np.float32)
    return Batch(tokens[:, :-1], tokens[:, 1:], weights)


@cache
def first_params():
    return jax.jit(lambda key: Causal().init(MODULE, key, 6))(jax.random.key(0))


def start(train=TrainConfig(), optimizer=SGD):  # noqa: B008 (frozen)
    task, params = Causal(), first_params()
    return first_state(params, optimizer, task.init_carry(MODULE, CONFIG, STREAMS, 8), train)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_parts_of_a_batch_add_up_to_the_whole_by_their_tokens(parts):
    batches = [batch_of([6, 1, 1, 1, 0, 0, 3, 6], seed) for seed in range(2)]
    whole, in_parts = start(), start()
    for batch in batches:
        whole, told = jax.jit(tiny.train_step(Causal(), MODULE, SGD))(whole, batch, jax.random.key(0))
        step = tiny.train_step(Causal(), MODULE, SGD, TrainConfig(batch_size=8, accumulation=parts))
        in_parts, told_of_parts = jax.jit(step)(in_parts, batch, jax.random.key(0))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), in_parts, whole)
    assert told_of_parts == pytest.approx(jax.tree.map(float, told), rel=1e-5)


def test_the_rate_is_in_proportion_to_a_length_that_varies():
    short, first, key = batch_of([4] * 8, length=4), start(), jax.random.key(0)
    plain, scaled = (
        jax.jit(tiny.train_step(Causal(), MODULE, SGD, rate_factor=factor))(first, short, key)[0]
        for factor in FACTORS
    )
    updates = [jax.tree.map(jnp.subtract, state.params, first.params) for state in (plain, scaled)]
    jax.tree.map(lambda p, s: np.testing.assert_allclose(s, 4 / 6 * p, atol=1e-6), *updates)
    assert max(float(jnp.abs(u).max()) for u in jax.tree.leaves(updates[0])) > 1e-3


@pytest.mark.parametrize("factor", FACTORS, ids=["fixed", "varied"])
def test_metrics_have_the_rate_of_the_same_update(factor):
    optimizer = optax.sgd(lambda updates: 0.1 / (1 + updates))
    step = tiny.train_step(Causal(), MODULE, optimizer, TrainConfig(), factor, lambda n: 0.1 / (1 + n))
    state = start(optimizer=optimizer)
    for _ in range(2):
        before = state.params
        state, told = jax.jit(step)(state, batch_of([4] * 8, length=4), jax.random.key(0))
        moved = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, before))
        assert float(told["learning_rate"]) == pytest.approx(float(moved / told["grad_norm"]), rel=1e-3)


def test_a_mean_of_means_gives_a_different_update():
    """With the batch of the test above, weighting by tokens and by parts differ."""
    batch, params = batch_of([6, 1, 1, 1, 0, 0, 3, 6]), start().params
    halves = [Batch(*(x[i::2] for x in batch[:3])) for i in range(2)]
    losses_of = jax.jit(partial(Causal().losses, MODULE))
    losses = [float(losses_of(params, b)[0]["nats"].mean) for b in (batch, *halves)]
    assert abs(losses[0] - np.mean(losses[1:])) > 1e-3


def test_accumulation_must_divide_the_batch():
    with pytest.raises(UserError, match=r"train.batch_size=8 does not divide into train.accumulation=3"):
        TrainConfig(batch_size=8, accumulation=3).check()


def steps(train, number, state=None):
    """The parameters after each step, and the last state."""
    step = jax.jit(tiny.train_step(Causal(), MODULE, SGD, train))
    state, params = state or start(train), []
    for i in range(number):
        state, _ = step(state, batch_of([6] * 8, seed=i), jax.random.key(0))
        params.append(state.params)
    return params, state


def test_an_exponential_average_is_its_formula():
    train = TrainConfig(average="ema", average_decay=0.3)
    params, state = steps(train, 6)
    expected = start().params
    for n, p in enumerate(params):
        decay = min(0.3, (1 + n) / (10 + n))
        expected = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * b, expected, p)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), state.evaluated_params, expected)
    jax.tree.map(np.testing.assert_array_equal, state.params, steps(TrainConfig(), 6)[0][-1])


def test_a_triggered_average_is_the_mean_since_validation_stopped_getting_better():
    train = TrainConfig(average="triggered", average_patience=2)
    seen, state = steps(train, 2)
    jax.tree.map(np.testing.assert_array_equal, state.evaluated_params, seen[-1])
    for loss in (3.0, 2.0, 2.5, 2.4, 2.6):  # the fifth exceeds 2.0, the lowest of all before the latest two
        assert int(state.average.size) == 0
        state = state._replace(average=averaging.observe(state.average, jnp.float32(loss)))
    assert int(state.average.size) == 1
    later, state = steps(train, 3, state)
    expected = jax.tree.map(lambda *x: np.mean(x, axis=0), seen[-1], *later)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), state.evaluated_params, expected)


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_the_trigger_is_the_published_rule(patience):
    """Merity et al. 2018, algorithm 1: t > n and v > the lowest of all losses before the latest n."""
    for seed in range(20):
        losses = np.random.default_rng(seed).normal(size=30).astype(np.float32)
        average = averaging.start({"w": jnp.zeros(1)}, patience)
        for t, loss in enumerate(losses):
            average = jax.jit(averaging.observe)(average, loss)
            begun = any(
                s > patience and losses[s] > losses[: s - patience].min() for s in range(patience + 1, t + 1)
            )
            assert bool(average.size) == begun


def test_z_loss_is_its_formula_also_in_chunks_and_only_in_training():
    logits = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32) * 3
    targets, weights = np.zeros((2, 5), int), np.array([[1, 1, 0, 1, 0]] * 2, np.float32)
    row = logits, targets, weights
    plain = jax.jit(cross_entropy)(*row)
    expected = plain.total + 0.1 * (weights * np.log(np.exp(logits).sum(-1)) ** 2).sum()
    got = jax.jit(partial(cross_entropy, z_loss=0.1))(*row)
    assert float(got.total) == pytest.approx(float(expected), rel=1e-5)
    in_chunks = partial(chunked_cross_entropy, lambda p, h: h, {}, chunk_length=2, z_loss=0.1)
    assert float(jax.jit(in_chunks)(*row).total) == pytest.approx(float(expected), rel=1e-5)
    params, batch = start().params, batch_of([6, 2])
    values = [
        float(jax.jit(partial(Causal(z_loss=z).losses, MODULE, rngs=rngs))(params, batch)[0]["nats"].total)
        for z in (0.0, 0.1)
        for rngs in (None, {})
    ]
    assert values[0] == values[1] == values[2] < values[3]


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run whose average is triggered: its config and directory."""
    directory = tmp_path_factory.mktemp("averaged")
    config = tiny.config(tiny.write_text(directory / "text.txt"), eval_every=2)
    train = dataclasses.replace(config.train, average="triggered", average_patience=1, tensorboard=True)
    # A rate so high that validation gets worse.
    config = dataclasses.replace(
        config, train=train, optimizer=dataclasses.replace(config.optimizer, learning_rate=0.5)
    )
    experiment.run(config, directory / "run")
    return config, directory / "run"


@pytest.mark.slow
def test_the_trigger_and_the_average_survive_an_interruption(averaged, tmp_path):
    config, workdir = averaged
    data = pipeline.prepare(config.data)
    resolved = config.resolved(data.tokenizer.vocab_size)
    saved = []
    real = Checkpoints.save

    def save_then_stop(self, step, *rest):
        real(self, step, *rest)
        saved.append(step)
        self._manager.wait_until_finished()
        if len(saved) in (2, 4):
            raise RuntimeError("interrupted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_then_stop)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="interrupted"):
                training.fit(training.Trainer(resolved), data, tmp_path)
    trainer = training.Trainer(resolved)
    training.fit(trainer, data, tmp_path)
    states = []
    for directory in (workdir, tmp_path):
        with Checkpoints(directory, read_only=True) as checkpoints:
            states.append(training._restore(checkpoints, 12, trainer.program.state))
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert int(states[0].average.size) > 1, "it was triggered before the end"


def test_the_finished_model_is_the_average(averaged):
    config, workdir = averaged
    data = pipeline.prepare(config.data)
    trainer = training.Trainer(config.resolved(data.tokenizer.vocab_size))
    with Checkpoints(workdir, read_only=True) as checkpoints:
        state = training._restore(checkpoints, 12, trainer.program.state)
        params = checkpoints.restore_params(12, trainer.program.state.params)
    jax.tree.map(np.testing.assert_array_equal, params, state.average.params)
    assert not np.array_equal(jax.tree.leaves(params)[0], jax.tree.leaves(state.params)[0])
    loss, _ = trainer.validate(params, data)
    last = [line["valid_loss"] for line in read_metrics(workdir / "metrics.jsonl") if "valid_loss" in line][
        -1
    ]
    assert last == pytest.approx(loss.value, rel=1e-6)
    assert json.loads((workdir / "results.json").read_text())


def test_tensorboard_has_the_values_of_metrics_jsonl(averaged):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, workdir = averaged
    events = reader.EventAccumulator(str(workdir / "tensorboard")).Reload()
    told = [(e.step, e.value) for e in events.Scalars("valid_loss")]
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if "valid_loss" in line]
    assert told == [(line["step"], pytest.approx(line["valid_loss"], rel=1e-6)) for line in lines]


def test_event_files_are_optional_and_name_their_missing_package(averaged, tmp_path, monkeypatch):
    _, workdir = averaged
    [file] = (workdir / "tensorboard").iterdir()
    assert b"valid_loss" in file.read_bytes()
    MetricWriter(tmp_path / "metrics.jsonl", 0).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "seal.json"]
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"pip install 'lm_jax\[tensorboard\]'"):
        open_loggers(["tensorboard"], LoggedRun(tmp_path, {}, 0))


@pytest.mark.parametrize(
    ("field", "value"), [("average", "mean"), ("average_decay", 1.0), ("accumulation", 0)]
)
def test_an_invalid_value_is_named(field, value):
    with pytest.raises(UserError, match=f"train.{field}="):
        TrainConfig(**{field: value}).check()
