"""ELMo's contextual vectors compared with PyTorch's: `python benchmarks/elmo.py`.

The published size with random weights, sentences of 25 words of Python's help texts in batches of 32. PyTorch
runs the same character encoder over all words, as AllenNLP does, and an `nn.LSTM` with a projection for each
layer and direction. It has no clips; random weights stay within those of ELMo, so that both give the same
vectors (tests/test_elmo.py). See race.py for how they are timed.

    --cores=1          how many to run on
    --rounds=5
    --sentences=96     of a turn
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pydoc_data import topics
from typing import Any

import numpy as np
import race

from lm_jax import runtime
from lm_jax.models.elmo import ELMoConfig
from lm_jax.text.characters import spell, spell_marks

WORDS, BATCH = 25, 32


def read_sentences(number: int) -> list[list[str]]:
    """Sentences of 25 words of Python's help texts, none of them too long for the model."""
    words = [word for text in topics.topics.values() for word in text.split() if len(word.encode()) <= 48]
    return [words[WORDS * i : WORDS * (i + 1)] for i in range(number)]


def torch_characters(config: ELMoConfig, encoder: Any) -> Callable[[np.ndarray], Any]:
    """The character encoder of PyTorch's functions: from characters [N, C] to vectors [N, P]."""
    import torch
    from torch.nn import functional

    filters = [encoder[f"filters_{i}"] for i in range(len(config.filters))]
    kernels = [weights["kernel"].permute(2, 1, 0).contiguous() for weights in filters]

    def dense(weights: Any, x: Any) -> Any:
        return functional.linear(x, weights["kernel"].T, weights["bias"])

    def embed(characters_NC: np.ndarray) -> Any:
        table = encoder["characters"]["embedding"]
        x_NEC = functional.embedding(torch.tensor(characters_NC).long(), table).transpose(1, 2)
        found = [
            functional.conv1d(x_NEC, kernel, weights["bias"]).amax(dim=2)
            for kernel, weights in zip(kernels, filters, strict=True)
        ]
        x_NF = functional.relu(torch.cat(found, dim=1))
        for i in range(config.num_highways):
            highway = encoder[f"highway_{i}"]
            g_NF = torch.sigmoid(dense(highway["gate"], x_NF))
            x_NF = g_NF * functional.relu(dense(highway["transform"], x_NF)) + (1 - g_NF) * x_NF
        return dense(encoder["projection"], x_NF) if "projection" in encoder else x_NF

    return embed


def torch_lstm(config: ELMoConfig, weights: Any) -> Any:
    """A layer of a direction as PyTorch's LSTM."""
    import torch

    made = torch.nn.LSTM(config.d_model, config.hidden, proj_size=config.d_model)
    with torch.no_grad():
        for name, ours in (("ih", "input"), ("hh", "recurrent"), ("hr", "projection")):
            getattr(made, f"weight_{name}_l0").copy_(torch.tensor(np.asarray(weights[ours])).T)
        made.bias_ih_l0.copy_(torch.tensor(np.asarray(weights["bias"])))
        made.bias_hh_l0.zero_()
    made.bias_hh_l0.requires_grad_(False)  # one bias, as ours
    return made


def torch_read(config: ELMoConfig, layers: Sequence[Any], x_TBP: Any) -> list[Any]:
    """The input and the output of each layer of a direction."""
    outputs = [x_TBP]
    for i, layer in enumerate(layers):
        h_TBP = layer(x_TBP)[0]
        x_TBP = x_TBP + h_TBP if i and config.residual else h_TBP
        outputs.append(x_TBP)
    return outputs


def torch_model(config: ELMoConfig, params: Any) -> Callable[[Sequence[Sequence[str]]], np.ndarray]:
    """The same model of PyTorch's modules: from sentences of one length to their layers, [L, B, T, D]."""
    import jax
    import torch

    variables = jax.tree.map(lambda array: torch.tensor(np.asarray(array)), params["params"])
    embed_characters = torch_characters(config, variables["encoder"])
    directions = [
        [torch_lstm(config, variables[f"{name}_{i}"]) for i in range(config.num_layers)]
        for name in ("forward", "backward")
    ]

    before, after = spell_marks(config.word_length)

    @torch.inference_mode()
    def embed(sentences: Sequence[Sequence[str]]) -> np.ndarray:
        rows = [
            np.concatenate([before[None], spell([w.encode() for w in row], config.word_length), after[None]])
            for row in sentences
        ]
        x_BTP = embed_characters(np.concatenate(rows)).reshape(len(rows), len(rows[0]), config.d_model)
        x_TBP = x_BTP.transpose(0, 1)
        ahead, back = (
            torch_read(config, stack, x) for stack, x in zip(directions, (x_TBP, x_TBP.flip(0)), strict=True)
        )
        layers = [torch.cat([f, b.flip(0)], dim=2) for f, b in zip(ahead, back, strict=True)]
        return torch.stack(layers)[:, 1:-1].transpose(1, 2).numpy()

    return embed


def make_run(subject: str, number: int) -> Callable[[], None]:
    """A call that embeds so many sentences."""
    runtime.prepare()
    import jax

    from lm_jax.language_models.bilm import BiLM
    from lm_jax.models.elmo import init

    config, sentences = ELMoConfig(), read_sentences(number)
    params = init(config, jax.random.key(0))
    if subject == "torch":
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        embed = torch_model(config, jax.device_get(params))

        def run() -> None:
            for first in range(0, number, BATCH):
                embed(sentences[first : first + BATCH])

        return run
    model = BiLM(config, params)

    def run_ours() -> None:
        for _ in model.each(sentences):
            pass

    return run_ours


def main() -> None:
    """Reads the flags and runs the race."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sentences", type=int, default=96)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        race.serve(make_run(flags.serve[0], int(flags.serve[1])))
        return
    race.pin(flags.cores)
    subjects = {subject: (subject, str(flags.sentences)) for subject in ("torch", "lm_jax")}
    turns = race.race(__file__, subjects, flags.rounds)
    race.print_table(f"vectors of {flags.sentences} sentences", turns, flags.sentences * WORDS, unit="words")


if __name__ == "__main__":
    main()
