"""Where the models of a table differ: all that is said of it, and its file breakdowns.json."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lm_jax import files
from lm_jax.data.corpora import Progress
from lm_jax.errors import UserError
from lm_jax.evaluation.base import Evaluation
from lm_jax.evaluation.breakdown import Breakdown, Frequencies, breakdowns
from lm_jax.evaluation.calibration import Calibration, reliability
from lm_jax.evaluation.differing import DifferingWords, differing_words
from lm_jax.evaluation.texts import Text
from lm_jax.evaluation.training_text import TrainingText, is_run
from lm_jax.progress import say

FILE = "breakdowns.json"


class Differences(NamedTuple):
    """Where models differ.

    Attributes:
        breakdowns: metrics of parts of the text.
        differing: the words on which the first model differs most from each other one.
    """

    breakdowns: list[Breakdown]
    differing: list[DifferingWords]

    def write(self, path: pathlib.Path) -> None:
        """Writes a JSON object.

        Raises:
            OSError: no permission, or a full disk.
        """
        made = {
            "breakdowns": [one.as_json() for one in self.breakdowns],
            "differing_words": [one.as_json() for one in self.differing],
        }
        files.write_json(path, made)


def find(
    evaluations: Sequence[Evaluation],
    texts: Sequence[Text],
    paths: Mapping[str, str],
    calibrations: Sequence[Calibration],
    report: Progress,
) -> Differences:
    """Where those models differ that score texts, on the text of the first of them.

    Args:
        evaluations: of models.
        texts: the text of each.
        paths: of the models, by name. Words are rare or frequent in the training text of the first that is a
            run; if it cannot be read, a line says so, and they are rare or frequent in the scored text.
        calibrations: of those models whose predictions were asked about.
        report: called while a training text is read.
    """
    scoring = [(one, text) for one, text in zip(evaluations, texts, strict=True) if one.scored is not None]
    same = [one for one, _ in scoring if one.row.text_sha256 == scoring[0][0].row.text_sha256]
    if not same:
        return Differences([], [])
    found = breakdowns(same, _frequencies([one.row.model for one in same], paths, report))
    names = {one.row.model for one in same}
    if measured := [one for one in calibrations if one.model in names]:
        found.append(reliability(measured))
    return Differences(found, [differing_words(same[0], other, scoring[0][1]) for other in same[1:]])


def _frequencies(names: Sequence[str], paths: Mapping[str, str], report: Progress) -> Frequencies | None:
    """How often words occur in the first training text that is on record."""
    name = next((name for name in names if name in paths and is_run(paths[name])), None)
    if name is None:
        return None
    try:
        return Frequencies(TrainingText(paths[name]).word_counts(report), f"the training text of {name}")
    except UserError as error:
        say(f"words are counted in the scored text, and not in the training text: {error.cause}")
        return None
