"""Text from a model, one token after another: greedy, or drawn with temperature, top-k, top-p and min-p.

Decoders receive functions, never a model. Every leaf of a state has the batch as its first axis.

    prefill(params, tokens_BT, length_B, capacity) -> (logits_BV, state)
        reads prompts padded on the right; capacity is the number of tokens the state must have room for
    step(params, state, token_B) -> (logits_BV, state)
        reads one more token a row

Shape letters: B prompt, R row (a sample of a prompt), T position, N token generated, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError

Prefill = Callable[[Any, jax.Array, jax.Array, int], tuple[jax.Array, Any]]
Step = Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The processors apply in this order; the defaults draw from the model."""

    temperature: float = 1.0  # divides the logits; 0: greedy
    top_k: int = 0  # keep the k likeliest tokens; 0: all
    top_p: float = 1.0  # keep the likeliest tokens until their probabilities reach p; 1: all
    min_p: float = 0.0  # keep tokens with at least this share of the likeliest token's probability; 0: all

    def check(self) -> None:
        """Raises UserError for a value outside its range."""
        for name, low, high in (("temperature", 0, np.inf), ("top_k", 0, np.inf), ("min_p", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name}={getattr(self, name)}", f"choose it from {low} to {high}")
        if 0 < self.temperature < 1e-6:  # below, division leaves the range of float32
            raise UserError(f"temperature={self.temperature}", "choose 0 for the likeliest token")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}", "choose it above 0, up to 1")


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
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


def draw(logits_BV: jax.Array, key_B: jax.Array) -> jax.Array:
    """A token of each row from its softmax, by the row's own key. int32 [B]."""
    # One uniform number a row through the inverse of the cumulative sum: a quarter of the time of a Gumbel
    # number for each of 50,257 tokens. A sum in parallel may dip by a rounding, hence the care that a token
    # of probability zero is never met.
    probs_BV = jax.nn.softmax(logits_BV)
    total_BV = jnp.where(probs_BV > 0, jnp.cumsum(probs_BV, axis=-1), 0)
    u_B1 = jax.vmap(jax.random.uniform)(key_B)[:, None] * total_BV.max(axis=-1, keepdims=True)
    return jnp.argmax(total_BV > u_B1, axis=-1).astype(jnp.int32)


def sample(logits_BV: jax.Array, sampling: Sampling, key_B: jax.Array) -> jax.Array:
    """The next token of each row, chosen as `sampling` says. int32 [B]."""
    if sampling.temperature == 0:
        return greedy(logits_BV)
    logits_BV -= logits_BV.max(axis=-1, keepdims=True)  # so that no temperature makes an infinity
    logits_BV = temperature(logits_BV, sampling.temperature)
    if sampling.top_k > 0:
        logits_BV = top_k(logits_BV, sampling.top_k)
    if sampling.top_p < 1:
        logits_BV = top_p(logits_BV, sampling.top_p)
    if sampling.min_p > 0:
        logits_BV = min_p(logits_BV, sampling.min_p)
    return draw(logits_BV, key_B)


class Generated(NamedTuple):
    """Tokens that continue each row, and what the model thought of them.

    Attributes:
        tokens: int32 [R, N]; sample j of prompt i is row i * num_samples + j. Past a row's length: the end
            token, or 0.
        log_probs: float32 [R, N], natural logarithms of the model's own probabilities, before temperature
            or truncation; 0 past a row's length.
        lengths: int32 [R], tokens generated in each row, an end token counted.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    lengths: np.ndarray


def generate(
    prefill: Prefill,
    step: Step,
    params: Any,
    prompts: np.ndarray,
    lengths: np.ndarray,
    num_tokens: int,
    sampling: Sampling = Sampling(),
    seeds: Sequence[int] | None = None,
    end_id: int | None = None,
    context_length: int | None = None,
    num_samples: int = 1,
) -> Generated:
    """Continues each prompt by `num_tokens` tokens, or to its end. Arguments and errors as for `stream`."""
    chunks = list(
        stream(
            prefill, step, params, prompts, lengths, num_tokens, sampling, seeds, end_id, context_length,
            num_samples, chunk=_bucket(num_tokens),
        )
    )  # fmt: skip
    tokens = np.concatenate([c.tokens for c in chunks], axis=1)
    log_probs = np.concatenate([c.log_probs for c in chunks], axis=1)
    rest = ((0, 0), (0, num_tokens - tokens.shape[1]))
    return Generated(
        np.pad(tokens, rest, constant_values=end_id or 0),
        np.pad(log_probs, rest),
        np.stack([c.lengths for c in chunks]).sum(axis=0, dtype=np.int32),
    )


def stream(
    prefill: Prefill,
    step: Step,
    params: Any,
    prompts: np.ndarray,
    lengths: np.ndarray,
    num_tokens: int,
    sampling: Sampling = Sampling(),
    seeds: Sequence[int] | None = None,
    end_id: int | None = None,
    context_length: int | None = None,
    num_samples: int = 1,
    chunk: int = 8,
) -> Iterator[Generated]:
    """Continues each prompt, handing over a few tokens at a time.

    A row's text depends on its prompt, its seed and the number of the sample, not on the rows beside it
    (but for rounding, which differs between shapes). Past `context_length` the row goes on from the last
    half of its context, read anew.

    Args:
        prefill: see the module; the same object again, as for `step`, compiles nothing anew.
        step: see the module.
        params: passed to both.
        prompts: int [B, T], padded on the right. Padded here to a power of two, to compile few shapes.
        lengths: int [B], from 1 to the context length.
        num_tokens: how many to generate in each row.
        sampling: how each is chosen.
        seeds: one integer a prompt, from 0 below 2**32; by default 0 for all.
        end_id: a token that ends its row.
        context_length: the most tokens the model can read; None: no limit.
        num_samples: how many continuations of each prompt.
        chunk: tokens handed over at a time, fewer after reading and at the end.

    Yields:
        `Generated`, of the new tokens only, whose `lengths` are how many of them each row has.

    Raises:
        UserError: a prompt that is empty or longer than the context, a setting out of range, or logits
            that are not numbers.
    """
    sampling.check()
    seeds = [0] * len(prompts) if seeds is None else seeds
    if min(len(prompts), num_tokens, num_samples, chunk) < 1:
        raise UserError(
            f"{len(prompts)} prompts, num_tokens={num_tokens}, num_samples={num_samples}, chunk={chunk}",
            "each must be 1 or more",
        )
    if len(seeds) != len(prompts) or not all(0 <= seed < 2**32 for seed in seeds):
        raise UserError(f"seeds={seeds}", "give one for each prompt, from 0 below 2**32")
    text = _Text.start(prompts, lengths, num_tokens, context_length, num_samples)
    key_R = _row_keys(np.array(seeds, np.uint32), num_samples)
    end = -1 if end_id is None else end_id  # no token is -1
    rows, made = None, 0
    while made < num_tokens and not text.done_R.all():
        if rows is None or text.room == 0:
            copies = num_samples if rows is None else 1
            window, length, capacity = text.slide(copies, num_tokens - made)
            done_R = jnp.asarray(text.done_R)
            rows, out = _begin(
                prefill, params, window, length, capacity, copies, sampling, key_R, made, done_R, end
            )
        else:
            limit = min(chunk, num_tokens - made, text.room)
            rows, out = _advance(step, params, rows, limit, chunk, sampling, key_R, made, end)
        out = text.append(*jax.device_get(out))
        made += out.tokens.shape[1]
        yield out


class _Rows(NamedTuple):
    """What is carried from token to token on the device."""

    state: Any
    token: jax.Array  # int32 [R], chosen and not yet read
    done: jax.Array  # bool [R]


@dataclass
class _Text:
    """What the host knows of each row: all its tokens, and which of them the model's state holds."""

    tokens_RT: np.ndarray
    length_R: np.ndarray  # tokens so far
    start_R: np.ndarray  # where in them the row's context begins
    done_R: np.ndarray
    context_length: int | None

    @classmethod
    def start(
        cls,
        prompts: np.ndarray,
        lengths: np.ndarray,
        num_tokens: int,
        context_length: int | None,
        num_samples: int,
    ) -> "_Text":
        prompts, lengths = np.asarray(prompts, np.int32), np.asarray(lengths, np.int32)
        if (lengths < 1).any() or (lengths > prompts.shape[1]).any():
            raise UserError(
                f"prompts of {lengths.tolist()} tokens in rows of {prompts.shape[1]}",
                "give each at least one, such as the end-of-text token, and at most a row",
            )
        if context_length is not None and lengths.max() > context_length:
            raise UserError(
                f"a prompt of {lengths.max()} tokens is longer than the context of {context_length}",
                "shorten the prompt",
            )
        tokens_RT = np.pad(prompts, ((0, 0), (0, num_tokens))).repeat(num_samples, axis=0)
        length_R = lengths.repeat(num_samples)
        zeros_R = np.zeros_like(length_R)
        return cls(tokens_RT, length_R, zeros_R, zeros_R.astype(bool), context_length)

    @property
    def room(self) -> int:
        """How many more tokens every live row can read; the last one chosen is not yet read."""
        if self.context_length is None:
            return np.iinfo(np.int32).max
        read_R = self.length_R - 1 - self.start_R
        return self.context_length - int(read_R[~self.done_R].max())

    def slide(self, copies: int, remaining: int) -> tuple[np.ndarray, np.ndarray, int]:
        """What to read next, [B, T] and [B], and how many tokens the state should have room for.

        A row whose context is full keeps its last half; a row that is done keeps one token.
        """
        limit = self.context_length or np.iinfo(np.int32).max
        full_R = self.length_R - self.start_R > limit
        self.start_R = np.where(full_R, self.length_R - max(1, limit // 2), self.start_R)
        self.start_R = np.where(self.done_R, self.length_R - 1, self.start_R)
        length_R = self.length_R - self.start_R
        longest = int(length_R.max())
        column_RT = self.start_R[:, None] + np.arange(min(_bucket(longest), limit))
        column_RT = np.minimum(column_RT, self.tokens_RT.shape[1] - 1)  # repeats beyond the end are padding
        window_RT = np.take_along_axis(self.tokens_RT, column_RT, axis=1)
        return window_RT[::copies], length_R[::copies], min(_bucket(longest + remaining), limit)

    def append(
        self, tokens: np.ndarray, log_probs: np.ndarray, alive: np.ndarray, done: np.ndarray
    ) -> Generated:
        """Takes what a call has made, [R, N] each; columns where no row was alive are dropped."""
        n = int(alive.any(axis=0).sum())
        tokens, log_probs, added_R = tokens[:, :n], log_probs[:, :n], alive.sum(axis=1)
        if np.isnan(log_probs).any():
            raise UserError(
                "the model's logits are not numbers", "check its parameters and its context length"
            )
        for row, added in enumerate(added_R):
            self.tokens_RT[row, self.length_R[row] : self.length_R[row] + added] = tokens[row, :added]
        self.length_R, self.done_R = self.length_R + added_R, done
        return Generated(tokens, log_probs, added_R.astype(np.int32))


def _bucket(n: int) -> int:
    return max(16, 1 << (n - 1).bit_length())


@partial(jax.jit, static_argnums=1)
def _row_keys(seed_B: jax.Array, num_samples: int) -> jax.Array:
    number_J = jnp.arange(num_samples)
    keys_BJ = jax.vmap(lambda seed: jax.vmap(lambda j: jax.random.fold_in(jax.random.key(seed), j))(number_J))
    return keys_BJ(seed_B).reshape(-1)


def _choose(logits_RV, state, done_R, sampling, key_R, number, end):
    """The rows after token `number` of the text, and (token, log probability, alive) to hand over."""
    key_R = jax.vmap(jax.random.fold_in, (0, None))(key_R, number)
    token_R = jnp.where(done_R, end, sample(logits_RV, sampling, key_R))
    chosen_R = jnp.take_along_axis(jax.nn.log_softmax(logits_RV), token_R[:, None], axis=-1)[:, 0]
    log_prob_R = jnp.where(done_R, 0, chosen_R)
    return _Rows(state, token_R, done_R | (token_R == end)), (token_R, log_prob_R, ~done_R)


@partial(jax.jit, static_argnames=("prefill", "capacity", "copies", "sampling"))
def _begin(prefill, params, tokens_BT, length_B, capacity, copies, sampling, key_R, number, done_R, end):
    """Reads prompts and chooses the first token of each row."""
    logits_BV, state = prefill(params, tokens_BT, length_B, capacity)
    logits_RV, state = jax.tree.map(lambda x: jnp.repeat(x, copies, axis=0), (logits_BV, state))
    rows, out = _choose(logits_RV, state, done_R, sampling, key_R, number, end)
    return rows, (*(x[:, None] for x in out), rows.done)


@partial(jax.jit, static_argnames=("step", "chunk", "sampling"), donate_argnames="rows")
def _advance(step, params, rows, limit, chunk, sampling, key_R, number, end):
    """Reads each row's last token and chooses the next, up to `limit` times or until all rows are done."""

    def unfinished(carry):
        n, rows, _ = carry
        return (n < limit) & ~rows.done.all()

    def body(carry):
        n, rows, made = carry
        logits_RV, state = step(params, rows.state, rows.token)
        rows, out = _choose(logits_RV, state, rows.done, sampling, key_R, number + n, end)
        return n + 1, rows, jax.tree.map(lambda buffer, x: buffer.at[:, n].set(x), made, out)

    R = rows.token.shape[0]
    made = tuple(jnp.zeros((R, chunk), dtype) for dtype in (jnp.int32, jnp.float32, bool))
    _, rows, made = jax.lax.while_loop(unfinished, body, (0, rows, made))
    return rows, (*made, rows.done)
