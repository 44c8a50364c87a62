"""A Markov chain as a decoder: row t of a table holds the logits that follow token t."""

import jax.numpy as jnp
import numpy as np

from lm_jax.decoding.decoder import Decoder, Prompts


def prefill(table, tokens_BT, length_B, capacity):
    return table[jnp.take_along_axis(tokens_BT, length_B[:, None] - 1, axis=1)[:, 0]], length_B


def step(table, state, token_B):
    return table[token_B], state


def extend(table, state, tokens_BT):
    return table[tokens_BT], state


def rewind(state, count_B):
    return state


def decoder(table, context_length=None):
    """The decoder; of one table's shape and settings, everything is compiled once."""
    return Decoder(prefill, step, table, context_length, extend, rewind)


def prompts(*texts, seeds=None):
    """Texts of token ids as padded prompts."""
    lengths = np.array([len(text) for text in texts])
    rows = [np.pad(np.asarray(text), (0, lengths.max() - len(text))) for text in texts]
    return Prompts(np.array(rows), lengths, seeds)
