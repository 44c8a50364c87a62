"""Where the text of a run comes from: the file data.json in its directory."""

import pathlib
from typing import Any

from lm_jax import seal
from lm_jax.errors import UserError
from lm_jax.files import JsonObject

FILE = "data.json"


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """What `pipeline.prepare` said of a run's text, for the record.

    Raises:
        UserError: no such file, a damaged one, or a field that is missing or of another type.
    """
    seal.check(workdir, FILE)
    values = JsonObject.read(workdir / FILE)
    for name in ("corpus", "documents", "split", "sha256"):
        values.take(name, str)
    for name in values.values:  # of the rest, that results.json can hold it
        values.take(name, str, dict)
    if "fields" in values.values:  # of a task that reads fields of documents
        classes = values.inner("fields").inner("classes")
        for name in classes.values:
            if not all(isinstance(one, str) for one in classes.take(name, list)):
                raise UserError(f"{classes.where}: {name} is not a list of texts", "restore the file")
    splits = values.inner("splits")
    for name in splits.values:
        part = splits.inner(name)
        for number in ("num_documents", "num_bytes", "num_words", "num_tokens"):
            part.take(number, int)
    tokenizer = values.inner("tokenizer")
    tokenizer.take("kind", str)
    tokenizer.take("vocab_size", int)
    tokenizer.take("sha256", str)
    return values.values
