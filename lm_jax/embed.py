"""Writes a vector for each text, or compares pairs of texts by their vectors.

python -m lm_jax.embed --model=hf:NAME --text=FILE --out=vectors.npy            a vector for each line
python -m lm_jax.embed --model=ELMO --text=FILE --out=vectors.hdf5              each layer's vectors of words
python -m lm_jax.embed --model=ELMO --text=FILE --out=vectors.npy               the mean over a text's words
python -m lm_jax.embed --model=DIR --text='csv:FILE#1' --second=2 --score=3     correlation with scores
python -m lm_jax.embed --model=ELMO --vocabulary=FILE --out=words.hdf5          the words' own vectors, which
python -m lm_jax.embed --model=ELMO --vocabulary=FILE --vectors=words.hdf5 …    are then not computed again

FILE is a text with one text a line, or a corpus as data.corpus names it (jsonl:, tsv:, csv:GLOB#FIELD). With
--second, the two texts of each record are compared by the cosine of their vectors, and with --score these
are compared with a number of the record: Spearman's and Pearson's correlation are printed.

An ELMo reads words between white space, each text from a fresh state. The HDF5 file has an array "0", "1",
... for each text, float32 [layers, words, D], as bilm-tf's and AllenNLP's; with --layer it is that layer's,
[words, D]. A text's one vector is the mean over its words of that layer, or of the equal mix of all layers.
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import pathlib
import sys
from typing import Any

import numpy as np

from lm_jax import embed_words, errors, files, flags
from lm_jax.data.documents import Document
from lm_jax.evaluation.texts import lines_or_corpus
from lm_jax.language_models import load as language_model
from lm_jax.language_models.base import Embeds, require
from lm_jax.language_models.bilm import BiLM
from lm_jax.language_models.encoder import POOLINGS
from lm_jax.metrics import correlation
from lm_jax.progress import Reporter

_TEXTS_AT_ONCE = 1024  # between two updates of the progress bar


def _parser() -> flags.Parser:
    parser = flags.Parser(prog="python -m lm_jax.embed", description=__doc__, epilog=flags.MESH_HELP)
    parser.add_argument(
        "--model",
        required=True,
        type=flags.model,
        metavar="PATH",
        help="an encoder or an ELMo: a run, a directory or hf:NAME",
    )
    parser.add_argument("--text", type=flags.path, metavar="FILE", help="the texts")
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
    parser.add_argument(
        "--layer",
        type=flags.whole,
        metavar="N",
        help="of an ELMo: 0 is the words' own vectors (default: all)",
    )
    parser.add_argument("--vocabulary", type=flags.path, metavar="FILE", help="of an ELMo: words, one a line")
    parser.add_argument(
        "--vectors", type=flags.path, metavar="FILE.hdf5", help="of an ELMo: the vocabulary's own vectors"
    )
    return parser


def main(argv: list[str]) -> None:
    """Parses the flags, embeds, and writes or compares."""
    argv, mesh = flags.split_mesh(argv)
    arguments = _parser().parse_args(argv)
    if not arguments.text and (arguments.vectors or not arguments.vocabulary):
        raise errors.UserError("no texts", "give --text=FILE")
    if bool(arguments.vocabulary) != bool(arguments.vectors) and arguments.text:
        raise errors.UserError("--vocabulary and --vectors go together", "give both, or none")
    if not arguments.out and not arguments.second:
        raise errors.UserError("nothing to do with the vectors", "give --out=FILE.npy, or --second=FIELD")
    if arguments.score and not arguments.second:
        raise errors.UserError("--score without --second", "give the field of the second text")

    loaded: Any = language_model.load(arguments.model, arguments.step, mesh)
    _check_flags(loaded, arguments)
    if arguments.vocabulary:
        words = embed_words.read_vocabulary(pathlib.Path(arguments.vocabulary))
        if not arguments.text:
            files.make_directory(pathlib.Path(arguments.out).parent)
            embed_words.write_vectors(loaded, words, pathlib.Path(arguments.out))
            return
        embed_words.use_vectors(loaded, words, pathlib.Path(arguments.vectors))
    documents = lines_or_corpus(arguments.text)
    # Missing fields, texts without words and directories are noticed before the work.
    texts = [document.text for document in documents]
    seconds = [document.text_field(arguments.second) for document in documents] if arguments.second else []
    scores = [document.number(arguments.score) for document in documents] if arguments.score else None
    if isinstance(loaded, BiLM):
        embed_words.check_words(documents, texts)
        embed_words.check_words(documents, seconds)
    if arguments.out:
        files.make_directory(pathlib.Path(arguments.out).parent)

    if arguments.out and arguments.out.endswith(embed_words.HDF5):
        embed_words.write_layers(loaded, texts, pathlib.Path(arguments.out), arguments.layer)
        return
    vectors_ND = _embed(loaded, texts, arguments)
    if arguments.out:
        with files.replacing(pathlib.Path(arguments.out)) as path, path.open("wb") as file:
            np.save(file, vectors_ND)
        print(f"written: {arguments.out}, {vectors_ND.shape[0]} vectors of {vectors_ND.shape[1]} numbers")
    if arguments.second:
        others_ND = _embed(loaded, seconds, arguments)
        _compare(_cosines(vectors_ND, others_ND), documents, scores)


def _check_flags(model: Any, arguments: Any) -> None:
    """Raises UserError for a model without vectors, and for flags that it does not have."""
    elmo = isinstance(model, BiLM)
    if not elmo:
        require(model, Embeds, "make vectors of texts")
    endings = (embed_words.HDF5, ".npy") if elmo else (".npy",)
    if not arguments.text:
        endings = (embed_words.HDF5,)
    if arguments.out and not arguments.out.endswith(endings):
        raise errors.UserError(f"--out={arguments.out}", f"end it with {' or '.join(endings)}")
    words = bool(arguments.out) and arguments.out.endswith(embed_words.HDF5)
    for flag, given, refused, where in (
        ("--layer", arguments.layer is not None, not elmo, f"the family {model.family}"),
        ("--max-tokens", arguments.max_tokens is not None, elmo, "an ELMo"),
        ("--pooling", arguments.pooling != "mean", elmo, "an ELMo"),
        ("--second", arguments.second, words, f"--out=FILE{embed_words.HDF5}"),
        ("--vocabulary", arguments.vocabulary, not elmo, f"the family {model.family}"),
        ("--second", arguments.second, not arguments.text, "--vocabulary alone"),
        ("--normalize", arguments.normalize, words, f"--out=FILE{embed_words.HDF5}"),
    ):
        if given and refused:
            raise errors.UserError(f"{flag} with {where}", "leave it out")
    if arguments.layer is not None and not 0 <= arguments.layer <= model.config.num_layers:
        raise errors.UserError(
            f"--layer={arguments.layer} of {model.config.num_layers + 1} layers",
            f"give 0 to {model.config.num_layers}",
        )


def _embed(model: Any, texts: list[str], arguments: Any) -> np.ndarray:
    """The vectors of the texts, [N, D]; says how many were cut."""
    if isinstance(model, BiLM):
        return embed_words.mean_of_words(model, texts, arguments.layer, arguments.normalize)
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
