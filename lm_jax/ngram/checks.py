"""Checks of the arrays of a model file, before they are used as indices."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from lm_jax.errors import UserError
from lm_jax.ngram.vocabulary import SPECIALS

_ROUNDING = 1e-5  # of log10 p in float32
_MAX_ORDER = 1000
_SPECIAL_ENDS = tuple(itertools.accumulate(map(len, SPECIALS)))


class Checks:
    """Checks the arrays and numbers of one file.

    Args:
        path: the file, for errors.
        arrays: its arrays by name.
        metadata: its texts by name.
    """

    def __init__(
        self, path: str | os.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
    ):
        self._path, self._arrays, self._metadata = os.fspath(path), arrays, metadata

    def number(self, name: str) -> float:
        """A finite number of the metadata."""
        try:
            value = float(self._metadata[name])
        except (KeyError, ValueError):
            self._refuse(f"{name} is not a number")
        if not np.isfinite(value):
            self._refuse(f"{name} is {value}")
        return value

    def order(self) -> int:
        """The number of words in the longest n-grams."""
        value = self.number("order")
        if value != int(value) or not 1 <= value <= _MAX_ORDER:
            self._refuse(f"order is {value}")
        return int(value)

    def array(self, name: str, kind: str, size: int | None = None) -> np.ndarray:
        """A vector of integers ("i"), bytes ("b") or float32 ("f"), of a length."""
        array = self._arrays.get(name)
        if array is None:
            self._refuse(f"{name} is missing")
        wanted = {"i": (np.uint16, np.int32, np.int64), "b": (np.uint8,), "f": (np.float32,)}[kind]
        if array.ndim != 1 or array.dtype not in wanted:
            self._refuse(f"{name} has the form {array.dtype}{list(array.shape)}")
        if size is not None and len(array) != size:
            self._refuse(f"{name} has {len(array)} elements instead of {size}")
        return array

    def vocabulary(self) -> None:
        """The words: where each ends in their text."""
        text, ends = self.array("vocabulary.text", "b"), self.array("vocabulary.ends", "i")
        if not len(ends) or ends[0] < 0 or ends[-1] != len(text) or np.any(ends[1:] < ends[:-1]):
            self._refuse("vocabulary.ends are not the ends of words")
        if tuple(ends[:3].tolist()) != _SPECIAL_ENDS or text[: ends[2]].tobytes() != b"".join(SPECIALS):
            self._refuse("the vocabulary does not begin with the special words")

    def level(self, n: int, size: int, contexts: int) -> None:
        """The n-grams of an order: their probabilities, last words, and places among those of their prefix.

        Args:
            n: the order.
            size: the number of n-grams.
            contexts: the number of n-grams of order n - 1, which have `first_child` in the file.
        """
        num_words = len(self._arrays["vocabulary.ends"])
        log10 = self.array(f"log10_probs.{n}", "f", size)
        if np.isnan(log10).any() or (size and log10.max() > _ROUNDING):
            self._refuse(f"log10_probs.{n} has a value that is no logarithm of a probability")
        if n == 1:
            return
        words = self.array(f"words.{n}", "i", size)
        if size and not 0 <= words.min() <= words.max() < num_words:
            self._refuse(f"words.{n} has a word that is not in the vocabulary")
        first = self.array(f"first_child.{n - 1}", "i", contexts + 1)
        if first[0] != 0 or first[-1] != size or np.any(first[1:] < first[:-1]):
            self._refuse(f"first_child.{n - 1} are not places of {n}-grams")
        rises = np.concatenate([[True], words[1:] > words[:-1]])[:size]
        rises[first[:-1][first[:-1] < size]] = True
        if not rises.all():
            self._refuse(f"words.{n} are not in order")

    def backoffs(self, n: int, size: int) -> None:
        """The back-offs of an order."""
        log10 = self.array(f"log10_backoffs.{n}", "f", size)
        if np.isnan(log10).any() or np.isposinf(log10).any():
            self._refuse(f"log10_backoffs.{n} has a value that is no back-off")

    def _refuse(self, problem: str) -> NoReturn:
        raise UserError(f"{self._path} is damaged: {problem}", "restore it, or train the model again")
