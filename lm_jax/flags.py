"""Command lines: the flags of each command, and a recipe's fields as `--config.a.b=value`."""

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from lm_jax import fields, user_code
from lm_jax.errors import UserError
from lm_jax.parallel.sharding import MeshConfig


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, as everywhere; its help keeps line breaks."""

    def __init__(self, **options: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
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
        for spec in parsed.imports:
            user_code.import_part(spec)
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print."""
        raise UserError(message, f"see {self.prog} --help")


def split_fields(argv: Sequence[str], group: str = "config") -> tuple[list[str], dict[str, str]]:
    """Takes `--config.NAME=VALUE` and `--config.NAME VALUE` out of a command line.

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
