"""The architectures of published models, described for reading and writing.

To add one: a file like `gpt2.py` with a `Form`, a line in `FORMS`, and `published_as` in the model's config.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lm_jax.registry import Registry


class Form(NamedTuple):
    """An architecture as transformers writes it.

    Attributes:
        prefix: an optional prefix of the names of weights.
        unprefixed: names of weights that have no prefix.
        read_config: (values of config.json, its path) -> our config.
        write_config: (our config, end token) -> values of config.json.
        rules: our config -> our name of a parameter to theirs; `{}` is the number of a layer.
        ignored: our config -> their names that may exist and are not read.
        their_shape: (our name, our shape) -> their shape, of as many numbers in the same order.
        template: our config -> one with all parameters of the form; those that ours lacks are zeros.
        by_token: our names of parameters with a row for each token.
    """

    prefix: str
    unprefixed: frozenset[str]
    read_config: Callable[[dict[str, Any], str], Any]
    write_config: Callable[[Any, int], dict[str, Any]]
    rules: Callable[[Any], Mapping[str, str]]
    ignored: Callable[[Any], frozenset[str]]
    their_shape: Callable[[str, tuple[int, ...]], tuple[int, ...]]
    template: Callable[[Any], Any]
    by_token: frozenset[str]


# The `model_type` of a config.json -> its form.
FORMS: Registry[Form] = Registry("model_type", {"gpt2": "lm_jax.pretrained.gpt2:FORM"})
