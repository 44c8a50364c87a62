"""Recipes: overrides by name, JSON, and error messages."""

import dataclasses
import json
import pathlib

import pytest

from lm_jax import config as config_module
from lm_jax import experiment, field_names, fields
from lm_jax.commands.train import main as train
from lm_jax.config import Config, CountConfig
from lm_jax.errors import UserError
from lm_jax.ngram.smoothing import NGramConfig

RECIPES = sorted(pathlib.Path(__file__).parents[1].glob("configs/*.py"))


def test_override_sets_each_type_from_text():
    values = {"model.num_layers": "7", "optimizer.learning_rate": "3e-4", "data.corpus": "text:a=b.txt"}
    config = fields.override(Config(), values)
    assert config.model.num_layers == 7
    assert config.optimizer.learning_rate == 3e-4
    assert config.data.corpus == "text:a=b.txt"
    assert Config().model.num_layers != 7, "the original stands"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("model.num_layer", "4", "did you mean model.num_layers?"),
        ("modle.num_layers", "4", "did you mean model.num_layers?"),
        ("num_layers", "4", "no field num_layers; did you mean model.num_layers?"),
        ("data", "text:a.txt", "data is a group of fields"),
        ("model", "gtp", "unknown model 'gtp'; known are bart, bert, elmo, gpt, nnlm, rnn"),
        ("task", "casual", "unknown task 'casual'"),
        ("model.num_layers.deep", "4", "no field model.num_layers.deep"),
        ("model.num_layers", "2.5", "model.num_layers='2.5' is not a whole number"),
        ("model.num_layers", "1e3", "is not a whole number"),
        ("optimizer.learning_rate", "fast", "is not a number"),
    ],
)
def test_a_wrong_override_names_the_remedy(name, text, message):
    with pytest.raises(UserError, match=r"^[^\n]+$") as error:
        fields.override(Config(), {name: text})
    assert message in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"train.batch_size": "0"},
        {"optimizer.learning_rate": "nan"},
        {"task.label_smoothing": "1"},
        {"optimizer.b2": "1"},
        {"train.keep": "some"},
        {"train.keep": "-1"},
        {"model.max_length": "16", "data.sequence_length": "32"},
    ],
)
def test_check_refuses_invalid_values(values):
    with pytest.raises(UserError):
        experiment.check(fields.override(Config(), values))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_survives_json(path):
    name, config = config_module.load(str(path))
    assert name == path.stem
    experiment.check(config)
    assert config_module.from_json(config_module.to_json(config)) == config


def test_the_ngram_recipe_reads_the_tokens_of_the_gpt_recipe():
    gpt, ngram = (config_module.load(str(RECIPES[0].parent / f"{name}.py"))[1] for name in ("gpt", "ngram"))
    assert gpt.data == ngram.data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format_version=3), "format 3; this version of lm_jax reads formats 1 and 2"),
        (lambda v: v["model"].update(name="gtp"), "unknown model 'gtp'"),
        (lambda v: v["model"].pop("name"), "model in config.json has no name of a model"),
        (lambda v: v.pop("model"), "has no model"),
        (lambda v: v["task"].update(name=1), "task in config.json has no name of a task"),
        (lambda v: v.update(family="gpt"), "no field family"),
        (lambda v: v["model"].update(num_heds=2), "did you mean model.num_heads?"),
        (lambda v: v["model"].update(num_heads="2"), "model.num_heads='2' is not a whole number"),
        (lambda v: v["model"].update(num_heads=True), "is not a whole number"),
    ],
)
def test_json_of_another_kind_is_refused(change, message):
    values = json.loads(config_module.to_json(Config()))
    change(values)
    with pytest.raises(UserError) as error:
        config_module.from_json(json.dumps(values))
    assert message in str(error.value)


def test_format_1_is_read_as_the_current_format():
    """`family` stood apart and the task was an objective."""
    config = fields.override(Config(), {"model": "rnn", "model.d_hidden": "7", "task.label_smoothing": "0.1"})
    values = json.loads(config_module.to_json(config))
    old = {"format_version": 1, "family": values["model"].pop("name"), "objective": values.pop("task")}
    old = values | old
    for text in (old, {name: value for name, value in old.items() if name != "mesh"}):
        assert config_module.from_json(json.dumps(text)) == config
    ngram = {"format_version": 1, "family": "ngram", "model": {"order": 3}, "seed": 4}
    read = config_module.from_json(json.dumps(ngram))
    assert read == CountConfig(model=NGramConfig(order=3), seed=4)


def test_run_parts_are_read_without_the_optimizer(tmp_path):
    config = fields.override(Config(), {"model.d_model": "8", "mesh.data": "2"})
    values = json.loads(config_module.to_json(config)) | {"optimizer": {"of another version": 1}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    parts = config_module.RunParts(tmp_path)
    assert (parts.format_version, parts.data, parts.model, parts.task, parts.mesh) == (
        2, config.data, config.model, config.task, config.mesh,
    )  # fmt: skip
    (tmp_path / "config.json").write_text(config_module.to_json(CountConfig()))
    assert config_module.RunParts(tmp_path).task is None


@pytest.mark.parametrize(
    ("there", "here", "expected"),
    [
        ({}, {"mesh.data": "2", "train.log_every": "3", "train.checkpoint_every": "3"}, []),
        ({}, {"train.keep": "all"}, []),
        ({}, {"train.sample_tokens": "3", "train.tensorboard": "true", "train.eval_every": "7"}, []),
        ({}, {"train.accumulation": "2"}, []),
        ({}, {"train.seed": "3"}, ["train.seed (0 there, 3 here)"]),
        (
            {},
            {"train.num_steps": "5000"},
            ["train.num_steps (1000 there, 5000 here, which decides the cosine schedule)"],
        ),
        ({"optimizer.schedule": "constant"}, {"train.num_steps": "5000"}, []),
        ({"optimizer.schedule": "inverse_sqrt"}, {"train.num_steps": "5000"}, []),
        (
            {"train.average": "triggered"},
            {"train.eval_every": "7"},
            ["train.eval_every (250 there, 7 here, which decides when averaging begins)"],
        ),
        (
            {"model.dropout": "0.1"},
            {"train.accumulation": "2"},
            ["train.accumulation (1 there, 2 here, which decides what is dropped)"],
        ),
    ],
)
def test_a_resumed_run_may_change_only_fields_without_effect_on_results(there, here, expected):
    old = fields.override(Config(), there)
    assert config_module.differences(old, fields.override(old, here)) == expected


def test_another_model_is_a_difference():
    changed = config_module.differences(Config(), fields.override(Config(), {"model": "rnn"}))
    assert "model ('gpt' there, 'rnn' here)" in changed


def test_help_describes_every_field():
    missing = [name for name, _, comment in fields.describe(Config()) if not comment]
    assert missing == []


def test_configs_are_frozen_and_hashable():
    hash(Config())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.seed = 1  # type: ignore[misc]


def test_an_unknown_recipe_or_variant_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"there are: .*gpt.py"):
        config_module.load(str(RECIPES[0].parent / "gtp.py"))
    with pytest.raises(UserError, match="no variant 'huge'"):
        config_module.load(f"{RECIPES[0].parent / 'gpt.py'}:huge")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"defines no get_config\(variant\)"):
        config_module.load(str(tmp_path / "empty.py"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("train.learning_rate", "optimizer.learning_rate"),
        ("batch_size", "train.batch_size"),
        ("batch-size", "train.batch_size"),
        ("max_steps", "train.num_steps"),
        ("n_layer", "model.num_layers"),
        ("block_size", "data.sequence_length"),
        ("learning_rat", "optimizer.learning_rate"),
    ],
)
def test_a_hint_matches_the_last_part_and_usual_aliases(name, meant):
    with pytest.raises(UserError, match=rf"no field {name}; did you mean {meant}\?"):
        fields.override(Config(), {name: "1"})


def test_every_alias_is_a_field():
    names = {n.rpartition(".")[2] for c in (Config(), CountConfig()) for n, _ in fields.flatten(c)}
    assert set(field_names.ALIASES.values()) <= names
    assert not names & field_names.ALIASES.keys(), "a field keeps its own name"


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--lr=1", "--config.optimizer.learning_rate"),
        ("--num-steps=3", "--config.train.num_steps"),
        ("--wrkdir=x", "--workdir"),
        ("--num-processes=3", "--num_processes"),
        ("--seed=1", "--config.train.seed or --config.seed"),
    ],
)
def test_an_unknown_flag_names_the_field_that_it_may_mean(flag, meant):
    with pytest.raises(UserError) as error:
        train([flag])
    assert str(error.value) == f"unrecognized arguments: {flag}; did you mean {meant}?"
