"""A state that goes on from batch to batch: in training, in checkpoints, through validation's documents."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupt import stopped_after
from test_packing import stream

from lm_jax.batch import Batch
from lm_jax.checkpoint import Checkpoints
from lm_jax.data import pipeline
from lm_jax.data.batches import evaluation_batches
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.base import ModelConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.parallel.sharding import MeshConfig
from lm_jax.progress import read_metrics
from lm_jax.tasks.causal import Causal
from lm_jax.training import loop as training
from lm_jax.training.step import first_state


@dataclasses.dataclass(frozen=True)
class DecayConfig(ModelConfig):
    """The shape of a `Decay`."""

    family: ClassVar[str] = "decay"

    def check(self):
        pass

    def make(self):
        return Decay(self)


class Decay(nn.Module):
    """A recurrence h ← tanh(h · decay + embedding) whose state is a dictionary."""

    config: Any

    def setup(self):
        self.embedding = nn.Embed(self.config.vocab_size, 8)
        self.decay = self.param("decay", nn.initializers.constant(0.9), (8,))

    def init_state(self, batch_size, length=0):
        return {"h": jnp.full((batch_size, 8), 0.5)}

    def __call__(self, tokens_BT, state=None, segments=None, train=False):
        hidden_BTD, state = self.hidden(tokens_BT, state, segments, train)
        return self.logits(hidden_BTD), state

    def hidden(self, tokens_BT, state=None, segments=None, train=False):
        first = self.init_state(len(tokens_BT))["h"]
        segments = jnp.zeros_like(tokens_BT) if segments is None else segments
        anew_BT = jnp.diff(segments, axis=1, prepend=0) != 0

        def step(h, x):
            embedded, anew = x
            h = jnp.where(anew[:, None], first, h)
            h = jnp.tanh(h * self.decay[None] + embedded)
            return h, h

        xs = (self.embedding(tokens_BT).swapaxes(0, 1), anew_BT.T)
        h, hidden = jax.lax.scan(step, first if state is None else state["h"], xs)
        return hidden.swapaxes(0, 1), {"h": h}

    def logits(self, hidden_BTD):
        return self.embedding.attend(hidden_BTD)


@pytest.fixture
def recipe(tmp_path):
    """A config that trains `Decay` on streams, and its data."""
    config = tiny.config(tiny.write_text(tmp_path / "text.txt"), batch_size=8, num_steps=8)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, order="contiguous", sequence_length=8),
        model=DecayConfig(),
    )
    data = pipeline.prepare(config.data)
    return config.resolved(data.tokenizer.vocab_size), data


def test_steps_with_a_carried_state_equal_one_long_row():
    config, task, streams = DecayConfig(vocab_size=17), Causal(), DataConfig(order="contiguous")
    module = config.make()
    tokens = np.random.default_rng(0).integers(17, size=(4, 25)).astype(np.int32)
    params, carry = task.init(module, jax.random.key(0), 8), task.init_carry(module, config, streams, 4)
    state = first_state(params, optax.sgd(0.0), carry)
    step = jax.jit(tiny.train_step(task, module, optax.sgd(0.0)))
    losses = []
    for start in (0, 8, 16):
        rows = tokens[:, start : start + 9]
        batch = Batch(rows[:, :-1], rows[:, 1:], np.ones((4, 8), np.float32))
        state, metrics = step(state, batch, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    whole = Batch(tokens[:, :-1], tokens[:, 1:], np.ones((4, 24), np.float32))
    expected = task.losses(module, state.params, whole)[0]["nats"].mean
    assert np.mean(losses) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("order", ["contiguous", "shuffled"])
def test_only_a_recurrent_model_on_streams_carries_a_state(order):
    data = DataConfig(order=order, sequence_length=8)
    for config in (DecayConfig(vocab_size=17), GPTConfig(vocab_size=17, max_length=8)):
        carry = Causal().init_carry(config.make(), config, data, 4)
        assert (carry is not None) == (order == "contiguous" and isinstance(config, DecayConfig))


def test_a_resumed_run_restores_its_carried_state(recipe, tmp_path):
    config, data = recipe
    trainer, states = training.Trainer(config), []
    assert training.fit(trainer, data, tmp_path)
    with stopped_after(5):
        assert not training.fit(trainer, data, tmp_path / "again")
    assert training.fit(training.Trainer(config), data, tmp_path / "again")
    for workdir in (tmp_path, tmp_path / "again"):
        with Checkpoints(workdir, read_only=True) as checkpoints:
            states.append(training._restore(checkpoints, 8, trainer.program.state))
    assert np.ptp(states[0].carry["h"], axis=0).all(), "each row has a state of its own"
    jax.tree.map(np.testing.assert_array_equal, *states)
    losses = [
        [(line["step"], line.get("loss"), line.get("valid_loss")) for line in read_metrics(w)]
        for w in (tmp_path / "metrics.jsonl", tmp_path / "again" / "metrics.jsonl")
    ]
    assert losses[0] == losses[1]


def test_the_state_is_shared_by_rows_and_changes_nothing(recipe):
    config, data = recipe
    results = []
    for devices in (1, 4):
        trainer = training.Trainer(dataclasses.replace(config, mesh=MeshConfig(data=devices)))
        state, source = trainer.program.init(), pipeline.make_source(data.splits["train"], config.data, 8, 0)
        for number in range(3):
            state, metrics = trainer.step(state, source.batch(number))
        shard = state.carry["h"].addressable_shards[0]
        assert shard.data.shape == (8 // devices, 8)
        results.append((float(metrics["loss"]), np.asarray(state.carry["h"])))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-5)


def test_validation_reads_each_document_with_a_state_of_its_own(recipe):
    config, data = recipe
    trainer, split = training.Trainer(config), data.splits["valid"]
    state = trainer.program.init()
    loss, _ = trainer.validate(state.params, data)
    module, tokens, offsets = (
        config.model.make(),
        np.asarray(split.tokens),
        np.asarray(split.document_offsets),
    )
    lengths = np.diff(offsets)
    assert len(lengths) > 10, "several documents a row"
    places = offsets[:-1, None] - 1 + np.minimum(np.arange(lengths.max() + 1), lengths[:, None])
    rows, weights = tokens[places].astype(np.int32), np.arange(lengths.max()) < lengths[:, None]
    alone = Batch(rows[:, :-1], rows[:, 1:], weights.astype(np.float32))
    expected = Causal().losses(module, state.params, alone)[0]["nats"]
    assert float(expected.weight) == split.num_tokens
    assert loss.value == pytest.approx(float(expected.total) / split.num_tokens, rel=1e-5)


@settings(max_examples=50)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=9),
    length=st.integers(1, 12),
    batch_size=st.sampled_from([1, 2, 5]),
)
def test_rows_of_validation_hold_whole_documents_unless_they_are_longer_than_a_share(
    lengths, length, batch_size
):
    split = stream(lengths)
    batches = list(evaluation_batches(split, batch_size, length, carried=True))
    inputs, targets, weights, segments = (np.concatenate(field, axis=1) for field in zip(*batches))
    real = weights == 1
    assert real.sum() == split.num_tokens
    assert np.array_equal(segments < 0, ~real)
    assert np.array_equal(np.concatenate([row[r] for row, r in zip(targets, real)]), split.tokens[1:])
    share = -(-split.num_tokens // batch_size)
    before = np.concatenate([np.zeros((batch_size, 1), int), segments[:, :-1]], axis=1)
    before[:, ::length] = 0  # each batch counts from the state that it is handed
    begins = (segments != before) & real
    assert np.array_equal(begins, (inputs == 0) & real), "anew at the end token before each document"
    for row in range(batch_size):
        if real[row, 0] and not begins[row, 0]:
            document = inputs[row, 0]
            assert lengths[document - 1] + 1 > share, "only a long document is cut"


def test_processes_share_the_rows_of_validation():
    split = stream([3, 9, 0, 4, 4, 30])
    whole = list(evaluation_batches(split, 4, 5, carried=True))
    halves = [list(evaluation_batches(split, 4, 5, p, 2, carried=True)) for p in range(2)]
    for batch, *parts in zip(whole, *halves, strict=True):
        for field, *shares in zip(batch, *parts):
            np.testing.assert_array_equal(field, np.concatenate(shares))
