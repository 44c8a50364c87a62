"""WordPiece as BERT has it, by Hugging Face `tokenizers`: BERT's own vocabularies, or one learned here.

A text is cleaned of control characters, cut at white space, around punctuation and around each CJK
character, and each word is taken apart from its left into the longest pieces of the vocabulary (Wu et al.
2016; Devlin et al. 2019, section 3 and `tokenization.py` of their code). White space is not among the tokens
and, in an uncased vocabulary, neither are case and accents: nothing pays for them.
"""

import collections
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers as huggingface
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from lm_jax import files
from lm_jax.errors import UserError
from lm_jax.text.base import Tokenizer, cut_where, encode_pieces, utf8

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PREFIX = "##"  # of a piece that goes on with a word
_CUT = re.compile(r"\n")  # no word reaches across, nor does anything that normalization looks at
_REPEATS = 1 << 16  # characters of one word that are handed to the trainer at once


class WordPiece(Tokenizer):
    """A token is a piece of a word.

    The end is [SEP]; [UNK] is a whole word that the vocabulary cannot build. The name of a special token
    inside a text is plain text. Characters that normalization drops may belong to no span; where it makes
    several of one (letters of a Hangul syllable), the first token that has any of them spans it all.

    Args:
        library: the library's tokenizer, which becomes ours: some of its settings change.
        source: where it is from, for errors.

    Attributes:
        lowercase: whether case is dropped.
        special_ids: [PAD], [UNK], [CLS], [SEP], [MASK], as far as the vocabulary has them.

    Raises:
        UserError: another kind of tokenizer, or one without an end or an unknown token.
    """

    kind, lossless = "wordpiece", False

    def __init__(self, library: huggingface.Tokenizer, source: str = "the tokenizer"):
        definition = json.loads(library.to_str())
        _check_is_berts(definition, source)
        vocabulary = library.get_vocab()
        self.special_ids = {name: vocabulary[name] for name in _SPECIAL if name in vocabulary}
        if missing := {"[UNK]", "[SEP]"} - self.special_ids.keys():
            raise UserError(
                f"{source} has no {min(missing)}", "give the vocabulary of a BERT, one token a line"
            )
        library.add_special_tokens(list(self.special_ids))
        library.encode_special_tokens = True
        library.no_truncation()
        library.no_padding()
        self._library = library
        self.lowercase: bool = definition["normalizer"]["lowercase"]
        self.end_id, self.unknown_id = self.special_ids["[SEP]"], self.special_ids["[UNK]"]
        added = library.get_added_tokens_decoder()
        self._can_cut = all(token.special for token in added.values())
        table, self._goes_on = [b""] * (max(vocabulary.values()) + 1), set()
        for token, token_id in vocabulary.items():
            if token.startswith(_PREFIX) and len(token) > len(_PREFIX):
                self._goes_on.add(token_id)
                token = token.removeprefix(_PREFIX)
            is_silent = token_id in added and added[token_id].special and token_id != self.unknown_id
            table[token_id] = b"" if is_silent else token.encode()
        super().__init__(table)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, min_count: int = 0, lowercase: bool = False
    ) -> "WordPiece":
        """Learns pieces, after the special tokens and the characters of the texts.

        Args:
            texts: read once.
            vocab_size: the most tokens, special ones included.
            min_count: words with a rarer character are left out, and will be unknown.
            lowercase: drops case and accents.

        Raises:
            UserError: no room for the characters.
        """
        library = _make({}, lowercase)
        counts = _count_words(library, texts, min_count)
        # The library numbers these in an order that changes from process to process, and breaks ties by
        # number. As "special" tokens they keep the order that they are given in.
        going_on = sorted({_PREFIX + c for word in counts for c in word[1:]})
        characters = set().union(*counts)
        least = len(_SPECIAL) + len(going_on) + len(characters)
        if vocab_size < least:
            raise UserError(
                f"vocab_size={vocab_size} is too small for WordPiece and {len(characters)} characters",
                f"give it {least} or more, or let data.min_count leave rare characters out",
            )
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            special_tokens=[*_SPECIAL, *going_on],
            show_progress=False,
            continuing_subword_prefix=_PREFIX,
        )
        library.train_from_iterator(_repeated(counts), trainer)
        return cls(_make(library.get_vocab(), lowercase))

    @classmethod
    def load(cls, path: Path) -> "WordPiece":
        """Reads `tokenizer.json`, or `vocab.txt` with the settings in `tokenizer_config.json` beside it.

        Where these do not say whether to drop case, the vocabulary does: it holds capital letters or not.

        Raises:
            UserError: a file that the library cannot read, or a tokenizer that is not BERT's.
        """
        try:
            if path.suffix == ".json":
                return cls(huggingface.Tokenizer.from_file(str(path)), str(path))
            vocabulary = models.WordPiece.read_file(str(path))
        except UserError:
            raise
        except Exception as error:  # the library raises this very class
            raise UserError(f"cannot read the tokenizer {path}: {error}", "restore the file") from None
        config = path.with_name("tokenizer_config.json")
        settings = files.read_json(config) if config.exists() else {}
        has_capitals = any(re.search("[A-Z]", token) for token in vocabulary if token[:1] != "[")
        library = _make(
            vocabulary,
            settings.get("do_lower_case", not has_capitals),
            settings.get("strip_accents"),
            settings.get("tokenize_chinese_chars", True),
        )
        return cls(library, str(path))

    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        return encode_pieces(self._library, [self._pieces(utf8(text).decode()) for text in texts])

    def decode_bytes(self, ids: Any) -> bytes:
        """The words with single spaces between them, those of punctuation included."""
        parts: list[bytes] = []
        for token_id in np.asarray(ids).reshape(-1).tolist():
            if token := self.token_bytes(token_id):
                parts += [token] if token_id in self._goes_on or not parts else [b" ", token]
        return b"".join(parts)

    def _pieces(self, text: str) -> list[str]:
        return list(cut_where(text, _CUT)) if self._can_cut else [text]

    def _definition(self) -> dict[str, Any]:
        return json.loads(self._library.to_str())

    def _spans(self, ids: np.ndarray, data: bytes) -> np.ndarray:
        pieces, spans, start = self._pieces(data.decode()), [], 0
        for piece, encoding in zip(pieces, self._library.encode_batch(pieces, add_special_tokens=False)):
            edges = start + _byte_edges(piece)
            spans.append(edges[np.array(encoding.offsets, np.int64).reshape(-1, 2)])
            start = edges[-1]
        firsts, ends = np.concatenate(spans).T
        return np.stack([np.maximum(firsts, np.append(0, ends)[:-1]), ends], axis=1)


def _make(
    vocabulary: dict[str, int],
    lowercase: bool,
    strip_accents: bool | None = None,
    split_chinese: bool = True,
) -> huggingface.Tokenizer:
    library = huggingface.Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=_PREFIX)
    )
    library.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(prefix=_PREFIX, cleanup=False)
    return library


def _check_is_berts(definition: dict[str, Any], source: str) -> None:
    found = [
        (definition[part] or {"type": "none"})["type"] for part in ("model", "normalizer", "pre_tokenizer")
    ]
    if found != ["WordPiece", "BertNormalizer", "BertPreTokenizer"]:
        raise UserError(
            f"{source} is not BERT's WordPiece ({', '.join(found)})",
            "give the tokenizer of BERT, DistilBERT, ELECTRA or their like",
        )
    if definition["model"]["continuing_subword_prefix"] != _PREFIX:
        raise UserError(f"{source} does not mark pieces with {_PREFIX}", "give one that does")


def _count_words(library: huggingface.Tokenizer, texts: Iterable[str], min_count: int) -> dict[str, int]:
    """The words of BERT with their numbers, in order, without those of rare characters."""
    raw: collections.Counter[bytes] = collections.Counter()
    for text in texts:
        raw.update(utf8(text).split())
    words: collections.Counter[str] = collections.Counter()
    characters: collections.Counter[str] = collections.Counter()
    for word, count in raw.items():
        normal = library.normalizer.normalize_str(word.decode())
        for part, _ in library.pre_tokenizer.pre_tokenize_str(normal):
            words[part] += count
            for character in part:
                characters[character] += count
    rare = {character for character, count in characters.items() if count < min_count}
    return {word: words[word] for word in sorted(words) if rare.isdisjoint(word)}


def _repeated(counts: dict[str, int]) -> Iterable[str]:
    """Each word as often as it was counted."""
    for word, count in counts.items():
        at_once = max(1, _REPEATS // len(word))
        for first in range(0, count, at_once):
            yield f"{word} " * min(at_once, count - first)


def _byte_edges(text: str) -> np.ndarray:
    """Where each character begins in the UTF-8 of a text, and where the last ends: int64 [characters + 1]."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    lengths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.append(0, np.cumsum(lengths))
