"""Making a tokenizer from texts by its name, and reading one from its files."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from lm_jax import files
from lm_jax.errors import UserError
from lm_jax.text.base import FILE, Tokenizer
from lm_jax.text.bpe import ByteLevelBPE
from lm_jax.text.simple import ByteTokenizer, CharacterTokenizer, WordTokenizer
from lm_jax.text.wordpiece import WordPiece

KINDS = ("byte", "char", "word", "bpe", "wordpiece", "wordpiece-uncased")


def train(spec: str, texts: Iterable[str], vocab_size: int = 0, min_count: int = 0) -> Tokenizer:
    """Makes the tokenizer that a spec names.

    Args:
        spec: byte, char, word, bpe, wordpiece or wordpiece-uncased (which drops case and accents), made from
            the texts; or a path, with or without `bpe:` or `wordpiece:` before it, which is loaded.
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
    if spec in ("wordpiece", "wordpiece-uncased"):
        return WordPiece.train(texts, vocab_size, min_count, lowercase=spec.endswith("uncased"))
    return load(named_file(spec))


def named_file(spec: str) -> Path:
    """The path in a spec that is to be loaded.

    Raises:
        UserError: there is nothing there.
    """
    path = Path(spec.removeprefix("bpe:").removeprefix("wordpiece:")).expanduser()
    if not path.exists():
        near = difflib.get_close_matches(spec, KINDS, n=1)
        remedy = f"did you mean {near[0]}?" if near else "check the path"
        raise UserError(f"tokenizer {spec!r} is neither {', '.join(KINDS)} nor a file", remedy)
    return path


def load(path: str | Path) -> Tokenizer:
    """Reads a tokenizer.

    Args:
        path: a directory with `tokenizer.json` (what `save` writes, or Hugging Face's), with GPT-2's
            `vocab.json` and `merges.txt`, or with BERT's `vocab.txt`; or such a file itself.

    Raises:
        UserError: no such file, a damaged one, or a kind that is not offered here.
    """
    path = Path(path)
    if path.is_dir():
        names = [name for name in (FILE, "vocab.json", "vocab.txt") if (path / name).is_file()]
        if not names:
            raise UserError(
                f"no tokenizer in {path}", f"it needs {FILE}, vocab.json and merges.txt, or vocab.txt"
            )
        path /= names[0]
    if path.name == "merges.txt":
        path = path.with_name("vocab.json")
    if path.suffix == ".txt":
        return WordPiece.load(path)
    definition = files.read_json(path)
    makers = {
        "byte": lambda: ByteTokenizer(),
        "char": lambda: CharacterTokenizer(definition["characters"]),
        "word": lambda: WordTokenizer(definition["words"]),
    }
    try:
        kind = definition.get("kind")
        if kind in makers:
            return makers[kind]()
        model = definition.get("model")  # or a token of a vocab.json
        is_wordpiece = isinstance(model, dict) and model.get("type") == "WordPiece"
        return WordPiece.load(path) if is_wordpiece else ByteLevelBPE.load(path)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a tokenizer ({error!r})", "restore the file") from None
