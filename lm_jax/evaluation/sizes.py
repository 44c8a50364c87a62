"""How large a model is and how much text it was trained on, for the rows of results."""

import pathlib
from typing import Any

import jax

from lm_jax import seal
from lm_jax.data import provenance
from lm_jax.evaluation.row import Row
from lm_jax.ngram.model import NGramModel


def add_sizes(row: Row, model: Any, path: str | pathlib.Path) -> None:
    """Writes into a row what is known of the model's size.

    Args:
        row: the row.
        model: any model.
        path: what it was opened from; of a run directory also the tokens of its training text are known.

    Raises:
        UserError: the run's data.json is damaged.
    """
    row.parameters = num_parameters(model)
    directory = pathlib.Path(path)
    if seal.exists(directory / provenance.FILE):
        train = provenance.read(directory)["splits"].get("train", {})
        row.training_tokens = train.get("num_tokens")


def num_parameters(model: Any) -> int | None:
    """How many weights a model has, or probabilities and back-offs of n-grams; None where it is unknown."""
    of_ngrams = getattr(model, "model", None)
    if isinstance(of_ngrams, NGramModel):
        return sum(map(len, (*of_ngrams.log10_probs, *of_ngrams.log10_backoffs)))
    trained = getattr(model, "trained", model)
    if not hasattr(trained, "params"):
        return None
    return sum(leaf.size for leaf in jax.tree.leaves(trained.params))
