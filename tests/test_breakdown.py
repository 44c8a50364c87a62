"""Bits of words by parts of a text, and the words on which models differ: sums, intervals, examples."""

import collections
import itertools
import json
import math
import random

import numpy as np
import pytest
import scipy.stats

from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation import breakdown, word_parts, word_sums
from lm_jax.evaluation.breakdown import Frequencies, breakdowns
from lm_jax.evaluation.differing import differing_words
from lm_jax.evaluation.texts import Text
from lm_jax.evaluation.word_parts import DocumentWords
from lm_jax.language_models.base import ScoredText
from lm_jax.metrics import ratios, significance
from lm_jax.metrics.resampling import SmallSample
from lm_jax.report.breakdowns import print_breakdowns
from lm_jax.text.word_counts import WordCounts
from lm_jax.text.words import word_spans, words_of


class Model:
    """Its tokens are words with the white space before them, and a function gives their bits.

    Attributes:
        bits: from a token's bytes and the byte at which it begins to bits; of the end the bytes are empty.
        unknown: tokens outside the vocabulary, of which spelling costs four bits.
    """

    family, task, evaluator, documents, step = "words", "causal", "causal", "file", None

    def __init__(self, bits, unknown=(), complete=True):
        self.bits, self.unknown, self.complete = bits, unknown, complete

    def score(self, texts, stride=None):
        return [self._score(text.encode()) for text in texts]

    def _score(self, data):
        ends = word_spans(data)[:, 1].tolist()
        edges = [0, *ends, *([len(data)] if ends and ends[-1] < len(data) else [])]
        spans = np.array([*itertools.pairwise(edges), (len(data), len(data))]).reshape(-1, 2)
        tokens = [data[a:b] for a, b in spans.tolist()]
        bits = [self.bits(token, start) for token, start in zip(tokens, spans[:, 0].tolist())]
        unknown = np.array([token.strip().decode() in self.unknown for token in tokens])
        spelling = np.where(unknown, -4 * math.log(2), 0.0) if self.unknown else None
        return ScoredText(
            data, spans, -np.log(2) * np.array(bits, float), unknown, "", self.complete, spelling
        )

    def describe_context(self, stride=None):
        return {}


def text(*documents):
    return Text("test", [Document(f"d{i}", d) for i, d in enumerate(documents)])


def evaluate(model, name, *documents):
    return evaluation.evaluate(model, text(*documents), name)


def random_documents(seed, num):
    draw = random.Random(seed)
    words = ["a", "b,", "the", "café", "x1", "--", "a-b", "longer", "\v", "ʃ" * 30]
    spaces = [" ", "\n", "  ", "\t", "\0"]
    return [
        "".join(draw.choice(words) + draw.choice(spaces) for _ in range(draw.randrange(60)))
        for _ in range(num)
    ]


def random_model(seed, **more):
    draw = random.Random(seed)
    return Model(lambda token, start: draw.expovariate(0.2), **more)


def find(made, title, unit="bits per word"):
    [one] = [one for one in made if one.title == title and one.unit == unit]
    return one


@pytest.mark.parametrize("most_groups", [2000, 3])
def test_the_nats_of_all_parts_and_of_the_ends_are_those_of_the_text(monkeypatch, most_groups):
    monkeypatch.setattr(word_sums, "_MOST_GROUPS", most_groups)
    documents = [*random_documents(0, 8), "", " \n", "no-end"]
    models = [random_model(1), random_model(2, unknown=("x1", "the"))]
    made = [evaluate(model, str(i), *documents) for i, model in enumerate(models)]
    found = breakdowns(made)
    assert len(found) == 9
    data = [document.encode() for document in documents]
    ends = [int(word_spans(one)[-1:, 1].sum()) for one in data]  # of the last words
    totals = {"bits per word": sum(len(words_of(one)) for one in data), "bits per byte": sum(ends)}
    for one in found:
        assert one.counts.sum() == totals[one.unit]
        for e in made:
            name, nats = e.row.model, e.statistics["bits_per_byte"].arrays[0].sum()
            rest = sum(
                -s.byte_log_probs[s.spans[:, 0] >= end].sum() for s, end in zip(e.scored, ends, strict=True)
            )
            in_words = np.nansum(one.values[name] * one.counts) * math.log(2)
            assert in_words + rest == pytest.approx(nats, rel=1e-12)
            assert f"{rest / math.log(2) / len(documents):.2f} of {name}" in one.about


def test_parts_are_those_counted_by_hand():
    training = WordCounts(["the the the the cat 7\n", "a"])
    made = [
        evaluate(Model(lambda token, start: 8 * len(token)), "long", "the cat  sat", "-- 7am the"),
        evaluate(Model(lambda token, start: 1 if start else 5), "first", "the cat  sat", "-- 7am the"),
    ]
    found = breakdowns(made, Frequencies(training, "T"))
    frequency = find(found, "word frequency in T")
    assert frequency.parts == ("0", "1–3", "4–15")
    assert frequency.counts.tolist() == [3, 1, 2]
    assert frequency.values["long"].tolist() == [8 * (5 + 2 + 4) / 3, 8 * 4, 8 * (3 + 4) / 2]
    assert frequency.values["first"].tolist() == [7 / 3, 1, 3]
    assert find(found, "words of T").counts.tolist() == [3, 3]
    position = find(found, "position in the document", "bits per byte")
    assert position.parts == ("0–15",)
    assert position.values["long"].tolist() == [8]
    assert position.values["first"].tolist() == [14 / (12 + 10)]
    assert position.counts.tolist() == [22]
    kinds = find(found, "kind of word")
    assert dict(zip(kinds.parts, kinds.counts.tolist())) == {"letters": 4, "with digits": 1, "punctuation": 1}
    assert find(found, "word length").parts == ("2", "3")
    assert find(found, "repetition in the document").parts == ("first occurrence",)


def test_words_of_a_document_are_described_as_by_plain_code():
    for document in random_documents(3, 20):
        data = document.encode()
        one, words = DocumentWords(data), words_of(data)
        assert one.words.tolist() == words
        np.testing.assert_array_equal(one.spans, word_spans(data))
        assert one.num_bytes.sum() == (one.spans[-1, 1] if words else 0)
        last, back = {}, []
        for i, word in enumerate(words):
            back.append(i - last.get(word, i))
            last[word] = i
        assert one.since_last().tolist() == back
        lengths = [len(word.decode()) for word in words]
        division = word_parts.by_length()
        named = [division.parts[i] for i in division.part_of(one)]
        assert named == [_range_of(length, division.parts) for length in lengths]


def _range_of(number, parts):
    for part in parts:
        low, _, high = part.partition("–")
        if int(low) <= number and (("–" in part and not high) or number <= int(high or low)):
            return part
    raise AssertionError(number)


def test_powers_of_two_and_four_divide_positions_and_frequencies():
    counts = WordCounts(["a " * 15 + "b " * 16 + "c " * 63 + "d " * 64])
    division = word_parts.by_frequency(counts.of, "T")
    one = DocumentWords(b"a b c d e")
    assert [division.parts[i] for i in division.part_of(one)] == ["4–15", "16–63", "16–63", "64–255", "0"]
    division = word_parts.by_position()
    one = DocumentWords(b"a" + b" " * 14 + b"b " + b"c" + b" " * 13 + b"d e" + b" " * 1000 + b"f")
    assert [division.parts[i] for i in division.part_of(one)] == [
        "0–15", "0–15", "16–31", "16–31", "32–63", "1,024–2,047",
    ]  # fmt: skip


def test_intervals_are_those_of_scipys_bootstrap():
    documents = random_documents(4, 30)
    made = [evaluate(random_model(5), "m", *documents)]
    one = find(breakdowns(made), "kind of word")
    part = one.parts.index("letters")
    nats_D, words_D = [], []
    for scored in made[0].scored:
        words = [w for w in zip(words_of(scored.text), -scored.log_probs) if w[0].decode().isalpha()]
        nats_D.append(sum(nats for _, nats in words))
        words_D.append(len(words))
    assert np.sum(words_D) == one.counts[part]
    tail = SmallSample([np.array(nats_D)[:, None], np.array(words_D)[:, None]]).tail(0.95)
    theirs = scipy.stats.bootstrap(
        (nats_D, words_D), lambda x, y, axis=-1: x.sum(axis) / y.sum(axis) / math.log(2), paired=True,
        n_resamples=20_000, method="percentile", confidence_level=1 - 2 * tail,
        rng=np.random.default_rng(0), vectorized=True,
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    np.testing.assert_allclose(one.intervals["m"][part], theirs, atol=0.03 * width)


def test_many_ratios_have_the_intervals_that_each_has_alone():
    rng = np.random.default_rng(0)
    weights_DP = rng.integers(0, 5, (27, 5)).astype(float)
    weights_DP[1:, 0] = 0
    totals_DP = weights_DP * rng.random((27, 5))
    made = ratios.ratio_intervals(totals_DP, weights_DP, num_resamples=500, seed=3)
    for column in range(5):
        alone = significance.bootstrap_interval(
            totals_DP[:, column], weights_DP[:, column], num_resamples=500, seed=3
        )
        np.testing.assert_allclose(made[column], alone[1:], rtol=1e-12)
    assert np.isnan(made[0]).all()


def test_unknown_words_are_divided_by_each_vocabulary():
    documents = ["the cat sat", "the dog"]
    make = [
        ("all", Model(lambda token, start: 2)),
        ("a", Model(lambda token, start: 3, unknown=("cat", "dog"))),
        ("b", Model(lambda token, start: 5, unknown=("cat", "dog"), complete=False)),
        ("c", Model(lambda token, start: 7, unknown=("the",))),
    ]
    found = breakdowns([evaluate(model, name, *documents) for name, model in make])
    by_ab, by_c = [one for one in found if one.title.startswith("vocabulary")]
    assert (by_ab.title, by_c.title) == ("vocabulary of a, b", "vocabulary of c")
    assert by_ab.parts == ("known", "unknown")
    assert by_ab.counts.tolist() == [3, 2]
    assert {name: x.tolist() for name, x in by_ab.values.items()} == {
        "all": pytest.approx([2, 2]), "a": pytest.approx([3, 7]), "b": pytest.approx([5, 9]),
        "c": pytest.approx([(2 * 11 + 7) / 3, 7]),
    }  # fmt: skip
    per_byte = find(found, "word length", "bits per byte")
    assert np.isnan(per_byte.values["b"]).all()
    assert not np.isnan(per_byte.values["a"]).any()
    assert "No bits per byte of b" in per_byte.about
    assert "No bits per byte" not in find(found, "word length").about


def test_a_single_document_and_impossible_words_have_no_intervals():
    one = find(breakdowns([evaluate(Model(lambda token, start: 1), "m", "a b")]), "word length")
    assert one.values["m"].tolist() == [1]
    assert np.isnan(one.intervals["m"]).all()
    made = evaluate(Model(lambda token, start: math.inf if b"b" in token else 1), "m", "a b", "a cc")
    one = find(breakdowns([made]), "word length")
    assert one.values["m"].tolist() == [math.inf, 1]
    assert json.loads(json.dumps(one.as_json(), allow_nan=False))["values"] == {"m": [None, 1]}


def test_models_of_other_texts_and_without_scores_are_refused():
    one, other = (evaluate(Model(lambda token, start: 1), name, name) for name in ("a", "b"))
    with pytest.raises(UserError, match="b was scored on another text"):
        breakdowns([one, other])
    with pytest.raises(UserError, match="b gives words no probability"):
        breakdowns([one, other._replace(scored=None)])
    assert breakdowns([]) == []


def test_the_words_on_which_two_models_differ_most_by_hand():
    documents = ("the cat and the dog", "ein café, the\ncat")
    a = evaluate(Model(lambda token, start: {b"the": 1, b"cat": 2}.get(token.strip(), 4)), "a", *documents)
    b = evaluate(
        Model(lambda token, start: {b"the": 4, b"cat": 4.5 if start > 10 else 1}.get(token.strip(), 4)),
        "b", *documents,
    )  # fmt: skip
    found = differing_words(a, b, text(*documents), count=2)
    assert found.models == ("a", "b")
    assert [(one.word, one.times) for one in found.words] == [("the", 3), ("cat", 2)]
    assert [one.bits for one in found.words] == [pytest.approx((3, 12)), pytest.approx((4, 5.5))]
    assert [one.difference for one in found.words] == pytest.approx([-9, -1.5])
    every = differing_words(a, b, text(*documents)).occurrences
    assert len(every) == 5
    shown = [(one.document, one.start, one.before, one.word, round(one.difference, 9)) for one in every]
    assert shown == [
        ("d0", 0, "", "the", -3), ("d0", 12, "the cat and ", "the", -3), ("d1", 11, "ein café, ", "the", -3),
        ("d1", 15, "ein café, the\n", "cat", -2.5), ("d0", 4, "the ", "cat", 1),
    ]  # fmt: skip
    assert found.occurrences == every[:2]
    assert [one.difference for one in differing_words(b, a, text(*documents), count=1).words] == [9]
    assert found.as_json()["words"][1] == {"word": "cat", "times": 2, "bits": pytest.approx([4, 5.5])}


def test_words_that_both_models_exclude_do_not_differ():
    a, b = (evaluate(Model(lambda t, s, x=x: math.inf if t == b"a" else x), str(x), "a b") for x in (1, 2))
    [found] = differing_words(a, b, text("a b")).words
    assert (found.word, found.difference) == ("b", -1)


def test_what_precedes_an_occurrence_is_cut_between_characters():
    document = "é" * 40 + " x"
    a, b = (evaluate(Model(lambda t, s, x=x: x if t == b" x" else 0), str(x), document) for x in (1, 2))
    assert differing_words(a, b, text(document)).occurrences[0].before == "é" * 29 + " "


def test_word_counts_are_those_of_a_counter(tmp_path):
    documents = random_documents(6, 20)
    made = WordCounts(documents)
    expected = collections.Counter(word for d in documents for word in words_of(d.encode()))
    assert made.items() == dict(expected)
    made.save(tmp_path)
    kept = WordCounts.load(tmp_path)
    words = DocumentWords(b"a the nowhere " + "ʃ".encode() * 30).words
    assert kept.of(words).tolist() == made.of(words).tolist() == [expected[word] for word in words.tolist()]
    WordCounts().save(tmp_path)
    assert WordCounts.load(tmp_path).items() == {}


def test_breakdowns_are_printed(capsys):
    documents = random_documents(7, 3)
    made = [evaluate(random_model(i), name, *documents) for i, name in enumerate(("one", "two"))]
    print_breakdowns(breakdowns(made), [differing_words(*made, text(*documents))])
    printed = capsys.readouterr().out
    assert "position in the document: bits per byte" in printed
    assert "words on which one and two differ most: bits" in printed
    value = find(breakdowns(made), "kind of word").values["one"][0]
    assert f"{value:.3f}" in printed
    assert breakdown.plain(np.array([[1.0, np.nan]])) == [[1.0, None]]
