"""The check that the probabilities of all next tokens sum to one, and are those that texts are scored by."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.audit.largest import Largest, gaps
from lm_jax.audit.samples import Passage
from lm_jax.evaluation.audited import FAILED, Check
from lm_jax.language_models.base import ScoredText
from lm_jax.language_models.next_tokens import NextTokens

OF_SUMS = 1e-4  # how far a sum of probabilities may be from one: float32, and six decimals of ARPA files
_PER_PASSAGE = 4  # histories
_AT_ONCE = 64  # histories whose distributions are in memory
_SHORTEST = 512  # tokens of a vocabulary that is asked about as a whole
_PROBABLE, _OTHERS = 8, 16  # tokens of a larger one: the most probable ones, and others
_LONGEST = 32  # tokens of a history that is continued by each of them


class History(NamedTuple):
    """A place in a passage.

    Attributes:
        passage: its number.
        ids: the tokens before the place.
        token: the id of the one that follows.
        log_prob: what it was scored by.
        byte: where it begins.
    """

    passage: int
    ids: np.ndarray
    token: int
    log_prob: float
    byte: int


def histories(
    model: NextTokens,
    passages: Sequence[Passage],
    scored: Sequence[ScoredText],
    random: np.random.Generator,
) -> list[History]:
    """Random places in each passage, as far as the model reads from its beginning; the first of all is its beginning."""
    made = []
    for i, (passage, one) in enumerate(zip(passages, scored, strict=True)):
        ids, places_T = tokens_of(model, passage.text, one)
        asked = np.flatnonzero(places_T >= 0)
        asked = asked[: model.context or len(asked)]
        early = random.choice(asked[1 : 1 + _LONGEST], min(1, len(asked[1:]))) if i else asked[:1]
        for place in np.union1d(early, random.choice(asked, min(_PER_PASSAGE, len(asked)), replace=False)):
            t = places_T[place]
            log_prob, byte = float(one.log_probs[t]), int(one.spans[t, 0])
            made.append(History(i, ids[:place], int(ids[place]), log_prob, byte))
    return made


def tokens_of(model: NextTokens, text: str, scored: ScoredText) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a text and of its end, and the place of each among the scored tokens, -1 where it has none.

    n-grams may leave out the ends of sentences.
    """
    ids, spans = model.tokenizer.encode(text)
    spans = np.concatenate([spans, [[len(scored.text)] * 2]])
    places, t = np.full(len(spans), -1), 0
    for place, span in enumerate(spans):
        if t < len(scored.spans) and np.array_equal(scored.spans[t], span):
            places[place], t = t, t + 1
    return np.append(ids, np.int32(model.tokenizer.end_id)), places


def normalised(
    model: Any,
    passages: Sequence[Passage],
    asked: Sequence[History],
    num_continued: int,
    tolerance: float,
    stride: int | None,
) -> Check:
    """Whether the probabilities of all tokens after a history sum to one, and texts are scored by them.

    The distribution after each history comes from `next_log_probs`, by another way than that of `score`. It
    must sum to one over all its columns, and have the log-probability by which `score` scored the token that
    follows. After a few short histories many tokens, or all of a small vocabulary, are scored as texts, each
    the history with one of them, which must agree with the distribution too: so it is not only right at the
    tokens that the text has.

    Args:
        model: `Scores` and `NextTokens`.
        passages: the sampled texts.
        asked: places in them.
        num_continued: how many histories are continued by many tokens.
        tolerance: of log-probabilities, nats.
        stride: as of `score`.
    """
    sums, follows = Largest(), Largest()
    for first in range(0, len(asked), _AT_ONCE):
        group = asked[first : first + _AT_ONCE]
        log_probs_NW = model.next_log_probs([one.ids for one in group])
        places = [f"{passages[one.passage].place(one.byte)} after {len(one.ids)} tokens" for one in group]
        sums.add(gaps(np.exp(log_probs_NW).sum(axis=1), np.ones(len(group))), places.__getitem__)
        told = log_probs_NW[np.arange(len(group)), [one.token for one in group]]
        follows.add(gaps(told, np.array([one.log_prob for one in group])), places.__getitem__)
    short = [one for one in asked if 0 < len(one.ids) <= _LONGEST]
    for one in short[:num_continued]:
        _add_continuations(follows, model, one, passages[one.passage], stride)
    lengths = [len(one.ids) for one in asked]
    after = f"{len(asked)} histories of {min(lengths, default=0)} to {max(lengths, default=0)} tokens"
    total = sums.check("normalised", OF_SUMS, f"sums of probabilities after {after}")
    if total.status == FAILED:
        return total
    what = f"after {after} probabilities sum to one (by {sums.error:.1g}) and are those of scores, by nats"
    return follows.check("normalised", tolerance, what)


def _add_continuations(
    follows: Largest, model: Any, one: History, passage: Passage, stride: int | None
) -> None:
    """Scores a history with each of many tokens behind it, as texts."""
    tokenizer, [log_probs_W] = model.tokenizer, model.next_log_probs([one.ids])
    size = tokenizer.vocab_size
    chosen = np.arange(size)
    if size > _SHORTEST:
        probable = np.argsort(-log_probs_W[:size], kind="stable")[:_PROBABLE]
        others = np.random.default_rng(len(one.ids)).choice(size, _OTHERS, replace=False)
        chosen = np.union1d(probable, others)
    texts, tokens = [], []
    for token in chosen.tolist():
        ids = np.append(one.ids, np.int32(token))
        text = tokenizer.decode_bytes(ids).decode(errors="replace")
        if np.array_equal(tokenizer.encode(text).ids, ids):
            texts.append(text)
            tokens.append(token)
    place = len(one.ids)
    for text, token, scored in zip(texts, tokens, model.score(texts, stride), strict=True):
        t = tokens_of(model, text, scored)[1][place]
        if t >= 0:
            error = float(gaps(log_probs_W[token], scored.log_probs[t]))
            follows.add_one(error, f"token {token} after {place} tokens of {passage.name}, scored as a text")
