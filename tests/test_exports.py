"""Files for papers and for one's own analysis: read back by csv, a Markdown parser and LaTeX's rules."""

import csv
import dataclasses
import hashlib
import io
import json
import shutil
import subprocess

import numpy as np
import pytest
from markdown_it import MarkdownIt
from test_evaluation import Uniform

from lm_jax.data.documents import Document
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation.base import Evaluation, row_of
from lm_jax.evaluation.classification import classifier_statistics
from lm_jax.evaluation.compare import compare
from lm_jax.evaluation.generated import text_statistics
from lm_jax.evaluation.row import Difference, Metric
from lm_jax.evaluation.texts import Text
from lm_jax.report import exports, papers

NASTY = r"a_b%c&d|e$f#g{h}i~j^k\l<m>*n`o`[p]--q'r''s" + '"t"'
TEXT = Text("test", [Document(f"d{i}", "some words and ? " * (i + 1)) for i in range(12)])


@pytest.fixture(scope="module")
def scored():
    """Two models of one text, of which the second one has the smaller value in each metric."""
    made = [evaluation.evaluate(Uniform(b, noise=0.1), TEXT, n) for b, n in ((3.0, "one"), (2.0, NASTY))]
    compare(made)
    return made


@pytest.fixture(scope="module")
def labelled():
    """A classifier, and what generated texts give, of twelve documents."""
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(2, size=12), rng.random(12)
    scores[-1] = 1 - labels[-1]  # no probability for the right class
    of_labels = classifier_statistics(labels, np.stack([1 - scores, scores], axis=1))
    of_texts = text_statistics(["a b c d e"] * 12, [f"a b c d {i}" for i in range(12)])
    made = []
    for name, statistics in (("labels", of_labels), ("texts", of_texts)):
        model = Uniform(1.0)
        model.task = name
        row = row_of(
            model, TEXT, name, conditioned_on="", context={}, counts={"examples": 12}, sums={},
            metrics=evaluation.measure(statistics, {}),
        )  # fmt: skip
        made.append(Evaluation(row, statistics))
    return made, labels, scores


def test_documents_have_what_adds_up_to_the_row(scored, tmp_path):
    exports.write(tmp_path, scored, [TEXT, TEXT], "python eval.py")
    lines = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text().splitlines()]
    assert [line["model"] for line in lines] == ["one"] * 12 + [NASTY] * 12
    for one in scored:
        own = [line for line in lines if line["model"] == one.row.model]
        assert [line["document"] for line in own] == [d.name for d in TEXT.documents]
        assert [line["sha256"] for line in own] == [
            hashlib.sha256(d.text.encode()).hexdigest() for d in TEXT.documents
        ]
        for count in ("tokens", "words", "bytes"):
            assert sum(line[count] for line in own) == one.row.counts[count]
        assert sum(line["unknown"] for line in own) == one.row.counts["oov"] == 78
        assert sum(line["nats"] for line in own) == pytest.approx(one.row.sums["nats"])


def test_documents_of_other_tasks_have_the_metrics_of_each_alone(labelled, tmp_path):
    made, labels, scores = labelled
    exports.write(tmp_path, made, [TEXT, TEXT], "python eval.py")
    lines = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text().splitlines()]
    of_labels, of_texts = lines[:12], lines[12:]
    assert [line["accuracy"] for line in of_labels] == ((scores > 0.5) == labels).tolist()
    chosen = np.where(labels == 1, scores, 1 - scores)
    losses = [line["log_loss"] for line in of_labels]
    assert losses[:-1] == pytest.approx((-np.log(chosen[:-1])).tolist())
    assert losses[-1] is None, "JSON has no infinity"
    assert "auc" not in of_labels[0], "of ranks"
    assert of_texts[0]["rouge1"] == pytest.approx(0.8)
    table = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert [line["model"] for line in table] == ["labels", "texts"]
    assert float(table[0]["accuracy"]) == made[0].row.metrics["accuracy"].value
    assert table[0]["bleu"] == table[1]["accuracy"] == ""
    assert (tmp_path / "table.tex").read_text().count("\\toprule") == 2
    assert (tmp_path / "table.md").read_text().count("| :-- |") == 2


def test_the_table_of_all_numbers_is_read_back_exactly(scored, tmp_path):
    exports.write(tmp_path, scored, [TEXT, TEXT], "python eval.py")
    first, second = csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text()))
    assert second["model"] == NASTY
    for name, metric in scored[1].row.metrics.items():
        if metric.value is not None:
            assert float(second[name]) == metric.value
            assert (float(second[f"{name}_low"]), float(second[f"{name}_high"])) == metric.interval
    difference = scored[1].row.difference
    assert (second["difference_to"], float(second["difference_value"])) == ("one", difference.value)
    assert float(second["difference_low"]) == difference.interval[0]
    assert float(second["difference_holm_p_value"]) == difference.holm_p_value
    assert first["difference_to"] == ""


def _cells(markdown):
    """The plain text of each cell of the first table, and whether a part of it is bold."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    end = next(i for i, token in enumerate(tokens) if token.type == "table_close")
    cells = [token.children for token in tokens[:end] if token.type == "inline"]
    return [
        ("".join(child.content for child in cell), any(child.type == "strong_open" for child in cell))
        for cell in cells
    ]


def test_markdown_shows_names_as_they_are_and_the_best_value_bold(scored, tmp_path):
    command = "python eval.py --model='`a|b`' --x"
    exports.write(tmp_path, scored, [TEXT, TEXT], command)
    content = (tmp_path / "table.md").read_text()
    cells = _cells(content)
    assert len(cells) == 3 * 6
    assert [text for text, _ in cells[:6]] == [
        "model", "bits/byte", "nats/token", "perplexity", "difference", "p (Holm)",
    ]  # fmt: skip
    assert cells[12][0] == NASTY
    row = scored[1].row
    low, high = row.metrics["nats_per_token"].interval
    assert cells[14] == (f"{row.metrics['nats_per_token'].value:.4f} [{low:.4f}, {high:.4f}]", True)
    assert cells[8][1] is False
    low, high = row.difference.interval
    assert cells[16][0] == f"{row.difference.value:+.4f} nats/token [{low:+.4f}, {high:+.4f}]"
    tokens = MarkdownIt("commonmark").parse(content)
    code = [c.content for token in tokens for c in token.children or () if c.type == "code_inline"]
    assert code == [command]
    assert row.text_sha256 in content


def _renamed(one, **changes):
    return one._replace(row=dataclasses.replace(one.row, **changes))


def test_values_that_do_not_compare_are_not_bold(scored):
    other = _renamed(scored[1], counts=scored[1].row.counts | {"tokens": 7})
    [table] = papers.tables([scored[0], other])
    assert not any(cell.bold for line in table.lines for cell in line)
    equal = [scored[0], scored[0]._replace(row=dataclasses.replace(scored[0].row))]
    [table] = papers.tables(equal)
    assert all(line[2].bold for line in table.lines), "both are the best"
    [table] = papers.tables(scored[:1])
    assert not any(cell.bold for line in table.lines for cell in line), "one value is not the best of any"


def test_latex_escapes_what_has_a_meaning(scored, tmp_path):
    exports.write(tmp_path, scored, [TEXT, TEXT], "python eval.py\n\\end{document}")
    content = (tmp_path / "table.tex").read_text()
    assert (
        r"a\_b\%c\&d\textbar{}e\$f\#g\{h\}i\textasciitilde{}j\textasciicircum{}k\textbackslash{}l"
        r"\textless{}m\textgreater{}*n\textasciigrave{}o\textasciigrave{}{[}p{]}-{}-q{'}r{'}{'}s"
        r"\textquotedblright{}t\textquotedblright{} & "
    ) in content
    for line in content.splitlines():
        if line.startswith("%"):
            continue
        assert line.endswith(r"\\") == (line.count(" & ") == 5), "a line of the table"
        assert line.startswith("\\") or line.endswith(r"\\")
    assert "% Made by: python eval.py \\end{document}\n" in content
    assert f"% sha256 of the text: {scored[0].row.text_sha256}" in content
    assert content.count(r"\textbf{") == 2


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_latex_compiles(scored, tmp_path):
    exports.write(tmp_path, scored, [TEXT, TEXT], "python eval.py")
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\begin{table}\\input{table.tex}"
        "\\end{table}\\end{document}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_row_without_values_or_with_an_earlier_difference_is_written(scored, tmp_path):
    why = "no bits per byte: 3 unknown tokens stand for text that is not scored"
    row = dataclasses.replace(
        scored[0].row,
        metrics=scored[0].row.metrics | {"bits_per_byte": Metric(None, None, why)},
        difference=Difference("b", "nats_per_token", -0.5, 0.01),
    )
    exports.write(tmp_path, [scored[0]._replace(row=row)], [TEXT], "python eval.py")
    content = (tmp_path / "table.md").read_text()
    assert why in content
    assert "| one | – | " in content
    assert "| -0.5000 nats/token | – |" in content
