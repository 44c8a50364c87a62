"""Writes llama.npz and phi.npz: what transformers makes of random weights where they are not a GPT-2.

LLaMA has rope, rms, swiglu, grouped heads, an untied head and no biases. Phi has parallel blocks, rope,
grouped heads and an untied head; the rest is as in GPT-2.

python tests/golden/make_gpt_variants.py      (needs torch and transformers; written with transformers 5.23)
"""

import pathlib

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

SHAPE = {"vocab_size": 37, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 24}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False}


def make_models() -> dict[str, torch.nn.Module]:
    """One of each, every parameter random and large enough to matter, norms and biases included."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}
    llama = LlamaConfig(**SHAPE, **HEADS, **NO_TOKENS, rope_parameters=rope, rms_norm_eps=1e-3)
    phi = PhiConfig(**SHAPE, **HEADS, **NO_TOKENS, rope_parameters=rope, layer_norm_eps=1e-3)
    models = {"llama": LlamaForCausalLM(llama).eval(), "phi": PhiForCausalLM(phi).eval()}
    with torch.no_grad():
        for model in models.values():
            for parameter in model.parameters():
                parameter += 0.4 * torch.randn_like(parameter)
        models["phi"].lm_head.bias.zero_()  # ours has none
    return models


def main() -> None:
    """Writes the files next to this script."""
    for name, model in make_models().items():
        tokens = torch.randint(37, (3, 24))
        prompt = tokens[:, :10]
        with torch.no_grad():
            logits = model(tokens).logits
            mask = torch.ones_like(prompt)
            greedy = model.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=12)
        weights = {key: value.numpy() for key, value in model.state_dict().items()}
        results = {"tokens": tokens.numpy(), "logits": logits.numpy(), "greedy": greedy[:, 10:].numpy()}
        np.savez_compressed(pathlib.Path(__file__).with_name(f"{name}.npz"), **weights, **results)


if __name__ == "__main__":
    main()
