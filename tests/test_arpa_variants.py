"""ARPA files as other toolkits and people write them, damaged ones, and ones that would fill the memory."""

import bz2
import gzip
import lzma
import random
import resource

import numpy as np
import pytest

import lm_jax
from lm_jax.errors import UserError
from lm_jax.ngram import arpa
from lm_jax.ngram.vocabulary import BOS, EOS, UNK
from lm_jax.text.simple import WordTokenizer

SMALL = b"""\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-2.5\t<unk>
-99\t<s>\t-0.5
-0.4\t</s>
-0.6\ta\t-0.25
-0.9\tb\t0.125

\\2-grams:
-0.3\t<s> a
-1e-1\ta b
-.2\tb </s>

\\end\\
"""
TEXTS = ["a b", "b a x", ""]


def scores(path, **marks):
    return np.concatenate([one.log_probs for one in lm_jax.load(path, **marks).score(TEXTS)]) / np.log(10)


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.arpa"
    path.write_bytes(SMALL)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: b"\xef\xbb\xbf\n# a comment\nModel of a toolkit\n\n" + data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n", b"\n\n"),
        lambda data: data.replace(b"\n", b"\n \t\n"),
        lambda data: data.replace(b"\n\\1-grams:", b"\\1-grams:"),
        lambda data: data.replace(b"ngram 2=3\n", b"\nngram 2 = 3\n"),
        lambda data: data.replace(b"\t", b" "),
        lambda data: data.replace(b"<unk>", b"<UNK>"),
        lambda data: data.replace(b"ngram 2=3\n", b"ngram 2=3\nngram 3=0\n"),
        lambda data: data.replace(b"ngram 2=3\n", b"ngram 2=3\nngram 3=0\n").replace(
            b"\\end", b"\\3-grams:\n\n\\end"
        ),
        lambda data: data + b"anything\n",
        gzip.compress,
        bz2.compress,
        lzma.compress,
    ],
)
@pytest.mark.parametrize("name", ["m.arpa", "m.lm", "m.ARPA", "m.lm.gz", "m"])
def test_forms_and_names_of_one_model(small, tmp_path, change, name):
    (tmp_path / name).write_bytes(change(SMALL))
    np.testing.assert_array_equal(scores(tmp_path / name), scores(small))


def test_zstandard(small, tmp_path):
    zstandard = pytest.importorskip("zstandard")
    packed = zstandard.compress(SMALL[:60]) + zstandard.compress(SMALL[60:])
    (tmp_path / "m.arpa").write_bytes(packed)
    np.testing.assert_array_equal(scores(tmp_path / "m.arpa"), scores(small))
    (tmp_path / "m.arpa").write_bytes(packed[:-3])
    with pytest.raises(UserError, match="Zstandard cannot decompress it"):
        arpa.read(tmp_path / "m.arpa")


@pytest.mark.parametrize("infinity", [b"-inf", b"-1.#INF", b"-1.#INF00", b"-Infinity"])
def test_minus_infinity(small, infinity):
    small.write_bytes(SMALL.replace(b"-2.5", infinity))
    model = arpa.read(small)
    assert model.log10_probs[0][UNK] == -np.inf
    assert model.score(np.array([BOS, UNK])).log_probs.tolist() == [0, -np.inf]


def test_both_spellings_of_the_unknown_word_in_one_file(small):
    small.write_bytes(SMALL.replace(b"a b\n", b"a <unk>\n").replace(b"-2.5\t<unk>", b"-2.5\t<UNK>"))
    model = lm_jax.load(small)
    assert model.score(["a x"])[0].log_probs[1] / np.log(10) == pytest.approx(-0.1), "in a 2-gram"
    small.write_bytes(SMALL.replace(b"ngram 1=5", b"ngram 1=6").replace(b"-0.9", b"-3\t<UNK>\n-0.9"))
    with pytest.raises(UserError, match="line 10: <unk> and <UNK> are both among the 1-grams"):
        arpa.read(small)


def test_files_without_marks_of_sentences(small):
    full = scores(small, bos=False, eos=False)
    no_end = SMALL.replace(b"-0.4\t</s>\n", b"").replace(b"-.2\tb </s>\n", b"")
    small.write_bytes(no_end.replace(b"1=5", b"1=4").replace(b"2=3", b"2=2"))
    with pytest.raises(UserError, match=r"</s> is not among the 1-grams; .* give --no-eos"):
        lm_jax.load(small)
    np.testing.assert_array_equal(scores(small, bos=False, eos=False), full)
    assert not np.isfinite(arpa.read(small, eos=False).score(np.array([BOS, EOS])).log_probs[1])
    no_mark = no_end.replace(b"-99\t<s>\t-0.5\n", b"").replace(b"-0.3\t<s> a\n", b"")
    small.write_bytes(no_mark.replace(b"1=5", b"1=3").replace(b"2=3", b"2=1"))
    with pytest.raises(UserError, match=r"<s> is not among the 1-grams; .* give --no-bos"):
        lm_jax.load(small, eos=False)
    np.testing.assert_array_equal(scores(small, bos=False, eos=False), full)
    model = lm_jax.load(small, bos=False, eos=False)
    assert model.describe_context() == {"order": 2, "bos": False, "eos": False}
    assert model.generate(["a"], 1, temperature=0)[0].text == " b"
    assert model.generate([""], 1, temperature=0)[0].text == "a", "the most frequent word"


def test_sentences_without_a_beginning_in_short_and_long_texts(small):
    model = lm_jax.load(small, bos=False)
    text = "a b\nb\n" * 4000
    [long] = model.score([text])
    [short] = model.score(["a b\nb\n"])
    np.testing.assert_array_equal(long.log_probs, np.tile(short.log_probs, 4000))
    expected = [-0.6, -0.1, -0.2, -0.9, -0.2]
    np.testing.assert_allclose(short.log_probs / np.log(10), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SMALL.replace(b"1=5", b"1=-5"), "line 2: expected 'ngram 1=' and a number, found 'ngram 1=-5'"),
        (SMALL.replace(b"1=5", b"1=" + b"9" * 5000), "line 2: expected 'ngram 1='"),
        (SMALL.replace(b"1=5", b"1=99999999999"), "line 2: 99,999,999,999 1-grams are more than a file"),
        (SMALL.replace(b"1=5", b"1=" + b"9" * 18), "line 2: .* more than a file of this size can hold"),
        (gzip.compress(SMALL.replace(b"1=5", b"1=2000000000")), "line 2: 2,000,000,000 1-grams are more"),
        (SMALL.replace(b"2=3", b"3=3"), "line 3: expected 'ngram 2='"),
        (SMALL.replace(b"-0.6", b"-0_6"), "line 9: the probability is not a number"),
        (SMALL.replace(b"-0.6", b"-1.#IND"), "line 9: the probability is not a number"),
        (SMALL.replace(b"-2.5", b"\n\n-0.6\ta x y\n-2.5"), "line 8: expected a probability, 1 words"),
        (SMALL.decode().encode("utf-16"), "is UTF-16, by its byte order mark, not an ARPA file; convert"),
        (b"mmap lm http://kheafield.com/code format version 5\n\0", "is a binary file of KenLM"),
        (b"the cat\n" * 9, r"line 1: expected .data., which the file does not have"),
        (b"", r"expected .data."),
        (b"a\n" * (1 << 20), r"which its first MiB does not have; it begins with 'a'"),
        (
            gzip.compress(b"\\data\\\nngram 1=5\n" + b"\n" * 10**7),
            "line 100003: more than 100,000 blank lines",
        ),
        (
            gzip.compress(b"\\data\\\nngram 1=5\n\\1-grams:\n" + b"\n" * 10**7),
            "more blank lines than 1-grams",
        ),
    ],
)
def test_what_is_not_read_is_named_at_once(small, data, message):
    small.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        arpa.read(small)
    assert str(caught.value).startswith(str(small))


def test_a_line_without_an_end_is_refused_in_little_memory(tmp_path):
    path = tmp_path / "bomb.arpa.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(80):
            file.write(b"\0" * (1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="the next line is longer than 64 MiB"):
        arpa.read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024, "KiB"


def test_options_of_ngrams_are_refused_elsewhere(small, tmp_path):
    with pytest.raises(UserError, match="no directory"):
        lm_jax.load(tmp_path / "no")
    with pytest.raises(UserError, match=r"cannot read .*: No such file"):
        lm_jax.load(tmp_path / "no.arpa")


def test_words_that_arpa_files_cannot_hold_are_refused(small, tmp_path):
    model = arpa.read(small)
    for word in (b"", b"a b", b"a\0", b"\n", b"<UNK>", b"x" * (1 << 22 | 1)):
        model.vocabulary.words[3] = word
        with pytest.raises(UserError, match="cannot hold the word"):
            arpa.write(model, tmp_path / "out.arpa")
    model.vocabulary.words[3:] = WordTokenizer.train([f"{'x' * 100_000} \v\\end\\"]).token_names()[2:]
    arpa.write(model, tmp_path / "out.arpa")
    assert arpa.read(tmp_path / "out.arpa").vocabulary.words == model.vocabulary.words


def mutated(chance, data):
    """A file with one to three changes."""
    data = bytearray(data)
    parts = [
        b"\n",
        b"-1",
        b"99999999999",
        b"\\end\\",
        b"\\1-grams:",
        b"nan",
        b"-inf",
        b"\0",
        b"<UNK>",
        b"\xff",
    ]
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(data) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            del data[place : place + chance.choice([1, 5, 50])]
        elif kind == 1:
            data[place:place] = chance.choice(parts)
        elif kind == 2:
            lines = data.split(b"\n")
            lines.insert(chance.randrange(len(lines)), chance.choice(lines))
            data = bytearray(b"\n".join(lines))
        elif place < len(data):
            data[place] = chance.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_read_or_named(tmp_path, seed):
    chance, path, num_read = random.Random(seed), tmp_path / "m.arpa", 0
    for _ in range(150):
        data = mutated(chance, SMALL)
        path.write_bytes(mutated(chance, gzip.compress(data)) if chance.random() < 0.2 else data)
        try:
            model = arpa.read(path, bos=False, eos=False)
        except UserError:
            continue
        num_read += 1
        assert not np.isnan(model.next_distribution([BOS])).any()
        arpa.write(model, tmp_path / "copy.arpa")
        assert arpa.read(tmp_path / "copy.arpa").vocabulary.words == model.vocabulary.words
    assert num_read
