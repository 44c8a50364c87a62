"""Texts and tokens on disk: built once, whole or not at all, and read through memory maps.

A text store holds the documents of each part, a token store their tokens under one tokenizer. Each lies in
a directory named by a hash of all that decides its content: it cannot be out of date, and runs share it.
"""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax import files
from lm_jax.data.corpora import Progress
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.text.base import Tokenizer, grouped
from lm_jax.text.words import count_words

_FORMAT_VERSION = 2  # raise it when the same sources and settings come to give other texts or tokens
_FACTS = "facts.json"


class Split:
    """A part of the corpus as one stream of tokens, `end d1 end d2 end ...`, with its documents.

    The stream begins with the end token and each document is followed by one: windows of T + 1 tokens that
    overlap by one have T inputs and T targets, and score every token and every end once.

    Attributes:
        name: train, valid or test.
        tokens: uint16 or uint32 [N], memory-mapped.
        document_offsets: int64 [D + 1]; document i is tokens[offsets[i] : offsets[i + 1] - 1].
        end_id: the end token.
        num_documents: D.
        num_tokens: N - 1, what is predicted: the documents' tokens and their ends.
        num_bytes: of the documents' UTF-8.
        num_words: of the documents, by white space.
        sha256: of the documents' bytes, one document after the other.
    """

    def __init__(self, name: str, texts: Path, tokens: Path):
        facts, encoded = _read_facts(texts)["parts"][name], _read_facts(tokens)
        self.name, self.end_id = name, encoded["end_id"]
        self.tokens = np.memmap(tokens / f"{name}.tokens", encoded["dtype"], mode="r")
        self.document_offsets = np.memmap(tokens / f"{name}.offsets", np.int64, mode="r")
        self.num_tokens = len(self.tokens) - 1
        self.num_documents: int = facts["documents"]
        self.num_bytes: int = facts["bytes"]
        self.num_words: int = facts["words"]
        self.sha256: str = facts["sha256"]
        self._texts = texts

    def documents(self) -> Iterator[Document]:
        """The documents themselves, in order."""
        with (self._texts / f"{self.name}.names").open(encoding="utf-8") as names:
            for line, text in zip(names, read_texts(self._texts, self.name), strict=True):
                yield Document(json.loads(line), text)


def key(*facts: Any) -> str:
    """A name for a store: a hash of what decides its content."""
    return hashlib.sha256(json.dumps([_FORMAT_VERSION, *facts]).encode()).hexdigest()[:20]


def build(directory: Path, fill: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Fills a store unless it is there and whole; returns the facts that `fill` returned, then or now.

    It is filled beside its place and renamed: whatever is killed leaves no half store, and of two processes
    that build the same one, one wins and both go on.

    Raises:
        UserError: no permission, a full disk; or what `fill` raises.
    """
    if _is_whole(directory):
        return _read_facts(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
        try:
            facts = fill(temporary)
            sizes = {path.name: path.stat().st_size for path in temporary.iterdir()}
            files.write_json(temporary / _FACTS, {"sizes": sizes, "facts": facts})
            _rename(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write the store of tokens in {directory.parent}: {error.strerror or error}",
            "make room or get permission there, or set LM_JAX_CACHE to another directory",
        ) from None
    return facts


def _rename(temporary: Path, directory: Path) -> None:
    os.chmod(temporary, 0o755)  # mkdtemp's 0700 would hide it from others who share the cache
    if not _is_whole(directory):
        shutil.rmtree(directory, ignore_errors=True)  # a damaged one
    try:
        temporary.rename(directory)
    except OSError:
        if not _is_whole(directory):  # otherwise another process was faster
            raise


def _is_whole(directory: Path) -> bool:
    """Every file there in its full size: a crash of the machine can cut files that were renamed in time."""
    try:
        sizes = json.loads((directory / _FACTS).read_text())["sizes"]
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _read_facts(directory: Path) -> dict[str, Any]:
    return files.read_json(directory / _FACTS)["facts"]


class _TextWriter:
    """Writes a part's documents: their text, their ends in it, and their names, a JSON string a line."""

    def __init__(self, directory: Path, part: str, stack: contextlib.ExitStack):
        self._text = stack.enter_context((directory / f"{part}.txt").open("wb"))
        self._names = stack.enter_context((directory / f"{part}.names").open("w", encoding="utf-8"))
        self._digest, self._num_words = hashlib.sha256(), 0
        self.ends = [0]

    def add(self, document: Document) -> None:
        data = document.text.encode()
        self._text.write(data)
        self._names.write(json.dumps(document.name) + "\n")
        self._digest.update(data)
        self._num_words += count_words(data)
        self.ends.append(self.ends[-1] + len(data))

    def facts(self) -> dict[str, Any]:
        return {
            "documents": len(self.ends) - 1,
            "bytes": self.ends[-1],
            "words": self._num_words,
            "sha256": self._digest.hexdigest(),
        }


def write_texts(assigned: Iterable[tuple[str, Document]], directory: Path) -> dict[str, Any]:
    """Writes documents to their parts; returns facts of each part that has any."""
    writers: dict[str, _TextWriter] = {}
    with contextlib.ExitStack() as stack:
        for part, document in assigned:
            if part not in writers:
                writers[part] = _TextWriter(directory, part, stack)
            writers[part].add(document)
    for part, writer in writers.items():
        np.array(writer.ends, np.int64).tofile(directory / f"{part}.ends")
    return {part: writer.facts() for part, writer in writers.items()}


def read_texts(
    directory: Path, part: str, progress: Progress | None = None, description: str = ""
) -> Iterator[str]:
    """The texts of a part, in order; `progress` hears how many bytes are behind us."""
    data = np.memmap(directory / f"{part}.txt", np.uint8, mode="r")
    edges = np.fromfile(directory / f"{part}.ends", np.int64).tolist()
    for first, last in itertools.pairwise(edges):
        yield data[first:last].tobytes().decode()
        if progress:
            progress(description, last, len(data))


def write_tokens(
    texts: Path, parts: Iterable[str], tokenizer: Tokenizer, directory: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Writes the tokens of each part of a text store, and the tokenizer beside them."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    for part in parts:
        offsets = [1]
        with (directory / f"{part}.tokens").open("wb") as file:
            file.write(np.array([tokenizer.end_id], dtype).tobytes())
            for group in grouped(read_texts(texts, part, progress, f"encoding the {part} part"), len):
                for ids in tokenizer.encode_ids(group):
                    file.write(np.append(ids, tokenizer.end_id).astype(dtype).tobytes())
                    offsets.append(offsets[-1] + len(ids) + 1)
        np.array(offsets, np.int64).tofile(directory / f"{part}.offsets")
    tokenizer.save(directory)
    return {"dtype": dtype.name, "end_id": tokenizer.end_id}
