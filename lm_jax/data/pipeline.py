"""Documents -> token store, built once -> batch(step), a pure function of (seed, step)."""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from lm_jax.batch import Batch
from lm_jax.data.corpora import Document
from lm_jax.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which text, how it is split, and how it is cut into tokens and windows."""

    corpus: str = "python-docs"  # python-docs, text:GLOB or jsonl:GLOB[#FIELD]
    documents: str = "file"  # what one document is: file, line or paragraph
    split: str = "hash:0.05,0.05"  # hash:VALID[,TEST] by name, or tail:VALID[,TEST]: 0.1, 5000chars, 900words
    valid: str = ""  # another source for validation, instead of a part of the corpus
    test: str = ""  # another source for the test, instead of a part of the corpus
    tokenizer: str = "bpe"  # byte, char, word, bpe, or the path of a tokenizer.json or of its directory
    vocab_size: int = (
        4096  # the most tokens a trained vocabulary may hold, special ones included; 0: no limit
    )
    min_count: int = 0  # words and characters seen less often become <unk>
    sequence_length: int = 128  # tokens in a window
    order: str = "shuffled"  # shuffled windows, or contiguous streams for models that carry a state


class Progress(Protocol):
    """Called now and then while something long goes on; `done` and `total` in a unit of its own."""

    def __call__(self, description: str, done: int, total: int) -> None: ...


class Split:
    """A part of the corpus as tokens: `end d1 end d2 end ...`, memory-mapped.

    Attributes:
        name: train, valid or test.
        tokens: uint16 or uint32 [N].
        document_offsets: int64 [D + 1]; document i is tokens[offsets[i] : offsets[i + 1] - 1], then its end.
        num_documents, num_tokens (N - 1: all that is predicted, ends included), num_bytes, num_words.
    """

    name: str
    tokens: np.ndarray
    document_offsets: np.ndarray
    end_id: int
    num_documents: int
    num_tokens: int
    num_bytes: int
    num_words: int

    def documents(self) -> Iterator[Document]:
        """The original documents, in order."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Data:
    """All that training reads."""

    tokenizer: Tokenizer
    splits: dict[str, Split]
    provenance: dict


def prepare(config: DataConfig, cache_dir: str | None = None, progress: Progress | None = None) -> Data:
    """Read, split, train the tokenizer on the training part, encode; or open what an earlier call built."""
    raise NotImplementedError


class Windows:
    """Shuffled windows."""

    def __init__(self, split: Split, batch_size: int, sequence_length: int, seed: int):
        self.steps_per_epoch: int = 0

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> Batch:
        """The rows of this process in the global batch of a step: a pure function of (seed, step)."""
        raise NotImplementedError


class Streams:
    """`batch_size` parallel streams; row b of step s + 1 goes on where row b of step s ended, for ever."""

    def __init__(self, split: Split, batch_size: int, sequence_length: int):
        self.steps_per_epoch: int = 0

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> Batch:
        """The rows of this process in the global batch of a step."""
        raise NotImplementedError


def training_source(config: DataConfig, split: Split, batch_size: int, seed: int) -> Windows | Streams:
    """What `config.order` names."""
    raise NotImplementedError


def evaluation_batches(
    split: Split, batch_size: int, sequence_length: int, process_index: int = 0, process_count: int = 1
) -> Iterator[Batch]:
    """Every token once, padded to a constant shape with weight 0; rows go on from batch to batch (state)."""
    raise NotImplementedError


class prefetch:  # noqa: N801 (read as a verb: `with prefetch(source, 0, 100) as batches`)
    """Iterate over source.batch(step), or source(step), of first_step <= step < last_step, made by a thread.

    Close it (context manager, or `close()`); `waited_seconds` is how long the consumer waited for batches.
    """

    waited_seconds: float

    def __init__(self, source, first_step: int, last_step: int, depth: int = 2):
        raise NotImplementedError
