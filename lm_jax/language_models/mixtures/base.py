"""The components of mixtures: what gives each token of a text a probability, and in which situation it is.

A situation is a number that follows from the tokens before a place alone, such as how sure a model is of the
next token. The weights of a mixture may depend on it.
"""

import abc
import copy
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.language_models.base import ScoredText
from lm_jax.text.base import Tokenizer

Made = TypeVar("Made")


class Reading(NamedTuple):
    """What a component says about one text.

    Attributes:
        scored: the text's tokens and their probabilities.
        situations: int64 [T], the situation at the place of each token, below `Component.num_situations`.
    """

    scored: ScoredText
    situations: np.ndarray


class Next(NamedTuple):
    """What may follow a history, of B rows.

    Attributes:
        log_probs_BV: natural log of the probability of each token.
        situation_B: int32, the situation there.
    """

    log_probs_BV: Any
    situation_B: Any


class Functions(NamedTuple):
    """A component as functions that jax can trace; as `decoding.decoder.Decoder`, with `Next` for logits.

    The same objects in all calls, so that decoders compile them once.

    Attributes:
        prefill: (params, tokens_BT, length_B, capacity) -> (Next, state).
        step: (params, state, token_B) -> (Next, state).
        params: their first argument.
        context_length: the maximum number of tokens that can be read; None: no limit.
    """

    prefill: Callable[[Any, jax.Array, jax.Array, int], tuple[Next, Any]]
    step: Callable[[Any, Any, jax.Array], tuple[Next, Any]]
    params: Any
    context_length: int | None = None


class Component(abc.ABC):
    """What gives each token of a text a probability, given the tokens before it.

    Attributes:
        name: what a mixture's description calls it.
        kind: what its situations mean. Of several components of one kind a mixture uses the first one's.
        tokenizer: from text to ids.
        num_situations: how many situations it tells apart.
        context: the maximum number of tokens that `next` can read; None: no limit.
    """

    name: str
    kind: str
    tokenizer: Tokenizer
    num_situations: int = 1
    context: int | None = None

    @abc.abstractmethod
    def read(self, texts: Sequence[str], stride: int | None = None) -> list[Reading]:
        """What it says about each text. Texts do not influence each other, unless `describe` says so.

        Args:
            texts: the texts.
            stride: as of `Scores.score`.
        """

    @abc.abstractmethod
    def next(self, history: np.ndarray) -> tuple[np.ndarray, int]:
        """Natural log of the probability of every token after a history, float64 [W], and the situation.

        Args:
            history: the ids from the beginning of a text on, int [T]. Columns behind the vocabulary are
                outcomes that no token is, such as the unknown word of a vocabulary without a token for it.
        """

    @abc.abstractmethod
    def describe(self, stride: int | None = None) -> dict[str, Any]:
        """The settings that its probabilities depend on, to be stored with a result."""

    def functions(self) -> Functions | None:
        """The component as functions, for decoders; None if it only scores."""
        return None

    def choices(self) -> Mapping[str, Sequence[Any]]:
        """By the name of each setting that is to be fitted, the values to try, in the order to fit them."""
        return {}

    def with_setting(self, name: str, value: Any) -> Self:
        """The component with another value of one of its `choices`; what it has read of a text is shared."""
        made = copy.copy(self)
        setattr(made, name, value)
        return made

    def models(self) -> Iterator[Any]:
        """The opened models that it reads."""
        yield from ()


class Recent:
    """What was made last, by what it was made of: mixtures that share a component share its work.

    Args:
        most: how many results are kept.
    """

    def __init__(self, most: int):
        self._most = most
        self._made: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made of the key, or what `make` makes now."""
        if key not in self._made:
            value = make()
            for oldest in list(self._made)[: len(self._made) + 1 - self._most]:
                del self._made[oldest]
            self._made[key] = value
        return cast(Made, self._made[key])


def check_complete(name: str, scored: ScoredText) -> ScoredText:
    """The score, if every byte of the text is paid for.

    Raises:
        UserError: it is not: its probabilities are not those of strings, and do not mix with such.
    """
    if not scored.complete:
        what = (
            "unknown tokens stand for text"
            if scored.unknown.any()
            else "white space between tokens, or the end, is free"
        )
        raise UserError(
            f"{name} cannot be mixed: it does not pay for every byte ({what})",
            "mix models of bytes, characters or byte pairs, or words whose model spells unknown ones",
        )
    return scored


def buffer_of(tokens_BT: jax.Array, length_B: jax.Array, capacity: int) -> tuple[jax.Array, jax.Array]:
    """The state of a component that needs all tokens so far: int32 [B, capacity], and how many they are.

    The first token of a row, which stands before the text, is left out. -1 is no token.
    """
    width = tokens_BT.shape[1] - 1
    number_1C = jnp.arange(max(capacity, width))[None]
    padded_BC = jnp.pad(tokens_BT[:, 1:], ((0, 0), (0, max(capacity, width) - width)))
    return jnp.where(number_1C < length_B[:, None] - 1, padded_BC, -1), length_B - 1


def appended(buffer: tuple[jax.Array, jax.Array], token_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A buffer with one more token in each row."""
    tokens_BC, count_B = buffer
    is_place_BC = jnp.arange(tokens_BC.shape[1])[None] == count_B[:, None]
    return jnp.where(is_place_BC, token_B[:, None], tokens_BC), count_B + 1
