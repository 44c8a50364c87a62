"""A cache of the document so far: n-grams that are counted as the text is read, recent ones more.

Kuhn and De Mori 1990, of one token (order 1), and of longer n-grams. After the longest context that has
occurred before in the document, and each shorter one, with c the decayed counts of what followed:

    p_n(w | h) = (c(h w) + concentration · p_{n−1}(w | h′)) / (c(h) + concentration)

p_0 is the same for every token but the unknown one, which has none; h′ is h without its first token, and an
occurrence a tokens ago counts decay^a (MacKay and Peto 1995 without decay). So it is a distribution at every
place, the first included.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.language_models.base import LeftToRight
from lm_jax.language_models.mixtures.base import (
    Component,
    Functions,
    Next,
    Reading,
    Recent,
    appended,
    buffer_of,
)  # fmt: skip
from lm_jax.language_models.options import as_texts
from lm_jax.text.base import Tokenizer

_DECAYS = (0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 1.0)
_CONCENTRATIONS = (0.1, 0.3, 1.0)
_KEPT = len(_DECAYS) + len(_CONCENTRATIONS)  # readings, so that mixtures share them
MOST_ORDER = 12


@dataclasses.dataclass(frozen=True)
class DocumentCache(Component):
    """A cache of the n-grams of the document so far.

    Its situation is the number of tokens in the longest context that has occurred before: 0 for none, 1 for
    the empty one.

    Attributes:
        tokenizer: from text to ids.
        order: tokens in the longest n-grams.
        decay: what an occurrence counts for after each further token, in (0, 1].
        concentration: how many occurrences a shorter context counts for; above 0.
        model: one with the same tokens, whose spelling of them the cache takes; None: tokens stand for their
            own bytes, or for none.
    """

    tokenizer: Tokenizer
    order: int = 1
    decay: float = 0.995
    concentration: float = 0.3
    model: LeftToRight | None = None
    _recent: Recent = dataclasses.field(default_factory=lambda: Recent(_KEPT), compare=False, repr=False)

    kind = "cache"

    def __post_init__(self) -> None:
        if not 1 <= self.order <= MOST_ORDER:
            raise UserError(f"a cache of order {self.order}", f"choose 1..{MOST_ORDER}")
        if not 0 < self.decay <= 1 or not self.concentration > 0:
            raise UserError(
                f"a cache with decay={self.decay}, concentration={self.concentration}",
                "give a decay above 0 and at most 1, and a concentration above 0",
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name in specifications of mixtures."""
        return "cache" if self.order == 1 else f"cache:{self.order}"

    @property
    def num_situations(self) -> int:  # type: ignore[override]
        """Those of the longest context: none, and each order."""
        return self.order + 1

    def describe(self, stride: int | None = None) -> dict[str, Any]:
        """The settings."""
        settings = {"order": self.order, "decay": self.decay, "concentration": self.concentration}
        return {"cache": "n-grams of the document so far", **settings}

    def choices(self) -> Mapping[str, Sequence[Any]]:
        """Decays and concentrations."""
        return {"decay": _DECAYS, "concentration": _CONCENTRATIONS}

    def with_setting(self, name: str, value: Any) -> "DocumentCache":
        """See `Component`."""
        return dataclasses.replace(self, **{name: value})

    def read(self, texts: Sequence[str], stride: int | None = None) -> list[Reading]:
        """See `Component`; `stride` has no effect."""
        key = (tuple(texts), self.decay, self.concentration)
        return self._recent.get(key, lambda: self._read(texts))

    def _read(self, texts: Sequence[str]) -> list[Reading]:
        texts = as_texts(texts, "texts")
        log_probs, situations, encodings = [], [], self.tokenizer.encode_batch(texts)
        for encoding in encodings:
            counts, told = _Counts(self), []
            for token in (*encoding.ids.tolist(), self.tokenizer.end_id):
                told.append(counts.probability(token))
                counts.add(token)
            with np.errstate(divide="ignore"):
                log_probs.append(np.log([probability for probability, _ in told]))
            situations.append(np.array([situation for _, situation in told], np.int64))
        scored = (self.model or _Plain(self.tokenizer))._scores(texts, encodings, log_probs)
        return [Reading(*parts) for parts in zip(scored, situations, strict=True)]

    def next(self, history: np.ndarray) -> tuple[np.ndarray, int]:
        """See `Component`."""
        counts = _Counts(self)
        for token in history.tolist():
            counts.add(token)
        probs_V, situation = counts.distribution()
        with np.errstate(divide="ignore"):
            return np.log(probs_V), situation

    def functions(self) -> Functions:
        """The state is the tokens so far; the counts are made of them on the host."""
        return Functions(*_functions(self), params=None)


class _Plain(LeftToRight):
    """What scores texts without a model."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def _decoder(self) -> NoReturn:
        raise NotImplementedError


class _Counts:
    """The decayed counts of a document so far.

    By order, for each context: the tokens that followed it, each with its count at the time of its last
    occurrence and this time; under None those of all together.
    """

    def __init__(self, cache: DocumentCache):
        self._cache, tokenizer = cache, cache.tokenizer
        self._base_V = np.ones(tokenizer.vocab_size)
        if tokenizer.unknown_id is not None:
            self._base_V[tokenizer.unknown_id] = 0
        self._base_V /= self._base_V.sum()
        self._tokens: list[int] = []
        self._followers: list[dict[tuple[int, ...], dict[int | None, tuple[float, int]]]] = [
            {} for _ in range(cache.order)
        ]

    def add(self, token: int) -> None:
        """Counts one more token after each of its contexts."""
        now = len(self._tokens)
        for length, by_context in enumerate(self._followers[: now + 1]):
            followers = by_context.setdefault(tuple(self._tokens[now - length :]), {})
            for one in (None, token):
                followers[one] = (1 + self._decayed(followers, one), now)
        self._tokens.append(token)

    def probability(self, token: int) -> tuple[float, int]:
        """The probability of a token at this place, and the situation."""
        concentration, probability, order = self._cache.concentration, float(self._base_V[token]), 0
        for followers in self._seen():
            order += 1
            total = self._decayed(followers, None) + concentration
            probability = (self._decayed(followers, token) + concentration * probability) / total
        return probability, order

    def distribution(self) -> tuple[np.ndarray, int]:
        """The probability of every token at this place, float64 [V], and the situation."""
        concentration, probs_V, order = self._cache.concentration, self._base_V.copy(), 0
        for followers in self._seen():
            order += 1
            probs_V *= concentration
            for token in followers.keys() - {None}:
                probs_V[token] += self._decayed(followers, token)
            probs_V /= self._decayed(followers, None) + concentration
        return probs_V, order

    def _seen(self) -> Iterable[dict[int | None, tuple[float, int]]]:
        """What followed the contexts of this place, the shortest first, that have occurred before."""
        now = len(self._tokens)
        for length, by_context in enumerate(self._followers[: now + 1]):
            followers = by_context.get(tuple(self._tokens[now - length :]))
            if followers is None:
                return  # nor has a longer one
            yield followers

    def _decayed(self, followers: dict[int | None, tuple[float, int]], token: int | None) -> float:
        """The count of a token after a context, as of now."""
        if token not in followers:
            return 0.0
        count, then = followers[token]
        return float(count * self._cache.decay ** (len(self._tokens) - then))


@lru_cache(maxsize=64)
def _functions(cache: DocumentCache) -> tuple[Any, Any]:
    """`prefill` and `step`; the same objects for equal caches."""

    def look(tokens_BC: np.ndarray, count_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = [
            cache.next(tokens[:count]) for tokens, count in zip(np.asarray(tokens_BC), np.asarray(count_B))
        ]
        return np.array([row for row, _ in rows], np.float32), np.array([s for _, s in rows], np.int32)

    def after(buffer: tuple[jax.Array, jax.Array]) -> tuple[Next, Any]:
        rows = len(buffer[1])
        shapes = (
            jax.ShapeDtypeStruct((rows, cache.tokenizer.vocab_size), jnp.float32),
            jax.ShapeDtypeStruct((rows,), jnp.int32),
        )
        return Next(*jax.pure_callback(look, shapes, *buffer)), buffer

    def prefill(params: Any, tokens_BT: jax.Array, length_B: jax.Array, capacity: int) -> tuple[Next, Any]:
        return after(buffer_of(tokens_BT, length_B, capacity))

    def step(params: Any, buffer: tuple[jax.Array, jax.Array], token_B: jax.Array) -> tuple[Next, Any]:
        return after(appended(buffer, token_B))

    return prefill, step
