"""Models of the Brown corpus against lmplz and query, where they are installed."""

import os
import re
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
from ngram_text import count, encode, perplexity

from lm_jax.ngram import arpa
from lm_jax.ngram.smoothing import NGramConfig, estimate
from lm_jax.ngram.vocabulary import BOS, UNK

pytestmark = pytest.mark.slow


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
