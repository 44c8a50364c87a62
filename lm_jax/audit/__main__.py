"""Proves on samples of a text that the scores of models are honest; exit code 1 if a check fails.

python -m lm_jax.audit --model=runs/gpt                        on its own test part
python -m lm_jax.audit --model=runs/gpt --model=runs/ngram --text=FILE --out=FILE.json
python -m lm_jax.audit --model=MODEL.arpa --text=FILE --samples=100 --json

The checks:
  normalised        after sampled histories the probabilities of all next tokens sum to one, and they are
                    those by which texts are scored
  causal            no token's score depends on later bytes
  complete          each byte is paid for once; where it is not, how many bytes are unpaid
  one distribution  generated text has the log-probabilities by which it is scored, and is drawn from them
  independent       other texts in a batch, their order and their lengths change nothing

A check passes, fails, with the largest error and where it is, or does not apply, for the reason that is
stated. eval.py runs the same checks on fewer samples, and on the scores that it reports.
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from lm_jax import errors, files, flags
from lm_jax.audit.audit import SAMPLES, audit
from lm_jax.data.documents import DOCUMENTS
from lm_jax.errors import UserError
from lm_jax.evaluation import texts
from lm_jax.evaluation.audited import Audit
from lm_jax.evaluation.texts import Text
from lm_jax.language_models import load as language_model
from lm_jax.language_models.base import Scores, require
from lm_jax.report.table import Column, make_console, print_line, print_table

_MOST_SAMPLES = 100_000


def _parser() -> flags.Parser:
    parser = flags.Parser(prog="python -m lm_jax.audit", description=__doc__, epilog=flags.MESH_HELP)
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        type=flags.model,
        metavar="PATH",
        help="a run directory, an ARPA file, a directory in Hugging Face's form or hf:NAME; may repeat",
    )
    parser.add_argument(
        "--text",
        type=flags.path,
        metavar="FILE",
        help="what passages are taken from, a text or a corpus as for data.corpus (default: each run's own "
        "test part)",
    )
    parser.add_argument("--documents", choices=DOCUMENTS, help="how to cut FILE (default: the model's way)")
    parser.add_argument(
        "--samples",
        type=flags.whole,
        default=SAMPLES,
        metavar="N",
        help=f"passages of 600 characters, or more of shorter documents (default: {SAMPLES})",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="NATS",
        help="the largest difference between two computations of a log-probability (default: 1e-4; 1e-2 on "
        "an accelerator, 0.1 in bfloat16)",
    )
    parser.add_argument("--step", default="best", help="best (by validation), latest, or a step's number")
    flags.add_scoring(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=flags.path, metavar="FILE.json", help="also write the JSON to a file")
    return parser


def main(argv: list[str]) -> None:
    """Parses the flags, audits each model, and prints a table or JSON."""
    argv, mesh = flags.split_mesh(argv)
    arguments = _parser().parse_args(argv)
    if not 1 <= arguments.samples <= _MOST_SAMPLES:
        raise UserError(f"--samples={arguments.samples}", f"choose 1..{_MOST_SAMPLES:,}")
    if arguments.tolerance is not None and not 0 <= arguments.tolerance < math.inf:
        raise UserError(f"--tolerance={arguments.tolerance}", "give a number of nats, 0 or more")
    if arguments.out is not None:
        files.make_directory(pathlib.Path(arguments.out).parent)  # before the work
    marks = {"bos": arguments.bos, "eos": arguments.eos}
    models = [language_model.load(path, arguments.step, mesh, **marks) for path in arguments.model]
    scorers = [require(model, Scores, "give whole texts a probability") for model in models]
    chosen = [_choose(arguments, *parts) for parts in zip(arguments.model, models, strict=True)]
    audits = [
        audit(scorer, text, arguments.samples, arguments.stride, tolerance=arguments.tolerance)
        for scorer, text in zip(scorers, chosen, strict=True)
    ]
    values = [
        {"model": path, "split": text.name, "text_sha256": text.sha256(), **one.as_json()}
        for path, text, one in zip(arguments.model, chosen, audits, strict=True)
    ]
    if arguments.out is not None:
        files.write_json(pathlib.Path(arguments.out), values)
    if arguments.json:
        print(files.dump_json(values, indent=2, allow_nan=False))
    else:
        _print(arguments.model, audits)
    if any(one.failed for one in audits):
        raise SystemExit(1)


def _choose(arguments: Any, path: str, model: Any) -> Text:
    """The text that passages are taken from.

    Raises:
        UserError: there is none; see `texts.choose`.
    """
    text = texts.choose(path, arguments.text, arguments.documents or model.documents)
    if not text.documents:
        raise UserError(f"no text in {text.name}", "give one with at least one document")
    return text


def _print(names: Sequence[str], audits: Sequence[Audit]) -> None:
    """A line for each model and check, and below what was compared."""
    lines = [(name, check) for name, one in zip(names, audits, strict=True) for check in one.checks]
    console = make_console()
    columns = [
        Column("model", [name for name, _ in lines], is_text=True),
        Column("check", [check.title for _, check in lines], is_text=True),
        Column("result", [check.status for _, check in lines], is_text=True),
        Column("compared", [f"{check.compared:,}" for _, check in lines], leaves=2),
        Column("largest error", [_number(check.error) for _, check in lines]),
        Column("allowed", [_number(check.tolerance) for _, check in lines], leaves=1),
    ]
    print_table(columns, console)
    for name, one in zip(names, audits, strict=True):
        sampled = one.sampled
        passages = f"{len(sampled['passages'])} passages, {sampled['bytes']:,} bytes"
        print_line(f"{name}: {passages}, {sampled['tokens']:,} tokens, seed {sampled['seed']}", console)
        for check in one.checks:
            print_line(f"  {check.line()}", console, style="dim")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}" if value else "0"


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
