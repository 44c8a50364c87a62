"""Surprisal of words and tokens: their sums, the correction for leading spaces, and the command's table."""

import itertools
import json
import math

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_expected import neural
from test_ngram_language_model import make_model
from test_pretrained_bert import pretrained  # noqa: F401 (a fixture)

from lm_jax import surprisal
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation import surprisals
from lm_jax.evaluation.texts import Text
from lm_jax.language_models import load as load_module
from lm_jax.language_models.base import ScoredText
from lm_jax.language_models.pseudo import scorer_of
from lm_jax.text import load as tokenizers
from lm_jax.text.words import word_spans

TEXT = "the model reads  a\ntext "


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tiny.write_text(tmp_path_factory.mktemp("text") / "text.txt", num_lines=60)
    return path.read_text().splitlines()


@pytest.fixture(scope="module")
def ngrams(texts):
    """Models of the same texts over bytes, byte pairs and words."""
    sizes = {"byte": 0, "bpe": 300, "word": 0}
    kinds = {kind: tokenizers.train(kind, texts, vocab_size=size) for kind, size in sizes.items()}
    return {
        kind: make_model(texts, tokenizer, order=3, discount_fallback=(0.5, 1.0, 1.5))
        for kind, tokenizer in kinds.items()
    }


def words_of(model, text, words=None, corrected=True):
    [made] = model.expect([text], surprisals.boundary_tokens(model.tokenizer))
    words = word_spans(text.encode()) if words is None else words
    return surprisals.of_words(made.scored, words, made.log_shares if corrected else None)


def log_prob_that_begins(model, text):
    """log P(a text begins with `text`), and log P(it begins so, and then white space follows or it ends)."""
    length = len(text.encode())
    after = [text + space for space in " \t\n\r\0"]
    *begins, ends = model.score([*after, text])
    shares = [one.log_probs[length] for one in (*begins, ends)]
    whole = ends.log_probs[:length].sum()
    return whole, whole + np.logaddexp.reduce(shares)


@pytest.mark.parametrize("kind", ["ngram", "gpt", "rnn"])
def test_a_word_is_as_probable_as_its_letters_before_white_space(ngrams, kind):
    model = ngrams["byte"] if kind == "ngram" else neural(kind)
    made = words_of(model, TEXT)
    spans = made.spans[:-1].tolist()
    assert [TEXT[a:b] for a, b in spans] == TEXT.split()
    before = 0.0
    for (_, end), nats in zip(spans, made.nats):
        begins, closed = log_prob_that_begins(model, TEXT[:end])
        assert nats == pytest.approx(before - closed, abs=2e-4)
        assert begins > closed
        before = closed
    assert made.nats[-1] == pytest.approx(before - model.score([TEXT])[0].log_probs.sum(), abs=2e-4)


def test_the_probabilities_of_all_words_add_up_to_one():
    """Only the corrected ones do: without it "a" is counted where "ab" follows, too."""
    texts = ["a ab b", "b aab a", "ab a", "b b aa"]
    model = make_model(texts, tokenizers.train("char", texts), order=2, smoothing="maximum_likelihood")
    total = {True: 0.0, False: 0.0}
    for length in range(1, 11):
        for letters in itertools.product("ab", repeat=length):
            for corrected in total:
                made = words_of(model, "a " + "".join(letters), corrected=corrected)
                total[corrected] += np.exp(-made.nats[1])
    end = np.exp(-words_of(model, "a").nats[1])
    assert total[True] + end == pytest.approx(1, abs=1e-3)
    [scored] = model.score(["a a"])
    assert total[False] > 1.3 * np.exp(scored.log_probs[1]), "more than the probability that a word follows"


def test_white_space_and_the_end_tell_that_a_word_has_ended(ngrams):
    for kind in ("byte", "bpe"):
        tokenizer = ngrams[kind].tokenizer
        tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        expected = [token[:1] in (b" ", b"\t", b"\n", b"\r", b"\0") for token in tokens]
        expected[tokenizer.end_id] = True
        assert surprisals.boundary_tokens(tokenizer).tolist() == expected
    characters = tokenizers.train("char", ["a b"])
    assert surprisals.boundary_tokens(characters).tolist() == [True, False, True, False, False]


def test_words_that_are_tokens_need_no_correction(ngrams):
    model = ngrams["word"]
    assert surprisals.boundary_tokens(model.tokenizer).sum() == model.tokenizer.vocab_size - 1
    made = words_of(model, "the model reads unheard", corrected=False)
    np.testing.assert_array_equal(made.nats, -model.score(["the model reads unheard"])[0].log_probs)
    assert made.num_unknown.tolist() == [0, 0, 0, 1, 0]


@given(st.text(alphabet="ab \n.é", max_size=20), st.data())
@settings(max_examples=60, deadline=None)
def test_the_surprisals_of_words_add_up_to_that_of_the_text(ngrams, text, data):
    bounds = data.draw(st.sets(st.integers(0, len(text.encode()))))
    for kind, model in ngrams.items():
        [scored] = model.score([text])
        for words in (word_spans(text.encode()), _pieces(text.encode(), bounds)):
            for corrected in (True, False):
                made = words_of(model, text, words, corrected)
                assert made.nats.sum() == pytest.approx(-scored.log_probs.sum(), abs=1e-8), kind
                assert made.num_tokens.sum() == len(scored.log_probs)
                assert len(made.nats) == len(words) + 1


def _pieces(data, bounds):
    """The words of a text, cut at some of its bytes."""
    spans = []
    for start, end in word_spans(data).tolist():
        edges = [start, *(b for b in sorted(bounds) if start < b < end), end]
        spans += list(itertools.pairwise(edges))
    return np.array(spans, np.int64).reshape(-1, 2)


def test_a_word_inside_a_token_has_no_surprisal_of_its_own():
    scored = ScoredText(
        b"don't go", np.array([[0, 5], [5, 8], [8, 8]]), np.log([0.5, 0.25, 0.125]), np.zeros(3, bool),
        "", True,
    )  # fmt: skip
    words = np.array([[0, 2], [2, 5], [6, 8]])
    made = surprisals.of_words(scored, words, np.log([0.1, 0.8, 0.4]))
    assert made.num_tokens.tolist() == [1, 0, 1, 1]
    expected = [0.5 * 0.8, 1, 0.25 / 0.8 * 0.4, 0.125 / 0.4]
    np.testing.assert_allclose(np.exp(-made.nats), expected)
    crossing = scored._replace(spans=np.array([[0, 7], [7, 8], [8, 8]]))
    made = surprisals.of_words(crossing, words, np.log([0.1, 0.8, 0.4]))
    np.testing.assert_allclose(np.exp(-made.nats), [0.5, 1, 0.25 * 0.4, 0.125 / 0.4])


def test_only_white_space_that_begins_a_token_at_the_end_of_a_word_is_corrected_for():
    scored = ScoredText(
        b"ab  c", np.array([[0, 1], [1, 3], [3, 5], [5, 5]]), np.log([0.5, 0.25, 0.5, 0.125]),
        np.zeros(4, bool), "", True,
    )  # fmt: skip
    shares = np.log([0.1, 0.2, 0.8, 0.4])
    made = surprisals.of_words(scored, np.array([[0, 1], [1, 2], [4, 5]]), shares)
    expected = [0.5, 0.25, 0.5 * 0.4, 0.125 / 0.4]
    np.testing.assert_allclose(np.exp(-made.nats), expected, err_msg="a word without a space; a space inside")


def test_what_follows_an_impossible_word_is_infinite(texts):
    tokenizer = tokenizers.train("char", texts)
    model = make_model(texts, tokenizer, order=2, smoothing="maximum_likelihood")
    made = words_of(model, "the éé the")
    assert made.nats[1] == np.inf
    assert not np.isnan(made.nats).any()


def test_own_words_are_found_in_the_text():
    document = Document("t", "He  didn't, \nOK?")

    def named(*words):
        return [Document(f"w:{i}", word) for i, word in enumerate(words, 1)]

    found = surprisals.find_words(document, named("skipped", "He", "did", "n't,", "OK?", "more"), 1)
    assert found.tolist() == [[0, 2], [4, 7], [7, 11], [13, 16]]
    for words, message in (
        (("He", "didn't"), "document t goes on with ', \\nOK?' after the last word"),
        (("He", "didnt"), "w:2 has the word 'didnt', and document t goes on with \"didn't, \\nOK?\""),
        (("He", "", "didn't,"), "w:2 has the word ''"),
    ):
        with pytest.raises(UserError) as raised:
            surprisals.find_words(document, named(*words), 0)
        assert message in str(raised.value)


def read(path):
    """The header and the rows of a table."""
    first, *lines = path.read_text(encoding="utf-8").split("\n")
    assert first.startswith("# ")
    assert lines[-1] == ""
    names, *rows = [line.split("\t") for line in lines[:-1]]
    return json.loads(first[2:]), [dict(zip(names, row, strict=True)) for row in rows]


@pytest.fixture
def run(monkeypatch, ngrams, request, tmp_path):
    """Runs the command with models by name, and reads its table."""
    models = {**ngrams, "gpt": neural("gpt"), "bert": request.getfixturevalue("pretrained")}
    monkeypatch.setattr(load_module, "load", lambda path, *_: models[path])

    def run(*flags):
        surprisal.main([*flags, f"--out={tmp_path / 'out.tsv'}"])
        return read(tmp_path / "out.tsv")

    return run


def test_the_command_writes_words_tokens_and_sums(run, ngrams, tmp_path):
    lines = ["the model", "a  text of the data", ""]
    (tmp_path / "t.txt").write_text("\n".join(lines[:2]))
    text = f"--text={tmp_path / 't.txt'}"
    for kind in ("byte", "bpe", "gpt"):
        model = ngrams[kind] if kind in ngrams else neural(kind)
        totals = [-one.log_probs.sum() for one in model.score(lines[:2])]
        for flags in ([], ["--per=token"], ["--uncorrected"], ["--unit=nats"]):
            header, rows = run(f"--model={kind}", text, *flags)
            unit = 1 if header["unit"] == "nats" else math.log(2)
            for number, total in enumerate(totals, 1):
                own = [row for row in rows if row["document"] == f"t.txt:{number}"]
                assert sum(float(row["surprisal"]) for row in own) * unit == pytest.approx(total, abs=1e-4)
                data = lines[number - 1].encode()
                if header["per"] == "word":
                    assert [row["word"] for row in own] == [*lines[number - 1].split(), ""]
                    assert all(data[int(r["start"]) : int(r["end"])].decode() == r["word"] for r in own)
                else:
                    assert "".join(row["token"] for row in own) == lines[number - 1]
            [about] = header["models"]
            assert about["model"] == kind
            assert about["leading_spaces"].startswith(
                "corrected" if flags in ([], ["--unit=nats"]) else "not"
            )
    bits, nats = (run("--model=byte", text, f"--unit={u}")[1][1]["surprisal"] for u in ("bits", "nats"))
    assert float(bits) * math.log(2) == pytest.approx(float(nats), abs=1e-5)


def test_several_models_are_one_table_with_a_header_that_says_what_each_did(run, tmp_path):
    (tmp_path / "t.txt").write_text("ab cde a\n")
    header, rows = run("--model=byte", "--model=word", "--model=bert", f"--text={tmp_path / 't.txt'}")
    byte, word, bert = header["models"]
    assert byte["leading_spaces"] == "corrected (Pimentel and Meister 2024)"
    assert word["leading_spaces"] == "not corrected: white space is in no token"
    assert bert["leading_spaces"] == "not corrected: the model does not read left to right"
    assert bert["conditioned_on"] == (
        "pseudo-log-likelihood (within-word), which compares with no left-to-right probability"
    )
    assert [row["model"] for row in rows] == ["byte"] * 4 + ["word"] * 4 + ["bert"] * 3
    assert [row["unknown"] for row in rows if row["model"] == "word"] == ["1", "1", "0", "0"]


def test_pseudo_log_likelihoods_of_words_are_sums_of_their_tokens(run, pretrained, tmp_path):  # noqa: F811
    (tmp_path / "t.txt").write_text("ab cde a\n")
    _, rows = run("--model=bert", f"--text={tmp_path / 't.txt'}", "--unit=nats")
    [made] = pretrained.pseudo_score(["ab cde a"])
    starts = pretrained.tokenizer.starts_word[pretrained.tokenizer.encode("ab cde a").ids]
    expected = np.add.reduceat(-made.log_probs, np.flatnonzero(starts))
    np.testing.assert_allclose([float(row["surprisal"]) for row in rows], expected, atol=1e-5)


def test_minimal_pairs_of_a_masked_model_compare_pseudo_log_likelihoods(pretrained):  # noqa: F811
    pairs = [("ab cde", "cde ab"), ("a b", "b a"), ("abc", "a")]
    text = Text("t", [Document(f"t:{i}", a, {"sentence_bad": b}) for i, (a, b) in enumerate(pairs)])
    made = evaluation.evaluate(pretrained, text, "m", task="minimal_pairs")
    totals = [[one.total for one in pretrained.pseudo_score(pair)] for pair in pairs]
    assert made.statistics["accuracy"].arrays[0].tolist() == [float(a > b) for a, b in totals]
    assert "pseudo-log-likelihood (within-word)" in made.row.conditioned_on
    [unknown] = scorer_of(pretrained, "x").score(["a ü"])
    assert unknown.unknown.tolist() == [False, True]
    long = Text("t", [*text.documents, Document("t:3", "a", {"sentence_bad": "a " * 40})])
    with pytest.raises(UserError, match=r"document t:3, field 'sentence_bad': the text .* has 40 tokens"):
        evaluation.evaluate(pretrained, long, "m", task="minimal_pairs")


def test_words_of_ones_own(run, tmp_path):
    (tmp_path / "w.tsv").write_text('story\tw\n1\tthe\n1\tmodel,"\n1\treads.\n2\ta\n2\tte\n2\txt\n')
    (tmp_path / "t.txt").write_text('the  model,"\n reads.\na text')
    words = f"--words={tmp_path / 'w.tsv'}#w"
    header, rows = run("--model=byte", words, "--by=story")
    assert [row["word"] for row in rows] == ["the", 'model,"', "reads.", "", "a", "te", "xt", ""]
    assert [row["document"] for row in rows] == ["1"] * 4 + ["2"] * 4
    assert [row["start"] for row in rows] == ["0", "4", "12", "18", "0", "2", "5", "7"]
    assert header["words"].endswith("w.tsv#w")
    _, rows = run("--model=byte", words, f"--text={tmp_path / 't.txt'}", "--documents=file")
    assert [row["word"] for row in rows] == ["the", 'model,"', "reads.", "a", "te", "xt", ""]
    _, alone = run("--model=byte", f"--text={tmp_path / 't.txt'}", "--documents=file")
    assert float(rows[4]["surprisal"]) + float(rows[5]["surprisal"]) == pytest.approx(
        float(alone[4]["surprisal"]), abs=1e-5
    )
    _, rows = run("--model=byte", words)
    assert {row["document"] for row in rows} == {"w.tsv:2"}


def test_a_word_that_a_token_covers_is_not_available(run, ngrams, tmp_path, capsys):
    tokens = ngrams["bpe"].score(["the model"])[0].tokens
    assert b" model" in tokens
    (tmp_path / "w.tsv").write_text("word\nthe\nmo\ndel\n")
    (tmp_path / "t.txt").write_text("the model")
    _, rows = run("--model=bpe", f"--words={tmp_path / 'w.tsv'}", f"--text={tmp_path / 't.txt'}")
    assert [row["surprisal"] == "NA" for row in rows] == [False, False, True, False]
    assert "1 words: a token of the word before covers them (NA)" in capsys.readouterr().err


def test_text_that_breaks_lines_is_escaped(run, tmp_path):
    (tmp_path / "t.txt").write_text("a\tb\n\né")
    _, rows = run("--model=byte", f"--text={tmp_path / 't.txt'}", "--documents=file", "--per=token")
    assert [row["token"] for row in rows] == ["a", "\\t", "b", "\\n", "\\n", "\\xc3", "\\xa9", ""]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no --text; give --text=FILE, or --words=FILE.tsv#COLUMN"),
        (["--text=T", "--by=a"], "--by with no --words; leave it out"),
        (["--text=T", "--words=W", "--by=story"], "--by with --text"),
        (["--words=W", "--documents=line"], "--documents with no --text"),
        (["--text=T", "--words=W", "--per=token"], "--words with --per=token"),
        (["--text=T", "--uncorrected", "--per=token"], "--uncorrected with --per=token"),
        (["--text=T", "--words=W"], "w.tsv:3 has the word 'modle', and document t.txt:1 goes on with 'mo"),
        (["--text=T", "--words=V"], "v.tsv:4 has the word 'more', and the texts have ended"),
        (["--words=W#x"], "has no column 'x'"),
        (["--words=W", "--by=x"], "document w.tsv:2 has no field 'x'"),
        (["--words=E"], "no words in"),
        (["--text=T", "--stride=0"], "stride=0"),
        (["--text=none.txt"], "no file"),
    ],
)  # fmt: skip
def test_wrong_flags_and_words_leave_an_earlier_table(run, tmp_path, flags, message):
    (tmp_path / "t.txt").write_text("the model")
    (tmp_path / "w.tsv").write_text("story\tword\n1\tthe\n1\tmodle\n")
    (tmp_path / "v.tsv").write_text("word\nthe\nmodel\nmore\n")
    (tmp_path / "e.tsv").write_text("word\n")
    (tmp_path / "out.tsv").write_text("earlier")
    for name in ("t.txt", "w.tsv", "v.tsv", "e.tsv"):
        flags = [flag.replace(f"={name[0].upper()}", f"={tmp_path / name}") for flag in flags]
    with pytest.raises(UserError) as raised:
        run("--model=byte", *flags)
    assert message in str(raised.value)
    assert (tmp_path / "out.tsv").read_text() == "earlier"


def test_a_text_that_cannot_be_scored_leaves_an_earlier_table(run, tmp_path):
    (tmp_path / "t.txt").write_text("a b\n" + "a " * 40)
    (tmp_path / "out.tsv").write_text("earlier")
    with pytest.raises(UserError, match=r"document t\.txt:2, field 'text': the text .* has 40 tokens"):
        run("--model=byte", "--model=bert", f"--text={tmp_path / 't.txt'}")
    assert (tmp_path / "out.tsv").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.tsv", "t.txt"]
