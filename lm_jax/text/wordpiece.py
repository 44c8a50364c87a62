"""BERT's WordPiece by Hugging Face `tokenizers`: BERT's own vocabularies, or one learned here.

Control characters are removed from a text. It is split at white space, around punctuation and around each
CJK character. Each word is then split from its left into the longest pieces of the vocabulary (Wu et al.
2016; Devlin et al. 2019, section 3 and `tokenization.py` of their code). White space has no token, and an
uncased vocabulary drops case and accents, so that a score does not include them.
"""

import collections
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import tokenizers as huggingface
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.text.base import RunCutter, Tokenizer, cut_where, encode_pieces, utf8
from lm_jax.text.library import read_tokenizer, read_word_pieces, reported
from lm_jax.text.words import words_of

_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_PREFIX = "##"  # of a piece that continues a word
_CUT = re.compile(r"\n")  # neither words nor the context of normalization extend across a newline
_LONGEST_WORD = 1000  # characters: the library takes time with the cube of a word's length
_REPEATS = 1 << 16  # characters of one word that are passed to the trainer at once


class WordPiece(Tokenizer):
    """A token is a piece of a word.

    The end of a document is [SEP]; [UNK] stands for a word that cannot be split into pieces. The name of a
    special token inside a text is encoded as plain text. Characters that normalization drops may be in no
    span. Where normalization makes several characters of one (the letters of a Hangul syllable), the first
    token that has any of them spans the whole character.

    Args:
        library: the library's tokenizer. It is kept, and some of its settings are changed.
        source: the file that it is from, for errors.

    Attributes:
        lowercase: whether case is dropped.

    Raises:
        UserError: another kind of tokenizer, or one without an end or an unknown token.
    """

    kind, lossless = "wordpiece", False

    def __init__(self, library: huggingface.Tokenizer, source: str = "the tokenizer"):
        definition = json.loads(library.to_str())
        _check_is_berts(definition, source)
        vocabulary = library.get_vocab()
        special = {name: token for name, token in _SPECIAL.items() if token in vocabulary}
        if missing := {"[UNK]", "[SEP]"} - set(special.values()):
            raise UserError(
                f"{source} has no {min(missing)}", "give the vocabulary of a BERT, one token a line"
            )
        library.add_special_tokens(list(special.values()))
        library.encode_special_tokens = True
        library.no_truncation()
        library.no_padding()
        self._library = library
        self.lowercase: bool = definition["normalizer"]["lowercase"]
        self.end_id, self.unknown_id = vocabulary["[SEP]"], vocabulary["[UNK]"]
        added = library.get_added_tokens_decoder()
        self._can_cut = all(token.special for token in added.values())
        table, self._goes_on = [b""] * (max(vocabulary.values()) + 1), set()
        for token, token_id in vocabulary.items():
            if token.startswith(_PREFIX) and len(token) > len(_PREFIX):
                self._goes_on.add(token_id)
                token = token.removeprefix(_PREFIX)
            is_silent = token_id in added and added[token_id].special and token_id != self.unknown_id
            table[token_id] = b"" if is_silent else token.encode()
        super().__init__(table, {name: vocabulary[token] for name, token in special.items()})

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, min_count: int = 0, lowercase: bool = False
    ) -> "WordPiece":
        """Learns pieces, after the special tokens and the characters of the texts.

        Args:
            texts: read once.
            vocab_size: the maximum number of tokens, special ones included.
            min_count: characters that are rarer, and the words that contain them, are left out.
            lowercase: drops case and accents.

        Raises:
            UserError: a vocabulary too small for the characters.
        """
        library = _make({}, lowercase)
        counts = _count_words(library, texts, min_count)
        # The library numbers these in an order that differs between processes, and breaks ties by number.
        # As "special" tokens they keep the order in which they are passed.
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
            special_tokens=[*_SPECIAL.values(), *going_on],
            show_progress=False,
            continuing_subword_prefix=_PREFIX,
        )
        library.train_from_iterator(_repeated(counts), trainer)
        return cls(_make(library.get_vocab(), lowercase))

    @classmethod
    def load(cls, path: Path) -> "WordPiece":
        """Reads `tokenizer.json`, or `vocab.txt` with the settings in `tokenizer_config.json` beside it.

        If the settings do not define whether to drop case, it is dropped if the vocabulary has no capitals.

        Raises:
            UserError: a file that the library cannot read, or a tokenizer that is not BERT's.
        """
        if path.suffix == ".json":
            library = read_tokenizer(path)
            with reported(path):
                return cls(library, str(path))
        vocabulary = read_word_pieces(path)
        config = path.with_name("tokenizer_config.json")
        has_capitals = any(re.search("[A-Z]", token) for token in vocabulary if token[:1] != "[")
        lowercase = _read_setting(config, "do_lower_case")
        split_chinese = _read_setting(config, "tokenize_chinese_chars")
        library = _make(
            vocabulary,
            not has_capitals if lowercase is None else lowercase,
            _read_setting(config, "strip_accents"),
            split_chinese is not False,
        )
        with reported(path):
            return cls(library, str(path))

    def token_names(self) -> list[bytes]:
        """The tokens as BERT writes them, such as ##ing and [CLS]."""
        names = [b""] * self.vocab_size
        for token, token_id in self._library.get_vocab().items():
            names[token_id] = token.encode()
        return names

    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        return encode_pieces(self._library, [self._pieces(utf8(text).decode()) for text in texts])

    def decode_bytes(self, ids: Any) -> bytes:
        """The words and punctuation marks with single spaces between them."""
        parts: list[bytes] = []
        for token_id in np.asarray(ids).reshape(-1).tolist():
            if token := self.token_bytes(token_id):
                parts += [token] if token_id in self._goes_on or not parts else [b" ", token]
        return b"".join(parts)

    def _pieces(self, text: str) -> list[str]:
        return list(cut_where(text, _CUT)) if self._can_cut else [text]

    def _starts_word(self, token_id: int) -> bool:
        return token_id not in self._goes_on

    def special_text(self, name: str) -> str:
        return str(self._library.id_to_token(self.require_special(name)))

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


def _read_setting(config: Path, name: str) -> bool | None:
    """A field of a tokenizer_config.json; None where it is null or absent, or there is no file."""
    if not config.exists():
        return None
    value: bool | None = JsonObject.read(config).take(name, bool, NoneType, default=None)
    return value


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
    longest = definition["model"]["max_input_chars_per_word"]
    if longest > _LONGEST_WORD:
        raise UserError(
            f"{source} has max_input_chars_per_word={longest}",
            f"set it to {_LONGEST_WORD} or less; BERT's is 100",
        )


def _count_words(library: huggingface.Tokenizer, texts: Iterable[str], min_count: int) -> dict[str, int]:
    """The words with their counts, in order of the words, without those that have rare characters."""
    cutter = RunCutter()
    raw: collections.Counter[bytes] = collections.Counter()
    for text in texts:
        raw.update(words_of(utf8(text)))
    words: collections.Counter[str] = collections.Counter()
    characters: collections.Counter[str] = collections.Counter()
    for word, count in raw.items():
        normal = library.normalizer.normalize_str(word.decode())
        for whole, _ in library.pre_tokenizer.pre_tokenize_str(normal):
            for part in cutter.cut(whole):
                words[part] += count
                for character in part:
                    characters[character] += count
    cutter.warn()
    rare = {character for character, count in characters.items() if count < min_count}
    return {word: words[word] for word in sorted(words) if rare.isdisjoint(word)}


def _repeated(counts: dict[str, int]) -> Iterable[str]:
    """Each word as often as it was counted."""
    for word, count in counts.items():
        at_once = max(1, _REPEATS // len(word))
        for first in range(0, count, at_once):
            yield f"{word} " * min(at_once, count - first)


def _byte_edges(text: str) -> np.ndarray:
    """The byte offsets in UTF-8 of each character's start and of the end: int64 [characters + 1]."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    lengths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.append(0, np.cumsum(lengths))
