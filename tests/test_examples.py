"""The examples: models and tasks in files outside the package train, resume, are opened and write text."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from interrupt import stopped_after
from tiny_gpt import apply

from lm_jax import experiment, generate, user_code
from lm_jax.data import pipeline
from lm_jax.models.gpt import GPTConfig
from lm_jax.progress import read_metrics

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def small(example, tmp_path):
    """The example's model or task in a recipe that trains in a second."""
    recipe = user_code.import_file(EXAMPLES / f"{example}.py").get_config()
    config = tiny.config(tiny.write_text(tmp_path / "text.txt"))
    if example == "alibi":
        model = dataclasses.replace(recipe.model, num_layers=1, num_heads=2, d_model=16, dropout=0.1)
        return dataclasses.replace(config, model=model)
    return dataclasses.replace(config, task=recipe.task)


@pytest.mark.slow
@pytest.mark.parametrize("example", ["alibi", "noisy_inputs"])
def test_an_example_trains_resumes_and_opens_in_another_process(example, tmp_path, capsys):
    config = small(example, tmp_path)
    rows = experiment.run(config, tmp_path / "whole")
    with stopped_after(5):
        assert experiment.run(config, tmp_path / "stopped") == []
    assert [r.as_json()["nats"] for r in experiment.run(config, tmp_path / "stopped")] == [
        r.as_json()["nats"] for r in rows
    ]
    whole, stopped = (
        [line.get("loss") for line in read_metrics(tmp_path / run / "metrics.jsonl")]
        for run in ("whole", "stopped")
    )
    assert whole == stopped

    generate.main([f"--model={tmp_path / 'whole'}", "--prompt=the", "--max-tokens=4"])
    assert capsys.readouterr().out.startswith("the")

    # Another process finds the part only with --import.
    command = [sys.executable, "eval.py", f"--model={tmp_path / 'whole'}", f"--out={tmp_path / 'out'}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    unknown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "add --import=FILE.py" in unknown.stderr
    told = [*command, f"--import={EXAMPLES / example}.py"]
    done = subprocess.run(told, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{rows[1].metrics['bits_per_byte'].value:.4f}" in done.stdout


@pytest.mark.slow
def test_alibi_scores_alike_by_full_reading_and_from_a_cache(tmp_path):
    config = dataclasses.replace(small("alibi", tmp_path).model, vocab_size=17, max_length=12, num_layers=2)
    module = config.make()
    tokens = np.random.default_rng(0).integers(17, size=(2, 9)).astype(np.int32)
    params = jax.jit(module.init)(jax.random.key(0), tokens)
    whole = apply(module, params, tokens)[0]
    logits, state = apply(module, params, tokens[:, :4], np.full(2, 4), capacity=12, method="prefill")
    np.testing.assert_allclose(logits, whole[:, 3], atol=1e-5)
    for t in range(4, 9):
        logits, state = apply(module, params, state, tokens[:, t], method="step")
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-5)
    plain = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    assert np.abs(apply(GPTConfig(**plain).make(), params, tokens)[0] - whole).max() > 1e-3


def test_alibi_adds_its_slope_times_the_distance_to_the_scores():
    """Heads 1 and 2 of 2 have the slopes 2^-4 and 2^-8 (Press et al. 2022, section 3)."""
    alibi = user_code.import_file(EXAMPLES / "alibi.py")
    rng = np.random.default_rng(0)
    q_BTHK, k_BGSK, v_BGSK = (
        rng.normal(size=s).astype(np.float32) for s in [(1, 3, 2, 4), *[(1, 2, 3, 4)] * 2]
    )
    got = alibi.alibi_attention(q_BTHK, k_BGSK, v_BGSK, is_causal=True, position_BT=jnp.arange(3)[None])
    for head, slope in enumerate([2.0**-4, 2.0**-8]):
        for t in range(3):
            scores = k_BGSK[0, head, : t + 1] @ q_BTHK[0, t, head] / 2 - slope * (t - np.arange(t + 1))
            p = np.exp(scores) / np.exp(scores).sum()
            np.testing.assert_allclose(got[0, t, head], p @ v_BGSK[0, head, : t + 1], atol=1e-5)


def test_noise_is_a_function_of_the_step_and_the_row(tmp_path):
    config = small("noisy_inputs", tmp_path)
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, noise=0.3))
    split = pipeline.prepare(config.data).splits["train"]
    source = config.task.source(split, config.data, 8, 0)
    clean = pipeline.make_source(split, config.data, 8, 0)
    whole, halves = source.batch(3), [source.batch(3, i, 2) for i in range(2)]
    np.testing.assert_array_equal(whole.inputs, np.concatenate([half.inputs for half in halves]))
    np.testing.assert_array_equal(whole.targets, clean.batch(3).targets)
    share = np.mean(np.concatenate([source.batch(n).inputs != clean.batch(n).inputs for n in range(50)]))
    assert 0.2 < share < 0.3, "some of the tokens drawn are those that were there"
