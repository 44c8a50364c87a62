# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
"""
# Does surprisal predict how long people read a word?

A word that is less expected is read longer (Hale 2001; Levy 2008), and a better language model predicts
reading times better (Goodkind and Bicknell 2018). The data are the Natural Stories (Futrell et al. 2021): ten
stories, with the mean self-paced reading time of each word. For each model the script compares two linear
regressions of the reading time:

- baseline: length of the word and log of its frequency, and both of the word before (spill-over);
- with surprisal: these, the surprisal of the word, and that of the word before.

The gain is the log-likelihood per word of the second less that of the first, on a story that neither was
fitted to: each of the ten stories is held out in turn. The intervals are of a bootstrap over sentences.

    python examples/reading_times.py --words=WORDS.tsv --corpus=TEXT --models=KN=runs/ngram,GPT=runs/gpt

WORDS.tsv has the columns story, word and mean_rt_ms. TEXT is the text from which frequencies are counted:
best the one that the models were trained on. The script is a notebook, too, in jupytext's percent format.
"""

# %%
import argparse
import collections
import csv
import pathlib
import re
import sys
from typing import NamedTuple

import numpy as np

from lm_jax import files, surprisal
from lm_jax.errors import UserError, reported
from lm_jax.metrics import significance
from lm_jax.report import figures

_SENTENCE_END = re.compile(r"[.?!]['\")]*$")

# %% [markdown]
"""
## Words, reading times, frequencies and surprisals
"""


# %%
class Words(NamedTuple):
    """The words of all stories, in their order.

    Attributes:
        words: the W words, with the punctuation that is attached to them.
        story_W: int64, numbers of the stories.
        sentence_W: int64, numbers of the sentences.
        ms_W: float64, mean reading times.
    """

    words: list[str]
    story_W: np.ndarray
    sentence_W: np.ndarray
    ms_W: np.ndarray


def read_words(path: pathlib.Path) -> Words:
    """Reads the table; sentences end with a full stop, an exclamation or question mark, and with stories."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or not {"story", "word", "mean_rt_ms"} <= rows[0].keys():
        raise UserError(
            f"{path} lacks a column story, word or mean_rt_ms", "give the table of Natural Stories"
        )
    words = [row["word"] for row in rows]
    story_W = np.unique([row["story"] for row in rows], return_inverse=True)[1]
    ends_W = np.array([bool(_SENTENCE_END.search(word)) for word in words]) | (
        np.diff(story_W, append=-1) != 0
    )
    sentence_W = np.append(0, ends_W.cumsum()[:-1])
    return Words(words, story_W, sentence_W, np.array([float(row["mean_rt_ms"]) for row in rows]))


def log_frequencies(words: list[str], corpus: pathlib.Path) -> np.ndarray:
    """float64 [W]: log((count + 1) / (all words + different words)), without case and outer punctuation."""

    def key(word: str) -> str:
        return word.lower().strip("'\"().,:;?!-")

    counts = collections.Counter(map(key, corpus.read_text(encoding="utf-8").split()))
    total = counts.total() + len(counts)
    return np.log([(counts[key(word)] + 1) / total for word in words])


def surprisals(
    words: Words, path: pathlib.Path, models: dict[str, str], out: pathlib.Path
) -> dict[str, np.ndarray]:
    """Of each model, by name, the surprisal of each word in bits, float64 [W]; NaN where a word has none."""
    table = out / "surprisal.tsv"
    flags = [f"--model={model}" for model in models.values()]
    surprisal.main([*flags, f"--words={path}#word", "--by=story", f"--out={table}"])
    found: dict[str, list[float]] = {model: [] for model in models.values()}
    with table.open(encoding="utf-8", newline="") as file:
        next(file)  # how it was made
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["word"]:  # not the end of a story
                found[row["model"]].append(float(row["surprisal"].replace("NA", "nan")))
    assert all(len(bits) == len(words.words) for bits in found.values())
    return {name: np.array(found[model]) for name, model in models.items()}


# %% [markdown]
"""
## The regressions
"""


# %%
def with_spill_over(*columns_W: np.ndarray) -> np.ndarray:
    """The predictors float64 [W, 1 + 2K]: one, K columns at each word, and at the one before (0 at first)."""
    before = [np.append(0.0, column[:-1]) for column in columns_W]
    return np.stack([np.ones(len(columns_W[0])), *columns_W, *before], axis=1)


def held_out_log_likelihood(x_WK: np.ndarray, y_W: np.ndarray, group_W: np.ndarray) -> np.ndarray:
    """Natural log of the density of each y, float64 [W], by least squares on all groups but its own.

    The errors are normal, with the mean square of the residuals of the fit as their variance.
    """
    found_W = np.empty(len(y_W))
    for group in np.unique(group_W):
        out_W = group_W == group
        weights_K = np.linalg.lstsq(x_WK[~out_W], y_W[~out_W])[0]
        residuals_W = y_W - x_WK @ weights_K
        variance = (residuals_W[~out_W] ** 2).mean()
        found_W[out_W] = -0.5 * (np.log(2 * np.pi * variance) + residuals_W[out_W] ** 2 / variance)
    return found_W


class Gain(NamedTuple):
    """What surprisal adds to the baseline.

    Attributes:
        interval: nats per word, with the ends of the 95 % interval.
        sums_S: float64, the gain of each sentence, in nats.
        counts_S: float64, its words.
        slopes: ms per bit, of the surprisal of a word and of the word before, fitted to all stories.
    """

    interval: significance.Interval
    sums_S: np.ndarray
    counts_S: np.ndarray
    slopes: tuple[float, float]


def gain(words: Words, controls: list[np.ndarray], bits_W: np.ndarray, kept_W: np.ndarray) -> Gain:
    """Compares the regressions with and without surprisal, on the words that are kept."""
    base_WK = with_spill_over(*controls)[kept_W]
    full_WK = with_spill_over(*controls, np.nan_to_num(bits_W))[kept_W]
    y_W, story_W = words.ms_W[kept_W], words.story_W[kept_W]
    gain_W = held_out_log_likelihood(full_WK, y_W, story_W) - held_out_log_likelihood(base_WK, y_W, story_W)
    sentence_W = np.unique(words.sentence_W[kept_W], return_inverse=True)[1]
    sums_S, counts_S = np.bincount(sentence_W, gain_W), np.bincount(sentence_W).astype(float)
    weights_K, size = np.linalg.lstsq(full_WK, y_W)[0], len(controls) + 1
    slopes = float(weights_K[size]), float(weights_K[2 * size])
    return Gain(significance.bootstrap_interval(sums_S, counts_S), sums_S, counts_S, slopes)


def kept_words(words: Words, bits: dict[str, np.ndarray]) -> np.ndarray:
    """bool [W]: all but the first of each story, and those for which a model has no finite surprisal."""
    is_finite_W = np.logical_and.reduce([np.isfinite(x) for x in bits.values()])
    is_first_W = np.diff(words.story_W, prepend=-1) != 0
    return ~is_first_W & is_finite_W & np.append(True, is_finite_W[:-1])


# %% [markdown]
"""
## Results
"""


# %%
def show(gains: dict[str, Gain]) -> None:
    """Prints a line for each model, and its difference to the first one."""
    first = next(iter(gains.values()))
    head = "model", "gain, 0.001 nats/word", "ms/bit, now and before", "gain less the first model's"
    print("{:<12} {:<28} {:<24} {}".format(*head))
    for name, one in gains.items():
        test = significance.bootstrap_interval(one.sums_S - first.sums_S, one.counts_S)
        estimate, low, high = (1000 * x for x in one.interval)
        cells = f"{estimate:.2f} ({low:.2f} to {high:.2f})", "{:.2f}, {:.2f}".format(*one.slopes)
        less = "" if one is first else "{:.2f} ({:.2f} to {:.2f})".format(*(1000 * x for x in test))
        print(f"{name:<12} {cells[0]:<28} {cells[1]:<24} {less}")


def draw(
    gains: dict[str, Gain], bits: dict[str, np.ndarray], words: Words, kept_W: np.ndarray, out: pathlib.Path
) -> None:
    """Writes a figure: the gains, and mean reading times by surprisal."""
    figure, (left, right) = figures.axes(9, 3.5, columns=2)
    for place, (name, one) in enumerate(gains.items()):
        estimate, low, high = (1000 * x for x in one.interval)
        left.errorbar(place, estimate, [[estimate - low], [high - estimate]], fmt="o", capsize=4)
        order = np.argsort(bits[name][kept_W], kind="stable")
        bins = np.array_split(order, min(20, len(order)))
        means = [(bits[name][kept_W][i].mean(), words.ms_W[kept_W][i].mean()) for i in bins]
        right.plot(*zip(*means), marker=".", label=name)
    left.set_xticks(range(len(gains)), list(gains))
    left.axhline(0, color="grey", linewidth=0.8)
    left.set_ylabel("gain, 0.001 nats per word")
    right.set_xlabel("surprisal, bits; 20 groups of words")
    right.set_ylabel("reading time, ms")
    figures.plain_legend(right)
    figure.savefig(out / "reading_times.png", dpi=150)


def main(argv: list[str]) -> dict[str, Gain]:
    """Reads the flags, compares the models, and writes the figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--words", type=pathlib.Path, default="data/naturalstories/words.tsv")
    parser.add_argument("--corpus", type=pathlib.Path, default="data/brown.txt")
    parser.add_argument("--models", default="KN=runs/ngram,LSTM=runs/rnn-lstm,GPT=runs/gpt")
    parser.add_argument("--out", type=pathlib.Path, default="runs/reading_times")
    arguments, _ = parser.parse_known_args(argv)  # a notebook has flags of its own
    models = dict(part.partition("=")[::2] for part in arguments.models.split(","))
    files.make_directory(arguments.out)
    words = read_words(arguments.words)
    if len(np.unique(words.story_W)) < 2:
        raise UserError(f"{arguments.words} has one story", "give two or more: each is held out in turn")
    controls = [
        np.array([float(len(w)) for w in words.words]),
        log_frequencies(words.words, arguments.corpus),
    ]
    bits = surprisals(words, arguments.words, models, arguments.out)
    kept_W = kept_words(words, bits)
    print(
        f"{kept_W.sum():,} of {len(kept_W):,} words, {len(np.unique(words.sentence_W[kept_W])):,} sentences"
    )
    gains = {name: gain(words, controls, bits_W, kept_W) for name, bits_W in bits.items()}
    show(gains)
    draw(gains, bits, words, kept_W, arguments.out)
    print(f"written: {arguments.out / 'reading_times.png'}")
    return gains


# %%
if __name__ == "__main__":
    with reported():
        main(sys.argv[1:])
