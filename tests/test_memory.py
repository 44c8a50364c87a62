"""What a training step holds, by the plan of the program that XLA makes of it."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
import tiny
from optimized import AS_USERS, _optimized  # noqa: F401  (a fixture that every test here uses)

from lm_jax.batch import Batch
from lm_jax.config import OptimizerConfig
from lm_jax.models.gpt import GPT, GPTConfig
from lm_jax.tasks.causal import Causal
from lm_jax.training.optimizers import make_optimizer
from lm_jax.training.step import first_state

pytestmark = pytest.mark.slow

ROWS, LENGTH, VOCABULARY, WIDTH, HEADS = 4, 256, 2048, 32, 2


def compiled_step(num_layers=1, chunk_length=0, **fields):
    """A GPT's, forward to AdamW."""
    shape = {"vocab_size": VOCABULARY, "max_length": LENGTH, "d_model": WIDTH, "num_heads": HEADS}
    model = GPT(GPTConfig(num_layers=num_layers, attention="block_causal", **shape, **fields))
    optimizer, task = make_optimizer(OptimizerConfig(), 10), Causal(chunk_length=chunk_length)
    state = jax.eval_shape(lambda: first_state(task.init(model, jax.random.key(0), LENGTH), optimizer))
    tokens = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)
    batch = Batch(tokens, tokens, tokens.update(dtype=jnp.float32))
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = tiny.train_step(task, model, optimizer)
    return jax.jit(step, donate_argnums=0).lower(state, batch, key).compile(AS_USERS)


def test_logits_of_all_positions_are_never_held_at_once():
    def largest(compiled):
        shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", compiled.as_text())
        return max(math.prod(map(int, shape.split(","))) for shape in shapes)

    logits = ROWS * LENGTH * VOCABULARY
    assert largest(compiled_step()) >= logits
    assert largest(compiled_step(chunk_length=32)) <= logits // 8


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the plan is that of the CPU's compiler")
@pytest.mark.parametrize(("dtype", "widths"), [("float32", 14), ("bfloat16", 10)])
def test_a_layer_keeps_only_results_that_are_expensive_to_recompute(dtype, widths):
    """Arrays of float32 [B, T, D], and the exponentials that causal attention has; no GELU or softmax."""
    plans = [compiled_step(n, dtype=dtype).memory_analysis() for n in (2, 4)]
    kept = (plans[1].temp_size_in_bytes - plans[0].temp_size_in_bytes) / 2 / 4
    gradient, exponentials = 12.2 * WIDTH**2, ROWS * HEADS * LENGTH**2 * 3 / 4
    assert kept <= widths * ROWS * LENGTH * WIDTH + gradient + exponentials
