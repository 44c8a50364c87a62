"""Text files, compressed or not, read as str."""

import codecs
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from lm_jax import compression, memory
from lm_jax.errors import UserError

# Byte order marks; that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NOT_TEXT = (
    (b"PK\x03\x04", "a zip archive"), (b"7z\xbc\xaf", "a 7-Zip archive"), (b"Rar!", "a RAR archive"),
    (b"\x1f\x9d", "packed by compress"), (b"LZIP", "packed by lzip"), (b"\x04\x22\x4d\x18", "packed by LZ4"),
    (b"PAR1", "a Parquet file"), (b"ARROW1", "an Arrow file"), (b"\x89HDF", "an HDF5 file"),
    (b"%PDF", "a PDF document"),
)  # fmt: skip
_TAR = slice(257, 262)  # the place of a mark in a tar archive's first header
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x19\x1c-\x1f\x7f]")  # beside white space and the ends of old files
_SAMPLE = 4096  # bytes


def read_text(path: Path) -> str:
    """The text of a file, with its newlines unchanged.

    Files that gzip, bzip2, xz or Zstandard compressed are recognised by their first bytes. A byte order mark
    is removed; with one, UTF-16 and UTF-32 are read too, else the text is UTF-8.

    Raises:
        UserError: no such file, no permission, a damaged or an unknown compression, or another encoding.
    """
    # A third: the bytes, the str, and what is made of it.
    data, packed = compression.read_bytes(path, memory.available() // 3)
    mark, codec = next(((m, c) for m, c in _MARKS if data.startswith(m)), (b"", "utf-8"))
    if not mark:
        _check_is_text(path, data)
    try:
        return data[len(mark) :].decode(codec)
    except UnicodeDecodeError as error:
        raise _not_text(path, data, codec, error.start + len(mark), packed) from None


def read_lines(path: Path) -> Iterator[str]:
    """The lines of `read_text`, without their newlines: read_text(path).split("\\n").

    A file in UTF-8 is read line by line, in memory that does not grow with it.

    Raises:
        UserError: as `read_text`, at the latest in place of the line with the error.
    """
    file, packed = compression.open_binary(path)
    with file, compression.reading(path, packed):
        head = file.read(_SAMPLE) + file.readline()
        if not any(head.startswith(mark) for mark, _ in _MARKS):
            _check_is_text(path, head)
            ended = True
            for data in itertools.chain(io.BytesIO(head), file):
                try:
                    line = data.decode()
                except UnicodeDecodeError:
                    read_text(path)  # its error says where in the file
                    raise
                ended = line.endswith("\n")
                yield line.removesuffix("\n")
            if ended:
                yield ""
            return
    yield from read_text(path).split("\n")


def uncompressed_name(name: str) -> str:
    """A file's name without the suffix of a compression: documents are named alike in both forms."""
    return next((name[: -len(s)] for s in compression.SUFFIXES if name.lower().endswith(s)), name)


def _check_is_text(path: Path, data: bytes) -> None:
    """Raises UserError for what can be decoded as UTF-8 and is something else."""
    if data[_TAR] == b"ustar":
        raise UserError(f"{path} is a tar archive, not a text", "extract its files, and name them by a glob")
    even, odd = data[:_SAMPLE:2].count(0), data[1:_SAMPLE:2].count(0)
    if min(even, odd) == 0 and max(even, odd) > max(8, min(len(data), _SAMPLE) // 5):
        order = "be" if even else "le"
        raise UserError(
            f"{path} is UTF-16 without a byte order mark, by its NUL bytes",
            f"convert it to UTF-8, such as by iconv -f utf-16{order} -t utf-8",
        )


def _not_text(path: Path, data: bytes, codec: str, offset: int, packed: str) -> UserError:
    """The error for bytes that are not text in the encoding they should have."""
    if kind := next((kind for start, kind in _NOT_TEXT if data.startswith(start)), ""):
        return UserError(f"{path} is {kind}, not a text", "extract or convert its text to a UTF-8 file")
    where = f"byte 0x{data[offset]:02x} at offset {offset}"
    if codec != "utf-8" or _CONTROL.search(data):
        kind = "UTF-8" if codec == "utf-8" else f"{codec.upper()[:6]}, as its byte order mark says"
        return UserError(f"{path} is not {kind}: {where}", "give a text file, or restore it")
    if packed:
        return UserError(
            f"{path} is not UTF-8 after {packed}: {where}",
            "decompress it, and convert it from its own encoding",
        )
    remedy = f"convert it from its own encoding, such as by iconv -f latin1 -t utf-8 {path}"
    return UserError(f"{path} is not UTF-8: {where}", remedy)
