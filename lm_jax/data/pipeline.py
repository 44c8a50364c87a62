"""Documents -> token store, built once -> a source of batches, made ahead by a thread."""

import contextlib
import dataclasses
import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from lm_jax.data import corpora, splits, store
from lm_jax.data.batches import Source, Streams, Windows
from lm_jax.data.batches import evaluation_batches as evaluation_batches  # part of this module's interface
from lm_jax.data.corpora import Corpus, Document, Progress
from lm_jax.data.store import Split
from lm_jax.errors import UserError
from lm_jax.text import load as tokenizers
from lm_jax.text.base import Tokenizer

Item = TypeVar("Item")
_ORDERS = ("shuffled", "contiguous")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text, what of it is held out, and how it becomes tokens and batches."""

    corpus: str = "python-docs"  # or text:, jsonl:, tsv:, csv:GLOB[#FIELD], tfds:NAME, nltk:NAME
    documents: str = "file"  # what one document is: file, line or paragraph
    split: str = "hash:0.05,0.05"  # hash:VALID[,TEST] of the documents, or tail:VALID[,TEST]: 0.1 or 900words
    valid: str = ""  # another source for validation: a corpus, files of the same kind, @SPLIT of tfds:NAME
    test: str = ""  # another source for the test
    tokenizer: str = "bpe"  # byte, char, word, bpe, wordpiece, wordpiece-uncased; or the path of one
    vocab_size: int = 4096  # the most tokens that are learned, special ones included; 0: no limit
    min_count: int = 0  # words and characters that are rarer in the training part become <unk>
    sequence_length: int = 128  # tokens in a row of a batch
    order: str = "shuffled"  # shuffled windows, or contiguous streams for models that carry a state
    vary_length: bool = False  # contiguous: ten lengths about sequence_length, and rates in proportion
    separate_documents: bool = False  # attention and state start anew where a document begins within a row

    @property
    def usual_length(self) -> int | None:
        """The length about which those of rows vary; None where all have the same."""
        return self.sequence_length if self.vary_length else None

    def check(self) -> None:
        """Raises UserError for a value that no run can use."""
        corpora.check(self.corpus, self.documents)
        for source in filter(None, (self.valid, self.test)):
            corpora.check(corpora.with_kind(source, self.corpus), self.documents)
        if not splits.parse(self.split).valid and not self.valid:
            raise UserError(
                f"data.split={self.split!r} has no validation part", "hold one out, or give data.valid"
            )
        if self.order not in _ORDERS:
            raise UserError(f"data.order={self.order!r}", f"choose one of {', '.join(_ORDERS)}")
        if self.order == "contiguous" and self.separate_documents:
            raise UserError(
                "data.order=contiguous carries a state from row to row, across documents",
                "set data.separate_documents=False, or data.order=shuffled",
            )
        if self.vary_length and self.order != "contiguous":
            raise UserError(f"data.vary_length with data.order={self.order}", "set data.order=contiguous")
        for name, least in (("vocab_size", 0), ("min_count", 0), ("sequence_length", 1)):
            if getattr(self, name) < least:
                raise UserError(f"data.{name}={getattr(self, name)}", f"it must be {least} or more")


@dataclasses.dataclass(frozen=True)
class Data:
    """All that training reads.

    Attributes:
        tokenizer: trained on the training part alone, or loaded.
        splits: train, valid, and test where there is one.
        provenance: what the text was, for the record: sources, versions, hashes, sizes.
    """

    tokenizer: Tokenizer
    splits: dict[str, Split]
    provenance: dict[str, Any]


def prepare(
    config: DataConfig, cache_dir: str | Path | None = None, progress: Progress | None = None
) -> Data:
    """Reads, splits, trains the tokenizer and encodes, unless an earlier call did; then opens the result.

    What is cached is found again by the bytes of the source files (hashed at every start: about a second a
    gigabyte), the split and the tokenizer's settings.

    Args:
        config: what to prepare.
        cache_dir: where stores lie; by default $LM_JAX_CACHE, else ~/.cache/lm_jax.
        progress: told of reading, training and encoding.

    Raises:
        UserError: missing or unreadable sources, a part without a document, a tokenizer that cannot be made,
            no room or no permission for the store.
    """
    config.check()
    cache = Path(cache_dir or os.environ.get("LM_JAX_CACHE") or "~/.cache/lm_jax").expanduser()
    sources = _sources(config, progress)
    texts_key = store.key("texts", config.split, {n: c.fingerprint() for n, c in sources.items()})
    texts = cache / f"texts-{texts_key}"
    facts = store.build(texts, lambda to: _write_texts(config, sources, to))
    parts = [part for part in splits.PARTS if part in facts["parts"]]
    tokens = cache / f"tokens-{store.key('tokens', texts_key, *_tokenizer_key(config))}"
    store.build(
        tokens,
        lambda to: store.write_tokens(texts, parts, _make_tokenizer(config, texts, progress), to, progress),
    )
    tokenizer = tokenizers.load(tokens)
    read = {part: Split(part, texts, tokens) for part in parts}
    return Data(tokenizer, read, _provenance(config, sources, facts["sha256"], tokenizer, read))


def _sources(config: DataConfig, progress: Progress | None) -> dict[str, Corpus]:
    """The corpus, as "train"; validation and test where they have sources of their own."""
    named = {"train": config.corpus, "valid": config.valid, "test": config.test}
    return {
        part: corpora.read(corpora.with_kind(source, config.corpus), config.documents, progress)
        for part, source in named.items()
        if source
    }


def _write_texts(config: DataConfig, sources: dict[str, Corpus], directory: Path) -> dict[str, Any]:
    holdout, digest = splits.parse(config.split), hashlib.sha256()

    def assigned() -> Iterator[tuple[str, Document]]:
        for part, document in splits.assign(holdout, sources["train"]):
            digest.update(document.text.encode())
            # What a part with a source of its own leaves is trained on, and the other part stays as it is.
            yield ("train" if part in sources else part), document
        for part in ("valid", "test"):
            for document in sources.get(part, ()):
                yield part, document

    parts = store.write_texts(assigned(), directory)
    wanted = {"train", "valid", *sources} | ({"test"} if holdout.test else set())
    if missing := [part for part in splits.PARTS if part in wanted and part not in parts]:
        total = sum(facts["documents"] for facts in parts.values())
        raise UserError(
            f"data.split={config.split!r} gives none of {total} documents in {config.corpus} to {missing[0]}",
            "hold out a tail (data.split=tail:0.1), or let data.documents be smaller (line, paragraph)",
        )
    return {"sha256": digest.hexdigest(), "parts": parts}


def _make_tokenizer(config: DataConfig, texts: Path, progress: Progress | None) -> Tokenizer:
    training = store.read_texts(texts, "train", progress, "training the tokenizer")
    return tokenizers.train(config.tokenizer, training, config.vocab_size, config.min_count)


def _tokenizer_key(config: DataConfig) -> list[Any]:
    """What decides the tokenizer, beside the training text."""
    if config.tokenizer in tokenizers.KINDS:
        return [config.tokenizer, config.vocab_size, config.min_count]
    return [tokenizers.load(tokenizers.named_file(config.tokenizer)).fingerprint()]


def _provenance(
    config: DataConfig,
    sources: dict[str, Corpus],
    sha256: str,
    tokenizer: Tokenizer,
    parts: dict[str, Split],
) -> dict[str, Any]:
    facts = ("num_documents", "num_bytes", "num_words", "num_tokens", "sha256")
    return {
        **{name: getattr(config, name) for name in ("corpus", "documents", "split", "valid", "test")},
        "sha256": sha256,
        "sources": {part: corpus.facts for part, corpus in sources.items()},
        "tokenizer": {
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.fingerprint(),
        },
        "splits": {name: {fact: getattr(part, fact) for fact in facts} for name, part in parts.items()},
    }


def make_source(split: Split, config: DataConfig, batch_size: int, seed: int) -> Source:
    """Batches for training, in the order that the config names.

    Raises:
        UserError: a text too short for contiguous streams.
    """
    if config.order == "contiguous":
        if config.sequence_length > split.num_tokens // batch_size:
            raise UserError(
                f"train.batch_size={batch_size} streams of a text of {split.num_tokens} tokens are shorter "
                f"than data.sequence_length={config.sequence_length}",
                "make one of them smaller",
            )
        seed_of_lengths = seed if config.vary_length else None
        return Streams(split, batch_size, config.sequence_length, seed_of_lengths)
    return Windows(split, batch_size, config.sequence_length, seed, config.separate_documents)


class prefetch(Generic[Item]):  # noqa: N801 (a verb where it is used: `with prefetch(source, 0, 9) as batches`)
    """Iterates over the batches of steps that a thread makes ahead; an error in it is raised here.

    Args:
        source: a `Source`, or any function of the step.
        first_step: the first step.
        last_step: the step after the last.
        depth: how many batches are made ahead.

    Attributes:
        waited_seconds: how long the consumer has waited for batches so far.
    """

    def __init__(
        self, source: Source | Callable[[int], Item], first_step: int, last_step: int, depth: int = 2
    ):
        self._make: Callable[[int], Any] = source if callable(source) else source.batch
        self._steps = range(first_step, last_step)
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
        self._stopped = threading.Event()
        self.waited_seconds = 0.0
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        try:
            for step in self._steps:
                self._queue.put((self._make(step), None))
                if self._stopped.is_set():
                    return
            self._queue.put((None, StopIteration()))
        except BaseException as error:  # the consumer's to handle, whatever it is
            self._queue.put((None, error))

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._stopped.is_set():
            raise StopIteration
        start = time.perf_counter()
        item, error = self._queue.get()
        self.waited_seconds += time.perf_counter() - start
        if error is not None:
            self.close()
            raise error
        return item

    def close(self) -> None:
        """Ends the thread; what it made ahead is dropped."""
        self._stopped.set()
        while self._thread.is_alive():  # perhaps waiting for room in the queue
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
