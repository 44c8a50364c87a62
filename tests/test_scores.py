"""Kept scores: found again, never for another model, whole after a kill, and noticed when damaged."""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny
import tiny_gpt
from killed import killed_at

import eval as eval_command
import lm_jax
from lm_jax import experiment
from lm_jax.config import CountConfig
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation import score_files, scoring, spool
from lm_jax.evaluation import texts as texts_module
from lm_jax.evaluation.row import read_rows
from lm_jax.evaluation.score_cache import ScoreCache
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import ScoredText
from lm_jax.language_models.causal import CausalLanguageModel
from lm_jax.language_models.fingerprint import fingerprint
from lm_jax.language_models.ngram import NGramLanguageModel
from lm_jax.language_models.rolling import score_rolling
from lm_jax.language_models.trained import Trained
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.text.simple import ByteTokenizer

ROOT = pathlib.Path(__file__).parents[1]
WORDS = "one two drei café\n"


class Model:
    """Gives each byte a probability of its own, and notes what it is asked about."""

    family, task, evaluator, documents, step = "tests", "causal", "causal", "file", None

    def __init__(self, seed=0, cannot=()):
        self.seed, self.cannot, self.asked = seed, cannot, []

    def fingerprint(self):
        return f"tests {self.seed}"

    def score(self, texts, stride=None):
        self.asked += texts
        return [self._one(text) for text in texts]

    def _one(self, text):
        for error, part in self.cannot:
            if part in text:
                raise error
        data = text.encode()
        values = np.random.default_rng([self.seed, *data]).random(len(data) + 1)
        log_probs = np.where([byte == ord("0") for byte in data + b" "], -np.inf, np.log(values))
        edges = np.arange(len(data) + 1)
        spans = np.stack([edges, np.minimum(edges + 1, len(data))], axis=1)
        return ScoredText(data, spans, log_probs, np.zeros(len(data) + 1, bool), "nothing", True)

    def describe_context(self, stride=None):
        return {"order": 1}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch):
    monkeypatch.setattr(scoring, "_CHARACTERS_PER_GROUP", 100)


def texts(number=30, first=0):
    return [f"{WORDS * (i % 5)}{chr(0x100 + i)}" for i in range(first, first + number)]


def evaluate(model, some, cache=None, stride=None):
    text = Text("test", [Document(str(i), one) for i, one in enumerate(some)])
    return evaluation.evaluate(model, text, "m", stride, cache=cache)


def same(a, b):
    """Equal to the last bit: rows, and the scores of each document."""
    assert a.row == b.row
    for one, other in zip(a.scored, b.scored, strict=True):
        for name, value in one._asdict().items():
            np.testing.assert_array_equal(value, getattr(other, name))
            assert getattr(value, "dtype", None) == getattr(getattr(other, name), "dtype", None)


def test_each_document_is_scored_once_for_each_model(tmp_path):
    model, documents = Model(), texts()
    first = evaluate(model, documents, ScoreCache(tmp_path))
    assert sorted(model.asked) == sorted(documents)
    again = Model()
    same(first, evaluate(again, documents, ScoreCache(tmp_path)))
    same(first, evaluate(Model(), documents))
    assert again.asked == [], "all were found"
    evaluate(again, [*texts(3), "new", *texts(2, first=50), "new"], ScoreCache(tmp_path))
    assert again.asked == ["new", *texts(2, first=50)], "only what is new, and once"
    other = Model(seed=1)
    assert evaluate(other, documents, ScoreCache(tmp_path)).row.sums != first.row.sums
    assert len(other.asked) == len(documents)
    harness = evaluation.evaluate(
        again, Text("t", [Document("a", "new")]), "m", task="harness", cache=ScoreCache(tmp_path)
    )
    assert len(harness.scored[0].log_probs) == 3, "the scores of another protocol are others"


def test_scores_of_any_kind_come_back_bit_for_bit():
    exact = np.array([-1.5, -np.inf, -0.0, 2.0**-140])
    rough = np.array([-1 / 3, -1e300, math.pi])
    spans = np.array([[0, 1], [1, 2], [2, 2]])
    unknown = np.array([True, False, True])
    made = [
        ScoredText(b"ab", spans, rough, unknown, "<s>", False, log_spelling=rough / 7),
        ScoredText(b"", np.empty((0, 2), np.int64), np.empty(0), np.empty(0, bool), "x", True),
        ScoredText(b"abc", spans + 2**40, rough, ~unknown, "x", True),
        ScoredText(b"abcd", np.zeros((4, 2), np.int64), exact, np.ones(4, bool), "x", True),
    ]
    path = pathlib.Path("scores")
    for some in (made, made[1:], made[3:], made[:1]):
        keys = [str(i) for i in range(len(some))]
        path = pathlib.Path(os.environ["LM_JAX_CACHE"]) / "one.scores"
        path.write_bytes(score_files.encode(keys, some))
        assert score_files.read_keys(path) == keys
        for one, fields in zip(some, score_files.read(path), strict=True):
            assert fields.keys() == {*ScoredText._fields} - {"text"}
            for name, value in fields.items():
                expected = getattr(one, name)
                if isinstance(expected, np.ndarray):
                    assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
                    assert value.tobytes() == expected.tobytes()
                else:
                    assert value == expected
                    assert type(value) is type(expected)


def test_killed_at_any_operation_the_same_command_goes_on(tmp_path, monkeypatch):
    documents = texts(12)
    whole, number, done = evaluate(Model(), documents), 1, []
    while True:
        cache, model = tmp_path / str(number), Model()
        made = None
        with killed_at(number, monkeypatch):
            made = evaluate(model, documents, ScoreCache(cache))
        if made is not None:
            break
        again = Model()
        same(whole, evaluate(again, documents, ScoreCache(cache)))
        assert len(again.asked) >= len(documents) - len(model.asked)
        done.append(len(documents) - len(again.asked))
        number += 1
    assert done[0] == 0
    assert done == sorted(done)
    assert done[-1] > len(documents) / 2, "what was scored before the kill is not scored again"


def test_a_damaged_file_is_noticed_and_its_documents_are_scored_again(tmp_path, capsys):
    documents = texts(12)
    whole = evaluate(Model(), documents, ScoreCache(tmp_path))
    files = sorted(tmp_path.glob("*/*.scores"))
    assert len(files) > 2
    good = files[1].read_bytes()
    draw = random.Random(0)
    places = [0, 17, 25, len(good) - 1, *(draw.randrange(len(good)) for _ in range(30))]
    bad = [good[:p] + bytes([good[p] ^ (1 << draw.randrange(8))]) + good[p + 1 :] for p in places]
    for data in [*bad, b"", good[:20], good[:-1], good + b"\0", good[: len(good) // 2]]:
        files[1].write_bytes(data)
        model = Model()
        same(whole, evaluate(model, documents, ScoreCache(tmp_path)))
        assert 0 < len(model.asked) < len(documents)
        assert f"{files[1]} is damaged; its documents are scored again" in capsys.readouterr().err
        assert files[1].read_bytes() == good
    made = evaluate(Model(), documents, ScoreCache(tmp_path))
    files[0].write_bytes(b"")
    made.scored[len(documents) - 1]
    with pytest.raises(UserError, match="was damaged or removed meanwhile; run the same command again"):
        list(made.scored)


def test_the_files_that_were_not_used_for_longest_make_room(tmp_path):
    def used():
        return {path.parent.name for path in tmp_path.glob("*/*.scores")}

    names = []
    for seed in range(4):
        evaluate(Model(seed), texts(12), ScoreCache(tmp_path))
        names += sorted(used() - set(names))
        for path in tmp_path.glob(f"{names[-1]}/*"):
            os.utime(path, (seed, seed))
    size = sum(path.stat().st_size for path in tmp_path.glob("*/*")) // 4
    evaluate(Model(0), texts(12), ScoreCache(tmp_path))  # the oldest is used again
    ScoreCache(tmp_path, limit=int(2.5 * size)).make_room()
    assert used() == {names[0], names[3]} or used() == {names[0], names[2], names[3]}
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 2.5 * size
    cache = ScoreCache(tmp_path, limit=0)
    evaluate(Model(3), texts(12), cache)
    cache.make_room()
    assert used() == {names[3]}, "those of the running evaluation stay"


def test_scores_of_a_large_text_are_on_disk_and_removed(monkeypatch):
    monkeypatch.setattr(scoring, "_MOST_IN_MEMORY", 50)
    scores = pathlib.Path(os.environ["LM_JAX_CACHE"]) / "scores"
    made = evaluate(Model(), texts())
    assert len(list(scores.glob(".*/*.scores"))) > 3
    same(evaluate(Model(), texts()), made)
    assert made.scored[-1].text == made.scored[len(made.scored) - 1].text == texts()[-1].encode()
    assert [one.text for one in made.scored[3:5]] == [one.encode() for one in texts()[3:5]]
    with pytest.raises(IndexError):
        made.scored[len(made.scored)]
    del made
    assert not list(scores.glob(".*/*.scores"))


def test_documents_of_a_large_text_are_on_disk(tmp_path, monkeypatch):
    some = [Document(str(i), text, {"tags": [1, "é"], "half": "\ud800"}) for i, text in enumerate(texts())]
    assert spool.spooled(some) == some
    monkeypatch.setattr(spool, "_MOST_IN_MEMORY", 300)
    made = spool.spooled(iter(some))
    assert isinstance(made, spool.SpooledDocuments)
    assert (len(made), list(made), made[3:5], made[-1]) == (len(some), some, some[3:5], some[-1])
    with pytest.raises(IndexError):
        made[len(some)]
    path = tmp_path / "text.txt"
    path.write_text("".join(texts()))
    text = texts_module.choose("", str(path), "line")
    assert isinstance(text.documents, spool.SpooledDocuments)
    whole = Text("t", [Document(d.name, d.text) for d in text.documents])
    assert (text.sha256(), text.documents_sha256()) == (whole.sha256(), whole.documents_sha256())
    assert whole.documents_sha256() != Text("t", [Document("a", "".join(texts()))]).documents_sha256()
    assert text.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def gpt(**fields):
    tokenizer = ByteTokenizer()
    module, params = tiny_gpt.tiny(vocab_size=tokenizer.vocab_size, **fields)
    return CausalLanguageModel(Trained(module.config, module, params, tokenizer))


def test_a_model_is_known_by_all_that_decides_its_scores(monkeypatch):
    def changed(change):
        model = gpt()
        model.params = jax.tree_util.tree_map_with_path(change, model.params)
        return model

    def in_a_bit(path, leaf):
        copy = np.array(leaf)
        if "final_norm" in jax.tree_util.keystr(path):
            copy.reshape(-1).view(np.uint32)[0] ^= 1
        return copy

    class Subclass(CausalLanguageModel):
        pass

    one = gpt()
    assert fingerprint(one) == fingerprint(gpt())
    others = [changed(in_a_bit), gpt(dtype="bfloat16"), gpt(num_heads=1)]
    digests = [fingerprint(model) for model in others]
    assert "final_norm" in str(jax.tree_util.tree_structure(one.params)), "a parameter was changed"
    monkeypatch.setattr(one.tokenizer, "fingerprint", lambda: "another", raising=False)
    assert len({fingerprint(gpt()), fingerprint(one), *digests}) == 2 + len(others)
    assert fingerprint(Subclass(one.trained)) is None, "a subclass may score otherwise"
    assert fingerprint(Model(3)) == "tests 3"


def test_a_part_that_a_model_gets_has_to_be_thought_of():
    """A new part of a model may decide its scores: then `fingerprint` covers it before it is added here."""
    assert set(Trained._fields) == {
        "config", "module", "params", "tokenizer", "task", "documents", "step", "mesh", "length",
        "generation", "speller",
    }  # fmt: skip
    assert {field.name for field in dataclasses.fields(NGramLanguageModel)} == {
        "model", "tokenizer", "documents", "bos", "eos", "speller",
    }  # fmt: skip


def test_an_ngram_model_is_known_by_its_numbers_and_its_spelling(tmp_path):
    data = tiny.config(tiny.write_text(tmp_path / "text.txt")).data
    words = dataclasses.replace(data, tokenizer="word", vocab_size=12)
    config = CountConfig(data=words, model=NGramConfig(order=2, smoothing="witten_bell"), sample_tokens=0)
    experiment.run(config, tmp_path / "run")
    one, digests = lm_jax.load(tmp_path / "run"), set()
    assert fingerprint(one) == fingerprint(lm_jax.load(tmp_path / "run"))
    for arrays in (one.model.log10_probs, one.model.log10_backoffs, one.speller.words.log10_probs):
        digests.add(fingerprint(one))
        arrays[0] = arrays[0] * np.float32(1.5)
    digests.add(fingerprint(one))
    one.bos = False
    digests.add(fingerprint(one))
    one.speller = None
    digests.add(fingerprint(one))
    assert len(digests) == 6

    harness = lm_jax.load(tmp_path / "run")
    text = "the model  writes and strange things \n\n"
    [usual], [scored] = harness.score([text]), score_rolling(harness, [text])
    assert scored.complete
    assert scored.byte_log_probs.sum() == pytest.approx(usual.byte_log_probs.sum() - usual.log_probs[-1])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("the word is too long", "cut it"), "the word is too long; cut it"),
        (MemoryError("Unable to allocate 7 GiB"), "out of memory (Unable to allocate 7 GiB)"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "out of memory (RESOURCE_EXHAUSTED"),
    ],
)
def test_a_document_without_a_score_is_named_and_the_others_are_scored(tmp_path, error, reason):
    documents = texts(20)
    bad = [documents[7], documents[13]]
    model = Model(cannot=[(error, part[-1]) for part in bad])
    made = evaluate(model, documents, ScoreCache(tmp_path))
    assert [(f.document, f.reason.startswith(reason)) for f in made.failures] == [("7", True), ("13", True)]
    assert made.scored is None
    assert all(metric.value is metric.interval is None for metric in made.row.metrics.values())
    why = made.row.metrics["bits_per_byte"].why
    assert f"2 of 20 documents could not be scored (the first, 7: {reason}" in why
    good = [text for text in documents if text not in bad]
    value = evaluate(Model(), good).row.metrics["bits_per_byte"].value
    assert made.row.notes[0].startswith(f"on the other 18 documents alone: {value:.4f} bits per byte, ")
    again = Model()
    assert not evaluate(again, documents, ScoreCache(tmp_path)).failures
    assert sorted(again.asked) == sorted(bad), "a failure is not kept"


def test_what_is_no_text_or_no_score_of_it_is_named():
    class Other(Model):
        def score(self, texts, stride=None):
            return [self._one(text.removesuffix("c")) for text in texts]

    [failure] = evaluate(Other(), ["a", "abc", "b"]).failures
    assert failure == ("1", "the model scored other bytes than the document's; correct its `score`")
    [failure] = evaluate(Model(), ["a", "\ud800", "b"]).failures
    assert failure.document == "1"
    with pytest.raises(ZeroDivisionError):
        evaluate(Model(cannot=[(ZeroDivisionError(), "a")]), ["a"])


def test_documents_of_probability_zero_are_counted():
    made = evaluate(Model(), ["a", "b0", "c", "d00"])
    assert [failure.document for failure in made.failures] == ["1", "3"]
    assert "probability 0, in 2 of 4 documents (the first, 1)" in made.row.metrics["bits_per_byte"].why
    assert made.row.notes[0].startswith("on the other 2 documents alone: ")
    assert len(made.scored) == 4, "all have a score"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A GPT on bytes with all its checkpoints, and a text."""
    directory = tmp_path_factory.mktemp("curve")
    text = tiny.write_text(directory / "text.txt")
    config = tiny.config(text, num_steps=12, eval_every=6, checkpoint_every=3, sample_tokens=0, keep="all")
    experiment.run(config, directory / "gpt")
    return directory


def test_all_checkpoints_of_a_run_give_a_curve(runs, tmp_path, monkeypatch, capsys):
    import gc
    import weakref

    from lm_jax.language_models import load as language_model

    alive, opened, load = weakref.WeakSet(), [], language_model.load

    def watched(*arguments, **options):
        gc.collect()
        opened.append(len(alive))
        model = load(*arguments, **options)
        alive.add(model)
        return model

    monkeypatch.setattr(language_model, "load", watched)
    monkeypatch.setattr(scoring, "_CHARACTERS_PER_GROUP", 1 << 18)
    command = [f"--model=run={runs / 'gpt'}", f"--out={tmp_path}", "--no-cache"]
    eval_command.main([*command, "--step=3"])
    [alone] = read_rows(tmp_path / "results.json")
    programs = load(runs / "gpt")._scorer._cache_size()
    opened.clear()
    eval_command.main([*command, "--step=all"])
    rows = read_rows(tmp_path / "results.json")
    assert [(row.model, row.step) for row in rows] == [(f"run@{n}", n) for n in (3, 6, 9, 12)]
    assert opened == [0] * 4, "one checkpoint is in memory"
    assert load(runs / "gpt")._scorer._cache_size() == programs, "those of one checkpoint are used for all"
    assert (alone.model, alone.metrics) == ("run", rows[0].metrics)
    assert language_model.steps_of(runs / "gpt", "12,6,6") == ["6", "12"]
    assert language_model.steps_of(runs / "text.txt", "all") == ["best"]
    page = (tmp_path / "report.html").read_text()
    assert "The headline by checkpoint; the bands are 95 % intervals." in page
    with pytest.raises(
        UserError, match=r"no checkpoint 7 in .*choose best, latest or one of \[3, 6, 9, 12\]"
    ):
        eval_command.main([*command, "--step=6,7"])
    assert "protocol of" not in capsys.readouterr().out, "it is the same for all"


def test_the_other_rows_come_and_the_exit_code_is_1(runs, tmp_path, monkeypatch, capsys):
    score = CausalLanguageModel.score

    def failing(self, some, stride=None):
        if self.step == 6 and any("café" in text for text in some):
            raise UserError("no coffee", "have tea")
        return score(self, some, stride)

    monkeypatch.setattr(CausalLanguageModel, "score", failing)
    with pytest.raises(SystemExit) as ended:
        eval_command.main([f"--model=run={runs / 'gpt'}", "--step=all", f"--out={tmp_path}", "--no-cache"])
    assert ended.value.code == 1
    values = json.loads((tmp_path / "results.json").read_text())
    assert [value["bits_per_byte"] is None for value in values] == [False, True, False, False]
    printed = capsys.readouterr()
    assert "run@6, test: no bits per byte: " in printed.out
    assert "could not be scored (the first, text.txt:" in printed.out
    assert "no coffee; have tea)" in printed.out
    assert "error: no score for some documents by run@6;" in printed.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "int"])
def test_a_stopped_command_goes_on_and_gives_the_same_numbers(runs, tmp_path, number):
    lines = tiny.write_text(tmp_path / "lines.txt", num_lines=40_000, seed=3).read_text().split("\n")
    text = tmp_path / "text.txt"
    text.write_text("".join(" ".join(lines[i : i + 400]) + "\n" for i in range(0, len(lines), 400)))

    def command(cache, out):
        flags = [f"--model={runs / 'gpt'}", f"--text={text}", f"--out={tmp_path / out}"]
        return subprocess.Popen(
            [sys.executable, ROOT / "eval.py", *flags],
            env={**os.environ, "LM_JAX_CACHE": str(tmp_path / cache)},
            stderr=subprocess.PIPE,
        )

    def count():
        return len(list((tmp_path / "stopped").glob("scores/*/*.scores")))

    process, until = command("stopped", "a"), time.monotonic() + 240
    while count() < 2 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(number)
    process.wait()
    kept = count()
    assert kept >= 2, "it was stopped in the middle"
    assert not (tmp_path / "a" / "results.json").exists()
    for cache in ("stopped", "whole"):
        process = command(cache, cache)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert count() > kept, "it had not scored all"
    assert (tmp_path / "stopped" / "results.json").read_bytes() == (
        tmp_path / "whole" / "results.json"
    ).read_bytes()
