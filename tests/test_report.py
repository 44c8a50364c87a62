"""What a person sees: a table, a page that needs nothing else, a live line, metrics.jsonl."""

import dataclasses
import io
import json
import xml.etree.ElementTree

import pytest
from rich.console import Console

from lm_jax.evaluation.causal import Row
from lm_jax.progress import LiveLine, MetricWriter, Reporter, read_metrics
from lm_jax.report import html, table

ROW = Row(
    model="runs/<gpt>", family="gpt", objective="causal", step=7, split="test", documents=3, tokens=1234,
    words=300,
    bytes=4000, oov=0, nats=2468.0, perplexity=7.389, perplexity_without_oov=7.389, word_perplexity=3700.0,
    bits_per_byte=0.8901, bits_per_byte_ci=[0.85, 0.93], why="", conditioned_on="<|endoftext|>",
    context={"window": 128, "stride": 64}, text_sha256="0" * 64,
)  # fmt: skip


def test_the_table_fits_a_terminal_and_shows_every_number():
    console = Console(width=80, file=io.StringIO())
    other = dataclasses.replace(ROW, difference={"to": "runs/a", "bits_per_byte": -0.125, "p_value": 0.04})
    table.print_rows([ROW, other], console)
    text = console.file.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines()[:3])
    assert "-0.1250 bits/byte beside runs/a (paired bootstrap over documents, p = 0.04)" in text
    for number in ("1,234", "2.0000", "7.39", "0.8901", "0.8500–0.9300"):
        assert number in text


def test_the_report_is_one_page_that_needs_nothing_else():
    curves = {
        "runs/<gpt>": [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "valid_loss": 2.5}]
    }
    page = html.render([ROW, ROW], curves, "python eval.py --model='<x>'")
    assert page.count("<svg") == 2
    assert "runs/&lt;gpt&gt;" in page
    assert "<gpt>" not in page, "names are escaped"
    assert "src=" not in page
    assert 'href="http' not in page
    for part in page.split("<svg")[1:]:
        xml.etree.ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")


def test_a_log_gets_lines_and_a_terminal_a_live_one():
    log, terminal = (Console(file=io.StringIO(), force_terminal=t, width=100) for t in (False, True))
    for console in (log, terminal):
        with LiveLine("training", 10, console=console) as line:
            line._last_line -= 100  # as if the last line were long ago
            line.update(5, "loss 1.0")
            line.say("kept")
    assert "training 5/10  loss 1.0" in log.file.getvalue()
    assert "5/10" in terminal.file.getvalue()
    assert all("kept" in console.file.getvalue() for console in (log, terminal))


def test_short_work_is_not_reported(capsys):
    report = Reporter()
    for done in range(11):
        report("reading", done, 10)
    report.close()
    assert capsys.readouterr().err == ""


def test_metrics_of_steps_that_are_done_again_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricWriter(path, 0)
    for step in (1, 2, 3):
        writer.write(step, loss=float(step))
    writer.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # a crash
    writer = MetricWriter(path, 2)
    writer.write(3, loss=30.0)
    writer.close()
    assert [line["loss"] for line in read_metrics(path)] == [1.0, 2.0, 30.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path, value):
    from lm_jax import files

    files.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"x": value})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert len(list(tmp_path.iterdir())) == 1
