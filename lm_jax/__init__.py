"""One ruler for every language model."""

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Offers `lm_jax.load(path)` without importing jax before it is used."""
    if name == "load":
        from lm_jax.language_models.load import load

        return load
    raise AttributeError(f"module 'lm_jax' has no attribute {name!r}")
