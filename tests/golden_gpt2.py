"""The model of golden/gpt2.npz: random weights under transformers' names."""

import pathlib
from functools import cache
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from lm_jax.models.gpt import GPT, GPTConfig
from lm_jax.pretrained import gpt2, weights

GOLDEN = pathlib.Path(__file__).parent / "golden"


@cache
def golden_gpt2() -> tuple[GPT, Any]:
    """The model and its parameters."""
    model = GPT(GPTConfig(vocab_size=37, max_length=24, num_layers=2, num_heads=2, d_model=16))
    arrays = np.load(GOLDEN / "gpt2.npz")
    flat = {ours: jnp.asarray(arrays[theirs]) for ours, theirs in weights.expand(gpt2.RULES, 2).items()}
    return model, {"params": flax.traverse_util.unflatten_dict(flat, sep="/")}
