"""The interface of every tokenizer, and helpers that several of them share."""

import abc
import contextlib
import functools
import hashlib
import itertools
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lm_jax import files
from lm_jax.errors import UserError
from lm_jax.text.words import SPACE_BYTES

END = "<|endoftext|>"
FILE = "tokenizer.json"
_GROUP = 1 << 22  # characters
LONGEST_RUN = 1000  # characters without white space, or of white space, to learn a tokenizer from
# The assertions behind let each run be tried once, from its beginning. White space beyond ASCII is no limit.
_LONG_RUN = re.compile(rf"(?<!\S)\S{{{LONGEST_RUN + 1},}}|(?<!\s)\s{{{LONGEST_RUN + 1},}}", re.ASCII)
_KINDS = bytes(ord(" ") if chr(byte) in " \t\n\r\v\f" else ord("x") for byte in range(256))
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


class Spelled(NamedTuple):
    """The bytes of one text's tokens and of its end, where a token stands for more than one string.

    Attributes:
        spans: int64 [T, 2], the bytes that each token pays for; they tile the text.
        log_probs: float64 [T], natural log of the probability of these bytes, given the tokens and the bytes
            before.
    """

    spans: np.ndarray
    log_probs: np.ndarray


class Tokenizer(abc.ABC):
    """Encodes text as token ids and decodes them. `encode` adds no special token: the caller does.

    Args:
        token_bytes: the bytes of each token, by id; empty for special tokens.
        special_ids: see the attribute.

    Attributes:
        kind: byte, char, word, bpe or wordpiece.
        end_id: the token after each document.
        begin_id: the token before a text; the end token unless a published model names another.
        begin_text: how the token before a text is written.
        other_end_ids: further tokens that end a generated text; published models may name several.
        unknown_id: the token for words or characters outside the vocabulary; None where every text can be
            encoded.
        lossless: a text whose ids hold no `unknown_id` is decoded to the same bytes, and its spans tile it.
        special_ids: the ids of the special tokens that the vocabulary has, by Hugging Face's names for them:
            bos, eos, unk, sep, pad, cls, mask. Two names may share an id.
    """

    kind: str
    end_id: int
    unknown_id: int | None = None
    lossless: bool = True
    begin_text: str = END
    other_end_ids: tuple[int, ...] = ()
    _begin_id: int | None = None

    def __init__(self, token_bytes: Sequence[bytes], special_ids: Mapping[str, int]):
        self._token_bytes = list(token_bytes)
        self.special_ids = dict(special_ids)

    @property
    def begin_id(self) -> int:
        """See the attributes of the class."""
        return self.end_id if self._begin_id is None else self._begin_id

    def set_marks(self, begin_id: int, begin_text: str, end_ids: Sequence[int]) -> None:
        """Texts begin after one token and end with any of others, the first of which a score pays for."""
        self._begin_id, self.begin_text = begin_id, begin_text
        self.end_id, self.other_end_ids = end_ids[0], tuple(end_ids[1:])
        self.special_ids |= {"bos": begin_id, "eos": self.end_id}
        for token_id in (begin_id, *end_ids):
            self._token_bytes[token_id] = b""

    def require_special(self, name: str) -> int:
        """The id of a special token, by one of the names of `special_ids`.

        Raises:
            UserError: the vocabulary has none.
        """
        if name not in self.special_ids:
            has = ", ".join(self.special_ids) or "no special token"
            raise UserError(
                f"the {self.kind} tokenizer has no {name!r} token (it has {has})",
                "set data.tokenizer=bpe-bart or wordpiece, or to the path of a tokenizer that has one",
            )
        return self.special_ids[name]

    def special_text(self, name: str) -> str:
        """How a special token is written, such as [MASK]; `encode` reads this text as any other.

        Raises:
            UserError: the vocabulary has none.
        """
        self.require_special(name)
        return f"<{name}>"

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return len(self._token_bytes)

    @functools.cached_property
    def starts_word(self) -> np.ndarray:
        """Whether each token begins a word, so that other tokens continue the word before them: bool [V].

        WordPiece: tokens without `##`. Words: all tokens. Others: tokens that begin with white space, as in
        GPT-2's " the"; the first word of a text begins without it, and a word after a newline token is part
        of that token's word. Special tokens are words.
        """
        return np.array([self._starts_word(token_id) for token_id in range(self.vocab_size)], bool)

    def _starts_word(self, token_id: int) -> bool:
        token = self._token_bytes[token_id]
        return not token or token[0] in SPACE_BYTES

    def encode(self, text: str) -> Encoding:
        """Ids and byte spans.

        Raises:
            UserError: a lone surrogate, for which there is no UTF-8.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """`encode` of each text."""
        return [Encoding(i, self._spans(i, utf8(t))) for i, t in zip(self.encode_ids(texts), texts)]

    def encode_prompts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of texts that are to be continued, int32 [T]: no end of the document follows them."""
        return self.encode_ids(texts)

    @abc.abstractmethod
    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text without spans, int32 [T]; faster than `encode_batch`."""

    def decode(self, ids: Any) -> str:
        """The text without special tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Any) -> bytes:
        """The UTF-8 bytes of the text without special tokens.

        Raises:
            UserError: an id that is not in the vocabulary.
        """
        return b"".join(map(self.token_bytes, np.asarray(ids).reshape(-1).tolist()))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token; empty for a special token.

        Raises:
            UserError: an id that is not in the vocabulary.
        """
        if not 0 <= token_id < self.vocab_size:
            raise UserError(
                f"token id {token_id} is outside the vocabulary of {self.vocab_size}",
                "decode with the tokenizer that the ids came from",
            )
        return self._token_bytes[token_id]

    def token_names(self) -> list[bytes]:
        """A name of each token for lists of words: its bytes, unless other tokens have the same."""
        return list(self._token_bytes)

    def save(self, directory: str | Path) -> None:
        """Writes `tokenizer.json`, for `load`."""
        files.write_text(Path(directory) / FILE, files.dump_json(self._definition()) + "\n")

    def fingerprint(self) -> str:
        """SHA-256 of the definition: equal for tokenizers that give the same ids."""
        return hashlib.sha256(json.dumps(self._definition(), sort_keys=True).encode()).hexdigest()

    @abc.abstractmethod
    def _definition(self) -> dict[str, Any]:
        """All that decides the ids, as a value for JSON."""

    @abc.abstractmethod
    def _spans(self, ids: np.ndarray, data: bytes) -> np.ndarray:
        """The spans int64 [T, 2] of a text's ids in its bytes."""


def utf8(text: str) -> bytes:
    """The bytes of a text.

    Raises:
        UserError: a lone surrogate, for which there is no UTF-8.
    """
    return encoded(text, "utf-8")


def encoded(text: str, codec: str) -> bytes:
    """The bytes of a text in another encoding of Unicode; raises as `utf8` does."""
    try:
        return text.encode(codec)
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start}",
            "it is half a character and has no UTF-8: read the text again from its bytes",
        ) from None


def tile(edges: np.ndarray) -> np.ndarray:
    """Adjacent spans [T, 2] from their T + 1 edges."""
    return np.stack([edges[:-1], edges[1:]], axis=1)


def grouped(items: Iterable[T], size: Callable[[T], int], limit: int = _GROUP) -> Iterator[list[T]]:
    """Lists of successive items whose sizes add up to the limit: bounded memory, work for all cores."""
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
    """Cuts a long text after matches of a pattern across which no token extends."""
    start = 0
    while len(text) - start > _PIECE and (match := pattern.search(text, start + _PIECE)):
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]


class RunCutter:
    """Cuts long runs of letters, or of white space, in texts to learn merges from.

    The library's learning takes time with the square of the length of a word: five minutes for one of half a
    million letters. Encoding does not, and is not changed.
    """

    def __init__(self) -> None:
        self._num_cut = 0

    def cut(self, text: str) -> Iterator[str]:
        """The text in pieces, cut only inside such runs."""
        start = 0
        kinds = text.encode().translate(_KINDS)
        has_run = any(
            kind * (LONGEST_RUN + 1) in kinds for kind in (b" ", b"x")
        )  # much faster than the pattern
        for run in _LONG_RUN.finditer(text) if has_run else ():
            self._num_cut += 1
            for place in range(run.start() + LONGEST_RUN, run.end(), LONGEST_RUN):
                yield text[start:place]
                start = place
        yield text[start:]

    def warn(self) -> None:
        """Warns if a text was cut."""
        if self._num_cut:
            warnings.warn(
                f"{self._num_cut} runs of more than {LONGEST_RUN:,} characters without, or of, white space "
                "were cut to learn the tokenizer; look at the text if it should have none",
                stacklevel=3,
            )


def encode_pieces(library: Any, texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """The ids of texts that are cut into pieces, by a tokenizer of Hugging Face's library, on all cores.

    Raises:
        UserError: the library fails, as for a pattern that takes too many steps.
    """
    groups = grouped(itertools.chain.from_iterable(texts), len)
    encoded = (
        np.array(encoding.ids, np.int32)
        for group in groups
        for encoding in library.encode_batch_fast(group, add_special_tokens=False)
    )
    with reported("cannot encode the text", "look at the patterns of its pre_tokenizer"):
        return [np.concatenate(list(itertools.islice(encoded, len(pieces)))) for pieces in texts]


@contextlib.contextmanager
def reported(cause: str, remedy: str) -> Iterator[None]:
    """Raises a UserError for the errors of Hugging Face's library, its panics included."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # The library raises plain Exceptions, and its panics are no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{cause}: {error}", remedy) from None
