"""Typed values of a published config.json."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from lm_jax.errors import UserError

T = TypeVar("T")
_REQUIRED: Any = object()
_IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


class Values:
    """The fields of a config.json, read with their types.

    Every method raises UserError, naming the file and the field, for a missing field without a default and
    for a value of another type. A field that is null counts as absent.

    Args:
        values: the JSON object.
        source: the path of the file.
    """

    def __init__(self, values: Mapping[str, Any], source: str):
        self._values, self.source = values, source

    def integer(self, name: str, default: int = _REQUIRED) -> int:
        """A whole number."""
        return self._typed(name, int, default)

    def number(self, name: str, default: float = _REQUIRED) -> float:
        """A number."""
        value = self._typed(name, (int, float), default)
        return float(value)

    def boolean(self, name: str, default: bool = _REQUIRED) -> bool:
        """True or false."""
        return self._typed(name, bool, default)

    def choice(self, name: str, options: Mapping[str, T], default: str) -> T:
        """The option that a text names."""
        value = self._typed(name, str, default)
        if value not in options:
            raise UserError(
                f"{name}={value!r} in {self.source}", f"only {' and '.join(map(repr, options))} are supported"
            )
        return options[value]

    def texts(self, name: str) -> Sequence[str]:
        """A list of texts; none if it is absent."""
        value = self._values.get(name) or []
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self._wrong(name, "a list of texts")
        return value

    def require(self, name: str, wanted: Any) -> None:
        """Raises UserError for a field that changes what is computed, unless it has the supported value."""
        value = self._values.get(name)
        if value is not None and (type(value) is not type(wanted) or value != wanted):
            raise UserError(f"{name}={value!r} in {self.source}", f"only {wanted!r} is supported")

    def _typed(self, name: str, kinds: Any, default: Any) -> Any:
        value = self._values.get(name)
        if value is None:
            if default is _REQUIRED:
                raise UserError(f"{self.source} has no field {name!r}", "restore the file")
            return default
        is_bool = isinstance(value, bool)
        if not isinstance(value, kinds) or (is_bool and kinds is not bool):
            kind = kinds[-1] if isinstance(kinds, tuple) else kinds
            raise self._wrong(name, _IN_WORDS[kind])
        return value

    def _wrong(self, name: str, wanted: str) -> UserError:
        shown = repr(self._values[name])
        shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
        return UserError(f"{name}={shown} in {self.source} is not {wanted}", "restore the file")
