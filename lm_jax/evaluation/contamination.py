"""What each document shares with a training text, and results without documents that share much."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data import corpora
from lm_jax.data.corpora import Progress
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation.base import Evaluation, measure
from lm_jax.evaluation.shared_runs import SharedRun, longest_shared_runs
from lm_jax.evaluation.texts import Text
from lm_jax.evaluation.training_text import TRAIN, TrainingText, is_run
from lm_jax.text.base import grouped

FILE = "contamination.json"
WORDS = 13  # as Brown et al. 2020 ("Language Models are Few-Shot Learners", appendix C), who ignored case
_CHARACTERS_PER_GROUP = 1 << 23  # of the text: the training text is read once for each group


class Contamination(NamedTuple):
    """What the documents of a text share with a training text.

    Attributes:
        source: the training text, such as "the training text of runs/gpt".
        words: a document that shares a run of so many words is contaminated.
        documents: their names.
        runs: of each document, the longest run of words that it shares.
    """

    source: str
    words: int
    documents: list[str]
    runs: list[SharedRun]

    @property
    def is_contaminated(self) -> np.ndarray:
        """bool [D]."""
        return np.array([run.words >= self.words for run in self.runs], bool)

    def as_json(self) -> dict[str, Any]:
        """The numbers of documents, and of each what it shares, as a JSON object."""
        shared = [
            {"document": name, **run._asdict()} for name, run in zip(self.documents, self.runs, strict=True)
        ]
        num = int(self.is_contaminated.sum())
        return {"source": self.source, "words": self.words, "contaminated": num, "documents": shared}


class Source(NamedTuple):
    """A training text.

    Attributes:
        name: such as "the training text of runs/gpt".
        read: gives its documents, each time from the first one on.
    """

    name: str
    read: Callable[[], Iterable[Document]]


def sources(spec: str, models: Mapping[str, str], report: Progress | None = None) -> dict[str, Source]:
    """The training text that each model's results are to be compared with; found before the work.

    Args:
        spec: a corpus, for all models; or "train", for each run its own training text.
        models: the paths of models, by name.
        report: called while a training text is read.

    Returns:
        The texts by the models' names. With "train", models that are no runs have none.

    Raises:
        UserError: no such corpus, a training text that is not on this machine, or no run among the models.
    """
    if spec != TRAIN:
        corpus = corpora.read(spec, progress=report)
        return dict.fromkeys(models, Source(spec, corpus.__iter__))
    runs = {name: TrainingText(path) for name, path in models.items() if is_run(path)}
    if not runs:
        raise UserError("no model has a training text on record", "name it: --contamination=text:GLOB")
    found = {}
    for name, text in runs.items():
        text.documents(report)  # so that one that is missing is noticed now
        sharing = ", ".join(other for other, one in runs.items() if one.sha256 == text.sha256)
        found[name] = Source(f"the training text of {sharing}", functools.partial(text.documents, report))
    return found


def apply(
    evaluations: Sequence[Evaluation],
    texts: Sequence[Text],
    sources: Mapping[str, Source],
    words: int = WORDS,
    report: Progress | None = None,
) -> tuple[list[Evaluation], list[Contamination]]:
    """Finds what each evaluation's text shares with a training text; see `with_parts`.

    Args:
        evaluations: of models.
        texts: the text of each.
        sources: by the models' names; see `sources`.
        words: as for `find`.
        report: as for `find`.

    Returns:
        The evaluations, and what was found, once for each pair of a text and a training text.
    """
    found: dict[tuple[str, str], Contamination] = {}
    made = []
    for evaluation, text in zip(evaluations, texts, strict=True):
        source = sources.get(evaluation.row.model)
        if source is not None:
            key = (source.name, text.sha256())
            if key not in found:
                found[key] = find(text, source, words, report)
            evaluation = with_parts(evaluation, found[key])
        elif sources:
            evaluation.row.notes.append("contamination is not known: no training text is on record")
        made.append(evaluation)
    return made, list(found.values())


def find(text: Text, source: Source, words: int = WORDS, report: Progress | None = None) -> Contamination:
    """Finds the longest run of words that each document shares with a document of a training text.

    Words are compared as they are, with their case and the punctuation that is attached to them.

    Args:
        text: the text.
        source: the training text, which is read once for every eight million characters of the text.
        words: the length of a run from which on a document counts as contaminated.
        report: called with (description, documents done, documents in all).
    """
    runs: list[SharedRun] = []
    for group in grouped(text.documents, lambda document: len(document.text), _CHARACTERS_PER_GROUP):
        runs += longest_shared_runs([document.text for document in group], source.read())
        if report is not None:
            report(f"comparing {text.name} with {source.name}", len(runs), len(text.documents))
    return Contamination(source.name, words, [document.name for document in text.documents], runs)


def with_parts(evaluation: Evaluation, found: Contamination) -> Evaluation:
    """The evaluation with metrics without the contaminated documents, NAME/clean, and of these alone.

    A note in its row says how many they are. There are no such metrics where all documents or none are, nor
    where the statistics are of other parts of the text than documents.

    Args:
        evaluation: of a model on the documents that `found` is about; metrics are written into its row.
        found: what these share.
    """
    row, is_contaminated = evaluation.row, found.is_contaminated
    num, parts = int(is_contaminated.sum()), {"clean": ~is_contaminated, "contaminated": is_contaminated}
    rows = {len(x) for one in evaluation.statistics.values() for x in one.arrays}
    if num in (0, len(is_contaminated)) or rows != {len(is_contaminated)}:
        parts = {}
    statistics = {
        f"{name}/{part}": one._replace(arrays=tuple(np.asarray(x)[is_part] for x in one.arrays))
        for part, is_part in parts.items()
        for name, one in evaluation.statistics.items()
        if "/" not in name
    }
    whys = {name: row.metrics[name.partition("/")[0]] for name in statistics}
    reasons = {name: metric.why for name, metric in whys.items() if metric.value is None}
    for part in parts:
        of_part = {name: one for name, one in statistics.items() if name.endswith(f"/{part}")}
        row.metrics.update(measure(of_part, reasons))
    note = f"{num} of {len(is_contaminated)} documents share {found.words} words or more with {found.source}"
    clean = row.metrics.get(f"{row.headline}/clean")
    if clean is not None and clean.value is not None:
        note += f"; without them {row.headline.replace('_', ' ')} is {clean.value:.4f}"
    row.notes.append(note)
    return evaluation._replace(statistics={**evaluation.statistics, **statistics})
