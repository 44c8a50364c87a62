"""Finished runs of every family by tiny recipes: what the code of the documentation opens as runs/NAME."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import tiny
import tiny_labels

from lm_jax.config import AnyConfig, CountConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.bart import BARTConfig
from lm_jax.models.bert import BERTConfig
from lm_jax.models.elmo import ELMoConfig
from lm_jax.models.rnn import RNNConfig
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.tasks.base import Task
from lm_jax.tasks.bidirectional import Bidirectional
from lm_jax.tasks.classification import Classification
from lm_jax.tasks.denoising import Denoising
from lm_jax.tasks.masked import Masked
from lm_jax.tasks.seq2seq import Seq2Seq
from lm_jax.tasks.tagging import Tagging

_BART = BARTConfig(num_layers=1, num_heads=2, d_model=16)


def _trained(folder: pathlib.Path, model: Any, task: Task | None = None, **data: Any) -> AnyConfig:
    """The recipe `tiny` with another model and task, for two steps."""
    base = tiny.config(
        tiny.write_text(folder / "text.txt"), num_steps=2, eval_every=2, checkpoint_every=2, sample_tokens=0
    )
    made = dataclasses.replace(base, data=dataclasses.replace(base.data, **data), model=model)
    return made if task is None else dataclasses.replace(made, task=task)


def _labelled(folder: pathlib.Path, task: Task) -> AnyConfig:
    corpus = tiny_labels.write(folder / "records.jsonl", tiny_labels.records(40))
    return tiny_labels.config(corpus, task, num_steps=2, eval_every=2, checkpoint_every=2)


def _pairs(folder: pathlib.Path) -> AnyConfig:
    """Targets are the first two words of the source."""
    lines = tiny.write_text(folder / "lines.txt", num_lines=60).read_text().splitlines()
    rows = [{"text": line, "target": " ".join(line.split()[:2])} for line in lines]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"split": "tail:0.2,0.1", "tokenizer": "bpe-bart", "vocab_size": 300, "sequence_length": 24}
    return _trained(folder, _BART, Seq2Seq(), corpus=f"jsonl:{folder / 'pairs.jsonl'}", **data)


def _ngram(folder: pathlib.Path) -> AnyConfig:
    """On the bytes that the GPT of `tiny` reads, so that the two can be mixed."""
    data = tiny.config(tiny.write_text(folder / "text.txt")).data
    return CountConfig(data=data, model=NGramConfig(order=3, discount_fallback=(0.5, 1.0, 1.5)))


def _words(folder: pathlib.Path) -> AnyConfig:
    data = DataConfig(
        f"text:{tiny.write_text(folder / 'text.txt')}", "line", split="hash:0.1,0.1", tokenizer="word"
    )
    return CountConfig(data=data, model=NGramConfig(order=2, smoothing="witten_bell"))


def _rnn(folder: pathlib.Path) -> AnyConfig:
    return _trained(folder, RNNConfig(num_layers=1, d_embedding=8, d_hidden=8), order="contiguous")


def _elmo(folder: pathlib.Path) -> AnyConfig:
    model = ELMoConfig(d_model=6, hidden=8, character_dim=3, filters=((1, 4), (3, 5)), num_highways=1)
    words = {"tokenizer": "word", "vocab_size": 14, "sequence_length": 5, "order": "contiguous"}
    return _trained(folder, model, Bidirectional(), **words)


def _bert(folder: pathlib.Path) -> AnyConfig:
    model = BERTConfig(num_layers=1, num_heads=2, d_model=16)
    return _trained(folder, model, Masked(), tokenizer="wordpiece", vocab_size=64)


def _bart(folder: pathlib.Path) -> AnyConfig:
    words = {"tokenizer": "bpe-bart", "vocab_size": 300, "sequence_length": 24}
    return _trained(folder, _BART, Denoising(infill=0.3), **words)


# Name -> what makes the recipe in a folder, beside the GPT of the fixture `tiny_run`.
RECIPES: dict[str, Callable[[pathlib.Path], AnyConfig]] = {
    "ngram": _ngram,
    "ngram-word": _words,
    "rnn": _rnn,
    "elmo": _elmo,
    "bert": _bert,
    "bart": _bart,
    "seq2seq": _pairs,
    "classify": lambda folder: _labelled(folder, Classification()),
    "tag": lambda folder: _labelled(folder, Tagging()),
}
