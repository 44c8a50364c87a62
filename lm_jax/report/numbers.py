"""How results are written: names of metrics, decimals, differences and p-values."""

from lm_jax.evaluation.row import Difference, Row
from lm_jax.metrics.profiles import SACREBLEU_SCALE
from lm_jax.metrics.resampling import LEAST_P
from lm_jax.metrics.text import on_scale

_ROUNDING = 1e-6  # of p-values
# Shorter names of metrics and counts, and formats other than four decimals.
_LABELS = {
    "bits_per_byte": "bits/byte",
    "nats_per_token": "nats/token",
    "oov": "OOV",
    "macro_f1": "macro F1",
    "span_f1": "span F1",
    "mcc": "MCC",
    "auc": "AUC",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "distinct_2": "distinct-2",
}
_OF_SACREBLEU = ("bleu", "chrf")  # shown from 0 to 100, as sacrebleu does
_FORMATS = {
    "backward_perplexity": ".2f",
    "backward_perplexity_by_line": ".2f",
    "forward_perplexity_by_line": ".2f",
    "forward_perplexity": ".2f",
    "perplexity": ".2f",
    "word_perplexity": ".2f",
    "perplexity_without_oov": ".2f",
    "target_perplexity": ".2f",
}


def label(name: str) -> str:
    """A metric's or count's name in a heading."""
    return _LABELS.get(name, name.replace("_", " "))


def number(name: str, x: float | None, sign: str = "") -> str:
    """A metric's value with the decimals that it is shown with, or a dash if it has none."""
    if x is not None and name in _OF_SACREBLEU:
        return on_scale(x, SACREBLEU_SCALE, sign)
    return "–" if x is None else format(x, sign + _FORMATS.get(name, ".4f"))


def effect(one: Difference | None) -> str:
    """The value of a difference."""
    return "–" if one is None else number(one.metric, one.value, "+")


def effect_interval(one: Difference | None) -> str:
    """The interval of a difference."""
    if one is None or one.interval is None:
        return "–"
    return " to ".join(number(one.metric, end, "+") for end in one.interval)


def p_value(p: float | None, least: float | None, times: int = 1) -> str:
    """A p-value, as a bound where more resamples could give a smaller one.

    Args:
        p: the p-value; None: none.
        least: the smallest that the resamples can give before a correction.
        times: by how much a correction multiplied it.
    """
    if p is None:
        return "–"
    floor = (LEAST_P if least is None else least) * times
    return f"≤ {short(floor)}" if p <= floor * (1 + _ROUNDING) else short(p)


def short(p: float) -> str:
    """A p-value in two digits: 0.23, 0.0031, 1e-4."""
    if p >= 0.001:
        return f"{p:.2g}"
    mantissa, exponent = f"{p:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def holm_p(one: Difference | None) -> str:
    """The p-value of a difference by approximate randomisation and Holm's correction."""
    if one is None:
        return "–"
    return p_value(one.holm_p_value, one.least_randomization_p_value, one.pairs or 1)


def difference(row: Row) -> str:
    """A row's difference to the first one, with its interval and p-values; "" if it has none."""
    one = row.difference
    if one is None:
        return ""
    tests = [f"paired bootstrap over {row.resampled}, {_equals(p_value(one.p_value, one.least_p_value))}"]
    if one.randomization_p_value is not None:
        p = p_value(one.randomization_p_value, one.least_randomization_p_value)
        tests.append(f"randomisation, {_equals(p)}")
    if one.holm_p_value is not None and one.pairs is not None and one.pairs > 1:
        tests.append(f"Holm's correction for {one.pairs} pairs, {_equals(holm_p(one))}")
    if one.mcnemar_p_value is not None:
        tests.append(f"McNemar's test, p = {short(one.mcnemar_p_value)}")
    ends = "" if one.interval is None else f", {effect_interval(one)}"
    return f"{effect(one)} {label(one.metric)}{ends} against {one.to} ({'; '.join(tests)})"


def _equals(p: str) -> str:
    return f"p {p}" if p.startswith("≤") else f"p = {p}"
