"""GPT-2, or any run, fine-tuned on your own text.

python train.py --config=configs/finetune.py --config.init_from=hf:gpt2 --config.data.corpus=text:PATH
python -m lm_jax.export runs/finetune exported

`init_from` is a run directory, a directory in Hugging Face's form, or hf:NAME, a name on its hub; the model's
shape and the tokenizer come from there.
"""

from lm_jax.config import Config, OptimizerConfig, TrainConfig, unknown_variant
from lm_jax.data.pipeline import DataConfig


def get_config(variant: str = "") -> Config:
    """256 tokens of context, batches of 8, 500 steps."""
    if variant:
        raise unknown_variant(variant, [""])
    return Config(
        data=DataConfig(corpus="python-docs", sequence_length=256),
        # A low rate, so that a small text does not overwrite what the model has learned.
        optimizer=OptimizerConfig(learning_rate=5e-5, warmup_steps=50, b2=0.999, weight_decay=0.01),
        train=TrainConfig(num_steps=500, batch_size=8, eval_every=100, checkpoint_every=100),
        init_from="hf:gpt2",
    )
