"""What every decoder receives: a model's functions, the prompts, and how much to generate.

Decoders call functions and never see a model. Each leaf of a state has the row as its first axis; decoders
repeat and reorder states along it, and pass `params` on without looking into them.

Shape letters: B prompt, R row (one of the samples or beams of a prompt), T position, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax.errors import UserError

LARGEST = 2**31 - 1  # of the numbers that programs count with
Prefill = Callable[[Any, jax.Array, jax.Array, int], tuple[jax.Array, Any]]
Step = Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]
Extend = Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]
Rewind = Callable[[Any, jax.Array], Any]
# Called every few tokens with the number of a row and all tokens generated in it. Returns how many of them to
# keep if the row ends there, else None.
Stop = Callable[[int, np.ndarray], int | None]


class Decoder(NamedTuple):
    """A left-to-right model as functions.

    The functions are static arguments of compiled programs: pass the same objects at each call, or
    everything is compiled again.

    Attributes:
        prefill: (params, tokens_BT, length_B, capacity) -> (logits_BV, state). Reads prompts that are padded
            on the right and predicts the token after each. `capacity` is the number of tokens that the state
            must have room for. When a context is full, the text of every row is read again: the batch is
            then R, with the rows of one prompt next to each other.
        step: (params, state, token_R) -> (logits_RV, state). Reads one more token in each row.
        params: the first argument of the functions, any pytree; never copied along the rows.
        context_length: the maximum number of tokens that the model can read; None: no limit.
        extend: (params, state, tokens_RT) -> (logits_RTV, state). Reads several tokens in each row; logits t
            follow token t. Only the model that verifies drafts needs it, with `rewind`.
        rewind: (state, count_R) -> state. Removes the last `count_R` tokens of each row.
    """

    prefill: Prefill
    step: Step
    params: Any
    context_length: int | None = None
    extend: Extend | None = None
    rewind: Rewind | None = None


class FusedState(NamedTuple):
    """The state of a model with which another one is fused (see `fusion`).

    Attributes:
        main: the model's.
        other: the other one's.
        bonus_RV: what the other one adds to the log-probability of each next token, float32.
    """

    main: Any
    other: Any
    bonus_RV: jax.Array


def with_bonus(logits_RV: jax.Array, state: Any) -> jax.Array:
    """Logits, or log-probabilities, with what a fused model adds; as they are if none is fused."""
    return logits_RV + state.bonus_RV if isinstance(state, FusedState) else logits_RV


class Prompts(NamedTuple):
    """What is continued.

    Attributes:
        tokens: int [B, T], padded on the right. Decoders pad T to a power of two, to compile few shapes.
        lengths: int [B], from 1 to T.
        seeds: one integer for each prompt, in [0, 2**32); None: 0 for all. Beam search draws nothing and
            ignores it.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    seeds: Sequence[int] | None = None

    def checked(self, context_length: int | None) -> "Prompts":
        """Tokens and lengths as int32, seeds as Python integers.

        Raises:
            UserError: no prompt, an empty one, one that is longer than its row or the context, or seeds that
                are out of range or not one for each prompt.
        """
        tokens, lengths = np.asarray(self.tokens, np.int32), np.asarray(self.lengths, np.int32)
        if tokens.ndim != 2 or lengths.ndim != 1:
            raise UserError(
                f"tokens of shape {tokens.shape} and lengths of shape {lengths.shape} are not prompts",
                "give tokens [B, T] and lengths [B]",
            )
        seeds = (0,) * len(tokens) if self.seeds is None else plain(self.seeds)
        seeds = seeds if isinstance(seeds, tuple) else (seeds,)
        check_counts(prompts=len(tokens))
        if len(lengths) != len(tokens):
            raise UserError(f"{len(lengths)} lengths of {len(tokens)} prompts", "give one for each")
        if (lengths < 1).any() or (lengths > tokens.shape[1]).any():
            raise UserError(
                f"prompts of {lengths.tolist()} tokens in rows of {tokens.shape[1]}",
                "give each at least one token, such as the end-of-text token, and at most a row",
            )
        if context_length is not None and lengths.max() > context_length:
            raise UserError(
                f"a prompt of {lengths.max()} tokens is longer than the context of {context_length}",
                "shorten the prompt",
            )
        if len(seeds) != len(tokens) or not all(is_whole(s) and 0 <= s < 2**32 for s in seeds):
            raise UserError(
                f"seeds={list(seeds)}", "give one whole number for each prompt, from 0 below 2**32"
            )
        return Prompts(tokens, lengths, seeds)


class Limits(NamedTuple):
    """How much is generated.

    Attributes:
        num_tokens: the maximum number of tokens in each row.
        num_samples: how many rows continue each prompt.
        end_id: the token that ends its row; None: no token does.
        stop: ends a row early; see `Stop`. Tokens after the place that it gives are dropped.
    """

    num_tokens: int
    num_samples: int = 1
    end_id: int | None = None
    stop: Stop | None = None

    def checked(self) -> "Limits":
        """With Python integers in place of NumPy's and JAX's.

        Raises:
            UserError: a count that is not a whole number of 1 or more.
        """
        limits = Limits(*map(plain, self))
        check_counts(num_tokens=limits.num_tokens, num_samples=limits.num_samples)
        return limits

    @property
    def end(self) -> int:
        """The end token, or -1, which no token is."""
        return -1 if self.end_id is None else self.end_id

    @property
    def padding(self) -> int:
        """The token in a result after a row's end."""
        return self.end_id or 0


def check_counts(**counts: int) -> None:
    """Raises UserError unless each is a whole number of 1 or more that 32 bits hold."""
    if not all(is_whole(count) and 1 <= count <= LARGEST for count in counts.values()):
        named = ", ".join(f"{name}={count!r}" for name, count in counts.items())
        raise UserError(named, "each must be a whole number of 1 or more, below 2**31")


def is_whole(value: Any) -> bool:
    """Whether a value is a Python integer; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Python's numbers, and tuples of them, for NumPy's and JAX's; anything else as it is."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = value.tolist()
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value
