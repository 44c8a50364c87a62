"""Which pre-training helps a model to write? Table 1 of BART's paper in small: `python benchmarks/noises.py`.

    --steps=2000        of each pre-training, of 16 rows of 128 tokens of Python's documentation
    --tune-steps=600    of fine-tuning on the docstring task (configs/seq2seq.py)
    --seeds=3           of fine-tuning; each model is pre-trained once
    --only=A,B          these kinds of pre-training alone; --list prints their names
    --jobs=1            kinds of pre-training that run at the same time, each in a process of its own
    --out=runs/noises   run directories and cells.jsonl; what is finished there is not run again
    --table             prints the table of what is finished, and trains nothing

All models have the same tokens, width and number of blocks (2 + 2, or 4 in one stack). As in the paper the
language model is fine-tuned as one stack: a row is a source and its target, and the target is learned. The
masked language model is an encoder; it is fine-tuned as the encoder of a BART whose decoder is new (Rothe et
al. 2020; the paper masks the target in a model of one stack instead). Modules that are held out of the
docstring task are held out of pre-training.

A line of cells.jsonl is one fine-tuned model, with what each test document adds to its metrics. The table has
perplexity and ROUGE over all seeds, each with a 95 % bootstrap interval over documents, the deviation of the
perplexity between seeds, and the first sentences of the source as a summary (lead-k). Below stand the
conclusions of the paper, with the paired difference of perplexity between the two models that each names, and
its p-value after Holm.
"""

import argparse
import concurrent.futures
import dataclasses
import itertools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import lm_jax
from lm_jax import config as config_module
from lm_jax import experiment
from lm_jax.config import Config
from lm_jax.data import pipeline
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation.base import Evaluation
from lm_jax.evaluation.generated import text_statistics
from lm_jax.evaluation.texts import read_held_out
from lm_jax.metrics import likelihood, significance
from lm_jax.models.bart import BARTConfig
from lm_jax.models.bert import BERTConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.tasks.causal import Causal
from lm_jax.tasks.masked import Masked

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
_SPLIT = "hash:0.05,0.15"  # more test documents than by default
_SHAPE: dict[str, Any] = {"num_heads": 4, "d_model": 128, "position": "rope"}
_PERPLEXITY = "target_perplexity"
_ROUGES = ("rouge1", "rouge2", "rougeL")
_METRICS = (_PERPLEXITY, *_ROUGES)
_BEST = "infilling and permutation"
_TOKENIZER = "tokenizer"

# name -> the variant of configs/bart.py, and the paper's perplexities of XSum and CNN/DM
KINDS: dict[str, tuple[str, tuple[float, float] | None]] = {
    "none": ("", None),
    "masked language model": ("masked", (7.87, 7.06)),
    "language model": ("causal", (7.00, 6.56)),
    "token masking": ("mask", (7.08, 6.10)),
    "token deletion": ("delete", (6.90, 5.87)),
    "random replacement": ("replace", None),
    "text infilling": ("infill", (6.61, 5.83)),
    "document rotation": ("rotate", (17.14, 10.59)),
    "sentence permutation": ("permute", (10.93, 7.89)),
    _BEST: ("permute+infill", (6.62, 5.41)),
}
# Section 4.3 of the paper: the first is better than the second.
CLAIMS = (
    ("token masking", "document rotation", "masking is crucial: rotation alone performs poorly"),
    ("token masking", "sentence permutation", "masking is crucial: permutation alone performs poorly"),
    ("token deletion", "token masking", "deletion is better than masking for generation"),
    ("text infilling", "token masking", "infilling is better than masking"),
    ("language model", "masked language model", "left-to-right pre-training improves generation"),
    ("text infilling", "language model", "infilling is better than a language model"),
    (_BEST, "text infilling", "permutation helps beside infilling"),
)


class Cell(NamedTuple):
    """A fine-tuned model on the test part.

    Attributes:
        kind: of pre-training.
        seed: of fine-tuning.
        statistics: by metric, arrays with a value for each document.
    """

    kind: str
    seed: int
    statistics: dict[str, list[list[float]]]


def changed(config: Config, part: str, **values: Any) -> Config:
    """A recipe with other values in one part."""
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **values)})


def pretraining(kind: str, steps: int) -> Config:
    """The recipe of a pre-training."""
    variant = KINDS[kind][0]
    denoises = variant not in ("masked", "causal")
    _, config = config_module.load(f"{CONFIGS}/bart.py{':' + variant if denoises else ''}")
    assert isinstance(config, Config)
    if variant == "causal":
        config = dataclasses.replace(config, model=GPTConfig(num_layers=4, **_SHAPE), task=Causal())
    if variant == "masked":
        model = BERTConfig(num_layers=2, num_types=0, norm_first=True, layer_norm_epsilon=1e-5, **_SHAPE)
        config = dataclasses.replace(config, model=model, task=Masked())
    return _of_steps(changed(config, "data", split=_SPLIT), steps)


def tuning(kind: str, steps: int, seed: int, out: pathlib.Path) -> Config:
    """The recipe of fine-tuning a model that was pre-trained."""
    is_one_stack = KINDS[kind][0] == "causal"
    _, config = config_module.load(f"{CONFIGS}/seq2seq.py:scratch")
    assert isinstance(config, Config)
    if is_one_stack:
        model = GPTConfig(num_layers=4, max_length=256, dropout=0.1, **_SHAPE)
        config = dataclasses.replace(config, model=model)
    data: dict[str, Any] = {"split": _SPLIT}
    if kind == "none":  # the tokens of the others
        data["tokenizer"] = str(out / _TOKENIZER)
    else:
        config = dataclasses.replace(config, init_from=str(out / _name(kind)))
    return changed(_of_steps(changed(config, "data", **data), steps), "train", seed=seed)


def _of_steps(config: Config, steps: int) -> Config:
    every = max(1, steps // 4)
    return changed(
        config, "train", num_steps=steps, eval_every=every, checkpoint_every=every, sample_tokens=0
    )


def _name(kind: str) -> str:
    return kind.replace(" ", "-")


def tuned(kind: str, steps: int, seed: int, out: pathlib.Path) -> Cell:
    """Fine-tunes a model, unless that is done, and evaluates it on the test part."""
    config, workdir = tuning(kind, steps, seed, out), out / f"{_name(kind)}-tuned-{seed}"
    made: list[Evaluation] = []
    evaluate = evaluation.evaluate

    def keep(*arguments: Any, **options: Any) -> Evaluation:
        made.append(evaluate(*arguments, **options))
        return made[-1]

    first = _from_encoder if KINDS[kind][0] == "masked" else experiment._initial_params
    with (
        mock.patch.object(experiment, "_initial_params", first),
        mock.patch.object(evaluation, "evaluate", keep),
    ):
        experiment.run(config, workdir)
    if not made:  # the run was finished before
        keep(lm_jax.load(workdir), read_held_out(workdir, "test"), str(workdir))
    found = made[-1].statistics  # the test part is the last
    arrays = {name: [np.asarray(x, float).tolist() for x in found[name].arrays] for name in _METRICS}
    return Cell(kind, seed, arrays)


def _from_encoder(config: Config) -> Any:
    """The parameters of a BART whose encoder is the one in `init_from`, and whose decoder is new."""
    module = config.task.make(config.model)
    assert isinstance(config.model, BARTConfig)
    key, length = jax.random.key(config.train.seed), config.data.sequence_length
    new = jax.jit(lambda: module.init(key, jnp.zeros((1, length), jnp.int32)))()["params"]
    encoder_model: Any = lm_jax.load(config.init_from)
    encoder = dict(encoder_model.params["params"]["backbone"])
    embedding = encoder.pop("token_embedding")
    assert jax.tree.structure(new["encoder"]) == jax.tree.structure(encoder)
    return {"params": {**new, "token_embedding": embedding, "encoder": encoder}}


def leads(workdir: pathlib.Path, most: int = 2) -> dict[str, dict[str, Any]]:
    """The metrics of the first sentences of each source, by name."""
    documents = read_held_out(workdir, "test").documents
    targets = [document.text_field("target") for document in documents]
    found = {}
    for count in range(1, most + 1):
        sentences = [re.split(r"(?<=[.!?])\s+", " ".join(d.text.split()))[:count] for d in documents]
        found[f"lead-{count}"] = text_statistics([" ".join(s) for s in sentences], targets)
    return found


def pooled(cells: Sequence[Cell], name: str) -> list[np.ndarray]:
    """The arrays of a metric, summed over the seeds."""
    return [np.sum(arrays, axis=0) for arrays in zip(*(np.array(cell.statistics[name]) for cell in cells))]


def table(cells: Sequence[Cell], out: pathlib.Path) -> str:
    """The table of the cells, and the paper's conclusions beside their differences here."""
    by_kind = {kind: [c for c in cells if c.kind == kind] for kind in KINDS}
    by_kind = {kind: found for kind, found in by_kind.items() if found}
    lines = [
        "| pre-training | seeds | perplexity | ± | ROUGE-1 | ROUGE-2 | ROUGE-L | paper: XSum, CNN/DM |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, found in by_kind.items():
        each = [likelihood.perplexity(*np.sum(c.statistics[_PERPLEXITY], axis=1)) for c in found]
        spread = f"{statistics.stdev(each):.2f}" if len(each) > 1 else "–"
        perplexity = _shown(pooled(found, _PERPLEXITY), likelihood.perplexity, 1)
        rouges = " | ".join(_shown(pooled(found, name), significance.ratio, 100) for name in _ROUGES)
        paper = ", ".join(f"{x:.2f}" for x in KINDS[kind][1] or ()) or "–"
        lines.append(f"| {kind} | {len(found)} | {perplexity} | {spread} | {rouges} | {paper} |")
    if cells:
        for name, found in leads(out / f"{_name(cells[0].kind)}-tuned-{cells[0].seed}").items():
            rouges = " | ".join(_shown(found[r].arrays, significance.ratio, 100) for r in _ROUGES)
            lines.append(f"| {name} (no model) | – | – | – | {rouges} | – |")
    return "\n".join([*lines, "", *_conclusions(by_kind)])


def _shown(arrays: Sequence[np.ndarray], metric: Any, scale: float) -> str:
    interval = significance.bootstrap_interval(*arrays, metric=metric)
    value = float(metric(*(np.asarray(x).sum() for x in arrays)))
    return f"{scale * value:.2f} ({scale * interval.low:.2f}–{scale * interval.high:.2f})"


def _conclusions(by_kind: Mapping[str, list[Cell]]) -> list[str]:
    """Whether the paper's conclusions hold here."""
    claims = [claim for claim in CLAIMS if claim[0] in by_kind and claim[1] in by_kind]
    tests = [
        significance.paired_bootstrap(
            pooled(by_kind[better], _PERPLEXITY), pooled(by_kind[worse], _PERPLEXITY),
            metric=likelihood.perplexity,
        )
        for better, worse, _ in claims
    ]  # fmt: skip
    if not claims:
        return []
    lines = [
        "| the paper's conclusion | models | difference of perplexity | p | here |",
        "|---|---|---|---|---|",
    ]
    for (better, worse, text), test, p in zip(
        claims, tests, significance.holm(np.array([t.p_value for t in tests])), strict=True
    ):
        holds = "not decided" if p >= 0.05 else "holds" if test.difference < 0 else "does not hold"
        lines.append(f"| {text} | {better} − {worse} | {test.difference:+.2f} | {p:.4f} | {holds} |")
    return lines


def read_cells(path: pathlib.Path) -> list[Cell]:
    """The finished cells; a line that a killed process left half written is ignored."""
    cells = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            cells.append(Cell(**json.loads(line)))
        except ValueError:
            continue
    return cells


def run(kinds: Sequence[str], flags: argparse.Namespace) -> None:
    """Pre-trains and fine-tunes what is not finished, one model after the other, and writes their cells."""
    path = flags.out / "cells.jsonl"
    done = {(cell.kind, cell.seed) for cell in read_cells(path)}
    for kind, seed in itertools.product(kinds, range(flags.seeds)):
        if (kind, seed) in done:
            continue
        if kind != "none":
            experiment.run(pretraining(kind, flags.steps), flags.out / _name(kind))
        cell = tuned(kind, flags.tune_steps, seed, flags.out)
        with path.open("ab", buffering=0) as file:  # in one piece: other processes write there, too
            file.write(json.dumps(cell._asdict()).encode() + b"\n")
        shown = _shown(pooled([cell], _PERPLEXITY), likelihood.perplexity, 1)
        print(f"{kind}, seed {seed}: perplexity {shown}", flush=True)


def run_together(kinds: Sequence[str], flags: argparse.Namespace) -> None:
    """`run` of each kind in a process of its own, `flags.jobs` at a time."""
    given = ("steps", "tune_steps", "seeds", "out")
    options = [f"--{name.replace('_', '-')}={getattr(flags, name)}" for name in given]

    def start(kind: str) -> None:
        command = [sys.executable, __file__, *options, f"--only={kind}", "--quiet"]
        subprocess.run(command, env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, check=False)

    with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
        list(pool.map(start, kinds))


def main() -> None:
    """Reads the flags, runs what is not finished, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--tune-steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--quiet", action="store_true", help="a process of --jobs: neither tokenizer nor table"
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/noises"))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--table", action="store_true")
    flags = parser.parse_args()
    if flags.list:
        print("\n".join(KINDS))
        return
    kinds = flags.only.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"unknown {', '.join(sorted(unknown))}; --list prints the names")
    if not (flags.table or flags.quiet):
        (flags.out / _TOKENIZER).mkdir(parents=True, exist_ok=True)  # of all models
        pipeline.prepare(pretraining(_BEST, 1).data).tokenizer.save(flags.out / _TOKENIZER)
    if not flags.table:
        (run if flags.jobs == 1 else run_together)(kinds, flags)
    if not flags.quiet:
        print(table(read_cells(flags.out / "cells.jsonl"), flags.out))


if __name__ == "__main__":
    main()
