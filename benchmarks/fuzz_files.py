"""The good files that `fuzz.py` changes."""

import dataclasses
import json
import pathlib
import random
import shutil
from typing import Any

import numpy as np

from lm_jax import experiment
from lm_jax.config import Config, CountConfig, OptimizerConfig, TrainConfig
from lm_jax.data import pipeline
from lm_jax.data.documents import Fields
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.bert import BERTConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.ngram import arpa
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.pretrained import huggingface
from lm_jax.text import load as tokenizers

_WORDS = "the a model language data reads learns writes old new text".split()  # noqa: SIM905


def make(folder: pathlib.Path, trained: bool = True) -> None:
    """Writes the good files.

    Args:
        folder: an empty folder.
        trained: also those of a GPT and of published models; this starts jax.
    """
    draw = random.Random(0)
    lines = [" ".join(draw.choices(_WORDS, k=draw.randrange(3, 9))) + " é.\n" for _ in range(60)]
    _make_texts(folder / "texts", lines)
    _make_runs(folder, trained)
    _make_store(folder)
    _make_tokenizers(folder, lines)
    if not trained:
        return
    for family, config in (
        ("gpt2", GPTConfig(max_length=16, num_layers=1, num_heads=2, d_model=8)),
        ("bert", BERTConfig(max_length=16, num_layers=1, num_heads=2, d_model=8)),
    ):
        _make_published(folder, family, config)


def _make_texts(folder: pathlib.Path, lines: list[str]) -> None:
    folder.mkdir()
    (folder / "text.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "utf16.txt").write_bytes("".join(lines[:20]).encode("utf-16"))
    rows = [{"text": line.strip(), "label": "ab"[i % 2], "n": i / 2} for i, line in enumerate(lines)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row | {"u": [1, 2]}) + "\n" for row in rows))
    for suffix, mark in (("tsv", "\t"), ("csv", ",")):
        table = [f"text{mark}label"] + [f'{row["text"]}{mark}"x y"' for row in rows[:20]]
        (folder / f"table.{suffix}").write_text("\n".join(table), encoding="utf-8")
    labelled = (f"__label__{'ab'[i % 2]} {line}" for i, line in enumerate(lines))
    (folder / "labelled.txt").write_text("".join(labelled), encoding="utf-8")
    tagged = ["\n".join(f"{word} X O" for word in line.split()) for line in lines[:20]]
    (folder / "tags.conll").write_text("\n\n".join(["-DOCSTART- -X- O", *tagged]), encoding="utf-8")


def _make_runs(folder: pathlib.Path, trained: bool) -> None:
    text, rows = folder / "texts" / "text.txt", folder / "texts" / "rows.jsonl"
    data = DataConfig(f"text:{text}", "line", "hash:0.2,0.2", tokenizer="word", sequence_length=8)
    if trained:
        gpt = GPTConfig(num_layers=1, num_heads=2, d_model=8)
        train = TrainConfig(num_steps=2, batch_size=2, eval_every=1, checkpoint_every=1, sample_tokens=0)
        optimizer = OptimizerConfig(warmup_steps=1)
        experiment.run(Config(data=data, model=gpt, train=train, optimizer=optimizer), folder / "gpt")
    counted = NGramConfig(order=3, smoothing="witten_bell")
    experiment.run(CountConfig(data=data, model=counted, sample_tokens=0), folder / "ngram")
    labelled = dataclasses.replace(data, corpus=f"jsonl:{rows}", documents="file")
    recipe = CountConfig(data=labelled, model=counted, sample_tokens=0, label="label")
    experiment.run(recipe, folder / "classes")
    (folder / "arpa").mkdir()
    arpa.write(NGramModel.load(folder / "ngram" / "model.ngram"), folder / "arpa" / "model.arpa")


def _make_store(folder: pathlib.Path) -> None:
    config = DataConfig(f"jsonl:{folder / 'texts' / 'rows.jsonl'}", "file", "hash:0.2,0.2", tokenizer="byte")
    pipeline.prepare(config, Fields(labels=("label",), numbers=("n",)), folder / "made")
    for name in ("texts", "tokens"):
        (found,) = (folder / "made").glob(f"{name}-*")
        shutil.copytree(found, folder / "store" / name)


def _make_tokenizers(folder: pathlib.Path, lines: list[str]) -> None:
    for spec, size in (("word", 0), ("char", 0), ("byte", 0), ("bpe", 270), ("wordpiece", 60)):
        (folder / "tokenizers" / spec).mkdir(parents=True)
        tokenizers.train(spec, lines, size).save(folder / "tokenizers" / spec)
    definition = json.loads((folder / "tokenizers" / "bpe" / "tokenizer.json").read_text())["model"]
    gpt2, bert = (folder / "tokenizers" / name for name in ("gpt2", "bert"))
    for directory in (gpt2, bert):
        directory.mkdir()
    (gpt2 / "vocab.json").write_text(json.dumps(definition["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in definition["merges"]]
    (gpt2 / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    size = len(definition["vocab"])
    (gpt2 / "added_tokens.json").write_text(json.dumps({"<pad>": size, "<mask>": size + 1}))
    definition = json.loads((folder / "tokenizers" / "wordpiece" / "tokenizer.json").read_text())
    pieces = definition["model"]["vocab"]
    (bert / "vocab.txt").write_text("\n".join(sorted(pieces, key=pieces.__getitem__)) + "\n")
    (bert / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": False, "strip_accents": None, "tokenize_chinese_chars": True})
    )


def _make_published(folder: pathlib.Path, family: str, config: Any) -> None:
    import jax

    from lm_jax.tasks.causal import Causal

    task = Causal() if family == "gpt2" else None
    source = "bpe" if family == "gpt2" else "wordpiece"
    tokenizer = tokenizers.load(folder / "tokenizers" / source)
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    module = config.make() if task is None else task.make(config)
    params = module.init(jax.random.key(0), np.zeros((1, 1), np.int32))
    for name, size in ((family, 5 * 10**9), (f"{family}-shards", 4000)):
        huggingface.write(folder / name, huggingface.Pretrained(config, params, tokenizer, task), size)
        end = tokenizer.special_text("eos" if family == "gpt2" else "sep")
        marks_ = {"bos_token": end, "eos_token": {"content": end}}
        ids = {"bos_token_id": tokenizer.end_id, "eos_token_id": [tokenizer.end_id]}
        (folder / name / "special_tokens_map.json").write_text(json.dumps(marks_))
        (folder / name / "generation_config.json").write_text(json.dumps(ids))
