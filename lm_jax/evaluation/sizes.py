"""How large a model is and how much text it was trained on, for the rows of results."""

import pathlib
from typing import Any

from lm_jax import seal
from lm_jax.data import provenance
from lm_jax.evaluation.row import Row
from lm_jax.language_models.described import size_of


def add_sizes(row: Row, model: Any, path: str | pathlib.Path) -> None:
    """Writes into a row what is known of the model's size.

    Args:
        row: the row.
        model: any model.
        path: what it was opened from; of a run directory also the tokens of its training text are known.

    Raises:
        UserError: the run's data.json is damaged.
    """
    row.parameters = size_of(model)
    directory = pathlib.Path(path)
    if seal.exists(directory / provenance.FILE):
        train = provenance.read(directory)["splits"].get("train", {})
        row.training_tokens = train.get("num_tokens")
