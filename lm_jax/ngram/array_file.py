"""Reads and writes named arrays as memory-mapped safetensors files, with numpy alone."""

from __future__ import annotations

import json
import math
import mmap
import os
import pathlib
import struct

import numpy as np

from lm_jax.errors import UserError
from lm_jax.files import JsonObject, parse_json

_DTYPES = {"U8": "u1", "U16": "<u2", "I32": "<i4", "I64": "<i8", "F32": "<f4"}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 64


def write(path: str | os.PathLike, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes arrays and metadata; the file gets its name when it is complete."""
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": array.shape,
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    part = pathlib.Path(f"{os.fspath(path)}.part")
    with part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)
    part.replace(path)


def read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Maps the arrays of a file into memory and reads its metadata.

    Raises:
        UserError: the file cannot be read, is truncated or has another format.
    """
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {os.fspath(path)}: {error}", "check the path") from None
    try:
        (size,) = struct.unpack_from("<Q", data)
        header = JsonObject(parse_json(data[8 : 8 + size].decode(), os.fspath(path)), os.fspath(path))
        texts = header.inner("__metadata__")
        metadata = {name: texts.take(name, str) for name in texts.values}
        names = [name for name in header.values if name != "__metadata__"]
        arrays = {name: _view(data, 8 + size, header.inner(name)) for name in names}
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError, struct.error):
        raise UserError(
            f"{os.fspath(path)} is not a model file, or is damaged", "restore it, or save the model again"
        ) from None
    return arrays, metadata


def _view(data: mmap.mmap, base: int, entry: JsonObject) -> np.ndarray:
    """An array in a file; numpy raises an error where it would extend beyond the end."""
    dtype = np.dtype(_DTYPES[entry.take("dtype", str)])
    shape, (start, end) = entry.take("shape", list), entry.take("data_offsets", list)
    if any(type(number) is not int or number < 0 for number in (*shape, start, end)):
        raise ValueError("a size that is not one")
    if math.prod(shape) * dtype.itemsize != end - start:
        raise ValueError("a size that does not fit the shape")
    return np.ndarray(shape, dtype, data, base + start)
