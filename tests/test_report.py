"""What a person sees: a table, a page that needs nothing else, a live line, metrics.jsonl."""

import dataclasses
import io
import json
import xml.etree.ElementTree

import numpy as np
import pytest
import sklearn.metrics
from rich.console import Console

from lm_jax.evaluation.base import Evaluation, Predictions
from lm_jax.evaluation.row import Difference, Metric, Row
from lm_jax.progress import LiveLine, MetricWriter, Reporter, read_metrics
from lm_jax.report import figures, html, numbers, runs, sweep, table

ROW = Row(
    model="runs/<gpt>", family="gpt", task="causal", step=7, split="test", documents=3,
    text_sha256="0" * 64, conditioned_on="<|endoftext|>", context={"window": 128, "stride": 64},
    counts={"tokens": 1234, "words": 300, "bytes": 4000, "oov": 0}, sums={"nats": 2468.0},
    metrics={
        "bits_per_byte": Metric(0.8901, (0.85, 0.93)),
        "nats_per_token": Metric(2.0, (1.9, 2.1)),
        "perplexity": Metric(7.389, (6.7, 8.2)),
        "word_perplexity": Metric(3700.0, (3600.0, 3800.0)),
        "perplexity_without_oov": Metric(7.389, (6.7, 8.2)),
    },
)  # fmt: skip
LABELLED = Row(
    model="runs/bert", family="bert", task="classification", step=9, split="valid", documents=50,
    text_sha256="1" * 64, conditioned_on="", context={}, counts={"examples": 50}, sums={},
    metrics={
        "accuracy": Metric(0.875, (0.8, 0.95), "", less_is_better=False),
        "macro_f1": Metric(0.8125, (0.7, 0.9), "", less_is_better=False),
    },
)  # fmt: skip


def test_the_table_fits_a_terminal_and_shows_every_number():
    console = Console(width=80, file=io.StringIO())
    other = dataclasses.replace(ROW, difference=Difference("runs/a", "bits_per_byte", -0.125, 0.04))
    table.print_rows([ROW, other], console)
    text = console.file.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines()[:3])
    assert "-0.1250 bits/byte against runs/a (paired bootstrap over documents, p = 0.04)" in text
    heads = ["tokens", "nats/token", "perplexity", "bits/byte", "95", "%", "interval", "difference"]
    assert text.splitlines()[0].split()[2:] == heads
    for number in ("1,234", "2.0000", "7.39", "0.8901", "0.8500–0.9300", "-0.1250"):
        assert number in text
    assert "not shown on 80 columns: docs" in text


def test_a_narrow_table_leaves_columns_out_in_their_order_and_cuts_none():
    row = dataclasses.replace(
        ROW,
        model="runs/" + "m" * 17,
        parameters=1_300_000,
        training_tokens=498_001,
        counts=ROW.counts | {"oov": 7},
    )
    orders = {}
    for width in range(52, 140):
        console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
        table.print_rows([row], console)
        _, line, *notes = console.file.getvalue().splitlines()
        assert len(line.rstrip()) <= width
        for kept in (row.model, "test", "0.8901", "0.8500–0.9300"):
            assert kept in line.split(), "nothing is folded or cut"
        orders[width] = notes[0].partition(": ")[2] if notes else ""
    stated = ["trained on", "parameters", "docs", "tokens", "OOV", "perplexity", "nats/token"]
    assert [text.split(", ") for text in dict.fromkeys(orders.values()) if text] == [
        stated[:n] for n in range(7, 0, -1)
    ]
    assert orders[139] == ""
    assert {"1,300,000", "498,001", "7"} <= set(line.split())


P = 1 / 10_001
DIFFERENCE = Difference("runs/a", "bits_per_byte", -0.125, 0.004, None, (-0.2, -0.05), P, 3 * P, 3, 0.003, P)


def test_p_values_at_the_floor_of_the_resampling_are_shown_as_bounds():
    shown = numbers.difference(dataclasses.replace(ROW, difference=DIFFERENCE))
    assert shown == (
        "-0.1250 bits/byte, -0.2000 to -0.0500 against runs/a (paired bootstrap over documents, p = 0.004; "
        "randomisation, p ≤ 1e-4; Holm's correction for 3 pairs, p ≤ 3e-4)"
    )
    above = DIFFERENCE._replace(p_value=0.003, randomization_p_value=2 / 10_001, holm_p_value=4 / 10_001)
    shown = numbers.difference(dataclasses.replace(ROW, difference=above))
    assert "p ≤ 0.003; randomisation, p = 2e-4; Holm's correction for 3 pairs, p = 4e-4)" in shown
    earlier = Difference("runs/a", "bits_per_byte", -0.1, 1 / 10_001)  # as earlier versions wrote it
    shown = numbers.difference(dataclasses.replace(ROW, difference=earlier))
    assert shown == "-0.1000 bits/byte against runs/a (paired bootstrap over documents, p ≤ 1e-4)"


def test_a_narrow_table_keeps_differences_longer_than_other_columns():
    rows = [ROW, dataclasses.replace(ROW, difference=DIFFERENCE)]
    kept = {}
    for width in (200, 80, 60, 50):
        console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
        table.print_rows(rows, console)
        heading, first, second, *_ = console.file.getvalue().splitlines()
        kept[width] = [
            name for name in ("perplexity", "its", "(Holm)", "difference") if name in heading.split()
        ]
        assert len(heading) <= width
        assert ("-0.1250" in second.split()) == ("difference" in kept[width])
        assert ("≤ 3e-4" in second) == ("(Holm)" in kept[width])
        assert "-0.1250" not in first
    assert list(kept.values()) == [
        ["perplexity", "its", "(Holm)", "difference"],
        ["its", "(Holm)", "difference"],
        ["(Holm)", "difference"],
        ["difference"],
    ]


def test_differences_are_drawn_with_their_intervals_and_p_values():
    other = DIFFERENCE._replace(metric="nats_per_token", value=0.5, interval=(-0.1, 1.1), holm_p_value=0.25)
    rows = [ROW, *(dataclasses.replace(ROW, difference=one) for one in (DIFFERENCE, other))]
    picture = figures.differences(rows)
    xml.etree.ElementTree.fromstring(picture)
    texts = picture.replace("&#160;", " ")
    assert "runs/&lt;gpt&gt; − runs/a" in texts
    for shown in ("p ≤ 3e-4", "p = 0.25", "difference in bits/byte (less is better)", "nats/token (less"):
        assert shown in texts
    assert figures.differences([ROW, LABELLED]) == ""
    assert html.render([Evaluation(row, {}) for row in rows], {}, "c").count("<svg") == 2


def test_rows_of_another_task_show_their_own_headline(tmp_path):
    console = Console(width=80, file=io.StringIO())
    missing = dataclasses.replace(
        LABELLED, metrics=LABELLED.metrics | {"accuracy": Metric(None, None, "no labels", False)}
    )
    table.print_rows([ROW, LABELLED, missing], console)
    text = console.file.getvalue()
    for shown in (
        "bits/byte",
        "0.8901",
        "examples",
        "accuracy",
        "0.8750",
        "0.8000–0.9500",
        "macro F1",
        "0.8125",
    ):
        assert shown in text
    assert "runs/bert, valid: no labels" in text
    page = html.render([Evaluation(ROW, {}), Evaluation(LABELLED, {})], {}, "")
    assert page.count("<table") == page.count("<svg") == 2
    assert "Accuracy; the lines are 95 % intervals over documents. More is better." in page


def test_lines_are_not_cut_without_a_terminal(capsys, tmp_path):
    name = "runs/[red]" + "a-very-long-name-of-a-directory/" * 8
    row = dataclasses.replace(ROW, model=name, split=name)
    table.print_rows([row])
    [line] = [line for line in capsys.readouterr().out.splitlines() if "1,234" in line]
    assert line.count(name) == 2
    (tmp_path / "sample.txt").write_text("x " * 300)
    table.print_run(tmp_path, [row])
    lines = capsys.readouterr().out.splitlines()
    assert ("x " * 300).rstrip() in lines
    assert "·" * 80 in lines


def test_settings_of_a_sweep_compare_in_the_first_metric_that_all_have(capsys):
    lacking = dataclasses.replace(
        ROW, metrics=ROW.metrics | {"bits_per_byte": Metric(None, None, "no bits per byte: ...")}
    )
    whole = sweep.Cell({"a": "1"}, {0: [ROW], 1: [ROW]})
    partly = sweep.Cell({"a": "2"}, {0: [ROW], 1: [lacking]})
    assert sweep.compared_metric([whole, whole]) == "bits_per_byte"
    assert sweep.compared_metric([whole, partly]) == "nats_per_token"
    assert sweep.compared_metric([whole, sweep.Cell({"a": "3"}, {0: [LABELLED]})]) == "bits_per_byte"
    assert sweep.compared_metric([sweep.Cell({"a": "4"}, error="no")]) == ""
    sweep.print_cells([whole, partly])
    shown = capsys.readouterr().out
    assert "test nats/token" in shown
    assert "+0.0000 ± 0.0000" in shown


@pytest.mark.parametrize(("less_is_better", "best"), [(True, "0.2000"), (False, "0.4000")])
def test_the_best_seed_of_a_setting_is_chosen_on_the_first_part(capsys, less_is_better, best):
    def row(split, value):
        return dataclasses.replace(ROW, split=split, metrics={"x": Metric(value, None, "", less_is_better)})

    seeds = {0: [row("valid", 0.1), row("test", 0.2)], 1: [row("valid", 0.3), row("test", 0.4)]}
    sweep.print_cells([sweep.Cell({"a": "1"}, seeds)])
    heading, line, *notes = capsys.readouterr().out.splitlines()
    assert "test of best" in heading
    assert line.split() == ["1", "2", "0.2000", "±", "1.2706", "0.3000", "±", "1.2706", best]
    assert "with two seeds ± is 6.4 times the distance between them" in notes[1]
    assert "best is the seed with the best value on the valid part" in notes[2]


@pytest.mark.parametrize("less_is_better", [True, False])
def test_a_sweep_has_a_column_for_each_field_and_marks_the_best_setting(less_is_better):
    def cell(rate, value):
        rows = [
            dataclasses.replace(ROW, split=split, metrics={"x": Metric(value, None, "", less_is_better)})
            for split in ("valid", "test")
        ]
        return sweep.Cell(
            {"optimizer.learning_rate": rate, "model.num_layers": "12"}, {0: rows, 1: rows, 2: rows}
        )

    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    sweep.print_cells([cell("0.00031", 1.0), cell("0.00100", 2.0)], console)
    heading, *lines = (line.split() for line in console.file.getvalue().splitlines())
    assert heading[:2] == ["learning_rate", "num_layers"]
    stars = [line[:3] for line in lines[:2] if line[0] == "*"]
    assert stars == [["*", "0.00031" if less_is_better else "0.00100", "12"]]
    shown = " ".join(lines[2])
    assert shown.startswith("not shown on 80 columns: test of best, seeds")


def test_the_html_report_is_self_contained():
    curve = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "valid_loss": 2.5}]
    read = {"runs/<gpt>": runs.Run(curve)}
    page = html.render([Evaluation(ROW, {})] * 2, read, "python eval.py --model='<x>'")
    assert page.count("<svg") == 2
    assert "runs/&lt;gpt&gt;" in page
    assert "<gpt>" not in page, "names are escaped"
    assert "src=" not in page
    assert 'href="http' not in page
    for shown in ("1,234", "4,000", "3700.00", "0.8500–0.9300", "window 128", "perplexity 6.70–8.20"):
        assert shown in page
    for part in page.split("<svg")[1:]:
        xml.etree.ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")


def test_figures_of_classifiers():
    random = np.random.default_rng(0)
    labels, scores = random.integers(2, size=40), random.random(40)
    two = Predictions(("no", "yes"), labels, np.stack([1 - scores, scores], axis=1))
    many = Predictions(tuple(map(str, range(41))), labels, np.eye(41)[labels])
    models = {"a<b": two, "three": two._replace(names=("x", "y", "z")), "many": many}
    made = [Evaluation(dataclasses.replace(LABELLED, model=name), {}, one) for name, one in models.items()]
    page = html.render(made, {}, "c")
    assert page.count("<svg") == 4  # the rows' values, the curves of one model, two confusion matrices
    assert "a&lt;b: how often each class was predicted" in page
    assert "many: how often" not in page
    assert f"AUC {sklearn.metrics.roc_auc_score(labels, scores):.4f}" in page


def test_progress_is_lines_in_a_log_and_a_live_line_on_a_terminal():
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


def test_markup_in_a_users_names_is_shown_as_it_is(tmp_path):
    name = "[/]:smile:[bold]$a_$"
    log, terminal = (Console(file=io.StringIO(), force_terminal=t, width=100) for t in (False, True))
    noted = Metric(0.5, None, f"no interval: {name}")
    row = dataclasses.replace(ROW, model=name, metrics=ROW.metrics | {"bits_per_byte": noted})
    table.print_rows([row], log)
    cells = [sweep.Cell({"data.corpus": name}, {0: [row]}), sweep.Cell({"data.corpus": "b"}, error=name)]
    sweep.print_cells(cells, log)
    assert log.file.getvalue().count(name) == 5
    with LiveLine(name, 10, console=terminal) as line:
        line.update(5, name)
        line.say(name)
    assert terminal.file.getvalue().count(name) >= 3
    curve = [{"step": 1, "valid_loss": 2.0}]
    page = html.render([Evaluation(row, {})], {name: runs.Run(curve)}, name)
    assert page.count(name) >= 3
    sweep.plot([sweep.Cell({"data.corpus": name}, curves={0: curve})], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size
