"""Speed of n-gram models compared with KenLM: `python benchmarks/ngram.py`, about three minutes.

Measures the command that users run: from a text file to a model, as `train.py --config=configs/ngram.py:word`
does it with an empty cache, without its evaluation. Interpreter start and imports are part of the seconds.
KenLM's programs are looked for in the folder KENLM_BIN and on the PATH; rows of missing ones are left out.
Each run is a separate process; all run in turn on one core. Printed are medians over rounds.

The text comes from a walk over a corpus that jumps, now and then, to another place with the same last words,
and that replaces some words by new ones: the numbers of n-grams and words grow as in real text.

    --corpus=text:GLOB     the text to walk on, as data.corpus; by default Python's own documentation
    --tokens=6500000       the length of the walk
    --order=5              of the models
    --rounds=3
    --parts=estimate,score,load     and `growth`: ours alone, from one million tokens to `--tokens`
"""

import argparse
import concurrent.futures
import importlib.util
import json
import multiprocessing
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data import corpora, pipeline, store
from lm_jax.data.pipeline import DataConfig
from lm_jax.language_models import ngram
from lm_jax.language_models.ngram import NGramLanguageModel
from lm_jax.ngram import arpa, counts, smoothing
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.ngram.vocabulary import BOS, EOS
from lm_jax.text import load as tokenizers

ROOT = pathlib.Path(__file__).resolve().parents[1]
WITHOUT_AVX512 = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL"
}  # numpy's AVX-512 sorts are slow on some chips
FALLBACK = (0.5, 1.0, 1.5)
STAGES = {  # by the functions that do them
    "reading and storing the text": (store, "write_texts"),
    "making the tokenizer": (tokenizers, "train"),
    "encoding": (store, "write_tokens"),
    "counting": (counts, "count"),
    "estimating": (smoothing, "estimate"),
}


def train(text: pathlib.Path, order: int) -> NGramLanguageModel:
    """What `train.py --config=configs/ngram.py:word` does with a text and no cache, up to the model."""
    valid = text.with_suffix(".valid")
    valid.write_text("a line\n")
    config = DataConfig(
        corpus=f"text:{text}", valid=f"text:{valid}", split="hash:0", tokenizer="word", vocab_size=0
    )
    with tempfile.TemporaryDirectory(dir=text.parent) as cache:
        data = pipeline.prepare(config, cache_dir=cache)
        model = ngram.fit(NGramConfig(order=order, discount_fallback=FALLBACK), data, lambda *_: None)
    return NGramLanguageModel(model, data.tokenizer)


def train_in_stages(text: pathlib.Path, order: int, out: list[str]) -> None:
    """Trains, writes ARPA files, and writes the processor seconds of each stage to a file."""
    seconds = dict.fromkeys(STAGES, 0.0)
    for stage, (module, name) in STAGES.items():
        setattr(module, name, _clocked(getattr(module, name), stage, seconds))
    model = train(text, order).model
    for path in out:
        arpa.write(model, path)
    text.with_suffix(".stages").write_text(json.dumps(seconds))  # without the start and the imports


def _clocked(work: Callable[..., Any], stage: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def timed_work(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        result = work(*args, **kwargs)
        seconds[stage] += time.process_time() - start
        return result

    return timed_work


def make_text(corpus: str, path: pathlib.Path, tokens: int, seed: int) -> int:
    """Writes a text of about `tokens` words and returns the exact number.

    It runs in a process of its own, since the peak memory of a process is inherited by those that it starts.
    """
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_make_text, corpus, path, tokens, seed).result()


def _make_text(corpus: str, path: pathlib.Path, tokens: int, seed: int) -> int:
    lines = "\n".join(document.text for document in corpora.read(corpus)).replace("<unk>", "UNK").split("\n")
    text = walk("\n".join(" ".join(line.split()) for line in lines if line.split()).encode(), tokens, seed)
    path.write_bytes(text)
    return len(text.split())


def walk(text: bytes, tokens: int, seed: int, walkers: int = 2048) -> bytes:
    """Text of about `tokens` words, in which words follow each other as in the given text."""
    rng = np.random.default_rng(seed)
    index: dict[bytes, int] = {}
    ids = np.array(
        [index.setdefault(word, len(index)) for word in text.replace(b"\n", b" \n ").split(b" ") if word]
    )
    words = np.array(list(index), "S32")
    by_word, by_pair = Places(ids[1:]), Places(ids[:-1] * len(words) + ids[1:])
    place = rng.integers(len(ids) - 1, size=walkers)
    steps = []
    for _ in range(tokens // walkers):
        chance = rng.random(walkers)
        place = np.where(chance < 0.5, by_pair.another(place, rng), place)
        place = np.where(chance < 0.25, by_word.another(place, rng), place)
        place = np.where(chance < 0.12, rng.integers(len(ids) - 1, size=walkers), place)
        place = (place + 1) % (len(ids) - 1)
        steps.append(ids[1 + place])
    walked = np.stack(steps, axis=1).ravel()
    new = np.flatnonzero((rng.random(len(walked)) < 0.03) & (words[walked] != b"\n"))
    names = (rng.pareto(0.25, len(new)) + 1).clip(max=2**40).astype(np.int64)
    out = words[walked]
    out[new] = np.char.add("new", np.char.mod("%x", names)).astype("S32")
    return b" ".join(out.tolist()).replace(b" \n ", b"\n") + b"\n"


class Places:
    """The positions of a text by their keys."""

    def __init__(self, keys: np.ndarray):
        self.order = np.argsort(keys, kind="stable")
        ranked = keys[self.order]
        self.first, self.end = np.searchsorted(ranked, keys, "left"), np.searchsorted(ranked, keys, "right")

    def another(self, place: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A random position with the same key."""
        first, end = self.first[place], self.end[place]
        return self.order[first + (rng.random(len(place)) * (end - first)).astype(np.int64)]


def program(name: str) -> str | None:
    """The path of one of KenLM's programs."""
    folders = [os.environ.get("KENLM_BIN", ""), os.environ.get("PATH", "")]
    path = shutil.which(name, path=os.pathsep.join(folders))
    if path is None:
        print(f"no {name} in the folder KENLM_BIN or on the PATH: its rows are left out")
    return path


class Run(NamedTuple):
    """The wall seconds, processor seconds and peak GiB of memory of a run."""

    seconds: float
    processor: float
    memory: float


def run(command: list[str], stdin: pathlib.Path | None = None, **env: str) -> Run:
    """Runs a command."""
    with open(stdin or os.devnull, "rb") as text:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | env,
        )
        output = process.stdout.read() if process.stdout else b""
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(command[:3])} failed:\n{output.decode(errors='replace')}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


def timed(work: Callable[[], object]) -> Run:
    """Runs a function."""
    start, processor = time.perf_counter(), time.process_time()
    work()
    return Run(time.perf_counter() - start, time.process_time() - processor, float("nan"))


def show(title: str, rows: dict[str, Callable[[], Run]], rounds: int, words: int) -> None:
    """Runs all in turns; prints medians, their ratios to the last row, and millions of words a second."""
    runs: dict[str, list[Run]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, work in rows.items():
            runs[name].append(work())
    *_, peer = runs
    print(f"\n{title:<42} {'seconds':>8} {'ratio':>6} {'CPU s':>8} {'ratio':>6} {'M/s':>6} {'GiB':>6}")
    for name, results in runs.items():
        cells = []
        for field in ("seconds", "processor"):
            ours, theirs = ([getattr(run, field) for run in some] for some in (results, runs[peer]))
            ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
            cells.append(f"{statistics.median(ours):8.2f} {ratio:6.2f}")
        rate = words / statistics.median(run.seconds for run in results) / 1e6
        print(f"{name:<42} {' '.join(cells)} {rate:6.2f} {max(run.memory for run in results):6.2f}")


def ours(text: pathlib.Path, order: int, *out: pathlib.Path) -> list[str]:
    """The command that trains in a process of its own."""
    return [sys.executable, __file__, f"--order={order}", "--train", str(text), *map(str, out)]


def compare_estimation(text: pathlib.Path, tokens: int, order: int, rounds: int) -> None:
    """From text to a model in memory, and to an ARPA file."""
    lmplz = program("lmplz")
    options = [
        "-o",
        str(order),
        "-S",
        "4G",
        "-T",
        str(text.parent),
        "--discount_fallback",
        "--text",
        str(text),
    ]
    for title, our_out, their_out in (
        ("text to model", [], ["--intermediate", str(text.parent / "intermediate")]),
        ("text to ARPA file", [text.parent / "ours.arpa"], ["--arpa", str(text.parent / "theirs.arpa")]),
    ):
        stages: list[dict[str, float]] = []

        def run_ours(out=our_out, stages=stages, **env: str) -> Run:
            result = run(ours(text, order, *out), **env)
            stages.append(json.loads(text.with_suffix(".stages").read_text()))
            return result

        rows = {
            "ours": run_ours,
            "ours without AVX-512": lambda run_ours=run_ours: run_ours(**WITHOUT_AVX512),
        }
        if lmplz:
            rows["lmplz"] = lambda out=their_out: run([lmplz, *options, *out])
        show(f"{title}, order {order}, {tokens:,} words", rows, rounds, tokens)
        print("processor seconds of each stage, without start and imports:")
        for stage in STAGES:
            print(f"    {stage:<54} {statistics.median(each[stage] for each in stages):8.2f}")


def compare_scoring(model: NGramLanguageModel, text: pathlib.Path, tokens: int, rounds: int) -> None:
    """From text to the log probability of every word, models loaded."""
    whole = text.read_text()
    lines = whole.splitlines()
    arpa_path, binary = text.parent / "model.arpa", text.parent / "model.binary"
    arpa.write(model.model, arpa_path)
    build, query = program("build_binary"), program("query")
    if build:
        run([build, "probing", str(arpa_path), str(binary)])

    rows = {"ours": lambda: timed(lambda: model.score([whole]))}
    rows["ours"]()  # builds the hash tables
    if build and query:
        command = [query, "-v", "summary", str(binary)]
        rows["query"] = lambda: Run(
            *np.subtract(run(command, text), run(command))
        )  # without the time to load
    if importlib.util.find_spec("kenlm"):
        import kenlm

        theirs = kenlm.Model(str(binary if build else arpa_path))
        rows["kenlm.Model.score, sums only"] = lambda: timed(lambda: [theirs.score(line) for line in lines])
        rows["kenlm.Model.full_scores"] = lambda: timed(
            lambda: [log10 for line in lines for log10, _, _ in theirs.full_scores(line)]
        )
    else:
        print("no Python module kenlm: its rows are left out")
    show(f"text to scores, {tokens:,} words", rows, rounds, tokens)


def show_loading(model: NGramModel, folder: pathlib.Path) -> None:
    """From a file to a model in memory, and to the first words."""
    path = folder / "model"
    model.save(path)
    start = time.perf_counter()
    loaded = NGramModel.load(path)
    middle = time.perf_counter()
    loaded.score(np.array([BOS, *loaded.vocabulary.ids(["a", "few", "words", "to", "begin", "with"]), EOS]))
    end = time.perf_counter()
    grams = sum(len(level) for level in model.log10_probs)
    print(
        f"\n{grams:,} n-grams in {path.stat().st_size / 2**20:.0f} MiB load in {middle - start:.3f} s",
        end=", ",
    )
    print(f"and score a first sentence {end - middle:.3f} s later")


def show_growth(corpus: str, folder: pathlib.Path, most: int, order: int) -> None:
    """Seconds and memory from text to a model, as the text grows."""
    print(f"\n{'words':>12} {'seconds':>8} {'ns/word':>8} {'CPU ns':>8} {'GiB':>6} {'bytes/word':>10}")
    text = folder / "growing"
    text.write_text("a\n")
    least = run(ours(text, order))
    for size in (million * 10**6 for million in (1, 2, 5, 10, 20, 50)):
        if size <= most:
            words = make_text(corpus, text, size, 0)
            total = run(ours(text, order))
            seconds, processor, memory = np.subtract(total, least) / words
            print(
                f"{words:12,} {total.seconds:8.2f} {seconds * 1e9:8.0f} {processor * 1e9:8.0f}"
                f" {total.memory:6.2f} {memory * 2**30:10.1f}",
                flush=True,
            )


def main() -> None:
    """Reads the flags and runs the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", default="python-docs")
    parser.add_argument("--tokens", type=int, default=6_500_000)
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="estimate,score,load")
    parser.add_argument(
        "--train", nargs="+", help="a text, and ARPA files to write: what the rows 'ours' run"
    )
    flags = parser.parse_args()
    if flags.train:
        train_in_stages(pathlib.Path(flags.train[0]), flags.order, flags.train[1:])
        return
    parts = flags.parts.split(",")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])  # of the started processes too
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        training, test = folder / "train", folder / "test"
        if "growth" in parts:
            show_growth(flags.corpus, folder, flags.tokens, flags.order)
        if "estimate" in parts:
            words = make_text(flags.corpus, training, flags.tokens, 0)
            compare_estimation(training, words, flags.order, flags.rounds)
        if {"score", "load"} & set(parts):
            make_text(flags.corpus, training, flags.tokens, 0)
            model = train(training, flags.order)
            if "score" in parts:
                compare_scoring(model, test, make_text(flags.corpus, test, 2_000_000, 1), flags.rounds)
            if "load" in parts:
                show_loading(model.model, folder)


if __name__ == "__main__":
    main()
