"""Speed of batches and tokenizers: `python benchmarks/pipeline.py`, about a minute.

Batches of 16 windows of 512 tokens out of 50 million on disk, in random order: `Windows`, with and without
`Prefetch`, and `Examples` of 1 to 512 tokens, compared with two usual ways. Then text to ids, compared with
plain Python for characters and with transformers for GPT-2's vocabulary, if given. All run in turn in each
round. The table shows the median and the best rate, and the speed-up of the first row (median over rounds).
"""

import argparse
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

from lm_jax.data import corpora
from lm_jax.data.batches import Streams, Windows
from lm_jax.data.examples import Examples, Rows, pad
from lm_jax.data.prefetch import Prefetch
from lm_jax.data.store import TokenStream
from lm_jax.text import load as tokenizers

BATCH_SIZE, LENGTH, NUM_TOKENS, STEPS, ROUNDS = 16, 512, 50_000_000, 500, 9


def plain_python(tokens: np.ndarray) -> Callable[[], object]:
    """A loop over windows, each cut out and made a list, as in many data set classes."""
    random = np.random.default_rng(0)

    def batches() -> None:
        for _ in range(STEPS // 10):
            rows = [
                tokens[i : i + LENGTH + 1].tolist()
                for i in random.integers(len(tokens) - LENGTH, size=BATCH_SIZE)
            ]
            np.array([row[:-1] for row in rows]), np.array([row[1:] for row in rows])

    return batches


def torch_stack(tokens: np.ndarray) -> Callable[[], object]:
    """Stacked int64 tensors from random places, as nanoGPT reads its memory map."""
    import torch

    def batches() -> None:
        for _ in range(STEPS):
            places = torch.randint(len(tokens) - LENGTH, (BATCH_SIZE,)).tolist()
            for shift in (0, 1):
                torch.stack(
                    [
                        torch.from_numpy(tokens[i + shift : i + shift + LENGTH].astype(np.int64))
                        for i in places
                    ]
                )

    return batches


def examples(tokens: np.ndarray) -> Examples:
    """Padded rows of documents of 1 to 512 tokens."""
    lengths = np.random.default_rng(0).integers(1, LENGTH + 1, len(tokens) // LENGTH)
    stream = TokenStream(np.asarray(tokens), np.append(1, np.cumsum(lengths + 1) + 1))

    def assemble(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        return pad([stream.document(index) for index in rows.indices], rows.lengths[0], 0)

    return Examples(stream.lengths, [LENGTH], assemble, BATCH_SIZE, seed=0)


def ours(source: Windows | Streams | Examples) -> Callable[[], object]:
    """The batches of `STEPS` steps; each round continues with the next steps."""
    steps = iter(range(10**9))
    return lambda: [source.batch(next(steps)) for _ in range(STEPS)]


def ahead(source: Windows) -> Callable[[], object]:
    """The same, made by a thread."""

    def batches() -> None:
        with Prefetch(source, 0, STEPS) as made:
            for _ in made:
                pass

    return batches


def race(runs: dict[str, tuple[Callable[[], object], float]], unit: str) -> None:
    """Prints the rate of each, and the speed-up of the first."""
    seconds = {name: [] for name in runs}
    for run, _ in runs.values():
        run()
    for _ in range(ROUNDS):
        for name, (run, _) in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    rates = {name: [work / s for s in seconds[name]] for name, (_, work) in runs.items()}
    first = next(iter(rates.values()))
    for name, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(first, found))
        middle, best = statistics.median(found) / 1e6, max(found) / 1e6
        print(f"  {name:<44} {middle:8.2f} (best {best:7.2f}) M {unit}/s   1 : {ratio:.2f}")


def race_batches() -> None:
    """Random windows from a memory map."""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "tokens"
        np.random.default_rng(0).integers(50_000, size=NUM_TOKENS, dtype=np.uint16).tofile(path)
        tokens = np.memmap(path, np.uint16, mode="r")
        split = SimpleNamespace(tokens=tokens, num_tokens=len(tokens) - 1)
        windows = Windows(split, BATCH_SIZE, LENGTH, seed=0)
        work = float(STEPS * BATCH_SIZE * LENGTH)
        runs = {
            "Windows.batch": (ours(windows), work),
            "Streams.batch": (ours(Streams(split, BATCH_SIZE, LENGTH)), work),
            "Prefetch(Windows)": (ahead(windows), work),
            "Examples.batch": (ours(examples(tokens)), work / 2),
            "a loop in Python": (plain_python(tokens), work / 10),
        }
        try:
            runs["torch.stack of slices"] = (torch_stack(tokens), work)
        except ImportError:
            print("  (torch is not installed)")
        print(f"batches of {BATCH_SIZE} x {LENGTH} from {NUM_TOKENS:,} tokens")
        race(runs, "tokens")


def race_tokenizers(gpt2: str) -> None:
    """Text to ids, a part of Python's documentation."""
    texts = [document.text for document in corpora.read("python-docs")][::3]
    size = float(sum(len(text.encode()) for text in texts))
    learned = {kind: tokenizers.train(kind, texts, vocab_size=4096) for kind in tokenizers.KINDS}
    runs = {kind: (lambda t=t: t.encode_ids(texts), size) for kind, t in learned.items()}
    index = {c: i for i, c in enumerate(sorted(set("".join(texts))))}
    runs["char, a dictionary in Python"] = (lambda: [[index[c] for c in text] for text in texts], size)
    if gpt2:
        import transformers

        mine = tokenizers.load(gpt2)
        files = [str(pathlib.Path(gpt2) / name) for name in ("vocab.json", "merges.txt")]
        peer = transformers.GPT2Tokenizer(*files)
        runs["GPT-2"] = (lambda: mine.encode_ids(texts), size)
        runs["GPT-2, with byte spans"] = (lambda: mine.encode_batch(texts), size)
        runs["GPT-2, transformers"] = (lambda: peer(texts)["input_ids"], size)
        runs["GPT-2, transformers with character offsets"] = (
            lambda: peer(texts, return_offsets_mapping=True)["input_ids"], size,
        )  # fmt: skip
    print(f"text to ids, {len(texts)} documents of {size / 1e6:.2f} MB in all")
    race(runs, "bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpt2", default="", help="directory with GPT-2's vocab.json and merges.txt")
    race_batches()
    race_tokenizers(parser.parse_args().gpt2)
