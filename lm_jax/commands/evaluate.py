"""The command that evaluates models: `python eval.py` and `lm-jax eval`. Its flags: `evaluate_flags`."""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from lm_jax import errors, files, flags, generation_flags
from lm_jax.audit import audit
from lm_jax.commands import evaluate_flags
from lm_jax.commands.evaluated import Entry, Models, Texts, evaluator
from lm_jax.data.corpora import Progress
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation import contamination, differences, texts
from lm_jax.evaluation.base import Evaluation
from lm_jax.evaluation.calibration import Calibration, calibrate
from lm_jax.evaluation.compare import check_same_documents, compare
from lm_jax.evaluation.contamination import Contamination
from lm_jax.evaluation.differences import Differences
from lm_jax.evaluation.generated import Decoding
from lm_jax.evaluation.row import write_rows
from lm_jax.evaluation.score_cache import ScoreCache
from lm_jax.evaluation.sizes import add_sizes
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import Expects
from lm_jax.language_models.mixtures import parts
from lm_jax.progress import Reporter, say
from lm_jax.report import breakdowns, exports, html, runs, table


class Results(NamedTuple):
    """What was found on one text.

    Attributes:
        evaluations: of each model.
        texts: the text of each.
        found: where the models differ.
        shared: what documents share with training texts.
    """

    evaluations: Sequence[Evaluation]
    texts: Sequence[Text]
    found: Differences
    shared: Sequence[Contamination]


class _Work:
    """The evaluations of all models on all texts.

    Args:
        arguments: the values of the flags.
        mesh: see `Models`.
    """

    def __init__(self, arguments: Any, mesh: Any):
        self._arguments, self._out = arguments, pathlib.Path(arguments.out)
        self._models = Models(arguments, mesh)
        self._texts = Texts(arguments, self._models)
        self._cache = ScoreCache() if arguments.cache else None
        self._paths: dict[str, str] = {}  # of rows that come from a run or a file, by their names
        self._decoding = Decoding(
            generation_flags.given(arguments, mesh),
            arguments.max_tokens,
            self._out / "generated",
            arguments.prompt_words,
        )
        self.written: list[pathlib.Path] = []
        self.failed = self._models.failed

    def run(self, report: Progress) -> list[Results]:
        """Evaluates, and compares the models on each text."""
        given, named = self._texts.given, dict(self._arguments.model)
        asked = self._arguments.contamination
        training = contamination.sources(asked, named, report) if asked else {}
        sources: dict[str, contamination.Source] = {}  # by the names of rows
        made: list[list[tuple[Evaluation, Text, Calibration | None]]] = [[] for _ in given]
        for entry in self._models.entries(report):
            if entry.mix is None:
                self._paths[entry.name] = entry.path
            if entry.given in training:
                sources[entry.name] = training[entry.given]
            elif training and asked != contamination.TRAIN:
                sources[entry.name] = next(iter(training.values()))  # the corpus, of all models
            for of_text, text in zip(made, given, strict=True):
                of_text.append(self._evaluate(entry, text, report))
            if entry.mixed is not None and entry.mix is not None:
                self.written.append(self._out / entry.mix.file)
                parts.write(self.written[-1], entry.mix.parts, entry.mixed.model)
            del entry  # before the next checkpoint of its run is opened
        if self._cache is not None:
            self._cache.make_room()
        return [self._compare(of_text, sources, report) for of_text in made]

    def _evaluate(
        self, entry: Entry, given: str | None, report: Progress
    ) -> tuple[Evaluation, Text, Calibration | None]:
        """A model on one text."""
        arguments, text, calibration = self._arguments, self._texts.of(entry, given), None
        chosen = evaluator(arguments, entry.model)
        made = evaluation.evaluate(
            entry.model, text, entry.name, arguments.stride, report, chosen, self._decoding, self._cache
        )
        if entry.mixed is None:
            add_sizes(made.row, entry.model, entry.path)
        else:
            entry.mixed.note(made.row)
        if arguments.audit and not chosen:
            audit.add(made, entry.model, text, arguments.stride)
        if given is None and entry.mixed is None:
            made.row.notes.extend(texts.note_borrowed(entry.path, self._texts.source(entry), text))
        if arguments.calibration and isinstance(entry.model, Expects) and made.scored is not None:
            made, calibration = calibrate(entry.model, made, text, arguments.stride, report)
        return made, text, calibration

    def _compare(
        self,
        made: Sequence[tuple[Evaluation, Text, Calibration | None]],
        sources: Any,
        report: Progress,
    ) -> Results:
        """What the models' results on one text say together."""
        evaluations, read, calibrations = zip(*made, strict=True)
        check_same_documents([one.row for one in evaluations])
        measured = [one for one in calibrations if one is not None]
        found = differences.find(evaluations, read, self._paths, measured, report)
        words = self._arguments.contamination_words
        with_parts, shared = contamination.apply(evaluations, read, sources, words, report)
        compare(with_parts)
        return Results(with_parts, read, found, shared)


def main(argv: list[str]) -> None:
    """Parses the flags, evaluates, and writes the results.

    Raises:
        SystemExit: with code 1, after all is written, where a document has no score or an audit failed.
    """
    rest, mesh = flags.split_mesh(argv)
    arguments = evaluate_flags.parse(rest)
    out = pathlib.Path(arguments.out)
    files.make_directory(out)  # before the work
    work = _Work(arguments, mesh)
    with Reporter() as report:
        results = work.run(report)
    command = shlex.join(["python", "eval.py", *argv])
    written = [*_write(out, results, arguments.model, command), *work.written]

    evaluations = [one for result in results for one in result.evaluations]
    table.print_rows([one.row for one in evaluations])
    if arguments.breakdown:
        for result in results:
            breakdowns.print_breakdowns(*result.found)
    print(f"written: {', '.join(map(str, written))}")
    if failed := [one.row.model for one in evaluations if one.failures]:
        say(f"error: no score for some documents by {', '.join(failed)}; the lines below the table say why")
    if (
        failed
        or work.failed
        or any(one.row.audit is not None and one.row.audit.failed for one in evaluations)
    ):
        raise SystemExit(1)


def _write(
    out: pathlib.Path, results: Sequence[Results], named: Sequence[tuple[str, str]], command: str
) -> list[pathlib.Path]:
    """Writes all files; of several texts, those about one text have its number in their names."""
    evaluations = [one for result in results for one in result.evaluations]
    write_rows(out / "results.json", [one.row for one in evaluations])
    read = {name: runs.read(pathlib.Path(path)) for name, path in named}
    parts_of_texts = [
        one._replace(title=f"{one.title}; {result.texts[0].name}") if len(results) > 1 else one
        for result in results
        for one in result.found.breakdowns
    ]
    words = [one for result in results for one in result.found.differing]
    page = html.render(evaluations, read, command, parts_of_texts, words)
    files.write_text(out / "report.html", page)
    chosen = [text for result in results for text in result.texts]
    written = [out / "results.json", out / "report.html", *exports.write(out, evaluations, chosen, command)]
    written += _write_texts(out, evaluations)
    for number, result in enumerate(results):
        written += _write_found(out, result, f"-{number}" if len(results) > 1 else "")
    return written


def _write_texts(out: pathlib.Path, evaluations: Sequence[Evaluation]) -> list[pathlib.Path]:
    """Writes what each model generated beside the references, a JSON object a line."""
    written = []
    for number, one in enumerate(evaluations):
        if one.texts is None:
            continue
        path = out / f"texts-{number}.jsonl"
        lines = (
            files.dump_json({"prompt": prompt, "reference": reference, "hypothesis": hypothesis})
            for prompt, reference, hypothesis in zip(*one.texts, strict=True)
        )
        files.write_text(path, "".join(f"{line}\n" for line in lines))
        written.append(path)
    return written


def _write_found(out: pathlib.Path, result: Results, ending: str) -> list[pathlib.Path]:
    """Writes where models differ, and what documents share with training texts, if that is known."""
    written = []
    if result.found.breakdowns:
        written.append(_numbered(out / differences.FILE, ending))
        result.found.write(written[-1])
    if result.shared:
        written.append(_numbered(out / contamination.FILE, ending))
        files.write_json(written[-1], [one.as_json() for one in result.shared])
    return written


def _numbered(path: pathlib.Path, ending: str) -> pathlib.Path:
    return path.with_name(f"{path.stem}{ending}{path.suffix}")


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
