"""Writes bart.npz: random weights under transformers' names, and what its BARTs make of them.

python tests/golden/make_bart.py      (needs torch and transformers; written with transformers 5.24)
"""

import pathlib

import numpy as np
import torch
from transformers import BartConfig, BartForConditionalGeneration, BartForSequenceClassification

SHAPE = {
    "vocab_size": 261, "max_position_embeddings": 24, "d_model": 16, "encoder_layers": 1, "decoder_layers": 2,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
}  # fmt: skip
GENERATION = {
    "beams": {
        "num_beams": 4, "max_length": 14, "min_length": 6, "length_penalty": 2.0, "no_repeat_ngram_size": 3,
        "early_stopping": True, "forced_bos_token_id": 0,
    },
    "sums": {"num_beams": 3, "max_length": 12, "length_penalty": 0.0, "early_stopping": "never"},
    "greedy": {"num_beams": 1, "max_length": 14, "min_length": 5},
}  # fmt: skip


def make(kind: type, seed: int) -> torch.nn.Module:
    """A model whose every parameter is random and large enough to matter, biases and norms included."""
    torch.manual_seed(seed)
    model = kind(BartConfig(**SHAPE)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
        if kind is BartForConditionalGeneration:
            model.final_logits_bias += torch.randn(1, SHAPE["vocab_size"])
    return model


def main() -> None:
    """Writes the file next to this script."""
    model, labels = make(BartForConditionalGeneration, 0), make(BartForSequenceClassification, 1)
    lengths = torch.tensor([16, 11, 5])
    mask = (torch.arange(16) < lengths[:, None]).long()
    tokens = torch.randint(4, 98, (3, 16)) * mask + (1 - mask)
    tokens[:, 0] = 0
    tokens[torch.arange(3), lengths - 1] = 2
    targets = torch.randint(4, 98, (3, 9))
    inputs = torch.cat([torch.full((3, 1), 2), targets[:, :-1]], dim=1)
    source = {"input_ids": tokens, "attention_mask": mask}
    with torch.no_grad():
        made = model(**source, labels=targets)
        results = {
            "tokens": tokens, "lengths": lengths, "inputs": inputs, "targets": targets, "logits": made.logits,
            "loss": made.loss, "encoded": made.encoder_last_hidden_state,
            "class_logits": labels(**source).logits,
        }  # fmt: skip
        for name, settings in GENERATION.items():
            results[f"generated/{name}"] = model.generate(**source, **settings)
    arrays = {name: value.numpy() for name, value in results.items()}
    for name, weights in (("generation", model), ("sequence", labels)):
        tied = ("embed_tokens", "lm_head")  # with shared.weight
        arrays |= {
            f"{name}/{key}": value.numpy()
            for key, value in weights.state_dict().items()
            if not any(part in key for part in tied)
        }
    np.savez_compressed(pathlib.Path(__file__).with_name("bart.npz"), **arrays)


if __name__ == "__main__":
    main()
