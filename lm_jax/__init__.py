"""One ruler for every language model."""

from typing import Any

__all__ = ["__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    """Offers `load(path)` and `train(recipe)` without importing jax before, and the installed version."""
    if name == "load":
        from lm_jax.language_models.load import load

        return load
    if name == "train":
        from lm_jax.runs import train

        return train
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("lm_jax")
        except metadata.PackageNotFoundError:  # run from its sources
            return "unknown"
    raise AttributeError(f"module 'lm_jax' has no attribute {name!r}")
