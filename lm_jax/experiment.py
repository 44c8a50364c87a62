"""One experiment: a recipe becomes a run directory that holds all that evaluation needs."""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import math
import os
import pathlib
import shlex
from collections.abc import Iterator, Mapping
from typing import IO, Any

from lm_jax import config as config_module
from lm_jax import fields, files, seal
from lm_jax.checkpoint import Checkpoints
from lm_jax.config import FILE, AnyConfig, Config, CountConfig
from lm_jax.data import pipeline, provenance
from lm_jax.data.documents import NO_FIELDS, Fields
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation.row import Row, read_rows, write_rows
from lm_jax.evaluation.sizes import add_sizes
from lm_jax.evaluation.texts import read_held_out
from lm_jax.language_models import load as language_model
from lm_jax.language_models import ngram, ngram_classes
from lm_jax.language_models.base import Generates, ScoresTargets
from lm_jax.language_models.options import Options
from lm_jax.loggers import LOGGERS
from lm_jax.models.base import MODELS, ModelConfig, num_parameters
from lm_jax.ngram import spelling
from lm_jax.parallel.distributed import check_agreement, is_writer, together
from lm_jax.progress import Reporter, say
from lm_jax.tasks.base import TASKS, Task
from lm_jax.tasks.causal import Causal
from lm_jax.text.simple import WordTokenizer
from lm_jax.training import budget, loop, optimizers
from lm_jax.training.graft import graft

_TOKENIZER = "tokenizer"  # in a run directory


def override(config: AnyConfig, values: Mapping[str, str], workdir: pathlib.Path | None = None) -> AnyConfig:
    """`fields.override`; a recipe that starts from `init_from` takes the model config from there.

    Of that model's fields the recipe may set those that leave parameters as they are, such as dropout; it
    sets those that it gives another value than the default. Fields of the model that `values` names are set
    after that. Rows are no longer than that model's context unless `values` sets their length, and a model
    that the default task cannot train, such as a BERT, is trained by its own. Where that model reads words by
    their characters, and the task labels texts or words, the tokens are all words of the training part.

    Args:
        config: the recipe.
        values: dotted field name -> text.
        workdir: the run directory. If it holds a run, the model config is read there, and the source may be
            gone.

    Raises:
        UserError: an unknown field or value, or no model in `init_from`.
    """
    source = values.get("init_from", getattr(config, "init_from", ""))
    if source and isinstance(config, Config):
        config = dataclasses.replace(config, model=_model_of(source, config.model, workdir))
        if not any(name.partition(".")[0] == "task" for name in values):
            config = dataclasses.replace(config, task=_task_for(config, source, workdir))
    config = fields.override(config, values)
    if source and isinstance(config, Config) and "data.sequence_length" not in values:
        longest = min(config.data.sequence_length, config.model.context_length or math.inf)
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, sequence_length=int(longest))
        )
    if source and isinstance(config, Config) and _reads_any_word(config):
        words = dataclasses.replace(config.data, tokenizer="word", vocab_size=0, min_count=0)
        config = dataclasses.replace(config, data=words)
    return config


def _reads_any_word(config: Config) -> bool:
    """Whether the model's parameters do not depend on a vocabulary, so that a corpus may have its own."""
    return config.model.spells and not config.task.predicts_tokens


def _task_for(config: Config, source: str, workdir: pathlib.Path | None) -> Task:
    """The recipe's task; where that is the default one, and the model does not read left to right, the
    source's.
    """
    if config.task != Causal() or config.model.reads == "left to right":
        return config.task
    for directory in filter(None, (pathlib.Path(source), workdir)):
        if (directory / FILE).is_file() and (task := config_module.RunParts(directory).task):
            return task
    return config.task


def _model_of(source: str, recipe: ModelConfig, workdir: pathlib.Path | None) -> ModelConfig:
    """The model config of the source of a fine-tuning, with the recipe's own free fields."""
    try:
        there = language_model.read_model_config(source)
    except UserError:
        if workdir is None or not (workdir / FILE).is_file():
            raise
        there = config_module.RunParts(workdir).model
    if not isinstance(there, ModelConfig):
        raise UserError(
            f"init_from={source} is a model of the family {there.family}", "give a model that is trained"
        )
    default = type(recipe)()
    own = {name: value for name, value in vars(recipe).items() if value != getattr(default, name)}
    return dataclasses.replace(there, **{n: v for n, v in own.items() if n in there.free()})


def check(config: AnyConfig) -> None:
    """Raises UserError for the first invalid value of a recipe."""
    fields.check(config)
    config.check()
    if isinstance(config, Config):
        MODELS.check(config.model)
        TASKS.check(config.task)
        optimizers.check(config.optimizer)
        for name in config.train.loggers:
            LOGGERS.get(name)
        budget.check_shape(config)


def check_start(config: AnyConfig, workdir: pathlib.Path) -> None:
    """Checks a recipe and its directory before anything is read or written.

    Raises:
        UserError: an invalid value, a name that checkpoints cannot have, or a directory with a run of another
            recipe, with a damaged one, or with other files.
    """
    check(config)
    _check_name(config, workdir)
    seal.check(workdir, FILE)
    _check_same_recipe(config, workdir)


def run(config: AnyConfig, workdir: pathlib.Path | str) -> list[Row]:
    """Trains by the recipe, or resumes a stopped run of it, then evaluates the best checkpoint.

    Args:
        config: the recipe.
        workdir: the run directory. Afterwards it holds config.json, tokenizer/, spelling/ (where tokens are
            words: what gives their bytes a probability), data.json (the source of the text), valid.jsonl and
            test.jsonl (the held-out text), metrics.jsonl, checkpoints/, results.json and sample.txt.

    Returns:
        A row for each held-out part; no rows if SIGTERM stopped the training early.

    Raises:
        KeyboardInterrupt: Ctrl-C stopped the training early; the state is saved.
        UserError: a recipe or a directory that cannot be used, a damaged file in it, or a run that failed.
    """
    workdir = pathlib.Path(workdir)
    with together():
        check_start(config, workdir)
        seal.check(workdir)
        if rows := read_rows(workdir / "results.json") if is_finished(config, workdir) else []:
            _tidy(workdir)
            return rows
        _check_can_resume(workdir)
        if isinstance(config, Config):
            budget.check(config)  # before the text is read
        workdir.mkdir(parents=True, exist_ok=True)
    with _locked(workdir):
        if is_writer():
            files.tidy(workdir)
        if isinstance(config, CountConfig):
            _count(config, workdir)
        elif not _train(config, workdir):
            return []
        return _evaluate(config, workdir)


def _tidy(workdir: pathlib.Path) -> None:
    """Removes what a killed process left in a finished run, unless another process is there."""
    if is_writer() and any(workdir.glob(f".*{files.TEMPORARY}")):
        with contextlib.suppress(UserError, OSError), (workdir / ".lock").open("w") as file:
            _lock(file, workdir)
            files.tidy(workdir)


def is_finished(config: AnyConfig, workdir: pathlib.Path) -> bool:
    """Whether the directory holds the results of a run of at least the recipe's steps."""
    if not (workdir / "results.json").exists():
        return False
    if isinstance(config, CountConfig):
        return True
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return (checkpoints.latest_step() or 0) >= config.train.num_steps


def _check_name(config: AnyConfig, workdir: pathlib.Path) -> None:
    """Raises UserError for a name that checkpoints cannot have: Orbax passes it on as UTF-8."""
    try:
        str(workdir.absolute()).encode()
    except UnicodeEncodeError:
        if isinstance(config, Config):
            name = os.fsencode(workdir).decode(errors="backslashreplace")
            raise UserError(
                f"{name} is not UTF-8, as the directory of a trained model must be", "give another --workdir"
            ) from None


def _check_same_recipe(config: AnyConfig, workdir: pathlib.Path) -> None:
    if (workdir / FILE).exists():
        changed = config_module.differences(config_module.read(workdir), config)
        if changed:
            raise UserError(
                f"{workdir} holds a run of another config: {'; '.join(changed)}",
                f"give another directory, --workdir={_free(workdir)}, or the same config to resume",
            )
    elif workdir.exists() and any(_is_foreign(path.name) for path in workdir.iterdir()):
        raise UserError(f"{workdir} is not empty and holds no run", f"give --workdir={_free(workdir)}")


def _free(workdir: pathlib.Path) -> str:
    """The name of a directory beside this one that does not exist, as a shell reads it."""
    numbered = (workdir.with_name(f"{workdir.name}-{number}") for number in itertools.count(2))
    return shlex.quote(str(next(path for path in numbered if not path.exists())))


def _is_foreign(name: str) -> bool:
    """Whether a file without a config.json beside it is not of a run that was killed at its start."""
    return not name.startswith(".") and name != seal.FILE


def _check_can_resume(workdir: pathlib.Path) -> None:
    """Raises UserError for an unfinished run of format 1, whose optimizer states have another layout."""
    if (workdir / FILE).exists() and config_module.RunParts(workdir).format_version == 1:
        raise UserError(
            f"{workdir} holds an unfinished run of an older version of lm_jax, which cannot be resumed",
            f"train from its parameters: --config.init_from={workdir} and another --workdir",
        )


@contextlib.contextmanager
def _locked(workdir: pathlib.Path) -> Iterator[None]:
    """Locks the directory; the writer's lock stands for all processes of a run."""
    with contextlib.ExitStack() as stack:
        with together():
            if is_writer():
                _lock(stack.enter_context((workdir / ".lock").open("w")), workdir)
        yield


def _lock(file: IO[str], workdir: pathlib.Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another process trains in {workdir}", "wait for it, or give another --workdir"
        ) from None


def _train(config: Config, workdir: pathlib.Path) -> bool:
    """Trains to the end; False if a signal stopped it."""
    with together():
        data, resolved = _prepare(config, workdir)
    check_agreement(config_module.to_json(resolved), "the recipe")
    check_agreement(json.dumps([data.provenance["sha256"], data.tokenizer.fingerprint()]), "the text")
    budget.check(resolved)
    trainer = loop.Trainer(resolved)
    is_new = _is_new(workdir)
    with together():
        trainer.held_out(data)  # that a part cannot be validated on is noticed before the first step
        start = _initial_params(resolved) if config.init_from and is_new else None
    _say_start(data, workdir, _devices(trainer), _num_weights(trainer))
    # Nothing is written before: after an error the directory can be used by another recipe.
    with together():
        _write_facts(config, data, workdir)
    return loop.fit(trainer, data, workdir, start)


def _prepare(config: Config, workdir: pathlib.Path) -> tuple[pipeline.Data, Config]:
    """The corpus of a recipe as tokens, and the recipe resolved by it."""
    data_config = config.data
    kept = workdir / _TOKENIZER  # so that a stopped run can resume without its source
    if config.init_from and not _reads_any_word(config):  # parameters belong to their tokenizer's tokens
        tokenizer = kept if kept.exists() else language_model.tokenizer_path(config.init_from)
        data_config = dataclasses.replace(data_config, tokenizer=str(tokenizer))
    with Reporter() as report:
        data = pipeline.prepare(data_config, config.task.fields(), progress=report)
    _say_split(config, data)
    return data, config.resolved(data.tokenizer.vocab_size, data.classes)


def _say_split(config: AnyConfig, data: pipeline.Data) -> None:
    """Says that the text is split in another way than the recipe says."""
    taken = data.provenance["split"]
    if taken != config.data.split and is_writer():
        say(
            f"{config.data.corpus} has too few documents for data.split={config.data.split}: its end is held "
            f"out instead, as by data.split={taken}"
        )


def _say_start(data: pipeline.Data, workdir: pathlib.Path, *sizes: str) -> None:
    """One line at the start of a run: its devices, its size, its text, and where it writes."""
    train = data.splits["train"]
    text = f"training text: {train.num_documents:,} documents, {train.num_tokens:,} tokens"
    if is_writer():
        say("; ".join((*sizes, text, f"writes to {workdir}")))


def _devices(trainer: loop.Trainer) -> str:
    """The kind and the number of the devices that train."""
    devices = trainer.mesh.devices.flat
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"


def _num_weights(trainer: loop.Trainer) -> str:
    """The number of the parameters."""
    return f"{num_parameters(trainer.program.state.params):,} parameters"


def _count(config: CountConfig, workdir: pathlib.Path) -> None:
    """Counts n-grams and smooths them; of each class where the recipe names a label."""
    with together():
        with Reporter() as report:
            read = Fields(labels=(config.label,)) if config.label else NO_FIELDS
            data = pipeline.prepare(config.data, read, progress=report)
            _say_split(config, data)
            _say_start(data, workdir)
            if config.label:
                classes = ngram_classes.fit(config.model, data, config.label, report)
            else:
                model = ngram.fit(config.model, data, report)
        _write_facts(config, data, workdir)
        if is_writer():
            with seal.staged(workdir) as stage:
                if config.label:
                    classes.save(stage)
                else:
                    model.save(stage / language_model.NGRAM_FILE)


def _write_facts(config: AnyConfig, data: pipeline.Data, workdir: pathlib.Path) -> None:
    """Writes what evaluation needs besides the parameters: recipe, tokenizer, held-out texts and their
    source.

    Raises:
        UserError: the directory's run was trained on another text.
    """
    path = workdir / provenance.FILE
    if path.exists() and files.read_json(path) != data.provenance:
        raise UserError(
            f"the text of {config.data.corpus} is no longer what {workdir} was trained on",
            "restore it (or the Python version it came with), or give another --workdir",
        )
    if not is_writer():
        return
    speller = None if (workdir / language_model.SPELLING).is_dir() else _fit_speller(config, data)
    with seal.staged(workdir) as stage:
        files.write_text(stage / FILE, config_module.to_json(config))
        data.tokenizer.save(stage / _TOKENIZER)
        if speller is not None:
            speller.save(stage / language_model.SPELLING)
        for name, split in data.splits.items():
            if name != "train":
                lines = [files.dump_json(d._asdict()) + "\n" for d in split.documents()]
                files.write_text(stage / f"{name}.jsonl", "".join(lines))
        files.write_json(stage / provenance.FILE, data.provenance)


def _fit_speller(config: AnyConfig, data: pipeline.Data) -> spelling.Speller | None:
    """What makes a model of words one of strings; None where it has other tokens, or scores no texts."""
    if isinstance(config, CountConfig):
        scores = not config.label
    else:
        scores = config.task.adapter in ("causal", "bidirectional")
    if not scores or not isinstance(data.tokenizer, WordTokenizer):
        return None
    with Reporter() as report:
        texts = (document.text for document in data.splits["train"].documents())
        return spelling.fit(data.tokenizer, texts, report)


def _is_new(workdir: pathlib.Path) -> bool:
    """Whether there is no checkpoint to resume from."""
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.latest_step() is None


def _initial_params(config: Config) -> Any:
    """The parameters in `init_from`, in the layout of the recipe's model, with the task's own head.

    A model with a head keeps the source's only if the source was trained by a task with the same parameters
    and the same classes.
    """
    source: Any = language_model.load(config.init_from)
    there: Any = getattr(source, "config", None)
    if not isinstance(there, ModelConfig):
        raise UserError(
            f"init_from={config.init_from} is a model of the family {source.family}",
            "give a model that is trained",
        )
    free = {name: getattr(config.model, name) for name in there.free() if hasattr(config.model, name)}
    if dataclasses.replace(there, **free) != config.model:
        changed = dict(fields.flatten(dataclasses.replace(there, **free)))
        ours = dict(fields.flatten(config.model))
        named = [
            f"model.{n} ({changed.get(n)!r} there, {v!r} here)"
            for n, v in ours.items()
            if changed.get(n) != v
        ]
        raise UserError(
            f"init_from={config.init_from} is a model of another shape: {'; '.join(named) or there.family}",
            "set these fields to the values there",
        )
    same_labels = getattr(source, "classes", ()) == getattr(config.task, "classes", ())
    return graft(config, config.model.convert(source.params), config.init_from, same_labels)


def _evaluate(config: AnyConfig, workdir: pathlib.Path) -> list[Row]:
    """Scores the held-out parts with the best checkpoint, and shows what it writes.

    Of several processes each scores a share of the documents; one writes.
    """
    with together():
        if config.is_trained and is_writer():
            seal.update(workdir / loop.METRICS)  # nothing is appended any more
        model = language_model.load(workdir)
        parts = [split for split in ("valid", "test") if seal.exists(workdir / f"{split}.jsonl")]
        texts = [read_held_out(workdir, split) for split in parts]
    with Reporter() as report:
        evaluations = [evaluation.evaluate(model, text, str(workdir), report=report) for text in texts]
    rows = [one.row for one in evaluations]
    for row in rows:
        add_sizes(row, model, workdir)
    if config.sample_tokens and isinstance(model, Generates):
        generated = [one.texts for one in evaluations if one.texts is not None]
        if generated:
            sample = _examples(generated[0])
        else:
            sample = "" if isinstance(model, ScoresTargets) else _sample(model, config)
        if is_writer() and sample:
            with seal.staged(workdir, optional=["sample.txt"]) as stage:
                files.write_text(stage / "sample.txt", sample + "\n")
    if is_writer():
        with seal.staged(workdir, optional=["results.json"]) as stage:
            write_rows(stage / "results.json", rows)
    return rows


def _examples(texts: evaluation.Texts) -> str:
    """The first texts that a model of sources and targets has written."""
    shown = list(zip(*texts, strict=True))[:3]
    return "\n\n".join(
        f"source:    {source}\nreference: {reference}\ngenerated: {hypothesis}"
        for source, reference, hypothesis in shown
    )


def _sample(model: Generates, config: AnyConfig) -> str:
    """The text that is shown at the end; empty where after n-grams only unknown words can follow."""
    options: Options = {"temperature": 0.8, "top_k": 50, "seed": config.seed}
    options["min_tokens"] = config.sample_tokens // 4  # otherwise the model may end the text immediately
    try:
        return model.generate([""], config.sample_tokens, **options)[0].text
    except UserError:
        if not isinstance(config, CountConfig):
            raise
    options["min_tokens"] = 0  # without smoothing, the end may be all that can follow
    try:
        return model.generate([""], config.sample_tokens, **options)[0].text
    except UserError:
        return ""
