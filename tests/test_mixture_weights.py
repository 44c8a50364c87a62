"""The weights of mixtures: EM never loses likelihood, finds the optimum, and backs off in rare situations."""

import itertools

import numpy as np
import pytest

from lm_jax.language_models.mixtures.weights import TOLERANCE, Weights, fit, fit_by_situation, mixed


def log_probs(seed, num_tokens=200, num_components=3):
    """Random log-probabilities, some of them of 0."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(4), size=(num_tokens, num_components))[..., 0]
    probs[:, 0] *= rng.random(num_tokens) < 0.7
    with np.errstate(divide="ignore"):
        return np.log(probs)


def nats(log_probs_NK, weights_K):
    with np.errstate(divide="ignore"):
        return -np.log(np.exp(log_probs_NK) @ weights_K).mean()


@pytest.mark.parametrize("seed", range(5))
def test_em_never_loses_likelihood_and_finds_the_best_weights_of_a_grid(seed):
    values = log_probs(seed)
    found = fit(values)
    assert np.all(np.diff(found.nats) <= 1e-12)
    assert found.weights.sum() == pytest.approx(1)
    shares = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    assert found.nats[1] == pytest.approx(nats(values, shares.mean(axis=0))), "a step is EM's"
    assert found.nats[-1] == pytest.approx(nats(values, found.weights), abs=1e-12)
    steps = [w for w in itertools.product(range(51), repeat=3) if sum(w) == 50]
    best = min(nats(values, np.array(w) / 50) for w in steps)
    assert found.nats[-1] <= best + TOLERANCE
    assert found.nats[-1] >= best - 1e-3, "which no weights near the grid's can be"


def test_a_component_that_is_always_better_gets_all_weight():
    good = np.log(np.random.default_rng(0).uniform(0.5, 0.9, 50))
    found = fit(np.stack([good - 1, good], axis=1))
    np.testing.assert_allclose(found.weights, [0, 1], atol=1e-5)
    assert found.iterations == len(found.nats) - 1 > 1


def test_weights_of_situations_are_those_of_their_tokens_and_back_off_to_those_of_all():
    values, situations = log_probs(1, 400), np.arange(400) % 4 // 2  # of 0..2, the last never occurs
    prior = fit(values).weights
    alone = fit_by_situation(values, situations, 3, prior, strength=1e-9, tolerance=1e-12)
    for s in range(2):
        np.testing.assert_allclose(alone.weights[s], fit(values[situations == s], 1e-12).weights, atol=1e-3)
    np.testing.assert_allclose(alone.weights[2], prior)
    strong = fit_by_situation(values, situations, 3, prior, strength=1e9)
    np.testing.assert_allclose(strong.weights, np.tile(prior, (3, 1)), atol=1e-6)
    some = fit_by_situation(values, situations, 3, prior)
    assert nats(values, prior) > some.nats[-1] > alone.nats[-1]
    np.testing.assert_allclose(some.weights.sum(axis=1), 1)


def test_weights_are_looked_up_by_situation():
    weights = Weights(np.array([1.0, 0.0]), np.array([[0.5, 0.5], [0.1, 0.9]]))
    got = np.exp(mixed(weights.log(np.array([0, 1])), np.log([[0.2, 0.4], [0.2, 0.4]])))
    np.testing.assert_allclose(got, [0.3, 0.38])
    np.testing.assert_allclose(
        np.exp(weights._replace(by_situation_SK=None).log(np.zeros(2, int))), [[1, 0]] * 2
    )
