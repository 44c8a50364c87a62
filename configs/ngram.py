"""n-gram models: counted in seconds, on the tokens that `configs/gpt.py` is trained on.

    python train.py --config=configs/ngram.py
    python eval.py --model=runs/ngram --model=runs/gpt

Variants: `word` and `char` are the default with other tokens; `bigram_mle` has no smoothing; the rest name a
smoothing.
"""

from lm_jax.config import CountConfig, unknown_variant
from lm_jax.data.pipeline import DataConfig
from lm_jax.ngram.smoothing import SMOOTHINGS, NGramConfig

_FALLBACK = (
    0.5,
    1.0,
    1.5,
)  # if discounts cannot be estimated, as lmplz --discount_fallback
_TOKENS = DataConfig(corpus="python-docs", tokenizer="bpe", vocab_size=4096)  # those of configs/gpt.py
_WORDS = DataConfig(tokenizer="word", vocab_size=20_000)


def get_config(variant: str = "") -> CountConfig:
    """Modified Kneser-Ney of order 5; of order 6 on characters; or the recipe of the variant."""
    smoothed = {
        name: CountConfig(data=_TOKENS, model=NGramConfig(smoothing=name, discount_fallback=_FALLBACK))
        for name in SMOOTHINGS
    }
    recipes = {
        "": smoothed["modified_kneser_ney"],
        "word": CountConfig(data=_WORDS, model=NGramConfig(order=3, discount_fallback=_FALLBACK)),
        "char": CountConfig(
            data=DataConfig(tokenizer="char", vocab_size=0),
            model=NGramConfig(order=6, discount_fallback=_FALLBACK),
        ),
        "bigram_mle": CountConfig(data=_WORDS, model=NGramConfig(order=2, smoothing="maximum_likelihood")),
        **smoothed,
    }
    if variant not in recipes:
        raise unknown_variant(variant, list(recipes))
    return recipes[variant]
