"""Tokenizers whose tokens are bytes, characters or words (as `words.py` defines them)."""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lm_jax.errors import UserError
from lm_jax.text.base import Encoding, Spelled, Tokenizer, encoded, tile, utf8
from lm_jax.text.word_counts import WordCounts
from lm_jax.text.word_table import NEWLINE, WordTable, look_up, split

UNKNOWN = "<unk>"
_NUM_CODE_POINTS = 0x110000 - 0x800  # of Unicode, without surrogates
_RESERVED = ("<s>", "</s>", UNKNOWN, "<UNK>")  # the names of n-gram toolkits for what is not a word of a text


class ByteTokenizer(Tokenizer):
    """A token is a byte; 256 is the end of a document."""

    kind, end_id = "byte", 256

    def __init__(self):
        super().__init__([bytes([b]) for b in range(256)] + [b""], {"eos": self.end_id})

    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(utf8(text), np.uint8).astype(np.int32) for text in texts]

    def _definition(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def _spans(self, ids: np.ndarray, data: bytes) -> np.ndarray:
        return tile(np.arange(len(data) + 1))


class CharacterTokenizer(Tokenizer):
    """A token is a code point; 0 is the end of a document, 1 an unknown code point (decoded as U+FFFD).

    Args:
        characters: the vocabulary, from id 2 on.
    """

    kind, end_id, unknown_id = "char", 0, 1

    def __init__(self, characters: Iterable[str]):
        self.characters = list(characters)
        table = [b"", "\ufffd".encode(), *(c.encode() for c in self.characters)]
        super().__init__(table, {"eos": self.end_id, "unk": self.unknown_id})
        points = np.array([ord(c) for c in self.characters], np.int64)
        self._ids = np.full(points.max(initial=0) + 2, self.unknown_id, np.int32)
        self._ids[points] = np.arange(2, self.vocab_size)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 0, min_count: int = 0) -> "CharacterTokenizer":
        """Takes the most frequent characters, in the order of their code points."""
        counts: collections.Counter[str] = collections.Counter()
        for text in texts:
            counts.update(utf8(text).decode())
        return cls(sorted(_most_frequent(counts, vocab_size, min_count)))

    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        points = (np.frombuffer(encoded(text, "utf-32-le"), np.uint32) for text in texts)
        return [self._ids[np.minimum(p, len(self._ids) - 1)] for p in points]

    def spell(self, encoding: Encoding) -> Spelled | None:
        """The probability of the code points that unknown tokens stand for: any other one is as probable.

        None where no token is unknown.
        """
        unknown = np.append(encoding.ids == self.unknown_id, False)
        if not unknown.any():
            return None
        end = encoding.spans[-1:, 1]
        others = _NUM_CODE_POINTS - len(self.characters)
        spans = np.concatenate([encoding.spans, np.stack([end, end], axis=1)])
        return Spelled(spans, np.where(unknown, -np.log(others), 0.0))

    def _definition(self) -> dict[str, Any]:
        return {"kind": self.kind, "characters": self.characters}

    def _spans(self, ids: np.ndarray, data: bytes) -> np.ndarray:
        starts = np.flatnonzero(np.frombuffer(data, np.uint8) & 0xC0 != 0x80)
        return tile(np.append(starts, len(data)))


class WordTokenizer(Tokenizer):
    """A token is a word; 0, `</s>`, closes a sentence and a document; 1 is `<unk>`.

    Each newline becomes `</s>`, except a newline at the end of the text, since the end token of the document
    follows there. A text of n lines then has n ends, with or without a newline at its end. These are the
    sentences of KenLM, PTB and WikiText, blank lines included. `<s>`, `</s>`, `<unk>` and `<UNK>` in a text
    become unknown words: a text cannot contain an end, and corpora that write `<unk>` are read as intended.

    Args:
        words: the vocabulary, from id 2 on; bytes that are not UTF-8, as an ARPA file may hold, as Python's
            surrogate escapes.
    """

    kind, end_id, unknown_id, lossless = "word", 0, 1, False

    def __init__(self, words: Iterable[str]):
        self.words = list(words)
        table = [NEWLINE, UNKNOWN.encode(), *(w.encode(errors="surrogateescape") for w in self.words)]
        super().__init__(table, {"eos": self.end_id, "unk": self.unknown_id})
        self._table = WordTable(
            {w: i for i, w in enumerate(self._token_bytes) if i > 1} | {NEWLINE: self.end_id}
        )

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 0, min_count: int = 0) -> "WordTokenizer":
        """Takes the most frequent words, the most frequent first."""
        count_of = WordCounts(texts).items()
        for reserved in _RESERVED:
            count_of.pop(reserved.encode(), None)
        return cls(word.decode() for word in _most_frequent(count_of, vocab_size, min_count))

    def extended(self, texts: Sequence[str]) -> "WordTokenizer":
        """The tokenizer with the words of some texts that it does not know, behind its own."""
        table = WordTable({})
        look_up(table.find_or_add, NEWLINE.join(map(utf8, texts)))
        known = {NEWLINE, *self._token_bytes, *(word.encode() for word in _RESERVED)}
        new = [word.decode(errors="surrogateescape") for word in table.ids if word not in known]
        return WordTokenizer([*self.words, *new]) if new else self

    # Texts are encoded together, since a numpy call takes longer than a short text.

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """`encode` of each text."""
        lines, all_ids = _lines(texts), self.encode_ids(texts)
        spans = self._spans(np.concatenate([np.zeros(0, np.int32), *all_ids]), NEWLINE.join([*lines, b""]))
        encodings, row, start = [], 0, 0
        for data, ids in zip(lines, all_ids, strict=True):
            encodings.append(Encoding(ids, spans[row : row + len(ids)] - start))
            row += len(ids) + 1
            start += len(data) + 1
        return encodings

    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        lines = _lines(texts)
        ids = look_up(self._table.find, NEWLINE.join([*lines, b""]))
        ids[ids < 0] = self.unknown_id
        newlines = np.flatnonzero(ids == self.end_id)
        last = np.cumsum([data.count(NEWLINE) + 1 for data in lines], dtype=np.int64) - 1
        ends = newlines[last].tolist()  # of the texts: the newlines that joined them
        return [ids[start:end] for start, end in zip([0, *(end + 1 for end in ends)], ends)]

    def encode_prompts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of texts that are to be continued; a newline at the end of one begins a new sentence."""
        end = np.array([self.end_id], np.int32)
        is_closed = [utf8(text).endswith(NEWLINE) for text in texts]
        pairs = zip(self.encode_ids(texts), is_closed, strict=True)
        return [np.append(ids, end) if closed else ids for ids, closed in pairs]

    def decode_bytes(self, ids: Any) -> bytes:
        """The words with single spaces between them, one sentence a line."""
        words = map(self.token_bytes, np.asarray(ids).reshape(-1).tolist())
        return re.sub(rb" ?\n ?", b"\n", b" ".join(words))

    def _starts_word(self, token_id: int) -> bool:
        return True

    def _definition(self) -> dict[str, Any]:
        return {"kind": self.kind, "words": self.words}

    def _spans(self, ids: np.ndarray, data: bytes) -> np.ndarray:
        words = split(data.removesuffix(NEWLINE))
        return np.stack([words.starts, words.starts + words.sizes], axis=1)


def _lines(texts: Sequence[str]) -> list[bytes]:
    """The bytes of each text without a newline at its end, since the end of the document follows there."""
    return [utf8(text).removesuffix(NEWLINE) for text in texts]


def _most_frequent(counts: Mapping[Any, int], vocab_size: int, min_count: int) -> list[Any]:
    """The items of a vocabulary beside its two special tokens; ties are broken by the items' own order."""
    if 0 < vocab_size < 3:
        raise UserError(
            f"vocab_size={vocab_size} leaves no room beside the two special tokens", "give it 3 or more, or 0"
        )
    kept = sorted(
        (item for item in counts if counts[item] >= min_count), key=lambda item: (-counts[item], item)
    )
    return kept[: vocab_size - 2] if vocab_size else kept
