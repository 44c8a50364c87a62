"""A cache of directories: each is filled once, completely or not at all.

A directory's name is a hash of all that decides its content: it is never out of date, and runs share it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_jax import files
from lm_jax.errors import UserError

_FORMAT_VERSION = 4  # increase it when the same sources and settings give other texts or tokens
_FACTS = "facts.json"


def key(*facts: Any) -> str:
    """The name of a directory: a hash of the facts that decide its content."""
    return hashlib.sha256(json.dumps([_FORMAT_VERSION, *facts]).encode()).hexdigest()[:20]


def build(directory: Path, fill: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Fills a directory unless it is complete; returns the facts that `fill` returned, then or now.

    It is filled under another name and then renamed: a process that is killed leaves no incomplete directory,
    and if two processes fill the same one, both continue with the first.

    Raises:
        UserError: no permission, or a full disk; or an error that `fill` raises.
    """
    if _is_whole(directory):
        return read_facts(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
        try:
            facts = fill(temporary)
            sizes = {path.name: path.stat().st_size for path in temporary.iterdir()}
            files.write_json(temporary / _FACTS, {"sizes": sizes, "facts": facts})
            _rename(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write the cache of texts and tokens in {directory.parent}: {error.strerror or error}",
            "make room or get permission there, or set LM_JAX_CACHE to another directory",
        ) from None
    return facts


def _rename(temporary: Path, directory: Path) -> None:
    os.chmod(temporary, 0o755)  # mkdtemp's 0700 would hide it from other users of the cache
    if not _is_whole(directory):
        shutil.rmtree(directory, ignore_errors=True)  # a damaged one
    try:
        temporary.rename(directory)
    except OSError:
        if not _is_whole(directory):  # otherwise another process was faster
            raise


def _is_whole(directory: Path) -> bool:
    """Whether every file has its full size: a crash of the machine can truncate files after the renaming."""
    try:
        sizes = json.loads((directory / _FACTS).read_text())["sizes"]
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def read_facts(directory: Path) -> dict[str, Any]:
    """The facts that `fill` returned when the directory was built."""
    return files.read_json(directory / _FACTS)["facts"]
