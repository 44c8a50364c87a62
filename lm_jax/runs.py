"""Training from Python: `lm_jax.train`."""

import pathlib
from typing import Any

from lm_jax import config as config_module
from lm_jax import experiment, fields
from lm_jax.config import AnyConfig
from lm_jax.errors import UserError
from lm_jax.language_models.base import LanguageModel
from lm_jax.language_models.load import load
from lm_jax.recipe_files import DEFAULT


def train(
    config: AnyConfig | str = DEFAULT,
    workdir: str | pathlib.Path | None = None,
    **overrides: Any,
) -> LanguageModel:
    """Trains by a recipe as `train.py` does, or resumes a stopped run of it, and opens the model.

        lm = lm_jax.train("gpt", num_steps=100, learning_rate=3e-3)
        lm = lm_jax.train("ngram:word", "runs/mine", corpus="text:mine/*.txt", **{"model.order": 4})

    Args:
        config: a recipe: its name, "PATH.py", either with ":VARIANT", or a `Config` or `CountConfig`.
        workdir: the run directory, which then holds the results, too (results.json, metrics.jsonl); None:
            runs/NAME[-VARIANT] by the recipe's name. A finished run there is opened as it is.
        overrides: fields of the recipe by dotted name, or by its last part where no other field has it.

    Returns:
        The model of the best checkpoint, as `lm_jax.load(workdir)` opens it.

    Raises:
        UserError: a recipe, a field, a value or a directory that cannot be used, or a run that failed or was
            stopped by SIGTERM.
    """
    if isinstance(config, str):
        name, config = config_module.load(config)
        workdir = f"runs/{name}" if workdir is None else workdir
    if workdir is None:
        raise UserError("no workdir for a config, which has no name", "give workdir=DIRECTORY")
    named = {fields.full_name(config, name): fields.as_text(value) for name, value in overrides.items()}
    made = experiment.override(config, named, pathlib.Path(workdir))
    if not experiment.run(made, workdir):
        raise UserError(f"the run in {workdir} was stopped before its end", "train again to resume it")
    return load(workdir)
