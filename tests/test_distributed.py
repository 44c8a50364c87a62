"""Two processes on this machine train what one does, and stop together."""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from test_experiment import losses, results, wait_for_step

from lm_jax import config as config_module
from lm_jax.batch import Batch
from lm_jax.errors import UserError
from lm_jax.parallel import distributed
from lm_jax.parallel.sharding import MeshConfig, by_rows, make_mesh

ROOT = pathlib.Path(__file__).parents[1]


def start(config, workdir, recipe, processes, devices=2):
    """`python train.py` on a recipe file, in so many processes with so many devices each."""
    recipe.write_text(
        "from lm_jax import config\n\n\ndef get_config(variant=''):\n"
        f"    return config.from_json({config_module.to_json(config)!r})\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "train.py"), f"--config={recipe}", f"--workdir={workdir}"]
    joined = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"] if processes > 1 else []
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            command + joined + ([f"--process_id={i}"] if joined else []),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(processes)
    ]


def finish(running):
    outputs = [process.communicate(timeout=400)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "\n\n".join(outputs)
    return outputs


@pytest.fixture
def recipe(tmp_path):
    config = tiny.config(
        tiny.write_text(tmp_path / "text.txt"), num_steps=6, eval_every=3, checkpoint_every=2
    )
    # A constant rate: a run of another length may go on from this one.
    optimizer = dataclasses.replace(config.optimizer, schedule="constant")
    return dataclasses.replace(config, optimizer=optimizer, mesh=MeshConfig(data=2, fsdp=2))


def numbers(workdir, name):
    return [line[name] for line in losses(workdir) if name in line]


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_coordinator_that_nobody_answers_for_is_one_line(host, monkeypatch):
    monkeypatch.setattr(distributed, "_PATIENCE", 0.1)
    monkeypatch.setattr("jax.distributed.initialize", lambda *_, **__: pytest.fail("not reached"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=f"nothing listens at --coordinator={host}:{port}"):
        distributed.initialize(f"{host}:{port}", 2, 1)


def test_a_coordinator_that_starts_later_is_joined(monkeypatch):
    joined = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *values, **_: joined.append(values))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        timer = threading.Timer(0.3, server.listen)
        timer.start()
        distributed.initialize(f"127.0.0.1:{port}", 2, 1)
        timer.join()
    assert joined == [(f"127.0.0.1:{port}", 2, 1)]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_and_one_of_them_writes(recipe, tmp_path):
    finish(start(recipe, tmp_path / "one", tmp_path / "recipe.py", 1, devices=4))
    talking, silent = finish(start(recipe, tmp_path / "two", tmp_path / "recipe.py", 2))
    assert "validation" in talking
    assert "validation" not in silent
    for name in ("loss", "valid_loss", "grad_norm"):
        one, two = (numbers(tmp_path / run, name) for run in ("one", "two"))
        print(f"\n{name:<11} one process {one}\n{'':<11} two         {two}")
        assert len(one) == len(two)
        np.testing.assert_allclose(two, one, rtol=1e-5)
    for one, two in zip(results(tmp_path / "one"), results(tmp_path / "two"), strict=True):
        assert two["nats"] == pytest.approx(one["nats"], rel=1e-4)
    assert len(json.loads((tmp_path / "two" / "results.json").read_text())) == 2


@pytest.mark.slow
def test_a_signal_to_any_process_stops_all_and_they_go_on_on_another_mesh(recipe, tmp_path):
    endless = {"num_steps": 100_000, "eval_every": 50_000, "checkpoint_every": 50_000}
    config = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **endless))
    running = start(config, tmp_path / "run", tmp_path / "recipe.py", 2)
    wait_for_step(tmp_path / "run", 5, running[0])
    running[1].send_signal(signal.SIGTERM)
    outputs = finish(running)
    [saved] = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert f"stopped at step {saved}" in outputs[0]
    steps = int(saved)
    longer = dataclasses.replace(config.train, num_steps=steps + 2, eval_every=steps + 1)
    config = dataclasses.replace(config, train=longer, mesh=MeshConfig(fsdp=4))
    finish(start(config, tmp_path / "run", tmp_path / "recipe.py", 2))
    assert numbers(tmp_path / "run", "loss")[-1] > 0
    assert [line["step"] for line in losses(tmp_path / "run") if "loss" in line] == list(range(1, steps + 3))

    # One process finds a damaged file: the other must not wait for it.
    checkpoint = max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name))
    names = sorted(json.loads((checkpoint / "seal.json").read_text())["files"])
    damaged = next(name for name in names[1::2] if name.startswith("params"))  # of the share of process 1
    (checkpoint / damaged).write_bytes(b"damaged")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=steps + 9))
    running = start(config, tmp_path / "run", tmp_path / "recipe.py", 2)
    outputs = [process.communicate(timeout=200)[0] for process in running]
    assert [process.returncode for process in running] == [2, 2], outputs
    assert f"process 1 stopped: checkpoint {checkpoint} is damaged: {damaged}" in outputs[0]
    assert f"error: checkpoint {checkpoint} is damaged: {damaged}" in outputs[1]


def test_a_process_reads_the_rows_of_its_devices():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows = distributed.Rows(by_rows(mesh), 8)
    assert (rows.index, rows.count) == (0, 1)
    batch = Batch(*(np.arange(24).reshape(8, 3) + i for i in range(3)))
    [inputs, *_] = [rows._assemble(field) for field in batch[:3]]
    np.testing.assert_array_equal(inputs, batch.inputs)
    assert inputs.sharding == NamedSharding(mesh, P(("data", "fsdp")))


def test_one_vote_stops_all_processes_a_step_later(monkeypatch):
    vote = distributed.StopVote(make_mesh(MeshConfig(data=8)))
    assert [vote.cast(wish) for wish in (False, True)] == [False, True]
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    assert [vote.cast(wish) for wish in (False, True, False, False)] == [False, False, True, False]


def test_failure_to_join_names_the_flags():
    with pytest.raises(UserError, match=r"cannot join the other processes .*--coordinator"):
        distributed.initialize("127.0.0.1:1")
