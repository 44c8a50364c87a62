"""The training step and its loop: it learns, devices agree, and what is not a number stops it."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import optax
import pytest
import tiny

from lm_jax import experiment
from lm_jax.batch import Batch
from lm_jax.errors import UserError
from lm_jax.parallel.sharding import MeshConfig
from lm_jax.tasks.causal import Causal
from lm_jax.training import loop as training
from lm_jax.training.step import first_state


def one_batch(config, rows=8):
    tokens = np.random.default_rng(0).integers(
        0, config.model.vocab_size, (rows, config.data.sequence_length + 1)
    )
    tokens = tokens.astype(np.int32)
    return Batch(tokens[:, :-1], tokens[:, 1:], np.ones((rows, config.data.sequence_length), np.float32))


@pytest.fixture
def small(tmp_path):
    config = tiny.config(tiny.write_text(tmp_path / "text.txt"), batch_size=8)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0)).resolved(64)


def first_params(module):
    return jax.jit(lambda: Causal().init(module, jax.random.key(0), 32))()


def test_one_batch_can_be_overfitted(small):
    module, optimizer = small.model.make(), optax.adam(1e-2)
    state = first_state(first_params(module), optimizer)
    step = jax.jit(tiny.train_step(Causal(), module, optimizer), donate_argnums=0)
    batch, losses = one_batch(small), []
    for _ in range(250):
        state, metrics = step(state, batch, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(64), rel=0.05), "random parameters know nothing"
    assert losses[-1] < 0.05


def test_eight_devices_give_the_loss_and_gradient_of_one(small):
    results = []
    for devices in (1, 8):
        config = dataclasses.replace(small, mesh=MeshConfig(data=devices))
        trainer = training.Trainer(config)
        state, metrics = trainer.step(trainer.program.init(), one_batch(small))
        results.append({k: float(v) for k, v in metrics.items()})
        assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == devices
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_logits_a_chunk_at_a_time_change_nothing(small):
    module, batch = small.model.make(), one_batch(small)
    batch.weights[:, -5:] = 0
    params = first_params(module)

    def loss(params, task):
        return task.losses(module, params, batch)[0]["nats"].mean

    values = [
        jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, Causal(chunk_length=n))
        for n in (0, 7, 32)
    ]
    for value in values[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), values[0], value)


def test_padding_changes_neither_loss_nor_gradient(small):
    module, batch = small.model.make(), one_batch(small)
    params = first_params(module)
    padded = Batch(*(np.concatenate([x, x[:3]]) for x in batch[:3]))
    padded.weights[8:] = 0

    def loss(params, batch):
        return Causal().losses(module, params, batch)[0]["nats"].mean

    plain, with_padding = (jax.jit(jax.grad(loss))(params, b) for b in (batch, padded))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, with_padding)


def test_a_loss_that_is_not_finite_names_the_step_and_the_last_good_checkpoint(tiny_run, tmp_path):
    config, workdir, _ = tiny_run
    changes = {"schedule": "constant", "learning_rate": 1e38, "clip_norm": 0.0}
    wild = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **changes))
    # The same directory with a rate that overflows: as if the run had diverged after step 12.
    shutil.copytree(workdir, tmp_path / "run")
    text = json.loads((tmp_path / "run" / "config.json").read_text())
    text["optimizer"] |= changes
    (tmp_path / "run" / "config.json").write_text(json.dumps(text))
    (tmp_path / "run" / "seal.json").unlink()
    wild = dataclasses.replace(wild, train=dataclasses.replace(wild.train, num_steps=20))
    with pytest.raises(
        UserError, match=r"the param_norm at step 13 is inf; the last good checkpoint is step 12"
    ):
        experiment.run(wild, tmp_path / "run")


def test_bits_per_byte_need_complete_scores(tiny_run, tmp_path):
    config, of_bytes, _ = tiny_run
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, tokenizer="word"),
        train=dataclasses.replace(config.train, num_steps=1, sample_tokens=0),
    )
    experiment.run(config, tmp_path / "run")
    for workdir, complete in ((of_bytes, True), (tmp_path / "run", False)):
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        assert any("valid_loss" in line for line in lines)
        assert any("valid_bits_per_byte" in line for line in lines) == complete
