"""Atomic writing and checked reading of small files."""

import json
import os
import pathlib
import tempfile
from typing import Any

from lm_jax.errors import UserError


def write_text(path: pathlib.Path, text: str) -> None:
    """Replaces a file atomically: after a crash it has the old text or the new one, never a part.

    Half characters, as in the names of files that are not UTF-8, are written as Python's escapes.

    Raises:
        OSError: no permission, or a full disk; the old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp creates files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


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


def read_text(path: pathlib.Path) -> str:
    """The UTF-8 text of a file that this library wrote.

    Raises:
        UserError: there is no such file, or it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no file {path}", "check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start})", "restore the file"
        ) from None


def parse_json(text: str, source: str) -> Any:
    """The value of a JSON text.

    Args:
        text: JSON.
        source: the file's name, for errors.

    Raises:
        UserError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for integers of too many digits
        raise UserError(f"{source} is not JSON ({error})", "restore the file") from None


def read_json(path: pathlib.Path) -> Any:
    """The value in a JSON file that this library wrote. Errors as for `read_text` and `parse_json`."""
    return parse_json(read_text(path), str(path))
