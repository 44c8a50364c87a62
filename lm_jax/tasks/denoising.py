"""The task of BART: writing a text, given the text with noise."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.data import noising
from lm_jax.data.batches import Source, Windows, evaluation_batches, share
from lm_jax.data.noising import Noise, Vocabulary, add_noise
from lm_jax.data.pipeline import DataConfig
from lm_jax.data.store import Split
from lm_jax.errors import UserError
from lm_jax.models.base import ModelConfig
from lm_jax.tasks.base import Process, check_length, check_reads
from lm_jax.tasks.frames import PairBatch, PairFrame, framed
from lm_jax.tasks.seq2seq import READS, TargetTask, check_rows
from lm_jax.text.base import Tokenizer

_STREAM = 2  # of random numbers, another one than that of the windows
_HELD_OUT_SEED = 0  # of the noise in held-out text, the same for every run


@dataclass(frozen=True)
class Denoising(Noise, TargetTask):
    """Minimises -log p(text | text with noise), in nats divided by the number of the text's tokens.

    Lewis et al. 2020 (BART), section 2. Rows are windows of the text, documents one after the other; the
    noise is drawn anew at each step. The noise of the validation part is the task's own, and the same at
    each validation.
    """

    name: ClassVar[str] = "denoising"
    adapter: ClassVar[str] = "seq2seq"
    evaluator: ClassVar[str] = "denoising"

    def check(self, model: ModelConfig, data: DataConfig) -> None:
        """Raises UserError for an invalid value, or one that does not fit the model or the data."""
        check_reads(self, model, READS)
        noising.check(self, "task.")
        self.check_smoothing()
        check_length(model, data)
        check_rows(self, data)

    def source(self, split: Split, data: DataConfig, batch_size: int, seed: int) -> Source[PairBatch]:
        """Windows of the text, with new noise at each step."""
        return _NoisedWindows(self, split, data, batch_size, seed)

    def held_out(
        self, split: Split, data: DataConfig, model: ModelConfig, batch_size: int, process: Process
    ) -> Iterator[PairBatch]:
        """Each token of a part once; the noise is the same in each call."""
        noiser = Noiser(self, split.tokenizer, data.sequence_length)
        rows = share(batch_size, process.index, process.count)
        clean = evaluation_batches(split, batch_size, noiser.room, process.index, process.count)
        for number, batch in enumerate(clean):
            lengths_B = np.asarray(batch.weights).sum(axis=1).astype(np.int64)
            first_row = number * batch_size + int(rows[0])
            made = noiser.batch(np.asarray(batch.inputs), lengths_B, [_HELD_OUT_SEED, 0, _STREAM], first_row)
            yield made._replace(weights=made.weights * (lengths_B > 0)[:, None])

    def shapes(self, data: DataConfig, batch_size: int) -> PairBatch:
        """Rows of `data.sequence_length` tokens."""
        tokens: Any = jax.ShapeDtypeStruct((batch_size, data.sequence_length), jnp.int32)
        return PairBatch(tokens, tokens, tokens, tokens, tokens.update(dtype=jnp.float32))


class Noiser:
    """Makes batches of texts: sources with noise, and the texts as targets.

    Args:
        noise: which.
        tokenizer: of the texts.
        length: tokens in a row of sources and in one of targets, special ones included.

    Attributes:
        room: the largest number of tokens of a text.

    Raises:
        UserError: the tokenizer has no mask token, and the noise writes some; or there is no room for a text.
    """

    def __init__(self, noise: Noise, tokenizer: Tokenizer, length: int):
        self._noise, self._length = noise, length
        self._vocabulary = Vocabulary.of(tokenizer, noise)
        self._frame = PairFrame.of(tokenizer)
        self.room = length - max(self._frame.source_extra, self._frame.target_extra)
        if self.room < 1:
            raise UserError(
                f"data.sequence_length={length} has no room for a text",
                f"give {length - self.room + 1} or more",
            )

    def batch(
        self, tokens_BT: np.ndarray, lengths_B: np.ndarray, seed: list[int], first_row: int = 0
    ) -> PairBatch:
        """A batch of texts; a pure function.

        Args:
            tokens_BT: int token ids, of `room` columns.
            lengths_B: int; the tokens of each row.
            seed: of the noise in this batch.
            first_row: the number of the first of these rows in the whole batch.
        """
        noised = add_noise(self._noise, self._vocabulary, tokens_BT, lengths_B, seed, first_row)
        frame, marks = self._frame, (self._frame.end, self._frame.padding, self._length)
        source = framed(noised.tokens_BT, noised.lengths_B, frame.begin, *marks)
        return frame.pair(*source, *framed(tokens_BT, lengths_B, frame.target_begin, *marks))


class _NoisedWindows:
    """A `Source` of windows of the text with noise."""

    def __init__(self, noise: Noise, split: Split, data: DataConfig, batch_size: int, seed: int):
        self._noiser = Noiser(noise, split.tokenizer, data.sequence_length)
        self._windows = Windows(split, batch_size, self._noiser.room, seed)
        self._batch_size, self._seed = batch_size, seed
        self.steps_per_epoch = self._windows.steps_per_epoch

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> PairBatch:
        """The rows of one process in the batch of a step."""
        tokens_BT = np.asarray(self._windows.batch(step, process_index, process_count).inputs)
        first_row = int(share(self._batch_size, process_index, process_count)[0])
        lengths_B = np.full(len(tokens_BT), tokens_BT.shape[1])
        return self._noiser.batch(tokens_BT, lengths_B, [self._seed, step, _STREAM], first_row)
