"""How large an opened model is, and how it shows itself in a Python session."""

from typing import Any

from lm_jax.models.base import num_parameters
from lm_jax.ngram.model import NGramModel


def size_of(model: Any) -> int | None:
    """How many weights a model has, or probabilities and back-offs of n-grams; None where it is unknown."""
    of_ngrams = getattr(model, "model", None)
    if isinstance(of_ngrams, NGramModel):
        return sum(map(len, (*of_ngrams.log10_probs, *of_ngrams.log10_backoffs)))
    if not hasattr(model, "params"):
        return None
    return num_parameters(model.params)


class Described:
    """A model whose `repr` is a line: its family, its task, its checkpoint and its size."""

    family: str
    task: str
    step: int | None

    def __repr__(self) -> str:
        size = size_of(self)
        facts = [f"task {self.task}"]
        facts += [] if self.step is None else [f"step {self.step}"]
        facts += [] if size is None else [f"{size:,} parameters"]
        return f"<lm_jax {self.family}: {', '.join(facts)}>"
