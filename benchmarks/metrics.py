"""Speed of the metrics compared with the published tools, from strings or arrays to scores.

    python benchmarks/metrics.py

Ours and the peer's runs alternate in one process, and the fastest of each counts. The first call, which
compiles, has its own column. The text is Python's own documentation; hypotheses are references with words
dropped and replaced. A peer that is not installed is marked "absent".
"""

import functools
import importlib
import importlib.util
import random
import time
from collections.abc import Callable
from pydoc_data import topics
from typing import Any

import numpy as np

from lm_jax.metrics import classification, likelihood, overlap, text
from lm_jax.metrics.significance import bootstrap_interval, paired_bootstrap

ROW = "{:<52} {:>9} {:>9} {:>9} {:>8} {:>8}"


def pairs(number: int, words: int, seed: int) -> tuple[list[str], list[str]]:
    """Hypotheses and references of about that many words."""
    rng = random.Random(seed)
    corpus = " ".join(topics.topics.values()).split()
    hypotheses, references = [], []
    for _ in range(number):
        start, length = rng.randrange(len(corpus) - 2 * words), rng.randint(words * 3 // 5, words * 7 // 5)
        reference = corpus[start : start + length]
        kept = [rng.choice(corpus) if rng.random() < 0.1 else w for w in reference if rng.random() > 0.1]
        hypotheses.append(" ".join(kept))
        references.append(" ".join(reference))
    return hypotheses, references


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def compare(
    name: str,
    floor: str,
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    module: str,
    runs: int = 3,
    tolerance: float = 1e-4,
) -> None:
    """Times both, checks that they agree, and prints a row."""
    first, result = seconds(ours)
    installed = importlib.util.find_spec(module) is not None
    our_times, peer_times = [], []
    for run in range(max(3, runs)):
        our_times.append(seconds(ours)[0])
        if installed and run < runs:
            peer_seconds, expected = seconds(peer)
            peer_times.append(peer_seconds)
            np.testing.assert_allclose(result, expected, rtol=tolerance, err_msg=name)
    best = min(our_times)
    theirs = [f"{min(peer_times):.3f}", f"{min(peer_times) / best:.1f}x"] if installed else ["absent", ""]
    print(ROW.format(f"{name} | {module}", f"{first:.2f}", f"{best:.3f}", *theirs, floor), flush=True)


def sacrebleu_corpus(hypotheses, references):
    from sacrebleu.metrics import BLEU

    return BLEU().corpus_score(hypotheses, [references]).score / 100


def sacrebleu_sentences(hypotheses, references):
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)
    return np.mean([metric.sentence_score(h, [r]).score / 100 for h, r in zip(hypotheses, references)])


def sacrebleu_paired(hypotheses, others, references):
    from sacrebleu.metrics import BLEU
    from sacrebleu.significance import PairedTest

    systems = [("a", hypotheses), ("b", others)]
    test = PairedTest(systems, {"BLEU": BLEU(references=[references])}, None, test_type="bs", n_samples=1000)
    return test()[1]["BLEU"][1].p_value


def rouge_score(hypotheses, references, types, stem):
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(types, use_stemmer=stem)
    scores = [scorer.score(r, h) for h, r in zip(hypotheses, references)]
    return [np.mean([score[t].fmeasure for score in scores]) for t in types]


def rouge_package(hypotheses, references):
    from rouge import Rouge

    scores = Rouge().get_scores(hypotheses, references, avg=True)
    return [scores[name]["f"] for name in ("rouge-1", "rouge-2", "rouge-l")]


def our_rouge(hypotheses, references, **options):
    return [scores.f.mean() for scores in text.rouge(hypotheses, references, **options).values()]


def numpy_bootstrap(nats, num_bytes):
    rows = np.random.default_rng(0).integers(0, len(nats), (10_000, len(nats)))
    bits = nats[rows].sum(1) / num_bytes[rows].sum(1) / np.log(2)
    return [nats.sum() / num_bytes.sum() / np.log(2), *np.quantile(bits, [0.025, 0.975])]


def compare_bleu() -> None:
    hypotheses, references = pairs(3000, 25, seed=0)
    strings = (hypotheses, references)
    compare(
        "corpus BLEU, 3,000 sentences",
        "5x",
        lambda: text.corpus_bleu(*strings),
        lambda: sacrebleu_corpus(*strings),
        "sacrebleu",
    )
    compare(
        "sentence BLEU, the same",
        "",
        lambda: text.sentence_bleu(*strings).mean(),
        lambda: sacrebleu_sentences(*strings),
        "sacrebleu",
    )
    others = pairs(3000, 25, seed=0)[0]
    others = [" ".join(other.split()[:-1]) if i % 3 else other for i, other in enumerate(others)]
    resamples = np.random.default_rng(12345).choice(3000, (1000, 3000))

    def ours():
        a, b = (text.bleu_statistics(system, references) for system in (hypotheses, others))
        return paired_bootstrap(a, b, metric=overlap.bleu, resamples=resamples, method="sacrebleu").p_value

    compare(
        "paired bootstrap of BLEU, 1,000 resamples",
        "",
        ours,
        lambda: sacrebleu_paired(hypotheses, others, references),
        "sacrebleu",
        runs=1,
    )


def compare_rouge() -> None:
    types = ("rouge1", "rouge2", "rougeL")
    sentences, documents = pairs(3000, 25, seed=1), pairs(500, 600, seed=2)
    for name, stem in (("ROUGE-1/2/L, 3,000 sentences", False), ("the same, stemmed", True)):
        ours = functools.partial(our_rouge, *sentences, stem=stem)
        peer = functools.partial(rouge_score, *sentences, types, stem)
        compare(name, "5x", ours, peer, "rouge_score")
    compare(
        "ROUGE-1/2/L, 3,000 sentences",
        "",
        lambda: our_rouge(*sentences, profile="rouge"),
        lambda: rouge_package(*sentences),
        "rouge",
        runs=1,
    )
    compare(
        "ROUGE-1/2/L, 500 documents of 600 words",
        "50x",
        lambda: our_rouge(*documents),
        lambda: rouge_score(*documents, types, False),
        "rouge_score",
        runs=1,
    )


def compare_arrays() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 1_000_000), rng.normal(size=1_000_000)

    def sklearn(name):
        return lambda: getattr(importlib.import_module("sklearn.metrics"), name)(labels, scores)

    compare(
        "AUC, 1,000,000 scores",
        "1x",
        lambda: classification.roc_auc(labels, scores),
        sklearn("roc_auc_score"),
        "sklearn",
    )
    compare(
        "average precision, the same",
        "",
        lambda: classification.average_precision(labels, scores),
        sklearn("average_precision_score"),
        "sklearn",
    )
    num_bytes = rng.integers(200, 5000, 1000)
    nats = num_bytes * rng.normal(0.8, 0.1, 1000)

    def ours():
        return bootstrap_interval(nats, num_bytes, metric=likelihood.bits_per_byte)

    compare(
        "bits per byte, 10,000 resamples of 1,000 documents",
        "< 1 s",
        ours,
        lambda: numpy_bootstrap(nats, num_bytes),
        "numpy",
        tolerance=5e-3,
    )


def main() -> None:
    print(ROW.format("metric | peer", "first s", "ours s", "peer s", "ratio", "floor"))
    compare_bleu()
    compare_rouge()
    compare_arrays()


if __name__ == "__main__":
    main()
