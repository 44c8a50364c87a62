"""Writes a trained model for other programs: GPT, BERT (transformers), ELMo (AllenNLP), n-grams (KenLM).

python -m lm_jax.export runs/gpt exported          a directory with config.json, safetensors and tokenizer
python -m lm_jax.export runs/ngram model.arpa      an ARPA file; .arpa.gz compresses it
python -m lm_jax.export runs/elmo exported         a directory with AllenNLP's options.json and weights.hdf5

The words of an ARPA file have no white space. Where tokens have some, as those of BPE, all are written in
GPT-2's alphabet of bytes, a character for each byte, in which Ġ is a space: the tokens that
tokenizer/tokenizer.json in the run gives when Hugging Face's tokenizers reads it.

The directory opens with from_pretrained of the class of transformers that its config.json names, and with
lm_jax.load, with the same logits. A GPT becomes a GPT-2, with model.position=rope a GPT-NeoX, as the recipe
gpt trains it, and with rope, norm=rms and mlp=swiglu a LLaMA, grouped heads included; a BERT is exported if
it has the published architecture. For other fields the error names those that differ. AutoTokenizer reads
the tokenizer if it is a BPE or a WordPiece.
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import copy
import pathlib
import sys

from lm_jax import flags
from lm_jax.errors import UserError, reported, with_article
from lm_jax.language_models import load as language_model
from lm_jax.language_models.base import LanguageModel
from lm_jax.language_models.bilm import BiLM
from lm_jax.language_models.ngram import NGramLanguageModel
from lm_jax.language_models.trained import Trained
from lm_jax.ngram import arpa
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.vocabulary import SPECIALS, Vocabulary
from lm_jax.pretrained import allennlp, huggingface
from lm_jax.pretrained.huggingface import Pretrained
from lm_jax.text.bpe import printable
from lm_jax.text.words import words_of


def export(model: LanguageModel, path: pathlib.Path | str) -> str:
    """Writes a trained model as a directory for transformers, or an n-gram model as an ARPA file.

    Args:
        model: what `lm_jax.load` opened.
        path: a new directory, or a file .arpa or .arpa.gz.

    Returns:
        What to know of the file before it is used; "" if nothing.

    Raises:
        UserError: a model or a path that cannot be exported.
    """
    path = pathlib.Path(path)
    trained = getattr(model, "trained", None)
    if isinstance(model, BiLM):
        allennlp.write(path, model.config, model.params)
        marks = "; before a sentence stands <S> there, and in training the end of the last one did"
        return f"without softmax and vocabulary{marks if trained else ''}"
    if isinstance(trained, Trained):
        huggingface.write(path, Pretrained(trained.config, trained.params, trained.tokenizer, trained.task))
    elif isinstance(model, NGramLanguageModel):
        if not path.name.endswith((".arpa", ".arpa.gz")):
            raise UserError(f"{path} is not a file name of an n-gram model", "end it with .arpa or .arpa.gz")
        written, note = _without_white_space(model.model)
        arpa.write(written, path)
        return note
    else:
        raise UserError(
            f"{with_article(model.family)} model cannot be exported",
            "give a GPT, a BERT, an ELMo or an n-gram model",
        )
    return ""


def _without_white_space(model: NGramModel) -> tuple[NGramModel, str]:
    """The model with words that ARPA files can hold, and how they are written if that is not as they are."""
    words = model.vocabulary.words[len(SPECIALS) :]
    if all(words_of(word) == [word] for word in words):
        return model, ""
    renamed = copy.copy(model)
    renamed.vocabulary = Vocabulary([*SPECIALS, *map(printable, words)])
    return renamed, "tokens with white space: all are written in GPT-2's alphabet of bytes, Ġ is a space"


def main(argv: list[str]) -> None:
    """Parses the flags, opens the run and writes it."""
    parser = flags.Parser(prog="python -m lm_jax.export", description=__doc__)
    parser.add_argument(
        "run", type=flags.model, metavar="RUN", help="a run directory, or whatever lm_jax.load opens"
    )
    parser.add_argument(
        "path",
        type=flags.path,
        metavar="PATH",
        help="a new directory, or for n-grams a file .arpa or .arpa.gz",
    )
    parser.add_argument("--step", default="best", help="best (by validation), latest, or a step's number")
    arguments = parser.parse_args(argv)
    model = language_model.load(arguments.run, arguments.step)
    note = export(model, arguments.path)
    print(f"written: {arguments.path}" + (f" ({note})" if note else ""))


if __name__ == "__main__":
    with reported():
        main(sys.argv[1:])
