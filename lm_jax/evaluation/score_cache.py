"""The scores of documents on disk, found again by the digests of the document, the model and the protocol.

`$LM_JAX_CACHE/scores/MODEL/` has the files of one model under one protocol; each file has the scores of some
documents that were scored together. A file is written whole or not at all, so that an evaluation that was
stopped goes on after its last file. A damaged one is noticed, and its documents are scored again. Beyond a
limit the files that were not used for the longest time are removed.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from lm_jax import files, runtime
from lm_jax.errors import UserError
from lm_jax.evaluation import score_files
from lm_jax.evaluation.score_files import DamagedError, Fields
from lm_jax.language_models.base import ScoredText
from lm_jax.language_models.fingerprint import fingerprint
from lm_jax.progress import say

LIMIT = 4 << 30  # bytes of all files; a score takes about 12 bytes a token
_SUFFIX = ".scores"
_ABANDONED = 24 * 3600  # seconds after which a temporary directory is one of a process that was killed
_DECODED = 2  # files whose content is held in memory


def key_of(data: bytes) -> str:
    """The digest that tells a document's bytes from others."""
    return hashlib.sha256(data).hexdigest()[:32]


class Place(NamedTuple):
    """Where the score of a document is: the number of its file, and its place there."""

    file: int
    number: int


class Store(Protocol):
    """Where the scores of documents are kept, those of one model and protocol."""

    def find(self, key: str) -> Place | None:
        """Where a document's score is; None if it is not there."""
        ...

    def read(self, place: Place) -> Fields:
        """The fields of a score.

        Raises:
            DamagedError: they are not what was written, or gone. The documents are no longer found.
        """
        ...

    def add(self, keys: Sequence[str], scored: Sequence[ScoredText]) -> None:
        """Keeps the scores of documents that were scored together."""
        ...


class MemoryStore:
    """A `Store` for few scores, which are not kept."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._fields: list[Fields] = []

    def find(self, key: str) -> Place | None:
        """See `Store`."""
        return self._places.get(key)

    def read(self, place: Place) -> Fields:
        """See `Store`."""
        return self._fields[place.number]

    def add(self, keys: Sequence[str], scored: Sequence[ScoredText]) -> None:
        """See `Store`."""
        for key, one in zip(keys, scored, strict=True):
            self._places[key] = Place(0, len(self._fields))
            self._fields.append({name: x for name, x in one._asdict().items() if name != "text"})


class FileStore:
    """A `Store` of files.

    Args:
        directory: where they are; made with the first one.
        owner: kept alive as long as this store, such as a temporary directory.
    """

    def __init__(self, directory: pathlib.Path, owner: Any = None):
        self._directory, self._owner = directory, owner
        self._paths: list[pathlib.Path] = []
        self._places: dict[str, Place] = {}
        self._decoded: dict[int, list[Fields]] = {}
        for path in sorted(directory.glob(f"*{_SUFFIX}")):
            self._read_keys(path)

    def _read_keys(self, path: pathlib.Path) -> None:
        try:
            self._enter(path, score_files.read_keys(path))
        except DamagedError:
            self._discard(path)
        except FileNotFoundError:  # another process made room
            pass

    def _enter(self, path: pathlib.Path, keys: Sequence[str]) -> None:
        self._paths.append(path)
        for number, key in enumerate(keys):
            self._places[key] = Place(len(self._paths) - 1, number)

    @property
    def paths(self) -> Sequence[pathlib.Path]:
        """The files."""
        return self._paths

    def find(self, key: str) -> Place | None:
        """See `Store`."""
        return self._places.get(key)

    def read(self, place: Place) -> Fields:
        """See `Store`."""
        if place.file not in self._decoded:
            path = self._paths[place.file]
            try:
                fields = score_files.read(path)
                os.utime(path)  # it was used
            except (DamagedError, OSError):
                self._places = {key: p for key, p in self._places.items() if p.file != place.file}
                self._discard(path)
                raise DamagedError(path) from None
            while len(self._decoded) >= _DECODED:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[place.file] = fields
        return self._decoded[place.file][place.number]

    def add(self, keys: Sequence[str], scored: Sequence[ScoredText]) -> None:
        """Writes scores into a new file, which is on the disk when this returns.

        Raises:
            UserError: no permission, or a full disk.
        """
        name = hashlib.sha256(" ".join(keys).encode()).hexdigest()[:20]
        path = self._directory / f"{name}{_SUFFIX}"
        try:
            with files.replacing(path) as temporary:
                temporary.write_bytes(score_files.encode(keys, scored))
        except OSError as error:
            raise UserError(
                f"cannot keep scores in {self._directory}: {error.strerror or error}",
                "make room or get permission there, or set LM_JAX_CACHE to another directory",
            ) from None
        self._enter(path, keys)

    def _discard(self, path: pathlib.Path) -> None:
        if path.exists():
            say(f"{path} is damaged; its documents are scored again")
        with contextlib.suppress(OSError):
            path.unlink()


class ScoreCache:
    """The stores of all models, which later processes find again.

    Args:
        root: its directory; None: `scores` in the directory of the cache.
        limit: bytes of all files.
    """

    def __init__(self, root: pathlib.Path | None = None, limit: int = LIMIT):
        self._root, self._limit = root or _root(), limit
        self._used: list[FileStore] = []

    def open(self, model: Any, *settings: Any) -> FileStore | None:
        """The store of a model and a protocol.

        Args:
            model: any model.
            settings: what else decides the scores; values with a `repr`.

        Returns:
            None: it is not known what decides the model's scores, or there are several processes.
        """
        import jax

        digest = fingerprint(model) if jax.process_count() == 1 else None
        if digest is None:
            return None
        name = hashlib.sha256(repr((digest, settings)).encode()).hexdigest()[:20]
        self._used.append(FileStore(self._root / name))
        return self._used[-1]

    def make_room(self) -> None:
        """Removes the files that were not used for the longest time, as far as the limit is exceeded.

        Those of this process stay.
        """
        own = {path for store in self._used for path in store.paths}
        found = sorted(self._stats())
        excess = sum(size for _, size, _ in found) - self._limit
        for _, size, path in found:
            if excess <= 0:
                break
            if path not in own:
                path.unlink(missing_ok=True)
                excess -= size
                with contextlib.suppress(OSError):
                    path.parent.rmdir()  # an empty directory

    def _stats(self) -> Iterator[tuple[float, int, pathlib.Path]]:
        """When each file was used, its bytes and its path; also those of files that are half written."""
        for path in self._root.glob("*/*"):
            with contextlib.suppress(OSError):
                facts = path.stat()
                yield facts.st_mtime, facts.st_size, path


def temporary_store() -> FileStore:
    """A store that is removed with the object, and after a day if the process was killed."""
    root = _root()
    files.make_directory(root)
    for path in root.glob(f".*{files.TEMPORARY}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)
    made = tempfile.TemporaryDirectory(dir=root, prefix=".", suffix=files.TEMPORARY)
    return FileStore(pathlib.Path(made.name), made)


def _root() -> pathlib.Path:
    return runtime.cache_dir() / "scores"
