"""Mixtures as text and as files: which models and caches, their settings and weights.

The file is JSON; the paths of its models are relative to it, so that both may be moved together.
"""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax import files
from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.language_models.base import LeftToRight
from lm_jax.language_models.mixtures.base import Component
from lm_jax.language_models.mixtures.by_word import WordMixture
from lm_jax.language_models.mixtures.document_cache import DocumentCache
from lm_jax.language_models.mixtures.dynamic import DynamicEvaluation
from lm_jax.language_models.mixtures.fitting import make
from lm_jax.language_models.mixtures.mixture import TokenMixture
from lm_jax.language_models.mixtures.models import as_component, is_causal
from lm_jax.language_models.mixtures.neural_cache import NeuralCache
from lm_jax.language_models.mixtures.weights import Weights

_FORMAT = "lm_jax mixture 1"
_SUFFIX = ".json"
_HUB = "hf:"
_NULL = type(None)
MODEL, CACHE, NEURAL_CACHE, DYNAMIC = "model", "cache", "neural cache", "dynamic evaluation"
_BESIDE = {"+cache": NEURAL_CACHE, "+dynamic": DYNAMIC}  # the end of a part -> its kind


class Part(NamedTuple):
    """A component of a mixture that is not opened yet.

    Attributes:
        kind: a model, a cache of the document, or a neural cache or dynamic evaluation of a model.
        name: what to call the model.
        path: where it is; "" for a cache.
        order: tokens in the longest n-grams of a cache.
    """

    kind: str
    name: str = ""
    path: str = ""
    order: int = 1


def parse(text: str, known: Mapping[str, str]) -> list[Part]:
    """The parts of a mixture, separated by commas.

    Args:
        text: each part is `cache`, `cache:ORDER`, or a model: a name, or a path; a module that predicts each
            token from those before it may be followed by `+cache` or `+dynamic`.
        known: names of models and their paths.

    Raises:
        UserError: an empty part, or an order that is no number.
    """
    return [_parse(part.strip(), text, known) for part in text.split(",")]


def _parse(part: str, text: str, known: Mapping[str, str]) -> Part:
    if not part:
        raise UserError(f"an empty part in the mixture {text!r}", "separate models by single commas")
    if part in known:
        return Part(MODEL, part, known[part])
    name, _, order = part.partition(":")
    if name == CACHE:
        if (order and not order.isascii()) or (order and not order.isdigit()):
            raise UserError(f"{part!r} in a mixture", "write cache:ORDER, such as cache:4")
        return Part(CACHE, order=int(order or 1))
    for ending, kind in _BESIDE.items():
        if part.endswith(ending):
            name = part.removesuffix(ending)
            return Part(kind, name, known.get(name, name))
    return Part(MODEL, part, part)


def open_parts(
    parts: Sequence[Part], open_model: Callable[[str], Any], opened: dict[Part, Component] | None = None
) -> list[Component]:
    """Opens the components of a mixture, with their default settings.

    Args:
        parts: the parts; caches have the tokens of the first model.
        open_model: path -> the opened model.
        opened: components of other mixtures, which are used again; new ones are added.

    Raises:
        UserError: no model among the parts, one that does not fit its part, or what opening raises.
    """
    models = {part.path: open_model(part.path) for part in parts if part.path}
    if not models:
        raise UserError("a mixture of caches alone", "add a model, whose tokens they count")
    first = next(iter(models.values()))
    if not isinstance(first, LeftToRight):
        raise UserError(
            f"the {first.family} model {next(iter(models))} in a mixture", "give one that reads left to right"
        )
    opened = {} if opened is None else opened
    made = []
    for part in parts:
        # A cache has the tokens of its mixture.
        key = part._replace(name=first.tokenizer.fingerprint()) if part.kind == CACHE else part
        if key not in opened:
            opened[key] = _open(part, models.get(part.path, first))
        made.append(opened[key])
    return made


def _open(part: Part, model: Any) -> Component:
    if part.kind == CACHE:
        return DocumentCache(model.tokenizer, part.order, model=model)
    if part.kind == MODEL:
        return as_component(model, part.name)
    if not is_causal(model):
        raise UserError(
            f"{part.kind} of {part.name}, a model of the family {model.family}",
            "it is for neural models that predict each token from those before it, such as a GPT",
        )
    return NeuralCache(model, part.name) if part.kind == NEURAL_CACHE else DynamicEvaluation(model, part.name)


def write(path: pathlib.Path, parts: Sequence[Part], mixture: TokenMixture | WordMixture) -> None:
    """Writes a mixture as a file that `read` opens. Raises OSError."""
    components = []
    for part, component in zip(parts, mixture.components, strict=True):
        settings = {name: getattr(component, name) for name in component.choices()}
        components.append({**part._asdict(), "path": _relative(part.path, path.parent), "settings": settings})
    weights = mixture.weights
    values = {"format": _FORMAT, "components": components, "weights": weights.all_K.tolist()}
    table = None if weights.by_situation_SK is None else weights.by_situation_SK.tolist()
    files.write_json(path, {**values, "by_situation": table, "how": weights.how})


def _relative(model: str, directory: pathlib.Path) -> str:
    if not model or model.startswith(_HUB):
        return model
    return os.path.relpath(files.expand(model), directory)


def is_file(path: pathlib.Path) -> bool:
    """Whether a path is a file of the kind that `write` makes."""
    return path.suffix == _SUFFIX and path.is_file()


def read(path: pathlib.Path, open_model: Callable[[str], Any]) -> TokenMixture | WordMixture:
    """Opens a mixture that `write` wrote.

    Args:
        path: the file.
        open_model: path -> the opened model.

    Raises:
        UserError: a damaged file, another one, or what opening its models raises.
    """
    fields = JsonObject.read(path)
    if fields.values.get("format") != _FORMAT:
        raise UserError(f"{path} is no mixture", "give one that eval.py --mix wrote")
    listed = [
        JsonObject(value, f"{path}, component {i}") for i, value in enumerate(fields.take("components", list))
    ]
    components = open_parts([_read_part(one, path.parent) for one in listed], open_model)
    for k, one in enumerate(listed):
        settings = one.inner("settings")
        for name in components[k].choices():
            components[k] = components[k].with_setting(name, settings.take(name, float))
    table = fields.take("by_situation", list, _NULL)
    weights = Weights(
        _numbers(fields.take("weights", list), path),
        None if table is None else _numbers(table, path),
        fields.take("how", str),
    )
    return make(components, weights)


def _read_part(fields: JsonObject, directory: pathlib.Path) -> Part:
    kind, model = fields.take("kind", str), fields.take("path", str)
    if kind not in (MODEL, CACHE, *_BESIDE.values()) or bool(model) == (kind == CACHE):
        raise UserError(f"{fields.where}: kind={kind!r} with path={model!r}", "restore the file")
    if model and not model.startswith(_HUB):
        model = os.path.normpath(directory / model)
    return Part(kind, fields.take("name", str), model, fields.take("order", int))


def _numbers(values: list[Any], path: pathlib.Path) -> np.ndarray:
    try:
        made = np.array(values, float)
    except (TypeError, ValueError):
        made = np.array(np.nan)
    if not np.isfinite(made).all():
        raise UserError(f"{path}: weights that are no numbers", "restore the file")
    return made
