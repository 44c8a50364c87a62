"""Word models as models of strings: the spelling of unknown words and of white space."""

import dataclasses
import itertools
import json
import math
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax import experiment
from lm_jax.config import CountConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.evaluation.base import evaluate
from lm_jax.evaluation.texts import Text, read_held_out
from lm_jax.language_models import load
from lm_jax.language_models.ngram import NGramLanguageModel, make_stream, make_vocabulary, word_ids
from lm_jax.ngram import counts, gaps, smoothing, spelling
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.text.simple import CharacterTokenizer, WordTokenizer
from lm_jax.text.words import IS_SPACE

TRAINING = ["a b  a\n\ta\n", "b a", "\n a b\r\n\n", "a  bb", "", "a c a\n"]


def _model(texts, vocab_size=0):
    """A bigram model of words, smoothed, and its speller."""
    tokenizer = WordTokenizer.train(texts, vocab_size)
    vocabulary = make_vocabulary(tokenizer)
    end = np.array([tokenizer.end_id], np.int32)
    tokens = np.concatenate([end, *(x for ids in tokenizer.encode_ids(texts) for x in (ids, end))])
    stream = make_stream(tokens, word_ids(tokenizer, vocabulary))
    model = smoothing.estimate(counts.count(stream, vocabulary, 2), NGramConfig(2, "witten_bell"))
    return NGramLanguageModel(model, tokenizer, speller=spelling.fit(tokenizer, texts))


@pytest.fixture(scope="module")
def model():
    return _model(TRAINING, vocab_size=4)  # the words a and b: bb and c are unknown


def _string_probability(model, texts):
    return np.exp([one.byte_log_probs.sum() for one in model.score(texts)])


class _Small:
    """The same models with an alphabet of few bytes, whose strings can be listed."""

    def __init__(self, monkeypatch, alphabet):
        self.spaces = bytes(byte for byte in alphabet if IS_SPACE[byte] and byte != ord("\n"))
        letters = [bytes([byte]) for byte in alphabet if not IS_SPACE[byte]]
        monkeypatch.setattr(spelling, "byte_vocabulary", lambda: spelling.Vocabulary(letters))
        is_letter = np.zeros(256, bool)
        is_letter[[letter[0] for letter in letters]] = True
        monkeypatch.setattr(spelling, "IS_SPACE", ~is_letter)
        monkeypatch.setattr(gaps, "_LN_SPACES", float(np.log(len(self.spaces))))


def test_probabilities_of_all_strings_add_up_to_one(monkeypatch):
    """Of all strings of up to seven bytes; training texts are short, so that longer ones are improbable."""
    _Small(monkeypatch, b"ab \n")
    model = _model(["a", "b a", "", "a\n", "bb", "a\nb"] * 12, vocab_size=4)
    sums = []
    for length in range(8):
        strings = ["".join(map(chr, string)) for string in itertools.product(b"ab \n", repeat=length)]
        sums.append(float(_string_probability(model, strings).sum()))
    total = sum(sums)
    ratio = sums[-1] / sums[-3]  # of longer strings, which are nearly a geometric series
    assert 0.95 < total < 1
    assert total + sum(sums[-2:]) * ratio / (1 - ratio) == pytest.approx(1, abs=5e-3)


def test_what_can_follow_adds_up_to_one_at_each_step(model):
    """The gaps before a token, what an end stands for, and the spelling of a word, each on their own."""
    fitted = model.speller.gaps
    spaces = (b"", *(bytes(g) for n in range(1, 6) for g in itertools.product(b" \t\r\0", repeat=n)))
    longer = 2.0**-6  # P0 of gaps of more than five bytes, times their smoothing
    for before in (b"a", b"a\n", b"", b"\ta b\n"):
        for after in (b"a", b"\n"):
            texts = [before + gap + after + b"z" for gap in spaces]
            if before == b"a" and after == b"a":
                texts = texts[1:]  # without a gap it is another word
            tokenizer = WordTokenizer(["a", "b", "z"])
            encodings = tokenizer.encode_batch([text.decode() for text in texts])
            layout = gaps.lay_out(texts, encodings, tokenizer.end_id)
            place = len(tokenizer.encode(before.decode() + "q").ids) - 1 if before[-1:] in (b"\n", b"") else 1
            rows = layout.first + place
            log_probs = fitted.log_probs(layout)[rows]
            if after == b"\n":
                log_probs = log_probs - fitted._log_outcomes[layout.places[rows], gaps.GOES_ON]
            assert 1 - longer < np.exp(log_probs).sum() <= 1 + 1e-9
    outcomes = np.exp(fitted._log_outcomes)
    np.testing.assert_allclose(outcomes.sum(axis=1), 1)
    assert outcomes[2, gaps.ENDS] == 0


def test_the_spellings_of_unknown_words_add_up_to_one(monkeypatch):
    _Small(monkeypatch, b"ab ")
    tokenizer = WordTokenizer(["a", "ab"])
    speller = spelling.fit(tokenizer, ["b bb a ab abb b"])
    words = [bytes(w) for n in range(1, 15) for w in itertools.product(b"ab", repeat=n)]
    unknown = [word for word in words if word not in (b"a", b"ab")]
    assert np.exp(speller.word_log_probs(unknown)).sum() == pytest.approx(1, abs=1e-3)
    assert speller.words.next_distribution([spelling.BOS])[spelling.EOS] > 0  # the empty word, left out
    assert np.exp(spelling._log_probs(speller.words, [b"", b"a", b"ab"])).sum() == pytest.approx(
        speller.known
    )


def test_a_closed_vocabulary_gives_unknown_words_nothing():
    vocabulary = spelling.byte_vocabulary()
    stream = spelling._stream([b"abc", b"abd", b"x"])
    for method in ("modified_kneser_ney", "witten_bell"):
        config = NGramConfig(3, method, discount_fallback=(0.5, 1.0, 1.5))
        model = smoothing.estimate(counts.count(stream, vocabulary, 3), config, closed=True)
        for history in ([1], stream[:3], stream[1:3]):
            probs = model.next_distribution(history)
            assert probs[0] == 0
            assert probs.sum() == pytest.approx(1, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab \n\t\r\0ü\x0b", max_size=12), min_size=1, max_size=5))
def test_any_text_is_complete_and_its_spans_tile_it(texts):
    model = _shared_model()
    for text, one in zip(texts, model.score(texts), strict=True):
        data = text.encode()
        assert one.complete
        assert one.spans[0, 0] == 0
        assert one.spans[-1, 1] == len(data)
        np.testing.assert_array_equal(one.spans[1:, 0], one.spans[:-1, 1])
        assert np.isfinite(one.byte_log_probs).all()
        assert (one.log_spelling <= 0).all()
        alone = model.score([text])[0]
        np.testing.assert_allclose(alone.byte_log_probs, one.byte_log_probs)


_MODELS: list = []


def _shared_model():
    if not _MODELS:
        _MODELS.append(_model(TRAINING, vocab_size=4))
    return _MODELS[0]


def test_no_byte_depends_on_later_ones(model):
    text = "a bb \tc\n  a\n\n b"
    whole = model.score([text])[0]
    for end in range(len(text)):
        for tail in ("", " zz", "\n\n", "a\tb"):
            part = model.score([text[:end] + tail])[0]
            # Tokens that both have, but for the last one before the cut: it may go on, or be the end.
            same = int((whole.spans[:, 1] < end).sum())
            np.testing.assert_allclose(
                part.byte_log_probs[:same], whole.byte_log_probs[:same], rtol=1e-9, atol=1e-12
            )


def test_different_strings_of_the_same_tokens_share_their_probability(model):
    """Texts that differ in white space alone have equal tokens, and each its own spelling."""
    texts = ["a b", "a  b", "a b\n", " a b", "a\tb", "a b "]
    scored = model.score(texts)
    for one in scored[1:]:
        np.testing.assert_array_equal(one.log_probs, scored[0].log_probs)
    assert sum(np.exp(one.log_spelling.sum()) for one in scored) < 1


def test_gaps_of_the_training_text_are_counted_by_hand():
    """Witten-Bell of two levels, against the formula on paper."""
    counted = gaps.GapCounts()
    tokenizer = WordTokenizer(["a", "b"])
    texts = [b"a b", b"a  b", b"a b"]
    counted.add(gaps.lay_out(texts, tokenizer.encode_batch([t.decode() for t in texts]), 0))
    model = counted.model()
    layout = gaps.lay_out([b"a b"], tokenizer.encode_batch(["a b"]), 0)
    base = 2.0**-1 / 4
    of_kind = (2 + 2 * base) / (3 + 2)  # seen twice of three, two kinds of gaps
    of_detail = (2 + 2 * of_kind) / (3 + 2)  # every gap is behind an "a"
    assert model.log_probs(layout)[1] == pytest.approx(math.log(of_detail))


def test_unknown_characters_share_all_other_code_points():
    tokenizer = CharacterTokenizer("ab")
    vocabulary = make_vocabulary(tokenizer)
    stream = np.array([1, *word_ids(tokenizer, vocabulary)[tokenizer.encode("abba").ids], 2], np.int32)
    model = NGramLanguageModel(
        smoothing.estimate(counts.count(stream, vocabulary, 1), NGramConfig(1, "add_k")), tokenizer
    )
    known, unknown = model.score(["ab", "aü"])
    assert known.complete
    assert unknown.complete
    assert known.log_spelling is None
    np.testing.assert_allclose(unknown.log_spelling, [0, -math.log(0x110000 - 0x800 - 2), 0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("words")
    (directory / "text.txt").write_text(
        "".join(f"the cat {i % 7} sat\n  on the mat{i % 5}\n" for i in range(80))
    )
    data = DataConfig(
        corpus=f"text:{directory}/text.txt", tokenizer="word", vocab_size=8, documents="line",
        split="tail:0.2,0.2",
    )  # fmt: skip
    experiment.run(CountConfig(data=data, model=NGramConfig(3, "witten_bell")), directory / "run")
    return directory / "run"


def test_a_run_of_words_has_bits_per_byte(run):
    model = load.load(run)
    text = read_held_out(run, "test")
    made = evaluate(model, text, "x")
    nats = -sum(one.byte_log_probs.sum() for one in model.score([d.text for d in text.documents]))
    num_bytes = sum(len(d.text.encode()) for d in text.documents)
    assert made.row.metrics["bits_per_byte"].value == pytest.approx(nats / num_bytes / math.log(2))
    assert made.row.counts["oov"] > 0
    assert made.row.protocol["end"]
    tokens = sum(len(one.log_probs) for one in made.scored)
    perplexity = math.exp(-sum(one.log_probs.sum() for one in made.scored) / tokens)
    assert made.row.metrics["perplexity"].value == pytest.approx(perplexity)  # of tokens, as before
    again = NGramLanguageModel(model.model, model.tokenizer)  # without a speller, as in earlier runs
    assert evaluate(again, Text("test", text.documents), "y").row.metrics["bits_per_byte"].value is None


def test_without_ends_nothing_is_complete(run):
    model = load.load(run, eos=False)
    (one,) = model.score(["the cat\n"])
    assert not one.complete
    assert one.log_spelling is None


def test_a_damaged_speller_is_refused(run, tmp_path):
    speller = load.load(run).speller
    speller.save(tmp_path / "good")
    again = spelling.Speller.load(tmp_path / "good")
    np.testing.assert_array_equal(again.word_log_probs([b"cow"]), speller.word_log_probs([b"cow"]))
    values = json.loads((tmp_path / "good" / "spelling.json").read_text())
    for field, bad in (
        ("known", 1.0), ("known", "x"), ("counts", [[1]]), ("counts", [[1, -1]]), ("outcomes", [[0]]),
        ("gaps", [1, 2]), ("gaps", ["x", "y"]), ("format_version", 9), ("counts", [[2, 1], [1, 1]]),
    ):  # fmt: skip
        (tmp_path / "good" / "spelling.json").write_text(json.dumps(values | {field: bad}))
        with pytest.raises(UserError):
            spelling.Speller.load(tmp_path / "good")
    (tmp_path / "good" / "spelling.json").write_text(json.dumps(values))
    NGramModel.save(dataclasses.replace(load.load(run)).model, tmp_path / "good" / "words.ngram")
    with pytest.raises(UserError, match="no model of bytes"):
        spelling.Speller.load(tmp_path / "good")


def test_a_missing_speller_of_a_sealed_run_is_noticed(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "spelling")
    with pytest.raises(UserError, match="is missing"):
        load.load(copy)
