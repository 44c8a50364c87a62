"""The scores of texts as one file: what a token was given, in as few bytes as keep every bit.

A file is its format's name, the length of its header, the header (JSON), the header's SHA-256, and the
arrays. The header lists the digests of the texts and the arrays, and holds the SHA-256 of the arrays.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lm_jax.language_models.base import ScoredText

_MAGIC = b"lm_jax scores 1\n"
_LENGTH, _DIGEST = 8, hashlib.sha256().digest_size
_STORED = [name for name in ScoredText._fields if name != "text"]  # the text is that of the document
_BITS = "bits"

Fields = Mapping[str, Any]  # of a `ScoredText`, without its text


class DamagedError(Exception):
    """A file that is not what was written."""


def encode(keys: Sequence[str], scored: Sequence[ScoredText]) -> bytes:
    """The scores of texts, each with a key, as the content of a file."""
    arrays: list[dict[str, Any]] = []
    values: dict[str, list[Any]] = {}
    payload = bytearray()
    for name in _STORED:
        column = [getattr(one, name) for one in scored]
        if not any(isinstance(value, np.ndarray) for value in column):
            values[name] = column if len(set(column)) > 1 else column[:1]
            continue
        given = [value for value in column if value is not None]
        lengths = np.array([-1 if value is None else len(value) for value in column])
        for part, array in ((name, np.concatenate(given)), (f"{name}/lengths", lengths)):
            form, packed = _pack(array)
            arrays.append({"name": part, "form": form, "dtype": str(array.dtype), "shape": array.shape})
            payload += packed.tobytes()
    facts = {"keys": list(keys), "values": values, "arrays": arrays}
    header = json.dumps({**facts, "sha256": hashlib.sha256(payload).hexdigest()}).encode()
    begin = _MAGIC + len(header).to_bytes(_LENGTH, "little") + header
    return begin + hashlib.sha256(begin).digest() + bytes(payload)


def read_keys(path: pathlib.Path) -> list[str]:
    """The keys of a file's texts, from its header alone.

    Raises:
        DamagedError: the header is not what was written.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        keys: list[str] = _read_header(file)["keys"]
        return keys


def read(path: pathlib.Path) -> list[Fields]:
    """The fields of each text's score, in order.

    Raises:
        DamagedError: the file is not what was written.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        header = _read_header(file)
        payload = file.read()
    if hashlib.sha256(payload).hexdigest() != header["sha256"]:
        raise DamagedError(path)
    arrays, start = {}, 0
    for one in header["arrays"]:
        arrays[one["name"]], start = _unpack(one, payload, start)
    count = len(header["keys"])
    columns = {name: _split(arrays, name) for name in _STORED if name in arrays}
    for name, values in header["values"].items():
        columns[name] = values if len(values) == count else values * count
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


def _read_header(file: Any) -> dict[str, Any]:
    begin = file.read(len(_MAGIC) + _LENGTH)
    length = int.from_bytes(begin[len(_MAGIC) :], "little")
    # A damaged length must not make this read a whole large file.
    if not begin.startswith(_MAGIC) or length > pathlib.Path(file.name).stat().st_size:
        raise DamagedError(file.name)
    header = file.read(length)
    if hashlib.sha256(begin + header).digest() != file.read(_DIGEST):
        raise DamagedError(file.name)
    values: dict[str, Any] = json.loads(header)
    return values


def _pack(array: np.ndarray) -> tuple[str, np.ndarray]:
    """An array's values in a smaller type that holds all of them, and its name."""
    if array.dtype == bool:
        return _BITS, np.packbits(array)
    smaller = {"float64": np.float32, "int64": np.int32}.get(str(array.dtype))
    if smaller is not None:
        with np.errstate(over="ignore"):
            packed = array.astype(smaller)
        if np.array_equal(packed, array, equal_nan=True):
            return str(packed.dtype), packed
    return str(array.dtype), array


def _unpack(one: Mapping[str, Any], payload: bytes, start: int) -> tuple[np.ndarray, int]:
    """The array that `_pack` made smaller, and where the next one begins."""
    count = int(np.prod(one["shape"]))
    if one["form"] == _BITS:
        packed = np.frombuffer(payload, np.uint8, -(-count // 8), start)
        return np.unpackbits(packed, count=count).astype(bool).reshape(one["shape"]), start + packed.nbytes
    packed = np.frombuffer(payload, one["form"], count, start)
    return packed.astype(one["dtype"]).reshape(one["shape"]), start + packed.nbytes


def _split(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray | None]:
    """The array of each text; None for a text without one."""
    lengths = arrays[f"{name}/lengths"]
    ends = np.cumsum(np.maximum(lengths, 0))
    return [
        None if length < 0 else arrays[name][end - length : end]
        for length, end in zip(lengths.tolist(), ends.tolist())
    ]
