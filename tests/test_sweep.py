"""Sweeps resume, report failures, and compute means and intervals over seeds."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import scipy.stats
import tiny

from lm_jax import config as config_module
from lm_jax import experiment, sweep
from lm_jax.config import CountConfig
from lm_jax.errors import UserError
from lm_jax.metrics.significance import mean_interval
from lm_jax.ngram.smoothing import NGramConfig


@pytest.fixture
def recipe(tmp_path):
    config = tiny.config(tiny.write_text(tmp_path / "text.txt"), sample_tokens=0)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, average="ema"))


def with_train(config, **values):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **values))


@pytest.mark.slow
def test_a_sweep_compares_settings_reports_failures_and_reuses_runs(recipe, tmp_path, monkeypatch, capsys):
    grid = {"model.d_model": ["16", "24", "15"]}
    cells = sweep.run(recipe, grid, 2, tmp_path / "sweep")
    assert [sorted(cell.rows) for cell in cells] == [[0, 1], [0, 1], []]
    assert "does not divide" in cells[2].error

    with (tmp_path / "sweep" / "sweep.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 2 * 2 + 1
    assert lines[-1]["error"] == cells[2].error
    results = json.loads((tmp_path / "sweep" / "model.d_model=24" / "seed-1" / "results.json").read_text())
    [line] = [x for x in lines if (x["model.d_model"], x["seed"], x["split"]) == ("24", "1", "test")]
    assert float(line["bits_per_byte"]) == next(r["bits_per_byte"] for r in results if r["split"] == "test")
    assert (tmp_path / "sweep" / "curves.png").stat().st_size > 1000

    sweep.print_cells(cells)
    shown = capsys.readouterr().out
    scores = [cell.scores("test", "bits_per_byte") for cell in cells[:2]]
    differences = [scores[1][seed] - scores[0][seed] for seed in (0, 1)]
    assert f"{np.mean(differences):+.4f} ± {mean_interval(np.array(differences)).half_width:.4f}" in shown
    assert "model.d_model=15" in shown

    monkeypatch.setattr(experiment, "_train", None)  # nothing is left to be trained
    again = sweep.run(recipe, {"model.d_model": ["16", "24"]}, 2, tmp_path / "sweep")
    assert [cell.scores("test", "bits_per_byte") for cell in again] == scores


def test_ngrams_are_swept_without_seeds(recipe, tmp_path):
    config = CountConfig(data=recipe.data, model=NGramConfig(smoothing="witten_bell"))
    cells = sweep.run(config, {"model.order": ["2", "3"]}, 3, tmp_path / "sweep")
    assert [cell.error for cell in cells] == ["", ""]
    assert [list(cell.rows) for cell in cells] == [[0], [0]]
    assert cells[0].scores("test", "perplexity") != cells[1].scores("test", "perplexity")


def test_the_command_prints_a_line_for_each_setting(recipe, tmp_path, capsys):
    config = CountConfig(data=recipe.data, model=NGramConfig(smoothing="witten_bell"))
    path = tmp_path / "ngrams.py"
    path.write_text(
        "from lm_jax import config\n\n\ndef get_config(variant=''):\n"
        f"    return config.from_json({config_module.to_json(config)!r})\n"
    )
    sweep.main([f"--config={path}", "--grid", "model.order=2,3", f"--workdir={tmp_path / 'sweep'}"])
    shown = capsys.readouterr().out
    assert "order=2" in shown
    assert "order=3" in shown
    assert f"everything is in {tmp_path / 'sweep'}: sweep.csv" in shown
    with (tmp_path / "sweep" / "sweep.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert {(line["model.order"], line["split"]) for line in lines} == {
        (order, split) for order in "23" for split in ("valid", "test")
    }


def test_mistakes_are_named_before_anything_is_trained(recipe, tmp_path):
    with pytest.raises(UserError, match=r"no field model\.d_modle; did you mean model\.d_model"):
        sweep.run(recipe, {"model.d_modle": ["16"]}, 1, tmp_path / "sweep")
    with pytest.raises(UserError, match="names no values"):
        sweep.main(["--grid", "model.d_model"])
    with pytest.raises(UserError, match="--seeds=0"):
        sweep.main(["--seeds=0"])
    assert not (tmp_path / "sweep").exists()


def test_intervals_of_a_mean_are_students():
    values = np.random.default_rng(0).normal(size=5)
    mean = mean_interval(values)
    low, high = scipy.stats.t.interval(0.95, 4, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose((mean.value - mean.half_width, mean.value + mean.half_width), (low, high))
    assert mean_interval(values[:1]) == (values[0], 0)
    with pytest.raises(UserError, match="at least one"):
        mean_interval(values[:0])
