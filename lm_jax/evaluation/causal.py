"""Any models, any text: how well each predicts it, in numbers that compare."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data.corpora import Document
from lm_jax.errors import UserError
from lm_jax.language_models.base import LanguageModel, Scores
from lm_jax.metrics import likelihood, significance

_CHARACTERS_PER_GROUP = 1 << 20  # scored at a time, so that memory stays bounded whatever the corpus


@dataclass
class Row:
    """What one model makes of one text; a row of results.json.

    Sums are over the documents; each document counts an end-of-text token among its tokens.
    """

    model: str  # the path it was loaded from
    family: str
    objective: str
    step: int | None  # the checkpoint, where training goes by steps
    split: str  # "valid" or "test" of the model's own corpus, or the file that was scored
    documents: int
    tokens: int
    words: int  # white-space separated
    bytes: int  # of UTF-8
    oov: int  # tokens that stand for something outside the vocabulary
    nats: float | None  # the sum of -ln p; null where some of the text has probability 0
    perplexity: float | None  # exp(nats / tokens)
    perplexity_without_oov: float | None  # the same over tokens inside the vocabulary
    word_perplexity: float | None  # exp(nats / words)
    bits_per_byte: float | None  # nats / (bytes ln 2), where every byte was paid for
    bits_per_byte_ci: list[float] | None  # 95 %, by bootstrap over documents
    why: str  # why a value is null; "" where none is
    conditioned_on: str  # what precedes the first token of a document
    context: dict[str, Any]  # length and stride of the windows that were scored
    text_sha256: str  # of the documents' bytes, one after the other
    difference: dict[str, Any] | None = None  # bits per byte less the first row's, with the paired p-value
    data: dict[str, Any] = field(default_factory=dict)  # where the text comes from

    def as_json(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return asdict(self)


class Text(NamedTuple):
    """What models are evaluated on.

    Attributes:
        name: "valid" or "test" of a run's corpus, or a file.
        documents: each is scored on its own; their bytes, one after the other, are the text.
        data: where it comes from, for the record.
    """

    name: str
    documents: Sequence[Document]
    data: dict[str, Any] = {}  # noqa: RUF012 (a NamedTuple's default, never written to)


class Evaluation(NamedTuple):
    """A row with the sums of each document behind it: nats [D] and bytes [D], float64."""

    row: Row
    nats_D: np.ndarray
    bytes_D: np.ndarray


def evaluate(
    model: LanguageModel,
    text: Text,
    name: str,
    stride: int | None = None,
    report: Callable[[str, int, int], None] = lambda description, done, total: None,
) -> Evaluation:
    """Scores a text.

    Args:
        model: any family.
        text: its documents.
        name: what to call the model in the row.
        stride: see `LanguageModel.score`.
        report: called with (description, documents done, documents in all).

    Raises:
        UserError: no documents, or a text that the model cannot read.
    """
    if not text.documents:
        raise UserError(f"nothing to score in {text.name}", "give a text with at least one document")
    digest, found, complete, conditioned_on = hashlib.sha256(), [], True, ""
    for group in _groups(text.documents):
        for document, scores in zip(group, model.score([d.text for d in group], stride), strict=True):
            digest.update(scores.text)
            found.append(_count(document, scores))
            complete, conditioned_on = complete and scores.complete, scores.conditioned_on
        report(f"scoring {text.name}", len(found), len(text.documents))
    nats_D, bytes_D = (np.array([getattr(c, name) for c in found], float) for name in ("nats", "bytes"))
    total = _Counts(*(sum(values) for values in zip(*found, strict=True)))
    bits, interval, why = _bits_per_byte(nats_D, bytes_D, complete, total.oov)
    known_nats, known = total.nats - total.unknown_nats, total.tokens - total.oov
    row = Row(
        model=name,
        family=model.family,
        objective=model.objective,
        step=model.step,
        split=text.name,
        documents=len(found),
        tokens=total.tokens,
        words=total.words,
        bytes=total.bytes,
        oov=total.oov,
        nats=_finite(total.nats),
        perplexity=_finite(likelihood.perplexity(total.nats, total.tokens)),
        perplexity_without_oov=_finite(likelihood.perplexity(known_nats, known)),
        word_perplexity=_finite(likelihood.perplexity(total.nats, total.words)),
        bits_per_byte=bits,
        bits_per_byte_ci=interval,
        why=why,
        conditioned_on=conditioned_on,
        context=model.describe_context(stride),
        text_sha256=digest.hexdigest(),
        data=text.data,
    )
    return Evaluation(row, nats_D, bytes_D)


class _Counts(NamedTuple):
    """What is added up over documents."""

    nats: float
    bytes: int
    tokens: int
    words: int
    oov: int
    unknown_nats: float  # of the tokens that are out of vocabulary


def _count(document: Document, scores: Scores) -> _Counts:
    return _Counts(
        nats=-float(scores.log_probs.sum()),
        bytes=len(scores.text),
        tokens=len(scores.log_probs),
        words=len(document.text.split()),
        oov=int(scores.unknown.sum()),
        unknown_nats=-float(scores.log_probs[scores.unknown].sum()),
    )


def compare(evaluations: Sequence[Evaluation], seed: int = 0) -> None:
    """Writes into each row its difference to the first in bits per byte, by paired bootstrap over documents.

    Rows without bits per byte, of other documents, or of a single document have none.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        rows = (first.row, other.row)
        same = first.row.text_sha256 == other.row.text_sha256 and len(first.nats_D) == len(other.nats_D)
        if not same or len(first.nats_D) < 2 or any(row.bits_per_byte is None for row in rows):
            continue
        test = significance.paired_bootstrap(
            (other.nats_D, other.bytes_D),
            (first.nats_D, first.bytes_D),
            metric=likelihood.bits_per_byte,
            seed=seed,
        )
        other.row.difference = {
            "to": first.row.model,
            "bits_per_byte": float(test.difference),
            "p_value": float(test.p_value),
        }


def _groups(documents: Sequence[Document]) -> Iterator[list[Document]]:
    group, size = [], 0
    for document in documents:
        group.append(document)
        size += len(document.text)
        if size >= _CHARACTERS_PER_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _bits_per_byte(
    nats_D: np.ndarray, bytes_D: np.ndarray, complete: bool, oov: int
) -> tuple[float | None, list[float] | None, str]:
    if not complete:
        unpaid = f"{oov} unknown tokens stand for text that" if oov else "white space between tokens"
        return None, None, f"no bits per byte: {unpaid} was not paid for"
    if not math.isfinite(nats_D.sum()):
        return None, None, "no perplexity: some of the text has probability 0"
    bits = float(likelihood.bits_per_byte(float(nats_D.sum()), float(bytes_D.sum())))
    if len(nats_D) < 2:
        return bits, None, "no interval: it is over documents, and there is one"
    interval = significance.bootstrap_interval(nats_D, bytes_D, metric=likelihood.bits_per_byte)
    return bits, [float(interval.low), float(interval.high)], ""


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
