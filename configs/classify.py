"""Classification of texts: a BERT that was pre-trained, one from scratch, or an n-gram model of each class.

    python train.py --config=configs/bert.py
    python train.py --config=configs/classify.py
    python train.py --config=configs/classify.py:scratch
    python train.py --config=configs/classify.py:ngram
    python eval.py --model=runs/classify --model=runs/classify-scratch --model=runs/classify-ngram

The corpus is NLTK's movie_reviews, which must be on the machine. Another one, and pairs of texts:

    --config.data.corpus=labelled:train.txt --config.data.valid=dev.txt --config.data.test=test.txt
    --config.data.corpus='tsv:FILE#sentence' --config.task.label=label
    --config.data.corpus='tsv:FILE#4' --config.task.label=2
    --config.data.corpus='csv:FILE#1' --config.task=regression --config.task.second=2 --config.task.label=3
    --config.data.corpus='nltk:movie_reviews@*/cv[0-7]*' --config.data.valid='@*/cv[89]*'

The first is SST-2 as lines of a label and a sentence, the second a table with a header, the third CoLA, whose
table has none, the fourth STS-B, the last a common division of movie_reviews. Add --config.data.split=tail:0
where the other parts have sources of their own, so that all of the corpus is trained on. For n-grams the
field of the label is --config.label. --config.init_from=PATH, or hf:NAME, starts from another model.
"""

from lm_jax.config import Config, CountConfig, OptimizerConfig, TrainConfig, unknown_variant
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.bert import BERTConfig
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.tasks.classification import Classification

_CORPUS, _SPLIT = "nltk:movie_reviews", "hash:0.1,0.1"


def get_config(variant: str = "") -> Config | CountConfig:
    """The shape of `configs/bert.py`, with rows of 512 tokens; or "scratch", or "ngram".

    Accuracy on the test part of movie_reviews (205 texts), one run each: from the encoder of
    `configs/bert.py` 64.4 % (57.6 to 70.7), in ten minutes on one core; from scratch 78.0 % (72.2 to 83.4).
    An encoder, and its tokenizer, of Python's documentation is no help for reviews. "ngram" takes ten seconds
    and has 83.0 % (orders 1 and 2: 80.5 and 82.5), and on SST-2 76.3 % (order 1, the best one there: 80.2).
    """
    if variant == "ngram":
        return CountConfig(
            data=DataConfig(_CORPUS, split=_SPLIT, tokenizer="word", vocab_size=0, min_count=2),
            model=NGramConfig(order=3, discount_fallback=(0.5, 1.0, 1.5)),
            label="label",
            sample_tokens=0,
        )
    if variant not in ("", "scratch"):
        raise unknown_variant(variant, ["", "scratch", "ngram"])
    return Config(
        data=DataConfig(
            _CORPUS, split=_SPLIT, tokenizer="wordpiece-uncased", vocab_size=4096, sequence_length=512
        ),
        # Set here because the encoder in init_from was trained on shorter rows.
        model=BERTConfig(
            max_length=512,
            num_layers=4,
            num_heads=4,
            d_model=128,
            position="rope",
            norm_first=True,
            dropout=0.1,
        ),
        task=Classification(pooling="mean"),
        optimizer=OptimizerConfig(
            learning_rate=5e-4,
            schedule="linear",
            warmup_steps=50,
            final_ratio=0.0,
            b2=0.999,
            weight_decay=0.01,
        ),
        train=TrainConfig(num_steps=300, batch_size=16, eval_every=50, checkpoint_every=50),
        init_from="" if variant else "runs/bert",
    )
