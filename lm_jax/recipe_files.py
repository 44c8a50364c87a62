"""Where recipes are: files of the user, or those that come with this package."""

import difflib
import pathlib

from lm_jax import files
from lm_jax.errors import UserError

DEFAULT = "gpt"  # the recipe that is trained where none is named


def directory() -> pathlib.Path:
    """The recipes of this package: inside it where it was installed, beside it in its repository."""
    package = pathlib.Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """The names of this package's recipes."""
    return sorted(path.stem for path in directory().glob("*.py"))


def find(text: str) -> pathlib.Path:
    """The file of a recipe.

    Args:
        text: "PATH.py", or the name of one of this package's recipes, such as "gpt".

    Raises:
        UserError: no such file or name.
    """
    path = files.expand(text)
    if path.is_file() and path.suffix == ".py":
        return path
    if path.exists():
        raise UserError(f"{path} is not a file PATH.py", _there_are(path))
    if text.isidentifier():
        if text in names():
            return directory() / f"{text}.py"
        near = difflib.get_close_matches(text, names(), n=1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}, or give a PATH.py"
        raise UserError(f"no recipe {text}", known)
    raise UserError(f"no recipe {path}", _there_are(path))


def _there_are(path: pathlib.Path) -> str:
    """What to give in place of a path that is no recipe."""
    if near := sorted(map(str, path.parent.glob("*.py"))) if path.parent.is_dir() else []:
        return f"there are: {', '.join(near)}"
    if path.stem in names():
        return f"type --config={path.stem} for this package's own"
    return "give --config=PATH.py or the name of a recipe"
