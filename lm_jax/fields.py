"""Fields of nested frozen dataclasses by dotted name: listed, described, set from text, read from JSON."""

import dataclasses
import inspect
import io
import math
import sys
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from lm_jax import field_names
from lm_jax.errors import UserError
from lm_jax.registry import Registry

_NAME = "name"  # the key of a part's tag in JSON
_TOO_LARGE = 2**32


def choice(registry: Registry, default: Any) -> Any:
    """A dataclass field whose value is a dataclass that a registry names; JSON holds the name beside its
    fields.
    """
    return dataclasses.field(default_factory=default, metadata={"registry": registry})


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each field with its dotted name and its value."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            if registry := item.metadata.get("registry"):
                yield f"{prefix}{item.name}", registry.name_of(value)
            yield from flatten(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, value


def describe(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Each field with its dotted name, its value and the comment beside its definition."""
    comments = _field_comments(type(config))
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            if registry := item.metadata.get("registry"):
                yield f"{prefix}{item.name}", registry.name_of(value), f"one of {', '.join(registry.names())}"
            yield from describe(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, value, comments.get(item.name, "")


def _field_comments(cls: type) -> dict[str, str]:
    """Field name -> trailing comment, read from the sources of a class and its bases."""
    comments: dict[str, str] = {}
    for base in cls.__mro__[:-1]:
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):  # a class without a file has no comments
            continue
        name = ""
        for token in tokenize.generate_tokens(io.StringIO(inspect.cleandoc("\n" + source)).readline):
            before = token.line[: token.start[1]].strip()
            if token.type == tokenize.NAME and not before:
                name = token.string
            elif token.type == tokenize.COMMENT and before:
                comments.setdefault(name, token.string.lstrip("# "))
    return comments


def override(config: Any, values: Mapping[str, str]) -> Any:
    """A copy of the config with fields set from text, as on the command line.

    Args:
        config: a nested dataclass.
        values: dotted field name -> text, such as {"model.num_layers": "4"}. The name of a part that a
            registry names, such as {"model": "rnn"}, gives that part with its default fields.

    Raises:
        UserError: an unknown field (with the nearest name), or a text that is not of the field's type.
    """
    for name in sorted(values, key=lambda name: name.count(".")):  # a part before its fields
        config = _set(config, name, name.split("."), values[name], config)
    return config


def as_text(value: Any, separator: str = ",") -> str:
    """A value of a field as the text that `override` reads."""
    if isinstance(value, list | tuple):
        return separator.join(as_text(part, ":") for part in value)
    return str(value)


def full_name(config: Any, name: str) -> str:
    """The dotted name of a field, from that or from its last part where no other field has it.

    Raises:
        UserError: no such field, or several.
    """
    names = [known for known, _ in flatten(config)]
    found = [known for known in names if known == name] or field_names.with_last_part(name, names)
    if "." in name or len(found) == 1:
        return name if "." in name else found[0]
    if found:
        raise UserError(f"several fields are named {name}: {', '.join(found)}", "give the whole name")
    raise unknown_field(name, 0, config)


def _set(config: Any, full_name: str, path: list[str], text: str, root: Any) -> Any:
    fields = {f.name: f for f in dataclasses.fields(config)}
    head, rest = path[0], path[1:]
    value = getattr(config, head) if head in fields else None
    if head not in fields or (rest and not dataclasses.is_dataclass(value)):
        raise unknown_field(full_name, len(full_name.split(".")) - len(path), config, root)
    if rest:
        return dataclasses.replace(config, **{head: _set(value, full_name, rest, text, root)})
    if registry := fields[head].metadata.get("registry"):
        return dataclasses.replace(config, **{head: registry.get(text)()})
    if dataclasses.is_dataclass(value):
        inner = ", ".join(f"{full_name}.{f.name}" for f in dataclasses.fields(value))
        raise UserError(f"{full_name} is a group of fields", f"set one of {inner}")
    wanted = typing.get_type_hints(type(config))[head]
    return dataclasses.replace(config, **{head: _parse(text, wanted, full_name)})


def unknown_field(name: str, depth: int, config: Any, root: Any = None) -> UserError:
    """The error for a dotted name whose part at `depth` is not a field of `config`, a part of `root`."""
    parents = name.split(".")[:depth]
    here = [".".join([*parents, n]) for n, _ in flatten(config)]
    near = field_names.nearest(name, here if root is None else [n for n, _ in flatten(root)])
    remedy = field_names.did_you_mean(near) if near else f"fields here are {', '.join(here)}"
    return UserError(f"no field {name}", remedy)


def _parse(text: str, wanted: Any, name: str, separator: str = ",") -> Any:
    """The value of a text for a field of type `wanted`: bool, int, float, str, or a tuple of one of them.

    A tuple has commas, and tuples inside it colons: 1:32,2:64.
    """
    options = typing.get_args(wanted)
    try:
        if typing.get_origin(wanted) is tuple:
            parts = text.strip("()[] ,").split(separator)
            return tuple(_parse(part.strip(), options[0], name, ":") for part in parts if part)
        if isinstance(wanted, types.UnionType):  # X | None
            return None if text.lower() == "none" else _parse(text, options[0], name)
        if wanted is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return wanted(text)
    except (KeyError, ValueError):
        raise UserError(
            f"{name}={text!r} is not {_in_words(wanted)}", f"give {name} {_in_words(wanted)}"
        ) from None


def _in_words(wanted: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    if typing.get_origin(wanted) is tuple:
        return "a list with commas"
    return words.get(wanted, str(wanted))


def check(config: Any, prefix: str = "") -> None:
    """Raises UserError for a field whose value is not of its type, or a number that no field can have.

    Recipes are Python: nothing else checks what they put into a field. Numbers are finite, and whole ones
    below 2**32: jax and numpy have no larger seeds, and no size comes near.

    Args:
        config: a recipe or a part of one.
        prefix: its dotted name and a dot.
    """
    hints = typing.get_type_hints(type(config))
    for item in dataclasses.fields(config):
        name, value = prefix + item.name, getattr(config, item.name)
        wanted = hints[item.name]
        if not dataclasses.is_dataclass(wanted):
            _check_value(value, wanted, name)
        elif isinstance(value, typing.cast("type", wanted)):
            check(value, f"{name}.")
        else:
            known = typing.cast("type", wanted).__name__
            raise UserError(f"{name} is a {type(value).__name__}", f"give a {known}")


def _check_value(value: Any, wanted: Any, name: str) -> None:
    if typing.get_origin(wanted) is tuple and isinstance(value, tuple):
        for part in value:
            _check_value(part, typing.get_args(wanted)[0], name)
        return
    if isinstance(wanted, types.UnionType):
        if value is None:
            return
        wanted = typing.get_args(wanted)[0]
    kinds = {float: (float, int)}.get(wanted, (wanted,) if wanted in (bool, int, str) else None)
    if typing.get_origin(wanted) is tuple or (kinds is not None and type(value) not in kinds):
        raise UserError(f"{name}={value!r} is not {_in_words(wanted)}", f"give {name} {_in_words(wanted)}")
    if isinstance(value, int | float) and not math.isfinite(value):
        raise UserError(f"{name}={value}", "give a finite number")
    if isinstance(value, int) and abs(value) >= _TOO_LARGE:
        raise UserError(f"{name}={value}", "give a number below 2**32")


def as_values(config: Any) -> dict[str, Any]:
    """The fields as a JSON object; a part that a registry names has its name as "name"."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            registry = item.metadata.get("registry")
            value = {**({_NAME: registry.name_of(value)} if registry else {}), **as_values(value)}
        values[item.name] = value
    return values


def from_values(config: Any, values: Any, prefix: str = "", source: str = "config.json") -> Any:
    """The config with the fields of a JSON object, whose types must match without conversion.

    Args:
        config: the defaults.
        values: the result of `as_values`.
        prefix: the dotted name of this group of fields and a dot, for errors.
        source: the file that the values are from, for errors.

    Raises:
        UserError: an unknown name or field, or a value of another type.
    """
    if not isinstance(values, dict):
        raise UserError(
            f"{prefix.rstrip('.') or 'the config'} in {source} is not a group of fields", f"restore {source}"
        )
    items = {item.name: item for item in dataclasses.fields(config)}
    hints, changed = typing.get_type_hints(type(config)), {}
    for name, value in values.items():
        if name not in items:
            raise unknown_field(prefix + name, len(prefix.split(".")) - 1, config)
        if registry := items[name].metadata.get("registry"):
            changed[name] = tagged(registry, value, f"{prefix}{name}", source)
        elif dataclasses.is_dataclass(getattr(config, name)):
            changed[name] = from_values(getattr(config, name), value, f"{prefix}{name}.", source)
        else:
            changed[name] = _typed(value, hints[name], prefix + name, source)
    return dataclasses.replace(config, **changed)


def tagged(registry: Registry, values: Any, name: str, source: str = "config.json") -> Any:
    """The part that a JSON object with a "name" describes; errors as for `from_values`."""
    if not isinstance(values, dict) or not isinstance(values.get(_NAME), str):
        raise UserError(f"{name} in {source} has no name of a {registry.what}", f"restore {source}")
    rest = {key: value for key, value in values.items() if key != _NAME}
    return from_values(registry.get(values[_NAME])(), rest, f"{name}.", source)


def _typed(value: Any, wanted: Any, name: str, source: str) -> Any:
    if typing.get_origin(wanted) is tuple and isinstance(value, list):
        return tuple(_typed(v, typing.get_args(wanted)[0], name, source) for v in value)
    if isinstance(wanted, types.UnionType) and value is None:
        return None
    if isinstance(wanted, types.UnionType):
        wanted = typing.get_args(wanted)[0]
    if wanted is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if type(value) is not wanted:
        raise UserError(f"{name}={value!r} is not {_in_words(wanted)}, in {source}", f"restore {source}")
    return value
