"""Directories of safetensors, in one file or in shards with an index; and renaming of their arrays."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from lm_jax import files
from lm_jax.errors import UserError

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = ("F64", "F32", "F16", "BF16")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")


def expand(rules: Mapping[str, tuple[str, ...]], num_layers: int) -> dict[str, tuple[str, ...]]:
    """Rules whose names hold `{}` as one for each layer, its number there."""
    return {
        ours.format(i): tuple(name.format(i) for name in theirs)
        for ours, theirs in rules.items()
        for i in range(num_layers if "{}" in ours else 1)
    }


def names(directory: pathlib.Path, bare_name: Callable[[str], str] = str) -> frozenset[str]:
    """The names of the arrays of a directory.

    Raises:
        UserError: no such files, or a damaged one.
    """
    with _opened(directory) as tensors:
        return frozenset(map(bare_name, tensors))


def num_bytes(directory: pathlib.Path) -> int:
    """The size of the files of a directory; errors as for `names`."""
    return sum(path.stat().st_size for path in _shards(directory))


def read(
    directory: pathlib.Path,
    wanted: Mapping[str, Sequence[str]],
    shapes: Mapping[str, Sequence[tuple[int, ...]]],
    ignored: frozenset[str] = frozenset(),
    copies: Mapping[str, str] | None = None,
    bare_name: Callable[[str], str] = str,
) -> dict[str, list[np.ndarray]]:
    """The arrays of a directory under our names, in float32.

    Args:
        directory: holds model.safetensors, or its index and shards.
        wanted: ours -> theirs; each of theirs is used once, and none is left over.
        shapes: ours -> the shapes of theirs.
        ignored: their names that may exist and are not read.
        copies: their names that may exist -> the names of theirs with the same numbers, which one of them
            replaces where these are not there.
        bare_name: from a name in the files to the name in `wanted` and `ignored`.

    Raises:
        UserError: no such files, a damaged one, other names or shapes, or a copy that differs.
    """
    with _opened(directory) as tensors:
        there = {bare_name(name): name for name in tensors}
        if len(there) < len(tensors):
            twice = sorted(bare_name(name) for name in tensors if there[bare_name(name)] != name)
            raise UserError(
                f"the weights in {directory} have {_few(twice)} twice, with and without a prefix",
                "leave one of each",
            )
        every = [name for theirs in wanted.values() for name in theirs]
        copied = {name: same for name, same in (copies or {}).items() if name in there}
        own = there.keys() - ignored - copied.keys()
        for name, same in copied.items():
            there.setdefault(same, there[name])
        _check_names(directory, own | set(copied.values()), set(every))
        expected = dict(zip(every, (shape for ours in wanted for shape in shapes[ours]), strict=True))
        for name, shape in expected.items():
            piece = tensors[there[name]].get_slice(there[name])
            found, dtype = piece.get_shape(), piece.get_dtype()
            if dtype not in _DTYPES:
                raise UserError(
                    f"{name} in {directory} has the type {dtype}", f"only {', '.join(_DTYPES)} are read"
                )
            if tuple(found) != tuple(shape):
                raise UserError(
                    f"{name} in {directory} has the shape {list(found)}, and by config.json {list(shape)}",
                    "restore the config.json that belongs to the weights",
                )

        def array(name: str) -> np.ndarray:
            return np.asarray(tensors[there[name]].get_tensor(there[name]), np.float32)

        for name, same in copied.items():
            if not np.array_equal(array(name), array(same)):
                raise UserError(
                    f"{name} in {directory} differs from {same}, and by config.json they are one parameter",
                    "restore the config.json that belongs to the weights",
                )
        return {ours: [array(name) for name in theirs] for ours, theirs in wanted.items()}


def write(
    directory: pathlib.Path, arrays: Mapping[str, np.ndarray], max_shard_bytes: int = 5 * 10**9
) -> None:
    """Writes arrays by name: one file, or shards of at most so many bytes and their index."""
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, array in arrays.items():
        if shards[-1] and size + array.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = np.ascontiguousarray(array)  # safetensors writes other arrays wrongly
        size += array.nbytes
    if len(shards) == 1:
        safetensors.numpy.save_file(shards[0], directory / FILE, {"format": "pt"})
        return
    where: dict[str, str] = {}
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        safetensors.numpy.save_file(shard, directory / file, {"format": "pt"})
        where |= dict.fromkeys(shard, file)
    total = sum(array.nbytes for array in arrays.values())
    files.write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


@contextlib.contextmanager
def _opened(directory: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Each tensor's name -> the open file that holds it."""
    with contextlib.ExitStack() as stack:
        tensors: dict[str, Any] = {}
        for path in _shards(directory):
            try:
                file = stack.enter_context(safetensors.safe_open(path, framework="numpy"))
            except (safetensors.SafetensorError, json.JSONDecodeError) as error:
                raise UserError(
                    f"{path} is damaged ({error})", "copy it again: it may be incomplete"
                ) from None
            if twice := sorted(tensors.keys() & set(file.keys())):
                raise UserError(f"{path} has {_few(twice)}, as another shard does", "copy its files again")
            tensors |= dict.fromkeys(file.keys(), file)
        yield tensors


def _shards(directory: pathlib.Path) -> list[pathlib.Path]:
    if (directory / FILE).is_file():
        return [directory / FILE]
    if (directory / INDEX).is_file():
        paths = [directory / name for name in _shard_names(directory / INDEX)]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise UserError(
                f"{directory} lacks {', '.join(missing)}, which its {INDEX} names", "copy all of its files"
            )
        return paths
    pickled = [name for name in _PICKLES if (directory / name).exists()]
    if pickled:
        raise UserError(
            f"{directory} has its weights in {pickled[0]}, and only safetensors are read: pickles run code",
            "open it once with transformers and write it again with save_pretrained()",
        )
    raise UserError(f"no {FILE} in {directory}", f"give a directory with {FILE}, or with {INDEX}")


def _shard_names(path: pathlib.Path) -> list[str]:
    """The names of the files that an index names."""
    index = files.read_json(path)
    where = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(where, dict) or not where:
        raise UserError(f"{path} has no object 'weight_map' from weights to files", "restore the file")
    for name, file in where.items():
        if not isinstance(file, str) or pathlib.PurePath(file).name != file:
            raise UserError(f"{path}: {name} lies in {file!r}, which is no file name", "restore the file")
    return sorted(set(where.values()))


def _check_names(directory: pathlib.Path, there: set[str], wanted: set[str]) -> None:
    missing, left_over = sorted(wanted - there), sorted(there - wanted)
    if missing or left_over:
        said = [f"lack {_few(missing)}"] if missing else []
        said += [f"have {_few(left_over)}, which the architecture does not have"] if left_over else []
        raise UserError(
            f"the weights in {directory} {' and '.join(said)}",
            "give weights of the architecture and the number of layers that config.json names",
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
