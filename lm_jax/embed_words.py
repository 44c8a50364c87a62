"""What `python -m lm_jax.embed` does with a bidirectional language model: vectors of words, in files."""

import hashlib
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lm_jax import files
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.language_models.bilm import BiLM
from lm_jax.pretrained import allennlp
from lm_jax.progress import Reporter

HDF5 = ".hdf5"
_EMBEDDING = "embedding"  # the array of words' own vectors, as bilm-tf names it
_WORDS_AT_ONCE = 8192  # between two updates of the progress bar


def check_words(documents: Sequence[Document], texts: Sequence[str]) -> None:
    """Raises UserError for a text without words."""
    for document, text in zip(documents, texts, strict=False):
        if not text.split():
            raise UserError(f"{document.name} has no words", "leave it out")


def write_layers(model: BiLM, texts: Sequence[str], path: pathlib.Path, layer: int | None) -> None:
    """Writes the vectors of the words of each text, of all layers or of one, to an HDF5 file."""
    num_words = 0
    with files.replacing(path) as temporary, allennlp.h5py().File(temporary, "w") as file:
        for number, layers_LTD in _layers(model, texts):
            file[str(number)] = layers_LTD if layer is None else layers_LTD[layer]
            num_words += layers_LTD.shape[1]
    print(f"written: {path}, the vectors of {num_words} words in {len(texts)} texts")


def mean_of_words(model: BiLM, texts: Sequence[str], layer: int | None, normalize: bool) -> np.ndarray:
    """The mean over the words of each text, float32 [N, D], of a layer or of all."""
    vectors_ND = np.zeros((len(texts), 2 * model.config.d_model), np.float32)
    for number, layers_LTD in _layers(model, texts):
        chosen_LTD = layers_LTD if layer is None else layers_LTD[[layer]]
        vectors_ND[number] = chosen_LTD.mean(axis=(0, 1))
    if normalize:
        vectors_ND /= np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
    return vectors_ND


def _layers(model: BiLM, texts: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
    """The number of each text and the layers of its words, [L, T, D]; says how many words were cut."""
    sentences = [text.split() for text in texts]
    with Reporter() as report:
        for done, made in enumerate(model.each(sentences, cut=True), 1):
            yield made
            report("embedding", done, len(texts))
    if num_cut := model.num_cut(sentences):
        most = model.config.word_length - 2
        print(
            f"{num_cut} of {sum(map(len, sentences))} words: too long, only the first {most} bytes were read",
            file=sys.stderr,
        )


def read_vocabulary(path: pathlib.Path) -> list[str]:
    """The words of a file, one a line.

    Raises:
        UserError: no such file, another encoding than UTF-8, no words, a blank line, or a word that occurs
            twice.
    """
    words = files.read_text(path).removesuffix("\n").split("\n")
    places: dict[str, int] = {}
    for number, word in enumerate(words, 1):
        if word.split() != [word]:
            raise UserError(f"line {number} of {path} is {word!r}", "give one word a line")
        if word in places:
            raise UserError(f"{path} has {word!r} in lines {places[word]} and {number}", "leave one out")
        places[word] = number
    return words


def write_vectors(model: BiLM, words: Sequence[str], path: pathlib.Path) -> None:
    """Writes the own vectors of a vocabulary to an HDF5 file, "embedding", float32 [N, P], as bilm-tf's.

    The file tells by its attributes of which words and of which model it is.
    """
    _require_spelling(model)
    made = []
    with Reporter() as report:
        for first in range(0, len(words), _WORDS_AT_ONCE):
            made.append(model.word_vectors(words[first : first + _WORDS_AT_ONCE]))
            report("encoding words", min(first + _WORDS_AT_ONCE, len(words)), len(words))
    with files.replacing(path) as temporary, allennlp.h5py().File(temporary, "w") as file:
        array = file.create_dataset(_EMBEDDING, data=np.concatenate(made))
        array.attrs.update(_facts(model, words))
    print(f"written: {path}, the vectors of {len(words)} words")


def use_vectors(model: BiLM, words: Sequence[str], path: pathlib.Path) -> None:
    """Lets a model take the own vectors of a vocabulary from a file of `write_vectors`, or of bilm-tf.

    Raises:
        UserError: no such file, a damaged one, or one of another vocabulary or model.
    """
    _require_spelling(model)
    try:
        with allennlp.h5py().File(path) as file:
            array = file[_EMBEDDING]
            vectors_NP, facts = array[()], dict(array.attrs)
    except (OSError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path} has no array {_EMBEDDING!r} that can be read ({error})",
            "write it by --vocabulary=FILE --out=FILE.hdf5",
        ) from None
    wanted = _facts(model, words)
    for name in wanted.keys() & facts.keys():
        if facts[name] != wanted[name]:
            what = name.removesuffix("_sha256")
            raise UserError(f"{path} is of another {what}", f"give the {what} that it was written with")
    if not np.isfinite(vectors_NP).all():
        raise UserError(f"{path} has numbers that are not finite", "write it again")
    model.precompute(words, vectors_NP)


def _require_spelling(model: BiLM) -> None:
    if not model.config.spells:
        raise UserError("--vocabulary of a model whose words have vectors of their own", "leave it out")


def _facts(model: BiLM, words: Sequence[str]) -> dict[str, Any]:
    """What identifies the words, and the encoder of their characters."""
    return {
        "vocabulary_sha256": hashlib.sha256("\n".join(words).encode(errors="surrogateescape")).hexdigest(),
        "model_sha256": model.encoder_sha256(),
    }
