"""Command lines: the flags of each command, and a recipe's fields as `--config.a.b=value`."""

import argparse
import difflib
import math
import os
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from lm_jax import field_names, fields, files, recipe_files, runtime, user_code
from lm_jax.config import Config, CountConfig
from lm_jax.errors import UserError
from lm_jax.parallel.sharding import MeshConfig

_MOST_DIGITS = 18


class _Once(argparse.Action):
    """Stores a value, and refuses a second one: a command would silently ignore the first."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
        given = vars(namespace).setdefault("given", set())
        if self.dest in given:
            raise UserError(f"{option} is given twice", "give it once")
        given.add(self.dest)
        setattr(namespace, self.dest, _one(value, option))


class _Append(argparse.Action):
    """Appends a value to a list."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: str | None = None) -> None:
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), _one(value, option)])


def _one(value: Any, option: str | None) -> Any:
    if value == []:  # argparse removes "--", even as a value
        raise UserError(f"{option}=-- is no value", "leave the flag out, or give another value")
    return value


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, as everywhere; its help keeps line breaks."""

    def __init__(self, *, prog: str = "lm_jax", description: str | None = None, **options: Any):
        options |= {"prog": runtime.as_called(prog), "description": runtime.as_called(description or "")}
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        for name, action in ((None, _Once), ("store", _Once), ("append", _Append)):
            self.register("action", name, action)
        self.add_argument(
            "--import",
            dest="imports",
            action="append",
            default=[],
            metavar="FILE.py",
            help="a file or module with your own models, tasks or optimizers; may repeat",
        )

    def parse_args(self, *arguments: Any) -> Any:  # type: ignore[override]
        """Parses, and imports what --import names."""
        parsed = super().parse_args(*arguments)
        vars(parsed).pop("given", None)
        for spec in parsed.imports:
            user_code.import_part(spec)
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print, with the flag that an unknown one may mean."""
        unknown = re.match(r"unrecognized arguments: --([\w.-]+)", message)
        near = self._nearest(unknown[1]) if unknown else []
        raise UserError(message, field_names.did_you_mean(near) if near else f"see {self.prog} --help")

    def _nearest(self, name: str) -> list[str]:
        """The flags that an unknown one may mean; of a command that reads a recipe also the fields."""
        own = {option.lstrip("-").replace("-", "_"): option for option in self._option_string_actions}
        if name.replace("-", "_") in own:
            return [own[name.replace("-", "_")]]
        if "--config" in self._option_string_actions:
            known = dict.fromkeys(n for part in (Config(), CountConfig()) for n, _ in fields.flatten(part))
            if found := field_names.with_last_part(name, list(known)):
                return [f"--config.{field}" for field in found]
        return [own[near] for near in difflib.get_close_matches(name.replace("-", "_"), own, n=1)]


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """Adds --no-bos, --no-eos and --stride: how texts are scored."""
    for name, mark in (("bos", "beginning"), ("eos", "end")):
        parser.add_argument(
            f"--no-{name}",
            dest=name,
            action="store_false",
            help=f"n-grams: score without the {mark} marks of sentences; an ARPA file may lack them",
        )
    parser.add_argument(
        "--stride", type=whole, help="tokens from window to window (default: half the context)"
    )


def recipe(default: str = recipe_files.DEFAULT) -> dict[str, Any]:
    """The settings of the flag that names a recipe."""
    known = f"PATH.py, or one of {', '.join(recipe_files.names())} (default: {default})"
    return {"default": default, "metavar": "RECIPE[:VARIANT]", "help": known}


def path(text: str) -> str:
    """The type of a flag that names a file or a directory: `~` is expanded.

    Raises:
        argparse.ArgumentTypeError: an empty name, or `~USER` of nobody.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; give one, or leave the flag out")
    try:
        return str(files.expand(text)) if text.startswith("~") else text
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def model(text: str) -> str:
    """The type of a flag that names a model: a `path`, or hf:NAME."""
    return text if text.startswith("hf:") else path(text)


def named_model(text: str) -> tuple[str, str]:
    """The type of a flag that names a model as `model` does, or as NAME=PATH: what to call it, and the path.

    What stands before the first `=` is a name unless it holds a `/` or the whole text is a path, as those of
    sweeps are.
    """
    name, equals, rest = text.partition("=")
    if equals and name and "/" not in name and not os.path.exists(text):
        return name, model(rest)
    return (text, model(text)) if text.startswith("hf:") else (path(text), path(text))


def whole(text: str) -> int:
    """The type of a flag that is a whole number of at most 18 digits: jax and numpy have no larger ones."""
    if len(text) > _MOST_DIGITS:
        raise argparse.ArgumentTypeError(f"a number of {len(text)} digits is too large")
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None


def number(text: str) -> float:
    """The type of a flag that is a finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid float value: {text!r}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def utf8(text: str) -> str:
    """The type of a flag that is a text for a model.

    Raises:
        argparse.ArgumentTypeError: bytes that are not UTF-8, which Python passes on as lone surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8; convert it") from None
    return text


def split_fields(argv: Sequence[str], group: str = "config") -> tuple[list[str], dict[str, str]]:
    """Takes `--config.NAME=VALUE` and `--config.NAME VALUE` out of a command line.

    Of several values of a field the last one counts, so that a script's fields can be followed by others.

    Args:
        argv: the arguments.
        group: the name in place of `config`.

    Returns:
        The other arguments, and name -> text.

    Raises:
        UserError: a field without a value.
    """
    others, values = [], {}
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith(f"--{group}."):
            others.append(argument)
            continue
        name, equals, text = argument.removeprefix(f"--{group}.").partition("=")
        value = text if equals else next(arguments, None)
        if value is None:
            raise UserError(f"--{group}.{name} has no value", f"type --{group}.{name}=VALUE")
        values[name] = value
    return others, values


MESH_HELP = """on several devices: --mesh.data=N, --mesh.fsdp=N and --mesh.tensor=N set how they share rows
and parameters (default: as the model was trained, as far as there are devices)"""


def split_mesh(argv: Sequence[str]) -> tuple[list[str], MeshConfig | None]:
    """Takes `--mesh.AXIS=N` out of a command line; None if there are none.

    Raises:
        UserError: an unknown axis, or an invalid size.
    """
    argv, values = split_fields(argv, "mesh")
    if not values:
        return argv, None
    config = fields.override(MeshConfig(), values)
    config.check()
    return argv, config


def field_table(config: Any) -> str:
    """A recipe's fields, values and meanings, for --help."""
    lines = []
    for name, value, comment in fields.describe(config):
        shown = f"  --config.{name}={value}"
        text = textwrap.fill(comment, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
        lines.append(shown + ("\n" + text if comment else ""))
    return "\n".join(lines)
