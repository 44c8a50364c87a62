"""The choice of the next token: pure functions on logits, and the settings that name them.

Shape letters: B row, S place in the text so far, K banned sequence, N token of one, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; the defaults draw from the model.

    What looks at the text so far applies first, in the order from `repetition_penalty` down, and never to
    the end token, which also begins every text; then the first four. Two settings that differ in numbers
    alone are one compiled program: to jax this is a tree, whose leaves are the numbers that are in use.
    """

    temperature: float = 1.0  # divides the logits; 0: the likeliest token, and no draw
    top_k: int = 0  # keep the k likeliest tokens; 0: all
    top_p: float = 1.0  # keep the likeliest tokens until their probabilities reach p; 1: all
    min_p: float = 0.0  # keep tokens with at least this share of the likeliest token's probability; 0: all
    repetition_penalty: float = 1.0  # divides positive logits of tokens in the text, multiplies negative ones
    frequency_penalty: float = 0.0  # taken from a logit for each time that its token was generated
    presence_penalty: float = 0.0  # taken from the logits of tokens that were generated
    no_repeat_ngram: int = 0  # no so many tokens in succession come twice; 0: they may
    banned: tuple[tuple[int, ...], ...] = ()  # sequences whose last token never follows those before it
    forced: tuple[int, ...] = ()  # the tokens that the continuation begins with
    min_tokens: int = 0  # tokens before the end token may come

    def check(self) -> None:
        """Raises UserError for a value outside its range."""
        for name, low, high in (
            ("temperature", 0, np.inf), ("top_k", 0, np.inf), ("min_p", 0, 1),
            ("frequency_penalty", -100, 100), ("presence_penalty", -100, 100),
            ("no_repeat_ngram", 0, np.inf), ("min_tokens", 0, np.inf),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name}={getattr(self, name)}", f"choose it from {low} to {high}")
        if 0 < self.temperature < 1e-6:  # below, division leaves the range of float32
            raise UserError(f"temperature={self.temperature}", "choose 0 for the likeliest token")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}", "choose it above 0, up to 1")
        if not 0 < self.repetition_penalty < np.inf:
            raise UserError(f"repetition_penalty={self.repetition_penalty}", "choose it above 0; 1 is none")
        named = [token for tokens in (self.forced, *self.banned) for token in tokens]
        if min(named, default=0) < 0 or () in self.banned:
            raise UserError(f"banned={self.banned}, forced={self.forced}", "give token ids of 0 or more")

    @property
    def reads_text(self) -> bool:
        """Whether the tokens of the text so far matter, not their number alone."""
        off = Sampling()
        names = ("repetition_penalty", "frequency_penalty", "presence_penalty", "no_repeat_ngram", "banned")
        return any(_in_use(getattr(self, name), getattr(off, name)) for name in names)


class History(NamedTuple):
    """The text so far, of which processors may depend.

    Attributes:
        tokens_BS: int32, padded on the right; S is 0 where no processor reads tokens.
        length_B: int32, how many tokens the prompt and its continuation have.
        prompt_B: int32, how many of them the prompt has.
    """

    tokens_BS: jax.Array
    length_B: jax.Array
    prompt_B: jax.Array

    def append(self, token_B: jax.Array) -> "History":
        """With one more token in each row."""
        rows_B = jnp.arange(token_B.shape[0])
        tokens_BS = self.tokens_BS.at[rows_B, self.length_B].set(token_B, mode="drop")
        return self._replace(tokens_BS=tokens_BS, length_B=self.length_B + 1)


def repetition_penalty(logits_BV: jax.Array, seen_BV: jax.Array, penalty: float) -> jax.Array:
    """Makes tokens that were seen less likely (Keskar et al. 2019, section 4.1, with the sign minded)."""
    lower_BV = jnp.where(logits_BV < 0, logits_BV * penalty, logits_BV / penalty)
    return jnp.where(seen_BV, lower_BV, logits_BV)


def frequency_penalty(logits_BV: jax.Array, count_BV: jax.Array, penalty: float) -> jax.Array:
    """Takes `penalty` from a token's logit for each time that it came."""
    return logits_BV - penalty * count_BV


def presence_penalty(logits_BV: jax.Array, count_BV: jax.Array, penalty: float) -> jax.Array:
    """Takes `penalty` from the logit of each token that came."""
    return logits_BV - penalty * (count_BV > 0)


def no_repeat_ngram(logits_BV: jax.Array, tokens_BS: jax.Array, length_B: jax.Array, n: int) -> jax.Array:
    """-inf for tokens that would end an n-gram that the text has (Paulus et al. 2018, section 2.5)."""
    B, S = tokens_BS.shape
    if n > S:
        return logits_BV
    ends_BS = jnp.arange(S)[None] < length_B[:, None]
    repeats_BS = ends_BS[:, n - 1 :] & (length_B >= n - 1)[:, None]
    for i in range(n - 1):
        place_B1 = jnp.maximum(length_B - (n - 1) + i, 0)[:, None]
        last_B1 = jnp.take_along_axis(tokens_BS, place_B1, axis=1)
        repeats_BS &= tokens_BS[:, i : S - (n - 1) + i] == last_B1
    rows_B1 = jnp.arange(B)[:, None]
    banned_BV = jnp.zeros(logits_BV.shape, bool).at[rows_B1, tokens_BS[:, n - 1 :]].max(repeats_BS)
    return jnp.where(banned_BV, -jnp.inf, logits_BV)


def ban(logits_BV: jax.Array, banned_KN: jax.Array, tokens_BS: jax.Array, length_B: jax.Array) -> jax.Array:
    """-inf for a banned sequence's last token where the text has the rest; -1 on the left is padding."""
    N = banned_KN.shape[1]
    place_BN = length_B[:, None] - (N - 1) + jnp.arange(N - 1)[None]
    matches_BK = jnp.ones((logits_BV.shape[0], banned_KN.shape[0]), bool)
    if N > 1:
        last_BN = jnp.take_along_axis(tokens_BS, jnp.maximum(place_BN, 0), axis=1)
        last_BN = jnp.where(place_BN < 0, -2, last_BN)  # before the text: like no token
        before_KN = banned_KN[:, :-1]
        matches_BK = ((last_BN[:, None] == before_KN[None]) | (before_KN < 0)[None]).all(axis=-1)
    rows_B1 = jnp.arange(logits_BV.shape[0])[:, None]
    is_banned_BV = jnp.zeros(logits_BV.shape, bool)
    is_banned_BV = is_banned_BV.at[rows_B1, banned_KN[None, :, -1]].max(matches_BK, mode="drop")
    return jnp.where(is_banned_BV, -jnp.inf, logits_BV)


def only(logits_BV: jax.Array, token_B: jax.Array) -> jax.Array:
    """0 for the token of each row and -inf for all others; a row of a negative token stays as it is."""
    forced_BV = jnp.where(jnp.arange(logits_BV.shape[1])[None] == token_B[:, None], 0.0, -jnp.inf)
    return jnp.where((token_B >= 0)[:, None], forced_BV, logits_BV)


def temperature(logits_BV: jax.Array, temperature: float) -> jax.Array:
    """Logits whose softmax is proportional to p^(1/temperature)."""
    return logits_BV / temperature


def top_k(logits_BV: jax.Array, k: int) -> jax.Array:
    """-inf for each token with k or more strictly likelier ones: those that tie with the k-th stay."""
    return _keep(logits_BV, lambda likelier_BV: likelier_BV.sum(axis=-1, keepdims=True) < k)


def top_p(logits_BV: jax.Array, p: float) -> jax.Array:
    """-inf outside the nucleus (Holtzman et al. 2020, section 3.1).

    A token stays if the tokens strictly likelier than it have together less than p: so the one that
    crosses p stays, as do all that tie with it, and the likeliest always.
    """
    probs_BV = jax.nn.softmax(logits_BV)
    return _keep(
        logits_BV, lambda likelier_BV: jnp.where(likelier_BV, probs_BV, 0).sum(axis=-1, keepdims=True) < p
    )


def _keep(logits_BV: jax.Array, stays: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """-inf for each token that does not stay, given the mask of the tokens strictly likelier than it.

    What stays must stay with fewer tokens above it. The least logit that stays is then found by bisection
    on integers that order as floats do; for 50,257 tokens on a CPU, 0.5 to 1 ms where a sort takes 11.
    """
    bits_BV = jax.lax.bitcast_convert_type(jnp.where(logits_BV == 0, 0.0, logits_BV), jnp.uint32)  # no -0.0
    order_BV = jnp.where(bits_BV >> 31 == 1, ~bits_BV, bits_BV | jnp.uint32(1 << 31))

    def halve(_, bounds):
        low_B1, high_B1 = bounds
        middle_B1 = low_B1 + (high_B1 - low_B1) // 2
        stays_B1 = stays(order_BV > middle_B1)
        return jnp.where(stays_B1, low_B1, middle_B1 + 1), jnp.where(stays_B1, middle_B1, high_B1)

    high_B1 = order_BV.max(axis=-1, keepdims=True)
    least_B1, _ = jax.lax.fori_loop(0, 32, halve, (jnp.zeros_like(high_B1), high_B1))
    return jnp.where(order_BV < least_B1, -jnp.inf, logits_BV)


def min_p(logits_BV: jax.Array, share: float) -> jax.Array:
    """-inf for tokens less likely than `share` times the likeliest (Nguyen et al. 2024, section 3)."""
    probs_BV = jax.nn.softmax(logits_BV)
    least_B1 = share * probs_BV.max(axis=-1, keepdims=True)
    return jnp.where(probs_BV < least_B1, -jnp.inf, logits_BV)


def greedy(logits_BV: jax.Array) -> jax.Array:
    """The likeliest token of each row, the lowest id among ties. int32 [B]."""
    return _first(logits_BV == logits_BV.max(axis=-1, keepdims=True))


def draw(logits_BV: jax.Array, key_B: jax.Array) -> jax.Array:
    """A token of each row from its softmax, by the row's own key. int32 [B]."""
    return pick(logits_BV, jax.vmap(jax.random.uniform)(key_B))


def pick(logits_BV: jax.Array, u_B: jax.Array) -> jax.Array:
    """The token of each row's softmax at a number from 0 below 1: uniform numbers draw from it. int32 [B]."""
    # One uniform number a row through the inverse of the cumulative sum: a quarter of the time of a Gumbel
    # number for each of 50,257 tokens. A sum in parallel may dip by a rounding, hence the care that a token
    # of probability zero is never met.
    probs_BV = jax.nn.softmax(logits_BV)
    total_BV = jnp.where(probs_BV > 0, jnp.cumsum(probs_BV, axis=-1), 0)
    return _first(total_BV > u_B[:, None] * total_BV.max(axis=-1, keepdims=True))


def _first(is_BV: jax.Array) -> jax.Array:
    """The first that is true in each row, the last where none is; a fifth of argmax's time on a CPU."""
    V = is_BV.shape[-1]
    return jnp.where(is_BV, jnp.arange(V, dtype=jnp.int32)[None], V - 1).min(axis=-1)


def edit(
    logits_BV: jax.Array, sampling: Sampling, history: History | None = None, end_id: Any = -1
) -> jax.Array:
    """Logits after all that looks at the text so far; the scale is the model's, so that beams may compare."""
    if history is None:
        return logits_BV
    s, (tokens_BS, length_B, prompt_B) = sampling, history
    place_1S, number_B = jnp.arange(tokens_BS.shape[1])[None], length_B - prompt_B
    is_end_1V = jnp.arange(logits_BV.shape[1])[None] == end_id
    edited_BV = logits_BV
    if _in_use(s.repetition_penalty, 1.0):
        seen_BV = _count(tokens_BS, place_1S < length_B[:, None], logits_BV) > 0
        edited_BV = repetition_penalty(edited_BV, seen_BV, s.repetition_penalty)
    if _in_use(s.frequency_penalty, 0.0) or _in_use(s.presence_penalty, 0.0):
        made_BS = (place_1S < length_B[:, None]) & (place_1S >= prompt_B[:, None])
        count_BV = _count(tokens_BS, made_BS, logits_BV)
        edited_BV = frequency_penalty(edited_BV, count_BV, s.frequency_penalty)
        edited_BV = presence_penalty(edited_BV, count_BV, s.presence_penalty)
    if s.no_repeat_ngram:
        edited_BV = no_repeat_ngram(edited_BV, tokens_BS, length_B, s.no_repeat_ngram)
    edited_BV = jnp.where(is_end_1V, logits_BV, edited_BV)
    if len(s.banned):
        edited_BV = ban(edited_BV, _padded(s.banned), tokens_BS, length_B)
    if _in_use(s.min_tokens, 0):
        edited_BV = jnp.where(is_end_1V & (number_B < s.min_tokens)[:, None], -jnp.inf, edited_BV)
    if len(s.forced):
        token_B = jnp.asarray(s.forced)[jnp.minimum(number_B, len(s.forced) - 1)]
        edited_BV = only(edited_BV, jnp.where(number_B < len(s.forced), token_B, -1))
    return edited_BV


def truncate(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits of the distribution that is drawn from: scaled by the temperature, and cut."""
    logits_BV -= logits_BV.max(axis=-1, keepdims=True)  # so that no temperature makes an infinity
    logits_BV = temperature(logits_BV, sampling.temperature)
    if _in_use(sampling.top_k, 0):
        logits_BV = top_k(logits_BV, sampling.top_k)
    if _in_use(sampling.top_p, 1.0):
        logits_BV = top_p(logits_BV, sampling.top_p)
    if _in_use(sampling.min_p, 0.0):
        logits_BV = min_p(logits_BV, sampling.min_p)
    return logits_BV


def sample(
    logits_BV: jax.Array,
    sampling: Sampling,
    key_B: jax.Array | None,
    history: History | None = None,
    end_id: Any = -1,
) -> jax.Array:
    """The next token of each row, chosen as `sampling` says. int32 [B]; -1 where what is banned leaves none.

    Args:
        logits_BV: the model's.
        sampling: the settings.
        key_B: a key for each row; not used where the temperature is 0.
        history: the text so far; None: what looks at it is left out.
        end_id: the end token; -1: there is none.
    """
    logits_BV = edit(logits_BV, sampling, history, end_id)
    if _in_use(sampling.temperature, 0):
        assert key_B is not None
        token_B = draw(truncate(logits_BV, sampling), key_B)
    else:
        token_B = greedy(logits_BV)
    if sampling.no_repeat_ngram or len(sampling.banned):
        return jnp.where((logits_BV > -jnp.inf).any(axis=-1), token_B, -1)
    return token_B


def _count(tokens_BS: jax.Array, counted_BS: jax.Array, logits_BV: jax.Array) -> jax.Array:
    """How often each token of the vocabulary is among those counted, int32 [B, V]."""
    rows_B1 = jnp.arange(tokens_BS.shape[0])[:, None]
    return jnp.zeros(logits_BV.shape, jnp.int32).at[rows_B1, tokens_BS].add(counted_BS)


def _padded(banned: Any) -> Any:
    """Sequences as rows of one length, -1 on the left."""
    if isinstance(banned, jax.Array):
        return banned
    longest = max(map(len, banned))
    return np.array([(-1,) * (longest - len(tokens)) + tokens for tokens in banned], np.int32)


def _in_use(value: Any, off: float) -> bool:
    return isinstance(value, jax.Array) or value != off


def _flatten(sampling: Sampling) -> tuple[tuple[Any, ...], Any]:
    off, fixed, leaves = vars(Sampling()), {}, {}
    for name, value in vars(sampling).items():
        known = isinstance(value, (int, float, tuple))  # and not a tracer
        if known and (value == off[name] or name == "no_repeat_ngram" or (name, value) == ("temperature", 0)):
            fixed[name] = value
        elif known and isinstance(value, tuple):
            leaves[name] = _padded(value) if name == "banned" else np.array(value, np.int32)
        else:
            leaves[name] = value
    return tuple(leaves.values()), (tuple(leaves), tuple(fixed.items()))


def _unflatten(names: Any, leaves: Any) -> Sampling:
    return Sampling(**dict(zip(names[0], leaves)), **dict(names[1]))


jax.tree_util.register_pytree_node(Sampling, _flatten, _unflatten)
