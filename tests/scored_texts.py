"""Evaluations of made-up models on given texts, for tests of what reports show of them."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from lm_jax.evaluation.base import Evaluation
from lm_jax.evaluation.row import Metric, Row
from lm_jax.language_models.base import ScoredText

HOSTILE = (
    "</script><img src=x onerror=hacked=1> <!--<script> ]]> &amp; \" ' \u2028\u2029 \u202eRTL שלום مرحبا "
    "👩‍👩‍👧‍👦 \U0001d538 e\u0301\u0323 \u0301 "
    "\0NUL\0 \x0b\x0c\x7f\x85\ufeff\ufffe a\r\nb\rc\td\\u003c ${x} `y`"
)


def scored(text: str, seed: int = 0, scale: float = 8.0) -> ScoredText:
    """A token for each run of white space with the word after it, and one for the end; exponential nats."""
    data = text.encode()
    ends = [match.end() for match in re.finditer(rb"[ \t\n\r\0]*[^ \t\n\r\0]+", data)]
    ends = ends + [len(data)] * (not ends or ends[-1] < len(data))  # a token of white space alone
    starts = [0, *ends[:-1]]
    spans = np.array([*zip(starts, ends, strict=True), (len(data), len(data))], np.int64)
    nats = np.random.default_rng(seed).exponential(scale, len(spans))
    return ScoredText(data, spans, -nats, np.zeros(len(spans), bool), "<s>", True)


def row(name: str, texts: Sequence[str], value: float = 1.5, **given: object) -> Row:
    """A row of a causal model on texts."""
    digest = hashlib.sha256("".join(texts).encode()).hexdigest()
    fields: dict = {
        "model": name, "family": "gpt", "task": "causal", "step": 7, "split": "test", "documents": len(texts),
        "text_sha256": digest, "conditioned_on": "<s>", "context": {"window": 128},
        "counts": {"tokens": 10, "bytes": len("".join(texts).encode()), "oov": 0}, "sums": {},
        "metrics": {
            "bits_per_byte": Metric(value, (value - 0.1, value + 0.1)),
            "perplexity": Metric(value * 9),
        },
    }  # fmt: skip
    return Row(**(fields | given))


def evaluation(name: str, texts: Sequence[str], seed: int = 0, value: float = 1.5) -> Evaluation:
    """A model that gave texts random probabilities."""
    made = [scored(text, 100 * seed + i) for i, text in enumerate(texts)]
    names = [f"document {i}" for i in range(len(texts))]
    return Evaluation(row(name, texts, value), {}, scored=made, documents=names)


def words(num_bytes: int, seed: int = 0) -> str:
    """Lines of words of one to twelve letters."""
    random = np.random.default_rng(seed)
    letters = random.choice(list("etaoinshrdlucmfwypvbgkq"), num_bytes)
    places = np.cumsum(random.integers(2, 14, num_bytes // 5))
    places = places[places < num_bytes]
    letters[places] = " "
    letters[places[::11]] = "\n"
    return "".join(letters)
