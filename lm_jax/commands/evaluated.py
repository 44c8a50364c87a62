"""The models of an evaluation, opened as they are needed, and the texts that they are evaluated on."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lm_jax.data.corpora import Progress
from lm_jax.errors import UserError, with_article
from lm_jax.evaluation import mixes, texts
from lm_jax.evaluation.base import ZERO_SHOT
from lm_jax.evaluation.mixes import Mix, Mixed
from lm_jax.evaluation.texts import Text
from lm_jax.language_models import load as language_model
from lm_jax.language_models.base import Expects, Labels, LanguageModel, Predicts, require
from lm_jax.language_models.mixtures.base import Component
from lm_jax.language_models.mixtures.parts import Part
from lm_jax.parallel.sharding import MeshConfig
from lm_jax.progress import say


class Entry(NamedTuple):
    """A model that is to be evaluated.

    Attributes:
        name: what to call it.
        given: its name on the command line, which its checkpoints share; "" of a mixture.
        path: of the run or the file that it comes from; of a mixture, that of the first model.
        model: the model.
        mixed: what is to be said of a mixture; None for others.
        mix: what was asked for; None for others.
    """

    name: str
    given: str
    path: str
    model: LanguageModel
    mixed: Mixed | None = None
    mix: Mix | None = None


class Models:
    """The models of a command line. Each is opened before the work, so that a wrong path is noticed.

    Of a run with several checkpoints only one is in memory, unless a mixture needs it.

    Attributes:
        reads_as: the task whose text the first model is scored on.
        documents: how the first model's training text was cut into documents.
        failed: the names of the mixtures that could not be fitted.

    Args:
        arguments: the values of the flags.
        mesh: how devices share the parameters and the rows; None: each recipe's.

    Raises:
        UserError: a model that cannot be opened, or that flags do not apply to, or a mixture that cannot be.
    """

    def __init__(self, arguments: Any, mesh: MeshConfig | None):
        self._arguments, self._mesh = arguments, mesh
        self._marks = {"bos": arguments.bos, "eos": arguments.eos}
        asked = mixes.parse(arguments, arguments.model)
        self._steps = [language_model.steps_of(path, arguments.step) for _, path in arguments.model]
        self._models = [
            self._load(path, steps[0]) for (_, path), steps in zip(arguments.model, self._steps, strict=True)
        ]
        self._mixtures = self._open_mixtures(asked)
        self.failed: list[str] = []
        # Not the first model itself, which then would stay in memory.
        self.reads_as, self.documents = reads_as(self._models[0]), self._models[0].documents
        for model in self._models:
            evaluator(arguments, model)
        if arguments.calibration and not any(isinstance(model, Expects) for model in self._models):
            require(self._models[0], Expects, "tell the most probable next token")

    def entries(self, report: Progress) -> Iterator[Entry]:
        """The models one after the other, mixtures last; may be called once."""
        for (name, path), steps in zip(self._arguments.model, self._steps, strict=True):
            first = name if len(steps) == 1 else f"{name}@{steps[0]}"
            yield Entry(first, name, path, self._models.pop(0))
            for step in steps[1:]:
                yield Entry(f"{name}@{step}", name, path, self._load(path, step))
        for opened in self._mixtures:
            try:
                mixed = mixes.fit(opened, report)
            except UserError as error:  # the results of the other models are kept
                say(f"error: no mixture {opened.mix.name}: {error.cause}; {error.remedy}")
                self.failed.append(opened.mix.name)
                continue
            yield Entry(opened.mix.name, "", self._arguments.model[0][1], mixed.model, mixed, opened.mix)

    def _load(self, path: str, step: str) -> LanguageModel:
        return language_model.load(path, step, self._mesh, **self._marks)

    def _open_mixtures(self, asked: Sequence[Mix]) -> list[mixes.Opened]:
        """Opens the parts of each mixture; models and caches are opened once for all of them."""
        opened = {path: model for (_, path), model in zip(self._arguments.model, self._models, strict=True)}
        components: dict[Part, Component] = {}

        def open_model(path: str) -> LanguageModel:
            if path not in opened:
                opened[path] = self._load(path, language_model.steps_of(path, self._arguments.step)[0])
            return opened[path]

        return [mixes.open_mix(mix, open_model, components) for mix in asked]


def evaluator(arguments: Any, model: LanguageModel) -> str:
    """The name of the evaluator that the flags ask for; "": the model's own.

    Raises:
        UserError: a model that --protocol does not apply to.
    """
    if arguments.protocol == "overlapping":
        return arguments.task or ""
    if reads_as(model) != "causal" or model.family == "mixture":
        raise UserError(
            f"--protocol={arguments.protocol} of {with_article(model.family)} model of task {model.task}",
            "give models that read left to right",
        )
    return arguments.protocol


def reads_as(model: LanguageModel) -> str:
    """The task whose text a model is scored on: a bidirectional model compares with left-to-right ones."""
    return "causal" if model.task == "bidirectional" else model.task


class Texts:
    """Chooses the text that a model is evaluated on: one object for all models that read the same.

    Args:
        arguments: the values of the flags.
        models: of the command line. Those of the first one's task read the text of its run.
    """

    def __init__(self, arguments: Any, models: Models):
        self._arguments, self._models = arguments, models
        self._choose = functools.cache(self._read)

    @property
    def given(self) -> list[str | None]:
        """The texts of the command line; [None] where a run's own part is read."""
        return self._arguments.text or [None]

    def of(self, entry: Entry, given: str | None) -> Text:
        """The text of a model.

        Raises:
            UserError: a text that cannot be read.
        """
        labels = isinstance(entry.model, Labels | Predicts)
        return self._choose(given, self.source(entry), labels)

    def source(self, entry: Entry) -> str:
        """The run whose part a model is evaluated on where no text is given."""
        is_alike = reads_as(entry.model) == self._models.reads_as
        return self._arguments.model[0][1] if is_alike else entry.path

    def _read(self, given: str | None, path: str, labels: bool) -> Text:
        arguments = self._arguments
        if arguments.task in ZERO_SHOT:
            if arguments.documents:
                raise UserError(
                    f"--documents with --task={arguments.task}, which reads records", "leave it out"
                )
            return texts.choose_records(given, ZERO_SHOT[arguments.task])
        documents = arguments.documents or self._models.documents
        return texts.choose(path, given, documents, labels, arguments.split)
