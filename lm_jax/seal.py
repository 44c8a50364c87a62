"""Seals: digests of a directory's files, which tell whether they are what was written.

`seal.json` lists the states that each sealed file may have. A run directory, each of its checkpoints and each
directory of the cache has one. It is checked where a directory is opened.

A file is replaced in three steps, each atomic: the seal permits the old file and the new one; the new one is
moved into place; the seal permits the new one alone. A process that is killed between them leaves a directory
that opens. A file that grows, such as metrics.jsonl, is sealed up to its length at the last checkpoint.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lm_jax import digests, files
from lm_jax.digests import ANY_SIZE, BLOCK, State, state_of
from lm_jax.errors import UserError
from lm_jax.files import JsonObject

FILE = "seal.json"
_CHECKED = ".checked"  # of a large directory: the sizes and times that its files had when all was checked
_FORMAT = 1
WHOLE = 1 << 30  # bytes that are checked at each opening (a third of a second on two cores); see `check`


class Seal(NamedTuple):
    """The content of a seal.json.

    Attributes:
        states: for each sealed file, by its path in the directory, the states it may have; None: it may be
            absent.
        facts: what else the directory's writer wants to have sealed.
    """

    states: Mapping[str, list[State | None]]
    facts: Mapping[str, Any]


def read(directory: pathlib.Path) -> Seal | None:
    """The seal of a directory; None if it has none, as directories of earlier versions.

    Raises:
        UserError: the seal itself is damaged.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        return _parse(JsonObject.read(path))
    except UserError as error:
        raise UserError(
            f"{path} is damaged ({error.cause})", "restore it, or remove it to open the directory unchecked"
        ) from None


def write(directory: pathlib.Path, seal: Seal) -> None:
    """Replaces a directory's seal."""
    states = {
        name: [None if state is None else state.as_json() for state in permitted]
        for name, permitted in seal.states.items()
    }
    values = {"format_version": _FORMAT, "files": states, "facts": dict(seal.facts)}
    files.write_json(directory / FILE, {**values, "sha256": _own_digest(values)})


def write_whole(directory: pathlib.Path, names: Iterable[str], facts: Mapping[str, Any]) -> None:
    """Seals files of a directory as they are."""
    states: dict[str, list[State | None]] = {name: [state_of(directory / name)] for name in names}
    write(directory, Seal(states, facts))


def files_in(directory: pathlib.Path) -> list[str]:
    """The names of all files in a directory and below, but not of its seal."""
    found = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    return sorted(name for name in found if name not in (FILE, _CHECKED))


def check(directory: pathlib.Path, *names: str, remedy: str = "", whole: bool = False) -> Seal | None:
    """Checks files of a directory against its seal.

    Up to `WHOLE` bytes are read whole. Of more, all is read once: the first time, and again if a size or a
    time of change differs. After that only the sizes and as many bytes in random blocks are checked.

    Args:
        directory: a directory; without a seal nothing is checked.
        names: of files, or of directories of files; none: all that are sealed.
        remedy: what to do about a damaged file; by default to restore it.
        whole: read all in any case.

    Returns:
        The seal; None without one.

    Raises:
        UserError: a file is missing or is not what was written, or the seal is damaged.
    """
    while True:
        seal = read(directory)
        if seal is None:
            return None
        chosen = {name: states for name, states in seal.states.items() if not names or _is_in(name, names)}
        try:
            problem = _first_problem(directory, chosen, whole)
        except FileNotFoundError as error:  # deleted since it was found
            problem = f"{error.filename} is missing"
        if problem is None:
            return seal
        if read(directory) == seal:  # otherwise a process that trains has replaced files meanwhile
            break
    remedy = remedy or f"restore the file, or remove {directory / FILE} to open the directory unchecked"
    raise UserError(f"{directory} is damaged: {problem}", remedy)


def exists(path: pathlib.Path) -> bool:
    """Whether a file of a directory exists; its content is checked.

    Raises:
        UserError: it is missing although the directory's seal has it, or it is not what was written.
    """
    check(path.parent, path.name)
    return path.is_file()


@contextlib.contextmanager
def staged(
    directory: pathlib.Path, grows: Sequence[str] = (), optional: Sequence[str] = ()
) -> Iterator[pathlib.Path]:
    """Replaces files of a directory together with its seal: `with staged(run) as stage: write into stage`.

    Args:
        directory: made if it does not exist.
        grows: names of files to which lines will be appended.
        optional: names of files that a user may delete: they can be made again from the others.

    Raises:
        OSError: no permission, or a full disk.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = tempfile.mkdtemp(dir=directory, prefix=".staged.", suffix=files.TEMPORARY)
    try:
        stage = pathlib.Path(made)
        yield stage
        _replace(directory, stage, grows, optional)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def update(path: pathlib.Path, grows: bool = False) -> None:
    """Seals the present content of a file that has grown, on disk when it returns."""
    seal = read(path.parent) or Seal({}, {})
    states: list[State | None] = [state_of(path, grows)]
    if list(seal.states.get(path.name, [])) != states:
        write(path.parent, Seal({**seal.states, path.name: states}, seal.facts))


def _replace(
    directory: pathlib.Path, stage: pathlib.Path, grows: Sequence[str], optional: Sequence[str]
) -> None:
    seal = read(directory) or Seal({}, {})
    # In order of their names: config.json, without which a directory holds no run, is the first.
    new: dict[str, list[State | None]] = {}
    for name in files_in(stage):
        new[name] = [state_of(stage / name, name in grows), *([None] if name in optional else [])]
    for name in new:
        with (stage / name).open("rb+") as file:
            files.flush(file)
    final = Seal({**seal.states, **new}, seal.facts)
    if final != seal:
        both = {name: [*_permitted(directory, seal, name), *states] for name, states in new.items()}
        write(directory, Seal({**seal.states, **both}, seal.facts))
    for name in new:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        os.chmod(stage / name, 0o644)
        os.replace(stage / name, directory / name)
    if final != seal:
        write(directory, final)


def _permitted(directory: pathlib.Path, seal: Seal, name: str) -> list[State | None]:
    """What a file may be before it is replaced; if it is not sealed, what it is."""
    if name in seal.states:
        return seal.states[name]
    return [state_of(directory / name) if (directory / name).is_file() else None]


def _first_problem(
    directory: pathlib.Path, chosen: Mapping[str, Sequence[State | None]], whole: bool
) -> str | None:
    """What is wrong with the first damaged file."""
    found: dict[str, tuple[int, Sequence[State]]] = {}
    for name, permitted in chosen.items():
        path = directory / name
        if not path.is_file():
            if None not in permitted:
                return f"{name} is missing"
            continue
        size = path.stat().st_size
        fitting = [state for state in permitted if state is not None and state.has_size(size)]
        if not fitting:
            sizes = " or ".join(str(state.size) for state in permitted if state)
            return f"{name} has {size} bytes, and was written with {sizes}"
        found[name] = (size, fitting)
    return _first_changed_block(directory, found, whole)


def _first_changed_block(
    directory: pathlib.Path, found: Mapping[str, tuple[int, Sequence[State]]], whole: bool
) -> str | None:
    total = sum(size for size, _ in found.values())
    stamps = {name: _stamp(directory / name) for name in found} if total > WHOLE else {}
    earlier = _read_stamps(directory) if stamps else {}
    known = all(earlier.get(name) == stamp for name, stamp in stamps.items())
    starts = {name: max((state.starts() for state in states), key=len) for name, (_, states) in found.items()}
    blocks = [(name, start) for name in found for start in starts[name]]
    if stamps and known and not whole and len(blocks) > WHOLE // BLOCK:
        blocks = random.SystemRandom().sample(blocks, WHOLE // BLOCK)  # not from the seed of the program

    def is_good(block: tuple[str, int]) -> bool:
        name, start = block
        states = found[name][1]
        return any(
            start not in state.starts() or state.has_block(directory / name, start) for state in states
        )

    with _executor(total) as executor:
        for (name, start), good in zip(blocks, executor(is_good, blocks)):
            if not good:
                end = min(start + BLOCK, found[name][0])
                return f"{name} is not what was written, in bytes {start} to {end}"
    if not known:
        with contextlib.suppress(OSError):  # a directory that cannot be written is read whole each time
            files.write_json(directory / _CHECKED, earlier | stamps)
    return None


@contextlib.contextmanager
def _executor(total: int) -> Iterator[Any]:
    """`map`, on all cores if there is much to do."""
    if total < BLOCK:
        yield map
        return
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _stamp(path: pathlib.Path) -> list[int]:
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


def _read_stamps(directory: pathlib.Path) -> dict[str, Any]:
    try:
        stamps = json.loads((directory / _CHECKED).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def _is_in(name: str, names: Sequence[str]) -> bool:
    return any(name == wanted or name.startswith(f"{wanted}/") for wanted in names)


def _own_digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _parse(values: JsonObject) -> Seal:
    if "forms" in values.values and "format_version" not in values.values:
        return _parse_first_form(values)
    version = values.take("format_version", int)
    if version != _FORMAT:
        raise UserError(f"{values.where} is of format {version}", f"this version of lm_jax reads {_FORMAT}")
    content = {name: value for name, value in values.values.items() if name != "sha256"}
    facts = values.take("facts", dict)
    listed = values.inner("files")
    states = {name: _parse_states(listed, name) for name in listed.values}
    if values.take("sha256", str) != _own_digest(content):
        raise UserError(f"{values.where} is not what was written", "restore the file")
    return Seal(states, facts)


def _parse_first_form(values: JsonObject) -> Seal:
    """A checkpoint's seal before this form: a digest of each file, and no digest of its own."""
    listed = values.inner("files")
    states: dict[str, list[State | None]] = {
        name: [State(ANY_SIZE, (listed.take(name, str),))] for name in listed.values
    }
    return Seal(states, {"forms": values.take("forms", dict)})


def _parse_states(listed: JsonObject, name: str) -> list[State | None]:
    where = f"{listed.where}, {name}"
    return [
        None if value is None else digests.parse(JsonObject(value, where))
        for value in listed.take(name, list)
    ]
