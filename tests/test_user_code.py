"""Registries, and files of the user's own that register parts and define recipes."""

import dataclasses
import pathlib
import runpy
import subprocess
import sys

import pytest

from lm_jax import config as config_module
from lm_jax import experiment, fields, flags, user_code
from lm_jax.config import Config
from lm_jax.errors import UserError
from lm_jax.models.base import MODELS
from lm_jax.models.gpt import GPTConfig
from lm_jax.registry import Registry

ROOT = pathlib.Path(__file__).parents[1]

OWN_PARTS = '''
"""A model that sees one token, and a recipe for it."""
from dataclasses import dataclass
from typing import ClassVar

from beside import WIDTH  # a file in the same folder
from lm_jax.config import Config
from lm_jax.models.base import MODELS, ModelConfig


@MODELS.register("{name}")
@dataclass(frozen=True)
class OwnConfig(ModelConfig):
    """The shape."""

    family: ClassVar[str] = "{name}"
    d_own: int = WIDTH  # width of the own model

    def check(self):
        """Nothing is refused."""

    def make(self):
        """The module."""


def get_config(variant=""):
    """The recipe."""
    return Config(model=OwnConfig())
'''


@pytest.fixture
def own_file(tmp_path):
    """A file that registers a model, under a name of its own in each test."""

    def write(name):
        (tmp_path / "beside.py").write_text("WIDTH = 5\n")
        path = tmp_path / f"{name}_file.py"
        path.write_text(OWN_PARTS.format(name=name))
        return path

    yield write
    sys.modules.pop("beside", None)


def test_a_registered_name_is_a_value_of_a_recipe_and_of_json(own_file):
    with pytest.raises(UserError, match=r"unknown model 'own'; known are bart, bert, .*add --import=FILE.py"):
        fields.override(Config(), {"model": "own"})
    flags.Parser().parse_args([f"--import={own_file('own')}"])
    config = fields.override(Config(), {"model.d_own": "7", "model": "own"})
    assert config.model == MODELS.get("own")(d_own=7)
    assert config_module.from_json(config_module.to_json(config)) == config
    assert ("model.d_own", 7, "width of the own model") in list(fields.describe(config))


def test_one_file_is_one_module_until_it_changes(own_file):
    path = own_file("once")
    first = user_code.import_file(path)
    assert user_code.import_part(str(path)) is first
    assert user_code.import_file(path.parent / "." / path.name) is first
    path.write_text(path.read_text() + "CHANGED = True\n")
    assert user_code.import_file(path).CHANGED, "the same model may be registered again by its file"
    assert str(path.parent) not in sys.path


def test_a_taken_name_is_refused():
    registry = Registry("part", {"builtin": "math:pi"})
    registry.register("mine")(UserError)
    registry.register("mine")(UserError)
    for name in ("builtin", "mine"):
        with pytest.raises(UserError, match=f"the part name '{name}' is taken"):
            registry.register(name)(Registry)
    assert registry.names() == ["builtin", "mine"]
    assert registry.get("builtin") > 3
    assert "mine" in registry
    assert "other" not in registry


def test_json_that_names_an_unknown_part_does_not_import_files(own_file):
    text = config_module.to_json(user_code.import_file(own_file("known")).get_config())
    with pytest.raises(UserError, match=r"unknown model 'strange'.*--import"):
        config_module.from_json(text.replace('"known"', '"strange"'))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nothing_of_this_name\n", r"cannot import .*file.py: ModuleNotFoundError: .*; mend the file"),
        ("x = 1\ndef broken(:\n", r"cannot import .*file.py, line 2: SyntaxError: "),
        ("1 / 0\n", r"cannot import .*file.py: ZeroDivisionError: division by zero"),
        ("from lm_jax.errors import UserError\nraise UserError('own', 'remedy')\n", r"^own; remedy$"),
        ("x = 1\n", r"file.py defines no get_config\(variant\)"),
        ("def get_config(variant):\n    return {}\n", r"get_config in .*file.py returns a dict; let it"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_one_line_error(tmp_path, source, message):
    path = tmp_path / "file.py"
    path.write_text(source)
    with pytest.raises(UserError, match=message) as error:
        config_module.load(str(path))
    assert "\n" not in str(error.value)
    path.write_text("def get_config(variant):\n    from lm_jax.config import Config\n    return Config()\n")
    assert config_module.load(str(path)) == ("file", Config())


@pytest.mark.parametrize("spec", ["no_module_of_this_name", "nowhere/file.py"])
def test_a_missing_import_is_a_one_line_error(spec):
    with pytest.raises(UserError, match=r"cannot (import|read) ") as error:
        flags.Parser().parse_args([f"--import={spec}"])
    assert "\n" not in str(error.value)


def test_help_shows_the_fields_of_classes_that_the_recipe_defines(own_file, capsys):
    main = runpy.run_path(str(ROOT / "train.py"))["main"]
    main([f"--config={own_file('helped')}", "--help", "--config.model.d_own=9"])
    shown = capsys.readouterr().out
    assert "--config.model=helped\n" in shown
    assert "--config.model.d_own=9\n      width of the own model\n" in shown


@pytest.mark.slow
def test_importing_the_command_does_not_prepare_the_process():
    code = "import os, train; assert 'JAX_COMPILATION_CACHE_DIR' not in os.environ"
    environment = {"PATH": "", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_the_files_of_own_parts_are_named_for_other_commands(own_file):
    path = pathlib.Path(own_file("named"))
    config = user_code.import_file(path).get_config()
    assert [pathlib.Path(file).resolve() for file in user_code.files_of(config.model, config.task)] == [
        path.resolve()
    ]
    assert user_code.files_of(Config().model, Config().task) == []


def test_a_class_whose_name_is_not_its_registered_name_raises_user_error(tmp_path):
    inherited = "from lm_jax.models.base import MODELS\nfrom lm_jax.models.gpt import GPTConfig\n\n\n"
    path = tmp_path / "inherits.py"
    path.write_text(
        inherited + '@MODELS.register("mine")\nclass Mine(GPTConfig):\n    """Forgets its family."""\n'
    )
    with pytest.raises(UserError, match=r"Mine is registered as the model 'mine', but its family is 'gpt'"):
        user_code.import_file(path)

    class Unregistered(GPTConfig):
        """Would be reloaded as a GPT."""

    with pytest.raises(UserError, match="Unregistered has the name 'gpt' of another model"):
        experiment.check(dataclasses.replace(Config(), model=Unregistered()))
