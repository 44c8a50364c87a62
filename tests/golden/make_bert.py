"""Writes bert.npz: random weights under transformers' names, and what its BERTs make of them.

python tests/golden/make_bert.py      (needs torch and transformers; written with transformers 5.24)
"""

import pathlib

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
)

SHAPE = {
    "vocab_size": 37, "max_position_embeddings": 24, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 24, "num_labels": 3,
}  # fmt: skip


def make(kind: type, seed: int) -> torch.nn.Module:
    """A model whose every parameter is random and large enough to matter, biases and norms included."""
    torch.manual_seed(seed)
    model = kind(BertConfig(**SHAPE)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    return model


def main() -> None:
    """Writes the file next to this script."""
    model = make(BertForPreTraining, 0)
    sequence, token = (make(k, 1) for k in (BertForSequenceClassification, BertForTokenClassification))
    tokens = torch.randint(37, (3, 24))
    lengths = torch.tensor([24, 17, 5])
    mask = (torch.arange(24) < lengths[:, None]).long()
    types = ((torch.arange(24) >= 9) & (mask > 0)).long()
    inputs = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": types}
    with torch.no_grad():
        made = model(**inputs)
        inner = model.bert(**inputs, output_hidden_states=True)
        results = {
            "tokens": tokens, "lengths": lengths, "types": types, "masked_logits": made.prediction_logits,
            "pair_logits": made.seq_relationship_logits, "hidden": torch.stack(inner.hidden_states),
            "pooled": inner.pooler_output, "class_logits": sequence(**inputs).logits,
            "tag_logits": token(**inputs).logits,
        }  # fmt: skip
    arrays = {name: value.numpy() for name, value in results.items()}
    for name, module in (("pretraining", model), ("sequence", sequence), ("token", token)):
        arrays |= {f"{name}/{key}": value.numpy() for key, value in module.state_dict().items()}
    np.savez_compressed(pathlib.Path(__file__).with_name("bert.npz"), **arrays)


if __name__ == "__main__":
    main()
