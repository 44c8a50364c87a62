"""Speed of generation compared with transformers: `python benchmarks/decode.py`, about two minutes.

Greedy, 16 tokens of prompt and 64 new ones, random weights, float32. Ours and transformers' `generate` (torch
on the CPU) run in turn in each round; printed are tokens per second and the speed-up, median and range over
rounds. Needs the extra `bench`.

python benchmarks/decode.py 384x6 124M       some of the models
python benchmarks/decode.py draft GPT DRAFT  two runs: what drafting by the second gains
taskset -c 0,1 python benchmarks/decode.py   on two cores
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()

import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers

import lm_jax
from lm_jax.decoding import sampling, speculative
from lm_jax.decoding.decoder import Decoder, Limits, Prompts
from lm_jax.decoding.settings import Sampling
from lm_jax.models.gpt import GPT
from lm_jax.pretrained import huggingface

PROMPT, WRITTEN, ROUNDS = 16, 64, 7
SHAPES = {
    "384x6": {"n_embd": 384, "n_layer": 6, "n_head": 6},
    "124M": {"n_embd": 768, "n_layer": 12, "n_head": 12},
}


def make_theirs(shape: dict[str, int]) -> Any:
    """transformers' GPT-2 with 50,257 tokens and random weights."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(**shape, bos_token_id=None, eos_token_id=None)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # its initial weights are so small that it repeats one token
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def import_from(theirs: Any) -> tuple[GPT, Any]:
    """The same model in this library."""
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        path = pathlib.Path(directory)
        return GPT(huggingface.read_config(path)[0]), huggingface.read_params(path)


def race(name: str, batches: list[int]) -> None:
    """Prints a line for each number of prompts."""
    theirs = make_theirs(SHAPES[name])
    model, params = import_from(theirs)
    decoder = Decoder(
        partial(model.apply, method="prefill"), partial(model.apply, method="step"), params, 1024
    )
    for batch in batches:
        prompts = np.random.default_rng(0).integers(50257, size=(batch, PROMPT))
        lengths = np.full(batch, PROMPT)
        ids = torch.tensor(prompts)

        def ours() -> np.ndarray:
            asked = Prompts(prompts, lengths), Limits(WRITTEN)  # noqa: B023
            return sampling.generate(decoder, *asked, Sampling(temperature=0)).tokens

        def peer() -> np.ndarray:
            made = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=WRITTEN  # noqa: B023
            )  # fmt: skip
            return made[:, PROMPT:].numpy()

        same = (ours() == peer()).mean()
        mine, other = timed(ours, peer)
        ratios = [b / a for a, b in zip(mine, other)]
        tokens = batch * WRITTEN
        print(
            f"{name} batch {batch}: {tokens / statistics.median(mine):.1f} tokens/s, transformers "
            f"{tokens / statistics.median(other):.1f}: {statistics.median(ratios):.2f}x "
            f"({min(ratios):.2f} to {max(ratios):.2f}); {same:.1%} of the tokens are the same",
            flush=True,
        )


def timed(ours: Callable[[], Any], peer: Callable[[], Any]) -> tuple[list[float], list[float]]:
    """Seconds of each in every round; both are compiled already."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for function, found in zip((ours, peer), seconds):
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
    return seconds


def race_drafts(path: str, draft_path: str) -> None:
    """Prints the tokens per forward pass of the model, and the speed-up over the model alone."""
    model, draft = lm_jax.load(path), lm_jax.load(draft_path)
    decoder, drafter, limits = model._decoder(), draft._decoder(), Limits(WRITTEN)

    def prompts(seed: int = 0) -> Prompts:
        return Prompts(np.full((1, 1), model.tokenizer.end_id), np.ones(1, int), [seed])

    for temperature in (1.0, 0.0):
        how = Sampling(temperature)
        alone = partial(sampling.generate, decoder, prompts(), limits, how)
        for num_drafted in (2, 4):
            ours = partial(
                speculative.generate, decoder, drafter, limits=limits, sampling=how, num_drafted=num_drafted
            )
            brought = statistics.mean(ours(prompts(seed)).tokens_per_read for seed in range(ROUNDS))
            alone()
            ratio = statistics.median(b / a for a, b in zip(*timed(partial(ours, prompts()), alone)))
            print(
                f"temperature {temperature}, {num_drafted} drafted: {brought:.2f} tokens a forward pass, "
                f"{ratio:.2f}x the speed of the model alone"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["draft"]:
        race_drafts(*sys.argv[2:])
        raise SystemExit
    with torch.inference_mode():
        for chosen in sys.argv[1:] or SHAPES:
            race(chosen, [1, 8])
