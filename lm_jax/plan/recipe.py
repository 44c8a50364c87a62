"""A recipe with the sizes that its run would have, without its corpus and its devices."""

import dataclasses

from lm_jax import experiment
from lm_jax.config import AnyConfig, Config
from lm_jax.errors import UserError
from lm_jax.text import load as tokenizers
from lm_jax.text.simple import ByteTokenizer


def resolve(recipe: AnyConfig) -> Config:
    """The recipe with the largest sizes that its run can have, without its corpus.

    Raises:
        UserError: an n-gram recipe, or a vocabulary whose size depends on the corpus.
    """
    experiment.check(recipe)
    if not isinstance(recipe, Config):
        raise UserError("an n-gram model is counted on the CPU", "plan a recipe that is trained")
    data, vocab_size = recipe.data, recipe.model.vocab_size
    if not vocab_size and data.tokenizer not in tokenizers.KINDS:
        vocab_size = tokenizers.load(tokenizers.named_file(data.tokenizer)).vocab_size
    elif not vocab_size:
        vocab_size = ByteTokenizer().vocab_size if data.tokenizer == "byte" else data.vocab_size
    if not vocab_size:
        raise UserError(
            f"only the corpus tells how many tokens a {data.tokenizer} tokenizer has",
            "set --config.model.vocab_size=N",
        )
    return recipe.resolved(vocab_size)


def fit_accumulation(config: Config, num_devices: int) -> Config:
    """The recipe, with a smaller train.accumulation if otherwise devices would have no row.

    The fewest parts with which no device has more rows at a time than a single device would have.
    """
    mesh, train = config.mesh, config.train
    shares = max(1, num_devices // mesh.tensor if mesh.data == -1 else mesh.data * mesh.fsdp)
    divide = [n for n in range(1, train.accumulation + 1) if train.batch_size % (n * shares) == 0]
    fewer = [n for n in divide if n * shares >= train.accumulation]
    if train.accumulation in divide or not fewer:
        return config  # building the program raises the error
    print(f"note: train.accumulation={fewer[0]}, since {train.accumulation} leave devices without a row")
    return dataclasses.replace(config, train=dataclasses.replace(train, accumulation=fewer[0]))
