"""Recipes: frozen dataclasses, loaded from files, checked, resolved, and kept as JSON in run directories."""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lm_jax import fields, files, recipe_files, user_code
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.models.base import MODELS, ModelConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.ngram import smoothing
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.parallel.sharding import MeshConfig
from lm_jax.tasks.base import TASKS, Task
from lm_jax.tasks.causal import Causal

FORMAT_VERSION = 2
FILE = "config.json"  # in a run directory
AVERAGES = ("none", "ema", "triggered")

_LONGEST_SAMPLE = 100_000  # tokens of the text shown at the end: more would take hours
_SHORT_NUMBER = re.compile("[0-9]{1,6}")
_POSITIVE = (
    "num_steps",
    "batch_size",
    "accumulation",
    "average_patience",
    "eval_every",
    "checkpoint_every",
    "log_every",
)


@dataclass(frozen=True)
class OptimizerConfig:
    """Clips the gradient, scales it as the named optimizer does, adds decoupled weight decay, applies a
    schedule.
    """

    name: str = "adamw"  # adamw, sgd, adagrad, adafactor, lion or muon
    learning_rate: float = 1e-3  # at its peak; adafactor's is a share of each parameter's size; lion: a fifth
    schedule: str = "cosine"  # of the rate after the warm-up: cosine, linear, constant, inverse_sqrt or wsd
    warmup_steps: int = 100  # steps from 0 to learning_rate
    final_ratio: float = 0.1  # the last step's rate over learning_rate, for cosine, linear and wsd
    decay_ratio: float = 0.2  # wsd: the share of the steps, at the end, in which the rate falls
    b1: float = 0.9  # adamw, lion, and muon's AdamW: decay of the first moment
    b2: float = 0.99  # adamw, lion, and muon's AdamW: decay of the second moment
    epsilon: float = 1e-8  # added to the root of the second moment
    momentum: float = 0.9  # sgd and muon: decay of the sum of gradients; 0: none. Muon is used with 0.95
    initial_accumulator: float = 0.1  # adagrad: the sum of squares before the first step
    weight_decay: float = 0.1  # of matrices and embeddings; never of biases and norms
    clip_norm: float = 1.0  # largest global norm of the gradient; 0: no clipping
    backbone_rate: float = 1.0  # of the rate, for the backbone below a task's own head; 0: it is not trained
    layer_decay: float = 1.0  # of the rate, from each layer of the backbone to the one below; 0.8 in ELECTRA

    def check(self) -> None:
        """Raises UserError for an invalid number."""
        for name in ("learning_rate", "epsilon"):
            if not getattr(self, name) > 0:
                raise UserError(f"optimizer.{name}={getattr(self, name)}", "it must be above 0")
        for name in ("warmup_steps", "final_ratio", "initial_accumulator", "weight_decay", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise UserError(f"optimizer.{name}={getattr(self, name)}", "it must be 0 or more")
        for name in ("b1", "b2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optimizer.{name}={getattr(self, name)}", "it must lie in [0, 1)")
        for name in ("decay_ratio", "layer_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"optimizer.{name}={getattr(self, name)}", "it must lie in (0, 1]")
        if not 0 <= self.backbone_rate <= 1:
            raise UserError(f"optimizer.backbone_rate={self.backbone_rate}", "it must lie in [0, 1]")


@dataclass(frozen=True)
class TrainConfig:
    """How long to train, how many rows at once, and how often to validate and save."""

    num_steps: int = 1000  # updates in all
    batch_size: int = 16  # rows of data.sequence_length tokens in a batch, over all devices
    accumulation: int = 1  # parts of a batch, read one after the other: less memory, the same update
    average: str = "none"  # of parameters, to evaluate with: none, ema, or triggered by validation (AWD-LSTM)
    average_decay: float = 0.999  # ema: the weight of the average against the newest parameters
    average_patience: int = 5  # triggered: validations without a new best before averaging begins
    eval_every: int = 250  # steps between validations; also at the end
    checkpoint_every: int = 250  # steps between checkpoints; also saved at each validation
    keep: str = "0"  # checkpoints kept beside the best and the latest: so many, evenly spaced, or all
    log_every: int = 10  # steps between lines of metrics.jsonl
    tensorboard: bool = False  # write event files in addition to metrics.jsonl
    loggers: tuple[str, ...] = ()  # further ones of lm_jax.loggers.LOGGERS; see examples/loggers.py
    seed: int = 0  # of parameters, order of data and dropout
    sample_tokens: int = 80  # tokens of the text shown at the end; 0: none

    def check(self) -> None:
        """Raises UserError for a value that no run can use."""
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise UserError(f"train.{name}={getattr(self, name)}", "it must be 1 or more")
        for name in ("seed", "sample_tokens"):
            if getattr(self, name) < 0:
                raise UserError(f"train.{name}={getattr(self, name)}", "it must be 0 or more")
        for name in ("num_steps", "average_patience"):  # counted on the device, as int32
            if getattr(self, name) >= 2**31:
                raise UserError(f"train.{name}={getattr(self, name)}", "it must be below 2**31")
        _check_sample(self.sample_tokens, "train.sample_tokens")
        if self.keep != "all" and not _SHORT_NUMBER.fullmatch(self.keep):
            raise UserError(f"train.keep={self.keep!r}", "give a number of checkpoints, or all")
        if self.average not in AVERAGES:
            raise UserError(f"train.average={self.average!r}", f"choose one of {', '.join(AVERAGES)}")
        if not 0 <= self.average_decay < 1:
            raise UserError(f"train.average_decay={self.average_decay}", "it must lie in [0, 1)")
        if self.batch_size % self.accumulation:
            raise UserError(
                f"train.batch_size={self.batch_size} does not divide into "
                f"train.accumulation={self.accumulation} parts",
                "make it a multiple",
            )


@dataclass(frozen=True)
class Config:
    """A recipe for a trained model: all settings that determine its results, and how often to validate."""

    is_trained: ClassVar[bool] = True

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = fields.choice(MODELS, GPTConfig)  # noqa: RUF009 (a dataclass field)
    task: Task = fields.choice(TASKS, Causal)  # noqa: RUF009
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    init_from: str = ""  # a run directory, or hf:NAME, whose parameters to start from

    def check(self) -> None:
        """Raises UserError for an invalid value, or parts that do not fit each other."""
        for part in (self.data, self.model, self.optimizer, self.train, self.mesh):
            part.check()
        self.task.check(self.model, self.data)

    def resolved(self, vocab_size: int, classes: Mapping[str, Sequence[str]] | None = None) -> "Config":
        """The config with the sizes that come from the tokenizer and the data; errors as the model's.

        Args:
            vocab_size: number of tokens that the tokenizer has.
            classes: see `Task.resolved`.
        """
        return dataclasses.replace(
            self,
            model=self.model.resolved(vocab_size, self.data.sequence_length),
            task=self.task.resolved(classes or {}),
        )

    @property
    def seed(self) -> int:
        """The seed of a run."""
        return self.train.seed

    @property
    def sample_tokens(self) -> int:
        """Tokens of the text shown at the end."""
        return self.train.sample_tokens

    def with_seed(self, seed: int) -> "Config":
        """The recipe with another seed, and without the text that is shown at the end."""
        return dataclasses.replace(self, train=dataclasses.replace(self.train, seed=seed, sample_tokens=0))


@dataclass(frozen=True)
class CountConfig:
    """A recipe for an n-gram model, or one for each class of texts; they are counted and not trained."""

    is_trained: ClassVar[bool] = False

    data: DataConfig = field(default_factory=DataConfig)
    model: NGramConfig = field(default_factory=NGramConfig)
    label: str = ""  # the field with the class of a text, to classify by a model of each class; "": one model
    seed: int = 0  # of the text shown at the end
    sample_tokens: int = 80  # tokens of that text; 0: none

    def check(self) -> None:
        """Raises UserError for a value that no run can use."""
        self.data.check()
        smoothing.check(self.model)
        for name in ("seed", "sample_tokens"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)}", "it must be 0 or more")
        _check_sample(self.sample_tokens, "sample_tokens")

    def with_seed(self, seed: int) -> "CountConfig":
        """The recipe with another seed, and without the text that is shown at the end."""
        return dataclasses.replace(self, seed=seed, sample_tokens=0)


def _check_sample(num_tokens: int, name: str) -> None:
    if num_tokens > _LONGEST_SAMPLE:
        raise UserError(f"{name}={num_tokens}", f"it must be {_LONGEST_SAMPLE:,} at most")


AnyConfig = Config | CountConfig


def load(spec: str) -> tuple[str, AnyConfig]:
    """Reads a recipe.

    Args:
        spec: "PATH.py" or "PATH.py:VARIANT"; the file defines `get_config(variant="")`. Or, in place of the
            path, the name of one of this package's recipes, such as "gpt".

    Returns:
        The recipe's name ("gpt", or "gpt-VARIANT") and its config.

    Raises:
        UserError: no such file or variant, or a file that is not a recipe.
    """
    text, _, variant = spec.partition(":")
    path = recipe_files.find(text)
    recipe = user_code.import_file(path)
    if not callable(getattr(recipe, "get_config", None)):
        raise UserError(f"{path} defines no get_config(variant)", "let it return a lm_jax.config.Config")
    with user_code.blamed(f"get_config in {path} fails"):
        config = recipe.get_config(variant)
    if not isinstance(config, AnyConfig):
        raise UserError(
            f"get_config in {path} returns a {type(config).__name__}", "let it return a lm_jax.config.Config"
        )
    return path.stem + (f"-{variant}" if variant else ""), config


def unknown_variant(variant: str, known: list[str]) -> UserError:
    """The error a recipe raises for a variant that it does not have."""
    return UserError(f"no variant {variant!r} of this recipe", f"choose one of {', '.join(map(repr, known))}")


def to_json(config: AnyConfig) -> str:
    """The config as JSON text, with its format version; `model` and `task` are tagged by their names.

    Raises:
        UserError: a number that is NaN or infinite, which JSON does not have.
    """
    values = fields.as_values(config)
    if isinstance(config, CountConfig):
        values["model"] = {"name": config.model.family, **values["model"]}
    try:
        return json.dumps({"format_version": FORMAT_VERSION, **values}, indent=2, allow_nan=False) + "\n"
    except ValueError:
        named = [
            f"{n}={v}" for n, v in fields.flatten(config) if isinstance(v, float) and not math.isfinite(v)
        ]
        raise UserError(f"{', '.join(named)} is not a finite number", "give a finite number") from None


def from_json(text: str, source: str = FILE) -> AnyConfig:
    """Reads what `to_json` wrote, now or in format 1.

    Args:
        text: JSON.
        source: the file's name, for errors.

    Raises:
        UserError: not JSON, another format version, an unknown name or field, or a value of another type.
    """
    values = _current(files.parse_json(text, source), source)
    if _model_name(values, source) == NGramConfig.family:
        values["model"].pop("name")
        return fields.from_values(CountConfig(), values, source=source)
    return fields.from_values(Config(), values, source=source)


def read(directory: pathlib.Path) -> AnyConfig:
    """The recipe of a run directory; errors as for `from_json`."""
    path = directory / FILE
    return from_json(files.read_text(path), str(path))


class RunParts:
    """The parts of a run's config.json that its finished model needs, without the optimizer and the like.

    Attributes:
        format_version: of the directory's files.
        data: how its text was read.
        model: the model's config, not resolved.
        task: the training task; None for an n-gram model.
        label: the field with the class of a text, of n-gram models of classes; "" for others.
        mesh: the devices it was trained on.
    """

    def __init__(self, directory: pathlib.Path):
        path = str(directory / FILE)
        raw = files.parse_json(files.read_text(directory / FILE), path)
        values = _current(raw, path)
        self.format_version: int = raw["format_version"]
        is_counted = _model_name(values, path) == NGramConfig.family
        self.data: DataConfig = fields.from_values(DataConfig(), values.get("data", {}), "data.", path)
        self.model: Any = (
            NGramConfig() if is_counted else fields.tagged(MODELS, values["model"], "model", path)
        )
        self.label: str = str(values.get("label", "")) if is_counted else ""
        self.mesh: MeshConfig = fields.from_values(MeshConfig(), values.get("mesh", {}), "mesh.", path)
        self.task: Task | None = (
            None if is_counted else fields.tagged(TASKS, values.get("task"), "task", path)
        )
        try:
            self.data.check()
            self.mesh.check()
            if self.task is not None:
                model: Any = self.model
                model.check()
                self.task.check(model, self.data)
        except UserError as error:
            raise UserError(f"{path}: {error.cause}", error.remedy) from None


def _current(values: Any, source: str) -> dict[str, Any]:
    """The fields of a config.json in the current format."""
    if not isinstance(values, dict):
        raise UserError(f"{source} is not a JSON object", "restore the file")
    version = values.get("format_version")
    if version not in (1, FORMAT_VERSION):
        raise UserError(
            f"{source} is of format {version!r}",
            f"this version of lm_jax reads formats 1 and {FORMAT_VERSION}",
        )
    values = {key: value for key, value in values.items() if key != "format_version"}
    if version == 1:  # the model's name was separate, and a task was called an objective
        family = values.pop("family", None)
        if isinstance(values.get("model"), dict):
            values["model"] = {"name": family, **values["model"]}
        if "objective" in values:
            values["task"] = values.pop("objective")
    return values


def _model_name(values: dict[str, Any], source: str) -> Any:
    if not isinstance(values.get("model"), dict):
        raise UserError(f"{source} has no model", "restore the file")
    values["model"] = dict(values["model"])
    return values["model"].get("name")


# Fields that a resumed run may always change: reporting, and the devices.
_FREE_ON_RESUME = (
    "train.checkpoint_every",
    "train.keep",
    "train.log_every",
    "train.tensorboard",
    "train.loggers",
    "train.sample_tokens",
    "sample_tokens",
    "mesh",
)


def differences(old: AnyConfig, new: AnyConfig) -> list[str]:
    """Names of the fields, with both values, that change what a resumed run computes.

    How often a run validates is free although it decides which checkpoints can be the best one.
    """
    old_values, new_values = dict(fields.flatten(old)), dict(fields.flatten(new))
    names = [n for n in old_values | new_values if not n.startswith(_FREE_ON_RESUME)]
    missing, found = object(), []
    for name in names:
        there, here = old_values.get(name, missing), new_values.get(name, missing)
        if there != here and (reason := _reason_to_refuse(name, old, new)) is not None:
            because = f", {reason}" if reason else ""
            there, here = ("absent" if value is missing else repr(value) for value in (there, here))
            found.append(f"{name} ({there} there, {here} here{because})")
    return found


def _reason_to_refuse(name: str, old: AnyConfig, new: AnyConfig) -> str | None:
    """Why a resumed run may not change a field, "" if that is obvious; None if it may."""
    if not isinstance(old, Config) or not isinstance(new, Config):
        return ""
    averages_late = old.train.average == "triggered"
    if name == "train.num_steps":
        if averages_late:  # the last step is validated, too
            return "which decides when averaging begins"
        if min(old.train.num_steps, new.train.num_steps) < old.optimizer.warmup_steps:
            return "which decides the warm-up"
        independent = old.optimizer.schedule in ("constant", "inverse_sqrt")
        return None if independent else f"which decides the {old.optimizer.schedule} schedule"
    if name == "train.eval_every":
        return "which decides when averaging begins" if averages_late else None
    if name == "train.accumulation":
        return "which decides what is dropped" if old.model.uses_dropout else None
    return ""
