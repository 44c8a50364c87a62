"""Table 1 of BART's paper in small: its recipes, its table, and what it keeps of an interrupted run."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import noises
import numpy as np
import pytest

from lm_jax import experiment
from lm_jax.data.documents import Document
from lm_jax.evaluation.texts import Text


def cell(kind, seed, nats):
    """A cell of 40 documents of ten tokens each, with so many nats a token on average."""
    draw = np.random.default_rng(0).normal(1, 0.1, 40)
    rouge = [(1 / draw).tolist(), [1.0] * 40]
    statistics = {"target_perplexity": [(10 * nats * draw).tolist(), [10.0] * 40]}
    return noises.Cell(kind, seed, statistics | dict.fromkeys(("rouge1", "rouge2", "rougeL"), rouge))


@pytest.mark.parametrize("kind", noises.KINDS)
def test_recipes_are_valid_and_have_equal_steps_and_tokens(kind, tmp_path):
    tuned = noises.tuning(kind, 60, 2, tmp_path)
    experiment.check(tuned)
    assert (tuned.train.num_steps, tuned.train.seed) == (60, 2)
    assert bool(tuned.init_from) == (kind != "none")
    if kind != "none":
        config = noises.pretraining(kind, 100)
        experiment.check(config)
        assert config.train.num_steps == 100
        assert config.data.split == tuned.data.split
        assert config.data.tokenizer == "bpe-bart"


@pytest.mark.slow
def test_the_table_says_which_conclusions_hold(monkeypatch, tmp_path):
    documents = [Document(str(i), "One. Two words. Three.", {"target": "One."}) for i in range(40)]
    monkeypatch.setattr(noises, "read_held_out", lambda workdir, split: Text("test", documents))
    found = [cell("token masking", seed, 2.0) for seed in range(2)]
    found += [
        cell("token deletion", 0, 1.5),
        cell("document rotation", 0, 3.0),
        cell("text infilling", 0, 2.5),
    ]
    lines = noises.table(found, tmp_path).splitlines()
    [masking] = [line for line in lines if line.startswith("| token masking |")]
    assert masking.split(" | ")[1] == "2"
    perplexity = np.exp(2.0 * np.random.default_rng(0).normal(1, 0.1, 40).mean())
    assert masking.split(" | ")[2].startswith(f"{perplexity:.2f} (")
    assert masking.split(" | ")[3] == "0.00"
    assert "7.08, 6.10" in masking
    assert any(line.startswith("| lead-1 (no model) | – | – | – | 100.00 (100.00–100.00)") for line in lines)
    holds = {line.split(" | ")[1]: line.split(" | ")[-1].rstrip(" |") for line in lines if " − " in line}
    assert holds == {
        "token masking − document rotation": "holds",
        "token deletion − token masking": "holds",
        "text infilling − token masking": "does not hold",
    }


def test_finished_cells_are_read_again_after_an_interruption(tmp_path):
    path = tmp_path / "cells.jsonl"
    assert noises.read_cells(path) == []
    line = json.dumps(cell("none", 1, 2.0)._asdict())
    path.write_text(f"{line}\n{line[:50]}")
    assert noises.read_cells(path) == [cell("none", 1, 2.0)]


@pytest.mark.slow
def test_an_encoder_becomes_that_of_a_bart(monkeypatch, tmp_path):
    config = noises.tuning("masked language model", 8, 0, tmp_path).resolved(300)
    encoder = noises.pretraining("masked language model", 8).resolved(300)
    module = encoder.task.make(encoder.model)
    tokens = jnp.zeros((1, 8), jnp.int32)
    params = jax.jit(lambda: encoder.task.init(module, jax.random.key(1), 8))()
    monkeypatch.setattr(noises.lm_jax, "load", lambda path: SimpleNamespace(params=params))
    made = noises._from_encoder(config)
    model = config.task.make(config.model)

    @jax.jit
    def both(params, made):
        bare = encoder.model.make()
        found = bare.apply({"params": params["params"]["backbone"]}, tokens, method="encode")
        return found, model.apply(made, tokens, method="encode")

    assert np.allclose(*both(params, made), atol=1e-6)
