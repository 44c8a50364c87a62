"""Continues prompts with any trained model, on the terminal as it is written.

python -m lm_jax.generate --model=runs/gpt --prompt="Return the"
python -m lm_jax.generate --model=runs/gpt --num-samples=3 --temperature=0.8 --top-k=50 --seed=7
"""

import itertools
import sys
from typing import Any

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()

from lm_jax import errors, flags, language_model
from lm_jax.families.base import LeftToRight


def main(argv: list[str]) -> None:
    """Parses the flags and writes each continuation behind its prompt."""
    parser = flags.Parser(prog="python -m lm_jax.generate", description=__doc__)
    parser.add_argument("--model", required=True, metavar="PATH", help="a run directory")
    parser.add_argument(
        "--prompt", action="append", help="what to continue; may repeat (default: a new text)"
    )
    parser.add_argument("--max-tokens", type=int, default=200, help="the most tokens to add (default: 200)")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="divides the logits; 0 is greedy (default: 1)"
    )
    parser.add_argument(
        "--top-k", type=int, default=0, help="sample among the k most probable; 0: all (default)"
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, help="sample among the fewest that reach p (default: 1)"
    )
    parser.add_argument(
        "--num-samples", type=int, default=1, help="continuations of each prompt (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text (default: 0)")
    parser.add_argument("--step", default="best", help="best (by validation), latest, or a step's number")
    arguments = parser.parse_args(argv)
    model = language_model.load(arguments.model, arguments.step)
    if not isinstance(model, LeftToRight):
        raise errors.UserError(
            f"a {model.family} model does not continue text", "give one that reads left to right"
        )
    prompts = arguments.prompt or [""]
    options = {name: getattr(arguments, name) for name in ("temperature", "top_k", "top_p", "seed")}
    if len(prompts) * arguments.num_samples == 1:
        _stream(model, prompts[0], arguments.max_tokens, options)
        return
    made = model.generate(prompts, arguments.max_tokens, num_samples=arguments.num_samples, **options)
    for i, generation in enumerate(made):
        prompt, sample = prompts[i // arguments.num_samples], i % arguments.num_samples + 1
        print(f"── {prompt!r}, sample {sample}\n{prompt}{generation.text}")


def _stream(model: LeftToRight, prompt: str, max_tokens: int, options: dict[str, Any]) -> None:
    for text in itertools.chain([prompt], model.stream(prompt, max_tokens, **options)):
        print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
