"""Evaluates models on a text: one table, results.json, report.html, and files for papers.

python eval.py --model=runs/gpt                                  its own test part
python eval.py --model=runs/gpt --model=other=runs/sweep-gpt/SETTING/seed-0 --text=FILE
python eval.py --model=runs/classify --text='tsv:FILE#COLUMN'    a corpus whose records have labels
python eval.py --model=runs/seq2seq --num-beams=4                generates, and compares with the targets
python eval.py --model=runs/gpt --step=all                       a curve over the run's checkpoints
python eval.py --model=runs/gpt --protocol=harness               as lm-evaluation-harness counts
python eval.py --model=gpt=runs/gpt --model=kn=runs/ngram --mix=both=gpt,kn --mix=all=gpt,kn,cache:5
python eval.py --model=runs/gpt --task=continuation              continues the beginnings of documents
python eval.py --model=runs/gpt --task=minimal_pairs --text='jsonl:blimp/*.jsonl'

Zero-shot tasks ask any model that gives texts a probability about records, a JSON object a line:
  minimal_pairs    {"sentence_good": ..., "sentence_bad": ..., "UID": its paradigm}, as BLiMP's
  multiple_choice  {"query": ..., "choices": [..., ...], "gold": the index of the right one, from 0 on}
  last_word        {"text": a passage whose last word is to be predicted}, as LAMBADA's
Another field is their text with jsonl:GLOB#FIELD.

Beside results.json, DIR has table.csv, table.md and table.tex (booktabs); documents.jsonl, with a line for
each model and document; and breakdowns.json: bits by word frequency, position, length and more.

An evaluation that generates keeps the texts in DIR/generated as they are made, and the scores of documents by
left-to-right models are kept in $LM_JAX_CACHE/scores (--no-cache: nowhere). After an interruption the same
command goes on from there. A document that a model cannot score is named below the table.

Rows of models that score whole texts carry an audit of their scores by a few samples, but for
--protocol=harness; --no-audit leaves it out. The exit code is 1 where a document could not be scored or an
audit failed.
"""

import pathlib
from typing import Any

from lm_jax import flags, generation_flags
from lm_jax.config import FILE
from lm_jax.data.documents import DOCUMENTS
from lm_jax.errors import UserError
from lm_jax.evaluation import contamination, mixes
from lm_jax.evaluation.base import ZERO_SHOT


def parse(argv: list[str]) -> Any:
    """The values of the flags.

    Raises:
        UserError: flags that do not go together.
    """
    arguments = _parser().parse_args(argv)
    out, named = pathlib.Path(arguments.out), arguments.model
    if (out / FILE).is_file():  # train.py would take the results for the run's own
        raise UserError(f"{out} is a run directory, which has results of its own", "give another --out")
    if twice := [name for name, path in named if any(n == name and p != path for n, p in named)]:
        raise UserError(f"two models are named {twice[0]}", "give each --model=NAME=PATH another name")
    if arguments.text and arguments.split:
        raise UserError(f"--split={arguments.split} with --text, which has no parts", "leave one of them out")
    if arguments.protocol != "overlapping":
        protocol = f"--protocol={arguments.protocol}"
        _check_alone(arguments, protocol, "task", "stride")
        for flag in ("mix", "mix_by_context", "calibration"):
            if getattr(arguments, flag):
                raise UserError(f"{protocol} with --{flag.replace('_', '-')}", "leave one of them out")
    if arguments.calibration:
        _check_alone(arguments, "--calibration", "task")
    if (arguments.mix or arguments.mix_by_context) and (
        arguments.step != "best" or not (arguments.bos and arguments.eos)
    ):
        raise UserError(
            "a mixture with --step, --no-bos or --no-eos",
            "leave them out: a mixture's file names its runs, and opens their best checkpoints",
        )
    return arguments


def _check_alone(arguments: Any, flag: str, *others: str) -> None:
    """Raises UserError if one of some flags is given beside another one that excludes it."""
    if given := [name for name in others if getattr(arguments, name) is not None]:
        raise UserError(f"{flag} with --{given[0]}={getattr(arguments, given[0])}", "leave one of them out")


def _parser() -> flags.Parser:
    parser = flags.Parser(prog="eval.py", description=__doc__, epilog=flags.MESH_HELP)
    _add_models(parser)
    _add_scoring(parser)
    _add_tasks(parser)
    _add_findings(parser)
    parser.add_argument(
        "--out",
        type=flags.path,
        default="runs/eval",
        metavar="DIR",
        help="where the results go (default: runs/eval)",
    )
    return parser


def _add_models(parser: flags.Parser) -> None:
    """Adds what is evaluated: models, and texts."""
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
    mixes.add_flags(parser)
    parser.add_argument(
        "--step",
        default="best",
        help="best (by validation), latest, or a step's number; all, or several with commas, give a row each",
    )


def _add_scoring(parser: flags.Parser) -> None:
    """Adds how texts are scored."""
    flags.add_scoring(parser)
    parser.add_argument(
        "--protocol",
        choices=("overlapping", "harness"),
        default="overlapping",
        help="how left-to-right models read long documents: in overlapping windows, or with the windows and "
        "metrics of lm-evaluation-harness 0.4.13 (default: overlapping)",
    )
    parser.add_argument(
        "--no-cache", dest="cache", action="store_false", help="score all documents, and keep no scores"
    )


def _add_tasks(parser: flags.Parser) -> None:
    """Adds what models are asked to do, and how they generate."""
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


def _add_findings(parser: flags.Parser) -> None:
    """Adds what is found out beside the metrics."""
    parser.add_argument(
        "--no-audit",
        dest="audit",
        action="store_false",
        help="do not test whether scores are honest (see python -m lm_jax.audit --help)",
    )
    parser.add_argument(
        "--breakdown",
        action="store_true",
        help="also print what is in DIR/breakdowns.json, and the words on which models differ most",
    )
    parser.add_argument(
        "--calibration",
        action="store_true",
        help="accuracy and calibration of next-token predictions; reads the text twice",
    )
    parser.add_argument(
        "--contamination",
        metavar="CORPUS",
        help="find the longest run of words that each document shares with a training text, a corpus as for "
        "data.corpus or train, each run's own; and give results without documents that share many",
    )
    parser.add_argument(
        "--contamination-words",
        type=flags.whole,
        default=contamination.WORDS,
        metavar="N",
        help=f"from how many words on a shared run counts (default: {contamination.WORDS}, as GPT-3's)",
    )
