"""Targets written from sources: first lines of docstrings from their bodies, and translation.

    python train.py --config=configs/bart.py
    python train.py --config=configs/seq2seq.py
    python train.py --config=configs/seq2seq.py:scratch
    python train.py --config=configs/gpt.py
    python train.py --config=configs/seq2seq.py:gpt
    python eval.py --model=runs/seq2seq --model=runs/seq2seq-scratch --model=runs/seq2seq-gpt
    python train.py --config=configs/seq2seq.py:multi30k
    python -m lm_jax.generate --model=runs/seq2seq-multi30k --prompt="A dog runs."

`docstring`, the default, trains the BART of `configs/bart.py` on the docstrings of Python's standard library
that have a first line and a body (the corpus python-docstrings); `scratch` has its shape and starts from
nothing; `gpt` trains the GPT of `configs/gpt.py` on the same pairs, each a row of source and target. The
modules that were held out in pre-training are held out here, too.

`multi30k` translates English captions of pictures to German (Elliott et al. 2016). Its files are read from
data/multi30k, or from elsewhere:

    --config.data.corpus=parallel:DIR/train.en.gz,DIR/train.de.gz
    --config.data.valid=DIR/val.en.gz,DIR/val.de.gz
    --config.data.test=DIR/test_2016_flickr.en.gz,DIR/test_2016_flickr.de.gz

Other pairs, of a table with a header, of one without, of JSON lines, and of tensorflow-datasets:

    --config.data.corpus='tsv:FILE#source' --config.task.target=target
    --config.data.corpus='csv:FILE#1' --config.task.target=2
    --config.data.corpus='jsonl:FILE#article' --config.task.target=summary
    --config.data.corpus='tfds:wmt16_translate/de-en#en' --config.task.target=de

A published BART is trained on by --config.init_from=hf:facebook/bart-base --config.data.sequence_length=512.
"""

from lm_jax.config import Config, OptimizerConfig, TrainConfig, unknown_variant
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.bart import BARTConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.tasks.seq2seq import Seq2Seq

_SOURCES = {"docstring": "runs/bart", "scratch": "", "gpt": "runs/gpt"}
_DIRECTORY = "data/multi30k"


def get_config(variant: str = "") -> Config:
    """128 tokens of source and target. "docstring" (the default), "scratch", "gpt", or "multi30k".

    From the BART of `configs/bart.py`, on the test part of Python 3.11's docstrings, with 95 % intervals:
    perplexity 38.3 (32.9 to 44.6), ROUGE-L 16.5 (14.5 to 18.7) and ROUGE-1 18.0 (15.7 to 20.3). The first
    sentence of the body would have 14.0 (12.4 to 15.7) and 16.4 (14.6 to 18.2). It takes 4 min 30 s of
    processor time, evaluation included.
    """
    if variant == "multi30k":
        return _multi30k()
    name = variant or "docstring"
    if name not in _SOURCES:
        raise unknown_variant(variant, ["", *_SOURCES, "multi30k"])
    model = BARTConfig(num_layers=2, num_heads=4, d_model=128, position="rope", norm_first=True, dropout=0.1)
    return Config(
        data=DataConfig("python-docstrings", tokenizer="bpe-bart", vocab_size=4096, sequence_length=128),
        model=GPTConfig(max_length=256, dropout=0.1) if name == "gpt" else model,
        task=Seq2Seq(label_smoothing=0.1),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, schedule="linear", warmup_steps=50, final_ratio=0.0, b2=0.98, weight_decay=0.1
        ),
        train=TrainConfig(num_steps=600, batch_size=16, eval_every=100, checkpoint_every=100),
        init_from=_SOURCES[name],
    )


def _multi30k() -> Config:
    """3 + 3 layers, 4 heads, 128 wide; 6,000 tokens of both languages.

    BLEU of the test part of 2016 is 39.0 (37.3 to 40.6) with greedy decoding and 40.1 with 4 beams; see
    benchmarks/RESULTS.md. It takes 53 minutes on one busy core, evaluation included.
    """
    train, valid, test = (
        f"{_DIRECTORY}/{part}.en.gz,{_DIRECTORY}/{part}.de.gz"
        for part in ("train", "val", "test_2016_flickr")
    )
    return Config(
        data=DataConfig(
            f"parallel:{train}",
            split="tail:0",
            valid=valid,
            test=test,
            tokenizer="bpe-bart",
            vocab_size=6000,
            sequence_length=64,
        ),
        model=BARTConfig(
            num_layers=3, num_heads=4, d_model=128, position="rope", norm_first=True, dropout=0.1
        ),
        task=Seq2Seq(label_smoothing=0.1),
        optimizer=OptimizerConfig(
            "muon", learning_rate=1e-2, warmup_steps=100, final_ratio=0.01, momentum=0.95, weight_decay=0.1
        ),
        train=TrainConfig(num_steps=6000, batch_size=64, eval_every=500, checkpoint_every=500),
    )
