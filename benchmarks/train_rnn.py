"""Speed of an LSTM's training step compared with PyTorch: `taskset -c 1 python benchmarks/train_rnn.py`.

Two layers, 20 rows of 35 tokens, plain SGD with gradient clipping, a carried state (Zaremba et al. 2014).
Both run in turn in each round; printed are the median and the minimum milliseconds of a step, and the ratios.
They are milliseconds of processor time, so that other programs have less influence. Needs `pip install
torch`.
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import torch

from lm_jax.batch import Batch
from lm_jax.config import OptimizerConfig
from lm_jax.models.rnn import RNNConfig
from lm_jax.tasks.causal import Causal
from lm_jax.training.optimizers import make_optimizer
from lm_jax.training.step import first_state, make_train_step

ROWS, LENGTH, LAYERS, RATE, CLIP = 20, 35, 2, 1.0, 5.0


def random_tokens(vocab_size: int) -> np.ndarray:
    """The tokens of a batch and the next ones, its targets."""
    return np.random.default_rng(0).integers(vocab_size, size=(ROWS, LENGTH + 1), dtype=np.int32)


class TorchLSTM(torch.nn.Module):
    """The usual PyTorch modules: Embedding, LSTM, Linear."""

    def __init__(self, vocab_size: int, width: int):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab_size, width)
        self.lstm = torch.nn.LSTM(width, width, LAYERS)
        self.head = torch.nn.Linear(width, vocab_size)

    def forward(self, tokens_TB: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Logits [T, B, V] and the state."""
        h_TBD, state = self.lstm(self.embedding(tokens_TB), state)
        return self.head(h_TBD), state


def torch_step(vocab_size: int, width: int, dtype: str) -> Callable[[], float]:
    """A call that makes one step and returns its loss; bfloat16 by autocast."""
    torch.set_num_threads(1)
    model = TorchLSTM(vocab_size, width)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    tokens_TB = torch.tensor(random_tokens(vocab_size).T, dtype=torch.long)
    state = tuple(torch.zeros(LAYERS, ROWS, width) for _ in range(2))

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


def our_step(vocab_size: int, width: int, dtype: str, chunk_length: int) -> Callable[[], float]:
    """The same by the training step that `train.py` runs."""
    module = RNNConfig(
        vocab_size=vocab_size,
        cell="lstm",
        num_layers=LAYERS,
        d_embedding=width,
        d_hidden=width,
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


def race(vocab_size: int, width: int, dtype: str, rounds: int, chunk_length: int) -> None:
    """Prints a line for one shape."""
    steps = {
        "torch": torch_step(vocab_size, width, dtype),
        "ours": our_step(vocab_size, width, dtype, chunk_length),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()  # compiles
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    shown = {name: f"{statistics.median(s) * 1e3:.0f} ({min(s) * 1e3:.0f}) ms" for name, s in seconds.items()}
    ratio = statistics.median(seconds["torch"]) / statistics.median(seconds["ours"])
    least = min(seconds["torch"]) / min(seconds["ours"])
    print(f"{width} wide, {vocab_size} tokens, {dtype}: {shown}  {ratio:.2f}x ({least:.2f}x)", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--chunk-length", type=int, default=LENGTH)
    arguments = parser.parse_args()
    for vocab_size, dtype in ((10_000, "float32"), (33_000, "float32"), (33_000, "bfloat16")):
        race(vocab_size, 650, dtype, arguments.rounds, arguments.chunk_length)
