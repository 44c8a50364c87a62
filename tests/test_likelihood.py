"""Likelihood metrics against PyTorch, scikit-learn, the tutorial's rows, and their own laws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.metrics import likelihood
from lm_jax.metrics.chunked import chunked_cross_entropy

B, T, V = 3, 5, 11


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    logits = 4 * rng.normal(size=(B, T, V)).astype(np.float32)
    return logits, rng.integers(0, V, (B, T)), rng.integers(0, 3, (B, T)).astype(np.float32)


def _log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_tutorial_cross_entropy_and_perplexity():
    # Erratum: the tutorial prints 1.4068 and 4.0852. Its rows are passed as logits, and give these.
    sums = likelihood.cross_entropy([[0.2, 0.4, 0.1, 0.3], [0.1, 0.5, 0.2, 0.2]], [1, 2])
    np.testing.assert_allclose(sums.mean, 1.345279, atol=5e-7)
    np.testing.assert_allclose(likelihood.perplexity(sums.total, sums.weight), 3.839259, atol=2e-6)


def test_uniform_logits_give_log_vocab():
    # The tutorial's untrained RNN over 1,000 tokens: a first loss of 6.9089, which is about ln 1000.
    sums = likelihood.cross_entropy(jnp.zeros((2, 3, 1000)), jnp.zeros((2, 3), int))
    np.testing.assert_allclose(sums.mean, math.log(1000), rtol=1e-6)


def test_token_log_probs_are_normalised(batch):
    logits, targets, _ = batch
    every = jnp.broadcast_to(jnp.arange(V)[:, None, None], (V, B, T))
    log_probs = jax.vmap(likelihood.token_log_probs, (None, 0))(logits, every)
    np.testing.assert_allclose(jnp.exp(log_probs).sum(0), 1, rtol=1e-6)
    expected = np.take_along_axis(_log_softmax(logits), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(likelihood.token_log_probs(logits, targets), expected, rtol=1e-5)


def test_token_outside_the_vocabulary_is_nan_not_another_token():
    assert np.isnan(likelihood.token_log_probs(np.zeros((2, 3)), [-1, 3])).all()
    assert np.isnan(likelihood.token_log_probs(np.zeros((1, 3)), np.array([2**32 + 1]))).all()
    for function in (
        likelihood.cross_entropy,
        likelihood.accuracy,
        likelihood.brier_score,
        lambda *x: likelihood.Sums(likelihood.calibration_error(*x), 0),
    ):
        for target in (-1, 3):
            assert np.isnan(function(np.zeros((2, 3)), [0, target]).total)
            assert np.isfinite(function(np.zeros((2, 3)), [0, target], [1.0, 0.0]).total)
        assert np.isnan(function(np.zeros((2, 3)), [0, 1], [1.0, -1.0]).total)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int64, np.uint64])
def test_targets_of_any_integer_type(dtype):
    size, rng = 300, np.random.default_rng(3)
    logits = rng.normal(size=(4, size)).astype(np.float32)
    targets = np.array([0, 5, 127, min(299, np.iinfo(dtype).max)])

    def total(logits, targets):
        return likelihood.cross_entropy(logits, targets).total

    narrow = targets.astype(dtype)
    for which in (narrow, jnp.asarray(narrow)):
        small = jax.value_and_grad(total)(logits, which)
        np.testing.assert_array_equal(small[1], jax.grad(total)(logits, targets))
        assert small[0] == total(logits, targets)
    np.testing.assert_array_equal(
        likelihood.accuracy(logits, targets.astype(dtype), k=50), likelihood.accuracy(logits, targets, k=50)
    )
    ignored = np.array([0, 5, 127, np.uint8(156)], dtype if np.iinfo(dtype).max > 127 else np.int64)
    assert likelihood.cross_entropy(logits, ignored, ignore_index=-100).weight == 4  # 156 is −100 + 256
    if np.iinfo(dtype).min < 0:
        assert np.isnan(likelihood.token_log_probs(logits, np.full(4, -100, dtype))).all()
        assert likelihood.cross_entropy(logits, np.full(4, -100, dtype), ignore_index=-100).weight == 0


@pytest.mark.parity
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(batch, label_smoothing):
    torch = pytest.importorskip("torch")
    logits, targets, weights = batch
    logits_torch = torch.tensor(logits.astype(np.float64), requires_grad=True)
    nats = torch.nn.functional.cross_entropy(
        logits_torch.reshape(-1, V),
        torch.tensor(targets).reshape(-1),
        reduction="none",
        label_smoothing=label_smoothing,
    )
    (nats * torch.tensor(weights).reshape(-1)).sum().backward()

    def total(logits):
        return likelihood.cross_entropy(logits, targets, weights, label_smoothing=label_smoothing).total

    value, gradient = jax.value_and_grad(total)(logits)
    np.testing.assert_allclose(value, (nats.detach().numpy() * weights.ravel()).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, logits_torch.grad.numpy(), atol=2e-6)


def test_ignore_index_is_weight_zero(batch):
    logits, targets, weights = batch
    ignored = np.where(weights == 0, -100, targets)
    for metric in (likelihood.cross_entropy, likelihood.accuracy, likelihood.brier_score):
        a = metric(logits, ignored, weights, ignore_index=-100)
        b = metric(logits, targets, weights)
        np.testing.assert_allclose((a.total, a.weight), (b.total, b.weight), rtol=1e-6)
        c = metric(logits, ignored, ignore_index=-100)
        assert c.weight == (weights != 0).sum()


def test_padding_gives_no_nan_and_no_gradient(batch):
    logits, targets, weights = batch
    assert (weights == 0).any()
    broken = np.where(weights[..., None] == 0, np.nan, logits)
    targets = np.where(weights == 0, -7, targets)
    for metric in (likelihood.cross_entropy, likelihood.brier_score):
        value, gradient = jax.value_and_grad(lambda x, m=metric: m(x, targets, weights).total)(broken)
        clean = metric(logits, np.maximum(targets, 0), weights).total
        np.testing.assert_allclose(value, clean, rtol=1e-6)
        assert np.isfinite(gradient).all()
        assert (gradient[weights == 0] == 0).all()
    assert np.isfinite(likelihood.accuracy(broken, targets, weights).mean)
    assert np.isfinite(likelihood.calibration_error(broken, targets, weights))


def test_extreme_logits_stay_finite():
    nats = likelihood.cross_entropy([[1e30, 0.0], [-jnp.inf, 0.0]], [0, 1])
    np.testing.assert_array_equal(nats.total, 0)
    assert likelihood.token_log_probs([[-jnp.inf, 0.0]], [0])[0] == -jnp.inf
    assert likelihood.cross_entropy([[1e4, 0.0]], [1]).total == 1e4


def test_bfloat16_logits_accumulate_in_float32(batch):
    logits, targets, _ = batch
    logits = jnp.asarray(logits, jnp.bfloat16)
    sums = likelihood.cross_entropy(logits, targets)
    assert sums.total.dtype == jnp.float32
    expected = likelihood.cross_entropy(np.asarray(logits, np.float32), targets).total
    np.testing.assert_allclose(sums.total, expected, rtol=1e-6)


def test_float64_is_kept_under_x64(batch):
    logits, targets, weights = batch
    with jax.enable_x64(True):
        sums = likelihood.cross_entropy(logits.astype(np.float64), targets, weights)
        expected = -np.take_along_axis(_log_softmax(logits), targets[..., None], -1)[..., 0]
        np.testing.assert_allclose(float(sums.total), (expected * weights).sum(), rtol=1e-13)
        assert likelihood.calibration_error(logits.astype(np.float64), targets).dtype == jnp.float64


def test_vmap_gives_the_sums_of_each_example(batch):
    per_example = jax.jit(jax.vmap(likelihood.cross_entropy))(*batch)
    assert per_example.total.shape == (B,)
    whole = likelihood.cross_entropy(*batch)
    np.testing.assert_allclose(per_example.total.sum(), whole.total, rtol=1e-6)
    np.testing.assert_allclose(per_example.weight.sum(), whole.weight)


@pytest.mark.parametrize("k", [1, 3, V])
def test_accuracy_is_that_of_top_k_with_ties(k):
    rng = np.random.default_rng(k)
    logits = rng.integers(0, 4, (200, V)).astype(np.float32)  # many ties
    targets = rng.integers(0, V, 200)
    top = np.asarray(jax.lax.top_k(logits, k)[1])
    expected = (top == targets[:, None]).any(-1).sum()
    sums = likelihood.accuracy(logits, targets, k=k)
    assert (sums.total, sums.weight) == (expected, 200)


def test_a_model_of_nan_or_of_equal_logits_is_not_right():
    targets = np.arange(V)
    assert likelihood.accuracy(np.zeros((V, V)), targets).total == 1
    assert likelihood.accuracy(np.full((V, V), np.nan), targets).total <= 1


def test_brier_score_is_sklearns_for_two_classes(batch):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    p, y = rng.uniform(size=50), rng.integers(0, 2, 50)
    logits = np.log(np.stack([1 - p, p], 1))
    # Over both classes the squared error counts twice.
    expected = 2 * metrics.brier_score_loss(y, p)
    np.testing.assert_allclose(likelihood.brier_score(logits, y).mean, expected, rtol=1e-5)
    uniform = likelihood.brier_score(np.zeros((4, V)), np.zeros(4, int))
    np.testing.assert_allclose(uniform.mean, 1 - 1 / V, rtol=1e-6)


def test_calibration_error_by_hand():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    targets = [0, 1, 1, 1]
    # Bins (0.5, 0.75] and (0.75, 1]: |2 − 1.3| + |1 − 1.8| over 4 predictions.
    error = likelihood.calibration_error(np.log(p), targets, num_bins=4)
    np.testing.assert_allclose(error, (0.7 + 0.8) / 4, rtol=1e-5)
    # A confidence on a boundary belongs to the bin below it.
    bins = likelihood.reliability_bins([[0.0, 0.0], [100.0, 0.0], [1.0, 0.0]], [0, 0, 1], num_bins=4)
    assert bins.weight.tolist() == [0, 1, 1, 1]
    assert bins.correct.tolist() == [0, 1, 0, 1]


def test_calibration_error_against_a_loop(batch):
    logits, targets, weights = (x.reshape(-1, *x.shape[2:]) for x in batch)
    p = np.exp(_log_softmax(logits))
    confidence, correct = p.max(-1), p.argmax(-1) == targets
    expected = 0
    for b in range(10):
        inside = (confidence > b / 10) & (confidence <= (b + 1) / 10)
        expected += abs((weights * (correct - confidence))[inside].sum()) / weights.sum()
    bins = jax.jit(functools.partial(likelihood.reliability_bins, num_bins=10))
    halves = [bins(logits[s], targets[s], weights[s]) for s in (slice(7), slice(7, 14), slice(14, None))]
    added = jax.tree.map(lambda *x: sum(x), *halves)
    np.testing.assert_allclose(likelihood.expected_calibration_error(added), expected, rtol=1e-5)


def test_perplexity_and_bits_take_numbers_and_arrays():
    assert likelihood.perplexity(2 * math.log(7), 2) == pytest.approx(7)
    assert likelihood.bits_per_byte(8 * math.log(2), 4) == pytest.approx(2)
    np.testing.assert_allclose(
        likelihood.bits_per_byte(np.array([math.log(2), 0.0]), np.array([1, 4])), [1, 0]
    )
    assert isinstance(jax.jit(likelihood.perplexity)(0.0, 1), jax.Array)
    assert np.isnan(likelihood.perplexity(0, 0))
    assert np.isnan(likelihood.bits_per_byte(0, 0))


@pytest.mark.parametrize(
    ("logits", "targets", "weights"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), None),
        (np.zeros((2, 3)), np.zeros((2, 3), int), None),
        (np.zeros((2, 3)), np.zeros(2, int), np.zeros(3)),
        (np.zeros((2, 3)), np.zeros(2), None),
        (np.zeros((2, 3)), np.zeros(2, bool), None),
        (np.zeros((2, 3)), np.zeros(2, int), np.ones((2, 1))),
        (np.zeros((2, 3)), np.zeros(2, int), np.ones(1)),
        (np.zeros((2, 3), complex), np.zeros(2, int), None),
        (np.zeros((2, 3)), np.zeros(2, int), np.ones(2) * 1j),
        (np.zeros((2, 0)), np.zeros(2, int), None),
    ],
)
def test_wrong_shapes_and_types_raise_errors(logits, targets, weights):
    with pytest.raises(UserError):
        likelihood.cross_entropy(logits, targets, weights)


@pytest.mark.parametrize("chunk_length", [2, 64])
def test_chunked_cross_entropy_equals_the_whole(batch, chunk_length):
    _, targets, weights = batch
    rng = np.random.default_rng(2)
    hidden = rng.normal(size=(B, T, 7)).astype(np.float32)
    params = {"kernel": rng.normal(size=(7, V)).astype(np.float32), "bias": np.ones(V, np.float32)}

    def head(params, hidden):
        return hidden @ params["kernel"] + params["bias"][None, None]

    def whole(params, hidden):
        return likelihood.cross_entropy(head(params, hidden), targets, weights, label_smoothing=0.1).mean

    def chunked(params, hidden):
        return chunked_cross_entropy(
            head, params, hidden, targets, weights, chunk_length=chunk_length, label_smoothing=0.1
        ).mean

    expected = jax.value_and_grad(whole, (0, 1))(params, hidden)
    actual = jax.jit(jax.value_and_grad(chunked, (0, 1)))(params, hidden)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected)
    np.testing.assert_allclose(chunked(params, hidden), expected[0], rtol=1e-6)


def test_chunked_cross_entropy_applies_ignore_index(batch):
    _, targets, weights = batch
    targets = np.where(weights == 0, -100, targets)
    hidden = np.random.default_rng(3).normal(size=(B, T, V)).astype(np.float32)
    chunked = chunked_cross_entropy(lambda _, h: h, (), hidden, targets, chunk_length=2, ignore_index=-100)
    whole = likelihood.cross_entropy(hidden, targets, ignore_index=-100)
    np.testing.assert_allclose((chunked.total, chunked.weight), (whole.total, whole.weight), rtol=1e-6)
