"""Runs that start from the parameters of another run."""

import dataclasses
import shutil
import types

import jax
import numpy as np
import pytest
import tiny
from interrupt import stopped_after

import lm_jax
import train as train_command
from lm_jax import config as config_module
from lm_jax import experiment
from lm_jax.config import Config
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.evaluation.row import read_rows
from lm_jax.models.bert import BERTConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.models.rnn import RNNConfig
from lm_jax.progress import read_metrics
from lm_jax.tasks.causal import Causal
from lm_jax.tasks.masked import Masked


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A GPT and an RNN that were trained for a few steps, and the recipe of the GPT."""
    path = tmp_path_factory.mktemp("sources")
    gpt = tiny.config(tiny.write_text(path / "text.txt"), num_steps=2, sample_tokens=0)
    rnn = dataclasses.replace(
        gpt,
        data=dataclasses.replace(gpt.data, order="contiguous"),
        model=RNNConfig(num_layers=1, d_embedding=8, d_hidden=8),
    )
    for name, config in (("gpt", gpt), ("rnn", rnn)):
        experiment.run(config, path / name)
    return path, gpt


def tiny_shape(kind):
    return kind(num_layers=1, num_heads=2, d_model=8, vocab_size=9, num_tokens=9, max_length=8)


def tuned(config, source, **model):
    """A recipe that names its source by the directory only; resolved as train.py does."""
    recipe = dataclasses.replace(config, model=GPTConfig(**model), init_from=str(source))
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, num_steps=6, eval_every=3))


def losses(workdir):
    return [line["loss"] for line in read_metrics(workdir / "metrics.jsonl") if "loss" in line]


@pytest.mark.slow
def test_a_stopped_run_goes_on_when_its_source_is_gone(sources, tmp_path):
    path, gpt = sources
    shutil.copytree(path / "gpt", tmp_path / "source")
    recipe = tuned(gpt, tmp_path / "source")
    whole = experiment.override(recipe, {}, tmp_path / "whole")
    experiment.run(whole, tmp_path / "whole")
    with stopped_after(4):
        assert experiment.run(experiment.override(recipe, {}, tmp_path / "run"), tmp_path / "run") == []
    shutil.rmtree(tmp_path / "source")
    assert experiment.run(experiment.override(recipe, {}, tmp_path / "run"), tmp_path / "run")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    with pytest.raises(UserError, match="there is no directory"):
        experiment.override(recipe, {}, tmp_path / "new")


def test_the_recipe_sets_fields_that_do_not_change_parameters(sources, tmp_path):
    path, gpt = sources
    recipe = experiment.override(
        tuned(gpt, path / "gpt", dropout=0.5, d_model=64), {"model.dtype": "bfloat16"}
    )
    assert (recipe.model.dropout, recipe.model.dtype) == (0.5, "bfloat16")
    assert recipe.model.d_model == gpt.model.d_model, "the shape is that of the source"
    kept = experiment.override(tuned(gpt, path / "gpt"), {})
    there = config_module.read(path / "gpt")
    assert kept.model == there.resolved(257).model, "with the sizes that the source left to its data"


@pytest.mark.slow
def test_a_recurrent_model_is_a_source_too(sources, tmp_path):
    path, gpt = sources
    recipe = experiment.override(tuned(gpt, path / "rnn"), {"data.order": "contiguous"})
    assert isinstance(recipe.model, RNNConfig)
    with stopped_after(1):
        experiment.run(
            dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, num_steps=50)), tmp_path / "r"
        )
    source = lm_jax.load(path / "rnn")
    first = losses(tmp_path / "r")[0]
    again = experiment.override(Config(), {"init_from": str(path / "rnn")})
    assert again.model.family == "rnn"
    assert abs(first - np.log(source.tokenizer.vocab_size)) > 1e-3, "not random parameters"


def test_another_shape_is_refused(sources, tmp_path):
    path, gpt = sources
    recipe = experiment.override(tuned(gpt, path / "gpt"), {"model.d_model": "8"})
    with pytest.raises(UserError, match=r"of another shape: .*model.d_model \(16 there, 8 here\)"):
        experiment.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("kind", [GPTConfig, BERTConfig])
def test_a_model_without_parameters_of_positions_may_read_longer_rows(kind, monkeypatch):
    task = Causal() if kind is GPTConfig else Masked()
    base = tiny_shape(kind)
    for position in ("rope", "none", "learned"):
        there = dataclasses.replace(base, position=position)
        module = task.make(there)
        params = jax.eval_shape(lambda module=module: task.init(module, jax.random.key(0), 8))
        source = types.SimpleNamespace(config=there, params=params, family=there.family)
        monkeypatch.setattr(experiment.language_model, "load", lambda path, source=source: source)
        monkeypatch.setattr(experiment.language_model, "read_model_config", lambda path, there=there: there)
        values = {"init_from": "x", "model.max_length": "16"}
        recipe = Config(data=DataConfig(sequence_length=16), model=kind(), task=task)
        longer = experiment.override(recipe, values)
        assert longer.model == dataclasses.replace(there, max_length=16)
        if position == "learned":
            with pytest.raises(UserError, match=r"model.max_length \(8 there, 16 here\)"):
                experiment._initial_params(longer)
        else:
            assert experiment._initial_params(longer) == params


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT that was trained for a few steps."""
    path = tmp_path_factory.mktemp("bert")
    config = tiny.config(tiny.write_text(path / "text.txt"), num_steps=2, sample_tokens=0)
    data = dataclasses.replace(config.data, tokenizer="wordpiece", vocab_size=300)
    model = BERTConfig(num_layers=1, num_heads=2, d_model=8)
    experiment.run(
        dataclasses.replace(config, data=data, model=model, task=Masked(pairs="none")), path / "bert"
    )
    return path / "bert"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt", "rnn", "bert"])
def test_one_command_tunes_any_run_on_one_file(sources, bert, tmp_path, capsys, kind):
    """The example of --help: the context and the task come from the source, held-out text from the end."""
    file = tiny.write_text(tmp_path / "mine.txt", num_lines=150, seed=3)
    source = bert if kind == "bert" else sources[0] / kind
    recipe = [f"--config.train.{name}" for name in ("num_steps=2", "eval_every=2", "sample_tokens=0")]
    train_command.main(
        ["--config=configs/finetune.py", f"--config.init_from={source}", f"--config.data.corpus=text:{file}",
         f"--workdir={tmp_path / 'run'}", *recipe]
    )  # fmt: skip
    assert "its end is held out instead, as by data.split=tail:0.05,0.05" in capsys.readouterr().err
    tuned = config_module.read(tmp_path / "run")
    assert tuned.task.name == ("masked" if kind == "bert" else "causal")
    assert tuned.data.sequence_length == (256 if kind == "rnn" else 32)
    assert [row.split for row in read_rows(tmp_path / "run" / "results.json")] == ["valid", "test"]


def test_rows_are_no_longer_than_the_sources_context_unless_asked_for(sources, bert):
    def overridden(source, **values):
        named = {name.replace("__", "."): value for name, value in values.items()}
        return experiment.override(Config(init_from=str(source)), named)

    gpt = sources[0] / "gpt"
    assert overridden(gpt).data.sequence_length == 32
    assert overridden(gpt, data__sequence_length="16").data.sequence_length == 16
    with pytest.raises(UserError, match="exceeds the model's context"):
        experiment.check(overridden(gpt, data__sequence_length="64"))
    assert overridden(bert).task == Masked(pairs="none")
    with pytest.raises(UserError, match="task=causal with model=bert"):
        experiment.check(overridden(bert, task="causal"))
