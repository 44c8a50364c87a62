"""The recipes of GPT-2's sizes: as large as published, and to be had on any mesh that divides their batch."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
import tiny

import lm_jax
from lm_jax import config as config_module
from lm_jax import experiment
from lm_jax.parallel.sharding import MeshConfig, make_mesh
from lm_jax.pretrained import llama
from lm_jax.training.program import Program

RECIPE = pathlib.Path(__file__).parents[1] / "configs" / "gpt.py"


@pytest.mark.parametrize(("variant", "published"), [("124m", 124_439_808), ("350m", 354_823_168)])
def test_gpt_2_has_its_published_size(variant, published):
    _, config = config_module.load(f"{RECIPE}:{variant}")
    experiment.check(config)
    assert dataclasses.replace(config.model, vocab_size=50257).cost(1024).parameters == published
    program = Program(config.resolved(50257), make_mesh(config.mesh))
    assert sum(x.size for x in jax.tree.leaves(program.state.params)) == config.model.cost(1024).parameters
    assert program.batch.inputs.shape == (512, 1024)


def test_the_llama_variant_has_a_llamas_parts():
    _, config = config_module.load(f"{RECIPE}:llama")
    experiment.check(config)
    assert {name: getattr(config.model, name) for name in llama.fixed(config.model)} == llama.fixed(
        config.model
    )
    assert not config.model.use_bias


@pytest.mark.parametrize("variant", ["124m", "350m"])
def test_every_matrix_is_shared_by_all_of_a_mesh(variant):
    _, config = config_module.load(f"{RECIPE}:{variant}")
    program = Program(config.resolved(50257), make_mesh(MeshConfig(fsdp=4, tensor=2)))
    for array in jax.tree.leaves(program.state):
        if array.size > 2**20:
            whole, share = np.prod(array.shape), np.prod(array.sharding.shard_shape(array.shape))
            assert share * 8 == whole, array


@pytest.mark.slow
def test_a_padded_vocabulary_is_never_written(tmp_path):
    """Random parameters would choose one of the 2,000 rows without a token nine times in ten."""
    config = tiny.config(tiny.write_text(tmp_path / "text.txt"), num_steps=1, sample_tokens=40)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=2000))
    experiment.run(config, tmp_path / "run")
    model = lm_jax.load(tmp_path / "run")
    assert model.tokenizer.vocab_size < 300
    [greedy] = model.generate(["a model"], 20, temperature=0)
    assert (tmp_path / "run" / "sample.txt").exists()
    assert greedy.text
