"""The flags of mixtures, and the mixtures that they ask for."""

import argparse
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax import files, seal
from lm_jax.data.corpora import Progress
from lm_jax.errors import UserError
from lm_jax.evaluation.row import Row
from lm_jax.evaluation.texts import Text, read_held_out
from lm_jax.language_models.mixtures import fitting, parts
from lm_jax.language_models.mixtures.base import Component
from lm_jax.language_models.mixtures.by_word import WordMixture
from lm_jax.language_models.mixtures.mixture import TokenMixture
from lm_jax.language_models.mixtures.parts import Part
from lm_jax.language_models.mixtures.weights import Weights

_SHOWN = 4  # decimals of weights


class Mix(NamedTuple):
    """A mixture that is asked for.

    Attributes:
        name: what to call it.
        parts: its components.
        file: the name of the file that keeps it, for `lm_jax.load`.
        weights: as given; None: they are fitted.
        by_context: whether weights are fitted for each context.
    """

    name: str
    parts: Sequence[Part]
    file: str
    weights: Sequence[float] | None = None
    by_context: bool = False


class Opened(NamedTuple):
    """A mixture whose models are open.

    Attributes:
        mix: what was asked for.
        components: with their default settings.
        text: to be fitted on; None where the weights are given.
        source: what the text is.
    """

    mix: Mix
    components: Sequence[Component]
    text: Text | None
    source: str


class Mixed(NamedTuple):
    """A mixture that is ready to score.

    Attributes:
        model: the mixture.
        fitted_on: the text that its weights were fitted on; None where they were given.
        iterations: of EM; 0 where they were given.
    """

    model: TokenMixture | WordMixture
    fitted_on: Text | None
    iterations: int

    def note(self, row: Row) -> None:
        """Writes into the mixture's row its size and weights, and whether it was fitted on what it scored."""
        row.parameters = self.model.num_parameters
        weights = self.model.weights
        shown = ", ".join(
            f"{weight:.{_SHOWN}f} {component.name}"
            for weight, component in zip(weights.all_K, self.model.components, strict=True)
        )
        table_SK = weights.by_situation_SK
        by = "" if table_SK is None else f" where contexts are rare, and others in {len(table_SK)} contexts"
        steps = f", {self.iterations} iterations" if self.iterations else ""
        row.notes.append(f"weights {shown}{by} ({weights.how}{steps})")
        if self.fitted_on is not None and self.fitted_on.sha256() == row.text_sha256:
            row.notes.append("its weights were fitted on this text: it does not compare with other models")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --mix, --mix-by-context and --mix-weights."""
    parser.add_argument(
        "--mix",
        action="append",
        default=[],
        metavar="[NAME=]A,B,...",
        help="a mixture of models, by name or path; cache or cache:ORDER are n-grams of the document so far, "
        "A+cache is a neural cache and A+dynamic dynamic evaluation of a neural model; by token where tokens "
        "are equal, else by word; weights are fitted on the first run's validation part; may repeat",
    )
    parser.add_argument(
        "--mix-by-context",
        action="append",
        default=[],
        metavar="[NAME=]A,B,...",
        help="as --mix, with weights for each context: how sure the model is, how much of the history the "
        "n-grams have seen",
    )
    parser.add_argument(
        "--mix-weights",
        action="append",
        default=[],
        metavar="[NAME=]W,W,...",
        help="weights of a --mix that are not to be fitted, in the order of its parts",
    )


def parse(arguments: Any, named: Sequence[tuple[str, str]]) -> list[Mix]:
    """The mixtures that the flags ask for.

    Args:
        arguments: with `mix`, `mix_by_context` and `mix_weights`.
        named: names and paths of the models.

    Raises:
        UserError: two mixtures, or a mixture and a model, of one name; weights of no mixture, or no numbers.
    """
    known = dict(named) | {path: path for _, path in named}
    asked = [(text, False) for text in arguments.mix] + [(text, True) for text in arguments.mix_by_context]
    mixes = []
    for number, (text, by_context) in enumerate(asked):
        name, listed = _named(text)
        mixes.append(Mix(name, parts.parse(listed, known), f"mixture-{number}.json", by_context=by_context))
    names = [name for name, _ in named] + [mix.name for mix in mixes]
    if twice := sorted({mix.name for mix in mixes if names.count(mix.name) > 1}):
        raise UserError(f"two models are named {twice[0]}", "give each --mix=NAME=A,B another name")
    for text in arguments.mix_weights:
        name, listed = _named(text)
        if name == text and len(mixes) == 1:
            name = mixes[0].name
        places = [i for i, mix in enumerate(mixes) if mix.name == name and not mix.by_context]
        if not places:
            raise UserError(
                f"--mix-weights={text} of no --mix", "write --mix-weights=NAME=W,W of --mix=NAME=A,B"
            )
        mixes[places[0]] = mixes[places[0]]._replace(weights=_weights(listed, len(mixes[places[0]].parts)))
    return mixes


def open_mix(mix: Mix, open_model: Callable[[str], Any], components: dict[Part, Component]) -> Opened:
    """Opens the components of a mixture, and the text that it is fitted on.

    Args:
        mix: what is asked for.
        open_model: path -> the opened model.
        components: those that other mixtures have opened; new ones are added.

    Raises:
        UserError: components that do not mix, or no validation part to fit the weights on.
    """
    opened = parts.open_parts(mix.parts, open_model, components)
    fitting.make(opened, fitting.equal_weights(opened))  # raises where they do not mix
    if mix.weights is not None:
        return Opened(mix, opened, None, "")
    first = str(files.expand(next(part.path for part in mix.parts if part.path)))
    if not seal.exists(pathlib.Path(first) / "valid.jsonl"):
        raise UserError(
            f"{mix.name}: the first model has no validation part to fit weights on",
            "name a run of train.py first, or give --mix-weights",
        )
    return Opened(mix, opened, read_held_out(pathlib.Path(first), "valid"), f"the validation part of {first}")


def fit(opened: Opened, report: Progress) -> Mixed:
    """The mixture, fitted unless its weights are given; `report` as for `evaluation.base.evaluate`."""
    mix, components, text, source = opened
    if text is None:
        weights = Weights(np.array(mix.weights, float), how="given")
        return Mixed(fitting.make(components, weights), None, 0)
    documents = [document.text for document in text.documents]
    model, found = fitting.fit_mixture(components, documents, source, mix.by_context, report=report)
    return Mixed(model, text, found.iterations)


def _named(text: str) -> tuple[str, str]:
    """A name and what follows its `=`; without one the text is both."""
    name, equals, rest = text.partition("=")
    if equals and name and not set(name) & {"/", ","}:
        return name, rest
    return text, text


def _weights(text: str, count: int) -> list[float]:
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(value >= 0 for value in values) or abs(sum(values) - 1) > 1e-6:
        raise UserError(
            f"--mix-weights={text} for {count} components",
            "give a number of 0 or more for each, whose sum is 1, such as 0.7,0.3",
        )
    return values
