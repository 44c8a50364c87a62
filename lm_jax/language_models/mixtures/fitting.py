"""Fits mixtures on held-out documents: settings of components one by one, then the weights."""

from collections.abc import Callable, Sequence

import numpy as np

from lm_jax.errors import UserError
from lm_jax.language_models.mixtures.base import Component, Reading
from lm_jax.language_models.mixtures.by_word import WordMixture
from lm_jax.language_models.mixtures.mixture import TokenMixture, have_equal_tokens, mix
from lm_jax.language_models.mixtures.weights import Fit, Weights, fit, fit_by_situation

# Called with (description, done, total).
Progress = Callable[[str, int, int], None]


def make(components: Sequence[Component], weights: Weights) -> TokenMixture | WordMixture:
    """A mixture by token where the components' tokens are equal, else by word. Errors as of these."""
    return mix(components, weights) if have_equal_tokens(components) else WordMixture(components, weights)


def equal_weights(components: Sequence[Component]) -> Weights:
    """The same weight for each."""
    return Weights(np.full(len(components), 1 / len(components)), how="equal")


def fit_mixture(
    components: Sequence[Component],
    texts: Sequence[str],
    source: str,
    by_context: bool = False,
    stride: int | None = None,
    report: Progress = lambda *_: None,
) -> tuple[TokenMixture | WordMixture, Fit]:
    """A mixture with the settings and weights of the largest likelihood, and how the weights were found.

    Each setting of a component is chosen from its `choices`, with the weights that are best for each value;
    one after the other, in the order of the components.

    Args:
        components: with the settings to start from.
        texts: held-out documents, which nothing that is evaluated may be part of.
        source: what they are, for the record.
        by_context: whether the weights depend on the situation.
        stride: as of `Scores.score`.
        report: called as settings are tried.

    Raises:
        UserError: no texts, a text to which every component gives probability 0, or what making and scoring a
            mixture raises.
    """
    if not texts:
        raise UserError(f"no documents in {source}", "give the weights with --mix-weights")
    mixture = make(components, equal_weights(components))
    rows = mixture.read(texts, stride)
    columns = [[row[k] for row in rows] for k in range(len(components))]
    chosen = list(components)
    for k, component in enumerate(components):
        for name, values in component.choices().items():
            _choose(chosen, columns, k, name, values, texts, stride, report)
    log_probs_NK = _log_probs(columns)
    found = fit(log_probs_NK)
    how = f"EM on {source}, {len(log_probs_NK):,} tokens"
    weights = Weights(found.weights, how=how)
    if by_context:
        situations = mixture.situations.combine(
            [np.concatenate([one.situations for one in column]) for column in columns]
        )
        found = fit_by_situation(log_probs_NK, situations, len(mixture.situations), weights.all_K)
        weights = Weights(weights.all_K, found.weights, f"{how}, by context")
    return make(chosen, weights), found


def _choose(
    chosen: list[Component],
    columns: list[list[Reading]],
    k: int,
    name: str,
    values: Sequence[float],
    texts: Sequence[str],
    stride: int | None,
    report: Progress,
) -> None:
    """Replaces component k, and what it says of the texts, by those of the best value of a setting."""
    current: float = getattr(chosen[k], name)
    best = fit(_log_probs(columns)).nats[-1]
    tried = [value for value in values if value != current]
    for done, value in enumerate(tried):
        report(f"fitting {name} of {chosen[k].name}", done, len(tried))
        candidate = chosen[k].with_setting(name, value)
        column = candidate.read(texts, stride)
        nats = fit(_log_probs([*columns[:k], column, *columns[k + 1 :]])).nats[-1]
        if nats < best:
            best, chosen[k], columns[k] = nats, candidate, column
    report(f"fitting {name} of {chosen[k].name}", len(tried), len(tried))


def _log_probs(columns: Sequence[Sequence[Reading]]) -> np.ndarray:
    """Natural log of each component's probability of each token of all texts, float64 [N, K].

    Raises:
        UserError: a token to which every component gives probability 0.
    """
    made = np.stack([np.concatenate([r.scored.byte_log_probs for r in column]) for column in columns], axis=1)
    if not np.isfinite(made.max(axis=1)).all():
        raise UserError(
            "every component gives some of the validation text probability 0",
            "add one that gives each token some, such as `cache`",
        )
    return made
