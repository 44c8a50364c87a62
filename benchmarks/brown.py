"""Writes the Brown corpus in the parts of Bengio et al. 2003: `python benchmarks/brown.py data/brown`.

Words are unchanged and files are in the order of their names: train.txt has the first 800,000, valid.txt the
next 200,000, test.txt the rest. Words that occur at most three times become <rare>, which leaves 17,905
different words. Needs NLTK's Brown corpus: `python -m nltk.downloader brown`, or $NLTK_DATA.
"""

import collections
import pathlib
import sys

from lm_jax import files
from lm_jax.data import corpora
from lm_jax.errors import UserError, reported


def main(argv: list[str]) -> None:
    """Writes the three parts into a directory."""
    if len(argv) != 1:
        raise UserError("one directory is needed", "type python benchmarks/brown.py DIRECTORY")
    words = [word for document in corpora.read("nltk:brown") for word in document.text.split()]
    counts = collections.Counter(words)
    words = [word if counts[word] > 3 else "<rare>" for word in words]
    directory = pathlib.Path(argv[0])
    directory.mkdir(parents=True, exist_ok=True)
    for name, first, end in (("train", 0, 800_000), ("valid", 800_000, 1_000_000), ("test", 1_000_000, None)):
        files.write_text(directory / f"{name}.txt", " ".join(words[first:end]))
    print(f"{len(words):,} words, {len(set(words)):,} different ones, in {directory}")


if __name__ == "__main__":
    with reported():
        main(sys.argv[1:])
