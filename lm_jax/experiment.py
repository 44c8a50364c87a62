"""One experiment: a recipe becomes a run directory that is whole."""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from lm_jax import config as config_module
from lm_jax import files
from lm_jax.checkpoint import Checkpoints
from lm_jax.config import AnyConfig, Config, CountConfig
from lm_jax.data import pipeline
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation.row import Row, read_rows, write_rows
from lm_jax.evaluation.texts import read_held_out
from lm_jax.language_models import load as language_model
from lm_jax.language_models import ngram
from lm_jax.language_models.base import Generates
from lm_jax.language_models.causal import NeuralLanguageModel
from lm_jax.language_models.options import Options
from lm_jax.models.gpt import GPTConfig, convert_layers
from lm_jax.parallel.distributed import check_agreement, is_writer
from lm_jax.progress import Reporter
from lm_jax.training import loop

# Fields of a GPT that decide how it is computed and trained, and not what its parameters are.
_FREE_ON_INIT = ("dropout", "dtype", "attention", "scan_layers", "remat")


def override(config: AnyConfig, values: Mapping[str, str]) -> AnyConfig:
    """`config.override`, where a recipe that starts from `init_from` has the shape of the model there.

    Fields of the model that `values` names are set after that, and so checked against it.
    """
    source = values.get("init_from") or getattr(config, "init_from", "")
    if source and isinstance(config, Config):
        model = language_model.read_model_config(source)
        if type(model) is type(config.model):
            config = dataclasses.replace(config, model=model)
    return config_module.override(config, values)


def run(config: AnyConfig, workdir: pathlib.Path | str) -> list[Row]:
    """Trains by the recipe, or goes on where a run of it stopped, then evaluates the best checkpoint.

    Args:
        config: the recipe.
        workdir: the run directory. Afterwards it holds config.json, tokenizer/, data.json (where the text
            comes from), valid.jsonl and test.jsonl (the held-out text), metrics.jsonl, checkpoints/,
            results.json and sample.txt.

    Returns:
        A row for each held-out part; none where a signal stopped the training early.

    Raises:
        UserError: a recipe or a directory that cannot be used, or a run that went wrong.
    """
    workdir = pathlib.Path(workdir)
    config_module.check(config)
    _check_same_recipe(config, workdir)
    if is_finished(config, workdir):
        return read_rows(workdir / "results.json")
    workdir.mkdir(parents=True, exist_ok=True)
    with _locked(workdir):
        if isinstance(config, CountConfig):
            _count(config, workdir)
        elif not _train(config, workdir):
            return []
        return _evaluate(config, workdir)


def is_finished(config: AnyConfig, workdir: pathlib.Path) -> bool:
    """Whether the directory holds the results of a run of at least the recipe's steps."""
    if not (workdir / "results.json").exists():
        return False
    if isinstance(config, CountConfig):
        return True
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return (checkpoints.latest_step() or 0) >= config.train.num_steps


def _check_same_recipe(config: AnyConfig, workdir: pathlib.Path) -> None:
    path = workdir / "config.json"
    if path.exists():
        changed = config_module.differences(config_module.from_json(path.read_text(encoding="utf-8")), config)
        if changed:
            raise UserError(
                f"{workdir} holds a run of another config: {'; '.join(changed)}",
                "give another --workdir, or the same config to go on",
            )
    elif workdir.exists() and any(not p.name.startswith(".") for p in workdir.iterdir()):
        raise UserError(f"{workdir} is not empty and holds no run", "give another --workdir")


@contextlib.contextmanager
def _locked(workdir: pathlib.Path) -> Iterator[None]:
    if not is_writer():  # the writer's lock stands for all of this run's processes
        yield
        return
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process trains in {workdir}", "wait for it, or give another --workdir"
            ) from None
        yield


def _train(config: Config, workdir: pathlib.Path) -> bool:
    """Trains to the end; False where a signal came first."""
    data, resolved = _prepare(config)
    check_agreement(config_module.to_json(resolved), "the recipe")
    check_agreement(json.dumps([data.provenance["sha256"], data.tokenizer.fingerprint()]), "the text")
    trainer = loop.Trainer(resolved)
    start = _initial_params(resolved)
    # Nothing was written so far: a recipe that cannot run leaves its directory free for another.
    _write_facts(config, data, workdir)
    return loop.fit(trainer, data, workdir, start)


def _prepare(config: Config) -> tuple[pipeline.Data, Config]:
    """The corpus of a recipe as tokens, and the recipe resolved by it."""
    data_config = config.data
    if config.init_from:  # what was learned is about that run's tokens
        tokenizer = str(language_model.tokenizer_path(config.init_from))
        data_config = dataclasses.replace(data_config, tokenizer=tokenizer)
    with Reporter() as report:
        data = pipeline.prepare(data_config, progress=report)
    return data, config_module.resolve(config, data.tokenizer.vocab_size)


def _count(config: CountConfig, workdir: pathlib.Path) -> None:
    """Counts and smooths."""
    with Reporter() as report:
        data = pipeline.prepare(config.data, progress=report)
        model = ngram.fit(config.model, data, report)
    _write_facts(config, data, workdir)
    model.save(workdir / language_model.NGRAM_FILE)


def _write_facts(config: AnyConfig, data: pipeline.Data, workdir: pathlib.Path) -> None:
    """What evaluation needs beside the parameters: recipe, tokenizer, held-out texts and where they are from.

    Raises:
        UserError: the directory's run was trained on another text.
    """
    path = workdir / "data.json"
    if path.exists() and files.read_json(path) != data.provenance:
        raise UserError(
            f"the text of {config.data.corpus} is no longer what {workdir} was trained on",
            "restore it (or the Python version it came with), or give another --workdir",
        )
    if not is_writer():
        return
    files.write_text(workdir / "config.json", config_module.to_json(config))
    data.tokenizer.save(workdir / "tokenizer")
    for name, split in data.splits.items():
        if name != "train":
            lines = [json.dumps(d._asdict(), ensure_ascii=False) + "\n" for d in split.documents()]
            files.write_text(workdir / f"{name}.jsonl", "".join(lines))
    files.write_json(path, data.provenance)


def _initial_params(config: Config) -> Any:
    """The parameters in `init_from`, laid out as the recipe's layers are; None where it names nothing."""
    if not config.init_from:
        return None
    source = language_model.load(config.init_from)
    if not isinstance(source, NeuralLanguageModel):
        raise UserError(f"init_from={config.init_from} is an n-gram model", "give the run of a neural one")
    free = {n: getattr(config.model, n) for n in _FREE_ON_INIT if hasattr(source.config.model, n)}
    there = dataclasses.replace(source.config, model=dataclasses.replace(source.config.model, **free))
    if there.model != config.model:
        changed = config_module.differences(there, config)
        named = "; ".join(c for c in changed if c.startswith("model."))
        raise UserError(
            f"init_from={config.init_from} is a model of another shape: {named}",
            "set these fields to the values there",
        )
    if isinstance(config.model, GPTConfig):
        return convert_layers(source.params, config.model.scan_layers)
    return source.params


def _evaluate(config: AnyConfig, workdir: pathlib.Path) -> list[Row]:
    """Scores the held-out parts with the best checkpoint, and shows what it writes.

    Of several processes each does so for itself, since none could wait so long for another; one writes.
    """
    model = language_model.load(workdir)
    rows = []
    with Reporter() as report:
        for split in ("valid", "test"):
            if (workdir / f"{split}.jsonl").exists():
                text = read_held_out(workdir, split)
                rows.append(evaluation.evaluate(model, text, str(workdir), report=report).row)
    settings = config if isinstance(config, CountConfig) else config.train
    if settings.sample_tokens and isinstance(model, Generates):
        options: Options = {"temperature": 0.8, "top_k": 50, "seed": settings.seed}
        options["min_tokens"] = settings.sample_tokens // 4  # a text may end at once, and would show nothing
        [sample] = model.generate([""], settings.sample_tokens, **options)
        if is_writer():
            files.write_text(workdir / "sample.txt", sample.text + "\n")
    if is_writer():
        write_rows(workdir / "results.json", rows)
    return rows
