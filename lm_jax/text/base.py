"""What every tokenizer offers, whatever its tokens are."""

import abc
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lm_jax import files
from lm_jax.errors import UserError

END = "<|endoftext|>"
FILE = "tokenizer.json"
_GROUP = 1 << 22  # characters
_PIECE = 1 << 17  # characters; longer texts are cut, so that every core has work

T = TypeVar("T")


class Encoding(NamedTuple):
    """A text as tokens.

    Attributes:
        ids: int32 [T].
        spans: int64 [T, 2]; each token's first byte and the byte after its last, in the UTF-8 text, in order.
    """

    ids: np.ndarray
    spans: np.ndarray


class Tokenizer(abc.ABC):
    """What every tokenizer offers. `encode` never adds an end token: that is for who joins documents to do.

    Attributes:
        kind: byte, char, word, bpe or wordpiece.
        end_id: closes a document, and stands before the first one as the beginning of a text.
        unknown_id: what stands for what the vocabulary lacks; None where it lacks nothing.
        lossless: a text whose ids hold no `unknown_id` comes back byte for byte, and its spans tile it.
    """

    kind: str
    end_id: int
    unknown_id: int | None = None
    lossless: bool = True

    def __init__(self, token_bytes: Sequence[bytes]):
        self._token_bytes = list(token_bytes)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return len(self._token_bytes)

    def encode(self, text: str) -> Encoding:
        """Ids and byte spans.

        Raises:
            UserError: a lone surrogate, for which there is no UTF-8.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """`encode` of each text."""
        return [Encoding(i, self._spans(i, utf8(t))) for i, t in zip(self.encode_ids(texts), texts)]

    @abc.abstractmethod
    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text alone, int32: what a whole corpus needs."""

    def decode(self, ids: Any) -> str:
        """The text, special tokens dropped; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Any) -> bytes:
        """The UTF-8 bytes of the text, special tokens dropped.

        Raises:
            UserError: an id that is not in the vocabulary.
        """
        return b"".join(map(self.token_bytes, np.asarray(ids).reshape(-1).tolist()))

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for; nothing where it is special."""
        if not 0 <= token_id < self.vocab_size:
            raise UserError(
                f"token id {token_id} is outside the vocabulary of {self.vocab_size}",
                "decode with the tokenizer that the ids came from",
            )
        return self._token_bytes[token_id]

    def save(self, directory: str | Path) -> None:
        """Writes `tokenizer.json`, for `load`."""
        files.write_text(Path(directory) / FILE, json.dumps(self._definition(), ensure_ascii=False) + "\n")

    def fingerprint(self) -> str:
        """SHA-256 of what decides the ids: equal for equal tokenizers."""
        return hashlib.sha256(json.dumps(self._definition(), sort_keys=True).encode()).hexdigest()

    @abc.abstractmethod
    def _definition(self) -> dict[str, Any]:
        """What decides the ids, for JSON."""

    @abc.abstractmethod
    def _spans(self, ids: np.ndarray, data: bytes) -> np.ndarray:
        """The spans of a text's ids in its bytes."""


def utf8(text: str) -> bytes:
    """The bytes of a text.

    Raises:
        UserError: a lone surrogate, for which there is no UTF-8.
    """
    return encoded(text, "utf-8")


def encoded(text: str, codec: str) -> bytes:
    """`utf8`, in another code."""
    try:
        return text.encode(codec)
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start}",
            "it is half a character and has no UTF-8: read the text again from its bytes",
        ) from None


def tile(edges: np.ndarray) -> np.ndarray:
    """Spans [T, 2] that lie side by side, from their T + 1 edges."""
    return np.stack([edges[:-1], edges[1:]], axis=1)


def grouped(items: Iterable[T], size: Callable[[T], int], limit: int = _GROUP) -> Iterator[list[T]]:
    """Lists of successive items that reach the limit together: bounded memory, yet work for every core."""
    group, total = [], 0
    for item in items:
        group.append(item)
        total += size(item)
        if total >= limit:
            yield group
            group, total = [], 0
    if group:
        yield group


def cut_where(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """Cuts a long text after matches, where no token reaches across."""
    start = 0
    while len(text) - start > _PIECE and (match := pattern.search(text, start + _PIECE)):
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]


def encode_pieces(library: Any, texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """The ids of texts that are cut in pieces, by a tokenizer of Hugging Face's library, on all cores."""
    groups = grouped(itertools.chain.from_iterable(texts), len)
    encoded = (
        np.array(encoding.ids, np.int32)
        for group in groups
        for encoding in library.encode_batch_fast(group, add_special_tokens=False)
    )
    return [np.concatenate(list(itertools.islice(encoded, len(pieces)))) for pieces in texts]
