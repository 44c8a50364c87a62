"""Recurrent language models: an LSTM on the words of the Brown corpus, and earlier and later models.

    python benchmarks/brown.py data/brown
    python train.py --config=configs/rnn.py

Variants: `elman`, `gru` and `lstm` are one recipe with three cells, on the tokens of `configs/gpt.py`;
`shakespeare` is characters, for `--config.data.corpus=text:PATH/tinyshakespeare.txt`; `awd_lstm` is Merity et
al.'s; `tutorial` and `simple_nnlm` are a tutorial's second and third program.
"""

import dataclasses
import pathlib

from lm_jax.config import Config, OptimizerConfig, TrainConfig, unknown_variant
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.rnn import RNNConfig
from lm_jax.tasks.causal import Causal

_BROWN = DataConfig(
    corpus="text:data/brown/train.txt",
    valid="data/brown/valid.txt",
    test="data/brown/test.txt",
    split="tail:0",  # the parts are separate files
    tokenizer="word",
    vocab_size=0,
    sequence_length=35,
    order="contiguous",
)
_SENTENCE = f"text:{pathlib.Path(__file__).parent / 'texts' / 'i_love_coding.txt'}"


def _brown() -> Config:
    """Zaremba et al. 2014's dropout, a tied head and AdamW; six epochs.

    Perplexity 272.5 on validation and 247.7 on test, where a modified Kneser-Ney 5-gram has 329.0 on the same
    tokens; about 22 minutes on two cores.
    """
    return Config(
        data=_BROWN,
        model=RNNConfig(
            num_layers=2,
            d_embedding=256,
            d_hidden=256,
            tied_head=True,
            input_dropout=0.4,
            hidden_dropout=0.3,
            output_dropout=0.4,
        ),
        task=Causal(chunk_length=35),  # computes gradients in the forward pass
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=200, final_ratio=0.02, weight_decay=0.03),
        train=TrainConfig(num_steps=7000, batch_size=20, eval_every=1000, checkpoint_every=1000),
    )


def _awd_lstm() -> Config:
    """Merity et al. 2017 for the Penn Treebank, on Brown, with all of their settings.

    Made for an accelerator: a step of 20 rows of 70 is about 230 GFLOP.
    """
    return Config(
        data=dataclasses.replace(_BROWN, sequence_length=70, vary_length=True),
        model=RNNConfig(
            num_layers=3,
            d_embedding=400,
            d_hidden=1150,
            tied_head=True,
            embedding_dropout=0.1,
            input_dropout=0.4,
            hidden_dropout=0.25,
            output_dropout=0.4,
            locked_dropout=True,
            weight_dropout=0.5,
        ),
        task=Causal(activation_penalty=2.0, temporal_penalty=1.0),
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=30.0,
            schedule="constant",
            warmup_steps=0,
            momentum=0.0,
            weight_decay=1.2e-6,
            clip_norm=0.25,
        ),
        # 583 steps are about an epoch; the paper validates once per epoch.
        train=TrainConfig(
            num_steps=60_000,
            batch_size=20,
            eval_every=583,
            checkpoint_every=583,
            average="triggered",
            average_patience=5,
        ),
    )


def _cell(cell: str) -> Config:
    """One layer of 256 units; the recipes differ only in the cell.

    Bits per byte on validation and test, of Python 3.11's documentation: LSTM 1.771 and 1.788, GRU 1.771 and
    1.793, Elman 1.837 and 1.856; six to eight minutes on one core.
    """
    return Config(
        data=DataConfig(corpus="python-docs", tokenizer="bpe", sequence_length=64, order="contiguous"),
        model=RNNConfig(cell=cell, num_layers=1, d_embedding=256, d_hidden=256, output_dropout=0.1),
        task=Causal(chunk_length=64),
        optimizer=OptimizerConfig("muon", learning_rate=1e-2, warmup_steps=100, weight_decay=0.1),
        train=TrainConfig(num_steps=2000, batch_size=16, eval_every=500, checkpoint_every=500),
    )


def _shakespeare() -> Config:
    """One layer of 512 units: 1.490 nats a character on validation, measured with num_steps=2000."""
    return Config(
        data=DataConfig(
            corpus="text:data/tinyshakespeare.txt",
            tokenizer="char",
            vocab_size=0,
            split="tail:0.1",
            sequence_length=64,
            order="contiguous",
        ),
        model=RNNConfig(num_layers=1, d_embedding=64, d_hidden=512, forget_bias=1.0, output_dropout=0.2),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup_steps=100, final_ratio=0.05, weight_decay=0.01),
        train=TrainConfig(
            num_steps=2000, batch_size=16, eval_every=250, checkpoint_every=250, sample_tokens=400
        ),
    )


def _tutorial() -> Config:
    """1,000 words, embedding 128, hidden 256, Adam 1e-3, 32 rows of 5: the first loss is about ln 1000."""
    return Config(
        data=DataConfig(
            corpus="python-docs", tokenizer="word", vocab_size=1000, sequence_length=5, order="contiguous"
        ),
        model=RNNConfig(cell="elman", num_layers=1, d_embedding=128, d_hidden=256),
        optimizer=_constant("adamw", 1e-3),
        train=TrainConfig(num_steps=2000, batch_size=32, eval_every=500, checkpoint_every=500, log_every=1),
    )


def _simple_nnlm() -> Config:
    """Embedding 10, recurrent layer 8, SGD 0.1, 100 steps on "I love coding", which it then predicts."""
    return Config(
        data=DataConfig(
            corpus=_SENTENCE,
            valid=_SENTENCE.removeprefix("text:"),
            split="tail:0",
            tokenizer="word",
            sequence_length=4,
            order="contiguous",
        ),
        model=RNNConfig(cell="elman", num_layers=1, d_embedding=10, d_hidden=8),
        optimizer=_constant("sgd", 0.1),
        train=TrainConfig(num_steps=100, batch_size=1, eval_every=100, checkpoint_every=100, sample_tokens=4),
    )


def _constant(name: str, learning_rate: float) -> OptimizerConfig:
    """An optimizer with a constant rate, without decay and clipping."""
    return OptimizerConfig(
        name=name, learning_rate=learning_rate, schedule="constant", warmup_steps=0, momentum=0.0, b2=0.999,
        weight_decay=0.0, clip_norm=0.0,
    )  # fmt: skip


_RECIPES = {
    "": _brown,
    "awd_lstm": _awd_lstm,
    "elman": lambda: _cell("elman"),
    "gru": lambda: _cell("gru"),
    "lstm": lambda: _cell("lstm"),
    "shakespeare": _shakespeare,
    "simple_nnlm": _simple_nnlm,
    "tutorial": _tutorial,
}


def get_config(variant: str = "") -> Config:
    """An LSTM on Brown, or the recipe of the variant."""
    if variant not in _RECIPES:
        raise unknown_variant(variant, list(_RECIPES))
    return _RECIPES[variant]()
