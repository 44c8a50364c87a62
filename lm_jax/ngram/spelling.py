"""Strings from tokens that are words: the probability of the bytes of a text, given its tokens.

A word tokenizer turns every word outside its vocabulary into one token, `<unk>`, and drops white space. The
probability of the tokens is then that of all strings with these tokens. A `Speller` gives the probability of
the one string among them: it spells unknown words by a byte n-gram model and white space by `gaps`. With it a
model of words is a model of strings, whose probabilities add up to one, so that it has bits per byte.

The spelling of an unknown word cannot be a word of the vocabulary. With P the n-gram model over bytes and
the end of a word, V the vocabulary, and ε the empty word:

    p(word | <unk>) = P(word) / (1 − P(ε) − Σ_{v in V} P(v))
"""

from __future__ import annotations

import collections
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lm_jax import files
from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.ngram import counts, smoothing
from lm_jax.ngram.gaps import GapCounts, GapModel, lay_out
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.ngram.vocabulary import BOS, EOS, SPECIALS, Progress, Vocabulary
from lm_jax.text.base import Encoding, Spelled, grouped, tile, utf8
from lm_jax.text.simple import WordTokenizer
from lm_jax.text.words import IS_SPACE

_FORMAT = 1
_WORDS_FILE, _FILE = "words.ngram", "spelling.json"
_CONFIG = NGramConfig(order=6, discount_fallback=(0.5, 1.0, 1.5))
_MOST_BYTES = 1 << 23  # of unknown words, to learn their spelling from
_WORDS_AT_A_TIME = 1 << 16


class Speller:
    """The probability of the bytes of texts, given their words.

    Args:
        words: an n-gram model of bytes, whose sentences are words; `byte_vocabulary` is its vocabulary.
        known: the probability that it gives to the empty word and to all words of the vocabulary, below 1.
        gaps: the model of white space.
    """

    def __init__(self, words: NGramModel, known: float, gaps: GapModel):
        self.words, self.known, self.gaps = words, known, gaps

    def spell(
        self, texts: Sequence[bytes], encodings: Sequence[Encoding], tokenizer: WordTokenizer
    ) -> list[Spelled]:
        """The spelling of each text's tokens and of its end.

        Args:
            texts: UTF-8.
            encodings: their tokens.
            tokenizer: which made them.
        """
        if not texts:
            return []
        layout = lay_out(texts, encodings, tokenizer.end_id)
        log_probs = self.gaps.log_probs(layout)
        unknown = np.flatnonzero(layout.ids == tokenizer.unknown_id)
        places = zip(layout.starts[unknown].tolist(), layout.ends[unknown].tolist())
        words = list(itertools.starmap(lambda a, b: layout.data[a:b], places))
        log_probs[unknown] += self.word_log_probs(words)
        spelled = []
        for text, part, edges in zip(
            texts, np.split(log_probs, layout.first[1:]), np.split(layout.ends, layout.first[1:]), strict=True
        ):
            edges = edges - edges[-1] + len(text) - text.endswith(b"\n")
            spelled.append(Spelled(tile(np.concatenate([[0], edges[:-1], [len(text)]])), part))
        return spelled

    def word_log_probs(self, words: Sequence[bytes]) -> np.ndarray:
        """float64 [N], natural log p of the spelling of unknown words."""
        distinct = list(dict.fromkeys(words))
        parts = [_log_probs(self.words, some) for some in _batches(distinct)]
        log_probs = np.concatenate([np.zeros(0), *parts]) - np.log1p(-self.known)
        place = {word: i for i, word in enumerate(distinct)}
        return log_probs[[place[word] for word in words]]

    def save(self, directory: pathlib.Path) -> None:
        """Writes the files of a speller into a directory, which is made."""
        directory.mkdir(parents=True, exist_ok=True)
        self.words.save(directory / _WORDS_FILE)
        values = {"format_version": _FORMAT, "known": self.known, **self.gaps.as_json()}
        files.write_json(directory / _FILE, values)

    @classmethod
    def load(cls, directory: pathlib.Path) -> Speller:
        """The speller that `save` wrote.

        Raises:
            UserError: a file is missing, damaged or of another version.
        """
        values = JsonObject.read(directory / _FILE)
        if (version := values.take("format_version", int)) != _FORMAT:
            raise UserError(f"{values.where} has format {version}", f"this version of lm_jax reads {_FORMAT}")
        known = values.take("known", float)
        if not 0 <= known < 1:
            raise UserError(f"{values.where}: known={known} is no probability below 1", "restore the file")
        words = NGramModel.load(directory / _WORDS_FILE)
        if words.vocabulary.words != byte_vocabulary().words:
            raise UserError(f"{directory / _WORDS_FILE} is no model of bytes", "restore the file")
        return cls(words, known, GapModel.from_json(values))


def byte_vocabulary() -> Vocabulary:
    """All bytes that a word may have."""
    return Vocabulary([*SPECIALS, *(bytes([byte]) for byte in np.flatnonzero(~IS_SPACE).tolist())])


def fit(tokenizer: WordTokenizer, texts: Iterable[str], progress: Progress | None = None) -> Speller:
    """Learns to spell from the training part.

    Unknown words are learned from those of the training part, as often as they occur there; where the
    vocabulary has all of its words, from the words that occur once; where none does, from all.

    Args:
        tokenizer: the words.
        texts: of the training part.
        progress: called with (description, done, total).
    """
    gaps, unknown = GapCounts(), collections.Counter[bytes]()
    frequencies, num_texts = np.zeros(tokenizer.vocab_size, np.int64), 0
    for group in grouped(texts, len):
        encodings, data = tokenizer.encode_batch(group), [utf8(text) for text in group]
        layout = lay_out(data, encodings, tokenizer.end_id)
        gaps.add(layout)
        frequencies += np.bincount(layout.ids, minlength=tokenizer.vocab_size)
        places = np.flatnonzero(layout.ids == tokenizer.unknown_id)
        pairs = zip(layout.starts[places].tolist(), layout.ends[places].tolist())
        unknown.update(itertools.starmap(lambda a, b, text=layout.data: text[a:b], pairs))
        num_texts += len(group)
        if progress:
            progress("learning to spell unknown words", num_texts, num_texts)
    vocabulary = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    is_word = ~np.isin(np.arange(tokenizer.vocab_size), (tokenizer.end_id, tokenizer.unknown_id))
    if not unknown:
        rare = np.flatnonzero(is_word & (frequencies == 1))
        rare = rare if len(rare) else np.flatnonzero(is_word)
        unknown.update(vocabulary[i] for i in rare.tolist())
    words = _fit_words(unknown)
    taken = [b"", *itertools.compress(vocabulary, is_word)]
    known = sum(float(np.exp(_log_probs(words, some)).sum()) for some in _batches(taken))
    return Speller(words, known, gaps.model())


def _fit_words(unknown: collections.Counter[bytes]) -> NGramModel:
    """The n-gram model of the bytes of words, learned from at most `_MOST_BYTES` of them."""
    sample, size = [], 0
    for word, count in unknown.items():
        if size > _MOST_BYTES:
            break
        times = min(count, 1 + (_MOST_BYTES - size) // max(1, len(word)))
        sample += [word] * times
        size += len(word) * times
    stream = _stream(sample or [b""])
    return smoothing.estimate(counts.count(stream, byte_vocabulary(), _CONFIG.order), _CONFIG, closed=True)


def _log_probs(model: NGramModel, words: Sequence[bytes]) -> np.ndarray:
    """float64 [N], natural log of the probability of words and their ends."""
    stream = _stream(words)
    return np.add.reduceat(model.score(stream).log_probs, np.flatnonzero(stream == BOS))


def _stream(words: Sequence[bytes]) -> np.ndarray:
    """Words as sentences of bytes, `<s> byte ... byte </s>`, int32."""
    id_of = np.cumsum(~IS_SPACE) + len(SPECIALS) - 1
    sizes = np.array([len(word) for word in words], np.int64)
    ends = np.cumsum(sizes + 2) - 1
    stream = np.empty(ends[-1] + 1, np.int32)
    is_byte = np.ones(len(stream), bool)
    is_byte[ends] = is_byte[ends - sizes - 1] = False
    stream[ends], stream[ends - sizes - 1] = EOS, BOS
    stream[is_byte] = id_of[np.frombuffer(b"".join(words), np.uint8)]
    return stream


def _batches(words: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (words[i : i + _WORDS_AT_A_TIME] for i in range(0, len(words), _WORDS_AT_A_TIME))
