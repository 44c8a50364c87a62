"""Digests in jax's cache of compiled programs: a damaged program is compiled again, never loaded.

jax loads what it finds there, and machine code with a wrong byte ends in an illegal instruction or in a wrong
number; a file that a killed process left half written is read, refused and reported at each start.
"""

import glob
import hashlib
from typing import Any

_DIGEST_BYTES = hashlib.sha256().digest_size
_SUFFIX = "-sealed"  # of the names of entries with a digest, so that other programs do not read them


class SealedCache:
    """One of jax's caches, with the digest of each entry at its end.

    Args:
        cache: a `jax._src.lru_cache.LRUCache`.
    """

    def __init__(self, cache: Any):
        self._cache = cache
        self._path = cache._path  # jax reads it for messages

    def get(self, key: str) -> bytes | None:
        """The entry of a key; None if there is none, or a damaged one, which is removed."""
        entry = self._cache.get(key + _SUFFIX)
        if entry is None:
            return None
        value, digest = entry[:-_DIGEST_BYTES], entry[-_DIGEST_BYTES:]
        if hashlib.sha256(value).digest() == digest:
            return value
        # jax never replaces an entry that exists.
        for path in self._path.glob(f"{glob.escape(key)}{_SUFFIX}-*"):
            path.unlink(missing_ok=True)
        return None

    def put(self, key: str, value: bytes) -> None:
        """Stores an entry, unless there is one."""
        self._cache.put(key + _SUFFIX, value + hashlib.sha256(value).digest())


def seal_cache() -> None:
    """Lets jax use a `SealedCache`. Another version of jax, without these parts, keeps its own cache."""
    try:
        from jax._src import compilation_cache

        open_cache = compilation_cache.get_file_cache
    except (ImportError, AttributeError):
        return

    def get_file_cache(path: str) -> Any:
        found = open_cache(path)
        if found is None or not hasattr(found[0], "_path"):  # such as jax's cache for debugging
            return found
        return SealedCache(found[0]), found[1]

    compilation_cache.get_file_cache = get_file_cache
