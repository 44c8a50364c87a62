"""What evaluators of generated texts share: settings, resumable generation, and metrics."""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax import files
from lm_jax.data.corpora import Progress
from lm_jax.evaluation.base import Statistics
from lm_jax.language_models.base import Generates
from lm_jax.metrics import chrf, generation, overlap, significance, text
from lm_jax.metrics.profiles import get_profile

_AT_ONCE = 64  # texts between two updates of the progress bar, and between two writes
ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_BLEU, _ROUGE = "sacrebleu-13a", "rouge_score"


class Decoding(NamedTuple):
    """How texts are generated in an evaluation.

    Attributes:
        options: of `generate`; those left out are the model's own.
        max_tokens: the maximum number of tokens of a text; None: the model's own.
        store: a directory that keeps what was generated, so that a run that was stopped goes on; None: none.
        prompt_words: words of each document that are continued, in `evaluation.continuation`.
    """

    options: Mapping[str, Any] = {}  # never written to
    max_tokens: int | None = None
    store: pathlib.Path | None = None
    prompt_words: int = 32

    def context(self, model: Any) -> dict[str, Any]:
        """The settings, for a result."""
        own = dict(getattr(getattr(model, "trained", None), "generation", {}))
        limit = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        options = {
            name: getattr(value, "family", value) if name in ("draft", "fusion") else value
            for name, value in self.options.items()
        }
        return {"decoding": {**own, **options, **limit}}


def generate(
    model: Generates, prompts: Sequence[str], decoding: Decoding, name: str, report: Progress
) -> list[str]:
    """A text for each prompt, with a progress bar.

    With `decoding.store`, texts are kept in a file as they are made, and those of an earlier call with the
    same model, prompts and settings are not made again. A damaged line there is made again. Nothing is kept
    where another model drafts or is fused, nor of a model without `params`, such as n-grams: a digest of the
    parameters tells models apart.
    """
    helped = not decoding.options.keys().isdisjoint(("draft", "fusion"))
    kept = None
    if decoding.store is not None and not helped and hasattr(model, "params"):
        kept = _Kept(decoding.store, _digest(model, prompts, decoding))
    made = [] if kept is None else kept.read(len(prompts))
    limit: Any = {} if decoding.max_tokens is None else {"max_tokens": decoding.max_tokens}
    while len(made) < len(prompts):
        report(f"generating {name}", len(made), len(prompts))
        group = prompts[len(made) : len(made) + _AT_ONCE]
        texts = [one.text for one in model.generate(group, **limit, **decoding.options)]
        if kept is not None:
            kept.append(texts)
        made += texts
    report(f"generating {name}", len(made), len(prompts))
    return made


def text_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Statistics]:
    """BLEU, chrF, ROUGE, the ratio of lengths and distinct-2 of texts, by document."""
    bleu = text.bleu_statistics(hypotheses, references, _BLEU)
    found = {
        "bleu": Statistics(tuple(map(np.asarray, bleu)), overlap.bleu, less_is_better=False),
        "chrf": Statistics(
            tuple(map(np.asarray, chrf.chrf_statistics(hypotheses, references))),
            chrf.chrf,
            less_is_better=False,
        ),
    }
    ones = np.ones(len(hypotheses))
    for name, scores in text.rouge(hypotheses, references, _ROUGE, types=ROUGES).items():
        found[name] = Statistics((np.asarray(scores.f), ones), significance.ratio, less_is_better=False)
    lengths = (np.asarray(bleu.hypothesis_length), np.asarray(bleu.reference_length))
    found["length_ratio"] = Statistics(lengths, significance.ratio, less_is_better=False)
    distinct, ngrams = generation.distinct_n(text.token_ids(hypotheses, _BLEU), 2)
    found["distinct_2"] = Statistics(
        (np.asarray(distinct), np.asarray(ngrams)), significance.ratio, less_is_better=False
    )
    return found


def signatures() -> dict[str, str]:
    """The settings of BLEU, chrF and ROUGE, for a result."""
    return {
        "bleu": get_profile(_BLEU).bleu_signature(1, "exp", effective_order=False, order=4),
        "chrf": chrf.signature(1),
        "rouge": get_profile(_ROUGE).rouge_signature(),
    }


class _Kept:
    """Generated texts in a file, a line each with a digest of it and of its place."""

    def __init__(self, directory: pathlib.Path, key: str):
        self._path = directory / f"{key[:16]}.jsonl"
        self._count = 0
        files.make_directory(directory)

    def read(self, most: int) -> list[str]:
        """The texts up to the first damaged line, which is cut off with what follows it."""
        if not self._path.exists():
            return []
        texts: list[str] = []
        size = 0
        for line in self._path.read_bytes().splitlines(keepends=True)[:most]:
            text = _checked(line, len(texts))
            if text is None:
                break
            texts.append(text)
            size += len(line)
        self._count = len(texts)
        with self._path.open("r+b") as file:
            file.truncate(size)
        return texts

    def append(self, texts: Sequence[str]) -> None:
        """Adds texts, on the disk when this returns."""
        places = range(self._count, self._count + len(texts))
        lines = "".join(
            json.dumps({"text": text, "digest": _short(text, place)}) + "\n"
            for text, place in zip(texts, places, strict=True)
        )
        self._count += len(texts)
        with self._path.open("ab") as file:
            file.write(lines.encode())
            files.flush(file)


def _checked(line: bytes, place: int) -> str | None:
    """The text of a line; None if the line is damaged, or belongs to another place."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    text = values.get("text") if isinstance(values, dict) and line.endswith(b"\n") else None
    return text if isinstance(text, str) and values.get("digest") == _short(text, place) else None


def _short(text: str, place: int) -> str:
    return hashlib.sha256(f"{place} {text}".encode(errors="surrogatepass")).hexdigest()[:16]


def _digest(model: Any, prompts: Sequence[str], decoding: Decoding) -> str:
    """What decides the texts: parameters, tokenizer, prompts and settings."""
    digest = hashlib.sha256()
    settings = [model.family, model.step, decoding.max_tokens, sorted(decoding.options.items(), key=str)]
    digest.update(repr([*settings, decoding.context(model), list(prompts)]).encode(errors="surrogatepass"))
    digest.update(model.tokenizer.fingerprint().encode())
    for leaf in jax.tree.leaves(model.params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
