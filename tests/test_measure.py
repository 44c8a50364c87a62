"""`python -m lm_jax.metrics` against the tools that people use, and on wrong files."""

import json
import re
import zipfile

import numpy as np
import pytest
import sacrebleu
import sklearn.metrics
from rouge_score import rouge_scorer

from lm_jax import measure
from lm_jax.errors import UserError
from lm_jax.metrics.chrf import corpus_chrf
from lm_jax.metrics.text import corpus_bleu

REFERENCES = [f"the cat number {i} sat on the mat , near house {i * 7 % 5}" for i in range(30)]
GOOD = [text.replace("sat", "is") for text in REFERENCES]
BAD = [" ".join(text.split()[::-1][:6]) for text in REFERENCES]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("measure")
    for name, lines in {"r": REFERENCES, "a": GOOD, "b": BAD, "short": GOOD[:3]}.items():
        (directory / name).write_text("".join(f"{line}\n" for line in lines))
    labels, predictions = (["yes", "no", "no"] * 10, ["yes", "no", "yes"] * 10)
    (directory / "labels").write_text("\n".join(labels))
    (directory / "predicted").write_text("\n".join(predictions))
    (directory / "p.tsv").write_text(
        "no\tyes\n" + "".join(f"{1 - i / 30:.4f}\t{i / 30:.4f}\n" for i in range(30))
    )
    (directory / "empty").write_text("\n")
    return directory


def run(capsys, *argv):
    measure.main([*map(str, argv), "--json"])
    return json.loads(capsys.readouterr().out)


def test_texts_are_scored_as_by_published_tools(files, capsys):
    both = [f"--hypotheses={files / name}" for name in "ab"]
    bleu = run(capsys, "bleu", *both, f"--references={files / 'r'}")
    rouge = run(capsys, "rouge", *both, f"--references={files / 'r'}")
    chrf = run(capsys, "chrf", "--words=2", *both, f"--references={files / 'r'}")
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    for i, hypotheses in enumerate((GOOD, BAD)):
        wanted = sacrebleu.corpus_bleu(hypotheses, [REFERENCES]).score / 100
        assert bleu[i]["metrics"]["bleu"]["value"] == pytest.approx(wanted, abs=1e-6)
        wanted = np.mean([scorer.score(r, h)["rougeL"].fmeasure for r, h in zip(REFERENCES, hypotheses)])
        assert rouge[i]["metrics"]["rougeL"]["value"] == pytest.approx(wanted, abs=1e-6)
        wanted = sacrebleu.corpus_chrf(hypotheses, [REFERENCES], word_order=2).score / 100
        assert chrf[i]["metrics"]["chrf++"]["value"] == pytest.approx(wanted, abs=1e-6)
    for rows, name in ((bleu, "bleu"), (rouge, "rouge2"), (chrf, "chrf++")):
        a, b = (row["metrics"][name] for row in rows)
        assert b["difference"] == pytest.approx(b["value"] - a["value"], abs=1e-6)
        assert b["p_value"] < 0.01
        assert a["interval"][0] <= a["value"] <= a["interval"][1]
    assert "nrefs:1" in bleu[0]["signature"]


def test_several_references_are_alternatives(files, capsys):
    flags = [f"--references={files / name}" for name in "rb"]
    [made] = run(capsys, "bleu", f"--hypotheses={files / 'a'}", *flags)
    wanted = sacrebleu.corpus_bleu(GOOD, [REFERENCES, BAD]).score / 100
    assert made["metrics"]["bleu"]["value"] == pytest.approx(wanted, abs=1e-6)
    assert "nrefs:2" in made["signature"]


def test_labels_are_scored_as_by_scikit_learn(files, capsys):
    flags = [f"--labels={files / 'labels'}", f"--predictions={files / 'predicted'}"]
    [made] = run(capsys, "classification", *flags)
    labels, predicted = ((files / name).read_text().split() for name in ("labels", "predicted"))
    wanted = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "macro_f1": sklearn.metrics.f1_score(labels, predicted, average="macro"),
        "mcc": sklearn.metrics.matthews_corrcoef(labels, predicted),
    }
    for name, value in wanted.items():
        assert made["metrics"][name]["value"] == pytest.approx(value, abs=1e-6)
    [made] = run(capsys, "classification", flags[0], f"--probabilities={files / 'p.tsv'}")
    scores = np.arange(30) / 30
    wanted = sklearn.metrics.roc_auc_score(np.array(labels) == "yes", scores)
    assert made["metrics"]["auc"]["value"] == pytest.approx(wanted, abs=1e-6)


def test_the_table_shows_values_and_signature(files, capsys):
    measure.main(["bleu", f"--hypotheses={files / 'a'}", f"--references={files / 'r'}"])
    out = capsys.readouterr().out
    wanted = sacrebleu.corpus_bleu((files / "a").read_text().splitlines(), [REFERENCES]).score
    shown = re.search(r"BLEU +(\d+\.\d\d) +\d+\.\d\d–\d+\.\d\d\n", out)
    assert float(shown[1]) == pytest.approx(wanted, abs=0.006), "on sacrebleu's scale"
    measure.main(["bleu", "--profile=nltk", f"--hypotheses={files / 'a'}", f"--references={files / 'r'}"])
    assert re.search(r"BLEU +0\.\d{4} +0\.\d{4}–0\.\d{4}", capsys.readouterr().out)
    assert "profile:sacrebleu-13a" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["bleu", "--references=r"], "no --hypotheses"),
        (["bleu", "--hypotheses=a"], "no --references"),
        (["rouge", "--hypotheses=short", "--references=r"], "short has 3 lines and .*r 30"),
        (["chrf", "--hypotheses=empty", "--references=r"], "empty is empty"),
        (["chrf", "--hypotheses=nowhere", "--references=r"], "nowhere"),
        (["classification", "--predictions=a"], "no --labels=FILE"),
        (["classification", "--labels=labels"], "no --predictions=FILE"),
        (["classification", "--labels=r", "--probabilities=p.tsv"], "has the label 'the cat .* no column"),
        (["classification", "--labels=labels", "--probabilities=labels"], "line 2 does not hold 1 prob"),
    ],
)  # fmt: skip
def test_wrong_files_are_one_line(files, argv, message):
    named = [re.sub(r"=(?=.)", f"={files}/", flag) for flag in argv]
    with pytest.raises(UserError, match=message):
        measure.main(named)


def test_the_sample_of_wmt15_scores_as_by_mteval(shared):
    """NIST's mteval-v13a printed 0.2318 for these texts."""
    with zipfile.ZipFile(shared / "data" / "wmt15_eval.zip") as archive:
        names = {name.rsplit("/")[-1]: name for name in archive.namelist()}

        def segments(name):
            text = archive.read(names[name]).decode()
            return re.findall(r"<seg[^>]*>(.*?)</seg>", text, re.DOTALL)

        hypotheses = segments("newstest2015-100sents-enru-google.ru.sgm")
        references = segments("newstest2015-100sents-enru-ref.ru.sgm")
        printed = archive.read(names["mteval-13a.output"]).decode()
    assert "BLEU score = 0.2318" in printed
    made = corpus_bleu(hypotheses, references, "mteval-13a")
    assert round(made, 4) == 0.2318
    assert "case:lc|" in made.signature


def test_a_score_prints_on_the_scale_of_its_tool():
    """Numbers lie in [0, 1]; what is shown, on the scale of the tool."""
    hypotheses = [*GOOD[:-1], "nothing alike"]
    for made, wanted in (
        (corpus_bleu(hypotheses, REFERENCES), sacrebleu.corpus_bleu(hypotheses, [REFERENCES]).score),
        (corpus_chrf(hypotheses, REFERENCES), sacrebleu.corpus_chrf(hypotheses, [REFERENCES]).score),
    ):
        assert 100 * made == pytest.approx(wanted, abs=1e-4)
        assert str(made).startswith(f"{wanted:.2f} (nrefs:1|")
    of_nltk = corpus_bleu(hypotheses, REFERENCES, "nltk")
    assert str(of_nltk).startswith(f"{float(of_nltk):.4f} (nrefs:1|")
