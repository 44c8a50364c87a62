"""Evaluates models on a text: one table, results.json and report.html.

python eval.py --model=runs/gpt                                  its own test part
python eval.py --model=runs/gpt --model=other=runs/sweep-gpt/SETTING/seed-0 --text=FILE
python eval.py --model=runs/classify --text='tsv:FILE#COLUMN'    a corpus whose records have labels
python eval.py --model=runs/seq2seq --num-beams=4                generates, and compares with the targets
python eval.py --model=runs/gpt --task=continuation              continues the beginnings of documents
python eval.py --model=runs/gpt --task=minimal_pairs --text='jsonl:blimp/*.jsonl'

Zero-shot tasks ask any model that gives texts a probability about records, a JSON object a line:
  minimal_pairs    {"sentence_good": ..., "sentence_bad": ..., "UID": its paradigm}, as BLiMP's
  multiple_choice  {"query": ..., "choices": [..., ...], "gold": the index of the right one, from 0 on}
  last_word        {"text": a passage whose last word is to be predicted}, as LAMBADA's
Another field is their text with jsonl:GLOB#FIELD.

An evaluation that generates keeps the texts in DIR/generated as they are made. After an interruption the same
command goes on from there.
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from lm_jax import errors, files, flags, generation_flags
from lm_jax.config import FILE
from lm_jax.data.documents import DOCUMENTS
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation import texts
from lm_jax.evaluation.base import ZERO_SHOT, Evaluation
from lm_jax.evaluation.compare import compare
from lm_jax.evaluation.generated import Decoding
from lm_jax.evaluation.row import write_rows
from lm_jax.evaluation.sizes import add_sizes
from lm_jax.evaluation.texts import Text
from lm_jax.language_models import load as language_model
from lm_jax.language_models.base import Labels, LanguageModel, Predicts
from lm_jax.progress import Reporter, read_metrics
from lm_jax.report import html, table


def _parser() -> flags.Parser:
    parser = flags.Parser(prog="eval.py", description=__doc__, epilog=flags.MESH_HELP)
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        type=flags.named_model,
        metavar="[NAME=]PATH",
        help="a run directory, an ARPA file, a directory in Hugging Face's form or hf:NAME; may repeat, with "
        "a name to show it by",
    )
    parser.add_argument(
        "--text",
        action="append",
        type=flags.path,
        metavar="FILE",
        help="the text to evaluate on, a glob, or a corpus as for data.corpus; may repeat (default: the "
        "first run's test part, for all models of its task)",
    )
    parser.add_argument("--split", choices=("valid", "test"), help="the part of a run, without --text")
    parser.add_argument(
        "--documents", choices=DOCUMENTS, help="how to cut FILE (default: the first model's way)"
    )
    parser.add_argument("--step", default="best", help="best (by validation), latest, or a step's number")
    for name, mark in (("bos", "beginning"), ("eos", "end")):
        parser.add_argument(
            f"--no-{name}",
            dest=name,
            action="store_false",
            help=f"n-grams: score without the {mark} marks of sentences; an ARPA file may lack them",
        )
    parser.add_argument(
        "--stride", type=flags.whole, help="tokens from window to window (default: half the context)"
    )
    parser.add_argument(
        "--task",
        choices=("continuation", *ZERO_SHOT),
        help="continuation: continue the first words of each document; or a zero-shot task, see above "
        "(default: the task of each model)",
    )
    parser.add_argument(
        "--prompt-words", type=flags.whole, default=32, help="words that are continued (default: 32)"
    )
    parser.add_argument("--max-tokens", type=flags.whole, help="most tokens that are generated")
    generation_flags.add(parser, without=("num_samples",))
    parser.add_argument(
        "--out",
        type=flags.path,
        default="runs/eval",
        metavar="DIR",
        help="where the results go (default: runs/eval)",
    )
    return parser


def main(argv: list[str]) -> None:
    """Parses the flags, scores, and writes the report."""
    rest, mesh = flags.split_mesh(argv)
    arguments = _parser().parse_args(rest)
    out = pathlib.Path(arguments.out)
    if (out / FILE).is_file():  # train.py would take the results for the run's own
        raise UserError(f"{out} is a run directory, which has results of its own", "give another --out")
    named = arguments.model
    if twice := [name for name, path in named if any(n == name and p != path for n, p in named)]:
        raise UserError(f"two models are named {twice[0]}", "give each --model=NAME=PATH another name")
    if arguments.text and arguments.split:
        raise UserError(f"--split={arguments.split} with --text, which has no parts", "leave one of them out")
    files.make_directory(out)  # before the work
    marks = {"bos": arguments.bos, "eos": arguments.eos}
    models = [language_model.load(path, arguments.step, mesh, **marks) for _, path in named]
    evaluations = []
    decoding = Decoding(
        generation_flags.given(arguments, mesh),
        arguments.max_tokens,
        out / "generated",
        arguments.prompt_words,
    )
    with Reporter() as report:
        for given in arguments.text or [None]:
            of_text = []
            for (name, path), model in zip(named, models, strict=True):
                source = named[0][1] if _reads_as(model) == _reads_as(models[0]) else path
                text = _choose(arguments, given, source, model, models[0].documents)
                made = evaluation.evaluate(
                    model, text, name, arguments.stride, report, arguments.task or "", decoding
                )
                add_sizes(made.row, model, path)
                if given is None:
                    made.row.notes.extend(texts.note_borrowed(path, source, text))
                of_text.append(made)
            compare(of_text)
            evaluations += of_text

    rows = [e.row for e in evaluations]
    curves = {name: read_metrics(pathlib.Path(path) / "metrics.jsonl") for name, path in named}
    write_rows(out / "results.json", rows)
    written = _write_texts(out, evaluations)
    several = len(arguments.text or []) > 1
    titled = {f"{e.row.model}, {e.row.split}" if several else e.row.model: e for e in evaluations}
    predictions = {title: e.predictions for title, e in titled.items() if e.predictions is not None}
    generated = {title: e.texts for title, e in titled.items() if e.texts is not None}
    report_html = html.render(rows, curves, shlex.join(["python", "eval.py", *argv]), predictions, generated)
    files.write_text(out / "report.html", report_html)
    table.print_rows(rows)
    print(f"written: {', '.join(map(str, (out / 'results.json', out / 'report.html', *written)))}")


def _reads_as(model: LanguageModel) -> str:
    """The task whose text a model is scored on: a bidirectional model compares with left-to-right ones."""
    return "causal" if model.task == "bidirectional" else model.task


def _choose(arguments: Any, given: str | None, path: str, model: LanguageModel, documents: str) -> Text:
    """The text that a model is evaluated on: the given one, or a run's part."""
    if arguments.task in ZERO_SHOT:
        if arguments.documents:
            raise UserError(f"--documents with --task={arguments.task}, which reads records", "leave it out")
        return texts.choose_records(given, ZERO_SHOT[arguments.task])
    labels = isinstance(model, Labels | Predicts)
    return texts.choose(path, given, arguments.documents or documents, labels, arguments.split)


def _write_texts(out: pathlib.Path, evaluations: Sequence[Evaluation]) -> list[pathlib.Path]:
    """Writes what each model generated beside the references, a JSON object a line."""
    written = []
    for number, one in enumerate(evaluations):
        if one.texts is None:
            continue
        path = out / f"texts-{number}.jsonl"
        lines = (
            files.dump_json({"prompt": prompt, "reference": reference, "hypothesis": hypothesis})
            for prompt, reference, hypothesis in zip(*one.texts, strict=True)
        )
        files.write_text(path, "".join(f"{line}\n" for line in lines))
        written.append(path)
    return written


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
