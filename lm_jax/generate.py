"""Continues prompts with any trained or published model, and prints the text as it is generated.

python -m lm_jax.generate --model=runs/gpt --prompt="Return the"
python -m lm_jax.generate --model=hf:gpt2 --prompt="Once upon a time," --top-p=0.9 --temperature=0.8
python -m lm_jax.generate --model=runs/gpt --num-samples=3 --top-k=50 --seed=7
python -m lm_jax.generate --model=runs/gpt --prompt="Return the" --stop="." --min-tokens=5
python -m lm_jax.generate --model=runs/gpt --prompt="Return the" --num-beams=4 --max-tokens=20

By default each token is sampled from the model's distribution. A lower temperature, top-k, top-p or min-p
prefer probable tokens: the text varies less and repeats more, which the penalties and --no-repeat-ngram
reduce. --temperature=0 takes the most probable token each time, and --num-beams searches for a probable text
as a whole: both suit answers more than stories. --draft makes generation faster and keeps the distribution: a
small model with the same tokenizer proposes tokens, and the model accepts or replaces them (speculative
sampling).
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import itertools
import sys
from typing import Any

from lm_jax import errors, flags
from lm_jax.flags import number, whole
from lm_jax.language_models import load as language_model
from lm_jax.language_models.base import Generates, require

_TEXTS: dict[str, Any] = {"action": "append", "type": flags.utf8, "metavar": "TEXT"}

# Options of `generate` in groups: name, type, metavar or None for what may be repeated, help.
_GROUPS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "distribution": [
        ("temperature", {"type": number, "help": "divides the logits; 0 is greedy (default: 1)"}),
        ("top_k", {"type": whole, "help": "sample among the k most probable; 0: all (default)"}),
        ("top_p", {"type": number, "help": "sample among the fewest that reach p (default: 1)"}),
        (
            "min_p",
            {
                "type": number,
                "help": "sample among those with this share of the best one's (default: 0)",
            },
        ),
    ],
    "against repetition": [
        (
            "repetition_penalty",
            {
                "type": number,
                "help": "above 1: tokens of the text become less likely (default: 1; try 1.2)",
            },
        ),
        (
            "frequency_penalty",
            {
                "type": number,
                "help": "subtracted from a token's logit each time it was generated (default: 0; try 0.5)",
            },
        ),
        (
            "presence_penalty",
            {
                "type": number,
                "help": "subtracted once from the logits of generated tokens (default: 0; try 0.5)",
            },
        ),
        (
            "no_repeat_ngram",
            {"type": whole, "help": "no sequence of n tokens occurs twice; 0: off (default)"},
        ),
    ],
    "constraints": [
        ("banned", {**_TEXTS, "help": "never generate this; may repeat"}),
        ("forced", {"type": flags.utf8, "metavar": "TEXT", "help": "begin the continuation with this"}),
        ("stop", {**_TEXTS, "help": "end before this; may repeat"}),
        ("min_tokens", {"type": whole, "help": "do not end before so many tokens (default: 0)"}),
    ],
    "beam search": [
        (
            "num_beams",
            {"type": whole, "help": "follow the n best texts at a time (default: 1, which samples)"},
        ),
        (
            "length_penalty",
            {
                "type": number,
                "help": "divide a text's log-probability by its length to this power (default: 1)",
            },
        ),
        ("early_stopping", {"action": "store_true", "help": "stop as soon as n texts have ended"}),
    ],
    "speed": [
        (
            "draft",
            {
                "type": flags.model,
                "metavar": "PATH",
                "help": "a model with the same tokenizer, such as n-grams, that drafts for this one",
            },
        ),
        ("num_drafted", {"type": whole, "help": "tokens that it drafts at a time (default: 4)"}),
    ],
    "how many": [
        ("num_samples", {"type": whole, "help": "continuations of each prompt (default: 1)"}),
        ("seed", {"type": whole, "help": "the same seed gives the same text (default: 0)"}),
    ],
}


def main(argv: list[str]) -> None:
    """Parses the flags and prints each prompt with its continuation."""
    argv, mesh = flags.split_mesh(argv)
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
        "--max-tokens", type=whole, default=200, help="maximum number of tokens to add (default: 200)"
    )
    parser.add_argument("--step", default="best", help="best (by validation), latest, or a step's number")
    names = []
    for title, options in _GROUPS.items():
        group = parser.add_argument_group(title)
        for name, settings in options:
            group.add_argument(f"--{name.replace('_', '-')}", default=None, **settings)
            names.append(name)
    arguments = parser.parse_args(argv)
    model = require(language_model.load(arguments.model, arguments.step, mesh), Generates, "continue text")
    if arguments.draft is not None:
        arguments.draft = language_model.load(arguments.draft, mesh=mesh)
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    _write(model, arguments.prompt or [""], arguments.max_tokens, given)


def _write(model: Generates, prompts: list[str], max_tokens: int, options: dict[str, Any]) -> None:
    num_samples = options.get("num_samples", 1)
    if len(prompts) * num_samples * options.get("num_beams", 1) == 1:
        for text in itertools.chain(prompts, model.stream(prompts[0], max_tokens, **options)):
            print(text, end="", flush=True)
        print()
        return
    for i, generation in enumerate(model.generate(prompts, max_tokens, **options)):
        prompt, sample = prompts[i // num_samples], i % num_samples + 1
        print(f"── {prompt!r}, sample {sample}\n{prompt}{generation.text}")


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
