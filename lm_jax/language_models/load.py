"""Opening trained and published models: `lm_jax.load`."""

import dataclasses
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax import config as config_module
from lm_jax import files
from lm_jax.checkpoint import Checkpoints
from lm_jax.config import Config, CountConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.language_models.base import LanguageModel
from lm_jax.language_models.causal import NeuralLanguageModel
from lm_jax.language_models.ngram import NGramLanguageModel
from lm_jax.models.gpt import GPTConfig, convert_layers
from lm_jax.ngram import arpa
from lm_jax.ngram.model import NGramModel
from lm_jax.pretrained import huggingface
from lm_jax.text import load as tokenizers
from lm_jax.text.simple import WordTokenizer

NGRAM_FILE = "model.ngram"  # an n-gram model in its run directory


def load(path: str | pathlib.Path, step: str = "best") -> LanguageModel:
    """Opens a run directory, an ARPA file, or a published GPT-2.

    Args:
        path: what `train.py` wrote; or a file .arpa or .arpa.gz, whose words white space parts; or a
            directory in Hugging Face's form (config.json, safetensors, a tokenizer), or a name on its hub.
        step: "best" (lowest validation loss), "latest", or a step's number; other models have no steps.

    Raises:
        UserError: none of them, a damaged one, or no such checkpoint.
    """
    if str(path).endswith((".arpa", ".arpa.gz")):
        return _load_arpa(pathlib.Path(path))
    directory = _find(path)
    if huggingface.is_directory(directory):
        return _load_pretrained(directory)
    return _load_run(directory, step)


def read_model_config(path: str | pathlib.Path) -> Any:
    """The shape of the model that `load` would open, its part `model` of a recipe. Errors as for `load`."""
    directory = _find(path)
    if huggingface.is_directory(directory):
        return huggingface.read_config(directory)
    return config_module.from_json((directory / "config.json").read_text(encoding="utf-8")).model


def tokenizer_path(path: str | pathlib.Path) -> pathlib.Path:
    """Where the tokenizer of a run or of a published model lies. Errors as for `load`."""
    directory = _find(path)
    return directory if huggingface.is_directory(directory) else directory / "tokenizer"


def _find(path: str | pathlib.Path) -> pathlib.Path:
    directory = huggingface.find(str(path))
    if not (directory / "config.json").is_file():
        raise UserError(
            f"{path} is not a run directory (no config.json in it)",
            "give the --workdir of a train.py run, a file .arpa or .arpa.gz, or a published GPT-2",
        )
    return directory


def _load_run(path: pathlib.Path, step: str) -> LanguageModel:
    config = config_module.from_json((path / "config.json").read_text(encoding="utf-8"))
    tokenizer = tokenizers.load(path / "tokenizer")
    if tokenizer.fingerprint() != files.read_json(path / "data.json")["tokenizer"]["sha256"]:
        raise UserError(
            f"{path / 'tokenizer'} is not the tokenizer that the model was trained with",
            "restore it; its vocabulary must match the model's",
        )
    if isinstance(config, CountConfig):
        return NGramLanguageModel(NGramModel.load(path / NGRAM_FILE), tokenizer, config.data.documents)
    config = config_module.resolve(config, tokenizer.vocab_size)
    model = config_module.make_model(config.model)
    with Checkpoints(path, read_only=True) as checkpoints:
        chosen = checkpoints.choose(step)
        params = checkpoints.restore_params(chosen, abstract_params(model))
    if isinstance(config.model, GPTConfig) and config.model.scan_layers:  # text is written faster without
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, scan_layers=False))
        model, params = config_module.make_model(config.model), convert_layers(params, scan_layers=False)
    return NeuralLanguageModel(config, model, params, tokenizer, chosen)


def _load_pretrained(directory: pathlib.Path) -> NeuralLanguageModel:
    model, params, tokenizer = huggingface.read(directory)
    data = DataConfig(tokenizer=str(directory), sequence_length=model.max_length)
    config = Config(data=data, model=model)
    return NeuralLanguageModel(config, config_module.make_model(model), params, tokenizer)


def abstract_params(model: nn.Module) -> Any:
    """Shapes of a model's parameters on one device, for restoring into."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes)


def _load_arpa(path: pathlib.Path) -> NGramLanguageModel:
    model = arpa.read(path)
    specials = 3
    words = [word.decode(errors="surrogateescape") for word in model.vocabulary.words[specials:]]
    return NGramLanguageModel(model, WordTokenizer(words))
