"""The options of `generate` as flags of commands."""

import argparse
from collections.abc import Collection
from typing import Any

from lm_jax import flags
from lm_jax.flags import number, whole
from lm_jax.language_models import load as language_model
from lm_jax.parallel.sharding import MeshConfig


def _stopping(text: str) -> bool | str:
    """`BeamSettings.early_stopping` as a flag."""
    values: dict[str, bool | str] = {"yes": True, "no": False, "never": "never"}
    if text not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is none of yes, no, never")
    return values[text]


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
        ("forced_end", {"action": "store_true", "help": "the last of --max-tokens tokens ends the text"}),
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
        (
            "early_stopping",
            {
                "nargs": "?",
                "const": True,
                "type": _stopping,
                "metavar": "yes|no|never",
                "help": "stop when n texts have ended (yes; also without a value), when no other text can "
                "beat them at its present length (no), or at any length (never)",
            },
        ),
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
    "fusion": [
        (
            "fusion",
            {
                "type": flags.model,
                "metavar": "PATH",
                "help": "a model with the same tokenizer, such as n-grams, whose opinion counts too",
            },
        ),
        ("fusion_weight", {"type": number, "help": "how much it counts (default: 0.3)"}),
    ],
    "how many": [
        ("num_samples", {"type": whole, "help": "continuations of each prompt (default: 1)"}),
        ("seed", {"type": whole, "help": "the same seed gives the same text (default: 0)"}),
    ],
}


def add(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """Adds a flag for each option, in groups, but for some."""
    for title, options in _GROUPS.items():
        group = parser.add_argument_group(title)
        for name, settings in options:
            if name not in without:
                group.add_argument(f"--{name.replace('_', '-')}", default=None, **settings)


def given(arguments: argparse.Namespace, mesh: MeshConfig | None = None) -> dict[str, Any]:
    """The options that were given, with the models among them opened."""
    names = (name for options in _GROUPS.values() for name, _ in options)
    found = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    for name in ("draft", "fusion"):
        if name in found:
            found[name] = language_model.load(found[name], mesh=mesh)
    return found
