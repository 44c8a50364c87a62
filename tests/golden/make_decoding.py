"""Writes decoding.npz: what transformers' generate makes of gpt2.npz's model, by beams and with processors.

python tests/golden/make_decoding.py      (needs torch and transformers; written with transformers 5.23)
"""

import json
import pathlib

import numpy as np
import torch
from make_gpt2 import make_model

HERE = pathlib.Path(__file__).parent
END, NEW = 1, 12
RUNS = {
    "three_beams": {"num_beams": 3, "num_return_sequences": 3},
    "sums": {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.0, "early_stopping": True},
    "never": {"num_beams": 2, "length_penalty": 2.0, "early_stopping": "never"},
    "short": {"num_beams": 4, "num_return_sequences": 4, "length_penalty": -1.0},
    "beams_apart": {"num_beams": 3, "num_return_sequences": 3, "no_repeat_ngram_size": 2,
                    "repetition_penalty": 1.5, "min_new_tokens": 4},
    "greedy_apart": {"no_repeat_ngram_size": 3, "repetition_penalty": 1.3, "bad_words_ids": [[5], [7, 8]],
                     "min_new_tokens": 6},
}  # fmt: skip


def main() -> None:
    """Writes the file next to this script."""
    model = make_model(0, vocab_size=37, n_positions=24, n_embd=16, n_layer=2, n_head=2)
    tokens = np.load(HERE / "gpt2.npz")["tokens"][:, :10]
    prompts = torch.tensor(np.where(tokens == END, 2, tokens))  # no end in a prompt
    results = {"prompts": prompts.numpy(), "runs": json.dumps(RUNS)}
    for name, options in RUNS.items():
        made = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=NEW,
            eos_token_id=END, pad_token_id=END, output_scores=True, return_dict_in_generate=True, **options,
        )  # fmt: skip
        tokens = made.sequences[:, 10:].numpy()
        results[name] = np.pad(tokens, ((0, 0), (0, NEW - tokens.shape[1])), constant_values=END)
        if "num_beams" in options:
            results[f"{name}_scores"] = made.sequences_scores.numpy()
    np.savez_compressed(HERE / "decoding.npz", **results)


if __name__ == "__main__":
    main()
