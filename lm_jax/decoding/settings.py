"""The settings that choose the next token, and their application to logits.

Shape letters: B row, S position in the text so far, V vocabulary.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding import processors
from lm_jax.decoding.decoder import LARGEST, is_whole, plain
from lm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the defaults draw from the model's distribution.

    The settings from `repetition_penalty` down depend on the text so far. They apply first, in this order,
    and never to the end token, which also begins every text (`banned`, `min_tokens` and `forced` may name
    it). Then `temperature`, `top_k`, `top_p` and `min_p` apply.

    An encoder-decoder's prompt is its start token alone, which `min_tokens` and `forced_end` do not count:
    Hugging Face's `min_length` and `max_length` are one more. Its `forced_bos_token_id` is `forced`, and its
    `forced_eos_token_id` is `forced_end`.

    NumPy and JAX numbers are converted to Python's. To JAX this is a pytree whose leaves are the numbers in
    use: two settings that differ in numbers only share one compiled program.
    """

    temperature: float = 1.0  # divides the logits; 0: always the likeliest token
    top_k: int = 0  # keep the k likeliest tokens; 0: all
    top_p: float = 1.0  # keep the likeliest tokens until their total probability reaches p; 1: all
    min_p: float = 0.0  # keep tokens with at least this share of the likeliest token's probability; 0: all
    repetition_penalty: float = 1.0  # divides positive logits of tokens in the text, multiplies negative ones
    frequency_penalty: float = 0.0  # subtracted from a logit for each time that its token was generated
    presence_penalty: float = 0.0  # subtracted once from the logits of generated tokens
    no_repeat_ngram: int = 0  # no sequence of this many tokens occurs twice; 0: off
    banned: tuple[tuple[int, ...], ...] = ()  # sequences whose last token never follows those before it
    forced: tuple[int, ...] = ()  # the tokens that the continuation begins with
    min_tokens: int = 0  # how many tokens precede an end token at least
    forced_end: int = 0  # the continuation's number of tokens of which the last is the end token; 0: off
    other_ends: tuple[int, ...] = ()  # tokens that `min_tokens` keeps off, too: the caller ends texts there

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, plain(value))

    def check(self) -> None:
        """Raises UserError for a value of another type or out of range."""
        # Beyond these bounds numbers leave the range of float32 or int32.
        for name, low, high in (
            ("temperature", 0, 1e6), ("min_p", 0, 1), ("top_p", 0, 1), ("repetition_penalty", 1e-6, 1e6),
            ("frequency_penalty", -100, 100), ("presence_penalty", -100, 100),
        ):  # fmt: skip
            check_number(name, getattr(self, name), low, high)
        for name in ("top_k", "no_repeat_ngram", "min_tokens", "forced_end"):
            value = getattr(self, name)
            if not is_whole(value):
                raise UserError(f"{name}={value!r}", "give a whole number")
            if not 0 <= value <= LARGEST:
                raise UserError(f"{name}={value}", f"choose it from 0 to {LARGEST}")
        if 0 < self.temperature < 1e-6:
            raise UserError(f"temperature={self.temperature}", "choose 0 for the likeliest token")
        if self.top_p == 0:
            raise UserError(f"top_p={self.top_p}", "choose it above 0, up to 1")
        self._check_tokens()

    def _check_tokens(self) -> None:
        fixed = (self.forced, self.other_ends)
        sequences = (*fixed, *self.banned) if isinstance(self.banned, tuple) else (None,)
        if not all(isinstance(ids, tuple) for ids in sequences) or () in self.banned:
            raise UserError(f"banned={self.banned}, forced={self.forced}", "give sequences of token ids")
        if not all(is_whole(token) and 0 <= token <= LARGEST for ids in sequences for token in ids):
            raise UserError(f"banned={self.banned}, forced={self.forced}", "give token ids of 0 or more")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken and nothing is drawn."""
        return not _in_use(self.temperature, 0)

    @property
    def reads_text(self) -> bool:
        """Whether a setting depends on the tokens of the text so far, not on their number alone."""
        names = ("repetition_penalty", "frequency_penalty", "presence_penalty", "no_repeat_ngram", "banned")
        return any(_in_use(getattr(self, name), _OFF[name]) for name in names)

    @property
    def may_leave_none(self) -> bool:
        """Whether a setting can make every token impossible."""
        return bool(self.no_repeat_ngram or len(self.banned)) or _in_use(self.min_tokens, 0)


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raises UserError unless a value is a number from `low` to `high`."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{name}={value!r}", "give a number")
    if not low <= value <= high:
        raise UserError(f"{name}={value}", f"choose it from {low:g} to {high:g}")


_OFF = vars(Sampling())  # the values at which a setting does nothing


class History(NamedTuple):
    """The text so far, on which settings may depend.

    Attributes:
        tokens_BS: int32, padded on the right; S is 0 where no setting reads tokens.
        length_B: int32, how many tokens the prompt and its continuation have.
        prompt_B: int32, how many tokens the prompt has.
    """

    tokens_BS: jax.Array
    length_B: jax.Array
    prompt_B: jax.Array

    def append(self, token_B: jax.Array) -> "History":
        """With one more token in each row."""
        rows_B = jnp.arange(token_B.shape[0])
        tokens_BS = self.tokens_BS.at[rows_B, self.length_B].set(token_B, mode="drop")
        return self._replace(tokens_BS=tokens_BS, length_B=self.length_B + 1)


def edit(
    logits_BV: jax.Array, sampling: Sampling, history: History | None = None, end_id: Any = -1
) -> jax.Array:
    """Logits after the settings that depend on the text so far.

    Not shifted or scaled otherwise, so that beam search can compare rows.
    """
    if history is None:
        return logits_BV
    s, (tokens_BS, length_B, prompt_B) = sampling, history
    place_1S, number_B = jnp.arange(tokens_BS.shape[1])[None], length_B - prompt_B
    is_end_1V = jnp.arange(logits_BV.shape[1])[None] == end_id
    edited_BV = logits_BV
    if _in_use(s.repetition_penalty, 1.0):
        seen_BV = _count(tokens_BS, place_1S < length_B[:, None], logits_BV) > 0
        edited_BV = processors.repetition_penalty(edited_BV, seen_BV, s.repetition_penalty)
    if _in_use(s.frequency_penalty, 0.0) or _in_use(s.presence_penalty, 0.0):
        made_BS = (place_1S < length_B[:, None]) & (place_1S >= prompt_B[:, None])
        count_BV = _count(tokens_BS, made_BS, logits_BV)
        edited_BV = processors.frequency_penalty(edited_BV, count_BV, s.frequency_penalty)
        edited_BV = processors.presence_penalty(edited_BV, count_BV, s.presence_penalty)
    if s.no_repeat_ngram:
        edited_BV = processors.no_repeat_ngram(edited_BV, tokens_BS, length_B, s.no_repeat_ngram)
    edited_BV = jnp.where(is_end_1V, logits_BV, edited_BV)
    if len(s.banned):
        edited_BV = processors.ban(edited_BV, _padded(s.banned), tokens_BS, length_B)
    if _in_use(s.min_tokens, 0):
        ends_1V = is_end_1V
        if len(s.other_ends):
            others_E1 = jnp.asarray(s.other_ends)[:, None]
            ends_1V |= (others_E1 == jnp.arange(logits_BV.shape[1])[None]).any(axis=0, keepdims=True)
        edited_BV = jnp.where(ends_1V & (number_B < s.min_tokens)[:, None], -jnp.inf, edited_BV)
    if len(s.forced):
        token_B = jnp.asarray(s.forced)[jnp.minimum(number_B, len(s.forced) - 1)]
        edited_BV = processors.only(edited_BV, jnp.where(number_B < len(s.forced), token_B, -1))
    if _in_use(s.forced_end, 0):
        edited_BV = processors.only(edited_BV, jnp.where(number_B == s.forced_end - 1, end_id, -1))
    return edited_BV


def truncate(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits of the distribution to draw from: divided by the temperature and truncated."""
    logits_BV -= logits_BV.max(axis=-1, keepdims=True)  # so that dividing cannot overflow
    logits_BV = processors.temperature(logits_BV, sampling.temperature)
    if _in_use(sampling.top_k, 0):
        logits_BV = processors.top_k(logits_BV, sampling.top_k)
    if _in_use(sampling.top_p, 1.0):
        logits_BV = processors.top_p(logits_BV, sampling.top_p)
    if _in_use(sampling.min_p, 0.0):
        logits_BV = processors.min_p(logits_BV, sampling.min_p)
    return logits_BV


def sample(
    logits_BV: jax.Array,
    sampling: Sampling,
    key_B: jax.Array | None,
    history: History | None = None,
    end_id: Any = -1,
) -> jax.Array:
    """The next token of each row, chosen as `sampling` says. int32 [B]; -1 if the settings leave none.

    Args:
        logits_BV: the model's logits.
        sampling: the settings.
        key_B: a key for each row; not used where the temperature is 0.
        history: the text so far; None: settings that depend on it are left out.
        end_id: the end token; -1: there is none.
    """
    logits_BV = edit(logits_BV, sampling, history, end_id)
    if sampling.is_greedy:
        token_B = processors.greedy(logits_BV)
    else:
        assert key_B is not None
        token_B = processors.draw(truncate(logits_BV, sampling), key_B)
    if sampling.may_leave_none:
        return jnp.where((logits_BV > -jnp.inf).any(axis=-1), token_B, -1)
    return token_B


def distribution(logits_BV: jax.Array, sampling: Sampling, history: History, end_id: Any) -> jax.Array:
    """Logits whose softmax is the distribution that `sample` chooses from.

    Greedy has one token of probability 1. NaN where the settings leave no token.
    """
    logits_BV = edit(logits_BV, sampling, history, end_id)
    if not sampling.is_greedy:
        return truncate(logits_BV, sampling)
    best_B1 = logits_BV.argmax(axis=-1)[:, None]
    only_BV = jnp.where(jnp.arange(logits_BV.shape[-1])[None] == best_B1, 0.0, -jnp.inf)
    return jnp.where(logits_BV.max(axis=-1, keepdims=True) > -jnp.inf, only_BV, jnp.nan)


def _count(tokens_BS: jax.Array, counted_BS: jax.Array, logits_BV: jax.Array) -> jax.Array:
    """How often each token of the vocabulary is among the counted ones, int32 [B, V]."""
    rows_B1 = jnp.arange(tokens_BS.shape[0])[:, None]
    return jnp.zeros(logits_BV.shape, jnp.int32).at[rows_B1, tokens_BS].add(counted_BS)


def _padded(banned: Any) -> Any:
    """Sequences as rows of one length, padded on the left with -1."""
    if isinstance(banned, jax.Array):
        return banned
    longest = max(map(len, banned))
    return np.array([(-1,) * (longest - len(tokens)) + tokens for tokens in banned], np.int32)


def _in_use(value: Any, off: float) -> bool:
    return isinstance(value, jax.Array) or value != off


def _flatten(sampling: Sampling) -> tuple[tuple[Any, ...], Any]:
    """Leaves: the numbers in use. Static: which they are, and what decides the program's shape."""
    fixed, leaves = {}, {}
    for name, value in vars(sampling).items():
        known = isinstance(value, (int, float, tuple))  # not traced
        if known and (
            value == _OFF[name] or name == "no_repeat_ngram" or (name, value) == ("temperature", 0)
        ):
            fixed[name] = value
        elif known and isinstance(value, tuple):
            leaves[name] = _padded(value) if name == "banned" else np.array(value, np.int32)
        else:
            leaves[name] = value
    return tuple(leaves.values()), (tuple(leaves), tuple(fixed.items()))


def _unflatten(names: Any, leaves: Any) -> Sampling:
    sampling = object.__new__(Sampling)  # leaves may be anything that JAX puts there: not converted
    vars(sampling).update(zip(names[0], leaves), **dict(names[1]))
    return sampling


jax.tree_util.register_pytree_node(Sampling, _flatten, _unflatten)
