"""Mixtures by word: each model has a distribution over next words, whatever its tokens are."""

import itertools

import numpy as np
import pytest
from test_expected import neural
from test_ngram_language_model import make_model
from test_spelling import _model as spelled_words

from lm_jax.errors import UserError
from lm_jax.language_models.mixtures import fitting
from lm_jax.language_models.mixtures.by_word import WordMixture, word_boundaries
from lm_jax.language_models.mixtures.document_cache import DocumentCache
from lm_jax.language_models.mixtures.models import as_component
from lm_jax.language_models.mixtures.weights import Weights
from lm_jax.text import load as tokenizers
from lm_jax.text.words import word_spans

TEXTS = ["ab a", "ba ab ab", "aab", "b ab", "ab", "a", "b"]
LONGEST = 5
SPACES = (b" ", b"\t", b"\n", b"\r", b"\0")


@pytest.fixture(scope="module")
def components():
    """n-grams of characters and of byte pairs, of one text."""
    kinds = {"char": {"vocab_size": 0}, "bpe": {"vocab_size": 262}}
    made = {}
    for kind, size in kinds.items():
        tokenizer = tokenizers.train(kind, TEXTS, **size)
        model = make_model(TEXTS, tokenizer, order=2, discount_fallback=(0.5, 1.0, 1.5))
        made[kind] = as_component(model, kind)
    tokens = {made["bpe"].tokenizer.token_bytes(i) for i in made["bpe"].tokenizer.encode("ab ab").ids}
    assert tokens & {b"ab", b" ab", b" a"}, "tokens of several characters"
    return made


def closed(component, prefix):
    """log p(a text begins with these tokens, and then white space follows or it ends), by `next` alone."""
    tokenizer = component.tokenizer
    ids, total = tokenizer.encode(prefix).ids, 0.0
    for t, token in enumerate(ids):
        total += component.next(ids[:t])[0][token]
    following = component.next(ids)[0][: tokenizer.vocab_size]
    begins = [tokenizer.token_bytes(i)[:1] in SPACES for i in range(tokenizer.vocab_size)]
    begins[tokenizer.end_id] = True
    return total + np.logaddexp.reduce(following[begins])


def whole(component, text):
    """log p(text), the end included, by `next` alone."""
    ids = np.append(component.tokenizer.encode(text).ids, component.tokenizer.end_id)
    return sum(component.next(ids[:t])[0][token] for t, token in enumerate(ids))


def expected(components, weights, text):
    """log p of the mixture: of each word up to what follows it, and of what follows the last one."""
    before, total = [0.0] * len(components), 0.0
    ends = [int(end) for _, end in word_spans(text.encode())]
    for end in ends:
        after = [closed(component, text[:end]) for component in components]
        total += np.logaddexp.reduce(np.log(weights) + after - np.array(before))
        before = after
    after = [whole(component, text) for component in components]
    return total + np.logaddexp.reduce(np.log(weights) + after - np.array(before))


def test_the_probability_of_every_short_string_is_that_of_brute_force(components):
    parts, weights = [components["char"], components["bpe"]], [0.3, 0.7]
    mixture = WordMixture(parts, Weights(np.array(weights)))
    strings = ["".join(s) for n in range(LONGEST) for s in itertools.product("ab ", repeat=n)]
    scored = mixture.score(strings)
    got = np.array([one.log_probs.sum() for one in scored])
    some = list(range(0, len(strings), 7))
    np.testing.assert_allclose(got[some], [expected(parts, weights, strings[i]) for i in some], rtol=1e-6)
    assert 0.5 < np.exp(got).sum() < 1
    of_texts = [[one.scored.log_probs.sum() for one in part.read(strings)] for part in parts]
    mixed_texts = np.logaddexp.reduce(np.log(weights)[:, None] + of_texts, axis=0)
    assert not np.allclose(got, mixed_texts, atol=0.01), "words are mixed, not whole texts"


def test_the_probabilities_of_next_words_sum_to_one():
    """Of two models over characters, by all words of up to eight letters, and the end."""
    models = [
        make_model(TEXTS, tokenizers.train("char", texts), order=2, smoothing="maximum_likelihood")
        for texts in (TEXTS, [*TEXTS, "c"])
    ]
    mixture = WordMixture([as_component(m, "m") for m in models], Weights(np.array([0.4, 0.6])))
    letters = ["".join(s) for n in range(1, 9) for s in itertools.product("ab", repeat=n)]
    [end] = mixture.score(["ab"])
    words = mixture.score([f"ab {word}" for word in letters])
    total = np.exp(end.log_probs[1]) + sum(np.exp(one.log_probs[1]) for one in words)
    assert total == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("text", ["", "ab", " ab  ba ", "ab \n", "  "])
def test_segments_tile_the_text_and_the_end_is_the_last(components, text):
    mixture = WordMixture(list(components.values()), Weights(np.array([0.5, 0.5])))
    [scored] = mixture.score([text])
    assert b"".join(scored.tokens) == text.encode()
    assert scored.spans[-1].tolist() == [len(text)] * 2
    assert scored.complete
    if text[-1:].isspace():
        assert scored.log_probs[-1] == 0, "only the end follows white space without a word"
    alone = WordMixture([components["bpe"]], Weights(np.ones(1)))
    of_model = components["bpe"].read([text])[0].scored
    assert alone.score([text])[0].log_probs.sum() == pytest.approx(of_model.log_probs.sum())


def test_weights_are_fitted_by_word_and_by_context(components):
    parts = [components["char"], components["bpe"]]
    mixture, found = fitting.fit_mixture(parts, TEXTS, "texts")
    assert isinstance(mixture, WordMixture)
    nats = -sum(one.log_probs.sum() for one in mixture.score(TEXTS))
    segments = sum(len(one.log_probs) for one in mixture.score(TEXTS))
    assert nats == pytest.approx(found.nats[-1] * segments)
    for share in np.linspace(0, 1, 21):
        other = WordMixture(parts, Weights(np.array([share, 1 - share])))
        assert nats <= -sum(one.log_probs.sum() for one in other.score(TEXTS)) + 1e-5
    by_context, _ = fitting.fit_mixture(parts, TEXTS, "texts", by_context=True)
    assert by_context.describe_context()["weights_by"] == ["ngram"]
    assert -sum(one.log_probs.sum() for one in by_context.score(TEXTS)) <= nats + 1e-6
    for one, other in zip(by_context.score(["ab ba"]), by_context.score(["ab ab"])):
        assert one.log_probs[0] == pytest.approx(other.log_probs[0]), "of the past alone"


def test_a_neural_model_mixes_with_ngrams_of_other_tokens(components):
    gpt = as_component(neural("gpt"), "gpt")
    mixture = fitting.make([gpt, components["bpe"]], Weights(np.array([0.5, 0.5])))
    assert expected([gpt, components["bpe"]], [0.5, 0.5], "ab ba") == pytest.approx(
        mixture.score(["ab ba"])[0].log_probs.sum(), abs=1e-4
    )


def test_what_does_not_mix_by_word_is_refused(components):
    cache = DocumentCache(components["char"].tokenizer)
    with pytest.raises(UserError, match="cache among models with different tokens, which mix by word"):
        fitting.make([components["bpe"], cache], Weights(np.array([0.5, 0.5])))
    words = as_component(
        make_model(TEXTS, tokenizers.train("word", TEXTS), order=1, smoothing="maximum_likelihood"), "words"
    )
    with pytest.raises(UserError, match="words cannot be mixed"):
        fitting.make([components["bpe"], words], Weights(np.array([0.5, 0.5]))).score(["ab"])
    with pytest.raises(UserError, match="char has no token for white space that the text has"):
        fitting.make(list(components.values()), Weights(np.array([0.5, 0.5]))).score(["ab\nab"])
    assert word_boundaries(words.tokenizer).all(), "the unknown word is a word, too"


def test_a_token_behind_a_word_is_refused(components, monkeypatch):
    """As of a tokenizer that joins a word with the white space behind it."""
    bpe = components["bpe"]
    [made] = bpe.model.expect(["ab a"])
    spans = np.array([[0, 3], [3, 4], [4, 4]])
    joined = made._replace(
        scored=made.scored._replace(spans=spans, log_probs=np.zeros(3)), log_shares=np.zeros(3)
    )
    monkeypatch.setattr(bpe.model, "expect", lambda *_: [joined], raising=False)
    with pytest.raises(UserError, match="bpe has a token that goes on behind a word, at byte 2: 'ab a'"):
        WordMixture([bpe], Weights(np.ones(1))).score(["ab a"])


def test_a_model_of_spelled_words_mixes_with_one_of_bytes():
    """Its unknown words and its white space are paid for; the whole is a distribution over strings."""
    texts = ["ab a", "ba ab ab", "aab", "b ab"]
    words = as_component(spelled_words(texts), "words")
    characters = as_component(
        make_model(texts, tokenizers.train("char", texts), order=2, smoothing="maximum_likelihood"), "char"
    )
    mixture = fitting.make([characters, words], Weights(np.array([0.5, 0.5])))
    assert isinstance(mixture, WordMixture)
    strings = ["".join(s) for n in range(6) for s in itertools.product("ab ", repeat=n)]
    scored = mixture.score(strings)
    assert all(one.complete and b"".join(one.tokens) == one.text for one in scored)
    assert 0.3 < sum(np.exp(one.log_probs.sum()) for one in scored) < 1
    [alone] = WordMixture([words], Weights(np.ones(1))).score(["ab  bbb a"])
    [of_model] = words.model.score(["ab  bbb a"])
    assert of_model.unknown.any()
    assert alone.log_probs.sum() == pytest.approx(of_model.byte_log_probs.sum())
