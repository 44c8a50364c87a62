"""Atomic writing and checked reading of small files."""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NoReturn

from lm_jax.errors import UserError

TEMPORARY = ".tmp"  # ends the hidden name of what is not finished; `tidy` removes it
_MISSING = object()  # for members without a default
_NULL = type(None)
_IN_WORDS = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "a list",
    dict: "an object", _NULL: "null",
}  # fmt: skip
_DEEPEST = 100  # levels of a value without a fixed structure, far below Python's limit for recursion


def make_directory(path: pathlib.Path) -> None:
    """Makes a directory unless it exists, and makes sure that files can be written into it.

    Raises:
        OSError: it cannot be made or written into.
    """
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file beside `path` to be written, which replaces it atomically at the end.

    After a crash or an error `path` has the old content or the new one, never a part.

    Raises:
        OSError: no permission, or a full disk; the old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            flush(file)
        os.chmod(temporary, 0o644)  # mkstemp creates files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: pathlib.Path, text: str) -> None:
    """Replaces a file atomically: after a crash it has the old text or the new one, never a part.

    Half characters, as in the names of files that are not UTF-8, are written as Python's escapes.

    Raises:
        OSError: no permission, or a full disk; the old file is unchanged.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def flush(file: Any) -> None:
    """Writes an open file's data to the disk. A rename after it never gives a file without its content."""
    file.flush()
    os.fsync(file.fileno())


def tidy(directory: pathlib.Path) -> None:
    """Removes what a killed process left half written in a directory. No other process may write there."""
    for path in directory.glob(f".*{TEMPORARY}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def dump_json(value: Any, indent: int | None = None, allow_nan: bool = True) -> str:
    """JSON text that has a UTF-8: half characters, as Python makes of bytes that are not UTF-8, are escaped.

    Raises:
        ValueError: NaN or infinity, which JSON does not have, unless `allow_nan`.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=allow_nan)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def write_json(path: pathlib.Path, value: Any) -> None:
    """`write_text` of indented JSON. Raises ValueError for NaN, which JSON does not have."""
    write_text(path, dump_json(value, indent=2, allow_nan=False) + "\n")


def expand(path: str | pathlib.Path) -> pathlib.Path:
    """The path with `~` and `~USER` at its beginning replaced by a home directory.

    Raises:
        UserError: there is no such user, or a NUL byte, which no path has.
    """
    if "\0" in str(path):
        raise UserError(f"the path {str(path)!r} has a NUL byte", "check the path")
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user", "write ./~ for a name that begins with ~") from None


def read_text(path: pathlib.Path) -> str:
    """The UTF-8 text of a file that this library wrote.

    Raises:
        UserError: there is no such file, or it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no file {path}", "check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start})", "restore the file"
        ) from None


def parse_json(text: str, source: str, allow_nan: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: JSON.
        source: the file's name, for errors.
        allow_nan: whether NaN and Infinity are read, which JSON does not have.

    Raises:
        UserError: it is not JSON, or nested too deeply.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"it has the value {constant}")

    try:
        return json.loads(text, parse_constant=None if allow_nan else refuse)
    except (ValueError, RecursionError) as error:  # ValueError also for integers of too many digits
        raise UserError(f"{source} is not JSON ({error})", "restore the file") from None


def read_json(path: pathlib.Path) -> Any:
    """The value in a JSON file that this library wrote. Errors as for `read_text` and `parse_json`."""
    return parse_json(read_text(path), str(path))


class JsonObject:
    """A JSON object whose members are taken with their types checked.

    Args:
        values: any JSON value.
        where: the file and the place in it, for errors.

    Raises:
        UserError: `values` is not an object.
    """

    def __init__(self, values: Any, where: str):
        if not isinstance(values, dict):
            raise UserError(f"{where} is not an object", "restore the file")
        self.values: dict[str, Any] = values
        self.where = where

    @classmethod
    def read(cls, path: pathlib.Path) -> "JsonObject":
        """The object in a file; errors also as for `read_json`."""
        return cls(read_json(path), str(path))

    def take(self, name: str, *types: type, default: Any = _MISSING) -> Any:
        """The value of a member, of one of the types; an int is a float too.

        Raises:
            UserError: no such member and no default, a value of another type, a number beyond the range of
                float64, or lists and objects nested too deeply.
        """
        value = self._typed(name, types, default)
        if problem := _problem(value):
            raise UserError(f"{self.where}: {name} {problem}", "restore the file")
        return value

    def inner(self, name: str) -> "JsonObject":
        """The object in a member, whose own members are checked when they are taken."""
        return JsonObject(self._typed(name, (dict,)), f"{self.where}, {name}")

    def _typed(self, name: str, types: tuple[type, ...], default: Any = _MISSING) -> Any:
        value = self.values.get(name, default)
        if value is _MISSING:
            raise UserError(f"{self.where} has no field {name!r}", "restore the file")
        if type(value) not in types and not (type(value) is int and float in types):
            wanted = " or ".join(_IN_WORDS[one] for one in types)
            # Not the content of a list or an object, which may be nested too deeply for `repr`.
            shown = f"({_IN_WORDS[type(value)]})" if isinstance(value, (list, dict)) else repr(value)[:80]
            raise UserError(f"{self.where}: {name}={shown} is not {wanted}", "restore the file")
        return value


def _problem(value: Any) -> str:
    """What is wrong with a JSON value of any structure; "" if nothing is."""
    if isinstance(value, str):
        return ""
    level = [value]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for item in level:
            if isinstance(item, (int, float)) and abs(item) > sys.float_info.max:
                return "has a number that is out of range"
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
        if not below:
            return ""
        level = below
    return f"is nested deeper than {_DEEPEST} levels"


@contextlib.contextmanager
def new_directory(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory to write into, which becomes `directory` at the end, and is removed after an error.

    Raises:
        UserError: `directory` exists and is not empty.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists", "give a new directory")
    make_directory(directory.parent)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as temporary:
        made = pathlib.Path(temporary, "made")
        made.mkdir()
        yield made
        if directory.exists():
            directory.rmdir()
        shutil.move(made, directory)
