"""Writes the labels that a model gives to texts, to pairs of texts, or to words.

python -m lm_jax.predict --model=runs/classify --text=FILE --out=labels.tsv       a text a line
python -m lm_jax.predict --model=runs/classify --text='tsv:FILE#COLUMN'           the records of a corpus

FILE is a text with one text a line, or a corpus as data.corpus names it; the model reads pairs from the field
that it was trained on. Each text becomes a line of tab-separated values: its name, the most probable label
with its probability, and the probability of each label; or its name and the predicted number. A model of
words writes a line for each word, with its tag and the tag's probability, and an empty line after each text.
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from lm_jax import errors, files, flags
from lm_jax.data.documents import Document
from lm_jax.evaluation.labelled import item, predicted
from lm_jax.evaluation.texts import Text, lines_or_corpus
from lm_jax.language_models import load as language_model
from lm_jax.language_models.base import Labels, LanguageModel, Predicts, require
from lm_jax.progress import Reporter


def main(argv: list[str]) -> None:
    """Parses the flags, labels the texts, and writes a line for each."""
    argv, mesh = flags.split_mesh(argv)
    parser = flags.Parser(prog="python -m lm_jax.predict", description=__doc__, epilog=flags.MESH_HELP)
    parser.add_argument(
        "--model", required=True, type=flags.model, metavar="PATH", help="a run, a directory or hf:NAME"
    )
    parser.add_argument("--text", required=True, type=flags.path, metavar="FILE", help="the texts")
    parser.add_argument(
        "--out", type=flags.path, metavar="FILE.tsv", help="where the labels go (default: the terminal)"
    )
    parser.add_argument("--step", default="best", help="best (by validation), latest, or a step's number")
    arguments = parser.parse_args(argv)
    if arguments.out:  # a directory that cannot be made is noticed before the work
        files.make_directory(pathlib.Path(arguments.out).parent)
    model = language_model.load(arguments.model, arguments.step, mesh)
    documents = lines_or_corpus(arguments.text)
    cut: list[str] = []
    with Reporter() as report:
        rows = list(_rows(model, Text(arguments.text, documents), report, cut))
    if cut:
        others = f" and {len(cut) - 1} more" if len(cut) > 1 else ""
        print(f"{cut[0]}{others}: too long, only the first tokens were read", file=sys.stderr)
    if not arguments.out:
        _write(sys.stdout, rows)
        return
    path = pathlib.Path(arguments.out)
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            _write(file, rows)
    except OSError as error:
        raise errors.UserError(f"cannot write {path} ({error.strerror})", "give another --out") from None
    print(f"written: {path}, labels of {len(documents)} texts")


def _rows(model: LanguageModel, text: Text, report: Any, cut: list[str]) -> Iterator[Sequence[str]]:
    """The lines of the table, its heading first; of words there is none. Names of cut texts go to `cut`."""
    documents = text.documents
    if isinstance(model, Predicts):
        items = [item(document, model.second_field) for document in documents]
        yield ("name", "prediction")
        for document, number in zip(documents, predicted(model.predict, items, text, report), strict=True):
            cut += [document.name] * number.truncated
            yield (document.name, f"{number.value:.6g}")
        return
    labeller: Any = require(model, Labels, "label texts")
    items = [item(document, labeller.second_field) for document in documents]
    found = predicted(labeller.label, items, text, report)
    if labeller.evaluator == "tagging":
        for document, labelled in zip(documents, found, strict=True):
            yield from _words(document, labelled)
        return
    yield ("name", "label", "probability", *labeller.classes)
    for document, labelled in zip(documents, found, strict=True):
        cut += [document.name] * labelled.truncated
        best = int(labelled.probabilities.argmax())
        numbers = [f"{p:.6f}" for p in labelled.probabilities]
        yield (document.name, labelled.names[best], numbers[best], *numbers)


def _words(document: Document, labelled: Any) -> Iterator[Sequence[str]]:
    data = document.text.encode()
    for (start, end), probabilities in zip(labelled.spans.tolist(), labelled.probabilities, strict=True):
        best = int(probabilities.argmax())
        yield (data[start:end].decode(), labelled.names[best], f"{probabilities[best]:.6f}")
    yield ()


def _write(file: TextIO, rows: Sequence[Sequence[str]]) -> None:
    """Lines of cells between tabs, without quoting; a tab or a newline in a cell becomes a space."""
    table = str.maketrans("\t\r\n", "   ")
    for row in rows:
        file.write("\t".join(cell.translate(table) for cell in row) + "\n")


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
