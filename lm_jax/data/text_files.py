"""Text files, compressed or not, read as str."""

import bz2
import codecs
import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from lm_jax.errors import UserError

_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
# Byte order marks; that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NOT_TEXT = ((b"PK\x03\x04", "a zip archive"), (b"7z\xbc\xaf", "a 7-Zip archive"), (b"Rar!", "a RAR archive"),
             (b"PAR1", "a Parquet file"), (b"%PDF", "a PDF document"))  # fmt: skip


def read_text(path: Path) -> str:
    """The text of a file, with its newlines unchanged.

    Files that gzip, bzip2, xz or Zstandard compressed are recognised by their first bytes. A byte order mark
    is removed; with one, UTF-16 and UTF-32 are read too, else the text is UTF-8.

    Raises:
        UserError: no such file, no permission, a damaged or an unknown compression, or another encoding.
    """
    with reading(path):
        data = path.read_bytes()
    data = _decompress(data, path)
    mark, codec = next(((m, c) for m, c in _MARKS if data.startswith(m)), (b"", "utf-8"))
    try:
        return data[len(mark) :].decode(codec)
    except UnicodeDecodeError as error:
        raise _not_text(path, data, codec, error.start + len(mark)) from None


def uncompressed_name(name: str) -> str:
    """A file's name without the suffix of a compression: documents are named alike in both forms."""
    return next((name[: -len(s)] for s in _SUFFIXES if name.lower().endswith(s)), name)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises a UserError that names the file where the system refuses to read it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}", "check the path and its permissions"
        ) from None


def _decompress(data: bytes, path: Path) -> bytes:
    found = next((entry for entry in _COMPRESSIONS if data.startswith(entry[0])), None)
    if found is None:
        return data
    _, name, decompress = found
    try:
        return decompress(data)
    except ImportError:
        cause = f"{path} is compressed by {name}, which needs a package"
        raise UserError(cause, "run pip install zstandard") from None
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path} is damaged: {name} cannot decompress it ({error})", "restore it") from None


def _decompress_zstandard(data: bytes) -> bytes:
    import zstandard

    parts = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            parts.append(frame.decompress(data))
        except zstandard.ZstdError as error:
            raise ValueError(error) from None
        if not frame.eof:
            raise ValueError("the file ends within a frame")
        data = frame.unused_data
    return b"".join(parts)


_COMPRESSIONS: tuple[tuple[bytes, str, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", "gzip", gzip.decompress),
    (b"BZh91AY&SY", "bzip2", bz2.decompress),
    (b"\xfd7zXZ\x00", "xz", lzma.decompress),
    (b"\x28\xb5\x2f\xfd", "Zstandard", _decompress_zstandard),
)


def _not_text(path: Path, data: bytes, codec: str, offset: int) -> UserError:
    """The error for bytes that are not text in the encoding they should have."""
    if kind := next((kind for start, kind in _NOT_TEXT if data.startswith(start)), ""):
        return UserError(f"{path} is {kind}, not a text", "extract or convert its text to a UTF-8 file")
    where = f"byte 0x{data[offset]:02x} at offset {offset}"
    if codec != "utf-8" or b"\0" in data:
        kind = "UTF-8" if codec == "utf-8" else f"{codec.upper()[:6]}, as its byte order mark says"
        return UserError(f"{path} is not {kind}: {where}", "give a text file, or restore it")
    remedy = f"convert it from its own encoding, such as by iconv -f latin1 -t utf-8 {path}"
    return UserError(f"{path} is not UTF-8: {where}", remedy)
