"""report.html as a file: its parts, what it escapes, how large it is, and what it stores of surprisals."""

import base64
import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from scored_texts import HOSTILE, evaluation, row, scored, words

from lm_jax import config, fields
from lm_jax.evaluation.base import Evaluation, Texts
from lm_jax.evaluation.breakdown import Breakdown
from lm_jax.evaluation.row import Difference, Metric
from lm_jax.report import html, runs, surprisal_view

VOID = {"meta", "input", "br"}
OWN_ATTRIBUTES = re.compile(r"on[a-z]+|src|srcset|action|formaction|ping|background|poster")


class Page(HTMLParser):
    """The elements, attributes and scripts of a page; raises AssertionError where elements are not nested."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.scripts = [], [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "script":
            self.scripts[self.open[-1][1].get("id")] = data

    @property
    def data(self):
        return json.loads(self.scripts["surprisals"])


def breakdown(*models, parts=("1", "2–3", "rare")):
    size = len(parts)
    values = {name: np.linspace(1, 2, size) + i for i, name in enumerate(models)}
    ends = {name: np.stack([x - 0.1, x + 0.1], axis=1) for name, x in values.items()}
    values[models[0]][1], ends[models[0]][1] = math.nan, math.nan
    return Breakdown("word <length>", "About $it$.", "bits per word", parts, np.arange(size), values, ends)


def decoded(stored, data):
    """The surprisals of a model in bits, and its counts of tokens, from their code."""
    codes = np.frombuffer(base64.b64decode(stored["surprisals"]), "<u2").astype(float)
    bits = np.where(codes == 65535, np.inf, data["bits"] * np.expm1(codes / data["steps"]))
    return bits, np.frombuffer(base64.b64decode(stored["tokens"]), np.uint8)


def test_nothing_is_fetched_and_every_part_is_there():
    texts = ["The first text.\n", "A second one"]
    models = [evaluation("runs/a", texts, 1), evaluation("runs/b", texts, 2, value=1.25)]
    curve = [{"step": 1, "loss": 3.0}, {"step": 2, "valid_loss": 2.5, "valid_bits_per_byte": 1.5}]
    read = {
        "runs/a": runs.Run(curve, {"data.corpus": "x", "model.order": 2, "seed": 0}),
        "runs/b": runs.Run((), {"data.corpus": "x", "model.order": 5, "model.d_model": 8}),
    }
    text = html.render(models, read, "python eval.py --model=runs/a", [breakdown("runs/a", "runs/b")])
    page = Page(text)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {"results", "text", "parts", "training", "configurations", "notes", "reproduce"} <= set(ids)
    links = [value for name, value in page.attributes if name in ("href", "xlink:href")]
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert not [name for name, _ in page.attributes if OWN_ATTRIBUTES.fullmatch(name)]
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {f"#{one}" for one in ids}
    assert page.tags.count("svg") == 4  # values, two figures of training, a breakdown
    assert all(("role", "img") in page.attributes for _ in range(4))
    for name, kind in (("data.corpus", "same"), ("model.order", "differs"), ("model.d_model", "some")):
        assert f'<tr class="{kind}"><th scope="row"><bdi>{name}</bdi></th>' in text
    assert re.search(r'class="best" data-order="1.25">1.2500<', text)
    assert text.count('class="best"') == 1
    assert ">2–3<" in text and ">1.900–2.100<" in text, "the breakdown's table"  # noqa: PT018


def test_the_policy_lets_only_the_pages_own_script_run():
    import hashlib

    text = html.render([evaluation("a", ["x"])], {}, "c")
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    script = Page(text).scripts[None]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")


def test_hostile_texts_and_names_stay_text():
    hostile = evaluation(HOSTILE, [HOSTILE, "x"])
    hostile = hostile._replace(
        row=dataclasses.replace(hostile.row, notes=[HOSTILE], split=HOSTILE, context={HOSTILE: HOSTILE}),
        documents=[HOSTILE, "x"],
        texts=Texts([HOSTILE], [HOSTILE], [HOSTILE]),
    )
    read = {HOSTILE: runs.Run([{"step": 1, "loss": 1.0}], {HOSTILE: HOSTILE, "a": [HOSTILE]})}
    text = html.render([hostile], read, HOSTILE, [breakdown(HOSTILE, parts=(HOSTILE, "b"))])
    page = Page(text)
    assert "img" not in page.tags
    assert page.tags.count("script") == 2
    assert not [name for name, _ in page.attributes if OWN_ATTRIBUTES.fullmatch(name)]
    assert page.data["documents"][0]["text"] == HOSTILE
    assert page.data["documents"][0]["name"] == page.data["models"][0]["name"] == HOSTILE
    assert not re.search(r"[<>&\u2028\u2029\0\r]", page.scripts["surprisals"])
    assert not re.search(r"[\0-\x08\x0b\x0c\x0e-\x1f]", text)
    text.encode()


@pytest.mark.parametrize(
    "texts",
    [
        [words(200_000)],
        [words(9_000, seed) for seed in range(30)],
        ["< " * 128_000],
        ["<" * 300_000, "b"],
        ["a " + "\x01" * 200_000],
        ["词" * 90_000],
        [f"{i % 10}" for i in range(5_000)],
        ["x" * 300_000],
        ["", " ", "\n\n"],
    ],
    ids=["one", "many", "escaped", "long word", "controls", "no spaces", "letters", "too long", "blank"],
)  # fmt: skip
def test_a_page_of_five_models_is_small_and_says_what_is_left_out(texts):
    made = [evaluation(f"runs/{i}", texts, i) for i in range(5)]
    made = [one._replace(documents=["a document of a long name " * 2] * len(texts)) for one in made]
    text = html.render(made, {}, "c")
    assert len(text.encode()) < 3_000_000
    data = Page(text).data
    shown = sum(len(one["text"].encode()) for one in data["documents"])
    total = sum(len(one.encode()) for one in texts)
    is_whole = shown == total and len(data["documents"]) == len(texts)
    assert (f"The first {shown:,} of {total:,} bytes" in text) == (not is_whole)
    if total <= 200_100 and len(texts) < 2000 and texts[0].count(" ") < 50_000:
        assert is_whole, "a text of 200 kB is shown whole"
    for one, original in zip(data["documents"], texts, strict=False):
        assert original.startswith(one["text"])
        assert one["whole"] == (original == one["text"])
    units = sum(len(re.findall(r"[^ \t\n\r\0]+", d["text"])) + d["whole"] for d in data["documents"])
    for stored in data["models"]:
        assert [len(x) for x in decoded(stored, data)] == [units, units]


def test_the_code_of_surprisals_keeps_its_precision():
    bits = np.concatenate([[0.0], np.geomspace(1e-6, 2e5, 20_000)])
    data = {"bits": 20.0, "steps": 4000.0}
    view = surprisal_view.view([evaluation("a", ["x"])])
    assert {name: view.data[name] for name in data} == data
    codes = surprisal_view.encode(bits)
    stored = {"surprisals": base64.b64encode(codes.astype("<u2").tobytes()), "tokens": b""}
    found, _ = decoded(stored, data)
    assert (np.abs(found - bits) <= 0.0025 + 0.00012501 * bits).all()
    assert found[0] == 0
    assert "0.0025 bits plus 0.0125 %" in surprisal_view.PRECISION
    assert surprisal_view.encode(np.array([np.inf, -1e-12])).tolist() == [65535, 0]


def test_the_surprisals_of_words_add_up_to_those_of_the_text():
    texts = [words(3000), HOSTILE, "", " x "]
    one = evaluation("a", texts)
    data = surprisal_view.view([one]).data
    bits, tokens = decoded(data["models"][0], data)
    total = -sum(text.log_probs.sum() for text in one.scored) / math.log(2)
    assert bits.sum() == pytest.approx(total, abs=0.0025 * len(bits) + 0.000125 * total)
    assert tokens.sum() == sum(len(text.spans) for text in one.scored)
    rates = [
        -text.log_probs.sum() / math.log(2) / len(text.text) if text.text else None for text in one.scored
    ]
    assert [r for d in data["documents"] for r in d["rates"]] == pytest.approx(rates, abs=1e-4)


def test_models_with_unknown_words_or_without_complete_scores_are_marked():
    text = "one two three"
    made = scored(text)
    unknown = np.array([False, True, False, False])
    odd = made._replace(unknown=unknown, complete=False, log_probs=np.array([-1.0, -2.0, -np.inf, 0.0]))
    joined = made._replace(
        spans=np.array([[0, 7], [7, 13], [13, 13]]), log_probs=np.array([-1.0, -2.0, -3.0])
    )
    joined = joined._replace(unknown=np.zeros(3, bool), log_spelling=np.array([-1.0, 0.0, 0.0]))
    no_bits = {"bits_per_byte": Metric(None, None, "no bits per byte: <why>")}
    rows = [row("odd", [text], metrics=no_bits, counts={"oov": 1}), row("joined", [text], counts={"oov": 2})]
    evaluations = [
        Evaluation(rows[0], {}, scored=[odd]),
        Evaluation(rows[1], {}, scored=[joined]),
        evaluation("other", ["another text"]),
        Evaluation(row("labels", ["x"]), {}),
    ]
    view = surprisal_view.view(evaluations)
    first, second = view.data["models"]
    assert first["mark"] == "no bits per byte: <why>; tokens outside the vocabulary: 1"
    assert second["mark"] == "tokens outside the vocabulary: 2, with their bytes scored"
    bits, counts = decoded(first, view.data)
    assert bits[2] == np.inf
    assert counts.tolist() == [1, 1 | 128, 1, 1]
    bits, counts = decoded(second, view.data)
    assert bits * math.log(2) == pytest.approx([2.0, 0.0, 2.0, 3.0], abs=0.005), "with the spelling"
    assert counts.tolist() == [1, 0, 1, 1], "the second word has no token of its own"
    assert view.data["documents"][0]["rates"][0] is None
    assert view.others == ["other", "labels"]
    assert "Not scored on this text: other, labels." in html.render(evaluations, {}, "c")


def test_a_page_without_scores_has_no_text():
    text = html.render([Evaluation(row("a", ["x"]), {})], {}, "c")
    assert 'id="text"' not in text
    assert 'id="surprisals"' not in text


def test_differences_are_columns_that_sort_by_their_numbers():
    rows = [row(name, ["x"], value) for name, value in (("a", 2.0), ("b", 1.5))]
    least = 1 / 10_001
    rows[1].difference = Difference(
        "a", "bits_per_byte", -0.5, least, holm_p_value=least, least_randomization_p_value=least, pairs=1
    )
    text = html.render([Evaluation(one, {}) for one in rows], {}, "c")
    assert "bits/byte less a" in text
    assert '<td data-order="-0.5">−0.5000</td>' in text
    assert re.search(r'<td data-order="9.9[0-9]*e-05">≤ 1e-4</td>', text)


def test_a_runs_settings_are_read_by_their_dotted_names(tmp_path):
    recipe = config.Config()
    (tmp_path / config.FILE).write_text(config.to_json(recipe))
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": 1.5}\n')
    read = runs.read(tmp_path)
    for name, value in fields.flatten(recipe):
        if value is not None and not name.startswith("model"):
            expected = list(value) if isinstance(value, tuple) else value
            assert read.config.get(name, read.config.get(f"{name}.name")) == expected
    assert read.config["model.name"] == "gpt"
    assert read.config["model.num_layers"] == recipe.model.num_layers
    assert read.curve == [{"step": 3, "loss": 1.5}]
    assert runs.read(tmp_path / "nothing") == runs.Run([], {})
