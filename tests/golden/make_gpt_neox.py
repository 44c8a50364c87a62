"""Writes gpt_neox.npz: what transformers makes of random weights of a GPT-NeoX without parallel blocks.

python tests/golden/make_gpt_neox.py      (needs torch and transformers; written with transformers 5.24)
"""

import pathlib

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM


def main() -> None:
    """Writes the file next to this script."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}
    config = GPTNeoXConfig(
        vocab_size=37, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=24, hidden_act="gelu_new", use_parallel_residual=False, rope_parameters=rope,
        layer_norm_eps=1e-3, bos_token_id=None, eos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).eval()
    tokens = torch.randint(37, (3, 24))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
        logits = model(tokens).logits
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    results = {"tokens": tokens.numpy(), "logits": logits.numpy()}
    np.savez_compressed(pathlib.Path(__file__).with_name("gpt_neox.npz"), **weights, **results)


if __name__ == "__main__":
    main()
