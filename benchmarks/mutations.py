"""Hostile versions of a file's content, for `fuzz.py`: the same ones for the same random numbers."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

_TOKENS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"1e-400", b"9" * 400, b"9" * 5000, b"-1", b"0",
    b"18446744073709551616", b"9223372036854775807", b"-2147483649", b"4294967296", b"1.5", b"0x10", b"\0",
    b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\r\n", b"\r", b"\n\n\n", b"\t", b"\x0b", b"\x0c", b"\x1c",
    "\u0085\u00a0\u2028\u3000".encode(), b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"\xf5\x80\x80\x80",
    b"\x80",
    b"\"", b"'", b"\\", b"{", b"}", b"[", b"]", b",", b":", b"#", b"null", b"true", b"[" * 2000,
    b"{\"a\":" * 2000, b"[" * 100_000, b"[/]", b"%s", b"../../..", b"/dev/zero", b"~nouser",
    b"<unk>", b"</s>",
    b"\\data\\", b"\\end\\", b"A" * 5000, "a\u0301".encode() * 500, "\U0001f600".encode(), b"\x1f\x8b",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 10**400, 1.5, 1e308, float("nan"),
    float("inf"), -float("inf"), "", "a", "\0", "\ud800", "1", "nan", "x" * 3000, [], {}, [[]], [None],
    {"": None},
    [1, "a", None], {"a": {"b": []}},
)  # fmt: skip
_NUMBERS = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def mutate(data: bytes, draw: random.Random) -> bytes:
    """A version of the content with one to four changes of a random kind."""
    kinds: list[Callable[[bytes, random.Random], bytes]] = [_bytes, _tokens, _numbers, _lines]
    if data.lstrip()[:1] in (b"{", b"["):
        kinds += [_json, _json, _json]
    change = draw.choice(kinds)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        data = change(data, draw)
    return data


def _at(data: bytes, draw: random.Random) -> int:
    # Structure stands at the beginning of large files.
    return draw.randrange(min(len(data), 400) + 1 if draw.random() < 0.3 else len(data) + 1)


def _bytes(data: bytes, draw: random.Random) -> bytes:
    """Flips a bit, sets, inserts, deletes, doubles, swaps or zeroes bytes, or cuts the end off."""
    at, size = _at(data, draw), draw.choice((1, 1, 2, 8, 100))
    part, rest = data[at : at + size], data[at + size :]
    kind = draw.randrange(8)
    if kind == 0:
        return data[:at] + bytes([byte ^ (1 << draw.randrange(8)) for byte in part[:1]]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + draw.randbytes(len(part)) + rest
    if kind == 2:
        return data[:at] + draw.randbytes(size) + data[at:]
    if kind == 3:
        return data[:at] + rest
    if kind == 4:
        return data[: at + size] + data[at:]
    if kind == 5:
        return data[:at] + rest[:size] + part + rest[size:]
    if kind == 6:
        return data[:at] + bytes(len(part)) + rest
    return data[:at]


def _tokens(data: bytes, draw: random.Random) -> bytes:
    """Puts a hostile token somewhere, or in place of a word."""
    token = draw.choice(_TOKENS)
    words = [match.span() for match in re.finditer(rb"\w+", data[:20_000])]
    if words and draw.random() < 0.6:
        start, end = draw.choice(words)
        return data[:start] + token + data[end:]
    at = draw.choice((0, len(data), _at(data, draw)))
    return data[:at] + token + data[at:]


def _numbers(data: bytes, draw: random.Random) -> bytes:
    """Changes a number."""
    found = [match.span() for match in _NUMBERS.finditer(data[:20_000])]
    if not found:
        return _tokens(data, draw)
    start, end = draw.choice(found)
    old = data[start:end]
    new = draw.choice(
        (
            b"-" + old, old + b"0", old + b"000000000", old[:-1], b"0", b"1", old + b".5", old + b"e9",
            b"-0", str(draw.randrange(1 << draw.randrange(1, 70))).encode(), b"0" + old, b"1e999",
        )
    )  # fmt: skip
    return data[:start] + new + data[end:]


def _lines(data: bytes, draw: random.Random) -> bytes:
    """Removes, doubles, exchanges or empties lines, or changes how they end."""
    lines = data.split(b"\n")
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    kind = draw.randrange(6)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(other, lines[at])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at] = b""
    elif kind == 4:
        lines[at] = lines[at].replace(b"\t", b" ") + draw.choice((b"\t", b" ", b"\t\t0", b"\r"))
    else:
        return draw.choice((b"\r\n", b"\r", b"\x0b", b"")).join(lines)
    return b"\n".join(lines)


def _json(data: bytes, draw: random.Random) -> bytes:
    """Changes a value, or removes, renames or doubles a member, of one of the file's JSON values."""
    text = data.decode(errors="surrogateescape")
    lines = text.split("\n")
    try:
        whole, values = True, [json.loads(text)]
    except (ValueError, RecursionError):
        whole = False
        try:
            at = draw.randrange(len(lines))
            values = [json.loads(lines[at])]
        except (ValueError, RecursionError):
            return _bytes(data, draw)
    places = list(_places(values))
    holder, key = draw.choice(places)
    kind = draw.randrange(6)
    doubled = ""
    if kind <= 2 or holder is values:
        holder[key] = draw.choice(_VALUES) if kind else _like(holder[key], draw)
    elif kind == 3:
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, draw.choice(_VALUES))
    elif kind == 4:
        holder[draw.choice(("", "x", "\ud800", f"{key}s", key.upper()))] = holder.pop(key)
    else:
        doubled = json.dumps(key)
    made = json.dumps(values[0], indent=2 if whole and len(lines) > 1 else None)
    if doubled:  # a member twice, with another value
        made = made.replace(f"{doubled}:", f"{doubled}: {json.dumps(draw.choice(_VALUES))}, {doubled}:", 1)
    if not whole:
        lines[at] = made
        made = "\n".join(lines)
    return made.encode(errors="surrogateescape")


def _like(value: Any, draw: random.Random) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice((value + 1, value - 1, -value, value * 1000, 0, 2 * value))
    if isinstance(value, float):
        return draw.choice((-value, value * 1e10, 0.0, value / 2, 1 - value))
    if isinstance(value, str):
        return draw.choice((value[:-1], value + "x", value.upper(), value[::-1], "\n" + value))
    if isinstance(value, list):
        return draw.choice((value[::-1], value[:-1], value * 2, {str(i): v for i, v in enumerate(value)}))
    return list(value.items()) if isinstance(value, dict) else value


def _places(holder: Any) -> Any:
    """Every value inside lists and objects, as (holder, key)."""
    level = [holder]
    while level:
        below = []
        for one in level:
            for key, value in one.items() if isinstance(one, dict) else enumerate(one):
                yield one, key
                if isinstance(value, (dict, list)):
                    below.append(value)
        level = below
