"""Models that were trained on a mesh are opened on one, and score and write as on a single device."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

import lm_jax
from lm_jax import experiment, generate
from lm_jax.errors import UserError
from lm_jax.language_models import load
from lm_jax.models.rnn import RNNConfig
from lm_jax.parallel.sharding import MeshConfig

TEXTS = ["the model reads new text.\n", "a language model " * 12, ""]


@pytest.fixture(scope="module", params=["gpt", "rnn"])
def run(request, tmp_path_factory):
    """A run on two shares of rows, two of parameters and two of heads."""
    path = tmp_path_factory.mktemp("run")
    config = tiny.config(tiny.write_text(path / "text.txt"), num_steps=2, batch_size=8, sample_tokens=0)
    if request.param == "rnn":
        data = dataclasses.replace(config.data, order="contiguous")
        config = dataclasses.replace(
            config, data=data, model=RNNConfig(num_layers=1, d_embedding=8, d_hidden=8)
        )
    config = dataclasses.replace(config, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    rows = experiment.run(config, path / "run")
    return path / "run", rows


@pytest.mark.slow
def test_it_is_opened_on_the_mesh_that_it_was_trained_on(run):
    path, _ = run
    lm = lm_jax.load(path)
    assert dict(lm.trained.mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(lm.params)), (
        "no device holds all of it"
    )


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [MeshConfig(data=3), MeshConfig(fsdp=4), MeshConfig(data=2, tensor=2)])
def test_scores_and_text_are_those_of_one_device(run, mesh):
    path, _ = run
    one, several = load.load(path, mesh=MeshConfig()), load.load(path, mesh=mesh)
    for a, b in zip(one.score(TEXTS), several.score(TEXTS), strict=True):
        np.testing.assert_allclose(b.log_probs, a.log_probs, atol=1e-5)
    greedy = {"max_tokens": 12, "temperature": 0.0}
    for a, b in zip(one.generate(["the", "a new"], **greedy), several.generate(["the", "a new"], **greedy)):
        np.testing.assert_array_equal(a.tokens, b.tokens)


@pytest.mark.slow
def test_flags_name_the_mesh(run, capsys):
    path, _ = run
    generate.main([f"--model={path}", "--mesh.fsdp=2", "--prompt=the", "--max-tokens=2", "--temperature=0"])
    assert capsys.readouterr().out.startswith("the")
    with pytest.raises(UserError, match=r"mesh.fsdp=16 .* on 8 devices"):
        generate.main([f"--model={path}", "--mesh.fsdp=16"])
    with pytest.raises(UserError, match="did you mean fsdp"):
        generate.main([f"--model={path}", "--mesh.fspd=2"])
