"""GPTs: a small one on Python's documentation, the recipe of `python train.py`; and two of GPT-2's sizes.

python train.py --config=configs/gpt.py
python train.py --config=configs/gpt.py:tuned
python train.py --config=configs/gpt.py:llama
python train.py --config=configs/gpt.py:124m --config.data.corpus='jsonl:CORPUS/*.jsonl'

`124m` and `350m` have the sizes of Radford et al. 2019 (table 2, where they are called 117M and 345M) and the
optimization of Brown et al. 2020 (appendix B): 19,073 batches of 512 rows of 1,024 tokens are 10 billion
tokens. A training step costs 855 million (124m) or 2,423 million (350m) floating-point operations a token,
8.5e18 or 2.4e19 in all: a GPU that does 4e14 a second, which is 40 % of the published bfloat16 peak of an
H100, takes 6 or 17 hours. They read a corpus of that size; Python's documentation only shows that they run.

On one GPU of 80 GB, as they stand: 16 parts of 32 rows, with cuDNN's flash attention. With less memory take
more parts (--config.train.accumulation=64); with more GPUs fewer, since every device reads
512 / (devices * accumulation) rows at a time: for 8 GPUs

python train.py --config=configs/gpt.py:124m --config.train.accumulation=2 --config.data.corpus=...

On a TPU pod slice, the same command on every host, for 256 chips two rows each and no parts:

python train.py --distributed --config=configs/gpt.py:350m --config.train.accumulation=1
    --config.mesh.data=64 --config.mesh.fsdp=4 --config.data.corpus=... --workdir=DIRECTORY_OF_ALL_HOSTS

fsdp=4 leaves each chip a quarter of the parameters and of AdamW's moments, tensor=2 would halve the widths of
each block's products (the vocabulary is padded to 50,304 so that it divides, too), and remat=true keeps only
the blocks' inputs if memory is still too small.
"""

import dataclasses

from lm_jax.config import Config, OptimizerConfig, TrainConfig, unknown_variant
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.parallel.sharding import MeshConfig
from lm_jax.tasks.causal import Causal


def get_config(variant: str = "") -> Config:
    """4 layers, 4 heads, 128 wide, 128 tokens of context: 1.3 million parameters. Or one of the variants.

    Bits per byte on validation and test, of Python 3.11's documentation: 1.697 and 1.731. With learned
    positions, as GPT-2's published form has them, about 0.06 more; with these, and by AdamW at its best rate
    in 2,000 steps of half the rows: 1.892 and 1.926.

    "tuned", by seeds 0, 1 and 2: 1.566, 1.594, 1.593 and 1.601, 1.631, 1.617; a step takes about 1.4 times as
    long. "llama" is "tuned" with the parts of Touvron et al. 2023, for the export as a LLaMA; not measured.
    """
    if variant == "124m":
        return _published(GPTConfig(num_layers=12, num_heads=12, d_model=768), learning_rate=6e-4)
    if variant == "350m":  # layers scanned: 24 of them take long to compile one by one
        shape = GPTConfig(num_layers=24, num_heads=16, d_model=1024, scan_layers=True)
        return _published(shape, learning_rate=3e-4)
    if variant == "tuned":
        return _tuned()
    if variant == "llama":
        tuned = _tuned()
        model = dataclasses.replace(tuned.model, num_kv_heads=2, norm="rms", mlp="swiglu", use_bias=False)
        return dataclasses.replace(tuned, model=model)
    if variant:
        raise unknown_variant(variant, ["", "tuned", "llama", "124m", "350m"])
    return _small()


def _small() -> Config:
    return Config(
        data=DataConfig(corpus="python-docs", tokenizer="bpe", vocab_size=4096, sequence_length=128),
        model=GPTConfig(num_layers=4, num_heads=4, d_model=128, position="rope"),
        # A small text is read three times: a high rate and much decay.
        optimizer=OptimizerConfig(
            "muon", learning_rate=1e-2, warmup_steps=50, momentum=0.95, weight_decay=0.3
        ),
        train=TrainConfig(num_steps=700, batch_size=16, eval_every=175, checkpoint_every=175),
    )


def _tuned() -> Config:
    """Fewer tokens in the vocabulary, longer rows, dropout, more steps, and a rate that falls to 0."""
    small = _small()
    return dataclasses.replace(
        small,
        data=dataclasses.replace(small.data, vocab_size=2048, sequence_length=160),
        model=dataclasses.replace(small.model, dropout=0.1),
        optimizer=dataclasses.replace(small.optimizer, final_ratio=0.0),
        train=dataclasses.replace(small.train, num_steps=1100, eval_every=275, checkpoint_every=275),
    )


def _published(shape: GPTConfig, learning_rate: float) -> Config:
    """GPT-2's context and vocabulary, in bfloat16."""
    return Config(
        data=DataConfig(
            corpus="python-docs",
            split="hash:0.005,0.005",
            tokenizer="bpe",
            vocab_size=50257,
            sequence_length=1024,
        ),
        # 50,257 tokens, padded to a multiple of 128 for full matrix units and an even split over a mesh.
        model=dataclasses.replace(
            shape, vocab_size=50304, max_length=1024, dtype="bfloat16", attention="fused"
        ),
        task=Causal(chunk_length=128),  # all logits of 32 rows would take 6.6 GB
        optimizer=OptimizerConfig(
            learning_rate=learning_rate, warmup_steps=700, final_ratio=0.1, b2=0.95, weight_decay=0.1
        ),
        train=TrainConfig(
            num_steps=19073, batch_size=512, accumulation=16, eval_every=1000, checkpoint_every=1000
        ),
        mesh=MeshConfig(data=-1),
    )
