"""Mixtures by token, caches and dynamic evaluation: proper distributions that look at the past alone."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_expected import neural
from test_ngram_language_model import make_model
from tiny_gpt import apply

from lm_jax.errors import UserError
from lm_jax.language_models.mixtures import fitting
from lm_jax.language_models.mixtures.document_cache import DocumentCache
from lm_jax.language_models.mixtures.dynamic import DynamicEvaluation
from lm_jax.language_models.mixtures.mixture import Mixture, TokenMixture, mix
from lm_jax.language_models.mixtures.models import as_component
from lm_jax.language_models.mixtures.neural_cache import NeuralCache
from lm_jax.language_models.mixtures.weights import Weights
from lm_jax.text import load as tokenizers

TEXT = "the model reads the model "  # 27 tokens with the end, within the context of 32
KINDS = ("gpt", "rnn", "ngram", "cache", "gpt+cache", "rnn+cache", "gpt+dynamic", "rnn+dynamic")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tiny.write_text(tmp_path_factory.mktemp("text") / "text.txt", num_lines=40)
    return path.read_text().splitlines()


@pytest.fixture(scope="module")
def components(texts):
    """One of each kind, over bytes."""
    tokenizer = tokenizers.train("byte", texts)
    ngram = make_model(texts, tokenizer, order=3, discount_fallback=(0.5, 1.0, 1.5))
    models = {name: neural(name) for name in ("gpt", "rnn")}
    made = {name: as_component(model, name) for name, model in models.items()}
    made |= {"ngram": as_component(ngram, "ngram"), "cache": DocumentCache(tokenizer, 3, 0.9, 0.5)}
    for name, model in models.items():
        made[f"{name}+cache"] = NeuralCache(model, name, 0.3)
        made[f"{name}+dynamic"] = DynamicEvaluation(model, name, 0.5, 8)
    return made


def weighted(components, by_situation=False, seed=0):
    """A mixture with random weights."""
    rng, count = np.random.default_rng(seed), len(components)
    made = mix(components, Weights(rng.dirichlet(np.ones(count))))
    if not by_situation:
        return made
    table = rng.dirichlet(np.ones(count), len(made.situations))
    return mix(components, Weights(made.weights.all_K, table))


def test_a_mixture_is_the_weighted_sum_of_its_components(components):
    parts = [components[name] for name in ("gpt", "ngram", "cache")]
    mixture = mix(parts, Weights(np.array([0.5, 0.3, 0.2])))
    for text in ("", TEXT):
        probs = [np.exp(part.read([text])[0].scored.log_probs) for part in parts]
        [scored] = mixture.score([text])
        np.testing.assert_allclose(scored.log_probs, np.log(np.dot([0.5, 0.3, 0.2], probs)), rtol=1e-12)
        assert scored.complete
        assert scored.tokens == [bytes([b]) for b in text.encode()] + [b""]
    assert mixture.family == "mixture"
    assert mixture.context == 32
    described = mixture.describe_context()
    assert [part["weight"] for part in described["components"]] == [0.5, 0.3, 0.2]
    assert described["components"][2]["decay"] == 0.9


@pytest.mark.parametrize("name", KINDS)
def test_with_all_weight_a_mixture_is_its_component(components, name):
    mixture = mix([components["ngram"], components[name]], Weights(np.array([0.0, 1.0])))
    got, expected = mixture.score([TEXT])[0], components[name].read([TEXT])[0].scored
    np.testing.assert_array_equal(got.log_probs, expected.log_probs)


@pytest.mark.parametrize("name", KINDS)
def test_what_follows_sums_to_one_and_is_what_texts_are_scored_by(components, name):
    component, ids = components[name], component_ids(components, TEXT)
    [reading] = component.read([TEXT])
    for place in (0, 1, 7, 8, 20, len(ids) - 1):
        log_probs_W, situation = component.next(ids[:place])
        assert np.exp(log_probs_W).sum() == pytest.approx(1, abs=1e-5)
        assert log_probs_W[ids[place]] == pytest.approx(reading.scored.log_probs[place], abs=1e-4)
        assert situation == reading.situations[place]
    assert reading.situations.max() < component.num_situations


def component_ids(components, text):
    tokenizer = components["cache"].tokenizer
    return np.append(tokenizer.encode(text).ids, tokenizer.end_id)


def test_the_probabilities_of_all_strings_sum_to_one():
    """By brute force: those of up to two letters, and of all that begin with three."""
    texts = ["ab", "ba", "aab", "b"]
    tokenizer = tokenizers.train("char", texts)
    models = [make_model(texts, tokenizer, order=n, smoothing="maximum_likelihood") for n in (1, 2)]
    parts = [*(as_component(model, "m") for model in models), DocumentCache(tokenizer, 3, 0.8, 0.2)]
    mixture = weighted(parts, by_situation=True)
    strings = ["".join(s) for n in range(4) for s in itertools.product("ab", repeat=n)]
    scored = mixture.score(strings)
    whole = [np.exp(s.log_probs.sum()) for s in scored if len(s.text) < 3]
    begun = [np.exp(s.log_probs[:-1].sum()) for s in scored if len(s.text) == 3]
    assert sum(whole) + sum(begun) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_nothing_depends_on_later_text_or_on_other_documents(components, name):
    component = components[name]
    long = TEXT + "new data of it with bytes; the model learns"  # beyond the context
    alone, changed = component.read([long])[0], component.read([long[:50] + "?!" * 9])[0]
    np.testing.assert_allclose(changed.scored.log_probs[:50], alone.scored.log_probs[:50], atol=1e-5)
    np.testing.assert_array_equal(changed.situations[:50], alone.situations[:50])
    assert not np.allclose(changed.scored.log_probs[50:60], alone.scored.log_probs[50:60])
    among = component.read([TEXT, long, "a"])[1]
    np.testing.assert_allclose(among.scored.log_probs, alone.scored.log_probs, atol=1e-5)


@pytest.mark.parametrize(("order", "decay"), [(1, 1.0), (1, 0.8), (3, 0.9)])
def test_a_cache_counts_what_the_document_so_far_has(order, decay):
    tokenizer, concentration = tokenizers.train("byte", ["a"]), 0.4
    [reading] = DocumentCache(tokenizer, order, decay, concentration).read(["abracadabra"])
    ids = np.append(tokenizer.encode("abracadabra").ids, 256)
    for t, token in enumerate(ids):
        probability, situation = 1 / 257, 0
        for n in range(order):
            places = [i for i in range(n, t) if np.array_equal(ids[i - n : i], ids[t - n : t])]
            if places:
                weights = np.array([decay ** (t - i) for i in places])
                hits = weights[ids[places] == token].sum()
                probability = (hits + concentration * probability) / (weights.sum() + concentration)
                situation = n + 1
        assert np.exp(reading.scored.log_probs[t]) == pytest.approx(probability)
        assert reading.situations[t] == situation


@pytest.mark.parametrize("most", [3, 2000])
def test_a_neural_cache_is_equation_2_of_the_paper(components, most):
    model = components["gpt"].model
    [reading] = NeuralCache(model, "gpt", 0.3, most).read([TEXT])
    ids = np.concatenate([[256], component_ids(components, TEXT)])
    hidden = apply(model.module, model.params, ids[None, :-1], method="hidden")[0][0].astype(float)
    for t in range(len(ids) - 1):
        held = np.arange(max(0, t - most), t)
        shares = np.exp(0.3 * (hidden[held] @ hidden[t]))
        expected = shares[ids[1:][held] == ids[t + 1]].sum() / shares.sum() if t else 1 / 257
        assert np.exp(reading.scored.log_probs[t]) == pytest.approx(expected, rel=1e-3)


def test_dynamic_evaluation_takes_a_step_after_each_segment(components):
    model = components["gpt"].model
    [reading] = DynamicEvaluation(model, "gpt", 0.5, 8).read([TEXT])
    ids = np.concatenate([[256], component_ids(components, TEXT)])

    @jax.jit
    def log_probs(params):
        logits = model.module.apply(params, ids[None, :-1])[0][0]
        return jnp.take_along_axis(jax.nn.log_softmax(logits), ids[1:, None], axis=1)[:, 0]

    params, expected = model.params, []
    losses = jax.jit(jax.jacrev(log_probs))
    for first in range(0, len(ids) - 1, 8):
        segment = slice(first, first + 8)
        expected.extend(np.asarray(log_probs(params)[segment]))
        gradients = jax.device_get(losses(params))
        params = jax.tree.map(partial(_stepped, segment), params, gradients)
    np.testing.assert_allclose(reading.scored.log_probs, expected, atol=2e-3)
    still = DynamicEvaluation(model, "gpt", 0.0, 8).read([TEXT])[0]
    np.testing.assert_allclose(still.scored.log_probs, model.score([TEXT])[0].log_probs, atol=1e-4)
    assert not np.allclose(reading.scored.log_probs[8:], still.scored.log_probs[8:], atol=0.1)


def _stepped(segment, parameter, gradients):
    return np.asarray(parameter) + np.float32(0.5) * gradients[segment].mean(axis=0)


@pytest.mark.parametrize("name", ["gpt", "rnn"])
def test_a_mixture_writes_what_it_would_score(components, name):
    mixture = weighted([components[n] for n in (name, "ngram", "cache", f"{name}+cache")], by_situation=True)
    assert isinstance(mixture, Mixture)
    [made] = mixture.generate(["the mo"], max_tokens=8, seed=3, banned=list(range(128, 256)))
    [scored] = mixture.score(["the mo" + made.text])
    np.testing.assert_allclose(scored.log_probs[6 : 6 + len(made.tokens)], made.log_probs, atol=1e-3)
    ids = component_ids(components, "the mo")[:-1]
    log_probs = mixture.next_log_probs([ids, ids[:0]])
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, atol=1e-5)
    assert log_probs[0, made.tokens[0]] == pytest.approx(scored.log_probs[6], abs=1e-4)


def test_situations_of_components_are_combined_one_of_each_kind(components):
    mixture = weighted([components[n] for n in ("gpt", "gpt+dynamic", "ngram", "cache")], by_situation=True)
    assert isinstance(mixture, TokenMixture)
    assert not isinstance(mixture, Mixture), "dynamic evaluation does not write"
    assert mixture.situations.names == ["neural", "ngram", "cache"]
    assert len(mixture.situations) == 7 * 3 * 4
    [row] = mixture.read([TEXT])
    [scored] = mixture.score([TEXT])
    t = 20
    number = (row[0].situations[t] * 3 + row[2].situations[t]) * 4 + row[3].situations[t]
    probs = np.exp([one.scored.log_probs[t] for one in row])
    expected = np.log(mixture.weights.by_situation_SK[number] @ probs)
    assert scored.log_probs[t] == pytest.approx(expected)


def test_fitting_chooses_settings_and_weights_that_are_better_than_any_of_a_grid(components, texts):
    long = ["\n".join(texts[i : i + 5]) for i in range(0, 40, 5)]
    parts = [components["ngram"], DocumentCache(components["ngram"].tokenizer, 2, 0.98)]
    mixture, found = fitting.fit_mixture(parts, long, "texts")
    cache = mixture.components[1]
    for decay in (0.98, 1.0):
        for share in (0.05, 0.2):
            other = mix(
                [parts[0], DocumentCache(cache.tokenizer, 2, decay, cache.concentration)],
                Weights(np.array([1 - share, share])),
            )
            assert total(mixture, long) <= total(other, long) + 1e-3
    assert mixture.weights.how.startswith("EM on texts, ")
    assert total(mixture, long) == pytest.approx(found.nats[-1] * sum(len(t.encode()) + 1 for t in long))
    by_context, _ = fitting.fit_mixture(parts, long, "texts", by_context=True)
    assert total(by_context, long) < total(mixture, long)


def total(mixture, texts):
    return -sum(one.log_probs.sum() for one in mixture.score(texts))


def test_what_does_not_mix_is_refused(components, texts):
    ngram, cache = components["ngram"], components["cache"]
    words = as_component(make_model(texts, tokenizers.train("word", texts), order=2), "words")
    with pytest.raises(UserError, match="ngram, words have different tokens; mix them by word"):
        mix([ngram, words], Weights(np.array([0.5, 0.5])))
    with pytest.raises(UserError, match="words cannot be mixed: it does not pay for every byte"):
        mix([words], Weights(np.ones(1))).score(["the model"])
    for values in ([0.5, 0.6], [1.5, -0.5], [np.nan, 1]):
        with pytest.raises(UserError, match="the weights"):
            mix([ngram, cache], Weights(np.array(values)))
    with pytest.raises(UserError, match="needed; give one for each component"):
        mix([ngram, cache], Weights(np.ones(1)))
    with pytest.raises(UserError, match="a mixture of nothing"):
        mix([], Weights(np.ones(0)))
    with pytest.raises(UserError, match="every component gives some of the validation text probability 0"):
        fitting.fit_mixture([components["gpt+cache"]], ["ab"], "texts")
    with pytest.raises(UserError, match="a history of 32 tokens, and gpt reads 31"):
        components["gpt"].next(np.zeros(32, np.int32))
