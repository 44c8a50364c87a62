"""BLEU and ROUGE on arrays of token ids, as sufficient statistics for each example and one division.

Texts are integers [B, T], padded at the end with negative ids; texts of one batch may differ in length, and a
text may be empty. Only the equality of ids matters: `text.py` makes them from strings. Counting runs in jnp
and compiles once for each shape; scores of concrete counts are computed on the host in float64. Everything
runs under `jax.jit`, too. Scores lie in [0, 1].

    statistics = bleu_statistics(hypotheses_BT, references_BS)
    sentence_scores_B = bleu(*statistics, effective_order=True)
    corpus_score = bleu(*(x.sum(0) for x in statistics))
    bootstrap_interval(*statistics, metric=bleu)

The letters are those of `matching.py`, with N: orders of n-grams; R: references; K, L: sentences of a text.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lm_jax.batch import Array
from lm_jax.errors import UserError
from lm_jax.metrics.host import f_weights, library, non_negative, real, whole
from lm_jax.metrics.matching import are_ngrams, count_earlier, count_in, lcs_length, lcs_mask, lengths
from lm_jax.metrics.smoothing import SMOOTHINGS, Counts


class BleuStatistics(NamedTuple):
    """The counts that BLEU is computed from; a corpus's are the sums of its sentences'.

    Attributes:
        matches: [..., N] n-grams of the hypothesis found in a reference, each at most as often as there
            (Papineni et al. 2002, section 2.1).
        totals: [..., N] n-grams of the hypothesis.
        hypothesis_length: [...] tokens.
        reference_length: [...] tokens of the reference of the closest length, the shorter one of two.
    """

    matches: Array
    totals: Array
    hypothesis_length: Array
    reference_length: Array


def bleu_statistics(
    hypotheses_BT: Array,
    references_BRS: Array,
    num_references_B: Array | None = None,
    *,
    max_order: int = 4,
    min_total: int = 0,
) -> BleuStatistics:
    """BLEU's statistics of each sentence, for n = 1 to `max_order`.

    Args:
        hypotheses_BT: ids.
        references_BRS: ids; [B, S] where there is one reference each.
        num_references_B: how many of the R references count, from the first; None: all of them.
        max_order: N.
        min_total: least value of `totals`: 1 for NLTK's counting of texts shorter than n.
    """
    hypotheses_BT, references_BRS = jnp.asarray(hypotheses_BT), jnp.asarray(references_BRS)
    if references_BRS.ndim == 2:
        references_BRS = references_BRS[:, None]
    B, R, _ = references_BRS.shape
    num_references_B = jnp.full(B, R) if num_references_B is None else jnp.asarray(num_references_B)
    present_BR = jnp.arange(R)[None] < num_references_B[:, None]

    repeated = jnp.repeat(hypotheses_BT, R, axis=0)
    found = count_in(repeated, references_BRS.reshape(B * R, -1), max_order)
    matches, totals = [], []
    for n, (earlier_BT, found_XT) in enumerate(zip(count_earlier(hypotheses_BT, max_order), found), 1):
        allowed_BRT = jnp.where(present_BR[:, :, None], found_XT.reshape(B, R, -1), 0)
        matches.append(_common(earlier_BT, allowed_BRT.max(axis=1)))
        totals.append(jnp.maximum(are_ngrams(hypotheses_BT, n).sum(axis=-1), min_total))

    length_B, length_BR = lengths(hypotheses_BT), lengths(references_BRS)
    distance_BR = jnp.where(present_BR, jnp.abs(length_BR - length_B[:, None]), jnp.iinfo(jnp.int32).max)
    closest_BR = distance_BR == distance_BR.min(axis=-1, keepdims=True)
    closest_B = jnp.where(closest_BR, length_BR, jnp.iinfo(jnp.int32).max).min(axis=-1)
    return BleuStatistics(jnp.stack(matches, -1), jnp.stack(totals, -1), length_B, closest_B)


def bleu(
    matches: Array,
    totals: Array,
    hypothesis_length: Array,
    reference_length: Array,
    *,
    order: int | None = None,
    weights: Any = None,
    smoothing: str = "exp",
    smoothing_value: float | None = None,
    effective_order: bool = False,
) -> Any:
    """BP · exp(Σ_n w_n ln p_n), in [0, 1] (Papineni et al. 2002, section 2.3).

    p_n is matches over totals, smoothed; BP = min(1, exp(1 − r / c)) with the lengths c of the hypothesis and
    r of the reference. The arguments are `BleuStatistics`, summed over a corpus or not. Without any matches
    the score is 0. In float32, under `jax.jit`, scores below about 1e-45 are 0.

    Args:
        matches: [..., N'].
        totals: [..., N'].
        hypothesis_length: [...].
        reference_length: [...].
        order: N, of the N' orders given; None: all.
        weights: w, [N]; None: 1/N each.
        smoothing: a key of `smoothing.SMOOTHINGS`.
        smoothing_value: its value, at least 0; None: the one in `SMOOTHINGS`.
        effective_order: leaves out the orders for which the hypothesis is too short, as sacrebleu does for
            sentences; cannot be combined with weights.

    Raises:
        UserError: an unknown smoothing or a value out of range, fewer orders than asked for, weights that are
            not one for each order, or weights with `effective_order`.
    """
    if not isinstance(smoothing, str) or smoothing not in SMOOTHINGS:
        raise UserError(f"no smoothing {smoothing!r}", f"use one of {', '.join(SMOOTHINGS)}")
    smooth, default_value = SMOOTHINGS[smoothing]
    value = default_value if smoothing_value is None else non_negative(smoothing_value, "smoothing_value")
    counts = _counts(matches, totals, order)
    xp, logs = library(*counts), smooth(counts, value)
    weights = _weights(counts, weights, effective_order and smoothing != "add-k")
    log_precision = xp.where(weights == 0, 0, weights * xp.where(weights == 0, 0, logs)).sum(axis=-1)
    penalty = brevity_penalty(hypothesis_length, reference_length)
    return xp.where(counts.matches[..., 0] > 0, penalty * xp.exp(log_precision), 0)[()]


def brevity_penalty(hypothesis_length: Array, reference_length: Array) -> Any:
    """min(1, exp(1 − r / c)) of the lengths c and r, in [0, 1]; 0 for an empty hypothesis."""
    xp, (c, r) = library(hypothesis_length, reference_length), _floats(hypothesis_length, reference_length)
    return xp.where(c > 0, xp.exp(xp.minimum(0, 1 - r / xp.maximum(c, 1))), 0)[()]


class Overlap(NamedTuple):
    """The counts behind precision, recall and F, [...]: common units, the hypothesis's, the reference's."""

    matches: Array
    hypothesis: Array
    reference: Array


class Rouge(NamedTuple):
    """Precision, recall and F, [...], each in [0, 1]."""

    precision: Array | float
    recall: Array | float
    f: Array | float


def rouge_n(hypotheses_BT: Array, references_BS: Array, n: int, *, distinct: bool = False) -> Overlap:
    """ROUGE-N (Lin 2004, section 2): common n-grams, each as often as in both; once each where `distinct`."""
    return rouge_orders(hypotheses_BT, references_BS, n, distinct=distinct)[-1]


def rouge_orders(
    hypotheses_BT: Array, references_BS: Array, max_order: int, *, distinct: bool = False
) -> list[Overlap]:
    """ROUGE-1 to ROUGE-`max_order` at the cost of the last."""
    earlier = count_earlier(hypotheses_BT, max_order)
    found = count_in(hypotheses_BT, references_BS, max_order)
    texts = (hypotheses_BT, references_BS)
    overlaps = []
    for n in range(1, max_order + 1):
        if distinct:
            common = ((earlier[n - 1] == 0) & (found[n - 1] > 0)).sum(axis=-1)
            overlaps.append(Overlap(common, *(distinct_ngrams(ids, n) for ids in texts)))
        else:
            common = _common(earlier[n - 1], found[n - 1])
            overlaps.append(Overlap(common, *(are_ngrams(ids, n).sum(axis=-1) for ids in texts)))
    return overlaps


def rouge_l(hypotheses_BT: Array, references_BS: Array) -> Overlap:
    """ROUGE-L of texts taken as one sentence (Lin 2004, section 3.1): a longest common subsequence."""
    return Overlap(lcs_length(references_BS, hypotheses_BT), lengths(hypotheses_BT), lengths(references_BS))


def rouge_lsum(hypotheses_BKT: Array, references_BLS: Array, *, distinct: bool = False) -> Overlap:
    """ROUGE-L of texts of several sentences (Lin 2004, section 3.2): the union of the subsequences.

    The units are the tokens of a reference sentence that lie on its longest common subsequence with any
    sentence of the hypothesis, each token counted at most as often as in the hypothesis, as in ROUGE 1.5.5.
    With `distinct` they are sets of tokens over the whole text, as in `rouge` 1.0.1. An absent sentence is
    one without tokens.
    """
    hypotheses_BKT, references_BLS = jnp.asarray(hypotheses_BKT), jnp.asarray(references_BLS)
    B = len(hypotheses_BKT)
    hypotheses, references = hypotheses_BKT.reshape(B, -1), references_BLS.reshape(B, -1)
    if distinct:  # `rouge` breaks ties between subsequences the other way
        common = _union_of_subsequences(hypotheses_BKT, references_BLS)
        return Overlap(*(distinct_ngrams(ids, 1) for ids in (common, hypotheses, references)))
    common = _union_of_subsequences(references_BLS, hypotheses_BKT)
    matches = _common(count_earlier(common, 1)[0], count_in(common, hypotheses, 1)[0])
    return Overlap(matches, lengths(hypotheses), lengths(references))


def precision_recall_f(overlap: Overlap, *, beta: float = 1.0, epsilon: float = 0.0) -> Rouge:
    """P = m / h, R = m / r, F = (1 + β²) P R / (R + β² P + ε), 0 for 0 / 0. ε is 1e-8 in `rouge` 1.0.1."""
    xp, (matches, hypothesis, reference) = library(*overlap), _floats(*overlap)
    precision = matches / xp.maximum(hypothesis, 1)
    recall = matches / xp.maximum(reference, 1)
    of_recall, of_precision = f_weights(beta)
    denominator = of_precision * (recall + epsilon) + of_recall * precision
    f = (of_recall + of_precision) * precision * recall / xp.where(denominator > 0, denominator, 1)
    return Rouge(precision, recall, f)


def distinct_ngrams(ids_BT: Array, n: int) -> jax.Array:
    """The number of different n-grams of each text, [B]."""
    return (are_ngrams(ids_BT, n) & (count_earlier(ids_BT, n)[-1] == 0)).sum(axis=-1)


def _counts(matches: Array, totals: Array, order: int | None) -> Counts:
    """The counts of the first N orders, in floating point."""
    matches, totals = _floats(matches, totals)
    available = matches.shape[-1]
    order = available if order is None else whole(order, "order", 1)
    if available < order:
        raise UserError(
            f"statistics of {available} orders do not make BLEU of order {order}",
            f"count them with max_order={order}",
        )
    return Counts(matches[..., :order], totals[..., :order])


def _weights(counts: Counts, weights: Any, effective_order: bool) -> Any:
    """The weight of each order, [..., N]."""
    xp = library(*counts, weights)
    if weights is not None:
        if effective_order:
            raise UserError("effective_order cannot be combined with weights", "give one of the two")
        (weights,) = _floats(weights)
        if weights.shape != counts.matches.shape[-1:]:
            raise UserError(
                f"weights of shape {weights.shape} for {counts.matches.shape[-1]} orders",
                "give one weight for each order",
            )
        return xp.broadcast_to(weights, counts.matches.shape)
    used = counts.totals > 0 if effective_order else xp.ones_like(counts.totals, dtype=bool)
    return used / xp.maximum(used.sum(axis=-1, keepdims=True), 1)


def _floats(*arrays: Any) -> list[Any]:
    """Arrays of real numbers in floating point: float64 for concrete ones."""
    return [real(x, "counts").astype(float) for x in arrays]


def _common(earlier_BT: jax.Array, found_BT: jax.Array) -> jax.Array:
    """The n-grams common to a and b, each as often as in both: those with fewer before than b has; [B]."""
    return (earlier_BT < found_BT).sum(axis=-1)


def _union_of_subsequences(a_BKT: jax.Array, b_BLS: jax.Array) -> jax.Array:
    """The tokens of a on a longest common subsequence of a sentence with any of b's; else −1, [B, K T]."""
    B, K, T = a_BKT.shape
    L, S = b_BLS.shape[1:]
    a = jnp.broadcast_to(a_BKT[:, :, None], (B, K, L, T)).reshape(-1, T)
    b = jnp.broadcast_to(b_BLS[:, None], (B, K, L, S)).reshape(-1, S)
    mask_BKT = lcs_mask(a, b).reshape(B, K, L, T).any(axis=2)
    return jnp.where(mask_BKT, a_BKT, -1).reshape(B, K * T)
