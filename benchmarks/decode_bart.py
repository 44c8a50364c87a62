"""Speed of writing targets compared with transformers' BART: `python benchmarks/decode_bart.py`, ten minutes.

Sources of 48 to 64 tokens, 64 new ones, random weights, float32; beam search with 4 beams, and greedy. Ours
includes the encoder, as transformers' `generate` does. Both run in turn in each round; printed are tokens per
second and the speed-up, median and range over rounds. Needs the extra `bench`.

python benchmarks/decode_bart.py small                  one of the models: small, base
taskset -c 0 python benchmarks/decode_bart.py           on one core
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
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
import transformers

from lm_jax.data.examples import pad
from lm_jax.decoding import beam, sampling
from lm_jax.decoding.beam import BeamSettings
from lm_jax.decoding.decoder import Decoder, Limits, Prompts
from lm_jax.decoding.settings import Sampling
from lm_jax.language_models.seq2seq import compiled
from lm_jax.pretrained import huggingface

WRITTEN, ROUNDS, START, END = 64, 7, 2, 2


class Shape(NamedTuple):
    """A BART's size; as many layers in the encoder as in the decoder."""

    layers: int
    width: int
    heads: int
    vocabulary: int


SHAPES = {"small": Shape(3, 256, 4, 8000), "base": Shape(6, 768, 12, 50265)}


def make_theirs(shape: Shape) -> Any:
    """transformers' BART with random weights."""
    torch.manual_seed(0)
    layers, width, heads, vocabulary = shape
    config = transformers.BartConfig(
        vocab_size=vocabulary, d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width, forced_eos_token_id=None,
    )  # fmt: skip
    model = transformers.BartForConditionalGeneration(config).eval()
    with torch.no_grad():  # its initial weights are so small that it repeats one token
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def ours(theirs: Any, sources: list[np.ndarray], num_beams: int) -> Callable[[], np.ndarray]:
    """The same model in this library."""
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        path = pathlib.Path(directory)
        module, params = huggingface.read_config(path)[0].make(), huggingface.read_params(path)
    _, read_memory, prefill, step = compiled(module)
    rows = pad(sources, 64, 1)
    prompts = Prompts(np.full((len(sources), 1), START), np.ones(len(sources), int))

    def run() -> np.ndarray:
        memory = read_memory(params, *rows)
        decoder = Decoder(prefill, step, (params, memory), 1024)
        if num_beams == 1:
            return sampling.generate(decoder, prompts, Limits(WRITTEN), Sampling(temperature=0)).tokens
        return beam.search(decoder, prompts, Limits(WRITTEN), BeamSettings(num_beams)).tokens

    return run


def peer(theirs: Any, sources: list[np.ndarray], num_beams: int) -> Callable[[], np.ndarray]:
    """transformers' `generate`."""
    tokens, segments = pad(sources, max(map(len, sources)), 1)
    inputs = {"input_ids": torch.tensor(tokens).long(), "attention_mask": torch.tensor(segments >= 0).long()}

    def run() -> np.ndarray:
        made = theirs.generate(
            **inputs, do_sample=False, num_beams=num_beams, max_new_tokens=WRITTEN, min_new_tokens=WRITTEN,
            eos_token_id=None,
        )  # fmt: skip
        return made[:, 1:].numpy()

    return run


def race(name: str) -> None:
    """Prints a line for each way to search and number of sources."""
    theirs, draw = make_theirs(SHAPES[name]), np.random.default_rng(0)
    for num_beams in (4, 1):
        for batch in (1, 8):
            lengths = np.linspace(64, 48, batch).astype(int)
            sources = [draw.integers(4, SHAPES[name].vocabulary, size=n).astype(np.int32) for n in lengths]
            functions = [make(theirs, sources, num_beams) for make in (ours, peer)]
            same = (functions[0]() == functions[1]()).mean()
            seconds: tuple[list[float], list[float]] = ([], [])
            for _ in range(ROUNDS):
                for function, found in zip(functions, seconds, strict=True):
                    start = time.perf_counter()
                    jax.block_until_ready(function())
                    found.append(time.perf_counter() - start)
            ratios = [b / a for a, b in zip(*seconds, strict=True)]
            mine, other = (batch * WRITTEN / statistics.median(found) for found in seconds)
            print(
                f"{name} beams {num_beams} batch {batch}: {mine:.1f} tokens/s, transformers {other:.1f}: "
                f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f}); "
                f"{same:.1%} of the tokens are the same",
                flush=True,
            )


if __name__ == "__main__":
    with torch.inference_mode():
        for chosen in sys.argv[1:] or SHAPES:
            race(chosen)
