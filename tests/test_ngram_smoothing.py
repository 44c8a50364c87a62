"""Every smoothing against lmplz's files, NLTK or the textbook, and that probabilities add up to one."""

import collections
import gzip
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ngram_text import count, mark

from lm_jax.errors import UserError
from lm_jax.ngram import counts, jelinek_mercer
from lm_jax.ngram.smoothing import SMOOTHINGS, NGramConfig, estimate
from lm_jax.ngram.vocabulary import BOS, EOS, Vocabulary

GOLDEN = {
    "o4": ("train.txt", NGramConfig(order=4)),
    "o3_prune012": ("train.txt", NGramConfig(order=3, prune=(0, 1, 2))),
    "o2_nointerp": ("train.txt", NGramConfig(order=2, interpolate_unigrams=False)),
    "char_o5_fallback": ("train_char.txt", NGramConfig(order=5, discount_fallback=(0.5, 1.0, 1.5))),
}
TOY = b"I love language models and I love coding\n"


def arpa_lines(data: bytes):
    """The n-grams of an ARPA file: words, log10 probability, log10 back-off or None."""
    order = 0
    for line in data.split(b"\n"):
        if line.endswith(b"-grams:"):
            order = int(line[1:-7])
        elif order and b"\t" in line:
            prob, words, *backoff = line.split(b"\t")
            yield words.split(b" "), float(prob), float(backoff[0]) if backoff else None


def assert_equal_to_arpa(model, data: bytes) -> None:
    """Every n-gram is there, no other is, and the numbers agree to 1e-6."""
    lines = list(arpa_lines(data))
    assert sum(len(level) for level in model.log10_probs) == len(lines)
    ours, theirs = [], []
    for words, prob, backoff in lines:
        node = model.trie.suffixes(model.vocabulary.ids(words))
        assert len(node) == len(words), words
        ours.append(model.log10_probs[len(words) - 1][node[-1]])
        theirs.append(prob)
        if backoff is not None:
            ours.append(model.log10_backoffs[len(words) - 1][node[-1]])
            theirs.append(backoff)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_modified_kneser_ney_is_that_of_lmplz(shared, name):
    text, config = GOLDEN[name]
    model = estimate(count((shared / "fixtures/kenlm" / text).read_bytes(), config.order), config)
    assert_equal_to_arpa(model, gzip.decompress((shared / f"fixtures/kenlm/{name}.arpa.gz").read_bytes()))


def probability(model, words: str, history: str) -> float:
    """p(words | history) by the model's distribution."""
    return float(
        model.next_distribution(model.vocabulary.ids(history.split()))[model.vocabulary.ids([words])[0]]
    )


def test_maximum_likelihood_of_the_tutorial():
    model = estimate(count(TOY, 2), NGramConfig(order=2, smoothing="maximum_likelihood"))
    assert probability(model, "language", "love") == pytest.approx(0.5)
    assert probability(model, "love", "I") == 1.0
    assert probability(model, "coding", "I") == 0.0


sentences = st.lists(st.lists(st.integers(3, 7), max_size=7), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    sentences,
    st.lists(st.integers(0, 8), max_size=6),
    st.sampled_from([smoothing for smoothing in SMOOTHINGS if smoothing != "stupid_backoff"]),
    st.integers(1, 4),
    st.sampled_from([(), (0, 1), (1,), (0, 0, 2)]),
    st.booleans(),
)
def test_probabilities_after_any_history_add_up_to_one(
    text, history, smoothing, order, prune, interpolate_unigrams
):
    config = NGramConfig(
        order=order,
        smoothing=smoothing,
        prune=prune[:order],
        interpolate_unigrams=interpolate_unigrams,
        discount_fallback=(0.5, 1.0, 1.5),
        add_k=0.3,
    )
    model = estimate(counts.count(mark(*text), Vocabulary("abcdef"), order), config, held_out=mark([3, 4, 8]))
    assert model.normalised
    for context in (history, [BOS, *history]):
        probs = model.next_distribution([min(word, len(model.vocabulary) - 1) for word in context])
        assert probs.sum() == pytest.approx(1, abs=1e-5)
        assert probs.min() >= 0


@settings(max_examples=50, deadline=None)
@given(sentences, sentences, st.sampled_from(SMOOTHINGS), st.integers(1, 4))
def test_scores_are_the_distributions_of_their_words(text, other, smoothing, order):
    config = NGramConfig(order=order, smoothing=smoothing, discount_fallback=(0.5, 1.0, 1.5))
    held_out = mark(*other)
    model = estimate(counts.count(mark(*text), Vocabulary("abcdef"), order), config, held_out)
    scores = model.score(held_out)
    begin = 0
    for at, word in enumerate(held_out):
        begin = at if word == BOS else begin
        if word != BOS:
            probs = model.next_distribution(held_out[begin:at])
            assert np.exp(scores.log_probs[at]) == pytest.approx(probs[word], rel=1e-5)


def test_add_k_and_maximum_likelihood_are_those_of_nltk():
    nltk = pytest.importorskip("nltk.lm")
    from nltk.lm.preprocessing import pad_both_ends

    text = [s.split() for s in ("a b a c", "a b b", "c a b a", "b")]
    marked = [list(pad_both_ends(s, n=3)) for s in text]
    grams = [
        list(itertools.chain.from_iterable(zip(*(s[i:] for i in range(n)), strict=False) for s in marked))
        for n in (1, 2, 3)
    ]
    lines = "\n".join(" ".join(s) for s in text).encode()
    histories = [*itertools.product("abc", "abc"), ("<s>", "a"), ("<s>", "<s>")]
    for smoothing, theirs in (("add_k", nltk.Lidstone(0.5, 3)), ("maximum_likelihood", nltk.MLE(3))):
        theirs.fit(grams, vocabulary_text=[*"abc", "</s>"])
        ours = estimate(count(lines, 3), NGramConfig(order=3, smoothing=smoothing, add_k=0.5))
        for history in histories:
            if smoothing == "maximum_likelihood" and not theirs.counts[list(history)].N():
                continue  # NLTK gives 0 to every word; ours uses a shorter history
            for word in ("a", "b", "c", "</s>"):
                expected = theirs.score(word, list(history))
                got = probability(ours, word, " ".join(history).replace("<s> <s>", "<s>"))
                assert got == pytest.approx(expected, rel=1e-6), (smoothing, word, history)


class Textbook:
    """The interpolated smoothings as Chen and Goodman (1998) write them, word by word in Python floats."""

    def __init__(self, text: list[list[int]], order: int, vocab_size: int):
        marked = [(BOS, *s, EOS) for s in text]
        self.order, self.num_words = order, vocab_size - 1
        self.raw = [
            collections.Counter(
                s[i : i + n] for s in marked for i in range(len(s) - n + 1) if s[i : i + n] != (BOS,)
            )
            for n in range(1, order + 1)
        ]
        self.adjusted = [
            collections.Counter(gram[1:] for gram in self.raw[n])
            | collections.Counter({g: c for g, c in level.items() if g[0] == BOS})
            for n, level in enumerate(self.raw[:-1], 1)
        ] + self.raw[-1:]

    def after(self, counts, history) -> dict[int, int]:
        level = counts[len(history)]
        return {w: level[(*history, w)] for w in range(self.num_words + 1) if level[(*history, w)]}

    def shorter(self, prob, word, history) -> float:
        return prob(word, history[1:]) if history else 1 / self.num_words

    def witten_bell(self, word, history):
        seen = self.after(self.raw, history)
        lower = self.shorter(self.witten_bell, word, history)
        return (seen.get(word, 0) + len(seen) * lower) / (sum(seen.values()) + len(seen)) if seen else lower

    def discounted(self, counts, word, history):
        seen = self.after(counts, history)
        lower = self.shorter(lambda w, h: self.discounted(counts, w, h), word, history)
        if not seen:
            return lower
        times = collections.Counter(counts[len(history)].values())
        discount = times[1] / (times[1] + 2 * times[2]) if times[1] else 0.5
        kept = max(seen.get(word, 0) - discount, 0)
        return (kept + discount * len(seen) * lower) / sum(seen.values())

    def absolute_discounting(self, word, history):
        return self.discounted(self.raw, word, history)

    def kneser_ney(self, word, history):
        return self.discounted(self.adjusted, word, history)

    def stupid_backoff(self, word, history):
        seen = self.after(self.raw, history)
        if word in seen:
            return seen[word] / sum(seen.values())
        return 0.4 * self.stupid_backoff(word, history[1:]) if history else 0.0


@settings(max_examples=60, deadline=None)
@given(
    sentences,
    st.lists(st.integers(3, 7), max_size=4),
    st.integers(1, 4),
    st.sampled_from(["witten_bell", "absolute_discounting", "kneser_ney", "stupid_backoff"]),
)
def test_smoothings_are_those_of_the_textbook(text, history, order, smoothing):
    words = Vocabulary("abcdef")
    config = NGramConfig(order=order, smoothing=smoothing, discount_fallback=(0.5,))
    model = estimate(counts.count(mark(*text), words, order), config)
    textbook = Textbook(text, order, len(words))
    history = tuple([BOS, *history][-(order - 1) :]) if order > 1 else ()
    probs = model.next_distribution(history)
    for word in range(len(words)):
        if word != BOS:
            assert probs[word] == pytest.approx(
                getattr(textbook, smoothing)(word, history), rel=1e-5, abs=1e-9
            )


def test_stupid_backoff_is_marked_as_not_normalised():
    model = estimate(count(TOY, 2), NGramConfig(order=2, smoothing="stupid_backoff"))
    assert not model.normalised
    assert model.next_distribution([BOS]).sum() > 1.01


def test_jelinek_mercer_maximises_the_held_out_likelihood():
    generator = np.random.default_rng(0)
    text = [
        list(map(int, s))
        for s in generator.integers(3, 8, (60, 6)) // generator.integers(1, 3, (60, 1)) % 5 + 3
    ]
    found, held_out = counts.count(mark(*text[:40]), Vocabulary("abcdef"), 3), mark(*text[40:])
    weights = jelinek_mercer.fit(found, held_out, iterations=2000, tolerance=0)
    shares, buckets = jelinek_mercer._relative_frequencies(found, held_out, held_out != BOS)

    def likelihood(weights):
        return jelinek_mercer._step(weights, shares, buckets, 1 / (len(found.vocabulary) - 1))[1]

    best = likelihood(weights)
    for place in zip(*np.nonzero((weights > 2e-4) & (weights < 1 - 2e-4)), strict=True):
        for change in (-0.01, 0.01):
            other = weights.copy()
            other[place] = np.clip(other[place] + change, 0, 1)
            assert likelihood(other) <= best + 1e-9
    scores = estimate(found, NGramConfig(order=3, smoothing="jelinek_mercer"), held_out).score(held_out)
    assert scores.log_probs[held_out != BOS].mean() >= best - 1e-3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (NGramConfig(order=2, smoothing="good_turing"), "choose one of"),
        (NGramConfig(order=0), "order 0"),
        (NGramConfig(order=9), "order 9"),
        (NGramConfig(order=3), "counts of order 2"),
        (NGramConfig(order=2, prune=(2, 1)), "thresholds"),
        (NGramConfig(order=2, prune=(0, 1, 2)), "3 pruning thresholds"),
        (NGramConfig(order=2, discount_fallback=(1.5,)), "fallback"),
        (NGramConfig(order=2, smoothing="add_k", add_k=0), "add_k"),
        (NGramConfig(order=2, smoothing="stupid_backoff", backoff_weight=0), "backoff_weight"),
        (NGramConfig(order=2, smoothing="jelinek_mercer"), "held-out"),
        (NGramConfig(order=2), "discount_fallback"),
        (NGramConfig(order=2, smoothing="kneser_ney"), "discount_fallback"),
    ],
)
def test_mistakes_are_named(config, message):
    found = count(b"a a a a\na a a a\n", 2)
    with pytest.raises(UserError, match=message):
        estimate(found, config)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_text_of_one_word_makes_a_model(smoothing):
    config = NGramConfig(order=5, smoothing=smoothing, discount_fallback=(0.5,))
    model = estimate(count(b"word", 5), config, held_out=np.array([BOS, 3, EOS]))
    assert probability(model, "word", "<s>") > 0.3


def test_estimation_does_not_change_the_counts():
    found = count(TOY * 3, 3)
    before = [level.copy() for level in (*found.counts, *found.suffixes)]
    for smoothing in SMOOTHINGS:
        estimate(
            found,
            NGramConfig(order=3, smoothing=smoothing, prune=(0, 1), discount_fallback=(0.5,)),
            mark([3, 4]),
        )
    for old, new in zip(before, (*found.counts, *found.suffixes), strict=True):
        np.testing.assert_array_equal(old, new)
