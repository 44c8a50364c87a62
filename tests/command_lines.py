"""Command lines in texts: found in shell blocks, and parsed by the commands, which then do nothing else."""

import contextlib
import pathlib
import re
import shlex
import tomllib

import pytest
import wrong_commands

from lm_jax import __main__ as console
from lm_jax import config as config_module
from lm_jax import fields, flags, measure
from lm_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MISSING = "the following arguments are required"  # begins what argparse says of a command that is only named

_MODULES = {module.removeprefix("lm_jax."): name for name, module in console.COMMANDS.items()}


class Parsed(Exception):  # noqa: N818 (it is no error)
    """Raised in place of what a command does after its flags were read."""


@contextlib.contextmanager
def only_parsing():
    """In the directory of the repository; every command stops after its flags were read."""
    parse = flags.Parser.parse_args

    def stop(parser, *arguments):
        raise Parsed(parse(parser, *arguments))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flags.Parser, "parse_args", stop)
        patch.chdir(ROOT)
        yield


def shell_lines(text):
    """The commands of a shell block: lines joined at `\\`, split at && and |, without comments."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.split(line, comments=True)
        starts = [0, *(i + 1 for i, word in enumerate(words) if word in ("&&", "|", ";"))]
        for start, end in zip(starts, [*(s - 1 for s in starts[1:]), len(words)]):
            yield from _programs(words[start:end])


def _programs(words):
    """The words from the program on: `srun`, settings of variables and the like stand before it."""
    for word in words:
        if word.startswith("--command="):  # of another program, such as ssh
            yield from shell_lines(word.removeprefix("--command="))
            return
    for i, word in enumerate(words):
        if word in ("python", "lm-jax", "pip", "pytest"):
            yield words[i:]
            return


def complaint(words):
    """What is wrong with a command line, under `only_parsing`; "" if nothing is."""
    program, *rest = words
    if program == "pip":
        extras = {extra for word in rest for extra in re.findall(r"\[([\w,-]+)\]", word)}
        unknown = {name for extra in extras for name in extra.split(",")} - EXTRAS.keys()
        ours = any(word.startswith(("lm_jax", ".")) for word in rest)
        return f"no extra {', '.join(sorted(unknown))}" if unknown and ours else ""
    if program == "pytest" or rest[:2] == ["-m", "pytest"]:
        paths = [word for word in rest if word.endswith(".py")]
        return "".join(f"no file {path}; " for path in paths if not (ROOT / path).is_file())
    if program == "lm-jax":
        return _of_command(rest[0], rest[1:]) if rest and not rest[0].startswith("-") else ""
    if rest[:1] == ["-m"]:
        return _of_module(rest[1], rest[2:])
    if rest[0] in ("train.py", "eval.py"):
        return _of_command(rest[0].removesuffix(".py"), rest[1:])
    return _of_script(rest[0], rest[1:]) if rest[0].endswith(".py") else ""


def _of_module(module, rest):
    if not module.startswith("lm_jax"):
        return ""
    if module == "lm_jax":
        return _of_command(rest[0], rest[1:]) if rest else ""
    if (name := module.removeprefix("lm_jax.")) == "harness":  # has the flags of lm_eval
        return ""
    return _of_command(_MODULES.get(name, name), rest)


def _of_script(path, rest):
    """A script of this repository, whose source must name the flags."""
    if not (ROOT / path).is_file():
        return f"no file {path}" if path.partition("/")[0] in ("benchmarks", "examples") else ""
    source = (ROOT / path).read_text(encoding="utf-8")
    named = [word.partition("=")[0] for word in rest if word.startswith("--")]
    return "".join(f"no flag {name} of {path}; " for name in named if f'"{name}"' not in source)


def _of_command(name, rest):
    """Parses with the command's own parser, and checks the fields of the recipe that it names."""
    if name != "metrics" and name not in wrong_commands.COMMANDS:
        return f"no command {name}"
    main = measure.main if name == "metrics" else wrong_commands.load_main(name)
    try:
        main(list(rest))
    except Parsed as parsed:
        return _of_fields(rest, parsed.args[0])
    except UserError as error:
        return str(error)
    except SystemExit as ended:  # of --help: 0
        return str(ended.code or "")
    return ""


def _of_fields(rest, arguments):
    if getattr(arguments, "config", None) is None:
        return ""
    _, values = flags.split_fields(rest)
    grid = dict(part.partition("=")[::2] for part in getattr(arguments, "grid", ()))
    try:
        config = config_module.load(arguments.config)[1]
        for name, several in grid.items():
            for value in several.split(","):
                fields.override(config, {**values, name: value})
        config = fields.override(config, values)
        if not getattr(config, "init_from", ""):  # otherwise the model is that of another run
            config.check()
    except UserError as error:
        return str(error)
    return ""
