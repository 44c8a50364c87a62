"""The words of an n-gram model and their ids.

A stream is one int32 array of sentences, each `<s> word ... word </s>`.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import IO, cast

import numpy as np

from lm_jax.errors import UserError

UNK, BOS, EOS = 0, 1, 2
SPECIALS = (b"<unk>", b"<s>", b"</s>")
UNK_SPELLINGS = (b"<unk>", b"<UNK>")  # in ARPA files, as KenLM reads them
Progress = Callable[[str, int, int], None]  # called with (description, done, total)


class Vocabulary:
    """Words in the order of their ids. Ids 0, 1 and 2 are `<unk>`, `<s>` and `</s>`.

    Attributes:
        words: the words as bytes; those of a character or BPE vocabulary may hold white space.
    """

    def __init__(self, words: Iterable[bytes | str] = ()):
        """Makes a vocabulary.

        Args:
            words: all words; the three special ones come first or are left out.

        Raises:
            UserError: a word occurs twice.
        """
        self.words = [word.encode() if isinstance(word, str) else bytes(word) for word in words]
        if tuple(self.words[:3]) != SPECIALS:
            self.words[:0] = SPECIALS
        if len(set(self.words)) < len(self.words):
            twice = next(word for i, word in enumerate(self.words) if self._id_of[word] != i)
            raise UserError(f"{twice!r} occurs twice in the vocabulary", "give every word once")

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _id_of(self) -> dict[bytes, int]:
        return {word: i for i, word in enumerate(self.words)}

    def ids(self, words: Iterable[bytes | str]) -> np.ndarray:
        """int32 ids of single words, UNK for those that are not in the vocabulary."""
        strings = (word.encode() if isinstance(word, str) else word for word in words)
        return np.array([self._id_of.get(word, UNK) for word in strings], np.int32)


def create(path: str | os.PathLike) -> IO[bytes]:
    """Opens a binary file to be written, compressed with gzip where its name ends in .gz.

    Raises:
        UserError: the file cannot be opened.
    """
    try:
        if os.fspath(path).endswith(".gz"):
            return cast(IO[bytes], gzip.open(path, "wb", compresslevel=6))
        return cast(IO[bytes], open(path, "wb"))
    except OSError as error:
        raise UserError(f"cannot open {os.fspath(path)}: {error.strerror}", "check the path") from None
