"""Continues prompts with any trained or published model, and prints the text as it is generated.

python -m lm_jax.generate --model=runs/gpt --prompt="Return the"
python -m lm_jax.generate --model=hf:gpt2 --prompt="Once upon a time," --top-p=0.9 --temperature=0.8
python -m lm_jax.generate --model=runs/gpt --num-samples=3 --top-k=50 --seed=7
python -m lm_jax.generate --model=runs/gpt --prompt="Return the" --stop="." --min-tokens=5
python -m lm_jax.generate --model=runs/gpt --prompt="Return the" --num-beams=4 --max-tokens=20
python -m lm_jax.generate --model=runs/gpt --prompt-file=FILE --json > continuations.jsonl
python -m lm_jax.generate --model=runs/gpt --interactive

A prompt longer than the model's context is continued from its end, with a note. --prompt-file reads a prompt
a line, from a file or from - for standard input; of FILE.jsonl, jsonl:GLOB#FIELD or jsonl:- each line is an
object with the prompt in the field "prompt", or the named one. --json prints a JSON object a line: the
prompt, the number of the sample, the text, the number of tokens and their log-probability in nats. With
--interactive each line that is typed is a prompt; Ctrl-C stops a continuation, or the command where there is
none, and Ctrl-D ends.

By default each token is sampled from the model's distribution. A lower temperature, top-k, top-p or min-p
prefer probable tokens: the text varies less and repeats more, which the penalties and --no-repeat-ngram
reduce. --temperature=0 takes the most probable token each time, and --num-beams searches for a probable text
as a whole: both suit answers more than stories. --draft makes generation faster and keeps the distribution: a
small model with the same tokenizer proposes tokens, and the model accepts or replaces them (speculative
sampling). --fusion adds the log-probabilities of a model with the same tokenizer, such as n-grams of much
text, times a weight (shallow fusion).
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from lm_jax import errors, flags, generation_flags, prompts
from lm_jax.errors import UserError
from lm_jax.flags import whole
from lm_jax.language_models import load as language_model
from lm_jax.language_models.base import Generates, ScoresTargets, require
from lm_jax.progress import say
from lm_jax.stopping import Noted

_MAX_TOKENS = 200
_AT_ONCE = 256  # prompts of a file that are continued before their texts are printed


def _parser() -> flags.Parser:
    parser = flags.Parser(prog="python -m lm_jax.generate", description=__doc__, epilog=flags.MESH_HELP)
    parser.add_argument(
        "--model",
        required=True,
        type=flags.model,
        metavar="PATH",
        help="a run directory, a directory in Hugging Face's form, hf:NAME, or an ARPA file",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        type=flags.utf8,
        help="what to continue; may repeat (default: a new text)",
    )
    parser.add_argument(
        "--prompt-file", type=flags.path, metavar="FILE", help="prompts, a line each; -: standard input"
    )
    parser.add_argument("--interactive", action="store_true", help="continue each line that is typed")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each continuation")
    parser.add_argument(
        "--max-tokens",
        type=whole,
        help=f"maximum number of tokens to add (default: {_MAX_TOKENS}; of a target, as many as fit)",
    )
    parser.add_argument("--step", default="best", help="best (by validation), latest, or a step's number")
    generation_flags.add(parser)
    return parser


def main(argv: list[str]) -> None:
    """Parses the flags and prints each prompt with its continuation."""
    argv, mesh = flags.split_mesh(argv)
    arguments = _parser().parse_args(argv)
    sources = {f"--{name.replace('_', '-')}" for name in ("prompt", "prompt_file", "interactive")
               if getattr(arguments, name)}  # fmt: skip
    if len(sources) > 1 or (arguments.interactive and arguments.json):
        both = sorted(sources | ({"--json"} if arguments.json else set()))
        raise UserError(f"{' with '.join(both)}", "give one of them")
    asked = prompts.read(arguments.prompt_file) if arguments.prompt_file else arguments.prompt or [""]
    model = require(language_model.load(arguments.model, arguments.step, mesh), Generates, "continue text")
    most = arguments.max_tokens
    if most is None and not isinstance(model, ScoresTargets):
        most = _MAX_TOKENS
    options = generation_flags.given(arguments, mesh)
    if arguments.interactive:
        _converse(model, most, options)
    elif arguments.json:
        _write_json(model, asked, most, options)
    elif len(asked) * options.get("num_samples", 1) * options.get("num_beams", 1) == 1:
        for piece in _stream(model, asked[0], most, options):
            print(piece, end="", flush=True)
        print()
    else:
        _write(model, asked, most, options)


def _cropped(model: Any, asked: Sequence[str], options: dict[str, Any]) -> list[str]:
    """What the model reads of prompts; says what it does not. Sources of targets are cut by the model."""
    if isinstance(model, ScoresTargets):
        return list(asked)
    read, notes = prompts.crop_all(asked, model, options)
    for note in notes[:1]:
        say(note + (f"; so {len(notes) - 1} more prompts" if len(notes) > 1 else ""))
    return read


def _stream(model: Generates, prompt: str, max_tokens: Any, options: dict[str, Any]) -> Iterator[str]:
    """The prompt and its continuation in pieces; nothing before the options are known to be right."""
    [read] = _cropped(model, [prompt], options)
    pieces = model.stream(read, max_tokens, **options)
    first = next(pieces, "")
    yield prompt + first
    yield from pieces


def _continued(
    model: Generates, asked: Sequence[str], max_tokens: Any, options: dict[str, Any]
) -> Iterator[tuple[str, int, Any]]:
    """Each prompt with the number of a sample, from 1, and the continuation."""
    num_samples, read = options.get("num_samples", 1), _cropped(model, asked, options)
    for first in range(0, len(asked), _AT_ONCE):
        made = model.generate(read[first : first + _AT_ONCE], max_tokens, **options)
        for number, generation in enumerate(made):
            yield asked[first + number // num_samples], number % num_samples + 1, generation


def _write(model: Generates, asked: Sequence[str], max_tokens: Any, options: dict[str, Any]) -> None:
    for prompt, sample, generation in _continued(model, asked, max_tokens, options):
        print(f"── {prompt!r}, sample {sample}\n{prompt}{generation.text}", flush=True)


def _write_json(model: Generates, asked: Sequence[str], max_tokens: Any, options: dict[str, Any]) -> None:
    for prompt, sample, generation in _continued(model, asked, max_tokens, options):
        facts = {"num_tokens": len(generation.tokens), "log_prob": float(generation.log_probs.sum())}
        line = {"prompt": prompt, "sample": sample, "text": generation.text, **facts}
        print(json.dumps(line, ensure_ascii=False), flush=True)


def _converse(model: Generates, max_tokens: Any, options: dict[str, Any]) -> None:
    """Continues each line that is typed until the input ends; Ctrl-C stops one continuation.

    The seed grows by 1 from line to line, so that the same line is not continued alike.
    """
    typed = sys.stdin.isatty()
    if typed:
        import readline  # noqa: F401 (input() then edits lines and recalls them)
    seed = options.get("seed", 0)
    while True:
        try:
            prompt = input("> " if typed else "")
        except EOFError:
            return print("\n" if typed else "", end="")
        try:
            with Noted() as signals:
                for piece in _stream(model, prompt, max_tokens, {**options, "seed": seed}):
                    print(piece, end="", flush=True)
                    if signals.received:
                        signals.answered = signals.interrupted
                        break
            print()
        except UserError as error:
            say(f"error: {error}")
        seed += 1


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
