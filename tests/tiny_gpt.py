"""Small GPTs that compile in a second, and what tests do with them."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding.decoder import Decoder, Limits, Prompts
from lm_jax.decoding.sampling import generate
from lm_jax.decoding.settings import Sampling
from lm_jax.decoding.text import Generated
from lm_jax.models.gpt import GPT, GPTConfig

# Every field that is not GPT-2's, all at once.
EVERYTHING = {
    "num_kv_heads": 1, "position": "rope", "norm": "rms", "mlp": "swiglu", "parallel_block": True,
    "tied_head": False, "use_bias": False, "attention": "block_causal", "scan_layers": True, "remat": True,
}  # fmt: skip


@partial(jax.jit, static_argnums=0, static_argnames=("method", "train", "capacity"))
def _apply(model, params, *args, **kwargs):
    return model.apply(params, *args, **kwargs)


def apply(*args, **kwargs):
    """Compiled once for all tests of a model and shapes; numpy arrays, to compute with without compiling."""
    return jax.device_get(_apply(*args, **kwargs))


@cache
def tiny(**fields):
    """A small GPT with random parameters, large enough that every part of it shows in the logits."""
    shape = {"vocab_size": 17, "max_length": 16, "num_layers": 2, "num_heads": 2, "d_model": 8}
    model = GPT(GPTConfig(**(shape | fields)))
    model.config.check()
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda x: np.float32(rng.normal(scale=0.3, size=x.shape)), shapes(model))


def shapes(model):
    """The shapes of a model's variables."""
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))


def random_tokens(*shape, seed=0, vocab_size=17):
    """Token ids."""
    return np.random.default_rng(seed).integers(vocab_size, size=shape)


@cache
def _functions(model):
    """The same objects for each call: decoders compile a program for each function."""
    return {name: partial(model.apply, method=name) for name in ("prefill", "step")}


@cache
def _extend(model):
    return partial(model.apply, method="extend")


def decoder(model, params, context_length=None):
    """Any left-to-right model as a decoder; a GPT also verifies drafts."""
    made = Decoder(**_functions(model), params=params, context_length=context_length)
    return made._replace(extend=_extend(model), rewind=model.rewind) if isinstance(model, GPT) else made


def continue_greedily(model, params, prompts, lengths, num_tokens) -> Generated:
    """The likeliest continuation of each prompt, through the model's own prefill and step."""
    return generate(
        decoder(model, params, model.config.max_length), Prompts(prompts, lengths), Limits(num_tokens),
        Sampling(temperature=0),
    )  # fmt: skip
