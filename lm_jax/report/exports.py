"""Results as files for papers and for one's own analysis, beside results.json.

documents.jsonl has a line for each model and document, with what it contributed; table.csv a line for each
row of results, with all counts, metrics, intervals and the difference in full precision; table.md and
table.tex have the tables for a paper.
"""

import csv
import hashlib
import io
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lm_jax import files
from lm_jax.evaluation.base import Evaluation
from lm_jax.evaluation.row import Row
from lm_jax.evaluation.texts import Text
from lm_jax.metrics.resampling import by_document
from lm_jax.report import papers
from lm_jax.text.words import count_words

_HEADER = ("model", "family", "task", "step", "split", "text_sha256", "parameters", "training_tokens")
FILES = ("documents.jsonl", "table.csv", "table.md", "table.tex")


def write(
    out: pathlib.Path, evaluations: Sequence[Evaluation], texts: Sequence[Text], command: str
) -> list[pathlib.Path]:
    """Writes the files; each replaces an earlier one atomically.

    Args:
        out: the directory.
        evaluations: of each model.
        texts: what each was evaluated on.
        command: the command line, for captions.

    Returns:
        Their paths.

    Raises:
        OSError: no permission, or a full disk.
    """
    paths = [out / name for name in FILES]
    with files.replacing(paths[0]) as temporary, temporary.open("w", encoding="utf-8") as file:
        for one, text in zip(evaluations, texts, strict=True):
            file.writelines(files.dump_json(line) + "\n" for line in _documents(one, text))
    rows = [one.row for one in evaluations]
    tables = papers.tables(evaluations)
    for path, content in zip(
        paths[1:], (_csv(rows), papers.markdown(tables, command), papers.latex(tables, command))
    ):
        files.write_text(path, content)
    return paths


def _documents(one: Evaluation, text: Text) -> Iterator[dict[str, Any]]:
    """What a model made of each document, in their order.

    Where whole texts were scored: nats of the tokens, nats of the tokens and their bytes (more where words
    are spelled), bytes, tokens, words and unknown tokens. Else the value of each metric on the document
    alone, null where it has none, if each document counts in the metrics.
    """
    values = {} if one.scored is not None else _values(one, len(text.documents))
    for place, document in enumerate(text.documents):
        data = document.text.encode()
        line: dict[str, Any] = {
            "model": one.row.model,
            "document": document.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "words": count_words(data),
        }
        if one.scored is not None:
            scored = one.scored[place]
            line["nats"] = _finite(-float(scored.log_probs.sum()))
            line["byte_nats"] = _finite(-float(scored.byte_log_probs.sum()))
            line["tokens"] = len(scored.log_probs)
            line["unknown"] = int(scored.unknown.sum())
        yield line | {name: _finite(float(value_D[place])) for name, value_D in values.items()}


def _values(one: Evaluation, num_documents: int) -> Mapping[str, np.ndarray]:
    """Each metric of the whole text on each document alone, [D]."""
    return {
        name: by_document(statistics.metric, statistics.arrays)
        for name, statistics in one.statistics.items()
        if name in one.row.overall and not statistics.of_rows and len(statistics.arrays[0]) == num_documents
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _csv(rows: Sequence[Row]) -> str:
    """A line for each row; a cell is empty where a row has no such value."""
    lines = [_cells(row) for row in rows]
    file = io.StringIO()
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _cells(row: Row) -> dict[str, Any]:
    cells: dict[str, Any] = {name: getattr(row, name) for name in _HEADER}
    cells |= {"documents": row.documents, "resampled": row.resampled, **row.counts}
    for name, metric in row.metrics.items():
        low, high = metric.interval or (None, None)
        cells |= {name: metric.value, f"{name}_low": low, f"{name}_high": high}
    if row.difference is not None:
        low, high = row.difference.interval or (None, None)
        named = {name: value for name, value in row.difference._asdict().items() if name != "interval"}
        cells |= {f"difference_{name}": value for name, value in named.items()}
        cells |= {"difference_low": low, "difference_high": high}
    return cells
