"""Wrong command lines: each ends with exit code 2 and one line, and nothing is trained."""

import io
import pathlib
from contextlib import redirect_stderr, redirect_stdout

import pytest
import wrong_commands

from lm_jax import config, errors, experiment

ROOT = pathlib.Path(__file__).parents[1]

# Kinds whose command lines name no trained model.
_QUICK = (
    "wrong type of a field",
    "unknown name",
    "absurd size",
    "unknown field",
    "no recipe",
    "no coordinator",
)
_SLOW = "--config.data.corpus=nltk:nowhere"  # imports NLTK


def answers(cases):
    """Those of the cases that are not answered with exit code 2 and one line, and the number of cases."""
    mains = {command: wrong_commands.load_main(command) for command in wrong_commands.COMMANDS}
    wrong, count = [], 0
    for case in cases:
        code, count = 0, count + 1
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as printed:
            try:
                with errors.reported():
                    mains[case.command](list(case.arguments))
            except SystemExit as error:
                code = error.code
            except BaseException as error:
                code = repr(error)
        lines = printed.getvalue().splitlines()
        if code != 2 or len(lines) != 1 or not lines[0].startswith("error: "):
            wrong.append((case.kind, case.arguments[-2:], code, lines[-3:]))
    return wrong, count


def test_wrong_fields_and_recipes_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    files = wrong_commands.make_files(tmp_path, lambda recipe, workdir: None)
    cases = [
        case
        for case in wrong_commands.cases(files)
        if case.command == "noise"
        or (case.command in ("train", "sweep", "plan") and case.kind.partition(": ")[2] in _QUICK)
    ]
    wrong, count = answers(cases)
    assert not wrong
    assert count > 380
    assert not files.run.exists()
    assert not (tmp_path / "new" / config.FILE).exists(), "the work directory stays free"


@pytest.mark.slow
def test_every_wrong_command_line_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    files = wrong_commands.make_files(
        tmp_path, lambda recipe, workdir: experiment.run(config.load(str(recipe))[1], workdir)
    )
    wrong, count = answers(case for case in wrong_commands.cases(files) if _SLOW not in case.arguments)
    assert not wrong
    assert count > 1000
