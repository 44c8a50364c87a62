"""Streams and counts of n-grams from text, for tests: as `language_models.ngram.fit` makes them."""

import numpy as np

from lm_jax.language_models import ngram
from lm_jax.ngram import counts
from lm_jax.ngram.counts import NGramCounts
from lm_jax.ngram.vocabulary import BOS, EOS, SPECIALS, Vocabulary
from lm_jax.text.simple import WordTokenizer


def encode(vocabulary: Vocabulary, text: bytes) -> np.ndarray:
    """The stream of a text, one sentence a line; words outside the vocabulary become UNK."""
    tokenizer = WordTokenizer(word.decode() for word in vocabulary.words[len(SPECIALS) :])
    [ids] = tokenizer.encode_ids([text.decode()])
    tokens = np.concatenate([[tokenizer.end_id], ids, [tokenizer.end_id]])
    return ngram.make_stream(tokens, ngram.word_ids(tokenizer, vocabulary))


def count(text: bytes, order: int) -> NGramCounts:
    """The counts of a text, with ids in the order of the words' first appearance, as in lmplz."""
    vocabulary = Vocabulary(dict.fromkeys(text.split()))
    return counts.count(encode(vocabulary, text), vocabulary, order)


def mark(*sentences: list[int] | np.ndarray) -> np.ndarray:
    """The stream of sentences, each the ids of its words."""
    return np.concatenate([part for sentence in sentences for part in ([BOS], sentence, [EOS])]).astype(int)


def perplexity(log_probs: np.ndarray, stream: np.ndarray, without: tuple[int, ...] = (BOS,)) -> float:
    """exp(-mean log probability) of the words that are not left out."""
    return float(np.exp(-log_probs[~np.isin(stream, without)].mean()))
