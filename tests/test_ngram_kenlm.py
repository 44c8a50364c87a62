"""Models equal to KenLM's: against golden files, and against lmplz and query where they are installed.

KenLM made the files in `golden/kenlm`: `lmplz -o 3 --prune 0 1 2 < train.txt > o3_prune012.arpa` and
`query o3_prune012.arpa < test.txt`. The texts are parts of tinyshakespeare.
"""

import bz2
import os
import pathlib
import re
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
from ngram_text import count, encode, perplexity

import lm_jax
from lm_jax.data import pipeline
from lm_jax.data.pipeline import DataConfig
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation.texts import choose
from lm_jax.language_models import ngram
from lm_jax.ngram import arpa
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.smoothing import NGramConfig, estimate
from lm_jax.ngram.vocabulary import BOS, UNK

GOLDEN = pathlib.Path(__file__).parent / "golden" / "kenlm"


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> tuple[ngram.NGramLanguageModel, NGramModel]:
    """A model made as `train.py` makes it from a text file, and KenLM's of the same text."""
    folder = tmp_path_factory.mktemp("kenlm")
    for name in ("train.txt", "o3_prune012.arpa"):
        (folder / name).write_bytes(bz2.decompress((GOLDEN / f"{name}.bz2").read_bytes()))
    config = DataConfig(
        corpus=f"text:{folder}/train.txt",
        valid=f"text:{GOLDEN}/test.txt",
        split="hash:0",
        tokenizer="word",
        vocab_size=0,
    )
    data = pipeline.prepare(config, cache_dir=folder)
    model = ngram.fit(NGramConfig(order=3, prune=(0, 1, 2)), data, lambda *_: None)
    return ngram.NGramLanguageModel(model, data.tokenizer), arpa.read(folder / "o3_prune012.arpa")


def numbers(model: NGramModel) -> dict[tuple[bytes, ...], list[np.float32]]:
    """log10 probability and, but for the highest order, log10 back-off of each n-gram, by its words."""
    words, found, grams = model.vocabulary.words, {}, [()]
    for n in range(model.order):
        children = np.diff(model.trie.first_child[n - 1]) if n else [len(words)]
        contexts = [gram for gram, number in zip(grams, children, strict=True) for _ in range(number)]
        grams = [(*gram, words[i]) for gram, i in zip(contexts, model.trie.words[n], strict=True)]
        columns = [level[n] for level in (model.log10_probs, model.log10_backoffs) if n < len(level)]
        found |= dict(zip(grams, np.stack(columns, axis=1).tolist(), strict=True))
    return found


def test_every_number_of_a_trained_model_is_that_of_lmplz(golden):
    ours, theirs = numbers(golden[0].model), numbers(golden[1])
    assert ours.keys() == theirs.keys()
    found, expected = (np.float32([n for gram in theirs for n in model[gram]]) for model in (ours, theirs))
    assert len(found) == 6714 * 2 + 2905 * 2 + 278
    np.testing.assert_array_max_ulp(found, expected, maxulp=1)


def test_scores_of_lines_are_those_of_query(golden):
    printed = (GOLDEN / "o3_prune012.query.txt").read_text().splitlines()
    lines = (GOLDEN / "test.txt").read_text().splitlines()
    for scores, line in zip(golden[0].score(lines), printed, strict=True):
        expected = [float(number) for number in re.findall(r"=\d+ \d (\S+)\t", line)]
        np.testing.assert_allclose(scores.log_probs / np.log(10), expected, rtol=0, atol=1e-6)


def evaluated(golden, tmp_path):
    """Our evaluations of the golden text: of the model that we trained, and of KenLM's file."""
    file = tmp_path / "o3_prune012.arpa"
    file.write_bytes(bz2.decompress((GOLDEN / f"{file.name}.bz2").read_bytes()))
    text = choose("", str(GOLDEN / "test.txt"), "line")
    return [evaluation.evaluate(model, text, "m").row for model in (golden[0], lm_jax.load(file))], file


def assert_perplexities(rows, log10_probs, is_unknown):
    """KenLM's two perplexities: of all tokens with the ends of lines, and without words that it lacks."""
    probs, known = np.array(log10_probs), ~np.array(is_unknown)
    for row in rows:
        assert (row.counts["tokens"], row.counts["oov"]) == (len(probs), (~known).sum())
        assert row.metrics["perplexity"].value == pytest.approx(10 ** -probs.mean(), rel=1e-6)
        without = row.metrics["perplexity_without_oov"].value
        assert without == pytest.approx(10 ** -probs[known].mean(), rel=1e-6)


def test_perplexities_of_the_golden_text_are_those_of_query(golden, tmp_path):
    printed = (GOLDEN / "o3_prune012.query.txt").read_text()
    tokens = re.findall(r"=(\d+) \d (\S+)\t", printed)
    totals = re.findall(r"Total: (\S+) OOV: (\d+)", printed)
    rows, _ = evaluated(golden, tmp_path)
    probs, unknown = [float(prob) for _, prob in tokens], [word == "0" for word, _ in tokens]
    assert sum(probs) == pytest.approx(sum(float(total) for total, _ in totals), rel=1e-6)
    assert sum(unknown) == sum(int(number) for _, number in totals) > 0
    assert_perplexities(rows, probs, unknown)


@pytest.mark.parity
def test_perplexities_of_the_golden_text_are_those_of_kenlm(golden, tmp_path):
    kenlm = pytest.importorskip("kenlm")
    rows, file = evaluated(golden, tmp_path)
    theirs = kenlm.Model(str(file))
    lines = (GOLDEN / "test.txt").read_text().splitlines()
    scores = [one for line in lines for one in theirs.full_scores(line)]
    assert_perplexities(rows, [prob for prob, _, _ in scores], [unknown for _, _, unknown in scores])


def program(name: str) -> str:
    """The path of one of KenLM's programs, from the folder KENLM_BIN or the PATH."""
    path = shutil.which(
        name, path=os.pathsep.join([os.environ.get("KENLM_BIN", ""), os.environ.get("PATH", "")])
    )
    return path or pytest.skip(f"no {name} on the PATH or in the folder KENLM_BIN")


@pytest.fixture(scope="module")
def brown(shared, tmp_path_factory):
    """The Brown corpus as text files of one sentence a line, the last tenth held out."""
    with zipfile.ZipFile(shared / "data/nltk_data/corpora/brown.zip") as archive:
        names = sorted(name for name in archive.namelist() if re.fullmatch(r"brown/c[a-r]\d\d", name))
        lines = [
            line.split() for name in names for line in archive.read(name).decode().split("\n") if line.strip()
        ]
    sentences = [" ".join(pair.rsplit("/", 1)[0] for pair in line) + "\n" for line in lines]
    folder, part = tmp_path_factory.mktemp("brown"), len(sentences) * 9 // 10
    (folder / "train").write_text("".join(sentences[:part]))
    (folder / "test").write_text("".join(sentences[part:]))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "config"),
    [
        ([], NGramConfig(order=5)),
        (["--prune", "0", "0", "1"], NGramConfig(order=5, prune=(0, 0, 1))),
        (["--prune", "1", "2", "3"], NGramConfig(order=4, prune=(1, 2, 3))),
        (["--discount_fallback"], NGramConfig(order=8, discount_fallback=(0.5, 1, 1.5))),
    ],
)
def test_every_ngram_and_perplexity_is_that_of_lmplz(brown, tmp_path, flags, config):
    command = [program("lmplz"), "-o", str(config.order), "-S", "20%", "-T", str(tmp_path), *flags]
    subprocess.run(
        [*command, "--text", brown / "train", "--arpa", tmp_path / "arpa"], check=True, capture_output=True
    )
    theirs = arpa.read(tmp_path / "arpa")
    ours = estimate(count((brown / "train").read_bytes(), config.order), config)
    assert ours.vocabulary.words == theirs.vocabulary.words
    for one, other in (
        (ours.trie.words, theirs.trie.words),
        (ours.trie.first_child, theirs.trie.first_child),
    ):
        for mine, its in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, its)
    for one, other in ((ours.log10_probs, theirs.log10_probs), (ours.log10_backoffs, theirs.log10_backoffs)):
        for mine, its in zip(one, other, strict=True):
            np.testing.assert_allclose(mine, its, rtol=0, atol=1e-6)
    if config.order <= 6:  # what query is built for by default
        with (brown / "test").open() as text:
            query = [program("query"), "-v", "summary", tmp_path / "arpa"]
            printed = subprocess.run(query, stdin=text, check=True, capture_output=True, text=True).stdout
        stream = encode(ours.vocabulary, (brown / "test").read_bytes())
        log_probs = ours.score(stream).log_probs
        expected = [float(number) for number in re.findall(r"OOVs:\t(\d+\.\d+)", printed)]
        found = [perplexity(log_probs, stream), perplexity(log_probs, stream, (BOS, UNK))]
        assert found == pytest.approx(expected, rel=1e-6)
