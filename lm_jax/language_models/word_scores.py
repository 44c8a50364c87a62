"""The surprisal of each token, or each word, of a text: −log of its probability given what precedes it.

A word's tokens do not tell that the word ends: where tokens begin with white space, as GPT-2's " the" does,
the end of a word is known only from the space of the token after it. So the product of the probabilities of a
word's tokens is that of all words that begin like it, and the products of all words do not add up to one. The
probability of white space, or of the end of the text, belongs to the word before it and not to the word that
it begins (Pimentel and Meister 2024, "How to Compute the Probability of a Word", on tokenisers that mark the
beginnings of words; Oh and Schuler 2024, "Leading Whitespaces of Language Models' Subword Vocabulary Pose a
Confound for Calculating Word Probabilities"):

    p(word | before) = p(tokens | before) · P(space or end | before, word) / P(space or end | before)

The first word of a text has no space to give away, and its divisor is 1 (Pimentel and Meister divide it by
the probability that the text begins without a space). So the factors cancel: the surprisals of the words, and
of what follows the last of them, add up to the text's.
"""

from typing import NamedTuple

import numpy as np

from lm_jax.language_models.base import ScoredText
from lm_jax.text.base import Tokenizer
from lm_jax.text.words import IS_SPACE


class Surprisals(NamedTuple):
    """The surprisal of parts of a text, in their order.

    Attributes:
        spans: int64 [U, 2], the bytes of each part in the UTF-8 text. White space before a word is not part
            of its span, but of its surprisal.
        nats: float64 [U]; infinite where a probability is 0.
        num_tokens: int64 [U], the tokens that begin in each part, or in the white space before it. A part
            without a token has no surprisal of its own: a token of the part before covers it.
        num_unknown: int64 [U], those of them that stand for text outside the vocabulary: their probability
            is that of any such text.
    """

    spans: np.ndarray
    nats: np.ndarray
    num_tokens: np.ndarray
    num_unknown: np.ndarray


def of_tokens(scored: ScoredText) -> Surprisals:
    """The surprisal of each token; the end of the text, where it is scored, is the last."""
    ones = np.ones(len(scored.spans), np.int64)
    return Surprisals(scored.spans, -scored.log_probs, ones, scored.unknown.astype(np.int64))


def of_words(scored: ScoredText, words_W2: np.ndarray, log_shares: np.ndarray | None = None) -> Surprisals:
    """The surprisal of each word, and last of what follows them: white space and the end of the text.

    Their sum is the surprisal of the text.

    Args:
        scored: the text's tokens.
        words_W2: int64, the bytes of each word, in order; together they hold all that is not white space.
        log_shares: float64 [T], natural log of the probability that white space or the end of the text begins
            at the place of each token; None: words are not corrected for it.
    """
    num_bytes, num_words = len(scored.text), len(words_W2)
    word_T = np.searchsorted(words_W2[:, 1], _first_letters(scored), side="right")
    last = [words_W2[-1, 1] if num_words else 0, num_bytes]
    spans = np.concatenate([words_W2, [last]])
    with np.errstate(invalid="ignore"):
        nats = np.bincount(word_T, -scored.log_probs, num_words + 1)
        if log_shares is not None:
            places = _boundaries(scored, word_T, words_W2)
            given = -np.bincount(word_T[places - 1], log_shares[places], num_words + 1)
            taken = np.bincount(word_T[places], log_shares[places], num_words + 1)
            nats = nats + given + taken
    nats = np.where(np.isnan(nats), np.inf, nats)  # what follows a word of probability 0
    counts = (np.bincount(x, minlength=num_words + 1) for x in (word_T, word_T[scored.unknown]))
    return Surprisals(spans, nats, *counts)


def _first_letters(scored: ScoredText) -> np.ndarray:
    """int64 [T], for each token the first byte from its beginning on that is no white space, or the end."""
    is_letter = np.append(~IS_SPACE[np.frombuffer(scored.text, np.uint8)], True)
    letters = np.flatnonzero(is_letter)
    return letters[np.searchsorted(letters, scored.spans[:, 0])]


def _boundaries(scored: ScoredText, word_T: np.ndarray, words_W2: np.ndarray) -> np.ndarray:
    """The tokens with which white space after a word, or the end of the text there, begins."""
    is_next = np.append(False, word_T[1:] > word_T[:-1])
    is_space = np.append(IS_SPACE[np.frombuffer(scored.text, np.uint8)], True)
    begins = scored.spans[:, 0]
    return np.flatnonzero(is_next & is_space[begins] & np.isin(begins, words_W2[:, 1]))


def boundary_tokens(tokenizer: Tokenizer) -> np.ndarray:
    """bool [V], the tokens that tell that a word has ended: white space begins them, or the text ends."""
    tokens_V = tokenizer.starts_word.copy()
    if tokenizer.unknown_id is not None:
        tokens_V[tokenizer.unknown_id] = False
    return tokens_V
