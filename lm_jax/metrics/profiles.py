"""The preprocessing of each published tool: tokens, sentences, and the defaults of its scores.

A profile's tokenizer has two stages, so that a corpus costs one split of each text and one tokenisation of
each distinct word: `words` splits a text where no token crosses, `tokens` splits a word.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lm_jax.errors import UserError


def _one_token(word: str) -> Sequence[str]:
    return (word,)


def _lines(text: str) -> list[str]:
    return text.split("\n")


@dataclass(frozen=True)
class Profile:
    """The preprocessing and the defaults of one tool.

    Attributes:
        name: what `profile=` takes.
        tokenizer: the tokenizer's name in signatures.
        words: text -> pieces that tokens do not cross.
        tokens: piece -> its tokens.
        sentences: text -> the sentences of ROUGE-Lsum.
        lowercase: whether case is lost, for signatures.
        smoothing: BLEU's, a key of `smoothing.SMOOTHINGS`.
        effective_order: whether sentence BLEU leaves out orders for which the hypothesis is too short.
        min_total: least count of a sentence's n-grams, 1 in NLTK.
        distinct: ROUGE counts sets of n-grams, and ROUGE-L is that of several sentences, as in `rouge`.
        epsilon: added to the denominator of ROUGE's F.
        scale: what its tool multiplies BLEU by before it prints it.
    """

    name: str
    tokenizer: str
    words: Callable[[str], list[str]]
    tokens: Callable[[str], Sequence[str]] = _one_token
    sentences: Callable[[str], list[str]] = _lines
    lowercase: bool = False
    smoothing: str = "exp"
    effective_order: bool = True
    min_total: int = 0
    distinct: bool = False
    epsilon: float = 0.0
    scale: int = 1

    def stemmed(self) -> Profile:
        """The same with Porter's stems of all tokens longer than three characters, as in ROUGE 1.5.5."""
        return replace(self, tokenizer=f"{self.tokenizer}+porter", tokens=_Stemmed(self.tokens))

    def bleu_signature(
        self, num_references: int | str, smoothing: str, effective_order: bool, order: int
    ) -> str:
        """The settings of a BLEU score, in the form of sacrebleu's signature."""
        case = "lc" if self.lowercase else "mixed"
        signature = f"nrefs:{num_references}|case:{case}|eff:{'yes' if effective_order else 'no'}"
        signature += f"|tok:{self.tokenizer}|smooth:{smoothing}" + (f"|order:{order}" if order != 4 else "")
        return f"{signature}|profile:{self.name}|by:lm_jax"

    def rouge_signature(self) -> str:
        """The settings of a ROUGE score."""
        case, counts = "lc" if self.lowercase else "mixed", "distinct" if self.distinct else "clipped"
        return f"case:{case}|tok:{self.tokenizer}|ngrams:{counts}|profile:{self.name}|by:lm_jax"


class _Stemmed:
    """`tokens` followed by NLTK's Porter stemmer."""

    def __init__(self, tokens: Callable[[str], Sequence[str]]):
        from nltk.stem.porter import PorterStemmer

        self.tokens, self.stem = tokens, PorterStemmer().stem

    def __call__(self, word: str) -> Sequence[str]:
        return [self.stem(token) if len(token) > 3 else token for token in self.tokens(word)]


_SPACED = str.maketrans({c: f" {c} " for c in '!"#$%&()*+/:;<=>?@[\\]^_`{|}~'})  # all of ASCII's but ' , - .
_STOP_AFTER_NON_DIGIT = re.compile(r"([^0-9])([.,])")
_STOP_BEFORE_NON_DIGIT = re.compile(r"([.,])([^0-9])")
_DASH_AFTER_DIGIT = re.compile(r"([0-9])(-)")


def _western_tokens(word: str) -> Sequence[str]:
    """The rules of mteval-v13a, which depend on one character on either side: `word` includes its spaces."""
    if (bare := word.strip()).isalnum():
        return (bare,)
    word = word.translate(_SPACED)
    if "." in word or "," in word:
        word = _STOP_AFTER_NON_DIGIT.sub(r"\1 \2 ", word)
        word = _STOP_BEFORE_NON_DIGIT.sub(r" \1 \2", word)
    if "-" in word:
        word = _DASH_AFTER_DIGIT.sub(r"\1 \2 ", word)
    return word.split()


def _words_13a(text: str) -> list[str]:
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "")
    if "&" in text:
        for entity, character in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
            text = text.replace(entity, character)
    return text.split()


_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def _words_mteval(text: str) -> list[str]:
    """NIST's script folds the case of ASCII letters alone, unless it is told otherwise."""
    return _words_13a(text.translate(_ASCII_LOWER))


def _tokens_13a(word: str) -> Sequence[str]:
    return _western_tokens(f" {word} ")


# sacrebleu's Chinese characters. Two of its ranges are written with five hexadecimal digits, which Python
# reads as two characters: the ranges become U+2001 to U+2A6D, dashes and curly quotes included, and part of
# the radicals.
_CHINESE_OF_SACREBLEU = re.compile(
    "[\u2001-\u2a6d\u2e80-\u2fdf\u2ff0-\u303f\u3100-\u312f\u31a0-\u31ef\u3200-\u4db5\u4e00-\u9fbb"
    "\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\ufe10-\ufe1f\ufe30-\ufe4f\uff00-\uffef]"
)


def _words_zh(text: str) -> list[str]:
    """Words with the spaces beside them, since the first and the last of a line lack one there."""
    words = text.split()
    return [f"{' ' if i else ''}{word}{' ' if i + 1 < len(words) else ''}" for i, word in enumerate(words)]


def _tokens_zh(word: str) -> Sequence[str]:
    return _western_tokens(_CHINESE_OF_SACREBLEU.sub(r" \g<0> ", word))


def _characters(text: str) -> list[str]:
    return list("".join(text.split()))


def _lowercase_words(text: str) -> list[str]:
    return text.lower().split()


def _words_rouge(text: str) -> list[str]:
    # For `rouge` a sentence of only white space is one empty word, which counts.
    return [word for sentence in _sentences_rouge(text) for word in sentence.split() or [""]]


def _sentences_rouge(text: str) -> list[str]:
    return [sentence for sentence in text.split(".") if sentence]


SACREBLEU_SCALE = 100  # sacrebleu prints BLEU and chrF from 0 to 100
_CJK = "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("sacrebleu-13a", "13a", _words_13a, _tokens_13a, scale=SACREBLEU_SCALE),
        Profile("mteval-13a", "13a", _words_mteval, _tokens_13a, lowercase=True),
        Profile("sacrebleu-zh", "zh", _words_zh, _tokens_zh, scale=SACREBLEU_SCALE),
        Profile("sacrebleu-char", "char", _characters, scale=SACREBLEU_SCALE),
        Profile("nltk", "space", str.split, smoothing="method0", effective_order=False, min_total=1),
        Profile("rouge_score", "a-z0-9", _lowercase_words, re.compile("[a-z0-9]+").findall, lowercase=True),
        Profile("rouge", "space", _words_rouge, sentences=_sentences_rouge, distinct=True, epsilon=1e-8),
        Profile(
            "zh-char",
            "han",
            _lowercase_words,
            re.compile(f"[{_CJK}]|[^\\W_{_CJK}]+").findall,
            sentences=re.compile("[\n。！？]").split,
            lowercase=True,
        ),
    )
}
"""The profiles by name. "zh-char" is ours: Han and kana characters one by one, other letters by the word."""


def get_profile(profile: str | Profile) -> Profile:
    """The profile of that name, or the one given."""
    if isinstance(profile, Profile):
        return profile
    if not isinstance(profile, str) or profile not in PROFILES:
        raise UserError(f"no profile {profile!r}", f"use one of {', '.join(PROFILES)}")
    return PROFILES[profile]
