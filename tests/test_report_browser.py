"""report.html in a real browser: Chromium without a window."""

import json
import math
import re

import chromium
import numpy as np
import pytest
from scored_texts import HOSTILE, evaluation, words

from lm_jax.evaluation.row import Difference
from lm_jax.evaluation.surprisals import of_words
from lm_jax.report import html, runs
from lm_jax.text.words import word_spans

pytestmark = pytest.mark.skipif(
    not chromium.PATH,
    reason="no Chromium (Debian: apt-get install chromium; others: https://www.chromium.org)",
)

TEXTS = [words(4_000, 1), HOSTILE, words(60_000, 2)]
MODELS = [
    evaluation(name, TEXTS, i, value) for i, (name, value) in enumerate([("b", 10.5), ("c", 9.5), ("a", 1)])
]
MODELS[1].row.difference = Difference("b", "bits_per_byte", -0.5, 0.01)
MODELS[2].row.difference = Difference("b", "bits_per_byte", 0.25, 0.02)
ITEMS = "[...document.querySelectorAll('#legend li')].map(item => [item.textContent, item.className])"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    curve = [{"step": step, "loss": 3 / step, "valid_loss": 4 / step} for step in range(1, 9)]
    read = {"a": runs.Run(curve, {"x": 1, "y": 2}), "b": runs.Run(curve, {"x": 1, "y": 3})}
    path.write_text(html.render(MODELS, read, f"eval '{HOSTILE}'"), encoding="utf-8")
    return path


@pytest.fixture
def page(browser, path):
    """The page, anew; nothing that a test does to it may be a problem to the browser."""
    browser.open(path)
    browser.wait("document.querySelectorAll('.w').length > 50")
    yield browser
    assert browser.problems == []
    assert browser.requests == [path.as_uri()]


def bits(model):
    """The surprisals, computed without the page, of words and of what follows the last one of each text."""
    made = [of_words(text, word_spans(text.text)).nats for text in MODELS[model].scored]
    return np.concatenate(made) / math.log(2)


def choose(page, name, value):
    page.run(
        f"(select => {{ select.value = {value}; select.dispatchEvent(new Event('change')); }})"
        f"(document.getElementById('select-{name}'))"
    )


def ranges(page):
    """The least and the greatest value of each class of colours, as the legend writes them."""
    items = [(text.replace("−", "-").replace(" ", ""), kind) for text, kind in page.run(ITEMS)]
    found = {}
    for text, kind in items:
        numbers = [float(x) for x in re.findall(r"[+-]?[\d.]+", text.replace("–", " "))]
        if text[0] in "<±":
            found[kind] = (-numbers[0] if text[0] == "±" else 0, numbers[0])
        elif text[0] == "≥":
            found[kind] = (numbers[0], math.inf)
        elif text[0] == "≤":
            found[kind] = (-math.inf, numbers[0])
        else:
            found[kind] = tuple(numbers)
    return found


def coloured(page):
    """Each word on the page that is coloured so far: its unit, its text and its class of colour."""
    script = (
        "[...document.querySelectorAll('.w')].map(w => [Number(w.dataset.unit), w.textContent, w.className])"
    )
    for unit, text, classes in page.run(script):
        kinds = [kind for kind in classes.split() if kind.startswith(("hot", "cold"))]
        assert len(kinds) <= 1
        yield unit, text, "".join(kinds)


def names(page):
    return page.run("[...document.querySelectorAll('table.rows tbody th')].map(cell => cell.textContent)")


def test_rows_sort_by_click_and_by_keyboard(page):
    head = "table.rows thead th:nth-child(2)"
    assert names(page) == ["b", "c", "a"]
    page.point(f"{head} button", click=True)
    assert names(page) == ["a", "c", "b"], "by number: 9.5 before 10.5"
    assert page.run(f"document.querySelector('{head}').ariaSort") == "ascending"
    page.press("Enter")
    assert names(page) == ["b", "c", "a"]
    assert page.run(f"document.querySelector('{head}').ariaSort") == "descending"
    page.run("document.querySelector('table.rows thead button').focus()")
    page.press("Enter")
    assert names(page) == ["a", "b", "c"], "by name"
    assert page.run("document.querySelectorAll('[aria-sort]').length") == 1
    for expected in (["c", "a", "b"], ["a", "c", "b"]):
        page.point("table.rows thead th:nth-child(4) button", click=True)
        assert names(page) == expected, "−0.5 before +0.25, and what has no difference last"


def test_words_have_the_colour_of_their_bits_in_the_legend(page):
    spelled = [w for text in TEXTS for w in [*re.findall("[^ \t\n\r\0]+", text), ""]]
    for model in (0, 2):
        choose(page, "model", model)
        expected, of = bits(model), ranges(page)
        shown = list(coloured(page))
        assert len({kind for _, _, kind in shown}) >= 8, "colours differ"
        for unit, text, kind in shown:
            assert text == spelled[unit]
            low, high = of[kind]
            assert low - 0.01 <= expected[unit] <= high + 0.01
    assert page.run("document.getElementById('meaning').textContent") == "Surprisal under a, bits per word."
    rate = -MODELS[2].scored[0].log_probs.sum() / math.log(2) / len(TEXTS[0])
    assert page.run("document.querySelector('#words h3 span').textContent") == f"{rate:.3f} bits/byte"


def test_the_difference_of_two_models_has_colours_of_its_own(page):
    choose(page, "model", 1)
    before = list(coloured(page))
    choose(page, "minus", 1)
    difference, of = bits(1) - bits(0), ranges(page)
    shown = list(coloured(page))
    assert len(of) == 11
    assert [kind for *_, kind in before] != [kind for *_, kind in shown]
    assert {"cold-9", "hot-9"} <= {kind for *_, kind in shown}
    for unit, _, kind in shown:
        if kind == "" or unit not in range(10**9):
            assert abs(difference[unit]) <= of[""][1] + 0.02
        elif "9" in kind:
            low, high = of[kind]
            assert low - 0.02 <= difference[unit] <= high + 0.02
        else:
            assert (difference[unit] < 0) == kind.startswith("cold")
            assert abs(difference[unit]) >= abs(of[kind][0]) - 0.02
    rates = [-MODELS[i].scored[0].log_probs.sum() / math.log(2) / len(TEXTS[0]) for i in (1, 0)]
    shown = page.run("document.querySelector('#words h3 span').textContent").replace("−", "-")
    assert shown == f"{rates[0] - rates[1]:+.3f} bits/byte"


def test_bits_per_byte_of_a_word_count_the_white_space_before_it(page):
    choose(page, "per", 1)
    expected, of = bits(2), ranges(page)
    ends = np.concatenate([np.append(word_spans(t.text)[:, 1], len(t.text)) for t in MODELS[2].scored])
    num_bytes = np.diff(ends, prepend=0)
    for unit, _, kind in coloured(page):
        if num_bytes[unit] > 0:  # not at the beginning of another text, or an end without white space
            low, high = of[kind]
            assert low - 0.01 <= expected[unit] / num_bytes[unit] <= high + 0.01


def details(page):
    rows = "[...document.querySelectorAll('#details tbody tr')]"
    return page.run(f"{rows}.map(row => [...row.cells].map(cell => cell.textContent))")


def test_details_show_on_hover_and_by_keyboard(page):
    word = "document.querySelector('#details .word')?.textContent"
    page.point('.w[data-unit="5"]')
    assert page.run(word) == TEXTS[0].split()[5]
    for model, (name, shown, rate, tokens) in enumerate(details(page)):
        assert name == MODELS[model].row.model
        assert float(shown) == pytest.approx(bits(model)[5], abs=0.01)
        assert float(rate) == pytest.approx(bits(model)[5] / len(" " + TEXTS[0].split()[5]), abs=0.01)
        assert tokens == "1"
    start, end = word_spans(TEXTS[0].encode())[5]
    assert f"document 0, bytes {start}–{end}" in page.run("document.getElementById('details').textContent")
    page.run("document.getElementById('words').focus()")
    for key, expected in (("ArrowRight", 6), ("ArrowLeft", 5), ("Home", 0)):
        page.press(key)
        assert page.run("document.querySelector('.current').dataset.unit") == str(expected)
    page.press("ArrowDown")
    below = int(page.run("document.querySelector('.current').dataset.unit"))
    top_of = "document.querySelector('.w[data-unit=\"{}\"]').getBoundingClientRect().top"
    # In one call: the page may still be scrolling to the word.
    assert 0 < page.run(f"{top_of.format(below)} - {top_of.format(0)}") <= 40, "on the next line"
    page.press("ArrowUp")
    assert page.run("document.querySelector('.current').dataset.unit") == "0"
    page.press("End")
    assert page.run(word) == "the end"
    assert page.run("document.querySelectorAll('.current').length") == 1
    ends = "(one => [one.top, one.bottom])(document.querySelector('{}').getBoundingClientRect())"
    (word_top, word_bottom), (top, bottom) = (page.run(ends.format(one)) for one in (".current", "#words"))
    assert top <= word_top <= word_bottom <= bottom + 1, "the last word is in view"
    page.point("#previous", click=True)
    assert page.run(word) == TEXTS[2].split()[-1]
    assert page.run("document.getElementById('details').getAttribute('aria-live')") == "polite"


def test_hostile_texts_are_shown_as_they_are(page):
    shown = page.run("[...document.querySelectorAll('.document')].map(one => one.textContent)")
    assert shown == TEXTS
    choose(page, "document", 1)
    page.wait("[...document.querySelectorAll('.w')].some(word => word.textContent === '\U0001d538')")
    assert page.run("[...document.querySelectorAll('.document')].map(one => one.textContent)") == TEXTS
    assert page.run("document.images.length") == 0
    assert page.run("typeof hacked") == "undefined"
    unit = len(word_spans(TEXTS[0].encode())) + 1
    for place, (start, end) in enumerate(word_spans(HOSTILE.encode()).tolist()):
        choose(page, "document", 1)
        page.run(f"document.querySelector('.w[data-unit=\"{unit + place}\"]').click()")
        assert f"bytes {start}–{end}" in page.run("document.getElementById('details').textContent")


def test_words_become_elements_when_they_come_into_view(page):
    number = "document.querySelectorAll('.w').length"
    total = sum(len(word_spans(text.encode())) + 1 for text in TEXTS)
    assert page.run(number) < total / 4
    page.run("document.getElementById('words').scrollTop = 1e9")
    page.wait(f"document.querySelector('.w[data-unit=\"{total - 1}\"]') !== null")
    assert page.run(number) < total / 2


def test_both_themes_have_enough_contrast(browser, path):
    """At least 4.5 : 1 of letters on every colour (WCAG 2.1, 1.4.3)."""
    script = """(() => {
      const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
      const light = colour => {
        context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map(x => x / 255)
          .map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
      };
      const probe = document.createElement('i');
      document.body.append(probe);
      const of = name => {
        probe.style.color = `var(--${name})`;
        return light(getComputedStyle(probe).color);
      };
      const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
      const fills = ['paper', 'card', 'differs', ...[1,2,3,4,5,6,7,8,9].map(n => `hot-${n}`),
        ...[1,3,5,7,9].map(n => `cold-${n}`)];
      const pairs = [...fills.map(fill => ['ink', fill]),
        ['muted', 'paper'], ['muted', 'card'], ['accent', 'paper'],
        ...[0,1,2,3,4,5,6,7].map(n => [`series-${n}`, 'paper'])];
      return pairs.map(([a, b]) => [a, b, ratio(of(a), of(b))]);
    })()"""
    found = {}
    for dark in (False, True):
        browser.open(path, dark=dark)
        found[dark] = browser.run("getComputedStyle(document.body).backgroundColor")
        for ink, fill, ratio in browser.run(script):
            least = 3.0 if ink.startswith("series") else 4.5  # graphics: 1.4.11
            assert ratio >= least, (ink, fill, dark)
    assert found[False] != found[True]
    for theme, dark in (("light", False), ("dark", True), ("auto", True)):
        browser.point("#theme", click=True)
        assert browser.run("document.documentElement.dataset.theme") == theme
        assert browser.run("getComputedStyle(document.body).backgroundColor") == found[dark]
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.run("getComputedStyle(document.body).color") != ""
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.querySelector('.bar')).display") == "none"
    assert browser.pdf().startswith(b"%PDF")
    assert browser.problems == []


@pytest.mark.parametrize("width", [400, 1200])
def test_no_page_is_wider_than_the_screen(browser, path, width):
    browser.open(path, width=width, height=800)
    assert browser.run("document.documentElement.scrollWidth") == width
    wide = (
        "[...document.querySelectorAll('main *')].filter(one => !one.closest('.scroll'))"
        ".filter(one => one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML)"
    )
    assert browser.run(wide) == []
    assert browser.screenshot().startswith(b"\x89PNG")


def test_without_a_script_tables_and_figures_are_there(browser, path):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.call("Page.navigate", url=path.as_uri())
        browser.wait("document.readyState === 'complete'")
        visible = "[...document.querySelectorAll('{}')].filter(one => one.getClientRects().length).length"
        for selector, least in (("table.rows tbody tr", 3), ("figure svg", 2), ("noscript p", 1)):
            assert browser.run(visible.format(selector)) >= least
        for selector in ("#reader", "button"):
            assert browser.run(visible.format(selector)) == 0
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_commands_are_copied_as_they_are(page, path):
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.point(".command button", click=True)
    page.wait("document.querySelector('.command button').textContent !== 'Copy'")
    assert page.run("document.querySelector('.command button').textContent") in ("Copied", "Selected")
    shown = json.loads(page.run("JSON.stringify(document.querySelector('.command pre').textContent)"))
    assert "</script><img src=x onerror=hacked=1>" in shown


@pytest.mark.slow
def test_a_text_of_200_kb_with_five_models_opens_in_two_seconds(browser, tmp_path):
    path = tmp_path / "large.html"
    models = [evaluation(f"runs/{i}", [words(200_000)], i) for i in range(5)]
    path.write_text(html.render(models, {}, "c"), encoding="utf-8")
    assert path.stat().st_size < 3_000_000
    least = min(browser.open(path) for _ in range(3))  # the machine may be busy
    browser.wait("document.querySelectorAll('.w').length > 50")
    assert least < 2.0
