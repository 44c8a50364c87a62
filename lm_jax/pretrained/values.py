"""Typed values of a published config.json."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from lm_jax.errors import UserError
from lm_jax.files import JsonObject

T = TypeVar("T")
_REQUIRED: Any = object()


class Values:
    """The fields of a config.json, read with their types.

    Every method raises UserError, naming the file and the field, for a missing field without a default and
    for a value of another type. A field that is null counts as absent.

    Args:
        values: the JSON object.
        source: the path of the file.
    """

    def __init__(self, values: Mapping[str, Any], source: str):
        given = {name: value for name, value in values.items() if value is not None}
        self._given, self.source = JsonObject(given, source), source

    def integer(self, name: str, default: int = _REQUIRED) -> int:
        """A whole number."""
        return self._typed(name, int, default)

    def size(self, name: str, default: int = _REQUIRED) -> int:
        """A whole number of 1 or more that 32 bits hold."""
        value = self.integer(name, default)
        if not 1 <= value < 2**31:
            raise UserError(f"{name}={str(value)[:80]} in {self.source}", "restore the file")
        return value

    def number(self, name: str, default: float = _REQUIRED) -> float:
        """A number."""
        return float(self._typed(name, float, default))

    def boolean(self, name: str, default: bool = _REQUIRED) -> bool:
        """True or false."""
        return self._typed(name, bool, default)

    def flag_or_text(self, name: str, text: str, default: bool) -> bool | str:
        """True, false, or one text."""
        value = self._typed(name, (bool, str), default)
        if isinstance(value, str) and value != text:
            raise UserError(f"{name}={value[:80]!r} in {self.source}", f"give true, false or {text!r}")
        return value

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
        value = self._typed(name, list, [])
        if not all(isinstance(text, str) for text in value):
            raise UserError(f"{self.source}: {name} is not a list of texts", "restore the file")
        return value

    def text(self, name: str, default: str = _REQUIRED) -> str:
        """A text."""
        return self._typed(name, str, default)

    def require(self, name: str, wanted: Any, default: Any = _REQUIRED) -> None:
        """Raises UserError for a field that changes what is computed, unless it has the supported value.

        Where the field is absent it has the default value; without one, the supported value.
        """
        value = self._given.values.get(name, wanted if default is _REQUIRED else default)
        if type(value) is not type(wanted) or value != wanted:
            raise UserError(f"{name}={repr(value)[:80]} in {self.source}", f"only {wanted!r} is supported")

    def _typed(self, name: str, kind: type | tuple[type, ...], default: Any) -> Any:
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if default is _REQUIRED:
            return self._given.take(name, *kinds)
        return self._given.take(name, *kinds, default=default)
