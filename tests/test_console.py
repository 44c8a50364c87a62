"""The command `lm-jax` and the recipes that come with the package, in a directory without either."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import pytest
import setuptools
import tiny

from lm_jax import __main__ as console
from lm_jax import config as config_module
from lm_jax import recipe_files, runtime
from lm_jax.errors import UserError
from lm_jax.generate import main as generate

ROOT = pathlib.Path(__file__).parents[1]


def test_a_recipe_of_the_package_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(recipe_files.names()) == {path.stem for path in ROOT.glob("configs/*.py")}
    by_path = config_module.load(f"{ROOT}/configs/ngram.py:word")
    assert config_module.load("ngram:word") == by_path
    assert by_path[0] == "ngram-word"
    pathlib.Path("ngram.py").write_text("from lm_jax.config import CountConfig as get_config\n")
    assert config_module.load("ngram")[1] == config_module.load(f"{ROOT}/configs/ngram.py")[1]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("gtp", "no recipe gtp; did you mean gpt?"),
        ("nothing_like_it", "no recipe nothing_like_it; there are bart, bert, "),
        ("configs/gpt.py", "no recipe configs/gpt.py; type --config=gpt for this package's own"),
        ("mine/model.py", "no recipe mine/model.py; give --config=PATH.py or the name of a recipe"),
    ],
)
def test_an_unknown_recipe_is_a_one_line_error(spec, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        config_module.load(spec)
    assert str(error.value).startswith(said)


def test_a_wheel_has_every_package_and_every_file_of_the_recipes(monkeypatch):
    given = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", given.update)
    exec((ROOT / "setup.py").read_text())
    modules = {path.parent for path in (ROOT / "lm_jax").rglob("*.py")} - {ROOT / "lm_jax/configs"}
    folders = {given["package_dir"].get(name, name.replace(".", "/")) for name in given["packages"]}
    assert {ROOT / folder for folder in folders} == modules | {ROOT / "configs"}
    others = {path for path in (ROOT / "configs").rglob("*.*") if path.suffix not in (".py", ".pyc")}
    named = given["package_data"]["lm_jax.configs"]
    assert {path for pattern in named for path in (ROOT / "configs").glob(pattern)} == others != set()


def test_the_citation_has_the_version_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text().splitlines()


def test_each_command_is_a_module_and_in_the_help(capsys, monkeypatch):
    for name, module in console.COMMANDS.items():
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name
    monkeypatch.setattr(sys, "argv", ["lm-jax"])
    console.main()
    printed = capsys.readouterr().out
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("  lm-jax ")] == list(
        console.COMMANDS
    )


def test_an_unknown_command_is_a_one_line_error(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lm-jax", "trian"])
    with pytest.raises(SystemExit) as ended:
        console.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: no command 'trian'; did you mean train?\n"


def test_help_names_the_commands_as_they_were_typed(capsys, monkeypatch):
    line = "python train.py --config=configs/gpt.py, eval.py or python -m lm_jax.generate --prompt=x"
    assert runtime.as_called(line) == line
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python", "/usr/bin/lm-jax", "generate", "--help"])
    assert runtime.as_called(line) == "lm-jax train --config=gpt, lm-jax eval or lm-jax generate --prompt=x"
    with pytest.raises(SystemExit):
        generate(["--help"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: lm-jax generate ")
    assert "python -m" not in printed


@pytest.mark.slow
def test_an_installed_package_trains_in_an_empty_directory(tmp_path):
    """As a wheel lays the files out: lm_jax/configs, and no repository."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lm_jax", tmp_path / "site" / "lm_jax", ignore=ignore)
    shutil.copytree(ROOT / "configs", tmp_path / "site" / "lm_jax" / "configs", ignore=ignore)
    (tmp_path / "empty").mkdir()
    text = tiny.write_text(tmp_path / "text.txt")
    command = [sys.executable, "-m", "lm_jax", "train", "--config=ngram:word"]
    fields = [f"--config.data.corpus=text:{text}", "--config.data.documents=line"]
    done = subprocess.run(
        [*command, *fields], cwd=tmp_path / "empty", env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "empty" / "runs" / "ngram-word" / "results.json").read_text())
    assert [row["split"] for row in rows] == ["valid", "test"]
