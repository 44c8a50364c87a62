"""ELMo: a bidirectional language model that reads words by their characters, for vectors of words.

    python train.py --config=configs/elmo.py
    python -m lm_jax.embed --model=runs/elmo --text=FILE --out=vectors.hdf5
    python train.py --config=configs/tag.py --config.init_from=runs/elmo

Variants: `words`, whose words have vectors of their own, which are the softmax, too; `original`, as Peters et
al. 2018 trained the published model. Heads for labels read a weighted sum of all layers, --config.model.mix;
with --config.optimizer.backbone_rate=0 the ELMo below them is not trained.
"""

import dataclasses

from lm_jax.config import Config, OptimizerConfig, TrainConfig, unknown_variant
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.elmo import ELMoConfig
from lm_jax.tasks.bidirectional import Bidirectional


def _small() -> Config:
    """The published model's parts, an eighth as wide.

    Perplexity of the forward and the backward direction on the test part of Python 3.11's documentation, on
    words of a vocabulary of 20,000: 73.2 (64.1 to 79.5) and 74.6 (63.9 to 82.3), where a modified Kneser-Ney
    5-gram has 106.9 and an LSTM of 256 has 90.0 on the same words; 11 minutes on two cores. Line by line, as
    sentences are read for their vectors, 124.7 and 135.3.
    """
    return Config(
        data=DataConfig(
            corpus="python-docs", tokenizer="word", vocab_size=20_000, sequence_length=35, order="contiguous"
        ),
        model=ELMoConfig(
            d_model=128,
            hidden=512,
            num_layers=2,
            filters=((1, 32), (2, 32), (3, 64), (4, 128)),
            num_highways=1,
            dropout=0.2,
        ),
        task=Bidirectional(chunk_length=35),  # computes gradients in the forward pass
        optimizer=OptimizerConfig("muon", learning_rate=1e-2, warmup_steps=100, weight_decay=0.1),
        train=TrainConfig(num_steps=2000, batch_size=16, eval_every=500, checkpoint_every=500),
    )


def _original() -> Config:
    """93,600,864 parameters below the softmax, ten epochs of the 1 Billion Word Benchmark.

    Bilm-tf's published settings: Adagrad with a rate of 0.2, a sampled softmax of 8,192 words of 793,471, and
    three GPUs with 128 rows of 20 words each. Made for accelerators.
    """
    num_words, rows, length = 768_648_884, 3 * 128, 20
    return Config(
        data=DataConfig(
            corpus="tfds:lm1b",
            documents="line",
            tokenizer="word",
            vocab_size=793_471,
            sequence_length=length,
            order="contiguous",
        ),
        model=ELMoConfig(dropout=0.1),
        task=Bidirectional(num_sampled=8192),
        optimizer=OptimizerConfig(
            "adagrad",
            learning_rate=0.2,
            schedule="constant",
            warmup_steps=0,
            initial_accumulator=1.0,
            weight_decay=0.0,
            clip_norm=10.0,
        ),
        train=TrainConfig(
            num_steps=10 * num_words // (rows * length),
            batch_size=rows,
            eval_every=10_000,
            checkpoint_every=2_000,
            log_every=100,
        ),
    )


def get_config(variant: str = "") -> Config:
    """A small ELMo; or "words" or "original"."""
    small = _small()
    if variant == "words":
        model = dataclasses.replace(small.model, encoder="words", tied_head=True)
        return dataclasses.replace(small, model=model)
    if variant not in ("", "original"):
        raise unknown_variant(variant, ["", "words", "original"])
    return _original() if variant else small
