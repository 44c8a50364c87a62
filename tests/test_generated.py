"""Evaluation of generated texts: its metrics against direct ones, interruptions, and wrong input."""

import json
import re

import numpy as np
import pytest
import sacrebleu
import test_pretrained_bart as published

import eval as eval_command
import lm_jax
from lm_jax import flags, generation_flags
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation.compare import compare
from lm_jax.evaluation.generated import Decoding, generate
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import Generation
from lm_jax.report import markup

# Random weights write control characters.
pytestmark = pytest.mark.filterwarnings("ignore:profile .* drops every character")
PAIRS = [(f"source {i} abc", f"target {'xyz' * (i % 3 + 1)} {i}") for i in range(70)]
TEXT = Text("test", [Document(f"d{i}", a, {"target": b}) for i, (a, b) in enumerate(PAIRS)])


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("generated") / "model"
    return published.write(path, published.weights_of("generation"), max_position_embeddings=24)


@pytest.fixture(scope="module")
def model(directory):
    return lm_jax.load(directory)


def test_metrics_are_those_of_the_texts_and_their_scores(model):
    made = evaluation.evaluate(model, TEXT, "bart", decoding=Decoding({"num_beams": 2}, max_tokens=10))
    hypotheses = [one.text for one in model.generate([a for a, _ in PAIRS], 10, num_beams=2)]
    assert made.texts.hypotheses == hypotheses
    targets = [b for _, b in PAIRS]
    assert made.texts.references == targets
    metrics = {name: metric.value for name, metric in made.row.metrics.items()}
    assert metrics["bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(hypotheses, [targets]).score / 100, abs=1e-6
    )
    assert metrics["chrf"] == pytest.approx(
        sacrebleu.corpus_chrf(hypotheses, [targets]).score / 100, abs=1e-6
    )
    log_probs = [one.log_probs for one in model.score_targets(*zip(*PAIRS))]
    assert metrics["target_perplexity"] == pytest.approx(np.exp(-np.concatenate(log_probs).mean()))
    assert made.row.headline == "target_perplexity"
    assert made.row.counts == {"pairs": 70, "tokens": sum(map(len, log_probs))}
    assert made.row.context["decoding"]["num_beams"] == 2
    assert made.row.context["decoding"]["max_tokens"] == 10
    assert "tok:13a" in made.row.context["bleu"]
    other = evaluation.evaluate(model, TEXT, "greedy", decoding=Decoding({"num_beams": 1}, max_tokens=10))
    compare([made, other])
    assert other.row.difference.metric == "target_perplexity"
    assert other.row.difference.value == pytest.approx(0, abs=1e-6)


class BrokenError(Exception):
    """Stops generation."""


class Fingerprint:
    """A tokenizer, of which only the fingerprint is asked for."""

    def fingerprint(self):
        return "f"


class Writer:
    """A model that counts what it is asked for, and fails after a number of calls."""

    family, task, evaluator, documents, step = "mine", "causal", "causal", "line", None
    tokenizer = Fingerprint()

    def __init__(self, calls, number=1.0):
        self.calls, self.asked = calls, []
        self.params = {"number": np.array(number)}

    def generate(self, prompts, max_tokens=100, **options):
        if not self.calls:
            raise BrokenError
        self.calls -= 1
        self.asked += prompts
        return [Generation(f"{prompt[-5:]} {options}\nx", np.empty(0), np.empty(0)) for prompt in prompts]

    def stream(self, prompt, max_tokens=100, **options):
        yield ""


LONG = Text("long", [Document(f"d{i}", " ".join(f"w{i}-{j}" for j in range(80))) for i in range(150)])


def continue_long(model, decoding):
    return evaluation.evaluate(model, LONG, "m", task="continuation", decoding=decoding)


def test_interrupted_generation_goes_on_where_it_stopped(tmp_path):
    decoding = Decoding({"temperature": 0.5}, store=tmp_path / "kept")
    prompts = [document.text for document in LONG.documents]

    def made_by(model, decoding=decoding):
        return generate(model, prompts, decoding, "texts", lambda *_: None)

    whole = made_by(Writer(9), decoding._replace(store=None))
    with pytest.raises(BrokenError):
        made_by(Writer(2))
    [file] = (tmp_path / "kept").iterdir()
    again = Writer(9)
    assert made_by(again) == whole
    assert len(again.asked) == 150 - 128
    lines = file.read_bytes().splitlines(keepends=True)
    for damaged, kept in (
        (b"".join(lines)[:-5], 149),
        (b"".join([*lines[:70], lines[70].replace(b"temper", b"tamper"), *lines[71:]]), 70),
        (b"".join(lines[:3]) + b"\x80\n", 3),
        (b"".join([*lines[:9], lines[10], lines[9], *lines[11:]]), 9),
        (b"".join([*lines[:9], lines[8], *lines[9:]]), 9),
    ):
        file.write_bytes(damaged)
        again = Writer(9)
        assert made_by(again) == whole
        assert len(again.asked) == 150 - kept
    for other in (decoding._replace(options={"temperature": 0.6}), decoding._replace(max_tokens=7)):
        again = Writer(9)
        made_by(again, other)
        assert len(again.asked) == 150, "other settings give other texts"
    other = Writer(9, 2.0)
    made_by(other)
    assert len(other.asked) == 150, "a model with other parameters gives other texts"
    for _ in range(2):
        unknown = Writer(9)
        del unknown.params
        made_by(unknown)
        assert len(unknown.asked) == 150, "models that cannot be told apart share no texts"


def test_a_continuation_is_compared_with_as_many_words():
    made = continue_long(Writer(9), Decoding(prompt_words=3))
    assert made.texts.prompts[4] == "w4-0 w4-1 w4-2"
    assert made.texts.references[4].split() == [f"w4-{j}" for j in range(3, 35)]
    assert made.row.counts == {"prompts": 150, "too_short": 0}
    assert made.row.headline == "bleu"
    with pytest.raises(UserError, match="no document of long has more than 80 words"):
        continue_long(Writer(9), Decoding(prompt_words=80))


@pytest.mark.parametrize(
    ("given", "value"),
    [([], None), (["--early-stopping"], True)]
    + [
        ([f"--early-stopping={text}"], value)
        for text, value in zip(("yes", "no", "never"), (True, False, "never"))
    ],
)
def test_the_flag_of_early_stopping(given, value):
    parser = flags.Parser()
    generation_flags.add(parser)
    options = generation_flags.given(parser.parse_args(given))
    assert options == ({} if value is None else {"early_stopping": value})
    with pytest.raises(UserError, match="'maybe' is none of yes, no, never"):
        parser.parse_args(["--early-stopping=maybe"])


def test_the_command_writes_texts_beside_references(directory, tmp_path, capsys):
    table, out = tmp_path / "t.tsv", tmp_path / "out"
    table.write_text("a\tb\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS[:5]))
    argv = [
        f"--model={directory}",
        f"--text=tsv:{table}#a",
        f"--out={out}",
        "--num-beams=2",
        "--max-tokens=8",
    ]
    with pytest.raises(UserError, match=r"has no text in its field 'target'"):
        eval_command.main(argv)
    table.write_text("a\ttarget\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS[:5]))
    eval_command.main(argv)
    shown = capsys.readouterr().out
    assert re.search(r"BLEU +chrF +target perplexity", shown)
    texts = [json.loads(line) for line in (out / "texts-0.jsonl").read_text().splitlines()]
    assert [(one["prompt"], one["reference"]) for one in texts] == PAIRS[:5]
    report = (out / "report.html").read_text()
    assert "the first 5 of 5 texts" in report
    assert markup.escape(texts[0]["hypothesis"][:5]) in report
    [row] = json.loads((out / "results.json").read_text())
    assert row["context"]["decoding"]["num_beams"] == 2
