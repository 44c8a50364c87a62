"""The checks of an audit that need nothing but scores: causal, complete and independent."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from lm_jax.audit.largest import Largest, gaps
from lm_jax.audit.samples import Cut, Passage, num_shared
from lm_jax.evaluation.audited import FAILED, NOT_APPLICABLE, PASSED, Check
from lm_jax.language_models.base import ScoredText


def causal(
    passages: Sequence[Passage],
    scored: Sequence[ScoredText],
    cuts: Sequence[Cut],
    replaced: Sequence[ScoredText],
    alone: Sequence[ScoredText],
    whole: Sequence[ScoredText] | None,
    tolerance: float,
) -> Check:
    """Whether no token's score depends on bytes that follow it.

    Only tokens that both texts have are compared, up to the first one that differs or ends after the cut: the
    last ones before it may be other tokens where other text follows.

    Args:
        passages: the sampled texts.
        scored: their scores.
        cuts: where each was cut.
        replaced: the scores of each cut's `replaced`.
        alone: of its `alone`.
        whole: those that a row of results has of whole documents; None: not given.
        tolerance: nats.
    """
    largest = Largest()
    for passage, a, place, b, c in zip(passages, scored, cuts, replaced, alone, strict=True):
        others = [(b, place.byte), (c, place.byte)]
        if whole is not None and passage.start == 0:
            others.append((whole[passage.document], len(a.text)))
        for other, end in others:
            shared = num_shared(a, other, end)
            errors = gaps(a.byte_log_probs[:shared], other.byte_log_probs[:shared])
            largest.add(errors, partial(passage.place_of, a))
    beside = "" if whole is None else ", or the whole document, as evaluated,"
    what = f"tokens of {len(passages)} passages, where other text{beside} or none follows, in nats"
    return largest.check("causal", tolerance, what)


def independent(
    passages: Sequence[Passage],
    scored: Sequence[ScoredText],
    reordered: Sequence[ScoredText],
    alone: Sequence[ScoredText],
    tolerance: float,
) -> Check:
    """Whether a text has the same score with other texts beside it, in another order, and alone.

    Args:
        passages: the sampled texts.
        scored: their scores.
        reordered: those of a batch in another order, put back into the order of the passages.
        alone: those of the last passages, each scored in a call of its own.
        tolerance: nats.
    """
    largest = Largest()
    of_alone = list(zip(passages, scored))[len(passages) - len(alone) :]
    pairs = [*zip(passages, scored, reordered, strict=True)]
    pairs += [(passage, a, b) for (passage, a), b in zip(of_alone, alone, strict=True)]
    for passage, a, b in pairs:
        if not np.array_equal(a.spans, b.spans):
            largest.add_one(np.inf, f"{passage.place(0)}, which has other tokens")
            continue
        errors = gaps(a.byte_log_probs, b.byte_log_probs)
        largest.add(errors, partial(passage.place_of, a))
    what = f"tokens of {len(passages)} passages in another order and of {len(alone)} alone, in nats"
    return largest.check("independent", tolerance, what)


def complete(names: Sequence[str], texts: Sequence[str], scored: Sequence[ScoredText]) -> Check:
    """Whether each byte of a text is part of exactly one token that is paid for.

    A token is not paid for where it stands for unknown text, unless it has a probability of its bytes too.

    Args:
        names: the name of each text.
        texts: the texts.
        scored: their scores.
    """
    unpaid = total = 0
    wrong = Largest()
    for name, text, one in zip(names, texts, scored, strict=True):
        data = text.encode()
        total += len(data)
        if one.text != data:
            wrong.add_one(len(data) or 1, f"{name}, of which other bytes were scored")
            continue
        times = _times_covered(one.spans, len(data))
        paid = one.unknown == 0 if one.log_spelling is None else np.full(len(one.spans), True)
        times_paid = _times_covered(one.spans[paid], len(data))
        unpaid += int((times_paid == 0).sum())
        bad = times_paid != 1 if one.complete else times > 1
        where = int(bad.argmax()) if bad.any() else 0
        wrong.add_one(bad.sum(), f"byte {where} of {name}")
        if not _are_log_probs(one):
            wrong.add_one(np.inf, f"{name}, which has a probability above one or NaN")
    return _completeness(wrong, unpaid, total, all(one.complete for one in scored), len(texts))


def _completeness(wrong: Largest, unpaid: int, total: int, is_complete: bool, num_texts: int) -> Check:
    if wrong.error:
        what = f"bytes that no token pays for, or two, of {num_texts:,} texts"
        return Check("complete", FAILED, what, total, wrong.error, 0.0, wrong.where)
    if is_complete:
        what = f"each byte of {num_texts:,} texts is in one scored token"
        return Check("complete", PASSED, what, total, 0.0, 0.0)
    what = f"{unpaid:,} of {total:,} bytes are not paid for, so that there are no bits per byte; none twice"
    return Check("complete", NOT_APPLICABLE, what, total)


def _times_covered(spans_T2: np.ndarray, size: int) -> np.ndarray:
    """How many spans each byte of a text is in, int [size]; one outside the text counts at its last byte."""
    steps = np.zeros(size + 1, np.int64)
    np.add.at(steps, np.clip(spans_T2[:, 0], 0, size), 1)
    np.add.at(steps, np.clip(spans_T2[:, 1], 0, size), -1)
    return np.cumsum(steps)[:size]


def _are_log_probs(scored: ScoredText) -> bool:
    """Whether all are logarithms of probabilities, but for rounding."""
    parts = [scored.log_probs] if scored.log_spelling is None else [scored.log_probs, scored.log_spelling]
    return all(bool((part <= 1e-6).all()) for part in parts)
