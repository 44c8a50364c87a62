"""A small GPT on Python's own documentation: the recipe of `python train.py`.

python train.py --config=configs/gpt.py
"""

from lm_jax.config import Config, TrainConfig, unknown_variant
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.optimizers import OptimizerConfig


def get_config(variant: str = "") -> Config:
    """4 layers, 4 heads, 128 wide, 128 tokens of context: 1.3 million parameters."""
    if variant:
        raise unknown_variant(variant, [""])
    return Config(
        data=DataConfig(corpus="python-docs", tokenizer="bpe", vocab_size=4096, sequence_length=128),
        model=GPTConfig(num_layers=4, num_heads=4, d_model=128),
        # A small text is read four times: a high rate and much decay.
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup_steps=100, weight_decay=0.3),
        train=TrainConfig(num_steps=2000, batch_size=8, eval_every=500, checkpoint_every=500),
    )
