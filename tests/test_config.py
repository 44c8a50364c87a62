"""Recipes: overrides by name, JSON, and what a wrong one says."""

import dataclasses
import json
import pathlib

import pytest

from lm_jax import config as config_module
from lm_jax.config import Config
from lm_jax.errors import UserError

RECIPES = sorted(pathlib.Path(__file__).parents[1].glob("configs/*.py"))


def test_override_sets_each_type_from_text():
    values = {"model.num_layers": "7", "optimizer.learning_rate": "3e-4", "data.corpus": "text:a=b.txt"}
    config = config_module.override(Config(), values)
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
        ("model", "gpt", "model is a group of fields"),
        ("model.num_layers.deep", "4", "no field model.num_layers.deep"),
        ("model.num_layers", "2.5", "model.num_layers='2.5' is not a whole number"),
        ("model.num_layers", "1e3", "is not a whole number"),
        ("optimizer.learning_rate", "fast", "is not a number"),
    ],
)
def test_a_wrong_override_names_the_remedy(name, text, message):
    with pytest.raises(UserError, match=r"^[^\n]+$") as error:
        config_module.override(Config(), {name: text})
    assert message in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"train.batch_size": "0"},
        {"optimizer.learning_rate": "nan"},
        {"objective.label_smoothing": "1"},
        {"optimizer.b2": "1"},
        {"model.max_length": "16", "data.sequence_length": "32"},
    ],
)
def test_check_refuses_what_no_run_can_use(values):
    with pytest.raises(UserError):
        config_module.check(config_module.override(Config(), values))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_survives_json(path):
    name, config = config_module.load(str(path))
    assert name == path.stem
    config_module.check(config)
    assert config_module.from_json(config_module.to_json(config)) == config


def test_the_ngram_recipe_reads_the_tokens_of_the_gpt_recipe():
    gpt, ngram = (config_module.load(str(RECIPES[0].parent / f"{name}.py"))[1] for name in ("gpt", "ngram"))
    assert gpt.data == ngram.data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format_version=2), "format 2"),
        (lambda v: v.update(family="gtp"), "unknown family 'gtp'"),
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


def test_differences_leave_out_what_a_resumed_run_may_change():
    old = Config()
    longer = config_module.override(
        old, {"train.num_steps": "5000", "mesh.data": "2", "train.eval_every": "7"}
    )
    assert config_module.differences(old, longer) == []
    other = config_module.override(longer, {"train.seed": "3"})
    assert config_module.differences(old, other) == ["train.seed (0 there, 3 here)"]


def test_help_tells_what_every_field_means():
    missing = [name for name, _, comment in config_module.describe(Config()) if not comment]
    assert missing == []


def test_configs_are_frozen_and_hashable():
    hash(Config())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.seed = 1  # type: ignore[misc]


def test_an_unknown_recipe_or_variant_says_what_there_is(tmp_path):
    with pytest.raises(UserError, match=r"there are: .*gpt.py"):
        config_module.load(str(RECIPES[0].parent / "gtp.py"))
    with pytest.raises(UserError, match="no variant 'huge'"):
        config_module.load(f"{RECIPES[0].parent / 'gpt.py'}:huge")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="no get_config"):
        config_module.load(str(tmp_path / "empty.py"))
