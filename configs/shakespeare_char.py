"""nanoGPT's CPU recipe: characters of tinyshakespeare.

python train.py --config=configs/shakespeare_char.py --config.data.corpus=text:PATH/tinyshakespeare.txt
"""

from lm_jax.config import Config, OptimizerConfig, TrainConfig, unknown_variant
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.gpt import GPTConfig


def get_config(variant: str = "") -> Config:
    """4 layers, 4 heads, 128 wide, 64 characters of context, batches of 12, 2,000 steps, no dropout."""
    if variant:
        raise unknown_variant(variant, [""])
    return Config(
        data=DataConfig(
            corpus="text:data/tinyshakespeare.txt", tokenizer="char", split="tail:0.1", sequence_length=64
        ),
        model=GPTConfig(num_layers=4, num_heads=4, d_model=128),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, warmup_steps=100, final_ratio=0.1, b2=0.99, weight_decay=0.1
        ),
        train=TrainConfig(
            num_steps=2000, batch_size=12, eval_every=250, checkpoint_every=250, sample_tokens=400
        ),
    )
