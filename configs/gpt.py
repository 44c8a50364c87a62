"""A small GPT on Python's own documentation: the recipe of `python train.py`.

python train.py --config=configs/gpt.py
"""

from lm_jax.config import Config, TrainConfig, unknown_variant
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.optimizers import OptimizerConfig


def get_config(variant: str = "") -> Config:
    """The recipe."""
    if variant:
        raise unknown_variant(variant, [""])
    return Config(
        data=DataConfig(corpus="python-docs", tokenizer="bpe", vocab_size=4096, sequence_length=128),
        model=GPTConfig(num_layers=4, num_heads=4, d_model=192),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100),
        train=TrainConfig(num_steps=1500, batch_size=16, eval_every=250, checkpoint_every=250),
    )
