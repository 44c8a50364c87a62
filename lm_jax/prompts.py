"""The prompts of `lm_jax.generate`: read from files, and cropped to what a model reads."""

import sys
from collections.abc import Sequence
from typing import Any

from lm_jax import files
from lm_jax.data import corpora
from lm_jax.data.text_files import read_text
from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.text.base import Tokenizer

_FIELD = "prompt"  # of JSON lines that name no other
_INPUT = "-"


def read(source: str) -> list[str]:
    """The prompts of a file: a line each, or a JSON object a line with the prompt in a field.

    Args:
        source: a file, or "-" for standard input, whose lines are prompts; or FILE.jsonl, jsonl:GLOB,
            jsonl:GLOB#FIELD or jsonl:-, whose lines are objects with the field "prompt", or the named one.
            Of other corpora each document is a prompt.

    Raises:
        UserError: no such file, one without a line or that is not UTF-8, or a line without that field.
    """
    if source.startswith(f"jsonl:{_INPUT}"):
        _, _, field = source.partition("#")
        return _of_objects(_input(), field or _FIELD)
    if source == _INPUT:
        return _lines(_input(), "standard input")
    if not corpora.is_spec(source) and corpora.records_kind(source) == "jsonl":
        source = f"jsonl:{source}"
    if not corpora.is_spec(source):
        return _lines(read_text(files.expand(source)), source)
    return [document.text for document in corpora.read(corpora.with_field(source, _FIELD), "line")]


def _input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input is not UTF-8 (byte {error.start})", "convert it, such as by iconv -t utf-8"
        ) from None


def _lines(text: str, source: str) -> list[str]:
    """The lines without their ends; the empty ones begin new texts."""
    lines = text.removesuffix("\n").split("\n") if text else []
    if not lines:
        raise UserError(f"no prompt in {source}", "give a prompt a line")
    return [line.removesuffix("\r") for line in lines]


def _of_objects(text: str, field: str) -> list[str]:
    prompts = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"standard input, line {number}"
            prompts.append(JsonObject(files.parse_json(line, where), where).take(field, str))
    if not prompts:
        raise UserError("no prompt in standard input", "give a JSON object a line")
    return prompts


def crop(prompt: str, tokenizer: Tokenizer, context: int | None) -> tuple[str, str]:
    """A prompt's end that a model can read, after the token that texts begin with.

    Args:
        prompt: the text to continue.
        tokenizer: from text to ids.
        context: the number of tokens that the model reads; None: no limit.

    Returns:
        The text, and a line that says what was left out; "" if nothing was.
    """
    [ids] = tokenizer.encode_prompts([prompt])
    if context is None or len(ids) < context:
        return prompt, ""
    data, kept = prompt.encode(), context - 1
    while True:
        # Cut before a token: its text alone may be other tokens, and more of them.
        start = int(tokenizer.encode(prompt).spans[-kept][0]) if kept else len(data)
        end = data[start:].decode(errors="ignore")
        if (num_read := len(tokenizer.encode_prompts([end])[0])) < context:
            break
        kept -= 1
    said = f"the prompt has {len(ids)} tokens and the model reads {context}: it continues the last {num_read}"
    return end, said


def context_of(*models: Any) -> int | None:
    """The number of tokens that all of several models read; None: any."""
    known = [getattr(model, "context", None) for model in models if model is not None]
    return min((length for length in known if length is not None), default=None)


def crop_all(prompts: Sequence[str], model: Any, options: Any) -> tuple[list[str], list[str]]:
    """`crop` of each prompt, for a model and the models among its options; and the lines to say."""
    context = context_of(model, options.get("draft"), options.get("fusion"))
    if context is None:
        return list(prompts), []
    made = [crop(prompt, model.tokenizer, context) for prompt in prompts]
    return [text for text, _ in made], [said for _, said in made if said]
