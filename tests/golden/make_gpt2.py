"""Writes gpt2.npz: random weights under transformers' names, and what its GPT-2 makes of them.

python tests/golden/make_gpt2.py      (needs torch and transformers; written with transformers 5.23)
"""

import pathlib

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

NUM_GENERATED = 12


def make_model(seed: int, **shape: int) -> GPT2LMHeadModel:
    """A GPT-2 whose every parameter is random and large enough to matter, biases and norms included."""
    torch.manual_seed(seed)
    config = GPT2Config(bos_token_id=None, eos_token_id=None, **shape)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    return model


def main() -> None:
    """Writes the file next to this script."""
    model = make_model(0, vocab_size=37, n_positions=24, n_embd=16, n_layer=2, n_head=2)
    tokens = torch.randint(37, (3, 24))
    prompt = tokens[:, :10]
    with torch.no_grad():
        logits = model(tokens).logits
        mask = torch.ones_like(prompt)
        greedy = model.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=NUM_GENERATED)
    weights = {name: value.numpy() for name, value in model.transformer.state_dict().items()}
    results = {"tokens": tokens.numpy(), "logits": logits.numpy(), "greedy": greedy[:, 10:].numpy()}
    np.savez_compressed(pathlib.Path(__file__).with_name("gpt2.npz"), **weights, **results)


if __name__ == "__main__":
    main()
