"""The loss of a sampled softmax: cross entropy over the target and a sample of the vocabulary.

It makes training fast with hundreds of thousands of words. It is no likelihood, and much smaller than one: a
model is evaluated with its full softmax.
"""

import math

import jax
import jax.numpy as jnp

from lm_jax.batch import Sums


def draw(key: jax.Array, num_draws: int, vocab_size: int) -> jax.Array:
    """Token ids drawn with replacement, sorted, int32 [num_draws].

    p(id) = ln((id + 2) / (id + 1)) / ln(V + 1), about the frequency of words by rank (Zipf): ids go from
    frequent to rare as those of a word tokenizer.
    """
    uniform = jax.random.uniform(key, (num_draws,))
    ids = jnp.exp(uniform * math.log(vocab_size + 1)).astype(jnp.int32) - 1
    return jnp.sort(jnp.clip(ids, 0, vocab_size - 1))


def log_expected(ids: jax.Array, num_draws: int, vocab_size: int) -> jax.Array:
    """The natural log of the probability that an id is among those of `draw`: 1 − (1 − p)^num_draws."""
    x = ids.astype(jnp.float32)
    p = jnp.log1p(1 / (x + 1)) / math.log(vocab_size + 1)
    return jnp.log(-jnp.expm1(num_draws * jnp.log1p(-p)))


def sampled_cross_entropy(
    target_logits: jax.Array,
    sample_logits: jax.Array,
    targets: jax.Array,
    sample_K: jax.Array,
    weights: jax.Array,
    vocab_size: int,
) -> Sums:
    """The summed loss, and the sum of the weights.

    Each logit is diminished by the log of the probability that its token is in the sample, so that the
    sample's exponentials estimate the full softmax's; a target in the sample does not count as a wrong token
    (Jean et al. 2015, section 3; TensorFlow's sampled_softmax_loss).

    Args:
        target_logits: float32 [...], of the targets.
        sample_logits: float32 [..., K], of the sample.
        targets: int [...].
        sample_K: int, of `draw`; repetitions do not count.
        weights: float [...]; 0 where a target does not count.
        vocab_size: tokens that may be drawn.
    """
    num_draws = len(sample_K)
    is_first_K = jnp.diff(sample_K, prepend=-1) > 0
    sample, is_first = (x_K.reshape((1,) * targets.ndim + (-1,)) for x_K in (sample_K, is_first_K))
    is_wrong = is_first & (sample != targets[..., None])
    corrected = sample_logits - log_expected(sample, num_draws, vocab_size)
    corrected = jnp.where(is_wrong, corrected, -jnp.inf)
    right = target_logits - log_expected(targets, num_draws, vocab_size)
    together = jnp.concatenate([right[..., None], corrected], axis=-1)
    nats = jax.nn.logsumexp(together, axis=-1) - right
    return Sums(jnp.where(weights != 0, weights * nats, 0).sum(), weights.sum())
