"""An LSTM's training step compared with PyTorch's: `python benchmarks/train_rnn.py`.

Two layers, 20 rows of 35 tokens, plain SGD with gradient clipping, a carried state (Zaremba et al. 2014); see
race.py for how they are timed.

    --cores=1                 how many to run on
    --rounds=9
    --chunk-length=35         positions whose logits are computed at a time, here
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import race

ROWS, LENGTH, LAYERS, RATE, CLIP, WIDTH = 20, 35, 2, 1.0, 5.0, 650
CASES = ((10_000, "float32"), (33_000, "float32"), (33_000, "bfloat16"))


def random_tokens(vocab_size: int) -> np.ndarray:
    """The tokens of a batch and the next ones, its targets."""
    return np.random.default_rng(0).integers(vocab_size, size=(ROWS, LENGTH + 1), dtype=np.int32)


def torch_step(vocab_size: int, dtype: str) -> Callable[[], float]:
    """A call that makes one step of the usual PyTorch modules and returns its loss; bfloat16 by autocast."""
    import torch

    class LSTM(torch.nn.Module):
        """Embedding, LSTM, Linear."""

        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(vocab_size, WIDTH)
            self.lstm = torch.nn.LSTM(WIDTH, WIDTH, LAYERS)
            self.head = torch.nn.Linear(WIDTH, vocab_size)

        def forward(self, tokens_TB: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
            """Logits [T, B, V] and the state."""
            h_TBD, state = self.lstm(self.embedding(tokens_TB), state)
            return self.head(h_TBD), state

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = LSTM()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    tokens_TB = torch.tensor(random_tokens(vocab_size).T, dtype=torch.long)
    state = tuple(torch.zeros(LAYERS, ROWS, WIDTH) for _ in range(2))

    def step() -> float:
        nonlocal state
        state = tuple(s.detach() for s in state)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits_TBV, state = model(tokens_TB[:-1], state)
            loss = torch.nn.functional.cross_entropy(logits_TBV.flatten(0, 1), tokens_TB[1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    return step


def our_step(vocab_size: int, dtype: str, chunk_length: int) -> Callable[[], float]:
    """The same by the training step that `train.py` runs."""
    from lm_jax import runtime

    runtime.prepare()
    import jax

    from lm_jax.batch import Batch
    from lm_jax.config import OptimizerConfig
    from lm_jax.models.rnn import RNNConfig
    from lm_jax.tasks.causal import Causal
    from lm_jax.training.optimizers import make_optimizer
    from lm_jax.training.step import first_state, make_train_step

    module = RNNConfig(
        vocab_size=vocab_size,
        cell="lstm",
        num_layers=LAYERS,
        d_embedding=WIDTH,
        d_hidden=WIDTH,
        dtype=dtype,
    ).make()
    task = Causal(chunk_length=chunk_length)
    optimizer = make_optimizer(
        OptimizerConfig(
            "sgd", RATE, "constant", warmup_steps=0, momentum=0.0, weight_decay=0.0, clip_norm=CLIP
        ),
        1,
    )
    tokens_BT = random_tokens(vocab_size)
    batch = Batch(tokens_BT[:, :-1], tokens_BT[:, 1:], np.ones((ROWS, LENGTH), np.float32))
    key = jax.random.key(0)
    state = jax.jit(
        lambda: first_state(task.init(module, key, LENGTH), optimizer, module.init_state(ROWS, LENGTH))
    )()
    compiled = jax.jit(
        make_train_step(partial(task.losses, module), task.weights, optimizer), donate_argnums=0
    )

    def step() -> float:
        nonlocal state
        state, metrics = compiled(state, batch, key)
        return float(metrics["loss"])

    return step


def main() -> None:
    """Reads the flags and runs the races."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--chunk-length", default=str(LENGTH))
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        subject, vocab_size, dtype, chunk_length = flags.serve
        if subject == "torch":
            race.serve(torch_step(int(vocab_size), dtype))
        else:
            race.serve(our_step(int(vocab_size), dtype, int(chunk_length)))
        return
    race.pin(flags.cores)
    for vocab_size, dtype in CASES:
        arguments = (str(vocab_size), dtype, flags.chunk_length)
        subjects = {subject: (subject, *arguments) for subject in ("torch", "lm_jax")}
        turns = race.race(__file__, subjects, flags.rounds)
        race.print_table(f"{WIDTH} wide, {vocab_size} tokens, {dtype}", turns, ROWS * LENGTH)


if __name__ == "__main__":
    main()
