"""A cache of directories: each is filled once, completely or not at all, and sealed.

A directory's name is a hash of all that decides its content: it is never out of date, and runs share it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lm_jax import files, seal
from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.progress import say

_FORMAT_VERSION = 5  # increase it when the same sources and settings give other texts, tokens or files


def key(*facts: Any) -> str:
    """The name of a directory: a hash of the facts that decide its content."""
    return hashlib.sha256(json.dumps([_FORMAT_VERSION, *facts]).encode()).hexdigest()[:20]


def build(directory: Path, fill: Callable[[Path], dict[str, Any]]) -> JsonObject:
    """Fills a directory unless it is complete; returns the facts that `fill` returned, then or now.

    It is filled under another name and then renamed: a process that is killed leaves no incomplete directory,
    and if two processes fill the same one, both continue with the first. A damaged one is filled again, and a
    line says which file was damaged; `seal.check` tells how much is read for that.

    Raises:
        UserError: no permission, or a full disk; or an error that `fill` raises.
    """
    if directory.exists():
        try:
            return _checked_facts(directory)
        except UserError as error:
            say(f"{error.cause}; it is built again")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(directory) as temporary:
            facts = fill(temporary)
            seal.write_whole(temporary, seal.files_in(temporary), facts)
            _rename(temporary, directory)
    except OSError as error:
        raise UserError(
            f"cannot write the cache of texts and tokens in {directory.parent}: {error.strerror or error}",
            "make room or get permission there, or set LM_JAX_CACHE to another directory",
        ) from None
    return JsonObject(facts, f"{directory / seal.FILE}, facts")


def read_facts(directory: Path) -> JsonObject:
    """The facts that `fill` returned when the directory was built. Files are not checked again.

    Raises:
        UserError: the seal is damaged, or there is none.
    """
    return _facts(seal.read(directory), directory)


def _checked_facts(directory: Path) -> JsonObject:
    """The facts of a directory whose files are whole; raises UserError if one is damaged."""
    return _facts(seal.check(directory), directory)


def _facts(found: seal.Seal | None, directory: Path) -> JsonObject:
    if found is None:
        raise UserError(f"{directory / seal.FILE} is missing", "remove the directory: it is built again")
    return JsonObject(dict(found.facts), f"{directory / seal.FILE}, facts")


@contextlib.contextmanager
def _temporary(directory: Path) -> Iterator[Path]:
    """A new directory beside the given one, locked while it exists, and removed at the end.

    The root is locked while such a directory is made or those without a lock, which killed processes left,
    are removed: none is ever seen before it is locked.
    """
    root = directory.parent
    with contextlib.ExitStack() as stack:
        with _locked(root, fcntl.LOCK_EX):
            for other in root.glob(f".*{files.TEMPORARY}"):
                with contextlib.suppress(OSError), _locked(other, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(other, ignore_errors=True)
            made = tempfile.mkdtemp(dir=root, prefix=f".{directory.name}.", suffix=files.TEMPORARY)
            stack.callback(shutil.rmtree, made, ignore_errors=True)
            stack.enter_context(_locked(Path(made), fcntl.LOCK_EX))
        yield Path(made)


@contextlib.contextmanager
def _locked(directory: Path, operation: int) -> Iterator[None]:
    """Locks a directory. A file system without locks is used without."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, operation)
        except BlockingIOError:
            raise
        except OSError:
            if operation & fcntl.LOCK_NB:  # nobody can tell whether it is in use
                raise
        yield
    finally:
        os.close(handle)


def _rename(temporary: Path, directory: Path) -> None:
    os.chmod(temporary, 0o755)  # mkdtemp's 0700 would hide it from other users of the cache
    for name in seal.files_in(temporary):
        with (temporary / name).open("rb+") as file:
            files.flush(file)
    if not _is_whole(directory):
        shutil.rmtree(directory, ignore_errors=True)  # a damaged one
    try:
        temporary.rename(directory)
    except OSError:
        if not _is_whole(directory):  # otherwise another process was faster
            raise


def _is_whole(directory: Path) -> bool:
    with contextlib.suppress(UserError, OSError):
        _checked_facts(directory)
        return True
    return False
