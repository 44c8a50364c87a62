"""Computes metrics of files that exist: generated texts with references, or labels with predictions.

python -m lm_jax.metrics bleu  --hypotheses=FILE --references=FILE              a text a line
python -m lm_jax.metrics rouge --hypotheses=A --hypotheses=B --references=FILE  B is compared with A
python -m lm_jax.metrics chrf  --hypotheses=FILE --references=R1 --references=R2 --words=2
python -m lm_jax.metrics classification --labels=FILE --predictions=FILE        a label a line
python -m lm_jax.metrics classification --labels=FILE --probabilities=FILE.tsv  a column for each label

Each line of a file is a text, and line i of each belongs to example i. Several --references are alternatives
of each text. The table shows scores on the scale of the tool that --profile names: sacrebleu's BLEU and chrF
from 0 to 100, all else from 0 to 1. --json prints everything as JSON, and all scores in [0, 1]. Intervals are
of 95 %, by 10,000 bootstrap samples of the lines. With several --hypotheses or --predictions, each is
compared with the first one by a paired bootstrap. The signature names the settings that a score depends on.
"""

import argparse
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from lm_jax import flags
from lm_jax.data.text_files import read_text
from lm_jax.errors import UserError
from lm_jax.evaluation.base import Statistics, measure
from lm_jax.evaluation.classification import classifier_statistics
from lm_jax.evaluation.generated import ROUGES
from lm_jax.evaluation.row import Metric
from lm_jax.metrics import chrf, overlap, significance, text
from lm_jax.metrics.profiles import PROFILES, SACREBLEU_SCALE, get_profile
from lm_jax.report import table

_TEXTS = ("bleu", "rouge", "chrf")


class System(NamedTuple):
    """What is measured of one file.

    Attributes:
        statistics: by metric.
        signature: the settings that a score depends on; "" if there are none.
        scales: of metrics that their tool prints on another scale than 0 to 1, what it multiplies by.
    """

    statistics: dict[str, Statistics]
    signature: str = ""
    scales: Mapping[str, int] = MappingProxyType({})


def main(argv: list[str]) -> None:
    """Parses the flags, computes, and prints a table or JSON."""
    arguments = _parser().parse_args(argv)
    if arguments.metric in _TEXTS:
        names = arguments.hypotheses
        systems = _of_texts(arguments)
    else:
        names = arguments.predictions + arguments.probabilities
        systems = _of_labels(arguments)
    rows = [_row(name, systems[i], systems[0] if i else None) for i, name in enumerate(names)]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    _print(rows, {name: scale for system in systems for name, scale in system.scales.items()})


def _parser() -> flags.Parser:
    parser = flags.Parser(prog="python -m lm_jax.metrics", description=__doc__)
    parser.add_argument("metric", choices=(*_TEXTS, "classification"))
    files: dict[str, Any] = {"action": "append", "type": flags.path, "metavar": "FILE", "default": []}
    group = parser.add_argument_group("of texts")
    group.add_argument("--hypotheses", **files, help="generated texts; may repeat, to compare")
    group.add_argument("--references", **files, help="what they are compared with; may repeat")
    group.add_argument(
        "--profile",
        choices=sorted(PROFILES),
        help="whose preprocessing (bleu: sacrebleu-13a, rouge: rouge_score)",
    )
    group.add_argument("--stem", action="store_true", help="rouge: compare Porter's stems")
    group.add_argument("--words", type=flags.whole, default=0, help="chrf: order of words; 2 is chrF++")
    group = parser.add_argument_group("of labels")
    group.add_argument("--labels", type=flags.path, metavar="FILE", help="the right label of each example")
    group.add_argument("--predictions", **files, help="predicted labels; may repeat, to compare")
    group.add_argument(
        "--probabilities", **files, help="tab-separated columns, of a label each, which the first line names"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _of_texts(arguments: argparse.Namespace) -> list[System]:
    if not arguments.hypotheses or not arguments.references:
        missing = "references" if arguments.hypotheses else "hypotheses"
        raise UserError(f"no --{missing}", f"give --{missing}=FILE, with a text a line")
    references = [_lines(path) for path in arguments.references]
    systems = []
    for path in arguments.hypotheses:
        hypotheses = _lines(path)
        for other, lines in zip(arguments.references, references, strict=True):
            _check_length(path, len(hypotheses), other, len(lines))
        of_each = list(zip(*references, strict=True))
        made = {"bleu": _bleu, "rouge": _rouge, "chrf": _chrf}[arguments.metric]
        systems.append(made(hypotheses, of_each, arguments))
    return systems


def _bleu(hypotheses: list[str], references: Any, arguments: argparse.Namespace) -> System:
    profile = get_profile(arguments.profile or "sacrebleu-13a")
    found = text.bleu_statistics(hypotheses, references, profile)
    signature = profile.bleu_signature(len(references[0]), "exp", effective_order=False, order=4)
    lengths = (np.asarray(found.hypothesis_length), np.asarray(found.reference_length))
    arrays = tuple(map(np.asarray, found))
    made = {
        "bleu": Statistics(arrays, overlap.bleu, less_is_better=False),
        "length_ratio": Statistics(lengths, significance.ratio, less_is_better=False),
    }
    return System(made, signature, {"bleu": profile.scale})


def _rouge(hypotheses: list[str], references: Any, arguments: argparse.Namespace) -> System:
    profile = get_profile(arguments.profile or "rouge_score")
    scores = text.rouge(hypotheses, references, profile, types=ROUGES, stem=arguments.stem)
    ones = np.ones(len(hypotheses))
    made = {
        name: Statistics((np.asarray(score.f), ones), significance.ratio, less_is_better=False)
        for name, score in scores.items()
    }
    return System(made, (profile.stemmed() if arguments.stem else profile).rouge_signature())


def _chrf(hypotheses: list[str], references: Any, arguments: argparse.Namespace) -> System:
    found = chrf.chrf_statistics(hypotheses, references, words=arguments.words)
    name = "chrf++" if arguments.words == 2 else "chrf"
    arrays = tuple(map(np.asarray, found))
    made = {name: Statistics(arrays, chrf.chrf, less_is_better=False)}
    settings = chrf.signature(len(references[0]), words=arguments.words)
    return System(made, settings, {name: SACREBLEU_SCALE})


def _of_labels(arguments: argparse.Namespace) -> list[System]:
    if not arguments.labels or not arguments.predictions + arguments.probabilities:
        missing = "--predictions=FILE, or --probabilities=FILE" if arguments.labels else "--labels=FILE"
        raise UserError(f"no {missing}", "give it, with an example a line")
    labels = _lines(arguments.labels)
    systems = []
    for path in arguments.predictions:
        predicted = _lines(path)
        _check_length(path, len(predicted), arguments.labels, len(labels))
        names = sorted({*labels, *predicted})
        numbers = {name: i for i, name in enumerate(names)}
        of_each = np.eye(len(names))[[numbers[name] for name in predicted]]
        made = classifier_statistics(np.array([numbers[name] for name in labels]), of_each)
        systems.append(System({name: made[name] for name in ("accuracy", "macro_f1", "mcc")}))
    for path in arguments.probabilities:
        names, probabilities = _read_probabilities(path)
        _check_length(path, len(probabilities), arguments.labels, len(labels))
        if unknown := sorted({*labels} - {*names}):
            raise UserError(
                f"{arguments.labels} has the label {unknown[0]!r}, which is no column of {path}",
                f"its columns are {', '.join(names)}",
            )
        numbered = np.array([names.index(label) for label in labels])
        systems.append(System(classifier_statistics(numbered, probabilities)))
    return systems


def _read_probabilities(path: str) -> tuple[list[str], np.ndarray]:
    """The names of the columns, and the probabilities [N, K], which must sum to 1."""
    head, *lines = _lines(path)
    names, rows = head.split("\t"), []
    for number, line in enumerate(lines, 2):
        try:
            values = [float(value) for value in line.split("\t")]
        except ValueError:
            values = []
        if len(values) != len(names) or not all(0 <= value <= 1 for value in values):
            raise UserError(
                f"{path}, line {number} does not hold {len(names)} probabilities",
                "give a column for each label that the first line names, with tabs between them",
            )
        if abs(sum(values) - 1) > 1e-3:
            raise UserError(
                f"{path}, line {number}: the probabilities sum to {sum(values):g}", "divide by it"
            )
        rows.append(values)
    return names, np.array(rows).reshape(-1, len(names))


def _lines(path: str) -> list[str]:
    """The lines of a file. Raises UserError for one that is empty or not UTF-8."""
    content = read_text(pathlib.Path(path))
    if not content.strip():
        raise UserError(f"{path} is empty", "give a file with an example a line")
    return content.removesuffix("\n").split("\n")


def _check_length(path: str, count: int, other: str, wanted: int) -> None:
    if count != wanted:
        raise UserError(
            f"{path} has {count:,} lines and {other} {wanted:,}",
            "give files whose lines belong to each other",
        )


def _row(name: str, system: System, first: System | None) -> dict[str, Any]:
    """What is known of one file: values, intervals, and the difference to the first file."""
    statistics, signature, _ = system
    metrics: Mapping[str, Metric] = measure(statistics, {})
    row: dict[str, Any] = {"file": name, "examples": len(next(iter(statistics.values())).arrays[0])}
    row["metrics"] = {
        key: {"value": metric.value, "interval": metric.interval} for key, metric in metrics.items()
    }
    row |= {"signature": signature} if signature else {}
    for key, one in statistics.items():
        if first is None or key not in first.statistics:
            continue
        other = first.statistics[key]
        if not all(a.shape == b.shape for a, b in zip(one.arrays, other.arrays, strict=True)):
            continue  # of other classes
        test = significance.paired_bootstrap(one.arrays, other.arrays, metric=one.metric, of_rows=one.of_rows)
        p_value = None if math.isnan(test.p_value) else test.p_value
        row["metrics"][key] |= {"difference": test.difference, "p_value": p_value}
    return row


def _print(rows: Sequence[Mapping[str, Any]], scales: Mapping[str, int]) -> None:
    """Prints a table; metrics of `scales` on the scale of their tool."""
    console = table.make_console()
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    shown.add_column("file", overflow="fold", min_width=12)
    heads = ("examples", "metric", "value", "95 % interval", *(["difference", "p"] if len(rows) > 1 else []))
    for head in heads:
        shown.add_column(head, justify="left" if head == "metric" else "right", no_wrap=True)
    for row in rows:
        for number, (key, metric) in enumerate(row["metrics"].items()):
            ends, value, scale = metric["interval"], metric["value"], scales.get(key, 1)
            cells = [
                table.label(key),
                "–" if value is None else text.on_scale(value, scale),
                "–" if ends is None else "–".join(text.on_scale(end, scale) for end in ends),
            ]
            if len(rows) > 1:
                less = metric.get("difference")
                cells.append("" if less is None else text.on_scale(less, scale, "+"))
                cells.append(f"{metric['p_value']:.4f}" if metric.get("p_value") is not None else "")
            shown.add_row(
                row["file"] if not number else "", f"{row['examples']:,}" if not number else "", *cells
            )
    console.print(shown)
    for signature in dict.fromkeys(row["signature"] for row in rows if "signature" in row):
        table.print_line(signature, console, style="dim")
