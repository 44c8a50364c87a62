"""What a report shows of the runs that its models come from."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lm_jax import files, seal
from lm_jax.config import FILE
from lm_jax.progress import read_metrics


class Run(NamedTuple):
    """A run directory.

    Attributes:
        curve: the lines of its metrics.jsonl; empty without one.
        config: the fields of its config.json by their dotted names; empty without one.
    """

    curve: Sequence[Mapping[str, float]] = ()
    config: Mapping[str, Any] = {}


def read(directory: pathlib.Path) -> Run:
    """What a model's directory tells; an empty run of what is none.

    Raises:
        UserError: a file is damaged.
    """
    path = directory / FILE
    config = files.parse_json(files.read_text(path), str(path)) if seal.exists(path) else {}
    return Run(read_metrics(directory / "metrics.jsonl"), dict(_flat(config)))


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each member of nested objects, with its dotted name."""
    if isinstance(value, dict) and (value or not prefix):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    elif prefix:
        yield prefix, value
