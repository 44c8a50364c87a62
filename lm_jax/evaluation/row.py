"""Rows of results: what one model achieves on one text, and the JSON file that keeps them."""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lm_jax import files, seal
from lm_jax.errors import UserError
from lm_jax.evaluation import audited
from lm_jax.evaluation.audited import Audit
from lm_jax.files import JsonObject

FORMAT_VERSION = 2
DOCUMENTS = "documents"  # what is resampled unless a row says otherwise

_NULL = type(None)
_P_VALUES = (  # of a difference, which files of earlier versions may lack
    "mcnemar_p_value",
    "randomization_p_value",
    "holm_p_value",
    "least_p_value",
    "least_randomization_p_value",
)
_NO_INTERVAL = "no interval: the file was written in format 1"


class Metric(NamedTuple):
    """A metric's value on one text.

    Attributes:
        value: the value; None where it is undefined or would mislead.
        interval: the ends of its 95 % confidence interval over documents; None if it has none.
        why: why the value or the interval is None; "" where neither is.
        less_is_better: whether a smaller value is better.
    """

    value: float | None
    interval: tuple[float, float] | None = None
    why: str = ""
    less_is_better: bool = True


class Difference(NamedTuple):
    """A row's difference to another row of the same text.

    Attributes:
        to: the other row's model.
        metric: the name of the metric that is compared.
        value: this row's value less the other's.
        p_value: of a paired bootstrap over documents, or over what `Row.resampled` says.
        mcnemar_p_value: of McNemar's exact test, for the accuracy of two classifiers; None for others.
        interval: the ends of the 95 % confidence interval of the value; None in files of earlier versions.
        randomization_p_value: of approximate randomisation.
        holm_p_value: that of approximate randomisation by Holm's correction for `pairs` pairs.
        pairs: how many pairs of rows were compared in this metric.
        least_p_value: the smallest p-value that the bootstrap's resamples can give.
        least_randomization_p_value: the smallest that the trials of the randomisation can give.
    """

    to: str
    metric: str
    value: float
    p_value: float
    mcnemar_p_value: float | None = None
    interval: tuple[float, float] | None = None
    randomization_p_value: float | None = None
    holm_p_value: float | None = None
    pairs: int | None = None
    least_p_value: float | None = None
    least_randomization_p_value: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The difference as a JSON object, with the value also under the metric's name, as in format 1."""
        values = {name: value for name, value in self._asdict().items() if value is not None}
        return {**values, self.metric: self.value}


@dataclass
class Row:
    """What one model achieves on one text: an element of results.json.

    Attributes:
        model: the path that it was loaded from.
        family: its kind, such as "gpt".
        task: the task that it was trained for, such as "causal".
        step: the checkpoint's step; None where the parameters do not come from steps of training.
        split: "valid" or "test" of the model's own corpus, or the file that was scored.
        documents: how many documents the text has.
        text_sha256: SHA-256 of the documents' bytes, one document after the other.
        documents_sha256: SHA-256 of the SHA-256 of each document: where it is equal, rows are about the same
            documents. "" in files of earlier versions.
        conditioned_on: what precedes the first token of a document.
        context: what a prediction may depend on: window and stride, order, or state.
        data: where the text comes from.
        counts: what was counted, by name, such as tokens.
        sums: sums that are not counts, by name, such as nats; None for infinity.
        metrics: by name. The first one is the headline. NAME/PART is a metric of a part of the text.
        difference: to the first row of a comparison, in the first metric that compares.
        differences: to each row before this one, in each metric of the whole text that compares.
        resampled: what intervals and tests resample: the documents, or blocks of their text.
        parameters: numbers that the model holds; None where that is not known.
        training_tokens: tokens of the text that it was trained on; None where that is not known.
        notes: what to know before the row is compared with others.
        protocol: how a text was read, of a model that scores left to right; see `protocol.Protocol`.
        audit: whether the scores are honest; None where that was not tested.
    """

    model: str
    family: str
    task: str
    step: int | None
    split: str
    documents: int
    text_sha256: str
    conditioned_on: str
    context: dict[str, Any]
    counts: dict[str, int]
    sums: dict[str, float | None]
    metrics: dict[str, Metric]
    data: dict[str, Any] = field(default_factory=dict)
    difference: Difference | None = None
    parameters: int | None = None
    training_tokens: int | None = None
    notes: list[str] = field(default_factory=list)
    documents_sha256: str = ""
    protocol: dict[str, Any] = field(default_factory=dict)
    audit: Audit | None = None
    differences: list[Difference] = field(default_factory=list)
    resampled: str = DOCUMENTS

    @property
    def headline(self) -> str:
        """The name of the metric that a model is judged by."""
        return next(iter(self.metrics))

    @property
    def overall(self) -> list[str]:
        """The names of the metrics of the whole text, the headline first."""
        return [name for name in self.metrics if "/" not in name]

    def as_json(self) -> dict[str, Any]:
        """The row as a JSON object.

        Counts, sums and values of metrics are also keys of their own, and so are the headline's interval as
        NAME_ci and its `why`: the layout of format 1, in which `task` was called `objective`.
        """
        headline = self.metrics[self.headline]
        values = {
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "family": self.family,
            "task": self.task,
            "objective": self.task,
            "step": self.step,
            "split": self.split,
            "documents": self.documents,
            "counts": self.counts,
            "sums": self.sums,
            "metrics": {name: metric._asdict() for name, metric in self.metrics.items()},
            "conditioned_on": self.conditioned_on,
            "context": self.context,
            "text_sha256": self.text_sha256,
            "documents_sha256": self.documents_sha256,
            "difference": self.difference and self.difference.as_json(),
            "data": self.data,
        }
        flat = {
            **self.counts,
            **self.sums,
            **{name: metric.value for name, metric in self.metrics.items()},
            f"{self.headline}_ci": headline.interval,
            "why": headline.why,
        }
        known: dict[str, Any] = {
            "parameters": self.parameters,
            "training_tokens": self.training_tokens,
            "notes": self.notes,
            "protocol": self.protocol,
            "audit": self.audit and self.audit.as_json(),
            "differences": [one.as_json() for one in self.differences],
            "resampled": None if self.resampled == DOCUMENTS else self.resampled,
        }
        return flat | values | {name: value for name, value in known.items() if value not in (None, [], {})}


def write_rows(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """Writes a results.json.

    Raises:
        OSError: no permission, or a full disk.
    """
    values = [row.as_json() for row in rows]
    files.write_json(path, values)


def read_rows(path: pathlib.Path) -> list[Row]:
    """The rows of a results.json of format 1 or 2. Unknown keys are ignored.

    Raises:
        UserError: no such file, a damaged one, not a list of rows, a newer format, or a field that is
            missing or of another type.
    """
    seal.exists(path)
    values = files.read_json(path)
    if not isinstance(values, list):
        raise UserError(f"{path} is not a list of rows", "give a results.json of train.py or eval.py")
    return [_read_row(JsonObject(value, f"{path}, row {i}")) for i, value in enumerate(values)]


def _read_row(fields: JsonObject) -> Row:
    version = fields.take("format_version", int, default=1)
    if version not in (1, FORMAT_VERSION):
        raise UserError(
            f"{fields.where} has format {version}", f"this version of lm_jax reads 1 to {FORMAT_VERSION}"
        )
    counts, sums, metrics = _read_version_1(fields) if version == 1 else _read_parts(fields)
    differs = fields.take("difference", dict, _NULL, default=None)
    return Row(
        model=fields.take("model", str),
        family=fields.take("family", str),
        task=fields.take("objective" if version == 1 else "task", str),
        step=fields.take("step", int, _NULL),
        split=fields.take("split", str),
        documents=fields.take("documents", int),
        text_sha256=fields.take("text_sha256", str),
        conditioned_on=fields.take("conditioned_on", str),
        context=fields.take("context", dict),
        counts=counts,
        sums=sums,
        metrics=metrics,
        data=fields.take("data", dict, default={}),
        difference=None if differs is None else _read_difference(fields.inner("difference")),
        parameters=fields.take("parameters", int, _NULL, default=None),
        training_tokens=fields.take("training_tokens", int, _NULL, default=None),
        notes=[str(note) for note in fields.take("notes", list, default=[])],
        documents_sha256=fields.take("documents_sha256", str, default=""),
        protocol=fields.take("protocol", dict, default={}),
        audit=audited.read(fields.inner("audit")) if "audit" in fields.values else None,
        differences=[
            _read_difference(JsonObject(value, f"{fields.where}, difference {i}"))
            for i, value in enumerate(fields.take("differences", list, default=[]))
        ],
        resampled=fields.take("resampled", str, default=DOCUMENTS),
    )


_Parts = tuple[dict[str, int], dict[str, float | None], dict[str, Metric]]


def _read_parts(fields: JsonObject) -> _Parts:
    """Counts, sums and metrics."""
    counts, sums, metrics = (fields.inner(name) for name in ("counts", "sums", "metrics"))
    read = {name: _read_metric(metrics.inner(name)) for name in metrics.values}
    if not read:
        raise UserError(f"{metrics.where} is empty", "restore the file")
    return (
        {name: counts.take(name, int) for name in counts.values},
        {name: sums.take(name, float, _NULL) for name in sums.values},
        read,
    )


def _read_version_1(fields: JsonObject) -> _Parts:
    """Counts, sums and metrics of a causal row of format 1, which had an interval for bits per byte alone."""
    counts = {name: fields.take(name, int) for name in ("tokens", "words", "bytes", "oov")}
    nats = fields.take("nats", float, _NULL)
    why = fields.take("why", str)
    metrics = {
        "bits_per_byte": Metric(
            fields.take("bits_per_byte", float, _NULL), _interval(fields, "bits_per_byte_ci"), why
        )
    }
    others = {"nats_per_token": None if nats is None or not counts["tokens"] else nats / counts["tokens"]}
    for name in ("perplexity", "word_perplexity", "perplexity_without_oov"):
        others[name] = fields.take(name, float, _NULL)
    for name, value in others.items():
        metrics[name] = Metric(value, None, why if value is None else _NO_INTERVAL)
    return counts, {"nats": nats}, metrics


def _read_metric(fields: JsonObject) -> Metric:
    return Metric(
        value=fields.take("value", float, _NULL),
        interval=_interval(fields, "interval"),
        why=fields.take("why", str),
        less_is_better=fields.take("less_is_better", bool),
    )


def _read_difference(fields: JsonObject) -> Difference:
    metric = fields.take("metric", str, default="bits_per_byte")  # format 1 compared nothing else
    optional = {name: fields.take(name, float, _NULL, default=None) for name in _P_VALUES}
    return Difference(
        to=fields.take("to", str),
        metric=metric,
        value=fields.take(metric, float),
        p_value=fields.take("p_value", float),
        interval=_interval(fields, "interval") if "interval" in fields.values else None,
        pairs=fields.take("pairs", int, _NULL, default=None),
        **optional,
    )


def _interval(fields: JsonObject, name: str) -> tuple[float, float] | None:
    """The two numbers in a field, or None."""
    ends = fields.take(name, list, _NULL)
    if ends is None:
        return None
    if len(ends) != 2 or any(type(end) not in (int, float) for end in ends):
        raise UserError(f"{fields.where}: {name} is not two numbers", "restore the file")
    return ends[0], ends[1]
