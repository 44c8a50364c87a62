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
sampling). --fusion adds the log-probabilities of a model with the same tokenizer, such as n-grams of much
text, times a weight (shallow fusion).
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import itertools
import sys
from typing import Any

from lm_jax import errors, flags, generation_flags
from lm_jax.flags import whole
from lm_jax.language_models import load as language_model
from lm_jax.language_models.base import Generates, ScoresTargets, require

_MAX_TOKENS = 200


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
        "--max-tokens",
        type=whole,
        help=f"maximum number of tokens to add (default: {_MAX_TOKENS}; of a target, as many as fit)",
    )
    parser.add_argument("--step", default="best", help="best (by validation), latest, or a step's number")
    generation_flags.add(parser)
    arguments = parser.parse_args(argv)
    model = require(language_model.load(arguments.model, arguments.step, mesh), Generates, "continue text")
    most = arguments.max_tokens
    if most is None and not isinstance(model, ScoresTargets):
        most = _MAX_TOKENS
    _write(model, arguments.prompt or [""], most, generation_flags.given(arguments, mesh))


def _write(model: Generates, prompts: list[str], max_tokens: Any, options: dict[str, Any]) -> None:
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
