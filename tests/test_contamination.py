"""The longest run of words that a document shares with a training text, calibration, and both in eval.py."""

import json
import random

import numpy as np
import pytest
import scipy.special
from test_expected import neural
from tiny_gpt import apply

import eval as eval_command
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation import calibration, contamination, shared_runs
from lm_jax.evaluation.contamination import Contamination, Source, with_parts
from lm_jax.evaluation.row import read_rows
from lm_jax.evaluation.shared_runs import SharedRun, longest_shared_runs
from lm_jax.evaluation.texts import Text
from lm_jax.evaluation.training_text import TrainingText
from lm_jax.metrics import likelihood
from lm_jax.text import word_table
from lm_jax.text.word_counts import WordCounts
from lm_jax.text.words import word_spans, words_of


def brute_force(text, training):
    """The most words in a row that a text shares with a document, and the most bytes of such a run."""
    data, best = text.encode(), (0, 0)
    spans = word_spans(data).tolist()
    words = [data[a:b] for a, b in spans]
    for there in (words_of(document.text.encode()) for document in training):
        for i in range(len(words)):
            for j in range(len(there)):
                size = 0
                while i + size < len(words) and j + size < len(there) and words[i + size] == there[j + size]:
                    size += 1
                if size:
                    best = max(best, (size, spans[i + size - 1][1] - spans[i][0]))
    return best


def draw_texts(draw):
    """Tested texts and a training text of few words, some of which repeat a part of a tested one."""
    words = [f"w{i}" * draw.randrange(1, 4) for i in range(draw.choice([1, 2, 3, 8]))] + [
        "é",
        "a" * 29,
        "x\v",
    ]

    def document(size):
        return "".join(draw.choice(words) + draw.choice([" ", "\n", "  ", " \n"]) for _ in range(size))

    texts = [document(draw.randrange(40)) for _ in range(draw.randrange(1, 6))]
    training = [document(draw.randrange(60)) for _ in range(draw.randrange(5))]
    if draw.random() < 0.5:
        training.append("zz " + " ".join(texts[0].split()[draw.randrange(5) :]))
    return texts, [Document(str(i), one) for i, one in enumerate(training)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("collide", [False, True])
def test_the_longest_shared_runs_are_those_of_brute_force(monkeypatch, seed, collide):
    if collide:  # every word has the same place in the table of words
        monkeypatch.setattr(word_table, "mix", lambda keys: keys * np.uint64(0))
    draw = random.Random(seed)
    for _ in range(30):
        monkeypatch.setattr(shared_runs, "_WORDS_AT_A_TIME", draw.choice([1, 5, 1 << 20]))
        texts, training = draw_texts(draw)
        found = longest_shared_runs(texts, iter(training))
        assert [one[:2] for one in found] == [brute_force(text, training) for text in texts]
        for text, one in zip(texts, found, strict=True):
            if one.words:
                words = words_of(text.encode()[one.start : one.start + one.bytes])
                there = words_of(training[int(one.source)].text.encode())
                assert len(words) == one.words
                assert any(there[i : i + one.words] == words for i in range(len(there)))


def test_nothing_is_shared_with_no_words_and_across_documents():
    training = [Document("a", "one two"), Document("b", "three four"), Document("c", "")]
    assert longest_shared_runs([], training) == []
    found = longest_shared_runs(["", " \n", "two three", "x"], training)
    assert found == [SharedRun(), SharedRun(), SharedRun(1, 5, 4, "b"), SharedRun()]
    assert longest_shared_runs(["a b"], []) == [SharedRun()]


def test_a_whole_document_of_many_words_is_found():
    draw = random.Random(0)
    words = [str(draw.randrange(50)) for _ in range(3000)]
    training = [Document("x", " ".join(["no", *words, "no"])), Document("y", " ".join(words[:2999]))]
    [found] = longest_shared_runs([" ".join(words)], training)
    assert found == SharedRun(3000, len(" ".join(words)), 0, "x")


def make(*documents):
    """An evaluation of a tiny model, and its text."""
    text = Text("test", [Document(str(i), one) for i, one in enumerate(documents)])
    return evaluation.evaluate(neural("gpt"), text, "m"), text


def test_results_with_and_without_contaminated_documents():
    documents = ["a b c d", "x y z", "a b c", "q"]
    made, text = make(*documents)
    found = contamination.find(text, Source("T", lambda: [Document("t", "c a b c d a b c")]), words=3)
    assert [run.words for run in found.runs] == [4, 0, 3, 0]
    assert found.is_contaminated.tolist() == [True, False, True, False]
    extended = with_parts(made, found)
    clean = make("x y z", "q")[0].row.metrics
    dirty = make("a b c d", "a b c")[0].row.metrics
    for name in made.row.overall:
        assert extended.row.metrics[f"{name}/clean"].value == pytest.approx(clean[name].value, rel=1e-6)
        assert extended.row.metrics[f"{name}/contaminated"].value == pytest.approx(
            dirty[name].value, rel=1e-6
        )
        assert f"{name}/clean" in extended.statistics
    [note] = extended.row.notes
    value = clean["bits_per_byte"].value
    assert note == f"2 of 4 documents share 3 words or more with T; without them bits per byte is {value:.4f}"


def test_without_contaminated_documents_there_is_a_note_alone():
    made, text = make("a b", "c d")
    found = Contamination("T", 13, ["0", "1"], [SharedRun(2), SharedRun()])
    assert with_parts(made, found).statistics == made.statistics
    assert made.row.notes == ["0 of 2 documents share 13 words or more with T"]
    blocks = {
        name: one._replace(arrays=tuple(np.repeat(x, 2, axis=0) for x in one.arrays))
        for name, one in made.statistics.items()
    }
    some = Contamination("T", 2, ["0", "1"], found.runs)
    assert with_parts(made._replace(statistics=blocks), some).statistics == blocks, "of four blocks"
    evaluations, _ = contamination.apply([made], [text], {"other": Source("T", list)})
    assert evaluations[0].row.notes[-1].startswith("contamination is not known")


def test_accuracy_and_calibration_are_those_of_the_logits():
    documents = ["the model reads", "a text", "the"]
    made, text = make(*documents)
    model = neural("gpt")
    extended, one = calibration.calibrate(model, made, text, None, lambda *_: None)
    logits, targets = [], []
    for document in documents:
        ids = np.concatenate([[256], np.frombuffer(document.encode(), np.uint8), [256]])
        logits.append(apply(model.module, model.params, ids[None, :-1])[0][0])
        targets.append(ids[1:])
    logits_NV, targets_N = np.concatenate(logits), np.concatenate(targets)
    metrics = extended.row.metrics
    assert metrics["token_accuracy"].value == pytest.approx(
        float(likelihood.accuracy(logits_NV, targets_N).mean)
    )
    error = float(likelihood.calibration_error(logits_NV, targets_N))
    assert metrics["calibration_error"].value == pytest.approx(error, rel=1e-4)
    assert extended.statistics.keys() == metrics.keys()
    diagram = calibration.reliability([one, one._replace(model="again")])
    bins = likelihood.reliability_bins(logits_NV, targets_N)
    np.testing.assert_allclose(diagram.counts, 2 * np.asarray(bins.weight))
    np.testing.assert_allclose(diagram.values["m"], np.asarray(bins.correct / bins.weight), rtol=1e-5)
    probs_N = scipy.special.softmax(np.asarray(logits_NV, float), axis=-1).max(axis=1)
    assert diagram.counts.sum() == 2 * len(probs_N)


def test_the_training_text_of_a_run_is_read_again_and_compared(tiny_run, tmp_path, monkeypatch):
    config, run, _ = tiny_run
    read = TrainingText(str(run))
    documents = [document.text for document in read.documents()]
    held_out = [json.loads(x)["text"] for n in ("valid", "test") for x in (run / f"{n}.jsonl").open()]
    source = config.data.corpus.removeprefix("text:")
    with open(source) as file:
        assert sorted([*documents, *held_out]) == sorted(file)
    assert read.word_counts().items() == WordCounts(documents).items()
    monkeypatch.setenv("LM_JAX_CACHE", str(tmp_path))
    assert read.word_counts().items() == WordCounts(documents).items()
    assert len([*tmp_path.glob("words-*")]) == 1
    read.sha256 = "0" * 64
    with pytest.raises(UserError, match=r"no longer what .* was trained on"):
        read.documents()
    with pytest.raises(UserError, match="is not a run directory"):
        TrainingText(source)


def test_eval_writes_breakdowns_calibration_and_contamination(tiny_run, tmp_path, capsys):
    _, run, rows = tiny_run
    asked = [f"--model=a={run}", f"--model=b={run}", f"--out={tmp_path}", "--contamination-words=5"]
    eval_command.main([*asked, "--breakdown", "--calibration", "--contamination=train"])
    written = json.loads((tmp_path / "breakdowns.json").read_text())
    titles = [one["title"] for one in written["breakdowns"]]
    assert titles[:2] == ["word frequency in the training text of a", "words of the training text of a"]
    assert titles[-1] == "probability of the most probable token"
    [pair] = written["differing_words"]
    assert pair["models"] == ["a", "b"]
    assert pair["words"] == pair["occurrences"] == [], "the two are one model"
    [shared] = json.loads((tmp_path / "contamination.json").read_text())
    texts = [json.loads(line)["text"] for line in (run / "test.jsonl").open()]
    training = [*TrainingText(str(run)).documents()]
    expected = [brute_force(text, training) for text in texts]
    assert [(one["words"], one["bytes"]) for one in shared["documents"]] == expected
    assert shared["contaminated"] == sum(words >= 5 for words, _ in expected)
    row, _ = read_rows(tmp_path / "results.json")
    assert row.metrics["bits_per_byte"].value == rows[-1].metrics["bits_per_byte"].value
    assert row.metrics.keys() >= {"bits_per_byte/clean", "token_accuracy", "calibration_error"}
    printed = capsys.readouterr().out
    assert "word frequency in the training text of a: bits per word" in printed
    assert "token accuracy 0." in printed


def test_what_cannot_be_compared_is_refused_before_the_work(tiny_run, tmp_path):
    _, run, _ = tiny_run
    asked = [f"--model={run}", f"--out={tmp_path}"]
    for more, cause in (
        (["--contamination=nowhere"], "no corpus 'nowhere'"),
        (["--contamination=text:nowhere"], "nowhere"),
        (["--calibration", "--task=continuation"], "--calibration with --task=continuation"),
    ):
        with pytest.raises(UserError, match=cause):
            eval_command.main([*asked, *more])
    with pytest.raises(UserError, match="no model has a training text on record"):
        contamination.sources("train", {"a": str(tmp_path)})
    assert not [*tmp_path.iterdir()]
