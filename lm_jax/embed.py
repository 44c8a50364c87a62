"""Writes a vector for each text, or compares pairs of texts by their vectors.

python -m lm_jax.embed --model=hf:NAME --text=FILE --out=vectors.npy            a vector for each line
python -m lm_jax.embed --model=ELMO --text=FILE --out=vectors.hdf5              each layer's vectors of words
python -m lm_jax.embed --model=DIR --text='csv:FILE#1' --second=2 --score=3     correlation with scores

FILE is a text with one text a line, or a corpus as data.corpus names it (jsonl:, tsv:, csv:GLOB#FIELD). With
--second, the two texts of each record are compared by the cosine of their vectors, and with --score these
are compared with a number of the record: Spearman's and Pearson's correlation are printed. An ELMo reads
words between white space; the HDF5 file has an array "0", "1", ... for each text, float32 [layers, words, D].
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import pathlib
import sys
from typing import Any

import numpy as np

from lm_jax import errors, files, flags
from lm_jax.data.documents import Document
from lm_jax.evaluation.texts import lines_or_corpus
from lm_jax.language_models import load as language_model
from lm_jax.language_models.base import Embeds, require
from lm_jax.language_models.bilm import BiLM
from lm_jax.language_models.encoder import POOLINGS
from lm_jax.metrics import correlation
from lm_jax.pretrained import allennlp
from lm_jax.progress import Reporter

_TEXTS_AT_ONCE = 1024  # between two updates of the progress bar


def main(argv: list[str]) -> None:
    """Parses the flags, embeds, and writes or compares."""
    argv, mesh = flags.split_mesh(argv)
    parser = flags.Parser(prog="python -m lm_jax.embed", description=__doc__, epilog=flags.MESH_HELP)
    parser.add_argument(
        "--model",
        required=True,
        type=flags.model,
        metavar="PATH",
        help="an encoder: a run, a directory or hf:NAME",
    )
    parser.add_argument("--text", required=True, type=flags.path, metavar="FILE", help="the texts")
    parser.add_argument(
        "--out",
        type=flags.path,
        metavar="FILE",
        help="where the vectors go: FILE.npy, float32 [N, D]; FILE.hdf5 of an ELMo",
    )
    parser.add_argument("--second", metavar="FIELD", help="the field of a second text to compare with")
    parser.add_argument("--score", metavar="FIELD", help="the field of a number to compare the cosines with")
    parser.add_argument("--pooling", choices=POOLINGS, default="mean", help="over the tokens (default: mean)")
    parser.add_argument("--normalize", action="store_true", help="divide each vector by its norm")
    parser.add_argument(
        "--max-tokens", type=flags.whole, help="cut longer texts (default: the model's context)"
    )
    parser.add_argument("--step", default="best", help="best (by validation), latest, or a step's number")
    arguments = parser.parse_args(argv)
    if not arguments.out and not arguments.second:
        raise errors.UserError("nothing to do with the vectors", "give --out=FILE.npy, or --second=FIELD")
    if arguments.score and not arguments.second:
        raise errors.UserError("--score without --second", "give the field of the second text")

    loaded: Any = language_model.load(arguments.model, arguments.step, mesh)
    ending = ".hdf5" if isinstance(loaded, BiLM) else ".npy"
    if arguments.out and not arguments.out.endswith(ending):
        raise errors.UserError(f"--out={arguments.out}", f"end it with {ending}")
    if isinstance(loaded, BiLM):
        if arguments.second:
            raise errors.UserError("--second with an ELMo", "give --out=FILE.hdf5")
        _write_words(loaded, lines_or_corpus(arguments.text), pathlib.Path(arguments.out))
        return
    model = require(loaded, Embeds, "make vectors of texts")
    documents = lines_or_corpus(arguments.text)
    # Missing fields and directories are noticed before the work.
    seconds = [document.text_field(arguments.second) for document in documents] if arguments.second else []
    scores = [document.number(arguments.score) for document in documents] if arguments.score else None
    if arguments.out:
        files.make_directory(pathlib.Path(arguments.out).parent)

    vectors_ND = _embed(model, [document.text for document in documents], arguments)
    if arguments.out:
        np.save(arguments.out, vectors_ND)
        print(f"written: {arguments.out}, {vectors_ND.shape[0]} vectors of {vectors_ND.shape[1]} numbers")
    if arguments.second:
        others_ND = _embed(model, seconds, arguments)
        _compare(_cosines(vectors_ND, others_ND), documents, scores)


def _write_words(model: BiLM, documents: list[Document], path: pathlib.Path) -> None:
    """Writes every layer's vectors of the words of each text, from a fresh state."""
    sentences = [document.text.split() for document in documents]
    files.make_directory(path.parent)
    with allennlp.h5py().File(path, "w") as file, Reporter() as report:
        for first in range(0, len(sentences), _TEXTS_AT_ONCE):
            some = sentences[first : first + _TEXTS_AT_ONCE]
            made = model.embed(some, cut=True)
            for i, words in enumerate(some):
                file[str(first + i)] = made.layers_LBTD[:, i, : len(words)]
            report("embedding", first + len(some), len(sentences))
    print(f"written: {path}, the vectors of {sum(map(len, sentences))} words in {len(sentences)} texts")


def _embed(model: Embeds, texts: list[str], arguments: Any) -> np.ndarray:
    """The vectors of the texts; says how many were cut."""
    made, num_cut = [], 0
    with Reporter() as report:
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            some = texts[first : first + _TEXTS_AT_ONCE]
            made.append(model.embed(some, arguments.pooling, arguments.normalize, arguments.max_tokens))
            num_cut += sum(model.are_cut(some, arguments.max_tokens))
            report("embedding", first + len(some), len(texts))
    if num_cut:
        print(f"{num_cut} of {len(texts)} texts: too long, only the first tokens were read", file=sys.stderr)
    return np.concatenate(made)


def _cosines(a_ND: np.ndarray, b_ND: np.ndarray) -> np.ndarray:
    norms_N = np.linalg.norm(a_ND, axis=1) * np.linalg.norm(b_ND, axis=1)
    return (a_ND * b_ND).sum(axis=1) / np.maximum(norms_N, 1e-12)


def _compare(cosines_N: np.ndarray, documents: list[Document], scores: list[float] | None) -> None:
    """Prints the cosines, or their correlation with scores."""
    if scores is None:
        for document, cosine in zip(documents, cosines_N, strict=True):
            print(f"{cosine:.4f}\t{document.name}")
        return
    for name, measure in (("Spearman", correlation.spearman), ("Pearson", correlation.pearson)):
        value = float(measure(cosines_N, np.array(scores)))
        print(f"{name}'s correlation of {len(documents)} pairs: {value:.4f}")


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
