"""What a file's content may be: its size, and SHA-256 of each of its blocks.

SHA-256 is the fastest digest in the standard library on processors that have instructions for it (1.7 GiB/s
on one core of a Xeon of 2023; BLAKE2b 0.6, CRC-32 3.3), and digests of blocks are computed on all cores.
"""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from lm_jax.errors import UserError
from lm_jax.files import JsonObject

BLOCK = 16 << 20
ANY_SIZE = -1


class State(NamedTuple):
    """What a file's content may be.

    Attributes:
        size: bytes; `ANY_SIZE` in the seals that checkpoints had before this form.
        digests: SHA-256 of each block of 16 MiB, hexadecimal; with `ANY_SIZE`, of the whole file.
        grows: whether further bytes may follow.
    """

    size: int
    digests: tuple[str, ...]
    grows: bool = False

    def has_size(self, size: int) -> bool:
        """Whether a file of this state may have so many bytes."""
        return self.size in (size, ANY_SIZE) or (self.grows and self.size < size)

    def starts(self) -> range:
        """Where the blocks begin that have a digest."""
        return range(1) if self.size == ANY_SIZE else range(0, self.size, BLOCK)

    def has_block(self, path: pathlib.Path, start: int) -> bool:
        """Whether the block of a file that begins at `start` is what it was."""
        with path.open("rb") as file:
            if self.size == ANY_SIZE:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.digests[0]
            file.seek(start)
            data = file.read(min(BLOCK, self.size - start))
        return hashlib.sha256(data).hexdigest() == self.digests[start // BLOCK]

    def as_json(self) -> Mapping[str, Any]:
        """The state as a JSON object."""
        values = {"size": self.size, "sha256": self.digests}
        return {**values, "grows": True} if self.grows else values


def state_of(path: pathlib.Path, grows: bool = False) -> State:
    """The present state of a file."""
    with path.open("rb") as file:
        digests = [hashlib.sha256(block).hexdigest() for block in iter(lambda: file.read(BLOCK), b"")]
        return State(file.tell(), tuple(digests), grows)


def parse(values: JsonObject) -> State:
    """The state that `as_json` described.

    Raises:
        UserError: a field that is missing or of another type, or another number of digests.
    """
    size, digests = values.take("size", int), values.take("sha256", list)
    if len(digests) != -(-size // BLOCK) or not all(isinstance(digest, str) for digest in digests):
        raise UserError(f"{values.where} has {len(digests)} digests of {size} bytes", "restore the file")
    return State(size, tuple(digests), values.take("grows", bool, default=False))
