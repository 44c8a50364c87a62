"""Run directories: whole, resumed bit for bit, and safe from a second run."""

import fcntl
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest
import tiny
from interrupt import stopped_after

import lm_jax
from lm_jax import config as config_module
from lm_jax import experiment, fields
from lm_jax.config import CountConfig
from lm_jax.errors import UserError
from lm_jax.evaluation.row import read_rows
from lm_jax.evaluation.texts import read_held_out
from lm_jax.ngram.smoothing import NGramConfig

ROOT = pathlib.Path(__file__).parents[1]


def results(workdir):
    rows = json.loads((workdir / "results.json").read_text())
    return [{k: v for k, v in row.items() if k != "model"} for row in rows]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k and "wait" not in k} for line in lines]


def test_a_run_writes_and_prints_its_results(tiny_run):
    _, workdir, rows = tiny_run
    assert [row.split for row in rows] == ["valid", "test"]
    for row in rows:
        documents = read_held_out(workdir, row.split).documents
        assert row.counts["bytes"] == sum(len(d.text.encode()) for d in documents)
        assert row.documents == len(documents)
        tokens = row.counts["bytes"] + row.documents
        assert row.counts["tokens"] == tokens, "a byte model scores each byte and each end"
        value, (low, high), *_ = row.metrics["bits_per_byte"]
        assert low < value < high
        assert row.data["sha256"]
    assert rows == read_rows(workdir / "results.json")


def test_a_finished_run_is_not_trained_again(tiny_run):
    config, workdir, rows = tiny_run
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    assert experiment.run(config, workdir) == rows
    assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}


def test_another_config_is_refused(tiny_run):
    config, workdir, _ = tiny_run
    other = fields.override(config, {"model.num_layers": "2"})
    with pytest.raises(UserError, match=r"model.num_layers \(1 there, 2 here\).*--workdir"):
        experiment.run(other, workdir)


def test_an_interrupted_run_gives_the_numbers_of_an_uninterrupted_one(tiny_run, tmp_path):
    config, workdir, _ = tiny_run
    with stopped_after(7):  # between two checkpoints
        assert experiment.run(config, tmp_path / "again") == []
    assert not (tmp_path / "again" / "results.json").exists()
    experiment.run(config, tmp_path / "again")
    assert results(tmp_path / "again") == results(workdir)
    assert losses(tmp_path / "again") == losses(workdir)


@pytest.mark.slow
def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    config = tiny.config(tiny.write_text(tmp_path / "text.txt"), num_steps=4)
    config = fields.override(config, {"optimizer.schedule": "constant"})
    experiment.run(config, tmp_path / "run")
    longer = fields.override(config, {"train.num_steps": "8", "train.eval_every": "2", "mesh.data": "2"})
    experiment.run(longer, tmp_path / "run")
    assert [line["step"] for line in losses(tmp_path / "run") if "loss" in line] == list(range(1, 9))


def test_a_changed_text_is_refused(tmp_path):
    text = tiny.write_text(tmp_path / "text.txt")
    with stopped_after(2):
        assert experiment.run(tiny.config(text), tmp_path / "run") == []
    tiny.write_text(text, seed=1)
    with pytest.raises(UserError, match=r"no longer what .* was trained on"):
        experiment.run(tiny.config(text), tmp_path / "run")


def test_training_starts_from_another_runs_parameters(tiny_run, tmp_path):
    config, workdir, _ = tiny_run
    tuned = fields.override(config, {"init_from": str(workdir), "train.num_steps": "4"})
    experiment.run(tuned, tmp_path / "tuned")
    first = next(line["valid_loss"] for line in losses(tmp_path / "tuned") if "valid_loss" in line)
    untuned = next(line["valid_loss"] for line in losses(workdir) if "valid_loss" in line)
    assert first < untuned
    with pytest.raises(UserError, match=r"another shape: model.d_model \(16 there, 8 here\)"):
        experiment.run(fields.override(tuned, {"model.d_model": "8"}), tmp_path / "other")


def start(config, workdir, recipe):
    """`python train.py` on a recipe file, in a process of its own."""
    recipe.write_text(
        "from lm_jax import config\n\n\ndef get_config(variant=''):\n"
        f"    return config.from_json({config_module.to_json(config)!r})\n"
    )
    command = [sys.executable, str(ROOT / "train.py"), f"--config={recipe}", f"--workdir={workdir}"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_step(workdir, step, process):
    """Until metrics.jsonl has the step, or the process has ended."""
    path = workdir / "metrics.jsonl"
    while process.poll() is None:
        if path.exists() and len(path.read_text().splitlines()) >= step:
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_at_random_moments_and_run_again_the_numbers_are_the_same(tmp_path):
    config = tiny.config(
        tiny.write_text(tmp_path / "text.txt"), num_steps=60, eval_every=20, checkpoint_every=7
    )
    process = start(config, tmp_path / "whole", tmp_path / "recipe.py")
    assert process.wait() == 0, process.stdout.read()
    seed = random.randrange(1 << 30)
    print("seed", seed)
    draw, kills = random.Random(seed), 0
    for _ in range(3):
        process = start(config, tmp_path / "killed", tmp_path / "recipe.py")
        wait_for_step(tmp_path / "killed", draw.randrange(10, 55), process)
        time.sleep(draw.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    process = start(config, tmp_path / "killed", tmp_path / "recipe.py")
    assert process.wait() == 0, process.stdout.read()
    assert kills, "every process ended before its kill"
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_a_run_begins_with_a_line_that_says_what_it_is(tmp_path, capsys):
    config = tiny.config(tiny.write_text(tmp_path / "text.txt"), num_steps=1, sample_tokens=0)
    [valid, _] = experiment.run(config, tmp_path / "run")
    device = jax.devices()[0]
    train = valid.data["splits"]["train"]
    [line] = [one for one in capsys.readouterr().err.splitlines() if "writes to" in one]
    assert line == (
        f"1 x {device.device_kind} (cpu); {valid.parameters:,} parameters; training text: "
        f"{train['num_documents']:,} documents, {train['num_tokens']:,} tokens; writes to {tmp_path / 'run'}"
    )
    experiment.run(config, tmp_path / "run")
    assert capsys.readouterr().err == "", "nothing is trained"
    ngram = CountConfig(data=config.data, model=NGramConfig(order=2, smoothing="witten_bell"))
    experiment.run(ngram, tmp_path / "ngram")
    assert f"tokens; writes to {tmp_path / 'ngram'}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits_cleanly(tmp_path, number, code):
    config = tiny.config(
        tiny.write_text(tmp_path / "text.txt"), num_steps=100_000, eval_every=50_000, checkpoint_every=50_000
    )
    process = start(config, tmp_path / "run", tmp_path / "recipe.py")
    wait_for_step(tmp_path / "run", 5, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert "run the same command again to resume" in output
    [saved] = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert f"stopped at step {saved}" in output


def test_a_moved_run_directory_gives_the_same_scores(tiny_run, tmp_path):
    _, workdir, rows = tiny_run
    moved = shutil.copytree(workdir, tmp_path / "elsewhere")
    model = lm_jax.load(moved)
    texts = [d.text for d in read_held_out(moved, "test").documents]
    nats = -sum(float(s.log_probs.sum()) for s in model.score(texts))
    assert nats == pytest.approx(rows[1].sums["nats"], rel=1e-9)


def test_two_processes_do_not_train_in_one_directory(tiny_run, tmp_path):
    config, *_ = tiny_run
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process trains"):
            experiment.run(config, tmp_path)
