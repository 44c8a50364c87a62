"""The architectures of published models, described for reading and writing.

To add one: a file like `gpt2.py` with a `Form`, a line in `FORMS`, and its name in `published_as` of the
model's config.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError, with_article
from lm_jax.models.base import ModelConfig
from lm_jax.registry import Registry
from lm_jax.tasks.base import Task
from lm_jax.text.base import Tokenizer

Shape = tuple[int, ...]


class Form(NamedTuple):
    """An architecture as transformers writes it.

    Names of weights are without `prefix` everywhere but in files.

    Attributes:
        title: the name of the architecture, for errors.
        fixed: our config -> the fields that all models of the architecture have alike, with their values.
        prefix: a prefix of the names of weights, which a bare model does not have, and others need not have.
        unprefixed: beginnings of the names that have no prefix.
        read_config: (values of config.json, names of the weights, path of config.json) -> our config, and the
            task that the model was trained for; None: the bare model.
        write_config: (our config, its task, its tokenizer) -> values of config.json.
        rules: (our config, its task) -> our name of a parameter to the names of theirs that make it; `{}` is
            the number of a layer.
        ignored: (our config, its task) -> their names that may exist and are not read.
        copies: (our config, its task) -> their names that may exist, to the names of the same numbers.
        their_shapes: (our name, our shape) -> the shapes of theirs.
        join: (our name, their arrays, our shape) -> our array, whose shape may still differ.
        split: (our name, our array) -> their arrays.
        template: (our config, its task) -> a config with all parameters of the form; those that ours lacks
            are zeros.
        by_token: our names of parameters with a row for each token.
        current_name: an older name of a weight -> the name of today.
    """

    title: str
    fixed: Callable[[Any], Mapping[str, Any]]
    prefix: str
    unprefixed: tuple[str, ...]
    read_config: Callable[[dict[str, Any], frozenset[str], str], tuple[ModelConfig, Task | None]]
    write_config: Callable[[Any, Task | None, Tokenizer], dict[str, Any]]
    rules: Callable[[Any, Task | None], Mapping[str, tuple[str, ...]]]
    ignored: Callable[[Any, Task | None], frozenset[str]]
    copies: Callable[[Any, Task | None], Mapping[str, str]]
    their_shapes: Callable[[str, Shape], Sequence[Shape]]
    join: Callable[[str, Sequence[np.ndarray], Shape], np.ndarray]
    split: Callable[[str, np.ndarray], Sequence[np.ndarray]]
    template: Callable[[Any, Task | None], Any]
    by_token: frozenset[str]
    current_name: Callable[[str], str] = str

    def bare_name(self, name: str) -> str:
        """The name of a weight in a file, without the prefix and as it is called today."""
        return self.current_name(name.removeprefix(self.prefix))

    def full_name(self, name: str, task: Task | None) -> str:
        """The name of a weight in the file of a model of a task."""
        is_bare = task is None or name.startswith(self.unprefixed)
        return name if is_bare else self.prefix + name


# The `model_type` of a config.json -> its form.
FORMS: Registry[Form] = Registry(
    "model_type",
    {
        "bart": "lm_jax.pretrained.bart:FORM",
        "bert": "lm_jax.pretrained.bert:FORM",
        "gpt2": "lm_jax.pretrained.gpt2:FORM",
        "gpt_neox": "lm_jax.pretrained.gpt_neox:FORM",
        "llama": "lm_jax.pretrained.llama:FORM",
    },
)


def form_of(config: ModelConfig) -> Form:
    """The form in which a model is published: the first that all its fields fit.

    Raises:
        UserError: there is none; it names the fields in which the nearest forms differ.
    """
    kind = with_article(config.family)
    if not config.published_as:
        raise UserError(f"{kind} model has no published form", "export a model of another family")
    forms = [FORMS.get(name) for name in config.published_as]
    differing = [
        {name: value for name, value in form.fixed(config).items() if getattr(config, name) != value}
        for form in forms
    ]
    least = min(map(len, differing))
    nearest = [(form, fields) for form, fields in zip(forms, differing, strict=True) if len(fields) == least]
    if not least:
        return nearest[0][0]
    names = dict.fromkeys(name for _, fields in nearest for name in fields)
    has = ", ".join(f"model.{name}={getattr(config, name)}" for name in names)
    sets = [
        f"{', '.join(f'model.{name}={value}' for name, value in fields.items())} for {form.title}'s"
        for form, fields in nearest
    ]
    raise UserError(f"{kind} model with {has} has no published form", f"train with {', or '.join(sets)}")
