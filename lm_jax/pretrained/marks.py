"""The tokens that a published model begins and ends texts with, from the files beside its weights.

Hugging Face's form names them in up to four files: by id in generation_config.json and config.json, by text
in tokenizer_config.json and special_tokens_map.json. They count in this order, as in transformers'
`generate`. An id counts only if the vocabulary has it and if it is the id of a special token: configs of
other vocabularies than GPT-2's often keep GPT-2's 50256.
"""

import pathlib
import re
from collections.abc import Mapping
from types import NoneType
from typing import NamedTuple

from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.text.library import read_word_pieces

_LOOKS_SPECIAL = re.compile(r"<.+>|\[.+\]")


class Marks(NamedTuple):
    """The texts of special tokens of a vocabulary.

    Attributes:
        begin: the token before the first one of a text; None: the files name none.
        ends: the tokens that end a text, the one that a score pays for first; empty: the files name none.
    """

    begin: str | None
    ends: tuple[str, ...]

    @property
    def special(self) -> dict[str, str]:
        """The tokens by Hugging Face's names, bos and eos."""
        return ({"bos": self.begin} if self.begin else {}) | ({"eos": self.ends[0]} if self.ends else {})


def read(directory: pathlib.Path, vocabulary: Mapping[str, int]) -> Marks:
    """The marks that the files of a directory name.

    Args:
        directory: holds config.json and perhaps the other files.
        vocabulary: each token's text -> its id.

    Raises:
        UserError: a file is damaged, or a field has another type.
    """
    by_id = {token_id: text for text, token_id in vocabulary.items()}
    named = [_object(directory / name) for name in ("tokenizer_config.json", "special_tokens_map.json")]
    texts: dict[str, list[str]] = {}
    for name in ("bos", "eos"):
        given = [_text(source, f"{name}_token") for source in named]
        texts[name] = [text for text in given if text in vocabulary]
    known = {*texts["bos"], *texts["eos"]}

    def find(name: str) -> tuple[str, ...]:
        lists = []
        for file in ("generation_config.json", "config.json"):
            ids = token_ids(_object(directory / file), f"{name}_token_id")
            found = [by_id[i] for i in ids if i in by_id]
            lists.append([text for text in found if text in known or _LOOKS_SPECIAL.fullmatch(text)])
        generation, config = lists
        if generation:  # the score pays for the config's, where the list has it
            return tuple(dict.fromkeys([text for text in config if text in generation] + generation))
        return tuple(config or texts[name][:1])

    ends, begins = find("eos"), find("bos")
    return Marks(begins[0] if begins else None, ends)


def _object(path: pathlib.Path) -> JsonObject:
    """The object in a JSON file; an empty one if there is no file."""
    return JsonObject.read(path) if path.is_file() else JsonObject({}, str(path))


def token_ids(values: JsonObject, name: str) -> list[int]:
    """The ids in a field of an object: a whole number, a list of them, or null.

    Raises:
        UserError: another type.
    """
    value = values.take(name, int, list, NoneType, default=None)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(one) is int for one in ids):
        raise UserError(f"{values.where}: {name} is not a list of whole numbers", "restore the file")
    return ids


def _text(values: JsonObject, name: str) -> str:
    """The text of a token, which may be an object that describes it; "" if there is none."""
    if isinstance(values.values.get(name), dict):
        return str(values.inner(name).take("content", str))
    return values.take(name, str, NoneType, default=None) or ""


def vocabulary(directory: pathlib.Path) -> dict[str, int]:
    """Each token's text -> its id, of tokenizer.json, vocab.json with added_tokens.json, or vocab.txt.

    Empty for tokenizers that are not Hugging Face's. Damaged files are left to the tokenizers' own readers.
    """
    if (directory / "tokenizer.json").is_file():
        values = _object(directory / "tokenizer.json").values
        model, added = values.get("model"), values.get("added_tokens")
        pieces = model.get("vocab") if isinstance(model, dict) else None
        found = dict(pieces) if isinstance(pieces, dict) else {}
        for token in added if isinstance(added, list) else []:
            if isinstance(token, dict) and isinstance(token.get("content"), str):
                found[token["content"]] = token.get("id")
    elif (directory / "vocab.json").is_file():
        found = {
            **_object(directory / "vocab.json").values,
            **_object(directory / "added_tokens.json").values,
        }
    elif (directory / "vocab.txt").is_file():
        found = read_word_pieces(directory / "vocab.txt")
    else:
        found = {}
    return {text: i for text, i in found.items() if isinstance(text, str) and type(i) is int}
