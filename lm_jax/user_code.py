"""Imports files that the user names: recipes, and files that define a user's own models and tasks."""

import contextlib
import hashlib
import importlib
import importlib.util
import os
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from lm_jax import files
from lm_jax.errors import UserError


def import_part(spec: str) -> ModuleType:
    """Imports a file `PATH.py`, or a module by its dotted name.

    Raises:
        UserError: no such file or module, or one that cannot be imported.
    """
    if spec.endswith(".py"):
        return import_file(files.expand(spec))
    with blamed(f"cannot import {spec}"):
        return importlib.import_module(spec)


def import_file(path: pathlib.Path) -> ModuleType:
    """Imports a Python file, once for each file and content.

    The file may import others in its folder. The module is in `sys.modules`, so that the source and the
    annotations of its classes can be found.

    Raises:
        UserError: no such file, or one that raises when it is imported.
    """
    path = path.resolve()
    try:
        digest = hashlib.sha256(bytes(path) + b"\0" + path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "check the path") from None
    name = f"lm_jax_user_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        with blamed(f"cannot import {path}"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


@contextlib.contextmanager
def blamed(what: str) -> Iterator[None]:
    """Turns whatever a user's code raises, sys.exit() included, into a UserError; one of its own stays.

    Args:
        what: what fails, for the error.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"{what}{line}: {type(error).__name__}: {error}", "mend the file") from error


def files_of(*parts: Any) -> list[str]:
    """The files outside lm_jax in which the classes of these parts of a recipe are defined, for --import."""
    package = pathlib.Path(__file__).parent
    found = [pathlib.Path(sys.modules[type(part).__module__].__file__ or "") for part in parts]
    return list(
        dict.fromkeys(
            os.path.relpath(path)
            for path in found
            if package not in path.parents and "site-packages" not in path.parts
        )
    )
