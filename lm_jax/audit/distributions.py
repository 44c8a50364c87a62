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
_SMALL = 512  # tokens of a vocabulary that is asked about as a whole
_PROBABLE, _OTHERS = 8, 16  # tokens of a larger one: the most probable ones, and others
_LONGEST = 126  # tokens of a history that is continued by each of them


class History(NamedTuple):
    """A place in a passage, and what the model tells of the token there.

    Attributes:
        passage: its number.
        ids: the tokens before the place.
        total: the sum of the probabilities of all tokens.
        log_prob: natural log of the probability of the token that follows in the passage.
    """

    passage: int
    ids: np.ndarray
    total: float
    log_prob: float


class Continuation(NamedTuple):
    """A history with another token behind it.

    Attributes:
        passage: the number of its passage.
        text: both.
        place: the number of tokens of the history.
        log_prob: what the model tells of the token.
    """

    passage: int
    text: str
    place: int
    log_prob: float


class Told(NamedTuple):
    """What a model tells of next tokens, to be compared with scores."""

    histories: Sequence[History]
    continuations: Sequence[Continuation]


def ask(
    model: NextTokens, passages: Sequence[Passage], num_continued: int, random: np.random.Generator
) -> Told:
    """Asks a model for the distributions at random places of passages.

    They are as far from a passage's beginning as the model reads; the first one is a beginning. In the first
    passages a history of up to 126 tokens is continued by many tokens, or by all of a small vocabulary.

    Args:
        model: the model.
        passages: the sampled texts.
        num_continued: how many histories are continued.
        random: the draws.
    """
    asked, histories = [], []
    for i, passage in enumerate(passages):
        ids_T = _with_end(model, model.tokenizer.encode(passage.text).ids)
        reach = min(len(ids_T), model.context or len(ids_T))
        drawn = random.choice(reach, min(_PER_PASSAGE, reach), replace=False)
        fixed = [0] * (i == 0) + [min(_LONGEST, reach - 1)] * (i < num_continued)
        places = np.union1d(drawn, fixed).astype(int)
        asked += [(i, ids_T[:place], int(ids_T[place])) for place in places.tolist()]
    for first in range(0, len(asked), _AT_ONCE):
        group = asked[first : first + _AT_ONCE]
        for (i, ids, token), log_probs_W in zip(group, model.next_log_probs([ids for _, ids, _ in group])):
            total = float(np.exp(log_probs_W).sum())
            histories.append(History(i, ids, total, float(log_probs_W[token])))
    suited = [one for one in histories if one.passage < num_continued and len(one.ids) <= _LONGEST]
    chosen = {one.passage: one for one in suited}  # the last one of each
    return Told(histories, [other for one in chosen.values() for other in _continue(model, one)])


def _continue(model: NextTokens, one: History) -> list[Continuation]:
    """A history with each of many tokens behind it, but for those that are not read back from their text."""
    tokenizer, [log_probs_W] = model.tokenizer, model.next_log_probs([one.ids])
    size, tokens = tokenizer.vocab_size, np.arange(tokenizer.vocab_size)
    if size > _SMALL:
        probable = np.argsort(-log_probs_W[:size], kind="stable")[:_PROBABLE]
        others = np.random.default_rng(len(one.ids)).choice(size, _OTHERS, replace=False)
        tokens = np.union1d(probable, others)
    made = []
    for token in tokens.tolist():
        ids = np.append(one.ids, np.int32(token))
        text = tokenizer.decode_bytes(ids).decode(errors="replace")
        if np.array_equal(tokenizer.encode(text).ids, ids):
            made.append(Continuation(one.passage, text, len(one.ids), float(log_probs_W[token])))
    return made


def tokens_of(model: NextTokens, text: str, scored: ScoredText) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a text and of its end, and the place of each among the scored tokens, -1 where it has none.

    n-grams may leave out the ends of sentences. White space before a word may be part of the scored token, so
    that only the ends of spans are those of the encoding.
    """
    ids, spans = model.tokenizer.encode(text)
    places, ends, t = np.full(len(spans) + 1, -1), scored.spans[:, 1].tolist(), 0
    for place, end in enumerate([*spans[:, 1].tolist(), len(scored.text)]):
        if t < len(ends) and ends[t] == end:
            places[place], t = t, t + 1
    return _with_end(model, ids), places


def _with_end(model: NextTokens, ids_T: np.ndarray) -> np.ndarray:
    return np.append(ids_T, np.int32(model.tokenizer.end_id))


def normalised(
    model: Any,
    told: Told,
    passages: Sequence[Passage],
    scored: Sequence[ScoredText],
    continued: Sequence[ScoredText],
    tolerance: float,
) -> Check:
    """Whether the probabilities of all tokens after a history sum to one, and texts are scored by them.

    The distribution after each history comes from `next_log_probs`, by another way than that of `score`. It
    must sum to one over all its columns, and have the log-probability by which `score` scored the token that
    follows. The continuations are scored as texts and must agree with it too: so it is not only right at the
    tokens that the passages have.

    Args:
        model: `NextTokens`.
        told: what `ask` gave.
        passages: the sampled texts.
        scored: their scores.
        continued: the scores of the continuations.
        tolerance: of log-probabilities, nats.
    """
    sums, follows = Largest(), Largest()
    found = [tokens_of(model, passage.text, one)[1] for passage, one in zip(passages, scored, strict=True)]
    for one in told.histories:
        passage, t = passages[one.passage], found[one.passage][len(one.ids)]
        where = f"{passage.place_of(scored[one.passage], t)} after {len(one.ids)} tokens"
        sums.add_one(float(gaps(one.total, 1.0)), where)
        if t >= 0:
            follows.add_one(float(gaps(one.log_prob, scored[one.passage].log_probs[t])), where)
    for other, text_scored in zip(told.continuations, continued, strict=True):
        t = tokens_of(model, other.text, text_scored)[1][other.place]
        if t >= 0:
            where = f"{other.text[-20:]!r} after {other.place} tokens of {passages[other.passage].name}"
            follows.add_one(float(gaps(other.log_prob, text_scored.log_probs[t])), where)
    lengths = [len(one.ids) for one in told.histories]
    after = f"after {len(lengths)} histories of {min(lengths)} to {max(lengths)} tokens"
    total = sums.check("normalised", OF_SUMS, f"sums of probabilities {after}")
    if total.status == FAILED:
        return total
    what = (
        f"{after} probabilities sum to one (by {sums.error:.1g}); log-probabilities of the next token and of "
        f"{len(told.continuations)} others against scores, in nats"
    )
    return follows.check("normalised", tolerance, what)
