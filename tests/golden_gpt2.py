"""The model of golden/gpt2.npz: random weights under transformers' names."""

import pathlib
from functools import cache
from typing import Any

import flax.traverse_util
import jax
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
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    shapes = flax.traverse_util.flatten_dict(shapes, sep="/")
    names = weights.expand(gpt2.rules(model.config), model.config.num_layers)
    flat = {
        ours: jnp.asarray(arrays[theirs].reshape(shapes[ours].shape)) for ours, (theirs,) in names.items()
    }
    return model, {"params": flax.traverse_util.unflatten_dict(flat, sep="/")}
