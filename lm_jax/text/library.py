"""Checked reading of the files of Hugging Face's tokenizers, before its library reads them.

The library allocates a table of as many entries as the largest id, and aborts the process where there is no
memory for it. Its errors name neither the file nor the field.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from types import NoneType
from typing import Any

import tokenizers as huggingface
from tokenizers import models

from lm_jax import files
from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.text import base

_REMEDY = "restore the file"
_ROOM = 1 << 16  # ids that a vocabulary may leave out, beside as many as it has


def read_tokenizer(path: Path) -> huggingface.Tokenizer:
    """Reads a tokenizer.json of the library.

    Raises:
        UserError: the file cannot be read, or a field is missing, of another type or out of range.
    """
    text = files.read_text(path)
    definition = JsonObject(files.parse_json(text, str(path)), str(path))
    model = definition.inner("model")
    prefix = model.values.get("continuing_subword_prefix")
    if model.values.get("type") != "WordPiece" and isinstance(prefix, str) and prefix:
        raise UserError(  # the library panics where a merge is shorter than the prefix
            f"{path}: model.continuing_subword_prefix is {_shown(prefix)}",
            "give a byte-level BPE, which has none",
        )
    ids = _check_vocabulary(model.inner("vocab"))
    added = definition.take("added_tokens", list, NoneType, default=None) or []
    for number, values in enumerate(added):
        token = JsonObject(values, f"{path}, added_tokens[{number}]")
        token.take("content", str)
        ids.append(token.take("id", int))
    _check_ids(ids, str(path))
    try:
        with reported(path):
            return huggingface.Tokenizer.from_str(text)
    except UserError as error:
        field = _wrong_field(definition.values)
        raise UserError(f"{error.cause}, in the field {field!r}" if field else error.cause, _REMEDY) from None


def _wrong_field(definition: dict[str, Any]) -> str:
    """The field that the library refuses, such as model.dropout; "" if it refuses none by itself."""
    good = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}

    def is_accepted(name: str, value: Any) -> bool:
        try:
            with reported(name):
                huggingface.Tokenizer.from_str(json.dumps({**good, name: value}))
        except UserError:
            return False
        return True

    for name, value in definition.items():
        if not is_accepted(name, value):
            keys = list(value) if isinstance(value, dict) else []
            without = ({k: v for k, v in value.items() if k != key} for key in keys)
            wrong = [key for key, rest in zip(keys, without, strict=True) if is_accepted(name, rest)]
            # Without its type, a part may be taken for one of another type.
            return f"{name}.{min(wrong, key=lambda key: key == 'type')}" if wrong else name
    return ""


def read_bpe(vocab: Path, merges: Path) -> models.BPE:
    """Reads a vocab.json and a merges.txt. Errors as for `read_tokenizer`."""
    _check_ids(_check_vocabulary(JsonObject.read(vocab)), str(vocab))
    files.read_text(merges)  # for the error of a file that is missing or not UTF-8
    with reported(vocab):
        return models.BPE.from_file(str(vocab), str(merges))


def read_word_pieces(path: Path) -> dict[str, int]:
    """Reads a vocab.txt, a token a line. Errors as for `read_tokenizer`."""
    files.read_text(path)  # for the error of a file that is missing or not UTF-8
    with reported(path):
        return models.WordPiece.read_file(str(path))


def _check_vocabulary(vocabulary: JsonObject) -> list[int]:
    """The ids of an object from tokens to ids."""
    for token, token_id in vocabulary.values.items():
        if type(token_id) is not int:
            vocabulary.take(token, int)  # for its error; the loop is faster without a call
    return list(vocabulary.values.values())


def _check_ids(ids: list[int], where: str) -> None:
    if not ids:
        raise UserError(f"{where} has no tokens", _REMEDY)
    if min(ids) < 0 or max(ids) > 2 * len(ids) + _ROOM:
        wrong = min(ids) if min(ids) < 0 else max(ids)
        raise UserError(f"{where} has {len(ids)} tokens and the id {_shown(wrong)}", _REMEDY)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def reported(source: str | Path) -> AbstractContextManager[None]:
    """Raises a UserError for the errors of the library about a file."""
    return base.reported(f"cannot read the tokenizer {source}", _REMEDY)
