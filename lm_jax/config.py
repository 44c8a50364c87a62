"""Recipes: frozen dataclasses, loaded from `configs/`, overridden by name, checked once, kept as JSON."""

import dataclasses
import difflib
import inspect
import io
import json
import pathlib
import runpy
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn

from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.models.gpt import GPT, GPTConfig
from lm_jax.models.nnlm import NNLM, NNLMConfig
from lm_jax.models.rnn import RNN, RNNConfig
from lm_jax.ngram import smoothing
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.parallel.sharding import MeshConfig
from lm_jax.tasks import causal as objectives
from lm_jax.training import averaging
from lm_jax.training.optimizers import OptimizerConfig

FORMAT_VERSION = 1

# What a JSON file's "family" and "objective" may name; and which module a family's config makes.
MODELS: dict[type, type[nn.Module]] = {GPTConfig: GPT, NNLMConfig: NNLM, RNNConfig: RNN}
FAMILIES: dict[str, Any] = {cls.family: cls for cls in (GPTConfig, NGramConfig, NNLMConfig, RNNConfig)}
OBJECTIVES = {cls.name: cls for cls in (objectives.Causal,)}

NeuralConfig = GPTConfig | NNLMConfig | RNNConfig

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
class TrainConfig:
    """How long, how much at once, and how often to look."""

    num_steps: int = 1000  # updates in all
    batch_size: int = 16  # rows of data.sequence_length tokens in a batch, over all devices
    accumulation: int = 1  # parts that a batch is read in, one after the other: less memory, the same update
    average: str = "none"  # of parameters, to evaluate with: none, ema, or triggered by validation (AWD-LSTM)
    average_decay: float = 0.999  # ema: the weight of the average against the newest parameters
    average_patience: int = 5  # triggered: looks at the validation part that may go by without a new best
    eval_every: int = 250  # steps between looks at the validation part; also the end
    checkpoint_every: int = 250  # steps between checkpoints; one more where validation is at its best
    log_every: int = 10  # steps between lines of metrics.jsonl
    tensorboard: bool = False  # event files beside metrics.jsonl, which is written anyway
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
        if self.average not in averaging.AVERAGES:
            raise UserError(
                f"train.average={self.average!r}", f"choose one of {', '.join(averaging.AVERAGES)}"
            )
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
    """A recipe for a neural model: everything that decides its numbers, and how often to look."""

    data: DataConfig = field(default_factory=DataConfig)
    model: NeuralConfig = field(default_factory=GPTConfig)
    objective: objectives.Causal = field(default_factory=objectives.Causal)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    init_from: str = ""  # a run directory whose best parameters to start from


@dataclass(frozen=True)
class CountConfig:
    """A recipe for an n-gram model, which is counted and not trained."""

    data: DataConfig = field(default_factory=DataConfig)
    model: NGramConfig = field(default_factory=NGramConfig)
    seed: int = 0  # of the text shown at the end
    sample_tokens: int = 80  # tokens of that text; 0: none

    def check(self) -> None:
        """Raises UserError for a value that no run can use."""
        smoothing.check(self.model)
        for name in ("seed", "sample_tokens"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)}", "it must be 0 or more")


AnyConfig = Config | CountConfig

# What a resumed run may change: how long and how often, and on which devices; never what is computed.
FREE_ON_RESUME = (
    "train.num_steps",
    "train.accumulation",
    "train.eval_every",
    "train.checkpoint_every",
    "train.log_every",
    "train.tensorboard",
    "train.sample_tokens",
    "sample_tokens",
    "mesh",
)


def load(spec: str) -> tuple[str, AnyConfig]:
    """Reads a recipe.

    Args:
        spec: "PATH.py" or "PATH.py:VARIANT"; the file defines `get_config(variant="")`.

    Returns:
        The recipe's name ("gpt", or "gpt-VARIANT") and its config.

    Raises:
        UserError: no such file or variant, or a file that is not a recipe.
    """
    path_text, _, variant = spec.partition(":")
    path = pathlib.Path(path_text)
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise UserError(
            f"no recipe {path}", f"there are: {', '.join(near)}" if near else "give --config=PATH.py"
        )
    recipe = runpy.run_path(str(path))
    if "get_config" not in recipe:
        raise UserError(f"{path} defines no get_config(variant)", "let it return a lm_jax.config.Config")
    config = recipe["get_config"](variant)
    return path.stem + (f"-{variant}" if variant else ""), config


def unknown_variant(variant: str, known: list[str]) -> UserError:
    """The error a recipe raises for a variant that it does not have."""
    return UserError(f"no variant {variant!r} of this recipe", f"choose one of {', '.join(map(repr, known))}")


def override(config: Any, values: Mapping[str, str]) -> Any:
    """A copy of the config with fields set from text, as the command line gives it.

    Args:
        values: dotted field name -> text, such as {"model.num_layers": "4"}.

    Raises:
        UserError: an unknown field (with the nearest name there is), or a text that is not of its type.
    """
    for name, text in values.items():
        config = _replace(config, name, name.split("."), text)
    return config


def check(config: Any) -> None:
    """Lets every part with a `check()` look at itself, then at what two parts must agree on.

    Raises:
        UserError: the first value that no run can use.
    """
    for part in (config, *(getattr(config, item.name) for item in dataclasses.fields(config))):
        if hasattr(part, "check"):
            part.check()
    if isinstance(config, Config):
        _check_together(config)


def _check_together(config: Config) -> None:
    model, length = config.model, config.data.sequence_length
    if isinstance(model, GPTConfig) and 0 < model.max_length < length:
        raise UserError(
            f"data.sequence_length={length} exceeds the model's context",
            f"set it to at most model.max_length={model.max_length}, or raise that",
        )
    if config.objective.penalises and not isinstance(model, RNNConfig):
        raise UserError(
            f"objective.activation_penalty and temporal_penalty with a {model.family} model",
            "they are for recurrent networks: set both to 0",
        )


def resolve(config: Config, vocab_size: int) -> Config:
    """The config with what it left to the tokenizer and the data filled in.

    Raises:
        UserError: a model whose vocabulary is smaller than the tokenizer's.
    """
    model = config.model
    if 0 < model.vocab_size < vocab_size:
        raise UserError(
            f"model.vocab_size={model.vocab_size}, but the tokenizer has {vocab_size} tokens",
            "set model.vocab_size=0 to take the tokenizer's",
        )
    model = dataclasses.replace(model, vocab_size=model.vocab_size or vocab_size)
    if isinstance(model, GPTConfig):
        model = dataclasses.replace(model, max_length=model.max_length or config.data.sequence_length)
    return dataclasses.replace(config, model=model)


def context_length(model: NeuralConfig) -> int | None:
    """The most tokens that a model can look at; None where it carries a state over any number."""
    return model.max_length if isinstance(model, GPTConfig) else None


def make_model(model: NeuralConfig) -> nn.Module:
    """The linen module of a resolved model config."""
    return MODELS[type(model)](model)


def to_json(config: Any) -> str:
    """The config as JSON text, with its family and format version."""
    values = dataclasses.asdict(config)
    if isinstance(config, Config):
        values["objective"] = {"name": config.objective.name, **values["objective"]}
    header = {"format_version": FORMAT_VERSION, "family": config.model.family}
    return json.dumps(header | values, indent=2) + "\n"


def from_json(text: str) -> AnyConfig:
    """Reads what `to_json` wrote.

    Raises:
        UserError: no JSON, another format version, an unknown family or field, or a value of another type.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"a config that is not JSON ({error})", "restore config.json") from None
    version, family = values.pop("format_version", None), values.pop("family", None)
    if version != FORMAT_VERSION:
        raise UserError(
            f"a config of format {version!r}", f"this version of lm_jax reads format {FORMAT_VERSION}"
        )
    if family not in FAMILIES:
        raise UserError(f"a config of the unknown family {family!r}", f"known are {', '.join(FAMILIES)}")
    if FAMILIES[family] is NGramConfig:
        return _from_values(CountConfig(), values, "")
    objective = values.get("objective", {}).pop("name", None)
    if objective not in OBJECTIVES:
        raise UserError(
            f"a config of the unknown objective {objective!r}", f"known are {', '.join(OBJECTIVES)}"
        )
    start = Config(model=FAMILIES[family](), objective=OBJECTIVES[objective]())
    return _from_values(start, values, "")


def differences(old: Any, new: Any) -> list[str]:
    """Names of the fields, with both values, in which two configs would compute different things."""
    old_values, new_values = dict(flatten(old)), dict(flatten(new))
    names = [n for n in old_values | new_values if not n.startswith(FREE_ON_RESUME)]
    missing = object()
    return [
        f"{n} ({old_values.get(n)!r} there, {new_values.get(n)!r} here)"
        for n in names
        if old_values.get(n, missing) != new_values.get(n, missing)
    ]


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field with its dotted name and its value."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from flatten(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, value


def describe(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every field with its dotted name, its value and the comment beside its definition."""
    comments = _field_comments(type(config))
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from describe(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, value, comments.get(item.name, "")


def _field_comments(cls: type) -> dict[str, str]:
    """Field name -> trailing comment, read from the class's source: the comment is the documentation."""
    comments: dict[str, str] = {}
    name = ""
    source = inspect.getsource(cls)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        before = token.line[: token.start[1]].strip()
        if token.type == tokenize.NAME and not before:
            name = token.string
        elif token.type == tokenize.COMMENT and before:
            comments.setdefault(name, token.string.lstrip("# "))
    return comments


def _replace(config: Any, full_name: str, path: list[str], text: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(config)}
    head, rest = path[0], path[1:]
    value = getattr(config, head) if head in fields else None
    if head not in fields or (rest and not dataclasses.is_dataclass(value)):
        raise _unknown_field(full_name, len(full_name.split(".")) - len(path), config)
    if rest:
        return dataclasses.replace(config, **{head: _replace(value, full_name, rest, text)})
    if dataclasses.is_dataclass(value):
        inner = ", ".join(f"{full_name}.{f.name}" for f in dataclasses.fields(value))
        raise UserError(f"{full_name} is a group of fields", f"set one of {inner}")
    wanted = typing.get_type_hints(type(config))[head]
    return dataclasses.replace(config, **{head: _parse(text, wanted, full_name)})


def _unknown_field(name: str, depth: int, config: Any) -> UserError:
    parents = name.split(".")[:depth]
    names = [".".join([*parents, n]) for n, _ in flatten(config)]
    # A field's own name is what is remembered; the part it belongs to often is not.
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]}?" if near else f"fields here are {', '.join(names)}"
    return UserError(f"no field {name}", remedy)


def _parse(text: str, wanted: Any, name: str) -> Any:
    """The value that a text means for a field of type `wanted`: bool, int, float, str, or a tuple of one."""
    options = typing.get_args(wanted)
    try:
        if typing.get_origin(wanted) is tuple:
            return tuple(
                _parse(part.strip(), options[0], name) for part in text.strip("()[] ,").split(",") if part
            )
        if isinstance(wanted, types.UnionType):  # X | None
            return None if text.lower() == "none" else _parse(text, options[0], name)
        if wanted is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return wanted(text)
    except (KeyError, ValueError):
        raise UserError(
            f"{name}={text!r} is not {_in_words(wanted)}", f"give {name} {_in_words(wanted)}"
        ) from None


def _in_words(wanted: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    if typing.get_origin(wanted) is tuple:
        return "a list with commas"
    return words.get(wanted, str(wanted))


def _from_values(config: Any, values: dict[str, Any], prefix: str) -> Any:
    """The config with the fields of a JSON object, whose types must be right as they stand."""
    if not isinstance(values, dict):
        raise UserError(f"{prefix.rstrip('.')} is not a group of fields", "restore config.json")
    hints, changed = typing.get_type_hints(type(config)), {}
    for name, value in values.items():
        if name not in hints:
            raise _unknown_field(prefix + name, len(prefix.split(".")) - 1, config)
        current = getattr(config, name)
        if dataclasses.is_dataclass(current):
            changed[name] = _from_values(current, value, f"{prefix}{name}.")
        else:
            changed[name] = _typed(value, hints[name], prefix + name)
    return dataclasses.replace(config, **changed)


def _typed(value: Any, wanted: Any, name: str) -> Any:
    if typing.get_origin(wanted) is tuple and isinstance(value, list):
        return tuple(_typed(v, typing.get_args(wanted)[0], name) for v in value)
    if isinstance(wanted, types.UnionType) and value is None:
        return None
    if isinstance(wanted, types.UnionType):
        wanted = typing.get_args(wanted)[0]
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise UserError(f"{name}={value!r} is not {_in_words(wanted)}", "restore config.json")
    return value
