"""Run directories of format 1 open, score as before and print their results (see golden/make_runs_v1.py)."""

import json
import pathlib
import zipfile

import numpy as np
import pytest

import lm_jax
from lm_jax import config as config_module
from lm_jax import experiment
from lm_jax.errors import UserError

GOLDEN = pathlib.Path(__file__).parent / "golden"
EXPECTED = json.loads((GOLDEN / "runs_v1.json").read_text(encoding="utf-8"))
RUNS = list(EXPECTED["runs"])


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The runs, unpacked."""
    path = tmp_path_factory.mktemp("format_1")
    with zipfile.ZipFile(GOLDEN / "runs_v1.zip") as archive:
        archive.extractall(path)
    return path


@pytest.mark.parametrize("name", RUNS)
def test_scores_are_those_of_the_version_that_trained_them(directory, name):
    run = EXPECTED["runs"][name]
    # That version gave rows that only pad the vocabulary a share of the probability.
    log_probs = run.get("masked_log_probs", run["log_probs"])
    for scores, expected in zip(
        lm_jax.load(directory / name).score(EXPECTED["texts"]), log_probs, strict=True
    ):
        np.testing.assert_allclose(scores.log_probs, expected, atol=2e-6)


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_prints_its_results_and_is_not_trained_again(directory, name, monkeypatch):
    monkeypatch.chdir(directory)
    rows = experiment.run(config_module.read(directory / name), directory / name)
    assert [row.as_json()["nats"] for row in rows] == [r["nats"] for r in EXPECTED["runs"][name]["results"]]


def test_an_unfinished_run_is_refused_with_the_remedy(directory, monkeypatch):
    monkeypatch.chdir(directory)
    (directory / "gpt" / "results.json").rename(directory / "gpt" / "results.json.bak")
    with pytest.raises(UserError, match=r"cannot be resumed; train from its parameters: --config.init_from="):
        experiment.run(config_module.read(directory / "gpt"), directory / "gpt")
    (directory / "gpt" / "results.json.bak").rename(directory / "gpt" / "results.json")
