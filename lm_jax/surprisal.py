"""Writes the surprisal of each word of texts, or of each token: −log p given what precedes it.

python -m lm_jax.surprisal --model=hf:gpt2 --text=FILE --out=FILE.tsv               bits; a text a line
python -m lm_jax.surprisal --model=runs/gpt --model=runs/ngram --text=FILE --documents=file --out=FILE.tsv
python -m lm_jax.surprisal --model=hf:gpt2 --text=FILE --words=WORDS.tsv#COLUMN --out=FILE.tsv
python -m lm_jax.surprisal --model=hf:gpt2 --words=WORDS.tsv#COLUMN --by=COLUMN --out=FILE.tsv

FILE is a text with one text a line, or a corpus as data.corpus names it (jsonl:, tsv:, csv:GLOB#FIELD). Words
are what stands between white space, or those of a column, of which the texts must consist; without --text the
texts are these words with a space between them, a text for each run of rows with one value in the column of
--by.

The first line of the table is "# " and a JSON object that says how it was made. Then come the names of the
columns and a line for each word, without quoting; "start" and "end" are bytes of the text. Each text ends
with a line whose word is empty: what follows the last word, with the end of the text. The surprisals of a
text's lines add up to that of the text.

Where tokens begin with white space, the probability that a word ends counts to that word and not to the next
(Pimentel and Meister 2024; Oh and Schuler 2024; see lm_jax/language_models/word_scores.py); --uncorrected
leaves it with the next word's first token, as most tools do. Masked models, such as BERTs, have
pseudo-log-likelihoods in place of log-probabilities, which compare with no other model's: the first line says
so.
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import itertools
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax import errors, files, flags
from lm_jax.data import corpora
from lm_jax.data.documents import DOCUMENTS, Document
from lm_jax.errors import UserError
from lm_jax.evaluation import surprisals, texts
from lm_jax.evaluation.surprisals import Surprisals
from lm_jax.evaluation.texts import Text
from lm_jax.evaluation.zero_shot import Asked, each
from lm_jax.language_models import load as language_model
from lm_jax.language_models.base import Expects, ScoredText
from lm_jax.language_models.pseudo import scorer_of
from lm_jax.progress import Reporter
from lm_jax.text.words import word_spans

_ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NONE = "NA"  # the surprisal of a word without a token of its own
_UNITS = {"bits": math.log(2), "nats": 1.0}


class Source(NamedTuple):
    """The texts, and the bytes of the words of each, int64 [W, 2]; None: what stands between white space."""

    text: Text
    words: Sequence[np.ndarray] | None


def _parser() -> flags.Parser:
    parser = flags.Parser(prog="python -m lm_jax.surprisal", description=__doc__, epilog=flags.MESH_HELP)
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        type=flags.model,
        metavar="PATH",
        help="a run directory, an ARPA file, a directory in Hugging Face's form or hf:NAME; may repeat",
    )
    parser.add_argument("--text", type=flags.path, metavar="FILE", help="the texts")
    parser.add_argument("--out", required=True, type=flags.path, metavar="FILE.tsv", help="the table")
    parser.add_argument("--unit", choices=_UNITS, default="bits", help="of surprisal (default: bits)")
    parser.add_argument(
        "--per", choices=("word", "token"), default="word", help="a line each (default: word)"
    )
    parser.add_argument("--words", metavar="FILE#COLUMN", help="a .tsv file with your own words, a row each")
    parser.add_argument("--by", metavar="COLUMN", help="of the words: rows with one value are one text")
    parser.add_argument("--documents", choices=DOCUMENTS, help="how to cut FILE into texts (default: line)")
    parser.add_argument("--uncorrected", action="store_true", help="leave each space with the word after it")
    parser.add_argument("--step", default="best", help="best (by validation), latest, or a step's number")
    parser.add_argument(
        "--stride", type=flags.whole, help="tokens from window to window (default: half the context)"
    )
    return parser


def main(argv: list[str]) -> None:
    """Parses the flags, scores the texts, and writes the table."""
    argv, mesh = flags.split_mesh(argv)
    arguments = _parser().parse_args(argv)
    _check(arguments)
    path = pathlib.Path(arguments.out)
    files.make_directory(path.parent)  # before the work
    source = _read(arguments)
    models = [language_model.load(name, arguments.step, mesh) for name in arguments.model]
    scorers = [_Scorer(model, arguments) for model in models]
    header = {
        "unit": arguments.unit,
        "per": arguments.per,
        **source.text.data,
        "text_sha256": source.text.sha256(),
        "models": [
            {"model": name, **scorer.describe()}
            for name, scorer in zip(arguments.model, scorers, strict=True)
        ],
    }
    columns = ("model", "document", "number", arguments.per, "start", "end", "tokens", "unknown", "surprisal")
    count = num_covered = 0
    with (
        Reporter() as report,
        files.replacing(path) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        file.write(f"# {files.dump_json(header)}\n" + "\t".join(columns) + "\n")
        for name, scorer in zip(arguments.model, scorers, strict=True):
            for line in _lines(scorer, source, arguments, report):
                file.write("\t".join(cell.translate(_ESCAPES) for cell in (name, *line)) + "\n")
                count += 1
                num_covered += line[-1] == _NONE
    if num_covered:
        print(f"{num_covered} words: a token of the word before covers them ({_NONE})", file=sys.stderr)
    print(f"written: {path}, {count} lines for {len(source.text.documents)} texts")


def _check(arguments: Any) -> None:
    """Raises UserError for flags that do not go together."""
    if arguments.text is None and arguments.words is None:
        raise UserError("no --text", "give --text=FILE, or --words=FILE.tsv#COLUMN")
    for flag, given, refused, where in (
        ("--by", arguments.by, arguments.words is None, "no --words"),
        ("--by", arguments.by, arguments.text, "--text"),
        ("--documents", arguments.documents, arguments.text is None, "no --text"),
        ("--words", arguments.words, arguments.per == "token", "--per=token"),
        ("--uncorrected", arguments.uncorrected, arguments.per == "token", "--per=token"),
    ):
        if given and refused:
            raise UserError(f"{flag} with {where}", "leave it out")


def _read(arguments: Any) -> Source:
    """The texts and the user's words.

    Raises:
        UserError: a file that cannot be read, no text, or words that the texts do not consist of.
    """
    words = _read_words(arguments.words) if arguments.words else []
    if arguments.text is None:
        documents = list(_join(words, arguments.by))
        text = Text(arguments.words, documents, {"words": arguments.words, "by": arguments.by})
    elif arguments.documents in (None, "line"):
        text = Text(arguments.text, texts.lines_or_corpus(arguments.text), {"corpus": arguments.text})
    else:
        text = texts.choose("", arguments.text, arguments.documents, keeps_empty=True)
    if arguments.words is None:
        return Source(text, None)
    spans, first = [], 0
    for document in text.documents:
        spans.append(surprisals.find_words(document, words, first))
        first += len(spans[-1])
    if first < len(words):
        raise UserError(
            f"{words[first].name} has the word {words[first].text!r}, and the texts have ended",
            "leave the further words out, or add their text",
        )
    return Source(text._replace(data={**text.data, "words": arguments.words}), spans)


def _read_words(name: str) -> list[Document]:
    """The words of a column, each with the other cells of its row."""
    words = texts.choose_records(name if corpora.is_spec(name) else f"tsv:{name}", "word").documents
    if not words:
        raise UserError(f"no words in {name}", "give a file with at least one")
    return list(words)


def _join(words: Sequence[Document], by: str | None) -> Iterator[Document]:
    """Texts of words with a space between them, one for each run of rows with the same value."""
    for value, rows in itertools.groupby(words, lambda word: word.label(by) if by else ""):
        some = list(rows)
        yield Document(value or some[0].name, " ".join(word.text for word in some))


class _Scorer:
    """What one model says of texts, with the shares that words are corrected by where they can be."""

    def __init__(self, model: Any, arguments: Any):
        self._scorer = scorer_of(model, "give texts a probability")
        self._model, self._stride = model, arguments.stride
        self._boundary_V: np.ndarray | None = None
        if arguments.per == "token":
            self._spaces = "not corrected: each token has its own"
        elif arguments.uncorrected:
            self._spaces = "not corrected: --uncorrected"
        elif not isinstance(model, Expects):
            self._spaces = "not corrected: the model does not read left to right"
        elif not model.tokenizer.lossless:
            self._spaces = "not corrected: white space is in no token"
        else:
            self._spaces = "corrected (Pimentel and Meister 2024)"
            self._boundary_V = surprisals.boundary_tokens(model.tokenizer)

    def describe(self) -> dict[str, Any]:
        """How the surprisals are made, for the record."""
        context = self._scorer.describe_context(self._stride)
        [nothing] = self._scorer.score([""])
        return {
            "family": self._model.family,
            "step": self._model.step,
            "conditioned_on": nothing.conditioned_on,
            "context": context,
            "leading_spaces": self._spaces,
        }

    def score(self, asked: Sequence[Asked]) -> Sequence[tuple[ScoredText, np.ndarray | None]]:
        """The tokens of each text, and the log shares of what tells that a word has ended."""
        some = [one.text for one in asked]
        if self._boundary_V is None:
            return [(scored, None) for scored in self._scorer.score(some, self._stride)]
        return [(e.scored, e.log_shares) for e in self._model.expect(some, self._boundary_V, self._stride)]


def _lines(scorer: _Scorer, source: Source, arguments: Any, report: Any) -> Iterator[Sequence[str]]:
    """The cells of each line but the model's."""
    documents = source.text.documents
    asked = [Asked(document.text, document, "text") for document in documents]
    for i, (scored, log_shares) in enumerate(each(scorer.score, asked, source.text, report)):
        if arguments.per == "token":
            made = surprisals.of_tokens(scored)
        else:
            words_W2 = word_spans(scored.text) if source.words is None else source.words[i]
            made = surprisals.of_words(scored, words_W2, log_shares)
        for number, part in enumerate(_cells(scored, made, arguments), 1):
            yield (documents[i].name, str(number), *part)


def _cells(scored: ScoredText, made: Surprisals, arguments: Any) -> Iterator[Sequence[str]]:
    """The text, bytes, tokens and surprisal of each part; what follows the last word has no text."""
    by_word = arguments.per == "word"
    for i, ((start, end), nats, num_tokens, num_unknown) in enumerate(zip(*(x.tolist() for x in made))):
        is_end = by_word and i == len(made.nats) - 1
        if is_end and not num_tokens:
            continue
        text = b"" if is_end else scored.text[start:end]
        surprisal = f"{nats / _UNITS[arguments.unit]:.6f}" if num_tokens else _NONE
        shown = map(str, (start, end, num_tokens, num_unknown))
        yield (text.decode(errors="backslashreplace"), *shown, surprisal)


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
