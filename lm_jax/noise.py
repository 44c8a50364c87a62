"""Shows a text before and after each noise, as a model that removes noise reads it.

    python -m lm_jax.noise --config=configs/bart.py --text=FILE
    python -m lm_jax.noise --config=configs/bart.py --text=FILE --config.task.infill=0.5 --step=7
    echo "A text. Of two sentences." | python -m lm_jax.noise --config=configs/bart.py --text=-

The noises (Lewis et al. 2020, section 2.2) act in this order:

    permute   sentences exchange places
    replace   words become random tokens
    mask      words become mask tokens, one for each of their tokens
    delete    words disappear
    infill    spans of words, 3 on average, each become one mask token; a span of no words inserts one
    rotate    the text begins at a random token, and what was before it follows at the end

Each noise is shown alone, with the recipe's share of it, or a usual one where the recipe has none (`usual`);
at last come the recipe's noises together. Shown is the first row of tokens of the text; --row=N shows a later
one, and --step=N the noise of another step of training. On a terminal changed tokens are bold, and | stands
before a token that did not follow the one before it; --marks prints these marks into a file, too.
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from lm_jax import config as config_module
from lm_jax import errors, fields, flags
from lm_jax.data import noising, pipeline
from lm_jax.data.noising import NEED_MASK, NOISES, Noise, Noised, Vocabulary, add_noise
from lm_jax.errors import UserError
from lm_jax.evaluation.texts import lines_or_corpus
from lm_jax.progress import Reporter
from lm_jax.text.base import Tokenizer
from lm_jax.text.words import is_blank

_USUAL = {"permute": 1.0, "replace": 0.15, "mask": 0.15, "delete": 0.15, "infill": 0.3, "rotate": 1.0}
_LONGEST_TEXT = 1 << 22  # characters that are read of a text


def main(argv: list[str]) -> None:
    """Parses the flags, and prints the text before and after each noise."""
    argv, values = flags.split_fields(argv)
    parser = flags.Parser(prog="python -m lm_jax.noise", description=__doc__)
    parser.add_argument("--config", **flags.recipe("bart"))
    parser.add_argument(
        "--text", required=True, type=flags.path, metavar="FILE", help="a text, or a corpus; -: the input"
    )
    parser.add_argument("--row", type=flags.whole, default=0, help="which row of the text, from 0")
    parser.add_argument("--step", type=flags.whole, default=0, help="which step's noise")
    parser.add_argument("--marks", action="store_true", help="mark what changed, also in a file")
    arguments = parser.parse_args(argv)
    for name in ("row", "step"):
        if getattr(arguments, name) < 0:
            raise UserError(f"--{name}={getattr(arguments, name)}", "it must be 0 or more")
    _, config = config_module.load(arguments.config)
    config = fields.override(config, values)
    fields.check(config)
    task: Any = getattr(config, "task", None)
    if not isinstance(task, Noise):
        raise UserError(f"{arguments.config} is no recipe of denoising", "type --config=bart")
    noising.check(task, "task.")
    text = _read(arguments.text)
    with Reporter() as report:
        tokenizer = pipeline.prepare(config.data, progress=report).tokenizer
    Vocabulary.of(tokenizer, task)  # raises for a tokenizer without a mask token before anything is shown
    ids = _row(tokenizer.encode_ids([text])[0], config.data.sequence_length - 2, arguments.row)
    console = Console(highlight=False, soft_wrap=True, emoji=False, markup=False)
    shows_marks = arguments.marks or console.is_terminal
    for title, tokens, places in _shown(task, tokenizer, ids, [config.seed, arguments.step]):
        console.print(Text(title, style="bold cyan"))
        if len(tokens):
            console.print(_marked(tokenizer, tokens, places, shows_marks), end="\n\n")


def _read(path: str) -> str:
    """The beginning of the input, of a file, or of the texts of a corpus."""
    if path == "-":
        text = sys.stdin.read(_LONGEST_TEXT)
    else:
        text = "\n".join(document.text for document in lines_or_corpus(path))[:_LONGEST_TEXT]
    if is_blank(text):
        raise UserError(
            f"no text in {'the input' if path == '-' else path}", "give a text of a few sentences"
        )
    return text.rstrip("\n")


def _row(ids: np.ndarray, room: int, number: int) -> np.ndarray:
    """The tokens of a row of the text."""
    rows = -(-len(ids) // room)
    if number >= rows:
        raise UserError(
            f"--row={number} of a text of {len(ids)} tokens, which are {rows} rows of {room}",
            f"give a number from 0 to {rows - 1}",
        )
    return ids[number * room : (number + 1) * room]


def _shown(
    task: Noise, tokenizer: Tokenizer, ids: np.ndarray, seed: list[int]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """A title, tokens and places: of the text, of each noise alone, and of all noises of the recipe."""
    words = int(tokenizer.starts_word[ids[1:]].sum()) + 1
    yield f"text: {len(ids)} tokens, {words} words", ids, np.arange(len(ids))
    for name in NOISES:
        share = getattr(task, name) or _USUAL[name]
        none = dict.fromkeys(NOISES, 0.0)
        settings = {field.name: getattr(task, field.name) for field in dataclasses.fields(Noise)}
        noise = Noise(**settings | none | {name: share})
        usual = "" if getattr(task, name) else ", usual"
        if name in NEED_MASK and "mask" not in tokenizer.special_ids:
            yield f"{name}: the {tokenizer.kind} tokenizer has no mask token", ids[:0], ids[:0]
        else:
            yield _titled(f"{name}={share}{usual}", noise, tokenizer, ids, seed)
    if len(task.active) > 1:
        shares = " ".join(f"{name}={getattr(task, name)}" for name in task.active)
        yield _titled(f"the recipe: {shares}", task, tokenizer, ids, seed)


def _titled(
    title: str, noise: Noise, tokenizer: Tokenizer, ids: np.ndarray, seed: list[int]
) -> tuple[str, np.ndarray, np.ndarray]:
    made: Noised = add_noise(noise, Vocabulary.of(tokenizer, noise), ids[None], np.array([len(ids)]), seed)
    count = int(made.lengths_B[0])
    places = made.places_BT[0, :count]
    kept = int((places >= 0).sum())
    return f"{title}: {count} tokens, {kept} of them from the text", made.tokens_BT[0, :count], places


def _marked(tokenizer: Tokenizer, tokens: np.ndarray, places: np.ndarray, shows_marks: bool) -> Text:
    """The text of tokens; what is new is bold, and | marks where the text was cut."""
    made, start = Text(), 0
    while start < len(tokens):
        end = start + 1
        if places[start] >= 0:  # a run of tokens that followed each other
            while end < len(tokens) and places[end] == places[end - 1] + 1:
                end += 1
        before = places[start - 1] if start else -1
        is_cut = places[start] >= 0 and (before >= 0 or (not start and places[start] > 0))
        piece = _written(tokenizer, tokens[start:end])
        space = " " if start and not tokenizer.lossless and tokenizer.starts_word[tokens[start]] else ""
        made.append(space + ("|" if is_cut and shows_marks else ""), style="red")
        made.append(piece, style="" if places[start] >= 0 else "bold yellow")
        start = end
    return made


def _written(tokenizer: Tokenizer, tokens: np.ndarray) -> str:
    """Tokens as text, special ones by their names."""
    names = {token_id: name for name, token_id in tokenizer.special_ids.items()}
    if len(tokens) == 1 and int(tokens[0]) in names:
        return tokenizer.special_text(names[int(tokens[0])])
    return tokenizer.decode(tokens)


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
