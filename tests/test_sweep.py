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
from lm_jax.metrics.significance import mean_interval, mean_p_value
from lm_jax.ngram.smoothing import NGramConfig


@pytest.fixture
def recipe(tmp_path):
    config = tiny.config(tiny.write_text(tmp_path / "text.txt"), sample_tokens=0)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, average="ema"))


def with_train(config, **values):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **values))


@pytest.mark.slow
def test_a_sweep_compares_settings_reports_failures_and_reuses_runs(recipe, tmp_path, monkeypatch, capsys):
    grid = {"model.d_model": ["16", "24", "8"]}
    run = experiment.run

    def fail_once(config, workdir):
        if config.model.d_model == 8 and config.seed == 1:
            raise UserError("the loss at step 3 is nan")
        return run(config, workdir)

    monkeypatch.setattr(experiment, "run", fail_once)
    cells = sweep.run(recipe, grid, 2, tmp_path / "sweep")
    assert [sorted(cell.rows) for cell in cells] == [[0, 1], [0, 1], [0]]
    assert "nan" in cells[2].error

    with (tmp_path / "sweep" / "sweep.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 2 * 2 + 2 + 1
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
    p_value = scipy.stats.ttest_rel(*([score[seed] for seed in (0, 1)] for score in scores)).pvalue
    assert "p (Holm)" in shown
    assert f" {p_value:.4f}" in shown  # the other setting failed with one seed: nothing to correct
    assert "model.d_model=8: the loss" in shown

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
    heading, *lines = (line.split() for line in shown.splitlines()[:3])
    assert heading[:2] == ["order", "seeds"]
    assert [line[line[0] == "*"] for line in lines] == ["2", "3"]
    assert sum(line[0] == "*" for line in lines) == 1
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


def counted(recipe, **model):
    return CountConfig(data=recipe.data, model=NGramConfig(smoothing="witten_bell", **model))


def test_another_base_setting_is_refused_before_anything_is_trained_or_written(recipe, tmp_path):
    there, grid = tmp_path / "sweep", {"model.order": ["2", "3"]}
    sweep.run(counted(recipe), grid, 1, there)
    before = (there / "sweep.csv").read_bytes()
    grid = {"model.order": ["4", "2"]}  # the first one is new
    with pytest.raises(UserError, match=r"setting model\.order=2: .* holds a run of another config"):
        sweep.run(counted(recipe), grid, 1, there, {"data.min_count": "3"})
    assert (there / "sweep.csv").read_bytes() == before
    assert not (there / "model.order=4").exists()


def test_every_value_of_the_grid_is_checked_first(recipe, tmp_path):
    with pytest.raises(UserError, match=r"setting model\.order=0: order 0 is out of range"):
        sweep.run(counted(recipe), {"model.order": ["2", "0"]}, 1, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_errors_and_other_grids_leave_the_rows_of_a_table(recipe, tmp_path, monkeypatch):
    there = tmp_path / "sweep"

    def rows():
        with (there / "sweep.csv").open(encoding="utf-8") as file:
            return {
                (r["model.order"], r["split"]): (r["perplexity"], r["error"]) for r in csv.DictReader(file)
            }

    sweep.run(counted(recipe), {"model.order": ["2", "3"]}, 1, there)
    before = rows()
    sweep.run(counted(recipe), {"model.order": ["4"]}, 1, there)
    assert {key: value for key, value in rows().items() if key[0] != "4"} == before
    assert ("4", "test") in rows()

    def fail(config, workdir):
        raise UserError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(experiment, "run", fail)
        [cell] = sweep.run(counted(recipe), {"model.order": ["3"]}, 1, there)
    assert (cell.rows, cell.error) == ({}, "no memory")
    assert rows().items() >= before.items()
    assert rows()["3", ""] == ("", "no memory")
    sweep.run(counted(recipe), {"model.order": ["3"]}, 1, there)
    assert ("3", "") not in rows(), "the error is gone where the setting has results"

    (there / "sweep.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not the table of a sweep"):
        sweep.run(counted(recipe), {"model.order": ["3"]}, 1, there)


def test_a_failed_setting_gives_exit_code_1(recipe, tmp_path, monkeypatch, capsys):
    failed = sweep.Cell({"model.order": "3"}, error="no memory")
    monkeypatch.setattr(sweep, "run", lambda *_: [failed])
    with pytest.raises(SystemExit) as ended:
        sweep.main(["--config=configs/ngram.py", "--grid=model.order=3", f"--workdir={tmp_path}"])
    assert ended.value.code == 1
    assert "1 of 1 settings failed" in capsys.readouterr().err


def test_intervals_of_a_mean_are_students():
    values = np.random.default_rng(0).normal(size=5)
    mean = mean_interval(values)
    low, high = scipy.stats.t.interval(0.95, 4, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose((mean.value - mean.half_width, mean.value + mean.half_width), (low, high))
    assert mean_interval(values[:1]) == (values[0], 0)
    assert mean_p_value(values) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue)
    assert np.isnan(mean_p_value(values[:1]))
    assert (mean_p_value(np.ones(3)), mean_p_value(np.zeros(3))) == (0, 1)
    with pytest.raises(UserError, match="at least one"):
        mean_interval(values[:0])
