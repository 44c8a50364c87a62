"""Zero-shot tasks: minimal pairs, multiple choice, last words; by hand, and by what models generate."""

import json
import math
import zipfile

import numpy as np
import pytest
import tiny
from test_expected import neural
from test_ngram_language_model import make_model

import eval as eval_command
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation import texts as texts_module
from lm_jax.evaluation.compare import compare
from lm_jax.evaluation.row import read_rows
from lm_jax.language_models.base import ScoredText
from lm_jax.report import html
from lm_jax.text import load as tokenizers


class Scripted:
    """Gives each text a total that is looked up; the end of the text has a very small probability."""

    family, task, evaluator, documents, step = "scripted", "causal", "causal", "line", None

    def __init__(self, totals):
        self.totals = totals

    def score(self, texts, stride=None):
        for text in texts:
            if text not in self.totals:
                raise UserError(f"{text!r} cannot be scored", "leave it out")
        return [
            ScoredText(
                t.encode(), np.array([[0, 1], [1, len(t)], [len(t)] * 2]),
                np.array([0.25 * self.totals[t], 0.75 * self.totals[t], -1000.0 * len(t)]),
                np.array([False, "?" in t, False]), "<s>", "?" not in t,
            )
            for t in texts
        ]  # fmt: skip

    def describe_context(self, stride=None):
        return {"order": 1}


def records(path, *values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return f"jsonl:{path}"


def run(task, model, spec):
    text = texts_module.choose_records(spec, evaluation.ZERO_SHOT[task])
    return evaluation.evaluate(model, text, "m", task=task)


def values(made):
    return {name: metric.value for name, metric in made.row.metrics.items()}


def pairs(path, paradigms):
    """Records of pairs g0 b0, g1 b1, ..., and totals with which the numbers in `paradigms` come out."""
    lines, totals, number = [], {}, 0
    for uid, outcomes in paradigms.items():
        for one in outcomes:
            good, bad = f"g{number} g", f"b{number} b"
            lines.append({"sentence_good": good, "sentence_bad": bad, "UID": uid, "field": "syntax"})
            totals |= {good: -10.0, bad: {1: -11.0, 0: -9.0, 0.5: -10.0}[one]}
            number += 1
    return records(path, *lines), totals


def test_a_pair_is_right_if_the_good_sentence_is_more_probable(tmp_path):
    spec, totals = pairs(tmp_path / "p.jsonl", {"a": [1, 1, 0, 0.5], "b": [1, 0, 0, 0]})
    made = run("minimal_pairs", Scripted(totals), spec)
    assert values(made) == {
        "accuracy": 3.5 / 8,
        "accuracy_per_byte": 3.5 / 8,
        "accuracy/a": 2.5 / 4,
        "accuracy/b": 1 / 4,
    }
    assert made.row.headline == "accuracy"
    assert made.row.counts == {"pairs": 8, "paradigms": 2, "ties": 1, "oov": 0}
    assert all(metric.interval and not metric.less_is_better for metric in made.row.metrics.values())
    assert (made.row.task, made.row.conditioned_on, made.row.context) == (
        "minimal_pairs",
        "<s>",
        {"order": 1},
    )


def test_paradigms_of_unequal_size_count_alike(tmp_path):
    spec, totals = pairs(tmp_path / "p.jsonl", {"a": [1] * 6, "b": [0, 1]})
    made = run("minimal_pairs", Scripted(totals), spec)
    assert values(made)["accuracy"] == pytest.approx((1 + 0.5) / 2)


def test_equal_sums_are_ties_whatever_the_rounding(tmp_path):
    spec = records(tmp_path / "p.jsonl", {"sentence_good": "ab", "sentence_bad": "ba"})
    made = run("minimal_pairs", Scripted({"ab": 0.1 + 0.2, "ba": 0.3}), spec)
    assert values(made) == {"accuracy": 0.5, "accuracy_per_byte": 0.5}
    made = run("minimal_pairs", Scripted({"ab": -math.inf, "ba": -math.inf}), spec)
    assert values(made)["accuracy"] == 0.5
    made = run("minimal_pairs", Scripted({"ab": -3.0, "ba": -math.inf}), spec)
    assert values(made)["accuracy"] == 1


def test_bytes_divide_where_they_are_asked_to(tmp_path):
    spec = records(tmp_path / "p.jsonl", {"sentence_good": "éééé?", "sentence_bad": "eee"})
    made = run("minimal_pairs", Scripted({"éééé?": -8.0, "eee": -3.0}), spec)
    assert values(made) == {"accuracy": 0, "accuracy_per_byte": 1}, "8 nats in 9 bytes, 3 in 3"
    assert made.row.counts["oov"] == 1


def test_models_are_compared_pair_by_pair(tmp_path):
    spec, good = pairs(tmp_path / "p.jsonl", {"a": [1, 1, 1, 1, 0] * 8, "b": [1, 1, 1, 0, 1] * 8})
    _, poor = pairs(tmp_path / "q.jsonl", {"a": [0, 1, 0, 1, 0] * 8, "b": [1, 0, 0, 0, 1] * 8})
    made = [run("minimal_pairs", Scripted(totals), spec) for totals in (poor, good)]
    compare(made)
    found = made[1].row.difference
    assert (found.metric, found.value) == ("accuracy", pytest.approx(0.4))
    assert found.p_value < 0.001
    assert found.mcnemar_p_value == pytest.approx(2 * 0.5**32), "all 32 pairs that differ are for one model"
    other, totals = pairs(tmp_path / "r.jsonl", {"a": [1, 1, 1, 1, 0] * 8, "c": [1, 1, 1, 0, 1] * 8})
    made[1] = run("minimal_pairs", Scripted(totals), other)
    compare(made)
    assert made[1].row.difference is None, "another paradigm, so another text"
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    other = records(tmp_path / "s.jsonl", *(line | {"sentence_bad": "other"} for line in lines))
    made[1] = run("minimal_pairs", Scripted(good | {"other": -20.0}), other)
    compare(made)
    assert made[1].row.difference is None, "other sentences"


def test_a_choice_is_scored_after_the_query(tmp_path):
    spec = records(
        tmp_path / "c.jsonl",
        {"query": "ab", "choices": ["c", "de"], "gold": 1},
        {"query": "ab ", "choices": ["c", "de", "f"], "gold": "2"},
        {"query": "", "choices": ["c", "de"], "gold": 0},
        {"query": "q", "choices": [" c", "x", "y"], "gold": 0},
    )
    model, asked = neural("gpt"), []
    score = model.score
    model.score = lambda texts, stride=None: asked.extend(texts) or score(texts, stride)
    made = run("multiple_choice", model, spec)
    assert asked == ["ab c", "ab de", "ab c", "ab de", "ab f", "c", "de", "q c", "q x", "q y"]
    right, by_byte = [], []
    for begin, choices, gold in (
        ("ab", [" c", " de"], 1), ("ab", [" c", " de", " f"], 2), ("", ["c", "de"], 0),
        ("q", [" c", " x", " y"], 0),
    ):  # fmt: skip
        before = score([begin])[0].log_probs[:-1].sum()
        sums = [score([begin + one])[0].log_probs[:-1].sum() - before for one in choices]
        right.append(np.argmax(sums) == gold)
        lengths = [len(one) if begin == "q" and one == " c" else len(one.strip()) for one in choices]
        by_byte.append(np.argmax(np.divide(sums, lengths)) == gold)
    assert values(made) == {"accuracy": np.mean(right), "accuracy_per_byte": np.mean(by_byte)}
    assert made.row.counts == {"questions": 4, "choices": 10, "ties": 0, "oov": 0}


def test_choices_that_tie_share_the_credit(tmp_path):
    spec = records(tmp_path / "c.jsonl", {"query": "", "choices": ["aa", "bb", "cc"], "gold": 2})
    made = run("multiple_choice", Scripted({"aa": -2.0, "bb": -1.0, "cc": -1.0}), spec)
    assert values(made)["accuracy"] == 0.5
    assert made.row.counts["ties"] == 1


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny.write_text(tmp_path_factory.mktemp("text") / "text.txt", num_lines=60)


@pytest.fixture(scope="module")
def words(text):
    lines = text.read_text().splitlines()
    return make_model(lines, tokenizers.train("word", lines), order=3, discount_fallback=(0.5, 1.0, 1.5))


def test_a_last_word_is_right_if_greedy_text_begins_with_it(words, text, tmp_path):
    lines = [line.rpartition(" ")[0] for line in text.read_text().splitlines() if line.count(" ") > 3]
    lines += ["the model never", "the model the"]
    spec = records(tmp_path / "l.jsonl", *({"text": line} for line in lines))
    made = run("last_word", words, spec)
    right, log_probs = [], []
    for line in lines:
        context, _, word = line.rpartition(" ")
        [greedy] = words.generate([context], 1, temperature=0)
        right.append(greedy.text.strip() == word)
        log_probs.append(words.score([line])[0].log_probs[-2])
    assert 0 < sum(right) < len(right)
    assert made.statistics["accuracy"].arrays[0].tolist() == right
    assert values(made)["word_perplexity"] == pytest.approx(np.exp(-np.mean(log_probs)))
    assert made.row.counts == {"words": len(lines), "tokens": len(lines), "oov": 1}


@pytest.mark.parametrize("name", ["gpt", "rnn"])
def test_every_token_of_a_last_word_must_be_the_most_probable_one(name, tmp_path):
    model = neural(name)
    [scores] = model.score(["the  modél"])
    spec = records(tmp_path / "l.jsonl", {"text": "the  modél"}, {"text": "a b"})
    made = run("last_word", model, spec)
    nats = -scores.log_probs[4:-1].sum(), -model.score(["a b"])[0].log_probs[1:-1].sum()
    assert values(made)["word_perplexity"] == pytest.approx(np.exp(np.mean(nats)), rel=1e-4)
    assert made.row.counts["tokens"] == len(" modél".encode()) + 2
    best = model.expect(["the  modél"])[0].best
    for wrong in (None, 4, 9):
        changed = np.full_like(best, True)
        changed[[0, -1, *([] if wrong is None else [wrong])]] = False
        model.expect = lambda texts, among=None, stride=None, since=None, changed=changed: [
            one._replace(best=changed[: len(one.best)])
            for one in type(model).expect(model, texts, since=since)
        ]
        [first, _] = run("last_word", model, spec).statistics["accuracy"].arrays[0]
        assert first == (wrong is None)


def test_an_unknown_word_is_never_right(tmp_path):
    lines = ["a b x", "a b y", "a b z"]
    tokenizer = tokenizers.train("word", ["a b a b"])
    model = make_model(lines, tokenizer, order=2, discount_fallback=(0.5, 1.0, 1.5))
    assert model.expect(["a b x"])[0].best[2], "the unknown word is the most probable one"
    made = run("last_word", model, records(tmp_path / "l.jsonl", {"text": "a b x"}))
    assert values(made)["accuracy"] == 0


def test_blimps_files_are_read_as_they_are(shared, tmp_path):
    names = ["causative", "passive_1", "principle_A_case_1"]
    shorter = []
    with zipfile.ZipFile(shared / "data" / "blimp.zip") as archive:
        for name in names:
            lines = archive.read(f"data/{name}.jsonl").splitlines()
            assert len(lines) == 1000
            (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join(lines[:40]))
            pairs = [json.loads(line) for line in lines[:40]]
            shorter.append(
                [np.sign(len(p["sentence_bad"]) - len(p["sentence_good"])) / 2 + 0.5 for p in pairs]
            )
    found = run("minimal_pairs", Lengths(), f"jsonl:{tmp_path}/*.jsonl")
    assert found.row.counts["ties"] == sum(one == 0.5 for of_one in shorter for one in of_one) > 0
    means = dict(zip((f"accuracy/{name}" for name in names), map(np.mean, shorter), strict=True))
    assert values(found) == pytest.approx({"accuracy": np.mean(shorter), "accuracy_per_byte": 0.5} | means)


class Lengths(Scripted):
    """The log-probability of a text is -8 for each character."""

    def __init__(self):
        pass

    def score(self, texts, stride=None):
        self.totals = {text: -8.0 * len(text) for text in texts}
        return super().score(texts)


GOOD = {"sentence_good": "a b", "sentence_bad": "b a", "UID": "u"}
CHOICE = {"query": "a", "choices": ["b", "c"], "gold": 0}
PAIRS = [
    ([GOOD, {"sentence_good": "a", "sentence_bad": "b"}], "f.jsonl:2 has no field 'UID'"),
    ([{"sentence_good": "a"}], "f.jsonl:1 has no field 'sentence_bad'"),
    ([{"sentence_bad": "a"}], "f.jsonl, line 1, has no text in the field 'sentence_good'"),
    ([GOOD, GOOD | {"sentence_good": ""}], "f.jsonl:2 has an empty text in the field 'sentence_good'"),
    ([GOOD | {"sentence_bad": " "}], "f.jsonl:1 has an empty text in the field 'sentence_bad'"),
    ([GOOD | {"sentence_bad": 3}], "f.jsonl:1 has no text in the field 'sentence_bad', but 3"),
    ([], "nothing to score in jsonl:"),
]
CHOICES = [
    ([{"query": "a", "gold": 0}], "f.jsonl:1 has no field 'choices'"),
    ([CHOICE, CHOICE | {"choices": ["b"]}], "f.jsonl:2 has 1 texts in the field 'choices'"),
    ([CHOICE | {"choices": ["b", ""]}], "f.jsonl:1 has an empty text in the field 'choices'"),
    ([CHOICE | {"choices": ["b", 1]}], "f.jsonl:1 has no list of texts in the field 'choices'"),
    ([CHOICE | {"gold": 2}], "f.jsonl:1 has 2 in the field 'gold' and 2 choices"),
    ([CHOICE | {"gold": 0.5}], "f.jsonl:1 has 0.5 in the field 'gold'"),
    ([CHOICE | {"gold": "b"}], "f.jsonl:1 has no finite number in the field 'gold', but 'b'"),
]
WORDS = [
    ([{"text": "a b"}, {"text": "ab"}], "f.jsonl:2 has no word after a space at the end of the field 'text'"),
    ([{"text": "a b "}], "f.jsonl:1 has no word after a space"),
    ([{"texts": "a b"}], "f.jsonl, line 1, has no text in the field 'text'"),
]
WRONG = [
    (task, *case)
    for task, cases in (("minimal_pairs", PAIRS), ("multiple_choice", CHOICES), ("last_word", WORDS))
    for case in cases
]


@pytest.mark.parametrize(("task", "lines", "message"), WRONG)
def test_what_is_wrong_is_named_by_file_line_and_field(words, tmp_path, task, lines, message):
    spec = records(tmp_path / "f.jsonl", *lines)
    with pytest.raises(UserError) as raised:
        run(task, words, spec)
    assert message in str(raised.value)
    assert "; " in str(raised.value), "there is a remedy"


def test_a_sentence_that_cannot_be_scored_is_named(tmp_path):
    spec = records(tmp_path / "f.jsonl", GOOD, GOOD | {"sentence_bad": "odd one"})
    with pytest.raises(
        UserError, match=r"document f\.jsonl:2, field 'sentence_bad': 'odd one' cannot be scored"
    ):
        run("minimal_pairs", Scripted({"a b": -1.0, "b a": -1.0}), spec)
    spec = records(tmp_path / "f.jsonl", GOOD)
    with pytest.raises(
        UserError, match=r"document f\.jsonl:1, field 'sentence_bad': the score is not a number"
    ):
        run("minimal_pairs", Scripted({"a b": -1.0, "b a": math.nan}), spec)


def test_another_field_may_be_the_text(words, tmp_path):
    spec = records(tmp_path / "f.jsonl", {"good": "the model", "sentence_bad": "model the"})
    made = run("minimal_pairs", words, f"{spec}#good")
    assert made.row.documents == 1
    spec = records(tmp_path / "f.jsonl", {"good": "", "sentence_bad": "model the"})
    with pytest.raises(UserError, match="in the field 'good'"):
        run("minimal_pairs", words, f"{spec}#good")


def test_the_command_writes_a_row_and_a_report_with_each_paradigm(tmp_path, tiny_run, capsys):
    for name in ("a", "b"):
        pairs(tmp_path / f"{name}.jsonl", {name: [1, 0, 0.5]})
    flags = [f"--text=jsonl:{tmp_path}/*.jsonl", f"--out={tmp_path / 'out'}", "--task=minimal_pairs"]
    eval_command.main([f"--model={tiny_run[1]}", f"--model={tiny_run[1]}", *flags])
    rows = read_rows(tmp_path / "out" / "results.json")
    assert [list(row.metrics) for row in rows] == [
        ["accuracy", "accuracy_per_byte", "accuracy/a", "accuracy/b"]
    ] * 2
    assert rows[1].difference.value == 0
    assert "accuracy/a" not in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<th scope="row"><bdi>a</bdi></th><td class="text">accuracy</td>') == 1
    assert html.render([evaluation.Evaluation(rows[0], {})], {}, "x").count("<table") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task=minimal_pairs"], "no --text; give --text='jsonl:GLOB'"),
        (["--task=last_word", "--text=FILE"], "--text=FILE is no corpus of records"),
        (["--task=last_word", "--text=jsonl:FILE", "--documents=line"], "which reads records; leave it out"),
        (["--task=last_word", "--text=jsonl:FILE", "--stride=0"], "stride=0"),
    ],
)
def test_wrong_flags_are_refused(tmp_path, tiny_run, flags, message):
    file = tmp_path / "file.jsonl"
    records(file, {"text": "a b"})
    flags = [flag.replace("FILE", str(file)) for flag in flags]
    with pytest.raises(UserError) as raised:
        eval_command.main([f"--model={tiny_run[1]}", f"--out={tmp_path / 'out'}", *flags])
    assert message.replace("FILE", str(file)) in str(raised.value)


def test_models_that_cannot_are_refused(tmp_path):
    model = type("Encoder", (), {"family": "bart", "task": "none", "evaluator": "none", "step": 0})()
    spec = records(tmp_path / "f.jsonl", GOOD | CHOICE | {"text": "a b"})
    for task, message in (
        ("minimal_pairs", "a bart model does not give sentences a probability"),
        ("multiple_choice", "a bart model does not give choices a probability"),
        ("last_word", "a bart model does not tell which token it expects most"),
    ):
        with pytest.raises(UserError, match=message):
            run(task, model, spec)
