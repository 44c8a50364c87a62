"""Command lines: the flags of each command, and a recipe's fields as `--config.a.b=value`."""

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from lm_jax import config as config_module
from lm_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse whose complaint is one line, like every other error; its help keeps the lines as written."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print."""
        raise UserError(message, f"see {self.prog} --help")


def split_fields(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Takes `--config.NAME=VALUE` and `--config.NAME VALUE` out of a command line.

    Returns:
        The other arguments, and name -> text.

    Raises:
        UserError: a field without a value.
    """
    others, values = [], {}
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith("--config."):
            others.append(argument)
            continue
        name, equals, text = argument.removeprefix("--config.").partition("=")
        value = text if equals else next(arguments, None)
        if value is None:
            raise UserError(f"--config.{name} has no value", f"type --config.{name}=VALUE")
        values[name] = value
    return others, values


def field_table(config: Any) -> str:
    """A recipe's fields, values and meanings, for --help."""
    lines = []
    for name, value, comment in config_module.describe(config):
        shown = f"  --config.{name}={value}"
        text = textwrap.fill(comment, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
        lines.append(shown + ("\n" + text if comment else ""))
    return "\n".join(lines)
