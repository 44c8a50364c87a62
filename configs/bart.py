"""BARTs: a small one on Python's documentation, one for each noise, and the published size.

    python train.py --config=configs/bart.py
    python train.py --config=configs/bart.py:delete
    python train.py --config=configs/bart.py:base --config.data.corpus='jsonl:CORPUS/*.jsonl'
    python -m lm_jax.noise --config=configs/bart.py --text=FILE

The default is trained to undo the published noise: sentences in random order, and 30 % of the words in spans
that each became one mask. `permute`, `replace`, `mask`, `delete`, `infill` and `rotate` have that noise
alone, and `permute+infill` or any other combination all of its noises. The last command shows what each does
to a text. Any tokenizer with a mask token will do; only `mask` and `infill` need one.

`base` is BART-base as published (139 million parameters; Lewis et al. 2020, section 2, and the appendix of
fairseq's release): 500,000 steps of 2,000 rows of 512 tokens, in bfloat16. It reads a corpus of billions of
words, on accelerators.
"""

import dataclasses

from lm_jax.config import Config, OptimizerConfig, TrainConfig, unknown_variant
from lm_jax.data.noising import NOISES
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.bart import BARTConfig
from lm_jax.parallel.sharding import MeshConfig
from lm_jax.tasks.denoising import Denoising

_SHARES = {"permute": 1.0, "replace": 0.15, "mask": 0.15, "delete": 0.15, "infill": 0.3, "rotate": 1.0}


def get_config(variant: str = "") -> Config:
    """2 + 2 layers, 4 heads, 128 wide, 128 tokens of text; or noises joined by "+"; or "base".

    Given held-out documents of Python 3.11's documentation with the published noise, the perplexity of their
    tokens is 3.73 on validation and 3.61 on test. It takes 13 min of processor time, evaluation included.
    """
    if variant == "base":
        return _base()
    names = (variant or "permute+infill").split("+")
    if not set(names) <= set(NOISES):
        raise unknown_variant(variant, ["", *NOISES, "permute+infill", "base"])
    shares = {name: _SHARES[name] for name in names}
    return Config(
        data=DataConfig("python-docs", tokenizer="bpe-bart", vocab_size=4096, sequence_length=128),
        model=BARTConfig(num_layers=2, num_heads=4, d_model=128, position="rope", norm_first=True),
        task=dataclasses.replace(Denoising(), **shares),
        optimizer=OptimizerConfig(
            "muon", learning_rate=1e-2, warmup_steps=50, momentum=0.95, weight_decay=0.3
        ),
        train=TrainConfig(
            num_steps=2000, batch_size=16, eval_every=500, checkpoint_every=500, sample_tokens=0
        ),
    )


def _base() -> Config:
    return Config(
        data=DataConfig(
            "python-docs",
            split="hash:0.005,0.005",
            tokenizer="bpe-bart",
            vocab_size=50265,
            sequence_length=512,
        ),
        model=BARTConfig(
            max_length=1024, num_layers=6, num_heads=12, d_model=768, dropout=0.1, dtype="bfloat16"
        ),
        task=Denoising(permute=1.0, infill=0.3),
        optimizer=OptimizerConfig(
            learning_rate=4e-4, schedule="linear", warmup_steps=10_000, final_ratio=0.0, b2=0.98,
            epsilon=1e-6, weight_decay=0.01, clip_norm=0.1,
        ),
        train=TrainConfig(
            num_steps=500_000, batch_size=2000, eval_every=10_000, checkpoint_every=10_000, sample_tokens=0
        ),
        mesh=MeshConfig(data=-1),
    )  # fmt: skip
