"""Writes the Brown corpus as ordinary text: `python benchmarks/brown_text.py data/brown.txt`.

The corpus has spaces around punctuation and doubles some marks. Here punctuation is attached as in print, so
that a model that is trained on it may be asked about text that was not written for tokens. A line is one of
the 15,667 paragraphs. Needs NLTK's Brown corpus: `python -m nltk.downloader brown`, or $NLTK_DATA.
"""

import pathlib
import re
import sys
from collections.abc import Sequence

from lm_jax import files
from lm_jax.errors import UserError, reported

_OPENING, _CLOSING = {"``": '"', "`": "'", "(": "(", "[": "["}, {"''": '"', "'": "'"}
_ATTACHED = re.compile(r"[.,;:!?%)\]]+")  # to the word before
_DOUBLED = {";", "?", "!", ":"}


def attach(words: Sequence[str]) -> str:
    """One text of words, with punctuation attached to the word that it belongs to.

    One of two equal marks is left out, and the full stop after an abbreviation: Brown writes "; ;", "Jr. .".
    """
    text, glue = "", True
    for previous, word in zip(("", *words), words):
        if word == previous and word in _DOUBLED:
            continue
        if word == "." and previous[1:].endswith("."):
            continue
        closes = word in _CLOSING or bool(_ATTACHED.fullmatch(word))
        text += ("" if glue or closes else " ") + (_OPENING | _CLOSING).get(word, word)
        glue = word in _OPENING
    return text


def main(argv: list[str]) -> None:
    """Writes the file."""
    if len(argv) != 1:
        raise UserError("one file is needed", "type python benchmarks/brown_text.py FILE")
    from nltk.corpus import brown

    lines = [attach([word for sentence in paragraph for word in sentence]) for paragraph in brown.paras()]
    path = pathlib.Path(argv[0])
    files.make_directory(path.parent)
    files.write_text(path, "".join(f"{line}\n" for line in lines))
    num_words = sum(len(line.split()) for line in lines)
    print(f"{len(lines):,} lines, {num_words:,} words, {path.stat().st_size:,} bytes: {path}")


if __name__ == "__main__":
    with reported():
        main(sys.argv[1:])
