"""Modules that give texts, pairs of texts, or words a label, as language models."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from flax import linen as nn

from lm_jax.data.examples import row_lengths
from lm_jax.errors import UserError
from lm_jax.language_models.base import LabelledText, PredictedNumber
from lm_jax.language_models.described import Described
from lm_jax.language_models.trained import Trained, shared
from lm_jax.parallel.distributed import share
from lm_jax.tasks.frames import Frame, windows
from lm_jax.text.simple import WordTokenizer
from lm_jax.text.words import first_tokens, is_blank, word_spans

_TOKENS_PER_BATCH = 4096
_LONGEST = 1 << 14  # tokens of a row of a model that reads texts of any length


class Label(NamedTuple):
    """The most probable label of a text, with its probability."""

    name: str
    probability: float


Texts = Sequence[str | tuple[str, str]]


class _Row(NamedTuple):
    """The tokens of a text, or of a pair."""

    first: np.ndarray
    second: np.ndarray | None


class _Reader(Described):
    """What models of labels share: rows of texts in, outputs of the module for each row out.

    Args:
        trained: the module with its parameters and tokenizer.
    """

    def __init__(self, trained: Trained):
        self.trained, self.tokenizer, self.config = trained, trained.tokenizer, trained.config
        self.module, self.params = trained.module, trained.params
        self.family, self.step, self.documents = self.config.family, trained.step, trained.documents
        task: Any = trained.task
        self.task, self.evaluator = task.name, task.evaluator
        self.label_field: str = task.label
        self.second_field: str = getattr(task, "second", "")
        self._length = trained.length or self.config.context_length or _LONGEST
        self._frame = Frame.of(self.tokenizer)
        self._apply = shared(_compiled, self.module)

    def _knowing(self, texts: Texts) -> Self:
        """The reader; for a model that reads words by their characters, one with all words of some texts."""
        if not self.config.spells or not isinstance(self.tokenizer, WordTokenizer):
            return self
        made = copy.copy(self)
        flat = [one for text in texts for one in ([text] if isinstance(text, str) else text)]
        made.tokenizer = self.tokenizer.extended(list(map(str, flat)))
        if made.tokenizer is not self.tokenizer:
            words = [made.tokenizer.token_bytes(i) for i in range(made.tokenizer.vocab_size)]
            filled = 1 << (len(words) - 1).bit_length()  # few shapes are compiled
            made.params = self.config.with_vocabulary(self.params, [*words, *[b""] * (filled - len(words))])
        return made

    def describe_context(self) -> dict[str, Any]:
        """How many tokens are read of a text, special ones included."""
        return {"window": self._length}

    def _rows(self, texts: Texts) -> list[_Row]:
        """The tokens of texts or pairs.

        Raises:
            UserError: a text where a pair is needed or the other way round, or an empty text.
        """
        for number, text in enumerate(texts, 1):
            if isinstance(text, str) == bool(self.second_field):
                wanted = "a pair of texts" if self.second_field else "one text"
                raise UserError(f"this model labels {wanted}", f"give {wanted} as item {number}")
            if any(map(is_blank, [text] if isinstance(text, str) else text)):
                raise UserError(f"text {number} is empty", "leave it out")
        if not self.second_field:
            return [_Row(ids, None) for ids in self.tokenizer.encode_ids(list(map(str, texts)))]
        firsts, seconds = (self.tokenizer.encode_ids([text[i] for text in texts]) for i in (0, 1))
        return [_Row(*pair) for pair in zip(firsts, seconds, strict=True)]

    def _size(self, row: _Row) -> int:
        second = None if row.second is None else np.array(len(row.second))
        return int(self._frame.lengths(np.array(len(row.first)), second))

    def _outputs(self, rows: list[_Row]) -> list[np.ndarray]:
        """The module's outputs for each row, float32, without those for padded rows."""
        sizes_N = np.array([self._size(row) for row in rows], np.int64)
        results: list[np.ndarray] = [np.empty(0)] * len(rows)
        for batch in self._batches(sizes_N):
            [length] = row_lengths(sizes_N[batch][:, None], (self._length,))
            group = [rows[i] for i in batch]
            group += [group[-1]] * (self.trained.num_rows(len(group), self._most(length)) - len(group))
            seconds = None if group[0].second is None else [row.second for row in group]
            framed = self._frame.rows([row.first for row in group], seconds, length)  # type: ignore[arg-type]
            outputs = np.asarray(self._apply(self.params, *self.trained.placed(framed)))
            for i, output in zip(batch, outputs):
                results[i] = output
        return results

    def _batches(self, sizes_N: np.ndarray) -> list[list[int]]:
        """The rows in batches of similar sizes."""
        batches: list[list[int]] = []
        for i in np.argsort(sizes_N, kind="stable").tolist():
            [length] = row_lengths(sizes_N[i].reshape(1, 1), (self._length,))
            if not batches or len(batches[-1]) >= self._most(length):
                batches.append([])
            batches[-1].append(i)
        return batches

    @staticmethod
    def _most(length: int) -> int:
        return max(1, _TOKENS_PER_BATCH // length)


class Classifier(_Reader):
    """A module with a head of class scores, of texts or pairs of texts."""

    def __init__(self, trained: Trained):
        super().__init__(trained)
        task: Any = trained.task
        self.classes: tuple[str, ...] = task.classes

    def label(self, texts: Texts) -> list[LabelledText]:
        """The probability of each class, of each text or pair of texts.

        A text longer than the rows of training is cut as there; see `Frame.rows`. Where several processes
        have joined, all must label the same texts: each takes a share of them.

        Raises:
            UserError: a text where a pair is needed or the other way round, or an empty text.
        """
        reader = self._knowing(texts)
        rows = reader._rows(texts)
        outputs = share(reader._outputs, rows, [len(self.classes)] * len(rows))
        return [
            LabelledText(self.classes, softmax(logits), truncated=self._size(row) > self._length)
            for row, logits in zip(rows, outputs, strict=True)
        ]

    def classify(self, texts: Texts) -> list[Label]:
        """The most probable class of each text or pair of texts; see `label`."""
        return most_probable(self.label(texts))


class Regressor(_Reader):
    """A module with a head of one number, of texts or pairs of texts."""

    def predict(self, texts: Texts) -> list[PredictedNumber]:
        """The number of each text or pair of texts; cut, shared and refused as by `Classifier.label`."""
        reader = self._knowing(texts)
        rows = reader._rows(texts)
        outputs = share(reader._outputs, rows, [1] * len(rows))
        return [
            PredictedNumber(float(output[0]), self._size(row) > self._length)
            for row, output in zip(rows, outputs, strict=True)
        ]


class Tagger(_Reader):
    """A module with a head of class scores at each position, of words between white space."""

    def __init__(self, trained: Trained):
        super().__init__(trained)
        task: Any = trained.task
        self.classes: tuple[str, ...] = task.classes

    def label(self, texts: Texts) -> list[LabelledText]:
        """The probability of each tag, of each word of each text.

        A text longer than the rows of training is read in several rows, each word in one. A word without a
        token, such as one of characters that the tokenizer drops, has equal probabilities.

        Raises:
            UserError: a pair of texts, or an empty text.
        """
        sizes = []
        for number, text in enumerate(texts, 1):
            if not isinstance(text, str) or is_blank(text):
                wrong = "is empty" if isinstance(text, str) else "is a pair"
                raise UserError(f"text {number} {wrong}", "give texts with words")
            sizes.append(len(word_spans(text.encode())) * len(self.classes))
        outputs = share(self._knowing(texts)._logits, list(map(str, texts)), sizes)
        return [
            LabelledText(
                self.classes,
                softmax(logits.reshape(-1, len(self.classes))),
                word_spans(str(text).encode()),
            )
            for text, logits in zip(texts, outputs, strict=True)
        ]

    def _logits(self, texts: list[str]) -> list[np.ndarray]:
        """The class scores of the words of each text, flattened, [W · K]."""
        encodings = self.tokenizer.encode_batch(texts)
        places = [first_tokens(t.encode(), e.spans) for t, e in zip(texts, encodings, strict=True)]
        cuts = [windows(len(e.ids), p, self._length - 2) for e, p in zip(encodings, places, strict=True)]
        rows = [_Row(e.ids[a:b], None) for e, c in zip(encodings, cuts, strict=True) for a, b in c]
        outputs, first = self._outputs(rows), 0
        results = []
        for places_W, of_text in zip(places, cuts, strict=True):
            logits_WK = np.zeros((len(places_W), len(self.classes)), np.float32)
            for (start, end), output_TK in zip(of_text, outputs[first : first + len(of_text)], strict=True):
                inside_W = (places_W >= start) & (places_W < end)
                logits_WK[inside_W] = output_TK[places_W[inside_W] - start + 1]
            first += len(of_text)
            results.append(logits_WK.reshape(-1))
        return results

    def tag(self, texts: Sequence[str]) -> list[list[tuple[str, str]]]:
        """The words of each text, each with its most probable tag; see `label`."""
        found = []
        for text, labelled in zip(texts, self.label(texts), strict=True):
            data, spans = text.encode(), labelled.spans
            assert spans is not None
            words = [data[start:end].decode() for start, end in spans.tolist()]
            best_W = labelled.probabilities.argmax(axis=-1)
            found.append([(word, self.classes[k]) for word, k in zip(words, best_W)])
        return found


def _compiled(module: nn.Module) -> Any:
    return jax.jit(module.apply)


def most_probable(labelled: Sequence[LabelledText]) -> list[Label]:
    """The most probable label of each text."""
    best = [int(one.probabilities.argmax()) for one in labelled]
    return [Label(one.names[k], float(one.probabilities[k])) for one, k in zip(labelled, best, strict=True)]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, float64."""
    shifted = np.exp(logits.astype(float) - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
