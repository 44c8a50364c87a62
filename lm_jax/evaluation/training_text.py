"""The text that a run was trained on: its documents, and how often each word occurs in it."""

import pathlib
from collections.abc import Iterator
from typing import Any

from lm_jax import files, runtime, seal
from lm_jax.config import FILE, RunParts
from lm_jax.data import cache, pipeline, provenance
from lm_jax.data.corpora import Progress
from lm_jax.data.documents import NO_FIELDS, Document, Fields
from lm_jax.errors import UserError
from lm_jax.text.word_counts import WordCounts

TRAIN = "train"


class TrainingText:
    """The training part of a run's corpus.

    It is read again from its source, by the run's recipe, or from the cache of texts, and compared with the
    hash in the run's data.json.

    Attributes:
        path: the run directory.
        sha256: of the documents' bytes, one document after the other.
    """

    def __init__(self, path: str):
        """Reads the record of a run's text.

        Raises:
            UserError: no run directory, or a damaged one.
        """
        self.path, self._directory = path, files.expand(path)
        if not is_run(path):
            raise UserError(
                f"{path} is not a run directory, so that its training text is not known",
                "name the text, such as text:GLOB",
            )
        self._facts: dict[str, Any] = provenance.read(self._directory)["splits"][TRAIN]
        self.sha256: str = self._facts["sha256"]

    def documents(self, report: Progress | None = None) -> Iterator[Document]:
        """The documents, in order.

        Raises:
            UserError: the source is not on this machine, or is no longer what the run was trained on.
        """
        run = RunParts(self._directory)
        fields = Fields(labels=(run.label,)) if run.label else NO_FIELDS
        if run.task is not None:
            fields = run.task.fields()
        found = pipeline.training_documents(run.data, fields, progress=report)
        if found.sha256 != self.sha256:
            raise UserError(
                f"the text of {run.data.corpus} is no longer what {self.path} was trained on",
                "restore it, or the Python version it came with",
            )
        return found.read(report)

    def word_counts(self, report: Progress | None = None) -> WordCounts:
        """How often each word occurs; counted once, and kept in the cache. Errors as for `documents`."""
        facts = [self._facts[name] for name in ("sha256", "num_documents", "num_words")]
        directory = runtime.cache_dir() / f"words-{cache.key('words', *facts)}"

        def fill(to: pathlib.Path) -> dict[str, Any]:
            WordCounts(document.text for document in self.documents(report)).save(to)
            return {}

        cache.build(directory, fill)
        return WordCounts.load(directory)


def is_run(path: str) -> bool:
    """Whether a model's path is a run directory, whose training text is on record."""
    directory = files.expand(path)
    return (directory / FILE).is_file() and seal.exists(directory / provenance.FILE)
