"""Documents of a large text, on disk and read one after the other."""

import array
import json
import tempfile
from collections.abc import Iterable, Sequence
from typing import IO, overload

from lm_jax import files, runtime
from lm_jax.data.documents import Document

_MOST_IN_MEMORY = 1 << 23  # characters


class SpooledDocuments(Sequence[Document]):
    """Documents in a temporary file, which is gone with the object; a lookup reads one of them."""

    def __init__(self) -> None:
        directory = runtime.cache_dir()
        files.make_directory(directory)
        # Not in /tmp, which may be in memory.
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 (closed with the object)
        self._offsets = array.array("q", [0])

    def extend(self, documents: Iterable[Document]) -> None:
        """Writes documents behind the others.

        Raises:
            OSError: a full disk.
        """
        self._file.seek(self._offsets[-1])
        for document in documents:
            line = json.dumps(document._asdict()).encode()  # escapes half characters, too
            self._file.write(line)
            self._offsets.append(self._offsets[-1] + len(line))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Document: ...

    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...

    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # IndexError out of range, which ends an iteration
        start, end = self._offsets[place], self._offsets[place + 1]
        self._file.seek(start)
        return Document(**json.loads(self._file.read(end - start)))


def spooled(documents: Iterable[Document]) -> Sequence[Document]:
    """The documents in memory, or on disk if their text is large."""
    held: list[Document] = []
    size = 0
    spool: SpooledDocuments | None = None
    for document in documents:
        held.append(document)
        size += len(document.text)
        if size > _MOST_IN_MEMORY:
            spool = spool or SpooledDocuments()
            spool.extend(held)
            held, size = [], 0
    if spool is None:
        return held
    spool.extend(held)
    return spool
