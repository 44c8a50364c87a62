"""Loggers receive what metrics.jsonl holds; the examples talk to stand-ins of their libraries."""

import dataclasses
import pathlib
import sys
import types

import pytest
import tiny
from interrupt import stopped_after

from lm_jax import experiment, user_code
from lm_jax.errors import UserError
from lm_jax.loggers import LOGGERS, LoggedRun
from lm_jax.progress import MetricWriter, open_loggers, read_metrics

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "loggers.py"


class Kept:
    """A logger that keeps what it receives."""

    opened: list["Kept"] = []  # noqa: RUF012

    def __init__(self, run):
        self.run, self.lines, self.closed = run, [], 0
        self.opened.append(self)

    def log(self, step, values):
        self.lines.append({"step": step, **values})

    def close(self):
        self.closed += 1


LOGGERS.register("kept")(Kept)


@pytest.fixture
def kept():
    Kept.opened.clear()
    return Kept.opened


def test_a_logger_receives_the_lines_of_metrics_jsonl_also_after_a_stop(tmp_path, kept):
    config = tiny.config(tiny.write_text(tmp_path / "text.txt"), loggers=("kept",))
    with stopped_after(5):
        assert experiment.run(config, tmp_path / "run") == []
    experiment.run(config, tmp_path / "run")
    first, second = kept
    assert [one.run.step for one in kept] == [0, 5]
    assert first.run.id == second.run.id
    assert first.run.config["optimizer.learning_rate"] == config.optimizer.learning_rate
    assert [one.closed for one in kept] == [1, 1]
    lines = [*(line for line in first.lines if line["step"] <= 5), *second.lines]
    assert lines == read_metrics(tmp_path / "run" / "metrics.jsonl")
    without = dataclasses.replace(config, train=dataclasses.replace(config.train, loggers=()))
    assert experiment.run(without, tmp_path / "run"), "a resumed run may have other loggers"


def test_an_unknown_logger_is_refused_before_the_text_is_read(tmp_path):
    config = tiny.config(tmp_path / "nowhere.txt", loggers=("wnadb",))
    with pytest.raises(UserError, match=r"unknown logger 'wnadb'; known are tensorboard.*; if a file"):
        experiment.run(config, tmp_path / "run")


def test_a_logger_that_fails_is_named_and_the_others_are_closed(tmp_path, kept):
    class Broken(Kept):
        def log(self, step, values):
            raise ConnectionError("no network")

        def close(self):
            raise ConnectionError("no network")

    run = LoggedRun(tmp_path, {}, 0)
    writer = MetricWriter(tmp_path / "metrics.jsonl", 0, {"kept": Kept(run), "broken": Broken(run)})
    with pytest.raises(UserError, match="the logger broken fails at step 1: ConnectionError: no network"):
        writer.write(1, loss=2.0)
    with pytest.raises(UserError, match="the logger broken cannot be closed: ConnectionError"):
        writer.close()
    assert kept[0].lines == [{"step": 1, "loss": 2.0}]
    assert kept[0].closed == 1
    writer = MetricWriter(tmp_path / "metrics.jsonl", 1)
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.0}], "written before"


class FakeTracking:
    """What examples/loggers.py uses of wandb and of mlflow.tracking.MlflowClient."""

    def __init__(self):
        self.said = []
        self.experiments, self.runs = {}, {}

    def __getattr__(self, name):
        def call(*positional, **named):
            self.said.append((name, positional, named))
            return self

        return call

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name):
        self.experiments[name] = types.SimpleNamespace(experiment_id=7)
        return 7

    def search_runs(self, experiments, query):
        return [self.runs[query]] if query in self.runs else []

    def create_run(self, experiment, tags):
        [tag] = tags.values()
        made = types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))
        self.runs[f"tags.lm_jax_run = '{tag}'"] = made
        return made


def log_twice(name, run):
    """Opens a logger, logs a step, and does so again as a resumed run."""
    user_code.import_file(EXAMPLE)
    for step in (0, 4):
        [logger] = open_loggers([name], run._replace(step=step)).values()
        logger.log(step + 1, {"loss": 2.0})
        logger.close()


def test_the_example_for_weights_and_biases(tmp_path, monkeypatch):
    fake = FakeTracking()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run = LoggedRun(tmp_path / "gpt", {"train.seed": 0}, 0)
    log_twice("wandb", run)
    assert [name for name, _, _ in fake.said] == ["init", "log", "finish"] * 2
    start = fake.said[0][2]
    assert start == fake.said[3][2], "a resumed run has the same id"
    assert (start["id"], start["resume"], start["config"]) == (run.id, "allow", {"train.seed": 0})
    assert fake.said[1] == ("log", ({"loss": 2.0},), {"step": 1})


def test_the_example_for_mlflow(tmp_path, monkeypatch):
    fake = FakeTracking()
    tracking = types.ModuleType("mlflow.tracking")
    tracking.MlflowClient = lambda: fake
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", tracking)
    log_twice("mlflow", LoggedRun(tmp_path / "gpt", {"train.seed": 0}, 0))
    assert len(fake.runs) == 1
    assert fake.said == [
        ("log_param", ("r1", "train.seed", 0), {}),
        ("log_metric", ("r1", "loss", 2.0), {"step": 1}),
        ("set_terminated", ("r1",), {}),
        ("log_metric", ("r1", "loss", 2.0), {"step": 5}),
        ("set_terminated", ("r1",), {}),
    ]
