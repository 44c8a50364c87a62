"""Scores all documents of a text in bounded memory, and keeps the scores on disk.

A document that cannot be scored does not stop the others: it is among the failures.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation.base import Failure
from lm_jax.evaluation.score_cache import MemoryStore, Place, ScoreCache, Store, key_of, temporary_store
from lm_jax.evaluation.score_files import DamagedError
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import ScoredText
from lm_jax.text.base import grouped, utf8

_CHARACTERS_PER_GROUP = 1 << 18  # scored at a time: what a stopped evaluation loses at most, and memory
_MOST_IN_MEMORY = 1 << 22  # characters of a text whose scores need no files: about 30 MB
_LONGEST_REASON = 200  # characters

Score = Callable[[Sequence[str]], Sequence[ScoredText]]


class Scored(Sequence[ScoredText]):
    """The scores of a text's documents, in their order, read from disk one after the other.

    Args:
        documents: the documents.
        store: where the scores are.
        places: the place of each score.
    """

    def __init__(self, documents: Sequence[Document], store: Store, places: Sequence[Place]):
        self._documents, self._store = documents, store
        self._places_D2 = np.array(places, np.int32).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._places_D2)

    @overload
    def __getitem__(self, index: int) -> ScoredText: ...

    @overload
    def __getitem__(self, index: slice) -> list[ScoredText]: ...

    def __getitem__(self, index: int | slice) -> ScoredText | list[ScoredText]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = Place(*self._places_D2[index].tolist())  # IndexError out of range, which ends an iteration
        try:
            fields = self._store.read(place)
        except DamagedError as error:
            raise UserError(
                f"{error} was damaged or removed meanwhile", "run the same command again"
            ) from None
        return ScoredText(text=utf8(self._documents[index].text), **fields)


def open_store(cache: ScoreCache | None, model: Any, text: Text, *settings: Any) -> Store:
    """Where the scores of a text go: the cache, memory, or for a large text files that are removed.

    Args:
        cache: None: the scores are not kept.
        model: any model.
        text: the text.
        settings: what else than the model decides the scores; values with a `repr`.
    """
    store = None if cache is None else cache.open(model, *settings)
    if store is not None:
        return store
    characters = sum(len(document.text) for document in text.documents)
    return MemoryStore() if characters <= _MOST_IN_MEMORY else temporary_store()


def score_text(
    text: Text, score: Score, store: Store, take: Callable[[ScoredText | None], None], report: Progress
) -> tuple[Scored | None, list[Failure]]:
    """Scores each document once; equal ones, and those whose score is in the store, are not scored again.

    Args:
        text: the text.
        score: gives texts their scores.
        store: where the scores are kept.
        take: called with the score of each document in their order, None for one without a score.
        report: called with (description, documents done, documents in all).

    Returns:
        The scores, None if a document has none; and the failures.
    """
    places: list[Place] = []
    failures: list[Failure] = []
    for group in grouped(text.documents, lambda document: len(document.text), _CHARACTERS_PER_GROUP):
        for document, (made, place) in zip(group, _score_group(group, score, store), strict=True):
            if isinstance(made, str):
                failures.append(Failure(document.name, made))
            take(None if isinstance(made, str) else made)
            places.append(place)
        report(f"scoring {text.name}", len(places), len(text.documents))
    return (None if failures else Scored(text.documents, store, places)), failures


_NOWHERE = Place(-1, -1)


def _score_group(
    group: Sequence[Document], score: Score, store: Store
) -> Iterator[tuple[ScoredText | str, Place]]:
    """The score of each document, or why it has none, and its place in the store."""
    data = [document.text.encode(errors="surrogatepass") for document in group]
    keys = [key_of(one) for one in data]
    found: dict[str, ScoredText | str] = {}
    for key, one in zip(keys, data, strict=True):
        place = store.find(key)
        if key not in found and place is not None:
            with contextlib.suppress(DamagedError):
                found[key] = ScoredText(text=one, **store.read(place))
    texts = {
        key: d.text for key, d in zip(keys, group, strict=True) if key not in found or not store.find(key)
    }
    if texts:
        made = dict(zip(texts, _try(score, list(texts.values())), strict=True))
        if kept := {key: one for key, one in made.items() if isinstance(one, ScoredText)}:
            store.add(list(kept), list(kept.values()))
        found.update(made)
    for key in keys:
        yield found[key], store.find(key) or _NOWHERE


def _try(score: Score, texts: list[str]) -> list[ScoredText | str]:
    """The score of each text, or why it has none: halves of a list that fails are tried on their own."""
    try:
        data = [utf8(text) for text in texts]
        made = score(texts)
        for one, given in zip(made, data, strict=True):
            if one.text != given:
                raise UserError("the model scored other bytes than the document's", "correct its `score`")
        return list(made)
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
    if len(texts) == 1:
        return [reason]
    half = len(texts) // 2
    return _try(score, texts[:half]) + _try(score, texts[half:])


def _reason(error: Exception) -> str | None:
    """Why a text has no score, in a line; None for an error that is not about the text."""
    import jax

    if jax.process_count() > 1:  # the others wait for this one
        return None
    if isinstance(error, UserError):
        return _short(str(error))
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return _short(f"out of memory ({str(error) or 'in Python'})")
    return None


def _short(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= _LONGEST_REASON else line[:_LONGEST_REASON] + " …"
