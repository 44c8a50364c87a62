"""Reading of files that may be compressed, by their first bytes and not by their names."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from lm_jax.errors import UserError

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_BLOCK = 1 << 12  # compressed bytes read at a time; Zstandard makes up to 2^15 times as many of them


def open_binary(path: str | os.PathLike) -> tuple[IO[bytes], str]:
    """Opens a file that gzip, bzip2, xz or Zstandard may have compressed, to be read uncompressed.

    Read it within `reading`, which describes the errors of a damaged file.

    Returns:
        The open file, and the name of its compression, "" for none.

    Raises:
        UserError: there is no such file, no permission, or a package that the compression needs is missing.
    """
    with reading(path):
        file = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    with reading(path):
        start = file.read(_MAGIC_BYTES)
        file.seek(0)
    found = next((entry for entry in _COMPRESSIONS if re.match(entry[0], start)), None)
    if found is None:
        return file, ""
    _, name, open_ = found
    try:
        return cast(IO[bytes], open_(file)), name
    except ImportError:
        file.close()
        raise UserError(
            f"{os.fspath(path)} is compressed by {name}, which needs a package",
            "type pip install 'lm_jax[zst]'",
        ) from None


@contextlib.contextmanager
def reading(path: str | os.PathLike, compression: str = "") -> Iterator[None]:
    """Raises a UserError that names the file where it cannot be read, or not be decompressed."""
    try:
        yield
    except UserError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            cause, remedy = (
                f"cannot read {os.fspath(path)}: {error.strerror}",
                "check the path and its permissions",
            )
        else:
            cause = f"{os.fspath(path)} is damaged: {compression} cannot decompress it ({error})"
            remedy = "restore it"
        raise UserError(cause, remedy) from None


def read_bytes(path: str | os.PathLike, limit: int) -> tuple[bytes, str]:
    """All bytes of a file, uncompressed, and the name of its compression, "" for none.

    Args:
        path: the file.
        limit: the maximum number of bytes of a compressed file, so that a small one does not fill the memory.

    Raises:
        UserError: as `open_binary` and `reading`, or more bytes than the limit.
    """
    file, compression = open_binary(path)
    with file, reading(path, compression):
        if not compression:
            return file.read(), compression
        parts, size = [], 0
        while part := file.read(1 << 20):
            parts.append(part)
            size += len(part)
            if size > limit:
                raise UserError(
                    f"{os.fspath(path)} decompresses to more than {limit / 2**30:.1f} GiB, which is too much "
                    "for this machine's memory",
                    "cut it into several files",
                )
        return b"".join(parts), compression


class _Zstandard(io.RawIOBase):
    """A file of Zstandard frames, whose end is checked, as the package's own reader does not."""

    def __init__(self, file: IO[bytes]):
        import zstandard

        self._file, self._error = file, zstandard.ZstdError
        self._make = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None  # None: between frames
        self._ready, self._at = b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._at == len(self._ready):
            if not self._advance():
                return 0
        part = self._ready[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def _advance(self) -> bool:
        """Decompresses the next bytes; False at the end of the file."""
        data = self._frame.unused_data if self._frame is not None and self._frame.eof else b""
        if not data:
            data = self._file.read(_BLOCK)
        is_between = self._frame is None or self._frame.eof
        if not data:
            if not is_between:
                raise EOFError("the file ends within a frame")
            return False
        if is_between:
            self._frame = self._make()
        try:
            self._ready, self._at = self._frame.decompress(data), 0
        except self._error as error:
            raise ValueError(error) from None
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


class _Owner(io.BufferedReader):
    """A buffered file that also closes the compressed file below."""

    def __init__(self, raw: Any, below: IO[bytes]):
        super().__init__(raw, 1 << 20)
        self._below = below

    def close(self) -> None:
        super().close()
        self._below.close()


_MAGIC_BYTES = 16
_COMPRESSIONS: tuple[tuple[bytes, str, Callable[[IO[bytes]], Any]], ...] = (
    (rb"\x1f\x8b", "gzip", lambda file: _Owner(gzip.GzipFile(fileobj=file), file)),
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", "bzip2", lambda file: _Owner(bz2.BZ2File(file), file)),
    (rb"\xfd7zXZ\x00", "xz", lambda file: _Owner(lzma.LZMAFile(file), file)),  # noqa: SIM115
    (rb"\x28\xb5\x2f\xfd", "Zstandard", lambda file: _Owner(_Zstandard(file), file)),
)
