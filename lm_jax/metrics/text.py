"""BLEU and ROUGE of strings, preprocessed as by each published tool.

    corpus_bleu(hypotheses, references)                          # sacrebleu's default
    corpus_bleu(hypotheses, references, profile="sacrebleu-zh")
    rouge(hypotheses, references)["rougeL"].f                    # rouge_score, one number for each pair

`references` has one entry for each hypothesis: a string, or a list of strings where there are several.
The numbers lie in [0, 1] under every profile, in Python and in files. Where they are shown, in tables and by
`print`, they are on the scale of the profile's tool: 0 to 100 for sacrebleu's BLEU and chrF, else 0 to 1.
`profiles.py` lists the profiles.
A profile that drops all characters of a text, such as "rouge_score" for Chinese, causes a warning.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lm_jax.errors import UserError
from lm_jax.metrics import overlap
from lm_jax.metrics.host import whole as whole_number
from lm_jax.metrics.overlap import BleuStatistics, Rouge
from lm_jax.metrics.profiles import Profile, get_profile
from lm_jax.metrics.ragged import Ragged, bucketed, encode
from lm_jax.text.words import is_blank

References = Sequence[str] | Sequence[Sequence[str]]


class Score(float):
    """A number in [0, 1] that prints on its tool's scale, with the signature of its settings.

    Attributes:
        signature: the settings.
        scale: what the tool multiplies it by before it prints it.
    """

    signature: str
    scale: int

    def __new__(cls, value: float, signature: str = "", scale: int = 1) -> Score:
        score = super().__new__(cls, value)
        score.signature, score.scale = signature, scale
        return score

    def __str__(self) -> str:
        return f"{on_scale(self, self.scale)} ({self.signature})"


def on_scale(value: float, scale: int, sign: str = "") -> str:
    """A share as it is shown on a tool's scale: two decimals from 0 to 100, four from 0 to 1."""
    return format(float(value) * scale, f"{sign}.{4 if scale == 1 else 2}f")


def corpus_bleu(
    hypotheses: Sequence[str],
    references: References,
    profile: str | Profile = "sacrebleu-13a",
    *,
    max_order: int = 4,
    weights: Sequence[float] | None = None,
    smoothing: str | None = None,
    smoothing_value: float | None = None,
    effective_order: bool = False,
) -> Score:
    """BLEU of a corpus: `overlap.bleu` of the sums over its sentences.

    Args:
        hypotheses: one text for each example.
        references: one reference, or a list of them, for each example.
        profile: a name or a `Profile`.
        max_order: the length of the longest n-grams.
        weights: of the orders; None: equal.
        smoothing: a key of `smoothing.SMOOTHINGS`; None: the profile's.
        smoothing_value: as for `overlap.bleu`.
        effective_order: as for `overlap.bleu`.
    """
    profile = get_profile(profile)
    smoothing = profile.smoothing if smoothing is None else smoothing
    statistics = bleu_statistics(hypotheses, references, profile, max_order=max_order)
    score = overlap.bleu(
        *(x.sum(axis=0, dtype=float) for x in statistics),
        order=max_order,
        weights=weights,
        smoothing=smoothing,
        smoothing_value=smoothing_value,
        effective_order=effective_order,
    )
    counts = {1 if isinstance(r, str) else len(r) for r in references}
    num_references = counts.pop() if len(counts) == 1 else "var"
    signature = profile.bleu_signature(num_references, smoothing, effective_order, max_order)
    return Score(float(score), signature, profile.scale)


def sentence_bleu(
    hypotheses: str | Sequence[str],
    references: str | References,
    profile: str | Profile = "sacrebleu-13a",
    *,
    max_order: int = 4,
    weights: Sequence[float] | None = None,
    smoothing: str | None = None,
    smoothing_value: float | None = None,
    effective_order: bool | None = None,
) -> Score | np.ndarray:
    """BLEU of each sentence, [D]; of one sentence where `hypotheses` is a string.

    The arguments are those of `corpus_bleu`; `effective_order` None: the profile's, True for sacrebleu's.
    """
    profile = get_profile(profile)
    smoothing = profile.smoothing if smoothing is None else smoothing
    if effective_order is None:
        effective_order = profile.effective_order and weights is None
    statistics = bleu_statistics(hypotheses, references, profile, max_order=max_order)
    scores = overlap.bleu(
        *statistics,
        order=max_order,
        weights=weights,
        smoothing=smoothing,
        smoothing_value=smoothing_value,
        effective_order=effective_order,
    )
    if not isinstance(hypotheses, str):
        return np.asarray(scores)
    num_references = 1 if isinstance(references, str) else len(references)
    signature = profile.bleu_signature(num_references, smoothing, effective_order, max_order)
    return Score(float(scores[0]), signature, profile.scale)


def bleu_statistics(
    hypotheses: str | Sequence[str],
    references: str | References,
    profile: str | Profile = "sacrebleu-13a",
    *,
    max_order: int = 4,
) -> BleuStatistics:
    """The counts of each sentence, arrays [D, ...], which `overlap.bleu` and `significance` take."""
    profile, max_order = get_profile(profile), whole_number(max_order, "max_order", 1)
    hypothesis_list, reference_lists = as_lists(hypotheses, references)
    encoded = encode_texts(hypothesis_list + [text for texts in reference_lists for text in texts], profile)
    num_references = np.array([len(texts) for texts in reference_lists])
    hypothesis_rows = np.arange(len(hypothesis_list))
    reference_rows = _ranges(num_references, len(hypothesis_list))
    count = functools.partial(_bleu_statistics, max_order=max_order, min_total=profile.min_total)
    return bucketed(count, [(encoded, hypothesis_rows), (encoded, reference_rows)], num_references)


def rouge(
    hypotheses: str | Sequence[str],
    references: str | References,
    profile: str | Profile = "rouge_score",
    *,
    types: Sequence[str] = ("rouge1", "rouge2", "rougeL"),
    stem: bool = False,
    beta: float = 1.0,
) -> dict[str, Rouge]:
    """Precision, recall and F of each pair, by type; each [D], or numbers where `hypotheses` is a string.

    Of several references the one with the largest F counts, separately for each type, as in rouge_score. A
    text without tokens scores 0.

    Args:
        hypotheses: one text for each example.
        references: one reference, or a list of them, for each example.
        profile: a name or a `Profile`.
        types: "rouge1", "rouge2" and so on, "rougeL" of a text as one sentence, "rougeLsum" of its sentences.
            Under "rouge", "rougeL" is that package's rouge-l, which splits sentences, too.
        stem: compares Porter's stems.
        beta: weighs recall β times as much as precision in F.
    """
    profile = get_profile(profile).stemmed() if stem else get_profile(profile)
    _check_types(types)
    score = functools.partial(overlap.precision_recall_f, beta=beta, epsilon=profile.epsilon)
    hypothesis_list, reference_lists = as_lists(hypotheses, references)
    reference_list = [text for texts in reference_lists for text in texts]
    num_references = np.array([len(texts) for texts in reference_lists])
    hypothesis_of_pair = np.repeat(np.arange(len(hypothesis_list)), num_references)
    texts = hypothesis_list + reference_list
    rows = (hypothesis_of_pair, len(hypothesis_list) + np.arange(len(reference_list)))
    of_sentences = {t for t in types if t == "rougeLsum" or (t == "rougeL" and profile.distinct)}
    scores: dict[str, Any] = {}
    if whole := tuple(t for t in types if t not in of_sentences):
        encoded = encode_texts(texts, profile)
        count = functools.partial(_rouge_whole, types=whole, distinct=profile.distinct)
        counts = bucketed(count, [(encoded, r) for r in rows])
        scores |= {t: score(counts[t]) for t in whole}
    if of_sentences:
        encoded, sentences = _encode_sentences(texts, profile)
        count = functools.partial(_rouge_sentences, distinct=profile.distinct)
        counts = bucketed(count, [(encoded, sentences[r]) for r in rows])
        scores |= dict.fromkeys(of_sentences, score(counts))
    best = {t: _best_reference(scores[t], num_references) for t in types}
    if isinstance(hypotheses, str):
        return {t: Rouge(*(float(np.asarray(x)[0]) for x in best[t])) for t in types}
    return best


def token_ids(texts: Sequence[str], profile: str | Profile = "nltk") -> np.ndarray:
    """The texts for `overlap` and `generation`: int32 [B, T], equal where tokens are, −1 after the end."""
    texts = _texts(texts)
    encoded = encode_texts(texts, get_profile(profile))
    return encoded.padded(np.arange(len(texts)), int(encoded.lengths.max()))


_bleu_statistics = jax.jit(overlap.bleu_statistics, static_argnames=("max_order", "min_total"))


@functools.partial(jax.jit, static_argnames=("types", "distinct"))
def _rouge_whole(hypotheses_BT, references_BS, types, distinct):
    counts = {"rougeL": overlap.rouge_l(hypotheses_BT, references_BS)} if "rougeL" in types else {}
    if orders := [int(t[5:]) for t in types if t != "rougeL"]:
        by_order = overlap.rouge_orders(hypotheses_BT, references_BS, max(orders), distinct=distinct)
        counts |= {f"rouge{n}": by_order[n - 1] for n in orders}
    return counts


_rouge_sentences = jax.jit(overlap.rouge_lsum, static_argnames="distinct")


def as_lists(
    hypotheses: str | Sequence[str], references: str | References
) -> tuple[list[str], list[list[str]]]:
    """One hypothesis and the list of its references for each example."""
    if isinstance(hypotheses, str):
        pairs = [(hypotheses, references)]
    elif not all(isinstance(x, Sequence) or np.ndim(x) == 1 for x in (hypotheses, references)):
        raise UserError("hypotheses and references that are no lists of texts", "give lists of strings")
    elif isinstance(references, str) or len(hypotheses) != len(references):
        num = 1 if isinstance(references, str) else len(references)
        raise UserError(
            f"{len(hypotheses)} hypotheses do not pair with {num} references",
            "give one reference, or one list of references, for each hypothesis",
        )
    else:
        pairs = list(zip(hypotheses, references))
    reference_lists = [[r] if isinstance(r, str) else _texts(r) for _, r in pairs]
    if not pairs or not all(reference_lists):
        raise UserError(
            "there are no pairs, or a hypothesis has no reference",
            "give each hypothesis a reference, and at least one pair",
        )
    return _texts([hypothesis for hypothesis, _ in pairs]), reference_lists


def _texts(texts: Any) -> list[str]:
    """A list of strings as it is."""
    is_list = isinstance(texts, Sequence) or (isinstance(texts, np.ndarray) and texts.ndim == 1)
    if not is_list or isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{str(texts)[:80]!r} are not texts", "give strings")
    return list(texts)


def _check_types(types: Sequence[str]) -> None:
    for t in types if isinstance(types, Sequence) and not isinstance(types, str | bytes) else [types]:
        if (
            not isinstance(t, str)
            or isinstance(types, str)
            or not re.fullmatch("rouge([1-9][0-9]?|L|Lsum)", t)
        ):
            raise UserError(
                f"no ROUGE type {t!r}", "use 'rouge1', 'rouge2' and so on, 'rougeL' or 'rougeLsum'"
            )


def encode_texts(texts: list[str], profile: Profile) -> Ragged:
    """The tokens of texts as ids; warns where the profile drops all characters of one."""
    encoded = encode(texts, profile)
    dropped = [text for text, length in zip(texts, encoded.lengths) if not length and not is_blank(text)]
    if dropped:
        warnings.warn(
            f"profile {profile.name!r} drops every character of {len(dropped)} of {len(texts)} texts, "
            f"such as {dropped[0][:40]!r}; for Chinese use 'zh-char' or 'sacrebleu-zh'",
            stacklevel=3,
        )
    return encoded


def _encode_sentences(texts: list[str], profile: Profile) -> tuple[Ragged, np.ndarray]:
    """The sentences of all texts, and which are those of each text, [len(texts), most], filled with −1."""
    sentences = [profile.sentences(text) for text in texts]
    rows = _ranges(np.array([len(of_text) for of_text in sentences]), 0)
    return encode([sentence for of_text in sentences for sentence in of_text], profile), rows


def _ranges(counts: np.ndarray, start: int) -> np.ndarray:
    """Consecutive numbers from `start` on, counts[d] of them in row d, which −1 fills; [D, most]."""
    column = np.arange(max(1, counts.max()))[None]
    first = start + np.cumsum(counts) - counts
    return np.where(column < counts[:, None], first[:, None] + column, -1)


def _best_reference(scores: Rouge, num_references: np.ndarray) -> Rouge:
    """The scores of each hypothesis with the reference of its largest F, the first one among equals."""
    if (num_references == 1).all():
        return scores
    f, ends = np.asarray(scores.f), np.cumsum(num_references)
    best = np.array([end - num + f[end - num : end].argmax() for end, num in zip(ends, num_references)])
    return Rouge(*(np.asarray(x)[best] for x in scores))
