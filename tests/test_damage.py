"""Damaged files of runs and of the cache: an error that names the file, or the same numbers."""

import dataclasses
import itertools
import json
import os
import pathlib
import re
import shutil
import time
import zipfile

import damage
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from interrupt import stopped_after
from killed import killed_at
from safetensors import numpy as safetensors

import lm_jax
from lm_jax import experiment, seal
from lm_jax.checkpoint import Checkpoints
from lm_jax.config import CountConfig, to_json
from lm_jax.data import pipeline, store
from lm_jax.errors import UserError
from lm_jax.evaluation import texts
from lm_jax.language_models import finite
from lm_jax.ngram import array_file
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.pretrained import huggingface
from lm_jax.progress import read_metrics
from lm_jax.tasks.causal import Causal
from lm_jax.training.loop import METRICS


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A text, and beside it the runs."""
    path = tmp_path_factory.mktemp("damage")
    tiny.write_text(path / "text.txt")
    return path


@pytest.fixture(scope="module")
def ngram(directory):
    """The recipe of an n-gram model and its run."""
    data = tiny.config(directory / "text.txt").data
    config = CountConfig(data=data, model=NGramConfig(order=3, smoothing="witten_bell"), sample_tokens=8)
    experiment.run(config, directory / "ngram")
    return config, directory / "ngram"


@pytest.fixture(scope="module")
def gpt(directory):
    """The recipe of a GPT and its run, with a checkpoint that is the best and another that is the latest."""
    config = tiny.config(directory / "text.txt", num_steps=4, eval_every=2, checkpoint_every=2)
    experiment.run(config, directory / "gpt")
    return config, directory / "gpt"


@pytest.fixture
def golden(tmp_path):
    """A GPT's run of format 1, without a seal of its own."""
    with zipfile.ZipFile(pathlib.Path(__file__).parent / "golden" / "runs_v1.zip") as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if name.startswith("gpt/")])
    return tmp_path / "gpt"


def is_made_again(name):
    return name in ("results.json", "sample.txt")


def opener(config):
    """What eval.py and train.py tell of a finished run, as a function of its directory."""

    def opened(path):
        # What is quick comes first: most damages are found there.
        text, lines = texts.choose(str(path), None, "line"), read_metrics(path / METRICS)
        rows = [dataclasses.replace(row, model="") for row in experiment.run(config, path)]
        model = lm_jax.load(path)
        nats = [float(scored.log_probs.sum()) for scored in model.score([d.text for d in text.documents])]
        return nats, text, model.step, lines, rows

    return opened


@pytest.mark.slow
def test_damaged_files_of_a_counted_run(ngram, tmp_path):
    config, workdir = ngram
    names = [name for name in seal.files_in(workdir) if name != ".lock"] + [seal.FILE]
    tried, wrong = damage.survey(workdir, names, opener(config), tmp_path / "copy", is_made_again)
    assert wrong == []
    assert tried > 15 * len(names)


@pytest.mark.slow
def test_damaged_files_of_a_trained_run(gpt, tmp_path):
    config, workdir = gpt
    inside = [name for name in seal.files_in(workdir) if name.startswith("checkpoints/4/")]
    names = [name for name in seal.files_in(workdir) if "/" not in name and name != ".lock"]
    names += [f"checkpoints/4/{name}" for name in (seal.FILE, "metrics/metrics", "_CHECKPOINT_METADATA")]
    names += ["tokenizer/tokenizer.json", max(inside, key=lambda name: (workdir / name).stat().st_size)]
    tried, wrong = damage.survey(workdir, names, opener(config), tmp_path / "copy", is_made_again)
    assert wrong == []
    assert tried > 15 * len(names)


@pytest.mark.slow
@pytest.mark.parametrize("item", ["metrics/metrics", "params/_METADATA", seal.FILE])
def test_a_damaged_file_of_a_checkpoint_is_named(gpt, tmp_path, item):
    copy = shutil.copytree(gpt[1], tmp_path / "copy")
    path = copy / "checkpoints" / "4" / item
    digit = re.compile(rb"[0-9]")
    other_digit = digit.sub(lambda found: b"1" if found[0] == b"0" else b"0", path.read_bytes(), count=1)
    path.write_bytes(other_digit)
    with pytest.raises(UserError, match=rf"checkpoint .*4.* damaged.*{item}.*; remove .*4 to use an earlier"):
        lm_jax.load(copy)


@pytest.mark.slow
def test_damaged_files_of_a_store(directory, tmp_path, capsys):
    config = tiny.config(directory / "text.txt").data

    def prepared(root):
        data = pipeline.prepare(config, cache_dir=root)
        read = {}
        for name, split in data.splits.items():
            read[name] = (split.tokens.tolist(), split.document_offsets.tolist(), list(split.documents()))
        return data.provenance, read

    prepared(tmp_path / "cache")
    found = sorted((tmp_path / "cache").rglob("*.*"))
    names = [
        p.relative_to(tmp_path / "cache").as_posix() for p in found if not p.name.startswith(("valid", "te"))
    ]
    assert len(names) == 8  # texts: 3 files of a part; tokens: 2, and the tokenizer; two seals
    capsys.readouterr()
    tried, wrong = damage.survey(tmp_path / "cache", names, prepared, tmp_path / "copy", lambda name: True)
    assert wrong == []
    assert tried > 15 * len(names)
    said = capsys.readouterr().err.splitlines()
    assert len(said) >= tried - 4, "a space of a seal may change without an effect"
    assert all(" is built again" in line for line in said)
    assert {
        name for name in names if any(all(part in line for part in name.split("/")) for line in said)
    } == set(names)


def test_a_store_of_a_killed_process_is_tidied_and_one_in_use_is_not(directory, tmp_path, monkeypatch):
    config = tiny.config(directory / "text.txt").data
    (tmp_path / ".texts-1.x.tmp").mkdir()
    write_texts, seen = store.write_texts, []

    def look(*arguments):
        seen.extend(path.name for path in tmp_path.glob(".*"))
        if len(seen) == 1:  # another process that builds at the same time
            pipeline.prepare(dataclasses.replace(config, split="hash:0.2,0.2"), cache_dir=tmp_path)
        return write_texts(*arguments)

    monkeypatch.setattr(store, "write_texts", look)
    pipeline.prepare(config, cache_dir=tmp_path)
    assert ".texts-1.x.tmp" not in seen
    assert len(list(tmp_path.iterdir())) == 4
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_counted_run_that_is_killed_at_a_file_operation_ends_with_the_same_files(
    ngram, tmp_path, monkeypatch
):
    config, workdir = ngram
    config = dataclasses.replace(config, sample_tokens=0)
    expected = [dataclasses.replace(row, model="") for row in experiment.run(config, workdir)]
    finished = False
    for number in itertools.count(1, 4):
        path = tmp_path / str(number)
        with killed_at(number, monkeypatch):
            experiment.run(config, path)
            finished = True
        rows = experiment.run(config, path)
        assert [dataclasses.replace(row, model="") for row in rows] == expected
        assert (path / "model.ngram").read_bytes() == (workdir / "model.ngram").read_bytes()
        if finished:
            break
        assert [p.name for p in path.glob(".*")] == [".lock"]
    assert number > 30


@pytest.mark.slow
def test_metrics_of_a_stopped_run(gpt, tmp_path):
    config, workdir = gpt
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, checkpoint_every=1))
    with stopped_after(3):
        experiment.run(config, tmp_path / "run")
    path = tmp_path / "run" / METRICS
    good = path.read_text()
    path.write_text(good[:-30])
    with pytest.raises(UserError, match=rf"is damaged: {METRICS} has"):
        experiment.run(config, tmp_path / "run")
    path.write_text(good + '{"step": 4, "loss": 1.0}\n{"step": 5, "lo')  # of a process that was killed
    (tmp_path / "run" / ".config.json.x.tmp").write_text("")
    (tmp_path / "run" / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    experiment.run(config, tmp_path / "run")
    losses = [
        [{k: line[k] for k in line if "loss" in k} for line in read_metrics(p / METRICS)]
        for p in (tmp_path / "run", workdir)
    ]
    assert losses[0] == losses[1]
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_an_unfinished_checkpoint_is_told_and_removed(golden, capfd):
    left = golden / "checkpoints" / "9.orbax-checkpoint-tmp"
    left.mkdir()
    with Checkpoints(golden) as checkpoints:
        assert checkpoints.latest_step() == 6
        for _ in range(100):  # Orbax removes it in the background
            time.sleep(0.05 * left.exists())
    assert "stopped while it wrote checkpoint 9: it continues from step 6\n" in capfd.readouterr().err
    assert not left.exists()


def test_a_run_without_a_seal_opens_with_a_note(golden, capfd):
    lm_jax.load(golden)
    assert "has no seal.json, as runs of earlier versions" in capfd.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_a_parameter_that_is_not_finite_is_named(value, dtype):
    good = np.full((3, 1 << 20), 2.0, np.float32).astype(dtype)
    bad = good.copy()
    bad[2, -1] = value
    finite.check({"a": jnp.asarray(good), "b": [good], "c": np.arange(3)}, "run")
    for params in ({"a": good, "b": {"c": bad}}, {"a": good, "b": {"c": jnp.asarray(bad)}}):
        with pytest.raises(UserError, match="the parameter b/c of run has values that are NaN or infinite"):
            finite.check(params, "run")
    assert finite._all_finite([jnp.asarray(good), jnp.asarray(bad)]) == [True, False]  # as on accelerators


def test_more_layers_than_a_checkpoint_has_are_refused_before_they_are_traced(golden):
    values = json.loads((golden / "config.json").read_text())
    values["model"]["num_layers"] = 1_000_000
    (golden / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"config.json describes a model of num_layers=1000000"):
        lm_jax.load(golden)


@pytest.mark.parametrize("change", [lambda v: [v], lambda v: v | {"commit_timestamp_nsecs": 1.5}])
def test_a_damaged_description_of_a_checkpoint_by_orbax_is_named(golden, change):
    path = golden / "checkpoints" / "6" / "_CHECKPOINT_METADATA"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=r"_CHECKPOINT_METADATA in .* is damaged"):
        lm_jax.load(golden)


def test_a_loss_that_fits_its_digest_and_is_none(golden):
    path = golden / "checkpoints" / "6"
    (path / "metrics" / "metrics").write_text("1.5")
    found = seal.read(path)
    seal.write_whole(path, found.states, found.facts)
    with pytest.raises(UserError, match=r"metrics is not an object"):
        lm_jax.load(golden)


def test_models_with_parameters_that_are_not_finite_are_refused(golden, tmp_path):
    model = lm_jax.load(golden)
    with Checkpoints(golden) as checkpoints:
        params = checkpoints.read_params(6)
        params["params"]["final_norm"]["scale"] = params["params"]["final_norm"]["scale"].at[3].set(jnp.nan)
        checkpoints.save(9, params, {"none": jnp.zeros(1)})
    with pytest.raises(UserError, match=r"the parameter params/final_norm/scale of .*gpt has values"):
        lm_jax.load(golden, "latest")

    huggingface.write(
        tmp_path / "published", huggingface.Pretrained(model.config, model.params, model.tokenizer, Causal())
    )
    lm_jax.load(tmp_path / "published")
    path = tmp_path / "published" / "model.safetensors"
    arrays = safetensors.load_file(path)
    arrays["transformer.wte.weight"][7, 7] = np.inf
    safetensors.save_file(arrays, path)
    with pytest.raises(UserError, match=r"the parameter params/token_embedding/embedding of .*published has"):
        lm_jax.load(tmp_path / "published")


BAD_FIELDS = [
    ("config.json", {"format_version": None}, "is of format None"),
    ("config.json", {"model": {"name": "gpt", "num_heads": 0}}, "num_heads=0"),
    ("config.json", {"model": {"name": "gpt", "dropout": 10**400}}, "model.dropout"),
    ("config.json", {"data": {"sequence_length": -1}}, "sequence_length=-1"),
    ("config.json", {"task": 1}, "task in .* has no name"),
    ("data.json", {"tokenizer": {}}, "tokenizer has no field 'kind'"),
    ("data.json", {"tokenizer": []}, r"tokenizer=\(a list\) is not a text or an object"),
    ("data.json", {"splits": {"test": {"num_bytes": 1.5}}}, "splits, test has no field 'num_documents'"),
    ("data.json", {"sources": {"train": json.loads("[" * 200 + "]" * 200)}}, "is nested deeper"),
    ("data.json", {"fields": {"classes": {"label": ["a", 1]}}}, "label is not a list of texts"),
    ("test.jsonl", {"name": "\ud800", "text": "\ud800"}, r"line 1: the text has a lone surrogate"),
    (METRICS, {"step": 1.5}, r"metrics.jsonl, line 1: step=1.5 is not a whole number"),
    (METRICS, {"step": 1, "loss": "x"}, r"line 1: loss='x' is not a number"),
    (METRICS, {"loss": 1}, r"line 1 has no field 'step'"),
    ("test.jsonl", {"name": "a", "text": 1}, r"test.jsonl, line 1: text=1 is not a text"),
    ("test.jsonl", {"name": "a", "text": "", "fields": {"x": None}}, r"line 1, fields: x is neither a text"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD_FIELDS)
def test_a_wrong_field_of_a_run_without_a_seal_is_named(ngram, tmp_path, name, change, message):
    copy = shutil.copytree(ngram[1], tmp_path / "copy")
    (copy / seal.FILE).unlink()
    (copy / "config.json").write_text(to_json(tiny.config(tmp_path / "text.txt")))
    values = {} if name.endswith("l") else json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps(values | change) + "\n")
    with pytest.raises(UserError, match=message) as error:
        read_all(copy)
    assert name in str(error.value)


def read_all(path: pathlib.Path):
    """Reads all files of a run but the checkpoints."""
    read_metrics(path / METRICS)
    texts.read_held_out(path, "test")
    lm_jax.load(path)


@pytest.mark.parametrize(
    "name", ["config.json", "data.json", METRICS, "test.jsonl", "results.json", seal.FILE]
)
@pytest.mark.parametrize(
    "data",
    [b"\xff\xfe{}\n", b"[" * 100_000 + b"\n", b'{"step": NaN}\n', b'{"a": ' + b"9" * 5000 + b"}\n", b"7\n"],
)
def test_files_that_are_no_json(ngram, tmp_path, name, data):
    copy = shutil.copytree(ngram[1], tmp_path / "copy")
    (copy / seal.FILE).unlink()
    (copy / name).write_bytes(data)
    with pytest.raises(UserError, match=name):
        read_all(copy) if name != "results.json" else experiment.run(ngram[0], copy)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"F32"', b"7    ", r"model.ngram, a: dtype=7 is not a text"),
        (b'"__metadata__"', b'"__metadatA__"', r"model.ngram has no field '__metadata__'"),
        (b'"F32"', b'"F31"', r"model.ngram is not a model file, or is damaged"),
    ],
)
def test_a_wrong_header_of_a_model_is_named(tmp_path, old, new, message):
    path = tmp_path / "model.ngram"
    array_file.write(path, {"a": np.zeros(3, np.float32)}, {})
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        array_file.read(path)


def nan(array):
    array = array.copy()
    array[1] = np.nan
    return array


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("log10_probs.2", nan, r"log10_probs.2 has a value that is no logarithm"),
        ("log10_probs.1", lambda a: a + 9, r"log10_probs.1 has a value"),
        ("log10_probs.3", lambda a: a[:-1], r"log10_probs.3 has \d+ elements instead of"),
        ("log10_backoffs.1", nan, r"log10_backoffs.1 has a value that is no back-off"),
        ("log10_backoffs.1", lambda a: a.reshape(1, -1), r"log10_backoffs.1 has the form"),
        ("words.2", lambda a: a + 10_000, r"words.2 has a word that is not in the vocabulary"),
        ("words.3", lambda a: a[::-1], r"words.3 are not in order"),
        ("first_child.1", lambda a: a + 1, r"first_child.1 are not places"),
        ("first_child.2", lambda a: -a, r"first_child.2 are not places"),
        ("first_child.2", lambda a: a.view(np.float32), r"first_child.2 has the form float32"),
        ("vocabulary.ends", lambda a: a[::-1], r"vocabulary.ends are not the ends of words"),
        ("vocabulary.text", lambda a: a[1:], r"vocabulary.ends are not"),
        ("vocabulary.text", lambda a: a ^ 1, r"the vocabulary does not begin with the special words"),
        ("order", "0", "order is 0"), ("order", "4", r"log10_backoffs.3 is missing"),
        ("order", "x", "order is not a"),
        ("log10_unseen", "nan", "log10_unseen is nan"),
    ],
)  # fmt: skip
def test_arrays_of_a_model_without_a_seal_are_checked(ngram, tmp_path, name, change, message):
    arrays, metadata = array_file.read(ngram[1] / "model.ngram")
    path = tmp_path / "model.ngram"
    if isinstance(change, str):
        metadata[name] = change
    else:
        arrays[name] = np.ascontiguousarray(change(arrays[name]))
    array_file.write(path, arrays, metadata)
    with pytest.raises(UserError, match=rf"model.ngram is damaged: {message}"):
        NGramModel.load(path)


def test_a_recipe_with_an_infinite_number_is_refused_before_training(directory, tmp_path):
    config = tiny.config(directory / "text.txt")
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, clip_norm=np.inf))
    with pytest.raises(UserError, match=r"optimizer.clip_norm=inf; give a finite number"):
        experiment.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
