"""Small inputs that once gave wrong numbers, tracebacks or refusals; numbers of ARPA files are KenLM's."""

import os
import pathlib

import numpy as np
import plain
import pytest

import lm_jax
from lm_jax import config as config_module
from lm_jax import experiment, fields, files
from lm_jax.config import Config
from lm_jax.data import corpora
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation.texts import Text, choose
from lm_jax.language_models import ngram as lm_ngram
from lm_jax.language_models.ngram import NGramLanguageModel
from lm_jax.ngram import arpa, counts, smoothing
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.text import load as tokenizers
from lm_jax.text.words import count_words, is_blank

ROOT = pathlib.Path(__file__).parents[1]
LN_10 = np.log(10)
SENTENCES = ["the cat sat", "cat the", "dog the cat", "", "the dog sat"]
# KenLM's log10 of the sentences, with and without beginning and end marks: kenlm.Model.score(text, bos, eos).
WITH_CAT = {
    (True, True): [-1.0, -3.1, -3.7, -1.1, -3.2],
    (False, False): [-1.3, -1.7, -2.4, 0, -3.5],
    (False, True): [-1.4, -2.7, -3.3, -0.7, -3.6],
}
WITHOUT_CAT = {(True, True): [-3.2, -3.5, -5.0, -1.1, -3.2], (False, False): [-3.5, -2.1, -3.9, 0, -3.5]}
IMPOSSIBLE = {(True, True): [-1.0, -3.1, -np.inf, -1.1, -np.inf]}


@pytest.fixture
def cases(shared):
    folder = shared / "cases"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    return folder


@pytest.mark.parametrize(
    ("name", "scores", "perplexity", "without_oov"),
    [
        ("base.arpa", WITH_CAT, 5.704926, 3.981072),
        ("uppercase_UNK.arpa", WITH_CAT, 5.704926, 3.981072),
        ("quicklm_header.arpa", WITH_CAT, 5.704926, 3.981072),
        ("blank_inside_section.arpa", WITH_CAT, 5.704926, 3.981072),
        ("dot_lm.lm", WITH_CAT, 5.704926, 3.981072),
        ("latin1_word.arpa", WITHOUT_CAT, 10.0, 4.151278),
        ("vt_word.arpa", WITHOUT_CAT, 10.0, 4.151278),
        ("neg_inf_unk.arpa", IMPOSSIBLE, None, 3.981072),
    ],
)
def test_arpa_files_score_as_in_kenlm(cases, tmp_path, name, scores, perplexity, without_oov):
    for (bos, eos), expected in scores.items():
        model = lm_jax.load(cases / name, bos=bos, eos=eos)
        found = [scored.log_probs.sum() / LN_10 for scored in model.score(SENTENCES)]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert model.score(["the sat"])[0].conditioned_on == ("<s>" if bos else "nothing")
    model = lm_jax.load(cases / name)
    assert model.score(["the sat"])[0].log_probs.sum() / LN_10 == pytest.approx(-1.7)
    assert model.score([]) == []
    row = evaluation.evaluate(model, choose("", str(cases / "sents.txt"), "line"), name).row
    assert row.counts["tokens"] == row.counts["words"] + row.documents
    value = row.metrics["perplexity"].value
    assert value is None if perplexity is None else value == pytest.approx(perplexity, rel=1e-6)
    assert row.metrics["perplexity_without_oov"].value == pytest.approx(without_oov, rel=1e-6)
    if perplexity is None:
        assert "probability 0" in row.metrics["perplexity"].why
    arpa.write(model.model, tmp_path / "copy.arpa")
    copy = lm_jax.load(tmp_path / "copy.arpa")
    for one, other in zip(model.score(SENTENCES), copy.score(SENTENCES), strict=True):
        finite = np.isfinite(one.log_probs)
        np.testing.assert_allclose(other.log_probs[finite], one.log_probs[finite], atol=1e-6)


def test_a_word_of_a_file_is_a_word_of_a_text(cases):
    model = lm_jax.load(cases / "vt_word.arpa")
    [scored] = model.score(["the c\vt sat"])
    assert scored.log_probs.sum() / LN_10 == pytest.approx(-0.2 - 0.3 - 0.4 - 0.1)
    assert model.generate(["the"], 9, temperature=0)[0].text == " c\vt sat\n"


def test_the_home_directory_of_a_path_is_found(cases, monkeypatch):
    monkeypatch.setenv("HOME", str(cases))
    assert lm_jax.load("~/base.arpa").model.order == 2
    with pytest.raises(UserError, match="there is no such user"):
        lm_jax.load("~nobody-of-this-name/base.arpa")


def test_a_latin_1_vocabulary_is_saved_and_loaded(cases, tmp_path):
    tokenizer = lm_jax.load(cases / "latin1_word.arpa").tokenizer
    tokenizer.save(tmp_path)
    assert tokenizers.load(tmp_path).fingerprint() == tokenizer.fingerprint()


def test_a_prompt_with_a_newline_at_its_end_is_continued_by_a_new_sentence(cases):
    model = lm_jax.load(cases / "base.arpa")
    texts = ["the cat", "the cat\n", "the cat\n\n", "\n", ""]
    made = [one.text for one in model.generate(texts, 1, temperature=0)]
    assert made == [" sat", "the", "the", "the", "the"]
    assert "".join(model.stream("the cat\n", 2, temperature=0)) == "the cat"


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0}, {"num_beams": 2}, {"num_beams": 3, "num_samples": 3}]
)
@pytest.mark.parametrize("prompt", ["", "a", "a b"])
def test_a_model_that_only_unknown_words_can_continue_says_so(cases, prompt, options):
    model = lm_jax.load(cases / "onlyunk.arpa")
    with pytest.raises(UserError, match="no token to choose"):
        model.generate([prompt], 3, **options)


def test_a_model_without_smoothing(cases, tmp_path):
    recipe = config_module.load(f"{ROOT}/configs/ngram.py:bigram_mle")[1]
    values = {"data.corpus": f"text:{cases}/nltk.txt", "data.documents": "line", "data.split": "tail:0.2"}
    experiment.run(fields.override(recipe, values), tmp_path / "run")
    model = lm_jax.load(tmp_path / "run")
    text = choose("", str(cases / "nltktest.txt"), "line")
    metrics = evaluation.evaluate(model, text, "mle").row.metrics
    for name in ("bits_per_byte", "nats_per_token", "perplexity", "word_perplexity"):
        assert metrics[name].value is None
        assert "probability 0" in metrics[name].why
    arpa.write(model.model, tmp_path / "copy.arpa")
    for one in (model, lm_jax.load(tmp_path / "copy.arpa")):
        samples = one.generate([""] * 20, 12, seed=list(range(20)))
        assert min(sample.log_probs.min() for sample in samples) > np.log(0.1)
        for options in ({}, {"num_beams": 2}):
            with pytest.raises(UserError, match="no token to choose"):
                one.generate(["the"], 30, min_tokens=25, **options)


@pytest.mark.parametrize("tokenizer", ["wordpiece", "byte", "word"])
def test_ngrams_are_counted_over_any_tokens(cases, tmp_path, tokenizer):
    recipe = config_module.load(f"{ROOT}/configs/ngram.py")[1]
    values = {
        "data.corpus": f"text:{cases}/four.txt", "data.documents": "line", "data.split": "tail:0.25",
        "data.tokenizer": tokenizer, "data.vocab_size": "60", "model.order": "2", "sample_tokens": "0",
    }  # fmt: skip
    experiment.run(fields.override(recipe, values), tmp_path / "run")
    model = lm_jax.load(tmp_path / "run")
    vocabulary = model.model.vocabulary
    assert len(set(vocabulary.words)) == len(vocabulary)
    for history in ([], model._word_of[model.tokenizer.encode("bob").ids]):
        assert model.model.next_distribution([1, *history]).sum() == pytest.approx(1, abs=1e-5)
    if tokenizer != "wordpiece":
        return
    assert {b"[PAD]", b"[CLS]", b"[MASK]", b"##e"} <= set(vocabulary.words)
    arpa.write(model.model, tmp_path / "model.arpa")
    assert arpa.read(tmp_path / "model.arpa").vocabulary.words == vocabulary.words


@pytest.mark.parametrize("kind", ["word", "char"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_vocabulary_has_at_most_the_size_that_was_asked_for(cases, kind, size):
    text = (cases / "letters.txt").read_text()
    if size < 3:
        with pytest.raises(UserError, match=f"vocab_size={size} leaves no room"):
            tokenizers.train(kind, [text], size)
    else:
        assert tokenizers.train(kind, [text], size).vocab_size == size


def test_corpora(cases):
    def read(spec):
        return [document.text for document in corpora.read(spec, "file")]

    assert read(f"jsonl:{cases}/bom.jsonl") == ["a", "b"]
    assert read(f"text:{cases}/utf16.txt") == ["hello world\n"]
    assert len(read(f"jsonl:{cases}/a.jsonl.gz")) == 1
    for name, message in {
        "bigint.jsonl": r"bigint.jsonl, line 1, cannot be read as JSON",
        "null_text.jsonl": r"null_text.jsonl, line 1, has null in the field 'text'",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            read(f"jsonl:{cases}/{name}")
        assert "latin1" not in str(caught.value)


def test_a_setting_that_is_null_is_the_default(cases):
    tokenizer = tokenizers.load(cases / "wp_config_null")
    assert tokenizer.lowercase
    assert tokenizer.decode(tokenizer.encode("The CAT").ids) == "the cat"


HOSTILE = [
    "a\0b c", "a\vb\fc d", "a\x85b", "a\xa0b\xa0", "a\u3000b", "\u2028a\u2029", "\x1ca\x1db\x1f", "\ufeffa",
    "\u200ba", " \t a \r\n b\r", "<UNK> <unk> <s> </s>", "\\end\\ \\data\\ \\2-grams:", "ngram 1=5", "# a",
    "-1 0 1e5 nan -inf", "a" * 5000, "\0\0", "\v", "\x85", "", "\n\n", "é\u0301 字 😀", "##a [CLS]",
]  # fmt: skip


def word_model(texts):
    """A bigram model over the words of texts."""
    tokenizer = tokenizers.train("word", texts)
    data = [ids for text in texts for ids in (tokenizer.encode(text).ids, [tokenizer.end_id])]
    tokens = np.concatenate([[tokenizer.end_id], *data]).astype(np.int32)
    vocabulary = lm_ngram.make_vocabulary(tokenizer)
    stream = lm_ngram.make_stream(tokens, lm_ngram.word_ids(tokenizer, vocabulary))
    found = counts.count(stream, vocabulary, 2)
    return NGramLanguageModel(
        smoothing.estimate(found, NGramConfig(order=2, smoothing="witten_bell")), tokenizer
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_all_agree_on_what_a_word_is(text, tmp_path):
    check_words(text, tmp_path)


@pytest.mark.parametrize(("name", "num_words"), [("nul.txt", 42), ("nbsp.txt", 1)])
def test_all_agree_on_the_words_of_a_file(cases, tmp_path, name, num_words):
    [text] = [document.text for document in corpora.read(f"text:{cases}/{name}")]
    check_words(text, tmp_path)
    assert count_words(text.encode()) == num_words


def check_words(text, tmp_path):
    """Tokenizer, counts, results and ARPA files have the same words."""
    model = word_model([*HOSTILE, text])
    words = plain.words(text.encode())
    assert count_words(text.encode()) == count_words(text.encode() + b" " * 1000) == len(words)
    assert is_blank(text) == (not words)
    ids, spans = model.tokenizer.encode(text)
    tokens = [text.encode()[a:b] for a, b in spans]
    assert [token for token in tokens if token != b"\n"] == words
    reserved = {b"<unk>", b"<UNK>", b"<s>", b"</s>"}
    assert [i == model.tokenizer.unknown_id for i in ids] == [token in reserved for token in tokens]
    row = evaluation.evaluate(model, Text("t", [corpora.Document("0", text)]), "m").row
    ends = text.removesuffix("\n").count("\n") + 1
    assert (row.counts["words"], row.counts["tokens"]) == (len(words), len(words) + ends)
    arpa.write(model.model, tmp_path / "model.arpa")
    loaded = lm_jax.load(tmp_path / "model.arpa")
    assert loaded.model.vocabulary.words == model.model.vocabulary.words
    np.testing.assert_allclose(loaded.score([text])[0].log_probs, model.score([text])[0].log_probs, atol=1e-5)


def test_names_of_files_that_are_not_utf_8(tmp_path):
    folder = os.fsencode(tmp_path) + b"/d\xe9"
    os.mkdir(folder)
    for name in (b"caf\xe9.txt", b"a#b.txt", b"c.txt"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(name[:3] + b" two three\n" * 20)
    spec = f"text:{os.fsdecode(folder)}/*.txt"
    assert [document.name for document in corpora.read(spec)] == ["a#b.txt", "c.txt", r"caf\xe9.txt"]
    recipe = config_module.load(f"{ROOT}/configs/ngram.py:word")[1]
    values = {
        "data.corpus": spec,
        "data.documents": "line",
        "data.split": "hash:0.2,0.2",
        "sample_tokens": "0",
    }
    workdir = pathlib.Path(os.fsdecode(folder + b"/run"))
    rows = experiment.run(fields.override(recipe, values), workdir)
    assert experiment.run(fields.override(recipe, values), workdir) == rows
    assert r"caf\\xe9.txt" in (workdir / "valid.jsonl").read_text() + (workdir / "test.jsonl").read_text()
    files.write_text(tmp_path / "report", spec)
    assert "\\udce9" in (tmp_path / "report").read_text()
    with pytest.raises(
        UserError, match=r"d\\xe9/gpt is not UTF-8, as the directory of a trained model must be"
    ):
        experiment.run(Config(), workdir.with_name("gpt"))
