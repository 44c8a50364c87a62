"""Names that recipes and run directories use for models, tasks and others, and the object of each name."""

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from lm_jax.errors import UserError

T = TypeVar("T")
_ENTRY_POINTS = "lm_jax"  # the group in which an installed package names modules that register its parts


class Registry(Generic[T]):
    """Maps names to parts. Built-in parts are imported when they are first asked for; users register others.

    Looking a name up never imports a file that the run directory or the recipe names: unknown names are
    looked up only in installed packages, which declare the entry-point group "lm_jax".

    Args:
        what: the kind of part, for errors, such as "model".
        builtin: name -> "module:attribute".
        tag: the class variable in which a config class of this kind has its name.
    """

    def __init__(self, what: str, builtin: Mapping[str, str], tag: str = "name"):
        self.what, self.tag = what, tag
        self._builtin, self._registered = dict(builtin), dict[str, T]()

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that registers a class or function under a name.

        Raises:
            UserError: the name is taken by another part.
        """

        def add(part: T) -> T:
            known = self._registered.get(name)
            if getattr(part, self.tag, name) != name:
                raise UserError(
                    f"{_origin(part)[1]} is registered as the {self.what} {name!r}, but its {self.tag} is "
                    f"{getattr(part, self.tag)!r}",
                    f"set {self.tag} = {name!r} in the class",
                )
            if name in self._builtin or (known is not None and _origin(known) != _origin(part)):
                raise UserError(f"the {self.what} name {name!r} is taken", "register it under another name")
            self._registered[name] = part
            return part

        return add

    def get(self, name: str) -> T:
        """The part of a name.

        Raises:
            UserError: no such name.
        """
        if not isinstance(name, str) or (name not in self._builtin and name not in self._registered):
            _import_installed_parts()
        if name in self._registered:
            return self._registered[name]
        if name not in self._builtin:
            raise UserError(
                f"unknown {self.what} {name!r}",
                f"known are {', '.join(self.names())}; if a file of yours defines it, add --import=FILE.py",
            )
        module, _, attribute = self._builtin[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def name_of(self, config: Any) -> str:
        """The name of a config's class."""
        return getattr(type(config), self.tag)

    def check(self, config: Any) -> None:
        """Raises UserError where a config's name would give another class when the run is opened."""
        name = self.name_of(config)
        if _origin(self.get(name)) != _origin(type(config)):
            raise UserError(
                f"{type(config).__qualname__} has the name {name!r} of another {self.what}",
                f'write @REGISTRY.register("NAME") above it, and {self.tag} = "NAME" in it',
            )

    def names(self) -> list[str]:
        """All names, the built-in ones first."""
        return [*self._builtin, *self._registered]

    def __contains__(self, name: str) -> bool:
        return name in self._builtin or name in self._registered


def _origin(part: Any) -> tuple[str | None, str]:
    """The file and the name of a class or function: one file may be imported under two module names."""
    module = sys.modules.get(part.__module__)
    return getattr(module, "__file__", None) or part.__module__, part.__qualname__


@functools.cache
def _import_installed_parts() -> None:
    for entry_point in importlib.metadata.entry_points(group=_ENTRY_POINTS):
        try:
            entry_point.load()
        except Exception as error:
            raise UserError(
                f"cannot import {entry_point.value}, which an installed package registers for lm_jax "
                f"({type(error).__name__}: {error})",
                "mend or remove that package",
            ) from error
