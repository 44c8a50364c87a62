"""How a published encoder-decoder generates, from generation_config.json or config.json.

Fields have their meaning in transformers: a length counts the start token, and without `do_sample` the most
probable token is taken.
"""

import pathlib
from typing import Any

from lm_jax import files
from lm_jax.errors import UserError
from lm_jax.pretrained.values import Values

_FILES = ("generation_config.json", "config.json")
_DRAWS = {"temperature": "temperature", "top_p": "top_p"}


def read(directory: pathlib.Path) -> dict[str, Any]:
    """The options of `generate` that the first of these files that exists gives, and `max_tokens`.

    Raises:
        UserError: a damaged file, or a field of another type.
    """
    path = next(directory / name for name in _FILES if (directory / name).is_file())
    values = Values(files.JsonObject.read(path).values, str(path))
    options: dict[str, Any] = {}
    beams = values.size("num_beams", 1)
    if beams > 1:
        options |= {
            "num_beams": beams,
            "length_penalty": values.number("length_penalty", 1.0),
            "early_stopping": values.flag_or_text("early_stopping", "never", False),
        }
    elif values.boolean("do_sample", False):
        options |= {ours: values.number(theirs, 1.0) for ours, theirs in _DRAWS.items()}
        options["top_k"] = values.integer("top_k", 50)
    else:
        options["temperature"] = 0.0
    most = values.integer("max_new_tokens", values.integer("max_length", 0) - 1)
    least = values.integer("min_new_tokens", values.integer("min_length", 0) - 1)
    options |= {"max_tokens": most} if most > 0 else {}
    options |= {"min_tokens": least} if least > 0 else {}
    if (repeated := values.integer("no_repeat_ngram_size", 0)) > 0:
        options["no_repeat_ngram"] = repeated
    if (penalty := values.number("repetition_penalty", 1.0)) != 1.0:
        options["repetition_penalty"] = penalty
    if (forced := values.integer("forced_bos_token_id", -1)) >= 0:
        options["forced"] = (forced,)
    if (end := values.integer("forced_eos_token_id", -1)) >= 0:
        if end != values.integer("eos_token_id", end):
            raise UserError(f"forced_eos_token_id={end} in {path}", "only the end token is supported")
        options["forced_end"] = True
    return options
