"""Opening trained models: `lm_jax.load`."""

import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax import config as config_module
from lm_jax import files, tokenizers
from lm_jax.checkpoint import Checkpoints
from lm_jax.config import CountConfig
from lm_jax.errors import UserError
from lm_jax.families.base import LanguageModel
from lm_jax.families.neural import NeuralLanguageModel
from lm_jax.families.ngram import NGramLanguageModel
from lm_jax.ngram import arpa
from lm_jax.ngram.model import NGramModel

NGRAM_FILE = "model.ngram"  # an n-gram model in its run directory


def load(path: str | pathlib.Path, step: str = "best") -> LanguageModel:
    """Opens a run directory or an ARPA file.

    Args:
        path: what `train.py` wrote; or a file .arpa or .arpa.gz, whose words white space parts.
        step: "best" (lowest validation loss), "latest", or a step's number; n-gram models have no steps.

    Raises:
        UserError: neither of them, a damaged one, or no such checkpoint.
    """
    path = pathlib.Path(path)
    if path.name.endswith((".arpa", ".arpa.gz")):
        return _load_arpa(path)
    if not (path / "config.json").is_file():
        raise UserError(
            f"{path} is not a run directory (no config.json in it)",
            "give the --workdir of a train.py run, or a file .arpa or .arpa.gz",
        )
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
    return NeuralLanguageModel(config, model, params, tokenizer, chosen)


def abstract_params(model: nn.Module) -> Any:
    """Shapes of a model's parameters on one device, for restoring into."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes)


def _load_arpa(path: pathlib.Path) -> NGramLanguageModel:
    model = arpa.read(path)
    specials = 3
    words = [word.decode(errors="surrogateescape") for word in model.vocabulary.words[specials:]]
    return NGramLanguageModel(model, tokenizers.WordTokenizer(words))
