"""ARPA files: KenLM's read here, ours read by KenLM, and broken ones named by the line."""

import gzip
import itertools

import numpy as np
import pytest
from ngram_text import count, encode

from lm_jax.errors import UserError
from lm_jax.ngram import arpa, arpa_lines, arpa_writer, counts, decimals
from lm_jax.ngram.smoothing import NGramConfig, estimate
from lm_jax.ngram.vocabulary import BOS, EOS, UNK, Vocabulary
from lm_jax.text.word_table import split

GOLDEN = ["o4", "o3_prune012", "o2_nointerp", "char_o5_fallback"]
SMALL = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-2.5\t<unk>
0\t<s>\t-0.5
-0.4\t</s>
-0.6\ta\t-0.25
-0.9\tb\t0.125

\\2-grams:
-0.3\t<s> a
-1e-1\ta b
-.2\tb </s>

\\end\\
"""


def small(tmp_path, text=SMALL, name="small.arpa"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_every_number_is_read(tmp_path):
    model = arpa.read(small(tmp_path))
    assert model.vocabulary.words == [b"<unk>", b"<s>", b"</s>", b"a", b"b"]
    np.testing.assert_array_equal(model.log10_probs[0], np.float32([-2.5, 0, -0.4, -0.6, -0.9]))
    np.testing.assert_array_equal(model.log10_backoffs[0], np.float32([0, -0.5, 0, -0.25, 0.125]))
    np.testing.assert_array_equal(model.log10_probs[1], np.float32([-0.3, -0.1, -0.2]))
    log10 = model.score(encode(model.vocabulary, b"a c b\n")).log_probs / np.log(10)
    np.testing.assert_allclose(log10, [0, -0.3, -0.25 - 2.5, -0.9, -0.2], atol=1e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_go_through_unchanged(shared, tmp_path, name):
    golden = shared / f"fixtures/kenlm/{name}.arpa.gz"
    model = arpa.read(golden)
    arpa.write(model, tmp_path / "copy.arpa.gz")
    copy, expected = (sorted(lines(path)) for path in (tmp_path / "copy.arpa.gz", golden))
    assert [words for words, _ in copy] == [words for words, _ in expected]
    ours, theirs = (np.float32([n for _, numbers in file for n in numbers]) for file in (copy, expected))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(ours[theirs < -0.125], theirs[theirs < -0.125])


def lines(path):
    """The n-grams of a packed ARPA file with their numbers, read the slow way."""
    for line in gzip.decompress(path.read_bytes()).split(b"\n"):
        fields = line.split(b"\t")
        if len(fields) > 1:
            yield fields[1], [float(number) for number in fields[::2]]


@pytest.mark.parity
@pytest.mark.parametrize(
    "config",
    [
        NGramConfig(order=1, smoothing="add_k"),
        NGramConfig(order=2, smoothing="maximum_likelihood"),
        NGramConfig(order=3, smoothing="add_k", add_k=0.1),
        NGramConfig(order=3, smoothing="witten_bell", prune=(0, 1)),
        NGramConfig(order=4, discount_fallback=(0.5, 1, 1.5)),
    ],
)
def test_kenlm_reads_what_we_write(tmp_path, config):
    kenlm = pytest.importorskip("kenlm")
    text = b"the cat sat on the mat\nthe dog sat\na cat on a mat of " + b"long" * 12 + b"\n\nthe mat\n"
    model = estimate(count(text, config.order), config)
    arpa.write(model, tmp_path / "model.arpa")
    if config.order == 1:  # KenLM reads no unigram models
        return
    theirs = kenlm.Model(str(tmp_path / "model.arpa"))
    for sentence in (b"the cat sat", b"the dog on a mat", b"", b"dog dog unheard-of the " + b"long" * 12):
        stream = encode(model.vocabulary, sentence + b"\n")
        scores = model.score(stream)
        expected = list(theirs.full_scores(sentence.decode()))
        finite = np.maximum(scores.log_probs[1:] / np.log(10), -99)
        clipped = [max(prob, -99.0) for prob, _, _ in expected]
        np.testing.assert_allclose(finite, clipped, atol=1e-5)
        assert scores.matched[1:].tolist() == [length for _, length, _ in expected]
        assert (stream[1:] == UNK).tolist() == [oov for _, _, oov in expected]


@pytest.mark.parametrize("block", [1, 5, 64])
def test_blocks_and_pieces_of_any_size_give_the_same_model(monkeypatch, tmp_path, block):
    text = b"a b c a b\nc c b a\nb b a c c a\n"
    model = estimate(count(text, 3), NGramConfig(order=3, smoothing="witten_bell"))
    arpa.write(model, tmp_path / "model.arpa")
    monkeypatch.setattr(arpa_lines, "_BLOCK", block)
    monkeypatch.setattr(arpa, "_ROWS", block)
    monkeypatch.setattr(arpa_writer, "_LINES", block)
    arpa.write(model, tmp_path / "again.arpa")
    assert (tmp_path / "again.arpa").read_bytes() == (tmp_path / "model.arpa").read_bytes()
    read = arpa.read(tmp_path / "model.arpa")
    for ours, theirs in zip(
        read.log10_probs + read.log10_backoffs, model.log10_probs + model.log10_backoffs, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)
    for ours, theirs in zip(
        read.trie.words + read.trie.first_child, model.trie.words + model.trie.first_child, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def with_trigrams(*trigrams: str) -> str:
    header = SMALL.replace("ngram 2=3", f"ngram 2=3\nngram 3={len(trigrams)}")
    return header.replace("\\end\\", "\\3-grams:\n" + "\n".join(trigrams) + "\n\n\\end\\")


@pytest.mark.parity
def test_missing_ends_are_added_as_in_kenlm(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    text = (
        with_trigrams("-0.05\ta b a")
        .replace("ngram 2=3", "ngram 2=5")
        .replace("\tb </s>", "\tb </s>\n-.6\ta a\n-.7\tb b")
    )
    path = small(tmp_path, text)  # without "b a"
    model, theirs = arpa.read(path), kenlm.Model(str(path))
    assert [len(level) for level in model.log10_probs] == [5, 6, 1]
    for words in itertools.product("abc", repeat=4):
        expected = [prob for prob, _, _ in theirs.full_scores(" ".join(words))]
        scores = model.score(encode(model.vocabulary, (" ".join(words) + "\n").encode()))
        np.testing.assert_allclose(scores.log_probs[1:] / np.log(10), expected, atol=1e-6)


def test_missing_beginnings_are_added(tmp_path):
    model = arpa.read(small(tmp_path, with_trigrams("-0.05\tb b a")))  # without "b b" and "b a"
    log10 = model.score(model.vocabulary.ids("bba")).log_probs / np.log(10)
    np.testing.assert_allclose(log10, [-0.9, 0.125 - 0.9, -0.05], atol=1e-6)


def test_a_file_without_unk_gives_it_a_tiny_probability(tmp_path):
    model = arpa.read(small(tmp_path, SMALL.replace("-2.5\t<unk>\n", "").replace("ngram 1=5", "ngram 1=4")))
    assert model.log10_probs[0][UNK] == -100
    assert model.vocabulary.ids(["a", "b"]).tolist() == [3, 4]


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("\\data\\", "data", 1, "expected"),
        ("ngram 1=5", "ngram 2=5", 2, "ngram 1="),
        ("ngram 2=3", "ngram 2=three", 3, "ngram 2="),
        ("ngram 1=5\nngram 2=3\n", "", 3, "no line"),
        ("\\1-grams:", "\\2-grams:", 5, "expected .1-grams:"),
        ("-0.6\ta\t-0.25", "-0.6\ta\tx", 9, "back-off is not a number"),
        ("-0.6\ta\t-0.25", "-0.6\ta\tinf", 9, "back-off is not a number"),
        ("-0.6\ta", "-0.6x\ta", 9, "probability is not a number"),
        ("-0.6\ta", "nan\ta", 9, "probability is not a number"),
        ("-0.6\ta", "--6\ta", 9, "probability is not a number"),
        ("-0.6\ta", "0.6\ta", 9, "above 0"),
        ("-0.6\ta\t-0.25\n", "", 11, "fewer 1-grams than the header"),
        ("-0.9\tb", "-0.9\ta", 10, "twice"),
        ("-0.4\t</s>", "-0.4\te", 10, "</s> is not among"),
        ("-1e-1\ta b", "-1e-1\ta", 14, "2 words"),
        ("-1e-1\ta b", "-1e-1\ta b c d", 14, "2 words"),
        ("-1e-1\ta b", "-1e-1\ta c", 14, "not among the 1-grams"),
        ("-1e-1\ta b", "-1e-1\t<s> a", 14, "twice"),
        ("-1e-1\ta b", "-1e-1\ta b\t-0.5", 14, "highest order"),
        ("-.2\tb </s>\n", "", 16, "fewer 2-grams than the header"),
        ("-.2\tb </s>\n", "-.2\tb </s>\n-.2\tb b\n", 16, r"expected .end."),
        ("\\end\\\n", "", 16, "ends where"),
        ("b </s>\n\n\\end\\\n", "b <", 15, "not among"),
    ],
)
def test_broken_files_are_named_by_the_line(tmp_path, old, new, line, message):
    assert old in SMALL
    path = small(tmp_path, SMALL.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as raised:
        arpa.read(path)
    assert f"{path}, line {line}:" in str(raised.value)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    for end in range(len(SMALL) - 1):
        if SMALL[:end].endswith("\\end\\"):
            continue
        with pytest.raises(UserError, match="line"):
            arpa.read(small(tmp_path, SMALL[:end]))


def test_a_packed_file_cut_anywhere_is_refused(tmp_path):
    packed, path = gzip.compress(SMALL.encode()), tmp_path / "small.arpa.gz"
    path.write_bytes(packed)
    arpa.read(path)
    for end in range(len(packed)):
        path.write_bytes(packed[:end])
        with pytest.raises(UserError, match="line"):
            arpa.read(path)


def test_models_that_arpa_cannot_represent_are_refused(tmp_path):
    found = counts.count(np.array([BOS, 3, EOS]), Vocabulary(["a b"]), 1)
    with pytest.raises(UserError, match="a b"):
        arpa.write(estimate(found, NGramConfig(order=1, smoothing="add_k")), tmp_path / "x.arpa")
    found = count(b"a b\n", 2)
    with pytest.raises(UserError, match="stupid"):
        arpa.write(estimate(found, NGramConfig(order=2, smoothing="stupid_backoff")), tmp_path / "x.arpa")
    with pytest.raises(UserError, match="cannot open"):
        arpa.write(estimate(found, NGramConfig(order=2, smoothing="witten_bell")), tmp_path / "no/x.arpa")


def test_numbers_are_read_as_python_reads_them():
    plain = "0 -0 1 -1 12.5 -.5 5. -0.0000001 123456789012345 -1234.56789012"
    odd = "-1e-05 3E2 0.30102999566398119521 +1 -inf - . -. 1.2.3 --1 x"
    strings = f"{plain} {odd}".split()
    values, wrong = decimals.parse(split(" ".join(strings).encode()))
    for string, value, is_wrong in zip(strings, values, wrong, strict=True):
        try:
            assert value == np.float32(float(string))
            assert not is_wrong
        except ValueError:
            assert is_wrong, string
