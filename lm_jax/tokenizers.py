"""Text to token ids with byte spans, and back: bytes, characters, words, byte-level BPE."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

END = "<|endoftext|>"
UNKNOWN = "<unk>"


class Encoding(NamedTuple):
    """A text as tokens.

    Attributes:
        ids: int32 [T].
        spans: int64 [T, 2]; each token's first byte and the byte after its last, in the UTF-8 text, in order.
    """

    ids: np.ndarray
    spans: np.ndarray


class Tokenizer(Protocol):
    """What every tokenizer offers; the end token is the pipeline's to add, never `encode`'s.

    Attributes:
        kind: byte, char, word or bpe.
        vocab_size: how many ids there are, special ones included.
        end_id: closes a document, and stands before the first as the beginning of a text. A word
            tokenizer also writes it for each newline inside a document (`</s>`), but not for a last one.
        unknown_id: what stands for what the vocabulary lacks; None where nothing is lacking.
        lossless: a text whose ids hold no `unknown_id` comes back byte for byte, and its spans tile it.
    """

    kind: str
    vocab_size: int
    end_id: int
    unknown_id: int | None
    lossless: bool

    def encode(self, text: str) -> Encoding: ...

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]: ...

    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids alone, int32, for whole corpora."""
        ...

    def decode(self, ids) -> str:
        """The text, special tokens dropped; bytes that are no UTF-8 become U+FFFD."""
        ...

    def decode_bytes(self, ids) -> bytes: ...

    def token_bytes(self, token_id: int) -> bytes: ...

    def save(self, directory: str | Path) -> None:
        """Write tokenizer.json."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 of what defines it."""
        ...


def load(path: str | Path) -> Tokenizer:
    """Read a saved tokenizer: a directory with tokenizer.json or vocab.json + merges.txt, or such a file."""
    raise NotImplementedError


def train(spec: str, texts: Iterable[str], vocab_size: int = 0, min_count: int = 0) -> Tokenizer:
    """Make the tokenizer that a spec names (byte, char, word, bpe, bpe:PATH or PATH) from the training text."""
    raise NotImplementedError
