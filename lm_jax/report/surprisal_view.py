"""The surprisal of each word of a text under several models, small enough for a page.

The text is stored once. Words are what `lm_jax.text.words` defines, the same for all models, and the
page's script finds them again: stored are two bytes for the surprisal of each word and one for its tokens.
"""

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.evaluation.base import Evaluation
from lm_jax.evaluation.row import Row
from lm_jax.evaluation.surprisals import Surprisals, of_words
from lm_jax.language_models.base import ScoredText
from lm_jax.text.words import word_spans

# The code of x bits is round(_STEPS · ln(1 + x/_BITS)): off by at most 0.0025 + 0.0125 % of x.
_BITS, _STEPS = 20.0, 4000.0
PRECISION = "within 0.0025 bits plus 0.0125 %"
_INFINITE = 65535
_MOST_TOKENS = 127  # of a word that are counted; the highest bit tells that one of them is unknown
# Together these keep a page of five models below 3 MB, whatever the text.
_MOST_BYTES = 256_000  # of text; a character takes at most six in a script
_MOST_DOCUMENTS = 2000
_MOST_NUMBERS = 300_000  # words times models, at four characters each


class View(NamedTuple):
    """What the script surprisal_view.js shows, and what is said about it.

    Attributes:
        data: a JSON object: `models`, `documents`, and the constants of the code of surprisals.
        left_out: what of the text is not in `data`; "" for nothing.
        others: names of models that are not shown: they were scored on another text, or give none a
            probability left to right.
    """

    data: dict[str, Any]
    left_out: str
    others: list[str]


class _Scored(NamedTuple):
    """A model that is shown; `place` is that of its row in the report, which gives it its colour."""

    place: int
    row: Row
    texts: Sequence[ScoredText]


class _Part(NamedTuple):
    """The beginning of one document."""

    number: int
    text: bytes
    words_W2: np.ndarray
    is_whole: bool


def view(evaluations: Sequence[Evaluation]) -> View | None:
    """The view of the models that were scored on the first one's documents; None if none was scored.

    Args:
        evaluations: one for each row of the report.
    """
    scored = [_Scored(place, one.row, one.scored) for place, one in enumerate(evaluations) if one.scored]
    if not scored:
        return None
    texts = [one.text for one in scored[0].texts]
    shown = [one for one in scored if [text.text for text in one.texts] == texts]
    parts = _first_parts(texts, _MOST_NUMBERS // len(shown))
    names = evaluations[shown[0].place].documents or [f"document {i + 1}" for i in range(len(texts))]
    documents = [
        {
            "name": names[part.number],
            "text": part.text.decode(),
            "whole": part.is_whole,
            "rates": [_rate(one.texts[part.number]) for one in shown],
        }
        for part in parts
    ]
    models = [_model(one, parts) for one in shown]
    data = {"bits": _BITS, "steps": _STEPS, "models": models, "documents": documents}
    places = {one.place for one in shown}
    known = {evaluations[place].row.model for place in places}
    others = [one.row.model for one in evaluations if one.row.model not in known]
    return View(data, _left_out(texts, parts), others)


def _first_parts(texts: Sequence[bytes], most_words: int) -> list[_Part]:
    """The first documents; the last of them may be cut after a word."""
    parts: list[_Part] = []
    num_bytes = _MOST_BYTES
    for number, text in enumerate(texts[:_MOST_DOCUMENTS]):
        words_W2 = word_spans(text)
        if len(text) <= num_bytes and len(words_W2) < most_words:
            parts.append(_Part(number, text, words_W2, True))
            num_bytes, most_words = num_bytes - len(text), most_words - len(words_W2) - 1
            continue
        kept = min(int(np.searchsorted(words_W2[:, 1], num_bytes, side="right")), most_words)
        if kept > 0:
            parts.append(_Part(number, text[: words_W2[kept - 1, 1]], words_W2[:kept], False))
        break
    return parts


def _left_out(texts: Sequence[bytes], parts: Sequence[_Part]) -> str:
    shown, total = sum(len(part.text) for part in parts), sum(map(len, texts))
    if len(parts) == len(texts) and shown == total:
        return ""
    return (
        f"The first {shown:,} of {total:,} bytes are shown, of {len(parts):,} of {len(texts):,} documents, "
        "to keep the page small."
    )


def _model(one: _Scored, parts: Sequence[_Part]) -> dict[str, Any]:
    """The numbers of one model: of all words, document after document; each whole document has its end."""
    found = [_surprisals(one.texts[part.number], part) for part in parts]
    nats = np.concatenate([np.zeros(0), *(each.nats for each in found)])
    tokens = np.concatenate([np.zeros(0, np.int64), *(each.num_tokens for each in found)])
    unknown = np.concatenate([np.zeros(0, bool), *(each.num_unknown > 0 for each in found)])
    counts = np.minimum(tokens, _MOST_TOKENS) | (unknown << 7)
    return {
        "name": one.row.model,
        "place": one.place,
        "mark": _mark(one),
        "surprisals": _base64(encode(nats / np.log(2)).astype("<u2")),
        "tokens": _base64(counts.astype(np.uint8)),
    }


def _mark(one: _Scored) -> str:
    """What to know of a model's surprisals; "" for nothing."""
    headline, unknown = one.row.metrics[one.row.headline], one.row.counts.get("oov", 0)
    counted = ""
    if unknown:
        spelled = any(text.log_spelling is not None for text in one.texts)
        counted = (
            f"tokens outside the vocabulary: {unknown:,}{', with their bytes scored' if spelled else ''}"
        )
    return "; ".join(filter(None, (headline.why if headline.value is None else "", counted)))


def _surprisals(scored: ScoredText, part: _Part) -> Surprisals:
    """Of each word of a part, and of what follows the last where the document is whole."""
    words_W2 = part.words_W2 if part.is_whole else word_spans(scored.text)
    made = of_words(scored._replace(log_probs=scored.byte_log_probs), words_W2)
    kept = len(made.nats) if part.is_whole else len(part.words_W2)
    return Surprisals(*(array[:kept] for array in made))


def _rate(scored: ScoredText) -> float | None:
    """Bits per byte of one document; None where it has none, or no finite ones."""
    nats = -float(scored.byte_log_probs.sum())
    if not scored.complete or not scored.text or not np.isfinite(nats):
        return None
    return round(nats / np.log(2) / len(scored.text), 6)


def encode(bits: np.ndarray) -> np.ndarray:
    """Codes of surprisals, int64 below 2**16: finer for small ones, and 65535 for infinite ones.

    Args:
        bits: float64, not negative, but for rounding; below 2e8 or infinite.
    """
    finite = np.where(np.isfinite(bits), np.maximum(bits, 0), 0)
    codes = np.minimum(np.rint(_STEPS * np.log1p(finite / _BITS)), _INFINITE - 1)
    return np.where(np.isfinite(bits), codes, _INFINITE).astype(np.int64)


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
