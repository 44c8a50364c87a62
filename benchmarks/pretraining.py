"""Where minutes of pre-training help a classifier, and where not: `python benchmarks/pretraining.py`.

    --only=tags,movies,sst2,cola   see below
    --sst2=DIR --cola=DIR          SST-2 as lines of a label and a sentence (train.txt, dev.txt, test.txt) and
                                   CoLA's tables; NLTK's brown and movie_reviews must be on the machine
    --methods=simple,encoder,elmo  see below
    --seeds=2                      of fine-tuning; BERT and ELMo are pre-trained once for each text
    --out=runs/pretraining         run directories; finished ones are not run again

Tags: parts of speech of Brown, of 200 and of 1,000 labelled sentences; the test is every tenth file, and the
encoders are pre-trained on the other files without labels. Texts: movie_reviews (cv000 to cv799 against cv800
to cv999), SST-2 and CoLA; the encoders are pre-trained on movie_reviews' training texts. Methods:

    encoder   that of configs/bert.py, from scratch and pre-trained
    elmo      that of configs/elmo.py: a head on its words' own vectors alone, which know no context, or on
              the mix of its layers, with its parameters kept or trained on
    simple    each word's most frequent tag; naive Bayes and logistic regression of n-grams by scikit-learn; a
              Kneser-Ney model of each class (configs/classify.py:ngram)

Printed is the test's headline (CoLA: Matthews' correlation on in_domain_dev) with its 95 % interval for the
seed that is best on validation, and the mean over seeds.
"""

import argparse
import collections
import dataclasses
import pathlib
import statistics
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from lm_jax import config as config_module
from lm_jax import experiment
from lm_jax.config import Config, CountConfig
from lm_jax.data import corpora
from lm_jax.evaluation.row import Row
from lm_jax.ngram.smoothing import NGramConfig

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
_BROWN_TRAIN, _BROWN_TEST = "c?[0-9][1-9]", "c?[0-9]0"
_MOVIES = "nltk:movie_reviews@*/cv[0-7]*"


class Line(NamedTuple):
    """A line of the table.

    Attributes:
        case: what is classified.
        method: how.
        value: the metric on the test.
        interval: of 95 %; None without one.
        mean: over seeds; None for one.
    """

    case: str
    method: str
    value: float
    interval: tuple[float, float] | None = None
    mean: float | None = None


def run(config: Any, workdir: pathlib.Path, values: Mapping[str, str] | None = None) -> dict[str, Row]:
    """The rows of a recipe's run by the part of the text; `values` are further fields."""
    experiment.check(config)
    config = experiment.override(config, values or {}, workdir)
    return {row.split: row for row in experiment.run(config, workdir)}


def recipe(name: str, data: dict[str, Any], steps: int = 0, **fields: Any) -> Any:
    """A recipe of configs/ with another text and number of steps."""
    _, config = config_module.load(f"{CONFIGS}/{name}")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **data), **fields)
    if steps:
        every = {name: max(1, steps // 3) for name in ("eval_every", "checkpoint_every")}
        config = dataclasses.replace(
            config, train=dataclasses.replace(config.train, num_steps=steps, **every)
        )
    return config


def _pretrained(file: str, metric: str, text: str, steps: int, out: pathlib.Path) -> str:
    """The run directory of a recipe for an encoder on a text."""
    data = {"corpus": text, "documents": "paragraph", "split": "tail:0.02"}
    value = run(recipe(file, data, steps), out)["valid"].metrics[metric].value
    print(f"{file} on {text}, {steps} steps: {metric} {value:.3f}")
    return str(out)


# How a head stands on an ELMo: fields of its recipe.
_FROZEN = {"optimizer.backbone_rate": "0", "optimizer.learning_rate": "1e-2"}
ELMOS = {
    "ELMo's words without context, kept": {"model.mix": "bottom", **_FROZEN},
    "ELMo's mix of layers, kept": _FROZEN,
    "ELMo's mix of layers, trained on": {},
}


def seeds_of(
    config: Config,
    seeds: int,
    out: pathlib.Path,
    name: str,
    metric: str,
    values: Mapping[str, str] | None = None,
) -> tuple[Row, float]:
    """The test's row of the seed that is best on validation, and the metric's mean over seeds."""
    found = []
    for seed in range(seeds):
        train = dataclasses.replace(config.train, seed=seed)
        rows = run(dataclasses.replace(config, train=train), out / f"{name}-{seed}", values)
        found.append((rows["valid"].metrics[metric].value, rows["test"]))
    best = max(found, key=lambda pair: pair[0])[1]
    return best, statistics.mean(row.metrics[metric].value for _, row in found)


def tags(flags: argparse.Namespace, out: pathlib.Path) -> Iterator[Line]:
    """Parts of speech."""
    text = f"nltk:brown@{_BROWN_TRAIN}"
    encoders = _encoders(text, flags, out, "brown")
    data = {
        "corpus": f"nltk:brown@{_BROWN_TRAIN}#universal",
        "test": f"nltk:brown@{_BROWN_TEST}#universal",
        "split": "hash:0.02",
    }
    for count, steps in ((200, 300), (1000, 600)):
        case = f"Brown tags, {count} sentences"
        if "simple" in flags.methods:
            yield Line(case, "most frequent tag of a word", _most_frequent_tags(data, count))
        config = recipe("tag.py", data, steps)
        config = dataclasses.replace(config, task=dataclasses.replace(config.task, num_examples=count))
        yield from _on_encoders(config, case, f"tags-{count}", "accuracy", encoders, flags, out)


def _encoders(text: str, flags: Any, out: pathlib.Path, name: str) -> dict[str, str]:
    """The run directories of the encoders that are pre-trained on a text, by method."""
    made = {}
    if "encoder" in flags.methods:
        made["encoder"] = _pretrained("bert.py", "masked_accuracy", text, flags.pretrain_steps, out / name)
    if "elmo" in flags.methods:
        directory = out / f"{name}-elmo"
        made["elmo"] = _pretrained("elmo.py", "backward_perplexity", text, flags.elmo_steps, directory)
    return made


def _on_encoders(
    config: Any, case: str, name: str, metric: str, encoders: Mapping[str, str], flags: Any, out: pathlib.Path
) -> Iterator[Line]:
    """A recipe for labels, on each encoder."""
    if encoder := encoders.get("encoder"):
        # From scratch with the same vocabulary.
        scratch = dataclasses.replace(
            config, init_from="", data=dataclasses.replace(config.data, tokenizer=f"{encoder}/tokenizer")
        )
        row, mean = seeds_of(scratch, flags.seeds, out, f"{name}-scratch", metric)
        yield _line(case, "encoder from scratch", row, metric, mean)
        tuned = dataclasses.replace(config, init_from=encoder)
        row, mean = seeds_of(tuned, flags.seeds, out, f"{name}-pretrained", metric)
        yield _line(case, "encoder, pre-trained", row, metric, mean)
    if elmo := encoders.get("elmo"):
        on_elmo = dataclasses.replace(config, init_from=elmo)
        for number, (method, values) in enumerate(ELMOS.items()):
            row, mean = seeds_of(on_elmo, flags.seeds, out, f"{name}-elmo-{number}", metric, values)
            yield _line(case, method, row, metric, mean)


def _most_frequent_tags(data: dict[str, Any], count: int) -> float:
    """The accuracy of each word's most frequent tag; words without one have the most frequent tag of all."""
    train = list(corpora.read(data["corpus"], "line"))
    chosen = np.random.default_rng(0).permutation(len(train))[:count]
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    every: collections.Counter[str] = collections.Counter()
    for i in chosen:
        for word, tag in zip(train[i].text.split(), train[i].fields["tags"], strict=True):
            counts[word][tag] += 1
            every[tag] += 1
    common = every.most_common(1)[0][0]
    right = total = 0
    for document in corpora.read(data["test"], "line"):
        for word, tag in zip(document.text.split(), document.fields["tags"], strict=True):
            right += tag == (counts[word].most_common(1)[0][0] if word in counts else common)
            total += 1
    return right / total


def texts(
    case: str, data: dict[str, Any], label: str, metric: str, steps: int, flags: Any, out: pathlib.Path
) -> Iterator[Line]:
    """Texts with labels, by all methods."""
    encoders = _encoders(_MOVIES, flags, out, "movies")
    if "simple" in flags.methods:
        yield from _by_scikit_learn(case, data, label, metric)
        for order in (1, 3):
            config: CountConfig = recipe("classify.py:ngram", data, label=label)
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, order=order))
            assert isinstance(config.model, NGramConfig)
            row = run(config, out / f"{case}-ngram-{order}")["test"]
            yield _line(case, f"Kneser-Ney of each class, order {order}", row, metric)
    on_encoders = recipe("classify.py", data, steps)
    on_encoders = dataclasses.replace(on_encoders, task=dataclasses.replace(on_encoders.task, label=label))
    yield from _on_encoders(on_encoders, case, case, metric, encoders, flags, out)


def _by_scikit_learn(case: str, data: dict[str, Any], label: str, metric: str) -> Iterator[Line]:
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, matthews_corrcoef
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    def read(corpus: str) -> tuple[list[str], list[str]]:
        documents = list(
            corpora.read(corpora.with_kind(corpus, data["corpus"]), data.get("documents", "file"))
        )
        return [d.text for d in documents], [d.label(label) for d in documents]

    train, test = read(data["corpus"]), read(data["test"])
    score = matthews_corrcoef if metric == "mcc" else accuracy_score
    methods = {
        "naive Bayes, 1- and 2-grams": (CountVectorizer(ngram_range=(1, 2), binary=True), MultinomialNB()),
        "logistic regression, tf-idf": (
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            LogisticRegression(C=10, max_iter=1000),
        ),
    }
    for name, parts in methods.items():
        predicted = make_pipeline(*parts).fit(*train).predict(test[0])
        yield Line(case, name, float(score(test[1], predicted)))


def movies(flags: argparse.Namespace, out: pathlib.Path) -> Iterator[Line]:
    """Movie reviews."""
    data = {"corpus": _MOVIES, "test": "nltk:movie_reviews@*/cv[89]*", "split": "hash:0.1"}
    yield from texts("movie_reviews", data, "label", "accuracy", 300, flags, out)


def sst2(flags: argparse.Namespace, out: pathlib.Path) -> Iterator[Line]:
    """SST-2."""
    kinds = {"valid": "dev", "test": "test"}
    data = {name: f"labelled:{flags.sst2}/{part}.txt" for name, part in kinds.items()}
    data |= {"corpus": f"labelled:{flags.sst2}/train.txt", "split": "tail:0"}
    yield from texts("SST-2", data, "label", "accuracy", 600, flags, out)


def cola(flags: argparse.Namespace, out: pathlib.Path) -> Iterator[Line]:
    """CoLA."""
    data = {
        "corpus": f"tsv:{flags.cola}/in_domain_train.tsv#4",
        "test": f"tsv:{flags.cola}/in_domain_dev.tsv#4",
        "split": "hash:0.05",
    }
    yield from texts("CoLA", data, "2", "mcc", 600, flags, out)


CASES = {"tags": tags, "movies": movies, "sst2": sst2, "cola": cola}


def _line(case: str, method: str, row: Row, metric: str, mean: float | None = None) -> Line:
    found = row.metrics[metric]
    assert found.value is not None
    return Line(case, method, found.value, found.interval, mean)


def main() -> None:
    """Reads the flags, runs what is not finished, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--methods", default="simple,encoder,elmo")
    parser.add_argument("--sst2", default="data/sst2")
    parser.add_argument("--cola", default="data/cola")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--pretrain-steps", type=int, default=600)
    parser.add_argument("--elmo-steps", type=int, default=1500)
    parser.add_argument("--out", default="runs/pretraining")
    flags = parser.parse_args()
    out, lines = pathlib.Path(flags.out), []
    for name in flags.only.split(","):
        lines += list(CASES[name](flags, out))
    print(f"\n| case | method | test | 95 % interval | mean of {flags.seeds} seeds |\n|---|---|---|---|---|")
    for line in lines:
        interval = "" if line.interval is None else f"{line.interval[0]:.3f}–{line.interval[1]:.3f}"
        mean = "" if line.mean is None else f"{line.mean:.3f}"
        print(f"| {line.case} | {line.method} | {line.value:.3f} | {interval} | {mean} |")


if __name__ == "__main__":
    main()
