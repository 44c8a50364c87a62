"""BLiMP's 67 paradigms for several models, beside published numbers, as tables in Markdown.

    python benchmarks/brown_text.py data/brown.txt
    CORPUS="--config.data.corpus=text:data/brown.txt --config.data.documents=line
            --config.data.split=hash:0.02,0.02"
    python train.py --config=configs/ngram.py $CORPUS --config.model.order=2 --workdir=runs/bigram
    python train.py --config=configs/ngram.py $CORPUS --workdir=runs/ngram
    python train.py --config=configs/rnn.py:lstm $CORPUS --config.train.num_steps=1400
        --config.train.eval_every=350 --config.train.checkpoint_every=350 --workdir=runs/rnn-lstm
    python train.py --config=configs/gpt.py $CORPUS --workdir=runs/gpt
    python benchmarks/blimp.py --data=blimp/data --against=KN
        --models=bigram=runs/bigram,KN=runs/ngram,LSTM=runs/rnn-lstm,GPT=runs/gpt
        --published=blimp/raw_results/summary/models_summary.jsonl
        --human=blimp/raw_results/summary/human_validation_summary.csv --out=blimp.md

blimp is a clone of https://github.com/alexwarstadt/blimp (Warstadt et al. 2020). Both neural models read 1.4
million tokens, which is less than the corpus once (1.6 million). The numbers are those of `eval.py
--task=minimal_pairs`: sums of log-probabilities, a tie counts half. Intervals (95 %) are bootstraps over the
pairs of a paradigm or phenomenon, which are made from templates: they tell how well the number for these
templates is known. The first table has, for the mean, also a bootstrap over the 67 paradigms. The last model
is tested against that of --against: by the exact sign test on the pairs of each paradigm, after Holm.
"""

import argparse
import csv
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

import lm_jax
from lm_jax import files
from lm_jax.errors import UserError, reported
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation import texts
from lm_jax.metrics import significance
from lm_jax.progress import Reporter

_PUBLISHED = {"ngram": "5-gram, published", "lstm": "LSTM, published", "gpt2": "GPT-2, published"}
_HUMAN = "humans"
_ALL = "all"
_RESAMPLES = 2000  # of up to 67,000 pairs


class Paradigm(NamedTuple):
    """The results of one paradigm.

    Attributes:
        phenomenon: the group that it belongs to.
        credits: by the name of a model, float64 [N]: for each pair 1 if the good sentence is more probable,
            1/2 for a tie.
        published: by column, the accuracy of others.
    """

    phenomenon: str
    credits: dict[str, np.ndarray]
    published: dict[str, float]


def evaluate(spec: str, models: Mapping[str, str]) -> dict[str, dict[str, np.ndarray]]:
    """By the name of a model, its credits by paradigm. `models` has their paths by name."""
    text = texts.choose_records(spec, evaluation.ZERO_SHOT["minimal_pairs"])
    uids = sorted({document.text_field("UID") for document in text.documents})
    found = {}
    with Reporter() as report:
        for name, path in models.items():
            made = evaluation.evaluate(lm_jax.load(path), text, path, None, report, "minimal_pairs")
            found[name] = {uid: np.asarray(made.statistics[f"accuracy/{uid}"].arrays[0]) for uid in uids}
    return found


def read_published(path: pathlib.Path, human: pathlib.Path | None) -> dict[str, Paradigm]:
    """By paradigm, its phenomenon and the accuracies in the files of BLiMP's repository."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = {
        line["UID"]: Paradigm(
            line["linguistics_term"], {}, {name: line[key] for key, name in _PUBLISHED.items()}
        )
        for line in lines
        if line["UID"] != "overall"
    }
    if human is not None:
        with human.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["Condition"] in found:
                    found[row["Condition"]].published[_HUMAN] = float(row["total_mean"])
    return found


def percent(values: np.ndarray) -> str:
    """A mean in percent with its 95 % interval."""
    estimate, low, high = (100 * x for x in significance.bootstrap_interval(values, num_resamples=_RESAMPLES))
    return f"{estimate:.1f} ({low:.1f}–{high:.1f})"


def by_phenomenon(paradigms: Mapping[str, Paradigm], names: Sequence[str], old: str) -> Iterator[list[str]]:
    """The rows of the first table."""
    groups: dict[str, list[Paradigm]] = {}
    for one in paradigms.values():
        for group in (one.phenomenon, _ALL):
            groups.setdefault(group, []).append(one)
    new = names[-1]
    for group in [*sorted(groups.keys() - {_ALL}), _ALL]:
        members = groups[group]
        pooled = {m: np.concatenate([one.credits[m] for one in members]) for m in names}
        cells = [percent(values) for values in pooled.values()]
        cells.append(percent(pooled[new] - pooled[old]))
        published = [np.mean([one.published[c] for one in members]) for c in members[0].published]
        yield [group.replace("_", " "), str(len(members)), *cells, *(f"{100 * x:.1f}" for x in published)]
    means = {m: np.array([one.credits[m].mean() for one in paradigms.values()]) for m in names}
    cells = [percent(values) for values in (*means.values(), means[new] - means[old])]
    yield ["all, paradigms drawn", str(len(paradigms)), *cells, *[""] * len(published)]


def by_paradigm(paradigms: Mapping[str, Paradigm], new: str, old: str) -> Iterator[list[str]]:
    """The rows of the second table."""
    p_values = significance.holm(
        [significance.sign_test(one.credits[new], one.credits[old]).p_value for one in paradigms.values()]
    )
    for (uid, one), p_value in zip(sorted(paradigms.items()), p_values, strict=True):
        gain = 100 * (one.credits[new] - one.credits[old]).mean()
        shown = f"{gain:+.1f}{'*' if p_value < 0.05 else ''}"
        cells = [percent(values) for values in one.credits.values()]
        yield [uid.replace("_", " "), *cells, shown, *(f"{100 * x:.1f}" for x in one.published.values())]


def table(head: Sequence[str], rows: Iterator[list[str]]) -> str:
    """A table in Markdown; all columns but the first hold numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def render(paradigms: Mapping[str, Paradigm], names: Sequence[str], old: str) -> str:
    """Both tables, and on how many paradigms the last model differs from another.

    Args:
        paradigms: by name, in the order of the names.
        names: of the models.
        old: the name of the model that the last one is compared with.
    """
    new, columns = names[-1], list(next(iter(paradigms.values())).published)
    columns = [*names, f"{new} − {old}", *columns]
    rows = list(by_paradigm(paradigms, new, old))
    gains = [row[1 + len(names)] for row in rows]
    better, worse = (sum(g.startswith(sign) and g.endswith("*") for g in gains) for sign in "+-")
    return (
        table(["phenomenon", "paradigms", *columns], by_phenomenon(paradigms, names, old))
        + f"\n{new} is better than {old} on {better} paradigms and worse on {worse} "
        "(* in the next table: sign test on its pairs, p < 0.05 after Holm over the paradigms).\n\n"
        + table(["paradigm", *columns], iter(rows))
    )


def main(argv: list[str]) -> None:
    """Evaluates, and writes the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="the directory of BLiMP's *.jsonl")
    parser.add_argument("--models", required=True, help="NAME=PATH,NAME=PATH...: run directories")
    parser.add_argument(
        "--against", help="the model with which the last one is compared (default: the first)"
    )
    parser.add_argument("--published", required=True, type=pathlib.Path, help="models_summary.jsonl")
    parser.add_argument("--human", type=pathlib.Path, help="human_validation_summary.csv")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the file in Markdown")
    arguments = parser.parse_args(argv)
    models = dict(part.partition("=")[::2] for part in arguments.models.split(","))
    old = arguments.against or next(iter(models))
    if old not in models or old == [*models][-1]:
        raise UserError(
            f"{old} is no other model than the last one", "name another in --models and --against"
        )
    published = read_published(arguments.published, arguments.human)
    found = evaluate(f"jsonl:{arguments.data}/*.jsonl", models)
    if missing := found[old].keys() - published.keys():
        raise UserError(f"{arguments.published} lacks {min(missing)}", "give the file of BLiMP's repository")
    paradigms = {
        uid: published[uid]._replace(credits={name: credit[uid] for name, credit in found.items()})
        for uid in found[old]
    }
    files.write_text(arguments.out, render(paradigms, list(models), old))
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    with reported():
        main(sys.argv[1:])
