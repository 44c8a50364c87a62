"""A GPT's training step compared with PyTorch's: `python benchmarks/train_gpt.py`, ten minutes.

A step is forward, backward, clipping and AdamW; see race.py for how the subjects are timed. The peak memory
includes the compiler's unless the compilation cache has the program.

    --cases=small,medium,large    see CASES
    --dtypes=float32,bfloat16
    --cores=1                     how many to run on
    --rounds=7
"""

import argparse
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import race


class Case(NamedTuple):
    """A model and its batch."""

    layers: int
    heads: int
    width: int
    length: int
    batch: int
    vocabulary: int
    steps: int  # in one turn


CASES = {
    "small": Case(4, 4, 128, 64, 12, 65, 10),
    "medium": Case(6, 6, 384, 256, 8, 65, 1),
    "large": Case(6, 6, 384, 256, 4, 50257, 1),
}
SUBJECTS = ("torch eager", "torch compiled", "plain linen", "lm_jax")


def tokens(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, int32 [B, T] each."""
    ids = np.random.default_rng(0).integers(0, case.vocabulary, (case.batch, case.length + 1), np.int32)
    return ids[:, :-1], ids[:, 1:]


def torch_step(case: Case, dtype: str, compiled: bool) -> Callable[[], float]:
    """PyTorch's."""
    import torch
    import torch_gpt

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    model = torch_gpt.GPT(case.layers, case.heads, case.width, case.length, case.vocabulary)
    step = torch_gpt.make_step(model, dtype == "bfloat16", compiled)
    batch = [torch.from_numpy(ids.astype(np.int64)) for ids in tokens(case)]
    return lambda: step(*batch)


def our_step(case: Case, dtype: str) -> Callable[[], float]:
    """This project's step, with the settings of its recipes for this size."""
    from lm_jax import runtime

    runtime.prepare()
    import jax

    from lm_jax.batch import Batch
    from lm_jax.config import Config, OptimizerConfig, TrainConfig
    from lm_jax.data.pipeline import DataConfig
    from lm_jax.models.gpt import GPTConfig
    from lm_jax.parallel.sharding import MeshConfig, make_mesh
    from lm_jax.tasks.causal import Causal
    from lm_jax.training.program import Program

    model = GPTConfig(
        num_layers=case.layers,
        num_heads=case.heads,
        d_model=case.width,
        max_length=case.length,
        vocab_size=case.vocabulary,
        dtype=dtype,
        attention="block_causal",
    )
    config = Config(
        data=DataConfig(sequence_length=case.length),
        model=model,
        task=Causal(chunk_length=64 if case.vocabulary > 10_000 else 0),
        optimizer=OptimizerConfig(),
        train=TrainConfig(num_steps=1000, batch_size=case.batch),
        mesh=MeshConfig(),
    )
    program = Program(config, make_mesh(config.mesh))
    state, key = program.init(), jax.random.key(0)
    inputs, targets = tokens(case)
    batch = Batch(inputs, targets, np.ones(inputs.shape, np.float32))

    def run() -> float:
        nonlocal state
        state, metrics = program.step(state, batch, key)
        return float(metrics["loss"])

    return run


def linen_step(case: Case, dtype: str) -> Callable[[], float]:
    """A step with linen's own layers and jax's default settings."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, ids):
            embed = nn.Embed(case.vocabulary, case.width, dtype=dtype)
            x = embed(ids) + nn.Embed(case.length, case.width, dtype=dtype)(jnp.arange(ids.shape[1]))
            mask = nn.make_causal_mask(ids)
            for _ in range(case.layers):
                x += nn.MultiHeadDotProductAttention(case.heads, dtype=dtype)(
                    nn.LayerNorm(dtype=dtype)(x), mask=mask
                )
                h = nn.gelu(nn.Dense(4 * case.width, dtype=dtype)(nn.LayerNorm(dtype=dtype)(x)))
                x += nn.Dense(case.width, dtype=dtype)(h)
            return embed.attend(nn.LayerNorm(dtype=dtype)(x))

    model = Plain()
    inputs, targets = tokens(case)
    params = model.init(jax.random.key(0), inputs)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=0.1))
    state = params, optimizer.init(params)

    @jax.jit
    def step(params: Any, opt_state: Any) -> tuple[Any, jax.Array]:
        def loss_of(params: Any) -> jax.Array:
            logits = model.apply(params, inputs).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    def run() -> float:
        nonlocal state
        state, loss = step(*state)
        return float(loss)

    return run


def subject_step(subject: str, case: Case, dtype: str) -> Callable[[], float]:
    """The step of one of `SUBJECTS`."""
    if subject.startswith("torch"):
        return torch_step(case, dtype, subject.endswith("compiled"))
    return linen_step(case, dtype) if subject == "plain linen" else our_step(case, dtype)


def main() -> None:
    """Reads the flags and runs the races."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default="small,medium,large")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        subject, name, dtype = flags.serve
        race.serve(subject_step(subject, CASES[name], dtype), CASES[name].steps)
        return
    race.pin(flags.cores)
    for name in flags.cases.split(","):
        case = CASES[name]
        shape = " ".join(f"{k}={v}" for k, v in case._asdict().items() if k != "steps")
        for dtype in flags.dtypes.split(","):
            subjects = {subject: (subject, name, dtype) for subject in SUBJECTS}
            turns = race.race(__file__, subjects, flags.rounds)
            race.print_table(f"{name} {dtype}: {shape}", turns, case.batch * case.length)


if __name__ == "__main__":
    main()
