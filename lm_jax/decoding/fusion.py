"""Shallow fusion: another model's log-probabilities, times a weight, are added while a text is searched for.

Gulcehre et al. 2015, section 4.1. A score is log p(token) + weight · log p_other(token). It is not
normalised: beams compare sums of scores.

Shape letters: B prompt, R row, T position, V vocabulary.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax.decoding.decoder import Decoder, FusedState, Prefill, Step

_LEAST = -100.0  # nats: a token that the other model never expects stays possible


def fuse(decoder: Decoder, other: Decoder, weight: float, begins: tuple[int, ...] = ()) -> Decoder:
    """A decoder whose state tells what another model adds to the log-probability of each next token.

    Probabilities in results stay those of the first model alone.

    Args:
        decoder: the model that writes.
        other: a model with the same tokens. It reads the same prompts.
        weight: of its log-probabilities, 0 or more.
        begins: tokens that it reads as the last of them, such as the marks around the targets of BART.
    """
    prefill, step = _fused(decoder.prefill, decoder.step, other.prefill, other.step, begins)
    lengths = [n for n in (decoder.context_length, other.context_length) if n is not None]
    params = (decoder.params, other.params, jnp.float32(weight))
    return Decoder(prefill, step, params, min(lengths, default=None))


@functools.lru_cache(maxsize=64)
def _fused(
    prefill: Prefill, step: Step, other_prefill: Prefill, other_step: Step, begins: tuple[int, ...]
) -> tuple[Prefill, Step]:
    """The functions; the same objects for the same arguments, since decoders compile a program for each."""

    def read(tokens: jax.Array) -> jax.Array:
        if not begins:
            return tokens
        return jnp.where(jnp.isin(tokens, jnp.array(begins)), begins[-1], tokens)

    def prefill_both(params: Any, tokens_BT: jax.Array, length_B: jax.Array, capacity: int) -> Any:
        main, other, weight = params
        logits_BV, state = prefill(main, tokens_BT, length_B, capacity)
        theirs_BV, other_state = other_prefill(other, read(tokens_BT), length_B, capacity)
        return logits_BV, FusedState(state, other_state, _bonus(theirs_BV, weight))

    def step_both(params: Any, state: FusedState, token_R: jax.Array) -> Any:
        main, other, weight = params
        logits_RV, main_state = step(main, state.main, token_R)
        theirs_RV, other_state = other_step(other, state.other, read(token_R))
        return logits_RV, FusedState(main_state, other_state, _bonus(theirs_RV, weight))

    return prefill_both, step_both


def _bonus(logits_RV: jax.Array, weight: jax.Array) -> jax.Array:
    return weight * jnp.maximum(jax.nn.log_softmax(logits_RV), _LEAST)
