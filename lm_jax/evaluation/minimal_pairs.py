"""The evaluator of minimal pairs: is the grammatical one of two sentences the more probable one?"""

from collections.abc import Mapping, Sequence

import numpy as np

from lm_jax.data.corpora import Progress
from lm_jax.evaluation.base import Evaluation, Statistics, measure
from lm_jax.evaluation.texts import Text
from lm_jax.evaluation.zero_shot import (
    Asked,
    asked,
    credit,
    each,
    is_tied,
    log_prob,
    mean,
    text_field,
    zero_shot_row,
)
from lm_jax.language_models.base import LanguageModel
from lm_jax.language_models.pseudo import scorer_of
from lm_jax.metrics import significance

_GOOD, _BAD, _PARADIGM = "sentence_good", "sentence_bad", "UID"


def evaluate(model: LanguageModel, text: Text, name: str, stride: int | None, report: Progress) -> Evaluation:
    """Compares the probabilities of the two sentences of each record; see `evaluation.base.evaluate`.

    Records have the fields `sentence_good` (their text), `sentence_bad` and, all or none, `UID`, the name of
    their paradigm, as BLiMP's (Warstadt et al. 2020). The sums of log-probabilities of the sentences' tokens
    are compared; the ends of texts are not scored. A pair counts 1 if the good sentence is more probable, 1/2
    for a tie. Masked models compare pseudo-log-likelihoods (Salazar et al. 2020).

    The metrics are accuracy, the mean over paradigms of the mean over their pairs (with paradigms of equal
    size, as BLiMP's, also the mean over pairs); accuracy_per_byte, the same where log-probabilities are
    divided by the sentences' bytes; and accuracy/UID, that of each paradigm if there are several.

    Raises:
        UserError: a record without one of the fields, an empty sentence, or one that the model cannot score.
    """
    scorer = scorer_of(model, "give sentences a probability")
    settings = scorer.describe_context(stride)
    good = text_field(text, _GOOD)
    items = [
        one for d in text.documents for one in (asked(d, good, d.text), asked(d, _BAD, d.text_field(_BAD)))
    ]
    paradigms = _paradigms(text)

    def score(some: Sequence[Asked]) -> list:
        return scorer.score([one.text for one in some], stride)

    scored = list(each(score, items, text, report))
    log_probs = [log_prob(*both) for both in zip(scored, items, strict=True)]
    per_byte = [total / len(one.text.encode()) for total, one in zip(log_probs, items)]
    sums, means = (list(zip(x[::2], x[1::2], strict=True)) for x in (log_probs, per_byte))
    credits_D, by_byte_D = (np.array([credit(pair, 0) for pair in x]) for x in (sums, means))
    weights_D = _weights(paradigms)
    statistics = {
        "accuracy": _weighted_mean(credits_D, weights_D),
        "accuracy_per_byte": _weighted_mean(by_byte_D, weights_D),
    }
    counts = {
        "pairs": len(sums),
        "paradigms": len(set(paradigms)),
        "ties": sum(map(is_tied, sums)),
        "oov": int(sum(one.unknown.sum() for one in scored)),
    }
    truth = [(d.text_field(_BAD), paradigm) for d, paradigm in zip(text.documents, paradigms, strict=True)]
    row = zero_shot_row(
        "minimal_pairs", model, name, text, truth, counts, statistics, scored[0].conditioned_on, settings
    )
    parts = _by_paradigm(credits_D, paradigms)
    for part, of_part in parts.items():
        row.metrics |= measure({part: of_part}, {})
    return Evaluation(row, {**statistics, **parts})


def _paradigms(text: Text) -> list[str]:
    """The paradigm of each record; "" if none has one."""
    if not any(_PARADIGM in document.fields for document in text.documents):
        return [""] * len(text.documents)
    return [document.label(_PARADIGM) for document in text.documents]


def _weights(paradigms: Sequence[str]) -> np.ndarray:
    """Weights of pairs with which each paradigm counts as much as another: 1 if they have equal size."""
    names, of_pair_D, sizes = np.unique(paradigms, return_inverse=True, return_counts=True)
    return len(paradigms) / (len(names) * sizes)[of_pair_D]


def _weighted_mean(values_D: np.ndarray, weights_D: np.ndarray) -> Statistics:
    return Statistics((values_D * weights_D, weights_D), significance.ratio, less_is_better=False)


def _by_paradigm(credits_D: np.ndarray, paradigms: Sequence[str]) -> Mapping[str, Statistics]:
    """The accuracy on the pairs of each paradigm, if there are several."""
    names, of_pair_D = np.unique(paradigms, return_inverse=True)
    if len(names) == 1:
        return {}
    return {f"accuracy/{name}": mean(credits_D[of_pair_D == i]) for i, name in enumerate(names.tolist())}
