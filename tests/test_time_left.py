"""The estimate of the time that a run takes, against a clock that the test moves."""

import pathlib
import types

import pytest
import tiny

from lm_jax.training import loop


@pytest.mark.parametrize(
    ("num_steps", "log_every", "step_seconds", "said"),
    [
        (700, 10, 0.25, "about 2:50 of training left: 680 steps of 0.25 s; validations take more"),
        (700, 1, 0.25, "about 2:52 of training left: 689 steps of 0.25 s; validations take more"),
        (20000, 10, 2.0, "about 11:06:00 of training left: 19,980 steps of 2 s; validations take more"),
        (60, 10, 0.25, None),  # not worth a line
        (9, 1, 60.0, None),  # over before it is measured
    ],
)
def test_compilation_is_left_out(num_steps, log_every, step_seconds, said, monkeypatch, tmp_path):
    now, lines = [100.0], []
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(loop, "_open_writer", lambda *_: None)
    config = tiny.config(pathlib.Path("text.txt"), num_steps=num_steps, log_every=log_every)
    line = types.SimpleNamespace(say=lines.append, update=lambda *_: None)
    monitor = loop.Monitor(config, None, tmp_path, 0, line)
    now[0] += 500  # compiles
    for step in range(1, num_steps + 1):
        now[0] += step_seconds
        monitor.log(step, {"loss": 1.0}, 0.0)
        monitor.settle()
    assert lines == ([] if said is None else [said])
