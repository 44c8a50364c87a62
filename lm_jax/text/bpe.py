"""Byte-level BPE by Hugging Face `tokenizers`: GPT-2's, another that keeps every byte, or one trained here.

Byte-level BPE writes each of the 256 bytes as a printable character, so that merges of characters are
merges of bytes (Radford et al. 2019, section 2.2). Here the bytes of a token are decoded from its characters,
and spans are sums of their lengths. The library's own offsets count characters, and overlap where a token
ends inside a character.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers as huggingface
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.text.base import END, RunCutter, Tokenizer, cut_where, encode_pieces, tile, utf8
from lm_jax.text.library import read_bpe, read_tokenizer, reported

# Of GPT-2; RoBERTa and BART; Llama 3. The first that the vocabulary has; GPT-2's pattern learns none of them.
_SPECIAL = {
    "bos": ("<s>", "<|begin_of_text|>"),
    "eos": (END, "</s>", "<|end_of_text|>"),
    "unk": ("<unk>",),
    "sep": ("</s>",),
    "pad": ("<pad>",),
    "cls": ("<s>",),
    "mask": ("<mask>",),
}
BART_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # in the order of BART's vocabulary
# A single newline between two characters that are not white space is always a token of its own under GPT-2's
# pattern: a text cut after it has the same tokens.
_CUT = re.compile(r"(?<=\S)\n(?=\S)")


class ByteLevelBPE(Tokenizer):
    """A token is a run of bytes. The name of a special token inside a text is encoded as plain text.

    Args:
        library: the library's tokenizer. It is kept, and some of its settings are changed.
        source: the file that it is from, for errors.
        special: special tokens by Hugging Face's names for them, where they are not those of GPT-2, RoBERTa,
            BART or Llama 3.

    Raises:
        UserError: another kind of tokenizer, or one that does not keep every byte.
    """

    kind = "bpe"

    def __init__(
        self,
        library: huggingface.Tokenizer,
        source: str = "the tokenizer",
        special: Mapping[str, str] | None = None,
    ):
        definition = json.loads(library.to_str())
        _check_keeps_bytes(definition, source)
        vocabulary = library.get_vocab()
        found = {name: [t for t in tokens if t in vocabulary] for name, tokens in _SPECIAL.items()}
        special = {
            "eos": END, **{name: tokens[0] for name, tokens in found.items() if tokens}, **(special or {})
        }  # fmt: skip
        library.add_special_tokens(sorted(set(special.values())))  # a new id only for an END that is missing
        library.encode_special_tokens = True
        library.no_truncation()
        library.no_padding()
        library.model.dropout = None
        self._library, self._source = library, source
        vocabulary = library.get_vocab()
        super().__init__(_bytes_by_id(library), {name: vocabulary[token] for name, token in special.items()})
        self.end_id = self.special_ids["eos"]
        self._lengths = np.array([len(token) for token in self._token_bytes])
        is_gpt2_pattern = definition["pre_tokenizer"].get("use_regex", False)
        added = library.get_added_tokens_decoder().values()
        self._can_cut = is_gpt2_pattern and all(token.special for token in added)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, special: Sequence[str] = (END,)) -> "ByteLevelBPE":
        """Learns merges from texts that GPT-2's pattern splits.

        Args:
            texts: read once.
            vocab_size: the maximum number of tokens, special ones included.
            special: the special tokens, which have the first ids: GPT-2's, or `BART_SPECIAL`.

        Raises:
            UserError: a vocabulary too small for the 256 bytes and the special tokens.
        """
        least = 256 + len(special)
        if vocab_size < least:
            rest = "the end" if len(special) == 1 else "the special tokens"
            raise UserError(
                f"vocab_size={vocab_size} is too small for byte-level BPE",
                f"give it {least} (the bytes and {rest}) or more",
            )
        library = huggingface.Tokenizer(models.BPE())
        _make_gpt2_like(library)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        cutter = RunCutter()
        pieces = (p for t in texts for p in cut_where(utf8(t).decode(), _CUT))
        library.train_from_iterator((q for p in pieces for q in cutter.cut(p)), trainer)
        cutter.warn()
        return cls(library)

    @classmethod
    def load(cls, path: Path, special: Mapping[str, str] | None = None) -> "ByteLevelBPE":
        """Reads `tokenizer.json`; or `vocab.json` with `merges.txt` and perhaps `added_tokens.json`.

        Raises:
            UserError: a file that the library cannot read, or a tokenizer that is not byte-level BPE.
        """
        if path.name != "vocab.json":
            library = read_tokenizer(path)
        else:
            library = huggingface.Tokenizer(read_bpe(path, path.with_name("merges.txt")))
            _make_gpt2_like(library)
            _add_tokens(library, path.with_name("added_tokens.json"), set((special or {}).values()))
        with reported(path):
            return cls(library, str(path), special)

    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        sizes = [len(utf8(text)) for text in texts]
        pieces = [list(cut_where(text, _CUT)) if self._can_cut else [text] for text in texts]
        results = encode_pieces(self._library, pieces)
        for ids, size in zip(results, sizes):
            if self._lengths[ids].sum() != size:
                raise UserError(
                    f"{self._source} does not keep every byte of a text",
                    "use a byte-level BPE whose added tokens strip no white space",
                )
        return results

    def special_text(self, name: str) -> str:
        return str(self._library.id_to_token(self.require_special(name)))

    def _definition(self) -> dict[str, Any]:
        return json.loads(self._library.to_str())

    def _spans(self, ids: np.ndarray, data: bytes) -> np.ndarray:
        return tile(np.append(0, np.cumsum(self._lengths[ids])))


def _add_tokens(library: huggingface.Tokenizer, path: Path, special: set[str]) -> None:
    """Adds the tokens of an added_tokens.json; those that look like marks are special."""
    if not path.is_file():
        return
    added = JsonObject.read(path)
    ids = {text: added.take(text, int) for text in added.values}
    if any("\ud800" <= character <= "\udfff" for character in "".join(ids)):
        raise UserError(f"{path} has a token with half a character", "restore the file")
    for text, token_id in sorted(ids.items(), key=lambda item: item[1]):
        is_special = text in special or re.fullmatch(r"<.+>|\[.+\]", text) is not None
        library.add_tokens([AddedToken(text, special=is_special, normalized=False)])
        if library.token_to_id(text) != token_id:
            raise UserError(
                f"{path}: {text!r} has the id {token_id}, and {library.token_to_id(text)} follows the "
                "vocabulary",
                "restore vocab.json and added_tokens.json of one model",
            )


def _make_gpt2_like(library: huggingface.Tokenizer) -> None:
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()


def _check_keeps_bytes(definition: dict[str, Any], source: str) -> None:
    splitter: dict[str, Any] = definition["pre_tokenizer"] or {"type": "none"}
    parts = splitter["pretokenizers"] if splitter["type"] == "Sequence" else [splitter]
    last: dict[str, Any] = parts[-1] if parts else {"type": "none"}
    model = definition["model"]
    if model["type"] != "BPE" or last["type"] != "ByteLevel":
        raise UserError(
            f"{source} is not a byte-level BPE (model {model['type']}, pre-tokenizer {last['type']})",
            "give the tokenizer of GPT-2, RoBERTa, BART or their like",
        )
    if last["add_prefix_space"] or definition["normalizer"] is not None:
        what = "adds a space to" if last["add_prefix_space"] else "normalizes"
        raise UserError(
            f"{source} {what} a text before it encodes it, so that bytes would not come back",
            "set add_prefix_space to false and normalizer to null in it, if its model allows that",
        )
    if missing := _ALPHABET.keys() - model["vocab"].keys():
        raise UserError(
            f"{source} has no token for {len(missing)} of the 256 bytes",
            "train it with the whole byte alphabet as its initial alphabet",
        )


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte: the byte's own character where Latin-1 prints it, else one from 256 on, in order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in sorted(printable)} | {chr(256 + n): b for n, b in enumerate(others)}


_ALPHABET = _byte_alphabet()
_CHARACTER_OF = {byte: character for character, byte in _ALPHABET.items()}


def printable(token: bytes) -> str:
    """A token in GPT-2's alphabet of bytes: a character for each byte, none of them white space.

    Distinct tokens stay distinct; "Ġ" stands for a space (Radford et al. 2019, the published code's
    `bytes_to_unicode`).
    """
    return "".join(_CHARACTER_OF[byte] for byte in token)


def _bytes_by_id(library: huggingface.Tokenizer) -> list[bytes]:
    """The bytes of each id; empty for special tokens and for ids without a token."""
    vocabulary, added = library.get_vocab(), library.get_added_tokens_decoder()
    table = [b""] * (max(vocabulary.values()) + 1)
    for token, token_id in vocabulary.items():
        if token_id in added:  # its name is its text
            table[token_id] = b"" if added[token_id].special else token.encode()
        elif _ALPHABET.keys() >= set(token):
            table[token_id] = bytes(_ALPHABET[c] for c in token)
    return table
