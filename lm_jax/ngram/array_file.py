"""Reads and writes named arrays as memory-mapped safetensors files, with numpy alone."""

from __future__ import annotations

import json
import mmap
import os
import pathlib
import struct

import numpy as np

from lm_jax.errors import UserError

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
        header = json.loads(data[8 : 8 + size])
        metadata = header.pop("__metadata__")
        arrays = {name: _view(data, 8 + size, **entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, struct.error):
        raise UserError(
            f"{os.fspath(path)} is not a model file, or is truncated", "save the model again"
        ) from None
    return arrays, metadata


def _view(data: mmap.mmap, base: int, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    return np.ndarray(shape, _DTYPES[dtype], data, base + data_offsets[0])
