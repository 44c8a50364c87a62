"""Making a tokenizer from texts by its name, and reading one from its files."""

import collections
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

from lm_jax import files
from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.text.base import FILE, Tokenizer
from lm_jax.text.bpe import BART_SPECIAL, ByteLevelBPE
from lm_jax.text.simple import ByteTokenizer, CharacterTokenizer, WordTokenizer
from lm_jax.text.wordpiece import WordPiece

_INSTEAD = (
    "train one by data.tokenizer=bpe, or give a byte-level BPE or a WordPiece "
    "(tokenizer.json, vocab.json and merges.txt, or vocab.txt)"
)
KINDS = ("byte", "char", "word", "bpe", "bpe-bart", "wordpiece", "wordpiece-uncased")


def train(spec: str, texts: Iterable[str], vocab_size: int = 0, min_count: int = 0) -> Tokenizer:
    """Makes the tokenizer that a spec names.

    Args:
        spec: byte, char, word, bpe, bpe-bart (with BART's special tokens, the mask among them), wordpiece or
            wordpiece-uncased (which drops case and accents), made from the texts; or a path, with or without
            `bpe:` or `wordpiece:` before it, which is loaded.
        texts: the training part, nothing else; read once.
        vocab_size: the maximum number of tokens, special ones included; 0: no limit (BPE and WordPiece need
            one).
        min_count: words and characters that are rarer are left out; without effect on BPE.

    Raises:
        UserError: a spec that is neither, a vocabulary that is too small, or what `load` raises.
    """
    if spec == "byte":
        return ByteTokenizer()
    if spec == "char":
        return CharacterTokenizer.train(texts, vocab_size, min_count)
    if spec == "word":
        return WordTokenizer.train(texts, vocab_size, min_count)
    if spec == "bpe":
        return ByteLevelBPE.train(texts, vocab_size)
    if spec == "bpe-bart":
        return ByteLevelBPE.train(texts, vocab_size, BART_SPECIAL)
    if spec in ("wordpiece", "wordpiece-uncased"):
        return WordPiece.train(texts, vocab_size, min_count, lowercase=spec.endswith("uncased"))
    return load(named_file(spec))


def named_file(spec: str) -> Path:
    """The path in a spec that is to be loaded.

    Raises:
        UserError: there is nothing there.
    """
    path = files.expand(spec.removeprefix("bpe:").removeprefix("wordpiece:"))
    if not path.exists():
        near = difflib.get_close_matches(spec, KINDS, n=1)
        remedy = f"did you mean {near[0]}?" if near else "check the path"
        raise UserError(f"tokenizer {spec!r} is neither {', '.join(KINDS)} nor a file", remedy)
    return path


def load(path: str | Path, special: Mapping[str, str] | None = None) -> Tokenizer:
    """Reads a tokenizer.

    Args:
        path: a directory with `tokenizer.json` (what `save` writes, or Hugging Face's), with GPT-2's
            `vocab.json` and `merges.txt`, or with BERT's `vocab.txt`; or such a file itself.
        special: special tokens of a byte-level BPE, as for `ByteLevelBPE`.

    Raises:
        UserError: no such file, a damaged one, or a kind that is not offered here.
    """
    path = Path(path)
    if path.is_dir():
        names = [name for name in (FILE, "vocab.json", "vocab.txt") if (path / name).is_file()]
        if not names:
            for other in sorted(path.iterdir()):
                _check_offered(other)
            raise UserError(
                f"no tokenizer in {path}", f"it needs {FILE}, vocab.json and merges.txt, or vocab.txt"
            )
        path /= names[0]
    _check_offered(path)
    if path.name == "merges.txt":
        path = path.with_name("vocab.json")
    if path.suffix == ".txt":
        return WordPiece.load(path)
    definition = JsonObject.read(path)
    if path.name == "vocab.json":
        return ByteLevelBPE.load(path, special)
    kind = definition.values.get("kind")
    if kind == "byte":
        return ByteTokenizer()
    if kind == "char":
        return CharacterTokenizer(_strings(definition, "characters", is_character=True))
    if kind == "word":
        return WordTokenizer(_strings(definition, "words"))
    model_kind = definition.inner("model").values.get("type")
    if model_kind in ("Unigram", "WordLevel"):
        is_piece = " (SentencePiece's)" if model_kind == "Unigram" else ""
        raise UserError(f"{path} is a {model_kind} tokenizer{is_piece}, which is not offered", _INSTEAD)
    return WordPiece.load(path) if model_kind == "WordPiece" else ByteLevelBPE.load(path, special)


def _strings(definition: JsonObject, name: str, is_character: bool = False) -> list[str]:
    """A field that is a list of different texts, or of different characters."""
    values, where = definition.take(name, list), f"{definition.where}: {name}"
    for number, value in enumerate(values):
        if not isinstance(value, str) or (
            is_character and (len(value) != 1 or 0xD800 <= ord(value) < 0xE000)
        ):
            kind = "a character" if is_character else "a text"
            raise UserError(f"{where}[{number}] is not {kind}", "restore the file")
        if not is_character:
            _check_word(value, f"{where}[{number}]")
    if len(set(values)) < len(values):
        twice = collections.Counter(values).most_common(1)[0][0]
        raise UserError(f"{where} has {twice!r} twice", "restore the file")
    return values


def _check_word(word: str, where: str) -> None:
    try:
        word.encode(errors="surrogateescape")  # the words of an ARPA file may not be UTF-8
    except UnicodeEncodeError:
        raise UserError(f"{where} has half a character", "restore the file") from None


def _check_offered(path: Path) -> None:
    """Raises UserError for a file of a tokenizer that is known and not offered."""
    if path.suffix in (".model", ".spm"):
        raise UserError(f"{path} is a SentencePiece model, which is not offered", _INSTEAD)
    if path.suffix == ".tiktoken":
        raise UserError(
            f"{path} is a vocabulary of tiktoken, which is not offered",
            f"give the tokenizer.json of the same vocabulary, or {_INSTEAD}",
        )
