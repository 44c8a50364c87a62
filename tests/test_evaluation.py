"""Rows of results: sums of the right things, and null with a reason where a number would mislead."""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny

import eval as eval_command
import lm_jax
from lm_jax import experiment, flags
from lm_jax.config import CountConfig
from lm_jax.data.documents import Document
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation import texts as texts_module
from lm_jax.evaluation.base import EVALUATORS, Evaluation, Statistics
from lm_jax.evaluation.compare import compare, difference
from lm_jax.evaluation.row import Difference, Metric, Row, read_rows, write_rows
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import Embeds, Fills, Generates, Labels, ScoredText, Scores, require
from lm_jax.metrics import likelihood, overlap, significance
from lm_jax.ngram.smoothing import NGramConfig

ROOT = pathlib.Path(__file__).parents[1]


class Uniform:
    """Every byte has probability 2^-bits; the byte "?" is unknown."""

    family, task, evaluator, documents, step = "uniform", "causal", "causal", "file", None

    def __init__(self, bits: float, complete: bool = True, noise: float = 0.0):
        self.bits, self.complete, self.noise = bits, complete, noise
        self.random = np.random.default_rng(0)

    def score(self, texts, stride=None):
        scores = []
        for text in texts:
            data = text.encode()
            spans = np.array([[i, i + 1] for i in range(len(data))] + [[len(data)] * 2])
            bits = self.bits + self.noise * self.random.standard_normal()
            log_probs = np.append(np.full(len(data), -bits * math.log(2)), 0.0)
            unknown = np.array([c == ord("?") for c in data] + [False])
            complete = self.complete and not unknown.any()
            scores.append(ScoredText(data, spans, log_probs, unknown, "nothing", complete))
        return scores

    def describe_context(self, stride=None):
        return {"order": 1}


def text(*documents):
    return Text("test", [Document(str(i), d) for i, d in enumerate(documents)])


def evaluate(model, *documents):
    return evaluation.evaluate(model, text(*documents), "m").row


def values(row):
    return {name: metric.value for name, metric in row.metrics.items()}


def test_bits_per_byte_of_a_uniform_model_is_its_bits():
    row = evaluate(Uniform(3.0), "one two\n", "drei café\n" + "x" * 50)
    num_bytes = 8 + 11 + 50
    assert row.counts == {"tokens": num_bytes + 2, "words": 5, "bytes": num_bytes, "oov": 0}
    assert row.documents == 2
    nats = 3.0 * math.log(2) * num_bytes
    assert row.sums == {"nats": pytest.approx(nats)}
    assert row.headline == "bits_per_byte"
    assert values(row) == pytest.approx(
        {
            "bits_per_byte": 3.0,
            "nats_per_token": nats / (num_bytes + 2),
            "perplexity": math.exp(nats / (num_bytes + 2)),
            "word_perplexity": math.exp(nats / 5),
            "perplexity_without_oov": math.exp(nats / (num_bytes + 2)),
        }
    )
    assert row.metrics["bits_per_byte"].interval == pytest.approx((3.0, 3.0), abs=1e-5)
    assert row.text_sha256 == hashlib.sha256("one two\ndrei café\n".encode() + b"x" * 50).hexdigest()
    assert (row.conditioned_on, row.context) == ("nothing", {"order": 1})


def test_each_metric_has_the_interval_that_its_own_bootstrap_gives():
    made = evaluation.evaluate(Uniform(3.0, noise=0.3), text(*("word " * n for n in range(1, 21))), "m")
    for name, statistics in made.statistics.items():
        alone = significance.bootstrap_interval(*statistics.arrays, metric=statistics.metric)
        assert made.row.metrics[name].interval == pytest.approx((alone.low, alone.high), rel=1e-6)
        assert alone.low < made.row.metrics[name].value < alone.high
    nats, num_bytes = made.statistics["bits_per_byte"].arrays
    alone = significance.bootstrap_interval(nats, num_bytes, metric=likelihood.bits_per_byte)
    assert made.row.metrics["bits_per_byte"].interval == (alone.low, alone.high), "bit for bit"


def test_words_are_separated_by_ascii_white_space_only():
    row = evaluate(Uniform(1.0), "a\u00a0b c\u2003d\te")
    assert row.counts["words"] == 3, "a no-break space and an em space are part of a word"


def test_incomplete_scores_have_no_bits_per_byte():
    row = evaluate(Uniform(3.0), "a ?", "b")
    bits = row.metrics["bits_per_byte"]
    assert bits[:2] == (None, None)
    assert "1 unknown" in bits.why
    assert row.counts["oov"] == 1
    tokens_known, nats_known = 3 + 1 + 2 - 1, 3 * 3.0 * math.log(2)
    expected = math.exp(nats_known / tokens_known)
    assert row.metrics["perplexity_without_oov"].value == pytest.approx(expected)
    bits = evaluate(Uniform(3.0, complete=False), "a", "b").metrics["bits_per_byte"]
    assert bits.value is None
    assert "white space" in bits.why


def test_one_document_has_no_interval():
    row = evaluate(Uniform(2.0), "alone")
    for metric in row.metrics.values():
        assert metric.value is not None
        assert metric.interval is None
        assert "one document, too short for 10 blocks of 500 bytes" in metric.why


def test_impossible_text_is_null_with_the_reason(tmp_path):
    row = evaluate(Uniform(math.inf), "a", "b")
    for metric in row.metrics.values():
        assert metric.value is None
        assert "probability 0" in metric.why
    write_rows(tmp_path / "results.json", [row])
    [values] = json.loads((tmp_path / "results.json").read_text())
    assert [values[name] for name in ("nats", "perplexity", "bits_per_byte")] == [None] * 3
    assert "probability 0" in values["why"]


def test_a_text_without_words_has_no_word_perplexity():
    metric = evaluate(Uniform(1.0), " \n", "\t\t").metrics["word_perplexity"]
    assert metric.value is None
    assert "no words" in metric.why


def test_a_resample_without_words_leaves_no_interval():
    metric = evaluate(Uniform(1.0), " \n", "a").metrics["word_perplexity"]
    assert metric.value > 1
    assert metric.interval is None
    assert "some samples" in metric.why


def test_models_are_compared_document_by_document():
    texts = text(*("word " * n for n in range(1, 21)))
    noisy, better, same = Uniform(3.0, noise=0.1), Uniform(2.0, noise=0.1), Uniform(3.0, noise=0.1)
    evaluations = [evaluation.evaluate(m, texts, str(i)) for i, m in enumerate((noisy, better, same))]
    compare(evaluations)
    first, second, third = (e.row.difference for e in evaluations)
    assert first is None
    assert second.metric == "bits_per_byte"
    assert second.value == pytest.approx(-1.0, abs=0.1)
    assert second.p_value < 0.01
    assert third[:8] == ("0", "bits_per_byte", 0.0, 1.0, None, (0.0, 0.0), 1.0, 1.0)
    assert third.pairs == 3
    assert third.as_json().items() >= {
        "to": "0", "bits_per_byte": 0.0, "p_value": 1.0, "metric": "bits_per_byte", "value": 0.0,
        "interval": (0.0, 0.0), "randomization_p_value": 1.0, "holm_p_value": 1.0,
    }.items()  # fmt: skip
    by_perplexity = difference(evaluations[1], evaluations[0], "perplexity")
    assert by_perplexity.value < 0
    assert by_perplexity.p_value < 0.01


@pytest.mark.parametrize("documents", [("a", "c"), ("ab",), ("a", "b", "")])
def test_models_of_other_documents_are_not_compared(documents):
    one = evaluation.evaluate(Uniform(3.0), text("a", "b"), "m")
    other = evaluation.evaluate(Uniform(2.0), text(*documents), "n")
    compare([one, other])
    assert other.row.difference is None
    if documents == ("a", "c"):
        assert other.row.notes == ["another text than m's: no value of the two rows compares"]


def test_nats_per_token_are_compared_for_equal_token_counts():
    documents = [("word " * n).strip() for n in range(1, 21)]
    made = [evaluation.evaluate(Uniform(b, complete=False), text(*documents), "m") for b in (3.0, 2.0)]
    compare(made)
    assert made[1].row.difference.metric == "nats_per_token"
    assert made[1].row.difference.value < -0.5
    assert made[1].row.notes == []
    made[1].row.difference = None
    made[1].row.counts["tokens"] += 1
    compare(made)
    assert made[1].row.difference is None
    [note] = made[1].row.notes
    assert note == "nats per token, perplexity do not compare with m's: 1051 tokens here, 1050 there"


def test_bleu_and_accuracy_are_compared_by_the_same_code():
    """Metrics of other tasks, from per-document statistics of any shape."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    references = rng.integers(0, 5, (200, 12))
    count = jax.jit(overlap.bleu_statistics)
    made = []
    for quality in (0.6, 0.9):
        keep = rng.random((200, 12)) < quality
        bleu = count(np.where(keep, references, 7), references)
        right = (np.where(rng.random(200) < quality, labels, 1 - labels) == labels).astype(float)
        statistics = {
            "accuracy": Statistics((right, np.ones(200)), significance.ratio, less_is_better=False),
            "bleu": Statistics(tuple(map(np.asarray, bleu)), overlap.bleu, less_is_better=False),
        }
        metrics = evaluation.measure(statistics, {})
        row = Row("m", "any", "any", None, "test", 200, "0", "", {}, {"examples": 200}, {}, metrics)
        made.append(Evaluation(row, statistics))
    compare(made)
    assert made[1].row.difference.metric == "accuracy"
    for name in ("accuracy", "bleu"):
        value, (low, high), *_ = made[1].row.metrics[name]
        assert low < value < high
        assert not made[1].row.metrics[name].less_is_better
        found = difference(made[1], made[0], name)
        assert found.value == pytest.approx(value - made[0].row.metrics[name].value)
        assert found.p_value < 0.01


def test_no_document_is_an_error():
    with pytest.raises(UserError, match="nothing to score"):
        evaluation.evaluate(Uniform(1.0), Text("test", []), "m")


def test_a_users_evaluator_is_chosen_by_its_name():
    @EVALUATORS.register("tests-count")
    def count(model, text, name, stride, report):
        n = np.array([len(d.text) for d in text.documents], float)
        statistics = {"length": Statistics((n, np.ones(len(n))), significance.ratio, less_is_better=False)}
        row = Row(
            name, model.family, model.task, None, text.name, len(n), text.sha256(), "", {}, {}, {},
            evaluation.measure(statistics, {}),
        )  # fmt: skip
        return Evaluation(row, statistics)

    model = Uniform(1.0)
    model.evaluator = "tests-count"
    assert evaluate(model, "abc", "a").metrics["length"].value == 2
    model.evaluator = "tests-cuont"
    with pytest.raises(UserError, match="unknown evaluator 'tests-cuont'"):
        evaluate(model, "a")


def test_evaluation_requires_a_capability_not_a_family():
    model = Uniform(1.0)
    assert require(model, Scores, "give a text a probability") is model
    for capability, verb in ((Generates, "continue text"), (Embeds, "x"), (Fills, "y"), (Labels, "z")):
        with pytest.raises(UserError, match=f"^a uniform model does not {verb}; give one that"):
            require(model, capability, verb)
    model = type("Encoder", (), {"family": "bert", "task": "masked", "evaluator": "causal", "step": 0})()
    with pytest.raises(UserError, match="a bert model does not give whole texts a probability; give"):
        evaluate(model, "a")


# What an earlier version wrote: flat keys, and an interval of bits per byte alone.
VERSION_1 = {
    "model": "runs/a", "family": "gpt", "objective": "causal", "step": 7, "split": "test", "documents": 3,
    "tokens": 1234, "words": 300, "bytes": 4000, "oov": 0, "nats": 2468.0, "perplexity": 7.389,
    "perplexity_without_oov": 7.389, "word_perplexity": 3700.0, "bits_per_byte": 0.8901,
    "bits_per_byte_ci": [0.85, 0.93], "why": "", "conditioned_on": "<|endoftext|>",
    "context": {"window": 128, "stride": 64}, "text_sha256": "0" * 64,
    "difference": {"to": "runs/b", "bits_per_byte": -0.1, "p_value": 0.02}, "data": {"corpus": "text:a"},
}  # fmt: skip


def written(tmp_path, *rows):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    return path


def test_rows_are_read_as_they_were_written(tmp_path):
    texts = text(*("word " * n for n in range(1, 21)))
    made = [evaluation.evaluate(Uniform(b, noise=0.1), texts, str(b)) for b in (3.0, 2.0)]
    rows = [m.row for m in made] + [evaluate(Uniform(math.inf), "a", "b"), evaluate(Uniform(3.0), "a ?")]
    compare(made)
    write_rows(tmp_path / "results.json", rows)
    assert read_rows(tmp_path / "results.json") == rows


def test_results_keep_the_keys_of_version_1(tmp_path):
    write_rows(tmp_path / "results.json", [evaluate(Uniform(3.0), "one two", "three")])
    [values] = json.loads((tmp_path / "results.json").read_text())
    assert VERSION_1.keys() <= values.keys()
    assert values.keys() - VERSION_1.keys() == {
        "format_version", "task", "counts", "sums", "metrics", "nats_per_token", "documents_sha256",
        "protocol",
    }  # fmt: skip
    assert (values["format_version"], values["task"], values["objective"]) == (2, "causal", "causal")
    assert values["bits_per_byte"] == values["metrics"]["bits_per_byte"]["value"]
    assert values["bits_per_byte_ci"] == values["metrics"]["bits_per_byte"]["interval"]
    assert {name: values[name] for name in values["counts"]} == values["counts"]


def test_version_1_is_read(tmp_path):
    old = {n: v for n, v in VERSION_1.items() if n not in ("data", "difference")}
    [row, older] = read_rows(written(tmp_path, VERSION_1, old))
    assert (row.task, row.step, row.documents) == ("causal", 7, 3)
    assert row.counts == {"tokens": 1234, "words": 300, "bytes": 4000, "oov": 0}
    assert row.metrics["bits_per_byte"] == Metric(0.8901, (0.85, 0.93), "", True)
    assert row.metrics["nats_per_token"].value == 2.0
    assert "format 1" in row.metrics["perplexity"].why
    assert row.difference == Difference("runs/b", "bits_per_byte", -0.1, 0.02)
    assert (older.data, older.difference) == ({}, None)
    known = {n: v for n, v in row.as_json().items() if n in VERSION_1 and n != "difference"}
    assert known == {n: v for n, v in VERSION_1.items() if n != "difference"} | {
        "bits_per_byte_ci": (0.85, 0.93)
    }


def test_unknown_keys_are_ignored(tmp_path):
    row = evaluate(Uniform(3.0), "a", "b")
    values = row.as_json() | {"new": [1]}
    values["metrics"]["bits_per_byte"] |= {"unit": "bits"}
    assert read_rows(written(tmp_path, values, VERSION_1 | {"new": 1}))[0] == row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, r"row 0: model=None is not a text"),
        ({"counts": {"tokens": 1.5}}, r"row 0, counts: tokens=1.5 is not a whole number"),
        ({"documents": True}, r"documents=True is not a whole number"),
        ({"metrics": {}}, "row 0, metrics is empty"),
        ({"metrics": {"x": 1}}, "row 0, metrics: x=1 is not an object"),
        ({"metrics": {"x": {"value": 1}}}, "row 0, metrics, x has no field 'interval'"),
        (
            {"metrics": {"x": {"value": 1, "interval": [1], "why": "", "less_is_better": True}}},
            "is not two numbers",
        ),
        ({"format_version": 3}, "has format 3; this version of lm_jax reads 1 to 2"),
        ({"difference": {"to": "a"}}, "row 0, difference has no field 'bits_per_byte'"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path, change, message):
    values = evaluate(Uniform(3.0), "a", "b").as_json()
    with pytest.raises(UserError, match=message) as error:
        read_rows(written(tmp_path, values | change))
    assert str(tmp_path / "results.json") in str(error.value)


def test_a_missing_field_is_named(tmp_path):
    values = {n: v for n, v in VERSION_1.items() if n != "words"}
    with pytest.raises(UserError, match=r"results.json, row 0 has no field 'words'"):
        read_rows(written(tmp_path, values))
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="is not a list of rows"):
        read_rows(tmp_path / "results.json")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The run directories of an n-gram model and of a GPT, on the bytes of one text."""
    directory = tmp_path_factory.mktemp("runs")
    text = tiny.write_text(directory / "text.txt")
    gpt = tiny.config(text, num_steps=2, eval_every=2, checkpoint_every=2, sample_tokens=0)
    ngram = NGramConfig(order=3, smoothing="witten_bell")
    experiment.run(CountConfig(data=gpt.data, model=ngram, sample_tokens=0), directory / "ngram")
    experiment.run(gpt, directory / "gpt")
    return directory


def test_eval_compares_models_on_a_file(runs, tmp_path, capsys):
    file = tiny.write_text(tmp_path / "new.txt", num_lines=40, seed=9)
    models = [str(runs / "ngram"), str(runs / "gpt")]
    eval_command.main(
        [*(f"--model={m}" for m in models), f"--text={file}", "--stride=8", f"--out={tmp_path}"]
    )
    rows = read_rows(tmp_path / "results.json")
    assert [(row.model, row.family, row.split) for row in rows] == [
        (models[0], "ngram", str(file)), (models[1], "gpt", str(file)),
    ]  # fmt: skip
    for row in rows:
        assert row.documents == 40
        assert row.counts["bytes"] == file.stat().st_size
        assert row.text_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert row.data == {"corpus": f"text:{file}", "documents": "line"}
        value, (low, high), why, _ = row.metrics["bits_per_byte"]
        assert low < value < high
        assert why == ""
    assert rows[0].context == {"order": 3}
    assert rows[1].context == {"window": 32, "stride": 8}
    less = rows[1].metrics["bits_per_byte"].value - rows[0].metrics["bits_per_byte"].value
    assert rows[1].difference.value == pytest.approx(less)
    assert rows[1].difference.p_value < 0.01, "two steps of training are no match for trigrams"
    shown = capsys.readouterr().out
    for row in rows:
        assert f"{row.metrics['bits_per_byte'].value:.4f}" in shown
    low, high = rows[1].difference.interval
    assert low < less < high
    assert f"+{less:.4f} bits/byte, +{low:.4f} to +{high:.4f} against {models[0]}" in shown
    page = (tmp_path / "report.html").read_text()
    assert "Differences to the first row" in page
    assert page.count("<svg") > 4, "values, differences, two learning curves, and parts of the text"


def test_eval_names_models_by_labels_and_says_how_large_they_are(runs, tmp_path, capsys):
    eval_command.main(
        [f"--model=counts={runs / 'ngram'}", f"--model=gpt={runs / 'gpt'}", f"--out={tmp_path}"]
    )
    rows = read_rows(tmp_path / "results.json")
    assert [row.model for row in rows] == ["counts", "gpt"]
    lm = lm_jax.load(runs / "gpt")
    vectors = jax.eval_shape(lm.config.make().init, jax.random.key(0), np.zeros((1, 1), np.int32))
    assert rows[1].parameters == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(vectors))
    text = json.loads((runs / "gpt" / "data.json").read_text())["splits"]["train"]["num_tokens"]
    assert rows[0].training_tokens == rows[1].training_tokens == text
    shown = capsys.readouterr().out
    assert f"{rows[1].parameters:,}" in shown
    assert "against counts (paired bootstrap" in shown
    with pytest.raises(UserError, match="two models are named a; give each"):
        eval_command.main([f"--model=a={runs / 'ngram'}", f"--model=a={runs / 'gpt'}"])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a=runs/x", ("a", "runs/x")),
        ("a=sweep/model.d_model=8/seed-0", ("a", "sweep/model.d_model=8/seed-0")),
        ("sweep/model.d_model=8/seed-0", ("sweep/model.d_model=8/seed-0",) * 2),
        ("hf:gpt2", ("hf:gpt2", "hf:gpt2")),
        ("big=hf:gpt2", ("big", "hf:gpt2")),
        ("model.d_model=8", ("model.d_model=8",) * 2),
    ],
)
def test_a_name_before_a_path_is_told_from_a_path_with_an_equals_sign(text, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.d_model=8").mkdir()
    assert flags.named_model(text) == named


def test_all_models_are_scored_on_the_first_ones_text(runs, tmp_path, capsys):
    other = tiny.config(tiny.write_text(tmp_path / "other.txt", seed=5))
    ngram = CountConfig(data=other.data, model=NGramConfig(order=2, smoothing="witten_bell"), sample_tokens=0)
    experiment.run(ngram, tmp_path / "other")
    eval_command.main(
        [f"--model={runs / 'ngram'}", f"--model=other={tmp_path / 'other'}", f"--out={tmp_path / 'out'}"]
    )
    rows = read_rows(tmp_path / "out" / "results.json")
    assert rows[0].text_sha256 == rows[1].text_sha256
    assert rows[0].notes == []
    assert "may have learned from this one" in rows[1].notes[0]
    assert f"other, test: scored on the held-out text of {runs / 'ngram'}" in capsys.readouterr().out
    assert rows[1].difference.metric == "bits_per_byte"


@pytest.mark.parametrize("name", ["a.jsonl", "a.CSV", "a.tsv.gz"])
def test_records_are_not_scored_as_plain_text(runs, tmp_path, name):
    kind = name.split(".")[1].lower()
    (tmp_path / name).write_bytes(b'{"text": "a b"}\n{"text": "c"}\n')
    with pytest.raises(
        UserError, match=rf"has records, not plain text; type {kind}:.*#[A-Z]+ for their texts"
    ):
        eval_command.main([f"--model={runs / 'ngram'}", f"--text={tmp_path / name}", f"--out={tmp_path}"])
    with pytest.raises(UserError, match="has records"):
        texts_module.lines_or_corpus(str(tmp_path / name))
    with pytest.raises(UserError, match=r"is a directory; type text:.* for the \.txt files in it"):
        texts_module.lines_or_corpus(str(tmp_path))


def test_a_corpus_of_records_has_the_bytes_of_its_texts(runs, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a b"}\n{"text": "c"}\n')
    arguments = [f"--model={runs / 'ngram'}", "--documents=file", f"--out={tmp_path / 'out'}"]
    for corpus, size in ((f"jsonl:{tmp_path}/a.jsonl#text", 4), (f"text:{tmp_path}/a.jsonl", 30)):
        eval_command.main([*arguments, f"--text={corpus}"])
        [row] = read_rows(tmp_path / "out" / "results.json")
        assert row.counts["bytes"] == size


def test_eval_takes_the_runs_own_test_part_and_repeats_its_results(runs, tmp_path):
    for name in ("ngram", "gpt"):
        eval_command.main([f"--model={runs / name}", f"--out={tmp_path}"])
        [row] = read_rows(tmp_path / "results.json")
        assert row.audit.failed == []
        assert dataclasses.replace(row, audit=None) == read_rows(runs / name / "results.json")[1]
        assert row.split == "test"
        assert row.data["sha256"]


def test_results_are_not_written_over_those_of_a_run(runs):
    before = (runs / "ngram" / "results.json").read_bytes()
    with pytest.raises(
        UserError, match=r"ngram is a run directory, which has results of its own; give another"
    ):
        eval_command.main([f"--model={runs / 'gpt'}", f"--out={runs / 'ngram'}"])
    assert (runs / "ngram" / "results.json").read_bytes() == before


_IMPORTS = """
import gc, importlib.util, os, sys
threshold, arguments = gc.get_threshold(), list(sys.argv)
spec = importlib.util.spec_from_file_location("eval_command", sys.argv[1])
command = importlib.util.module_from_spec(spec)
spec.loader.exec_module(command)
assert (threshold, arguments) == (gc.get_threshold(), sys.argv)
assert "GLIBC_TUNABLES" not in os.environ
for evaluate in (False, True):
    if evaluate:
        command.main(sys.argv[2:])
    unwanted = ("lm_jax.training", "lm_jax.experiment", "optax", "orbax", "tensorflow_datasets", "nltk")
    found = [m for m in sys.modules if m.startswith(unwanted)]
    assert not found, (evaluate, found)
"""


def test_eval_imports_no_training_stack_and_has_no_side_effect(runs, tmp_path):
    arguments = [ROOT / "eval.py", f"--model={runs / 'ngram'}", f"--out={tmp_path}"]
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results.json").exists()


def test_held_out_documents_keep_their_fields_and_ignore_unknown_keys(runs, tmp_path):
    shutil.copy(runs / "ngram" / "data.json", tmp_path)
    lines = [{"name": "a", "text": "x", "fields": {"label": "good"}}, {"name": "b", "text": "y", "new": [1]}]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    documents = texts_module.read_held_out(tmp_path, "test").documents
    assert [(d.name, d.text, dict(d.fields)) for d in documents] == [
        ("a", "x", {"label": "good"}),
        ("b", "y", {}),
    ]
    for line, message in (("{", "is not JSON"), ('{"name": "a"}', "no field 'text'")):
        path.write_text(json.dumps(lines[0]) + "\n" + line + "\n")
        with pytest.raises(UserError, match=rf"test.jsonl, line 2.*{message}"):
            texts_module.read_held_out(tmp_path, "test")
    with pytest.raises(UserError, match=r"no held-out text .*valid.jsonl; give a text with --text=FILE"):
        texts_module.read_held_out(tmp_path, "valid")


def test_several_texts_a_glob_and_a_part_of_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = tiny.write_text(tmp_path / "text.txt")
    data = DataConfig(corpus=f"text:{text}", documents="line", split="hash:0.1,0.1", tokenizer="word")
    model = NGramConfig(order=2, smoothing="witten_bell")
    experiment.run(CountConfig(data=data, model=model, sample_tokens=0), tmp_path / "run")
    for name in ("a", "b"):
        tiny.write_text(tmp_path / f"{name}.txt", num_lines=5, seed=ord(name))
    flags = ["--model=one=run", "--model=two=run", "--text=a.txt", "--text=[ab].txt"]
    eval_command.main([*flags, "--out=out"])
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    names = [(row["model"], row["split"], row["documents"]) for row in rows]
    assert names == [("one", "a.txt", 5), ("two", "a.txt", 5), ("one", "text:[ab].txt", 10),
                     ("two", "text:[ab].txt", 10)]  # fmt: skip
    assert all(row["difference"]["to"] == "one" for row in rows[1::2]), "compared on each text"
    assert "another text" not in capsys.readouterr().out
    for part in ("valid", "test"):
        eval_command.main(["--model=run", f"--split={part}", "--out=out"])
        [row] = json.loads((tmp_path / "out" / "results.json").read_text())
        assert row["split"] == part
    with pytest.raises(UserError, match="--split=test with --text, which has no parts"):
        eval_command.main(["--model=run", "--split=test", "--text=a.txt", "--out=out"])
