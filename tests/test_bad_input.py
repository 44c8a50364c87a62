"""Every mistake a user is likely to make ends in one line with its cause and its remedy, and exit code 2."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import tiny

import lm_jax
from lm_jax import errors, experiment, fields
from lm_jax.config import Config

ROOT = pathlib.Path(__file__).parents[1]


def assert_refused(capsys, message, function, *arguments):
    """Runs as a command does, and looks at what a user would see."""
    with pytest.raises(SystemExit) as stop, errors.reported():
        function(*arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.rstrip("\n").splitlines()
    assert message in lines[-1]
    assert lines[-1].startswith("error: ")
    assert ";" in lines[-1], "a cause and a remedy"
    assert "Traceback" not in "".join(lines)


def changed(config: Config, **values: str) -> Config:
    return fields.override(config, {k.replace("__", "."): v for k, v in values.items()})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file"),
        (b"", "holds no text"),
        (b"good\n" * 99 + b"\xff\xfe bad\n", "UTF-8"),
        (b"x", "data.split"),
    ],
)
def test_text_that_cannot_be_used(tmp_path, capsys, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert_refused(capsys, message, experiment.run, tiny.config(path), tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model__num_layer": "2"}, "did you mean model.num_layers?"),
        ({"model__num_layers": "two"}, "model.num_layers='two' is not a whole number"),
        ({"train__batch_size": "-1"}, "train.batch_size=-1"),
        ({"model__num_heads": "3"}, "model.num_heads=3"),
        ({"model__vocab_size": "100"}, "model.vocab_size=100, but the tokenizer has 257"),
        ({"mesh__data": "3", "train__batch_size": "8"}, "a batch of 8 rows does not divide among 3 devices"),
        ({"init_from": "nowhere"}, "nowhere"),
        ({"data__tokenizer": "bpee"}, "bpee"),
        ({"data__split": "some"}, "some"),
        ({"data__documents": "chapter"}, "chapter"),
    ],
)
def test_a_wrong_field(tmp_path, capsys, values, message):
    config = tiny.config(tiny.write_text(tmp_path / "text.txt"))
    assert_refused(capsys, message, lambda: experiment.run(changed(config, **values), tmp_path / "run"))


def test_a_mistake_leaves_the_work_directory_free(tmp_path, capsys):
    config = tiny.config(tiny.write_text(tmp_path / "text.txt"), num_steps=1, sample_tokens=0)
    for values in ({"data__corpus": "text:typo.txt"}, {"mesh__data": "99"}, {"model__num_heads": "3"}):
        assert_refused(capsys, "", lambda: experiment.run(changed(config, **values), tmp_path / "run"))  # noqa: B023
    assert experiment.run(config, tmp_path / "run")


def test_a_work_directory_of_another_run(tiny_run, capsys):
    config, workdir, _ = tiny_run
    assert_refused(
        capsys,
        "model.d_model (16 there, 32 here)",
        experiment.run,
        changed(config, model__d_model="32"),
        workdir,
    )


def test_a_work_directory_with_other_files(tmp_path, capsys):
    text = tiny.write_text(tmp_path / "text.txt")
    said = f"is not empty and holds no run; give --workdir={tmp_path}-2"
    assert_refused(capsys, said, experiment.run, tiny.config(text), tmp_path)


def test_a_second_recipe_is_offered_a_directory_that_is_free(tiny_run, tmp_path, capsys):
    config, workdir, _ = tiny_run
    there = shutil.copytree(workdir, tmp_path / "my run")
    (tmp_path / "my run-2").mkdir()
    said = f"give another directory, --workdir='{there}-3', or the same config to resume"
    assert_refused(capsys, said, experiment.run, changed(config, model__d_model="32"), there)


@pytest.mark.parametrize(("platform", "named"), [("cuda", ""), ("nonsense", "'nonsense' is not in the list")])
def test_a_missing_backend_is_one_line(tmp_path, platform, named):
    done = subprocess.run(
        [sys.executable, "train.py", "--config=configs/ngram.py", f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
    )
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: JAX_PLATFORMS={platform}: ")
    assert named in line
    assert line.endswith("; unset it, or install jax with that backend")
    assert done.returncode == 2
    assert not (tmp_path / "run").exists()


def test_a_work_directory_that_cannot_be_written(tmp_path, capsys):
    text = tiny.write_text(tmp_path / "text.txt")
    assert_refused(capsys, f"{text}", experiment.run, tiny.config(text), text / "run")


def test_a_corrupt_checkpoint(tiny_run, tmp_path, capsys):
    moved = shutil.copytree(tiny_run[1], tmp_path / "run")
    for path in (moved / "checkpoints").rglob("ocdbt.process_0/d/*"):
        path.write_bytes(path.read_bytes()[:-3])
    assert_refused(capsys, "is damaged", lm_jax.load, moved)


def test_a_tokenizer_of_another_model(tiny_run, tmp_path, capsys):
    moved = shutil.copytree(tiny_run[1], tmp_path / "run")
    path = moved / "data.json"
    facts = json.loads(path.read_text())
    facts["tokenizer"]["sha256"] = "0"
    path.write_text(json.dumps(facts))
    (moved / "seal.json").unlink()  # which would tell that the file is not what was written
    assert_refused(capsys, "is not the tokenizer", lm_jax.load, moved)


def test_a_prompt_longer_than_the_context(tiny_run, capsys):
    model = lm_jax.load(tiny_run[1])
    assert_refused(capsys, "longer than the context of 32", model.generate, ["much too long " * 10])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature=-1"),
        ({"top_p": 0}, "top_p=0"),
        ({"num_samples": 0}, "num_samples=0"),
    ],
)
def test_a_wrong_way_to_sample(tiny_run, capsys, options, message):
    model = lm_jax.load(tiny_run[1])
    assert_refused(capsys, message, lambda: model.generate(["a"], **options))


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "there is no directory"), (".", "is not a run directory")]
)
def test_a_path_without_a_model(tmp_path, capsys, name, message):
    assert_refused(capsys, message, lm_jax.load, tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["train.py", "--config=configs/gtp.py"],
            "no recipe configs/gtp.py; there are: configs/",
        ),
        (["train.py", "--config.model.num_layer=2"], "did you mean model.num_layers?"),
        (["train.py", "--wrkdir=x"], "unrecognized arguments: --wrkdir=x; did you mean --workdir?"),
        (["train.py", "--workdir=/dev/null/x"], "/dev/null/x: Not a directory"),
        (["eval.py"], "--model"),
        (["eval.py", "--model=runs/nowhere"], "there is no directory runs/nowhere"),
        (["-m", "lm_jax.generate", "--model=runs/nowhere"], "there is no directory runs/nowhere"),
        (["-m", "lm_jax.generate", "--model=x", "--seed=one"], "--seed: invalid int value: 'one'"),
    ],
)
def test_a_wrong_command_line(command, message):
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert message in line
