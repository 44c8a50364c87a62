"""One digest of all that decides a model's scores, by which scores are kept and found again."""

import functools
import hashlib
import inspect
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from lm_jax import fast
from lm_jax.language_models.bilm import BidirectionalLanguageModel
from lm_jax.language_models.causal import CausalLanguageModel
from lm_jax.language_models.ngram import NGramLanguageModel
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.spelling import Speller

_PACKAGE = pathlib.Path(fast.__file__).parent
# The sources that scores depend on: a changed line gives other digests, so no score of older code is found.
_SOURCES = ("language_models", "metrics", "models", "ngram", "parallel", "tasks", "text", "fast.py")


def fingerprint(model: Any) -> str | None:
    """A digest, 64 hexadecimal digits: two models with the same one give a text the same scores.

    It covers the parameters, the tokenizer, the config with its dtype, the code that computes, and the
    devices and versions that decide the rounding.

    Args:
        model: any model. One that is made of others, or that a user defines, has a method `fingerprint`,
            which returns such a digest or None, in its own class: an inherited one does not count, since a
            subclass may score otherwise.

    Returns:
        None: it is not known what decides the model's scores.
    """
    kind = type(model)
    if "fingerprint" in vars(kind):
        own: str | None = model.fingerprint()
        return own
    if kind in (BidirectionalLanguageModel, CausalLanguageModel):
        if (sources := _sources_of(model)) is None:
            return None
        parts = _of_trained(model, sources)
    elif kind is NGramLanguageModel:
        parts = _of_ngram_model(model)
    else:
        return None
    digest = hashlib.sha256(f"{kind.__qualname__} {_code()} {model.tokenizer.fingerprint()}".encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _of_trained(model: CausalLanguageModel, sources: list[str]) -> Iterator[Any]:
    mesh = model.trained.mesh
    yield repr(
        [model.config, model.trained.task, None if mesh is None else sorted(mesh.shape.items())]
    ).encode()
    yield repr([sources, _numerics()]).encode()
    yield from _of_speller(model.speller)
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        yield jax.tree_util.keystr(path).encode()
        yield from _of_array(np.asarray(leaf))


def _of_ngram_model(model: NGramLanguageModel) -> Iterator[Any]:
    yield repr([model.bos, model.eos, np.__version__]).encode()
    yield from _of_speller(model.speller)
    yield from _of_ngrams(model.model)


def _of_speller(speller: Speller | None) -> Iterator[Any]:
    if speller is not None:
        yield repr([speller.known, speller.gaps.as_json()]).encode()
        yield from _of_ngrams(speller.words)


def _of_ngrams(ngrams: NGramModel) -> Iterator[Any]:
    yield repr([ngrams.log10_unseen, ngrams.vocabulary.words]).encode()
    for arrays in (*ngrams.trie, ngrams.log10_probs, ngrams.log10_backoffs):
        yield f"{len(arrays)} arrays".encode()
        for array in arrays:
            yield from _of_array(array)


def _of_array(array: np.ndarray) -> Iterator[Any]:
    yield f"{array.dtype} {array.shape}".encode()
    yield np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _numerics() -> list[str]:
    """What decides how numbers are rounded, besides the dtype."""
    config: Any = jax.config
    settings = (config.jax_enable_x64, config.jax_default_matmul_precision, os.environ.get("XLA_FLAGS"))
    device = jax.devices()[0]
    return [jax.__version__, device.platform, device.device_kind, *map(str, (fast.is_on(), *settings))]


@functools.cache
def _code() -> str:
    """A digest of this package's sources that scores depend on."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        for path in sorted(_PACKAGE.joinpath(name).rglob("*.py")) or [_PACKAGE / name]:
            digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _sources_of(model: CausalLanguageModel) -> list[str] | None:
    """Digests of the files that define the classes of a model's parts outside this package.

    None where one has no file, as a class of a notebook.
    """
    digests = set()
    for part in filter(None, (model.config, model.trained.task, model.module, model.tokenizer)):
        try:
            path = pathlib.Path(inspect.getsourcefile(type(part)) or "")
            if not path.is_relative_to(_PACKAGE):
                digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
        except (OSError, TypeError):
            return None
    return sorted(digests)
