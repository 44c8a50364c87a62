"""ELMo's training step compared with PyTorch's: `python benchmarks/train_elmo.py`.

Both directions of the published size over windows of 20 words of Python's help texts, a softmax over 8,192
words for both (as many as the published model sampled), the gradient clipped, Adagrad. PyTorch runs the same
character encoder, on every word as bilm-tf does or on the distinct words of the batch, and an `nn.LSTM` with
a projection for each layer and direction, without the clips of ELMo. Both give the same losses
(tests/test_elmo.py). See race.py for how they are timed.

    --cores=1          how many to run on
    --rounds=5
    --small            a tenth of the size, in seconds
"""

import argparse
import dataclasses
import os
from collections.abc import Callable
from functools import partial
from pydoc_data import topics
from typing import Any

import elmo
import numpy as np
import race

from lm_jax import runtime
from lm_jax.models.elmo import ELMoConfig
from lm_jax.text.characters import spell_vocabulary

ROWS, LENGTH, VOCAB_SIZE = 16, 20, 8192
CLIP, RATE, ACCUMULATOR = 10.0, 0.2, 1.0
SMALL = ELMoConfig(d_model=64, hidden=512, filters=((1, 32), (2, 32), (3, 64), (4, 128)), num_highways=1)


def read_words(vocab_size: int) -> tuple[np.ndarray, list[bytes]]:
    """The ids of the words of Python's help texts, and the bytes of each token."""
    from lm_jax.text.simple import WordTokenizer

    texts = list(topics.topics.values())
    tokenizer = WordTokenizer.train(texts, vocab_size)
    words = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    ids = np.concatenate(tokenizer.encode_ids(texts))
    return ids, [*words, *[b""] * (vocab_size - len(words))]


def windows(ids_N: np.ndarray, step: int) -> np.ndarray:
    """The words of a batch, int32 [ROWS, LENGTH + 1]."""
    first = step * ROWS * LENGTH
    places = first + np.arange(ROWS)[:, None] * LENGTH + np.arange(LENGTH + 1)
    return ids_N[places % len(ids_N)].astype(np.int32)


def our_step(config: ELMoConfig) -> Callable[[np.ndarray], float]:
    """From the words of a batch to the loss, by the training step that `train.py` runs."""
    import jax

    from lm_jax.batch import Batch
    from lm_jax.config import OptimizerConfig
    from lm_jax.tasks.bidirectional import Bidirectional, reversed_windows
    from lm_jax.training.optimizers import make_optimizer
    from lm_jax.training.step import first_state, make_train_step

    module, task, key = config.make(), Bidirectional(), jax.random.key(0)
    optimizer = make_optimizer(
        OptimizerConfig(
            "adagrad", RATE, "constant", warmup_steps=0, initial_accumulator=ACCUMULATOR, weight_decay=0.0,
            clip_norm=CLIP,
        ),
        1,
    )  # fmt: skip
    words = read_words(config.vocab_size)[1]
    state = jax.jit(lambda: first_state(task.init(module, key, LENGTH), optimizer))()
    state = state._replace(params=config.with_vocabulary(state.params, words))
    step = make_train_step(partial(task.losses, module), task.weights, optimizer)
    compiled = jax.jit(step, donate_argnums=0)

    def run(words_BU: np.ndarray) -> float:
        nonlocal state
        inputs_BT, targets_BT = words_BU[:, :-1], words_BU[:, 1:]
        ahead = Batch(inputs_BT, targets_BT, np.ones(inputs_BT.shape, np.float32))
        state, metrics = compiled(state, reversed_windows(ahead), key)
        return float(metrics["loss"])

    return run


def torch_step(config: ELMoConfig, distinct: bool) -> Callable[[np.ndarray], float]:
    """The same by PyTorch, from the same first parameters."""
    import jax
    import torch
    from torch.nn import functional

    from lm_jax.tasks.bidirectional import Bidirectional

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    module, task = config.make(), Bidirectional()
    first = jax.jit(lambda: task.init(module, jax.random.key(0), LENGTH))()["params"]
    params = jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), dict(first))
    table_VC = spell_vocabulary(read_words(config.vocab_size)[1], config.word_length)
    directions = [
        [elmo.torch_lstm(config, jax.device_get(first[f"{name}_{i}"])) for i in range(config.num_layers)]
        for name in ("forward", "backward")
    ]
    lstms = [weight for stack in directions for lstm in stack for weight in lstm.parameters()]
    trained = [*jax.tree.leaves(params["encoder"]), *params["head"].values(), *lstms]
    optimizer = torch.optim.Adagrad(trained, lr=RATE, initial_accumulator_value=ACCUMULATOR, eps=1e-8)

    def vectors(words_BU: np.ndarray) -> Any:
        encode = elmo.torch_characters(config, params["encoder"])
        if not distinct:
            return encode(table_VC[words_BU.reshape(-1)]).reshape(*words_BU.shape, config.d_model)
        words, places = np.unique(words_BU, return_inverse=True)
        return encode(table_VC[words])[torch.tensor(places.reshape(words_BU.shape))]

    def nats(stack: Any, x_TBP: Any, targets_BT: np.ndarray) -> Any:
        h_TBP = elmo.torch_read(config, stack, x_TBP)[-1]
        logits = functional.linear(h_TBP.transpose(0, 1), params["head"]["embedding"], params["head"]["bias"])
        targets = torch.tensor(targets_BT.astype(np.int64)).reshape(-1)
        return functional.cross_entropy(logits.reshape(-1, config.vocab_size), targets)

    def run(words_BU: np.ndarray) -> float:
        optimizer.zero_grad()
        x_UBP = vectors(words_BU).transpose(0, 1)
        ahead = nats(directions[0], x_UBP[:-1], words_BU[:, 1:])
        back = nats(directions[1], x_UBP[1:].flip(0), np.ascontiguousarray(words_BU[:, :-1][:, ::-1]))
        loss = (ahead + back) / 2
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        return loss.item()

    return run


SUBJECTS: dict[str, Callable[[ELMoConfig], Callable[[np.ndarray], float]]] = {
    "torch, every word": partial(torch_step, distinct=False),
    "torch, distinct words": partial(torch_step, distinct=True),
    "lm_jax": our_step,
}


def make_run(subject: str, small: bool) -> Callable[[], float]:
    """A call that takes the next step."""
    runtime.prepare()
    sizes = {"vocab_size": VOCAB_SIZE, "num_tokens": VOCAB_SIZE}
    config = dataclasses.replace(SMALL if small else ELMoConfig(), **sizes)
    step, ids, number = SUBJECTS[subject](config), read_words(VOCAB_SIZE)[0], 0

    def run() -> float:
        nonlocal number
        number += 1
        return step(windows(ids, number))

    return run


def main() -> None:
    """Reads the flags and runs the race."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        race.serve(make_run(flags.serve[0], flags.serve[1] == "small"))
        return
    race.pin(flags.cores)
    size = "small" if flags.small else "published"
    turns = race.race(__file__, {name: (name, size) for name in SUBJECTS}, flags.rounds)
    race.print_table(f"a training step, {size} size, {ROWS} x {LENGTH}", turns, ROWS * LENGTH, unit="words")


if __name__ == "__main__":
    main()
