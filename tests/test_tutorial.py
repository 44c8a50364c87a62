"""The tutorial's programs run and print what its pages show, in both languages."""

import ast
import contextlib
import io
import pathlib
import re

import pytest

PAGES = pathlib.Path(__file__).parents[1] / "docs" / "tutorial"
ENGLISH = sorted((PAGES / "en").glob("*.md"))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def programs(page):
    """(code, output that the page shows or "") of each Python block."""
    blocks = _FENCE.findall(page.read_text(encoding="utf-8"))
    following = [*blocks[1:], ("", "")]
    return [
        (text, shown if kind == "text" else "")
        for (language, text), (kind, shown) in zip(blocks, following)
        if language == "python"
    ]


def check_same(shown, printed):
    """Equal text; numbers may differ by one unit of the last digit that is shown."""
    assert _NUMBER.sub("#", shown) == _NUMBER.sub("#", printed)
    for wanted, found in zip(_NUMBER.findall(shown), _NUMBER.findall(printed)):
        digits = len(wanted.partition(".")[2])
        assert float(found) == pytest.approx(float(wanted), abs=1.01 * 10**-digits if digits else 0)


@pytest.mark.parametrize("page", [p for p in ENGLISH if programs(p)], ids=lambda page: page.stem)
def test_the_programs_of_a_page_print_what_it_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "tutorial"}
    for code, shown in programs(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), names)
        lines = [line.rstrip() for line in printed.getvalue().splitlines()]
        check_same(shown.strip(), "\n".join(lines).strip())


def test_both_languages_have_the_same_pages_and_programs():
    assert [page.name for page in ENGLISH] == [page.name for page in sorted((PAGES / "zh").glob("*.md"))]
    for page in ENGLISH:
        other = PAGES / "zh" / page.name
        ours, theirs = programs(page), programs(other)
        assert [shown for _, shown in ours] == [shown for _, shown in theirs], page.name
        for (code, _), (translated, _) in zip(ours, theirs, strict=True):
            assert ast.dump(ast.parse(code)) == ast.dump(ast.parse(translated)), page.name
