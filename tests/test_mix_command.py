"""Mixtures in eval.py: rows beside those of models, weights of the validation part, and files that open."""

import json
import pathlib

import numpy as np
import pytest
import tiny
from test_bad_input import assert_refused
from test_ngram_language_model import recipe

import eval as command
import lm_jax
from lm_jax import experiment
from lm_jax.commands import evaluate_flags
from lm_jax.evaluation import mixes, texts


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """n-grams of one text over bytes, order 3 and 1, and over byte pairs."""
    directory = tmp_path_factory.mktemp("runs")
    text = tiny.write_text(directory / "text.txt", num_lines=200)
    kinds = {"three": ("byte", 3), "one": ("byte", 1), "bpe": ("bpe", 2)}
    for name, (tokenizer, order) in kinds.items():
        config = recipe(text, tokenizer, order=order)
        experiment.run(config, directory / name)
    return directory


def run(runs, out, *arguments, capsys=None):
    command.main([f"--model=3={runs / 'three'}", f"--model=1={runs / 'one'}", f"--out={out}", *arguments])
    return json.loads((out / "results.json").read_text())


def test_a_mixture_is_a_row_and_a_file(runs, tmp_path, capsys):
    rows = run(
        runs, tmp_path, "--mix=both=3,1", "--mix=fixed=3,1,cache", "--mix-weights=fixed=0.5,0.2,0.3",
        "--mix-by-context=all=3,cache:2", f"--mix=words=3,{runs / 'bpe'}",
    )  # fmt: skip
    assert [row["model"] for row in rows] == ["3", "1", "both", "fixed", "words", "all"]
    assert [row["family"] for row in rows[2:]] == ["mixture"] * 4
    assert len({row["text_sha256"] for row in rows}) == 1
    assert all(row["difference"]["to"] == "3" for row in rows[1:])
    assert rows[2]["parameters"] == rows[0]["parameters"] + rows[1]["parameters"]
    shown = capsys.readouterr().out
    assert "weights 0.5000 3, 0.2000 1, 0.3000 cache (given)" in " ".join(shown.split())
    assert f"EM on the validation part of {runs / 'three'}" in " ".join(shown.split())
    assert rows[4]["context"]["mixed"].startswith("by word")
    assert rows[5]["context"]["weights_by"] == ["ngram", "cache"]
    documents = [d.text for d in texts.read_held_out(runs / "three", "test").documents]
    for number, row in enumerate(rows[2:]):
        opened = lm_jax.load(tmp_path / f"mixture-{number}.json")
        nats = -sum(one.log_probs.sum() for one in opened.score(documents))
        assert nats == pytest.approx(row["nats"], rel=1e-9)
        assert row["bits_per_byte"] == pytest.approx(nats / np.log(2) / row["bytes"])
    path = tmp_path / "mixture-1.json"
    changed = path.read_text().replace('"decay": 0.995', '"decay": 0.5')
    path.write_text(changed)
    cache = lm_jax.load(path).components[2]
    assert (cache.order, cache.decay, cache.concentration) == (1, 0.5, 0.3)


def test_weights_are_those_of_the_validation_part(runs, tmp_path):
    [mix] = mixes.parse(evaluate_flags._parser().parse_args(["--model=3", "--mix=3,1"]), [
        ("3", str(runs / "three")), ("1", str(runs / "one")),
    ])  # fmt: skip
    mixed = mixes.fit(mixes.open_mix(mix, lm_jax.load, {}), lambda *_: None)
    valid = [d.text for d in texts.read_held_out(runs / "three", "valid").documents]
    probs = [
        np.exp(np.concatenate([one.log_probs for one in lm_jax.load(runs / name).score(valid)]))
        for name in ("three", "one")
    ]
    shares = np.linspace(0, 1, 1001)
    best = shares[np.argmax([np.log(w * probs[0] + (1 - w) * probs[1]).mean() for w in shares])]
    assert mixed.model.weights.all_K[0] == pytest.approx(best, abs=2e-3)


def test_a_mixture_that_is_scored_on_its_validation_part_says_so(runs, tmp_path):
    held_out = runs / "three" / "valid.jsonl"
    rows = run(runs, tmp_path, "--mix=3,1", f"--text=jsonl:{held_out}")
    assert any("fitted on this text" in note for note in rows[2]["notes"])
    rows = run(runs, tmp_path, "--mix=3,1", "--mix-weights=0.5,0.5", f"--text=jsonl:{held_out}")
    assert not any("fitted on" in note for note in rows[2]["notes"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mix=3,,1"], "an empty part in the mixture '3,,1'"),
        (["--mix=3,cache:x"], "'cache:x' in a mixture"),
        (["--mix=3,cache:99"], "a cache of order 99"),
        (["--mix=cache"], "a mixture of caches alone"),
        (["--mix=3,nowhere"], "there is no directory nowhere"),
        (["--mix=3,1+cache"], "neural cache of 1, a model of the family ngram"),
        (["--mix=3,1+dynamic"], "dynamic evaluation of 1, a model of the family ngram"),
        (["--mix=3=3,1"], "two models are named 3"),
        (["--mix=a=3,1", "--mix-by-context=a=3,1"], "two models are named a"),
        (["--mix-weights=1"], "--mix-weights=1 of no --mix"),
        (["--mix=3,1", "--mix-weights=0.5"], "--mix-weights=0.5 for 2 components"),
        (["--mix=3,1", "--mix-weights=0.5,0.6"], "--mix-weights=0.5,0.6 for 2 components"),
        (["--mix=3,1", "--mix-weights=a,b"], "--mix-weights=a,b for 2 components"),
        (["--mix=a.arpa,3"], "a.arpa"),
    ],
)  # fmt: skip
def test_a_wrong_mixture_is_one_line(runs, tmp_path, capsys, flags, message):
    assert_refused(capsys, message, run, runs, tmp_path, *flags)
    assert not (tmp_path / "results.json").exists()


def test_weights_need_a_validation_part(runs, tmp_path, capsys):
    path = tmp_path / "model.arpa"
    path.write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-0.5\t</s>\n-99\t<s>\n-0.5\ta\n\n\\end\\\n")
    assert_refused(capsys, "the first model has no validation part", run, runs, tmp_path, f"--mix={path},3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no mixture"),
        ({"weights": [0.5]}, "needed"),
        ({"weights": ["a", "b"]}, "weights that are no numbers"),
        ({"how": 3}, "how"),
        ({"components": []}, "a mixture of caches alone"),
    ],
)
def test_a_damaged_file_is_one_line(runs, tmp_path, capsys, change, message):
    run(runs, tmp_path, "--mix=3,1", "--mix-weights=0.5,0.5")
    path = pathlib.Path(tmp_path / "mixture-0.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert_refused(capsys, message, lm_jax.load, path)
