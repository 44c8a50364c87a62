"""Classification by an n-gram model of each class and Bayes' rule."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from lm_jax import files, seal
from lm_jax.data.corpora import Progress
from lm_jax.data.pipeline import Data
from lm_jax.data.store import Split
from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.language_models.base import LabelledText
from lm_jax.language_models.described import Described
from lm_jax.language_models.labels import Label, Texts, most_probable, softmax
from lm_jax.language_models.ngram import NGramLanguageModel, make_stream, make_vocabulary, word_ids
from lm_jax.ngram import counts, smoothing
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.tasks.classification import resolve_classes
from lm_jax.text.base import Tokenizer
from lm_jax.text.words import is_blank

_FILE = "classes.json"


@dataclasses.dataclass(frozen=True)
class ClassModels:
    """An n-gram model of the texts of each class.

    Attributes:
        models: one for each class.
        classes: the names of the classes.
        counts: how many training texts each class has.
        label_field: the field of documents that holds the class.
    """

    models: tuple[NGramModel, ...]
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    label_field: str

    def save(self, directory: pathlib.Path) -> None:
        """Writes a file for each model, and one for the rest."""
        for number, model in enumerate(self.models):
            model.save(directory / _model_name(number))
        rest = {"label": self.label_field, "classes": self.classes, "counts": self.counts}
        files.write_json(directory / _FILE, rest)

    @classmethod
    def load(cls, directory: pathlib.Path) -> "ClassModels":
        """Reads what `save` wrote.

        Raises:
            UserError: a file is missing or damaged.
        """
        values = JsonObject.read(directory / _FILE)
        classes, numbers = values.take("classes", list), values.take("counts", list)
        fits = all(isinstance(name, str) for name in classes) and len(classes) == len(numbers)
        counted = all(type(n) is int and 0 <= n < 1 << 53 for n in numbers) and any(numbers)
        if not fits or not counted:
            raise UserError(f"{values.where} has no count for each class", "restore the file")
        names = [_model_name(number) for number in range(len(classes))]
        seal.check(directory, _FILE, *names)
        models = tuple(NGramModel.load(directory / name) for name in names)
        return cls(models, tuple(classes), tuple(numbers), values.take("label", str))


def fit(config: NGramConfig, data: Data, label: str, report: Progress) -> ClassModels:
    """Estimates a model of the training texts of each class, all over the same tokens.

    Args:
        config: of each model.
        data: the prepared corpus; weights of the smoothing are fitted on the texts of the class in its part
            "valid", or on all of that part if the class has none there.
        label: the field of documents that holds the class.
        report: called with (description, done, total).

    Raises:
        UserError: a single class, too little memory, or texts from which no discounts can be estimated.
    """
    train, valid = data.splits["train"], data.splits["valid"]
    classes = resolve_classes((), data.classes, label)
    vocabulary = make_vocabulary(data.tokenizer)
    word_of = word_ids(data.tokenizer, vocabulary)
    labels_D, models = train.labels(label), []
    for number in range(len(classes)):
        streams = [make_stream(_tokens(split, label, number), word_of) for split in (train, valid)]
        counted = counts.count(streams[0], vocabulary, config.order, report)
        models.append(smoothing.estimate(counted, config, streams[1], report))
    number_of = np.bincount(labels_D, minlength=len(classes)).tolist()
    return ClassModels(tuple(models), classes, tuple(number_of), label)


class NGramClassifier(Described):
    """The class c with the largest p(c) p(text | c): its share of the training texts, and an n-gram model.

    Args:
        models: those of the classes.
        tokenizer: from text to ids.
        documents: how the training text was cut.
    """

    family, task, evaluator = "ngram", "classification", "classification"
    step: int | None = None
    second_field = ""

    def __init__(self, models: ClassModels, tokenizer: Tokenizer, documents: str = "file"):
        self.tokenizer, self.documents = tokenizer, documents
        self.classes, self.label_field = models.classes, models.label_field
        self._models = [NGramLanguageModel(model, tokenizer, documents) for model in models.models]
        self._log_priors = np.log(np.array(models.counts, float) / sum(models.counts))

    def describe_context(self) -> dict[str, Any]:
        """How many tokens the longest n-grams have."""
        return self._models[0].describe_context()

    def label(self, texts: Texts) -> list[LabelledText]:
        """The probability of each class, of each text.

        A text that has probability 0 in all classes, which takes a model without smoothing, has those of the
        training texts.

        Raises:
            UserError: a pair of texts, or an empty text.
        """
        for number, text in enumerate(texts, 1):
            if not isinstance(text, str) or is_blank(text):
                wrong = "is empty" if isinstance(text, str) else "is a pair"
                raise UserError(f"text {number} {wrong}", "give texts with words")
        singles = list(map(str, texts))
        scores_KD = [[one.log_probs.sum() for one in model.score(singles)] for model in self._models]
        logits_DK = np.array(scores_KD, float).reshape(len(self.classes), -1).T + self._log_priors
        logits_DK = np.where(np.isneginf(logits_DK).all(axis=1, keepdims=True), self._log_priors, logits_DK)
        return [LabelledText(self.classes, softmax(logits)) for logits in logits_DK]

    def classify(self, texts: Texts) -> list[Label]:
        """The most probable class of each text."""
        return most_probable(self.label(texts))


def _tokens(split: Split, label: str, number: int) -> np.ndarray:
    """The stream `end d1 end d2 ...` of the documents of a class, or of all if it has none."""
    stream = split.stream
    chosen = np.flatnonzero(split.labels(label) == number).tolist()
    end = np.array([split.end_id], np.int32)
    if not chosen:
        return np.asarray(stream.tokens)
    return np.concatenate([end, *(part for i in chosen for part in (stream.document(i), end))])


def _model_name(number: int) -> str:
    return f"class-{number}.ngram"
