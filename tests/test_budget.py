"""The memory that a recipe needs at the least, against the shapes of what is trained, and what is refused."""

import dataclasses

import jax
import pytest

from lm_jax import experiment, fields, memory
from lm_jax.config import Config, TrainConfig
from lm_jax.errors import UserError
from lm_jax.models.bert import BERTConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.models.nnlm import NNLMConfig
from lm_jax.models.rnn import RNNConfig
from lm_jax.parallel.sharding import make_mesh
from lm_jax.tasks.causal import Causal
from lm_jax.training import budget
from lm_jax.training.program import Program


@pytest.mark.parametrize(
    "model",
    [
        GPTConfig(d_model=32, num_layers=2, num_heads=2),
        NNLMConfig(),
        NNLMConfig(direct=True, order=3),
        RNNConfig(num_layers=1),
        RNNConfig(num_layers=4, cell="gru", d_hidden=64),
        RNNConfig(num_layers=3, cell="elman", tied_head=True),
        RNNConfig(num_layers=2, d_projection=32),
        RNNConfig(num_layers=2, adaptive_cutoffs=(400,)),
    ],
    ids=repr,
)
def test_the_size_of_a_model_is_a_close_lower_bound(model):
    model = model.resolved(1000, 16)
    shapes = jax.eval_shape(lambda: Causal().init(model.make(), jax.random.key(0), 16))
    parameters = sum(x.size for x in jax.tree.leaves(shapes))
    least = 0.5 if getattr(model, "adaptive_cutoffs", ()) else 0.98  # clusters are left out
    assert least * parameters <= model.size(16).parameters <= parameters


def test_a_bert_has_a_size_too():
    assert BERTConfig().resolved(100, 16).size(16).parameters > 100_000


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "adagrad", "muon", "sgd", "adafactor"])
def test_the_bytes_of_the_state_are_a_lower_bound(optimizer):
    config = fields.override(
        Config().resolved(500), {"optimizer.name": optimizer, "data.sequence_length": "16"}
    )
    state = Program(config, make_mesh(config.mesh)).state
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state.params, state.opt_state)))
    gradient = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.params))
    estimate = budget.device_bytes(config, data=1, fsdp=1, tensor=1)["parameters"]
    assert estimate <= held + gradient
    assert estimate > 0.5 * (held + gradient)


@pytest.mark.parametrize("variant", ["", "124m", "350m"])
def test_recipes_for_large_machines_are_not_absurd(variant):
    from lm_jax import config as config_module

    config = config_module.load(f"configs/gpt.py:{variant}" if variant else "configs/gpt.py")[1]
    experiment.check(config)
    assert sum(budget.device_bytes(config, data=1, fsdp=1, tensor=1).values()) < 64 << 30


def test_a_recipe_is_refused_by_what_the_machine_has(monkeypatch):
    config = dataclasses.replace(Config(), train=TrainConfig(batch_size=64))
    budget.check(config)
    needed = sum(budget.device_bytes(config, data=1, fsdp=1, tensor=1).values())
    monkeypatch.setattr(memory, "total", lambda: needed)
    budget.check(config)
    monkeypatch.setattr(memory, "total", lambda: needed - 1)
    with pytest.raises(
        UserError, match=r"training \(batch .*, parameters .*\) takes about .* are all there is; "
    ):
        budget.check(config)


def test_sizes_are_written_as_numbers_that_can_be_read():
    assert memory.in_words(3 << 29) == "1.5 GiB"
    assert memory.in_words(10**40) == "10^30 GiB"
