"""Damages to files, as disks and interrupted copies make them: the same ones for a seed."""

import pathlib
import random
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from lm_jax.errors import UserError

_DIGITS = b"0123456789"


def damages(data: bytes, seed: int = 0) -> Iterator[tuple[str, bytes | None]]:
    """19 damaged versions of a file's content with their names; None: the file is deleted.

    Args:
        data: the content, at least two bytes.
        seed: of the places.
    """
    draw = random.Random(seed)
    for _ in range(6):
        changed, at = bytearray(data), draw.randrange(len(data))
        changed[at] ^= 1 << draw.randrange(8)
        yield f"a bit of byte {at} flipped", bytes(changed)
    places = [at for at, byte in enumerate(data) if byte in _DIGITS]
    for at in draw.sample(places, min(3, len(places))):
        digit = draw.choice([d for d in _DIGITS if d != data[at]])
        yield f"digit at byte {at} changed", data[:at] + bytes([digit]) + data[at + 1 :]
    for end in (len(data) - 1, len(data) // 2, draw.randrange(1, len(data))):
        yield f"truncated to {end} bytes", data[:end]
    at = draw.randrange(len(data))
    yield f"byte {at} removed", data[:at] + data[at + 1 :]
    yield f"byte {at} doubled", data[: at + 1] + data[at:]
    yield f"zeros from byte {at} on", data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :]
    yield "a byte appended", data + b"7"
    yield "its beginning appended", data + data[: max(1, len(data) // 3)]
    yield "emptied", b""
    yield "deleted", None


def survey(
    directory: pathlib.Path,
    names: list[str],
    open_it: Callable[[pathlib.Path], Any],
    scratch: pathlib.Path,
    repaired: Callable[[str], bool] = lambda name: False,
) -> tuple[int, list[str]]:
    """Damages files of copies of a directory one by one, and opens each.

    Args:
        directory: is not changed.
        names: of files in it.
        open_it: opens a copy and returns what must not change.
        scratch: a directory for the copy, which is made and removed.
        repaired: whether a damaged file is made again rather than refused; it is then restored between
            damages.

    Returns:
        The number of damages, and a line for each that gave another result, another exception, or an error
        that does not name the file.
    """
    expected, tried, wrong = open_it(directory), 0, []
    shutil.copytree(directory, scratch)
    for name in names:
        path, good = scratch / name, (directory / name).read_bytes()
        for what, data in damages(good, seed=len(name)):
            if data == good:
                continue
            tried += 1
            if data is None:
                path.unlink()
            else:
                path.write_bytes(data)
            try:
                if open_it(scratch) != expected:
                    wrong.append(f"{name}, {what}: another result")
            except UserError as error:
                if path.name not in str(error) and path.parent.name not in str(error):
                    wrong.append(f"{name}, {what}: the error does not name it: {error}")
            except Exception as error:
                wrong.append(f"{name}, {what}: {error!r}"[:300])
            finally:
                if repaired(name):
                    shutil.rmtree(scratch)
                    shutil.copytree(directory, scratch)
                path.write_bytes(good)
    shutil.rmtree(scratch)
    return tried, wrong
