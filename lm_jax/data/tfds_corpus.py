"""Data sets of tensorflow-datasets, read from ArrayRecord files without TensorFlow."""

import contextlib
import difflib
import functools
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.data.documents import Document, PathFile, Value
from lm_jax.errors import UserError

FORM = "NAME[/CONFIG][:VERSION][@SPLIT][#FIELD]"
# Name, config and version as tensorflow-datasets writes them. Not its namespaces: it looks them up online.
_SPEC = re.compile(r"([A-Za-z]\w*(?:/[\w+.-]+)?(?::[\d*]+(?:\.[\d*]+){2})?)(?:@([^#]+))?(?:#(.+))?")
_AT_ONCE = 256  # examples that are read together, since single reads are slow
_TEXT_GROUPS = ("question_answering", "summarization", "text", "text_simplification", "translate")


def parse(spec: str) -> tuple[str, str, str]:
    """The name with its config and version, the split ("train" where none is named), the field (else "").

    Raises:
        UserError: a spec of another form.
    """
    match = _SPEC.fullmatch(spec)
    if not match:
        raise UserError(
            f"tfds:{spec} names no data set", f"type tfds:{FORM}, such as tfds:imdb_reviews@unsupervised"
        )
    return match[1], match[2] or "train", match[3] or ""


def with_split(spec: str, split: str) -> str:
    """The spec of another split of the same data set."""
    name, _, field = parse(spec)
    return f"{name}@{split}" + (f"#{field}" if field else "")


def read(spec: str) -> tuple[tuple[PathFile, ...], dict[str, Any]]:
    """Finds the files of a data set that was prepared as ArrayRecord; each example is a document.

    They are in $TFDS_DATA_DIR, else in tensorflow-datasets' own directory, ~/tensorflow_datasets. Nothing is
    downloaded here: without a network the library retries for minutes before it fails. The other texts and
    single numbers of an example are fields of the document; a class label is the name of its class.

    A feature inside another is named with a slash, such as `answers/text`. A sequence of texts becomes one
    text with a line for each, and a sequence of class labels a list of names.

    Args:
        spec: `NAME[/CONFIG][:VERSION][@SPLIT][#FIELD]`. The split is `train` unless another is named, in the
            language of tensorflow-datasets: `test`, `train[:10%]`, `train+test`. The field is `text` unless
            another is named, or where an example has only one text.

    Returns:
        The files, and for the record the full name with its version, the split and the field.

    Raises:
        UserError: no such data set, version, split or field; or a data set that is not prepared.
    """
    name, split, field = parse(spec)
    builder = _prepared(name)
    features = builder.info.features
    field = _choose_field(spec, features, field)
    others = {
        name: feature
        for name, feature, is_single in _leaves(features)
        if name != field and feature.shape == () and (is_single or hasattr(feature, "int2str"))
    }
    with _reported(f"tfds:{spec}", "name one of its splits, such as tfds:NAME@test or tfds:NAME@train[:10%]"):
        source = builder.as_data_source(split)
        shards = builder.info.splits[split].file_instructions
    files, first = [], 0
    for shard in shards:
        places = range(first, first + shard.take)
        parse_shard = functools.partial(
            _parse, source=source, places=places, skip=shard.skip, field=field, others=others
        )
        path = Path(shard.filename)
        files.append(PathFile(path, path.name, parse_shard))
        first += shard.take
    return tuple(files), {"dataset": builder.info.full_name, "split": split, "field": field}


def _prepared(name: str) -> Any:
    """The builder of a data set that is prepared."""
    import tensorflow_datasets as tfds

    code = f"tfds.builder('{name}', file_format='array_record').download_and_prepare()"
    command = f'python -c "import tensorflow_datasets as tfds; {code}"'
    remedy = (
        f"check config and version; if it is there in another format, set TFDS_DATA_DIR and run {command}"
    )
    with _reported(f"tfds:{name}", remedy):
        try:
            # The library registers its groups in order and stops silently at the first that lacks a package
            # (d4rl without h5py), though texts do not need it.
            for group in _TEXT_GROUPS:
                importlib.import_module(f"tensorflow_datasets.{group}")
            data_dir = os.environ.get("TFDS_DATA_DIR")  # which the library reads only at its import
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        except tfds.core.DatasetNotFoundError:
            known = tfds.list_builders(with_community_datasets=False)
            near = difflib.get_close_matches(re.split("[/:]", name)[0], known, n=1)
            remedy = f"did you mean tfds:{near[0]}?" if near else "set TFDS_DATA_DIR to where it was prepared"
            raise UserError(f"no data set {name} in tensorflow-datasets", remedy) from None
    if not builder.is_prepared():
        cause = f"the data set tfds:{name} is not prepared: there is no {builder.data_dir}"
        raise UserError(cause, f"run {command}")
    return builder


def _choose_field(spec: str, features: Any, field: str) -> str:
    import tensorflow_datasets as tfds

    found = [
        (n, single) for n, feature, single in _leaves(features) if isinstance(feature, tfds.features.Text)
    ]
    texts = [name for name, _ in found]
    if not field:
        plain = [name for name, is_single in found if is_single and "/" not in name] or texts
        field = plain[0] if len(plain) == 1 else "text"
    if field not in texts:
        shown = ", ".join(texts) or "none"
        raise UserError(
            f"tfds:{spec} has no text in the field {field!r} (its texts: {shown})", f"type tfds:{FORM}"
        )
    return field


def _leaves(feature: Any, name: str = "", is_single: bool = True) -> Iterator[tuple[str, Any, bool]]:
    """The tensors of a data set: (name with slashes, feature, whether it is in no sequence)."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.FeaturesDict):
        for key, inner in feature.items():
            yield from _leaves(inner, f"{name}/{key}" if name else key, is_single)
    elif isinstance(feature, tfds.features.Sequence):
        yield from _leaves(feature.feature, name, False)
    elif isinstance(feature, tfds.features.Tensor):
        yield name, feature, is_single


def _parse(
    path: Path, name: str, source: Any, places: range, skip: int, field: str, others: dict[str, Any]
) -> Iterator[Document]:
    """The examples of a shard, numbered by their place in it, whichever slice of it is read."""
    for start in range(0, len(places), _AT_ONCE):
        with _reported(str(path), "the file is damaged: prepare the data set again"):
            examples = source.__getitems__(places[start : start + _AT_ONCE])
        for number, example in enumerate(examples, skip + start + 1):
            where = f"{path}, example {number},"
            found = {n: _value(_take(example, n), feature, where) for n, feature in others.items()}
            fields = {n: value for n, value in found.items() if value is not None}
            yield Document(f"{name}:{number}", _text(_take(example, field), where), fields)


def _take(example: Any, name: str) -> Any:
    """The value of a feature by its name with slashes; of a sequence, its values."""
    key, _, rest = name.partition("/")
    if isinstance(example, list | tuple):  # of a sequence of features
        return [_take(one, name) for one in example]
    return _take(example[key], rest) if rest else example[key]


def _text(value: Any, where: str) -> str:
    """A text, or the texts of a sequence, a line each."""
    if isinstance(value, bytes):
        return _decode(value, where)
    return "\n".join(_text(one, where) for one in value)


def _value(value: Any, feature: Any, where: str) -> Value | None:
    """The value of a feature that is not nested, or the names of a sequence of class labels.

    None for a class label of -1, which means none, and for sequences of sequences.
    """
    if isinstance(value, bytes):
        return _decode(value, where)
    if np.ndim(value):
        names = [None if np.ndim(one) else _value(one, feature, where) for one in value]
        return None if None in names else names
    number = value.item() if hasattr(value, "item") else value
    if hasattr(feature, "int2str"):
        return feature.int2str(number) if number >= 0 else None
    return number


def _decode(text: bytes, where: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8: byte 0x{text[error.start]:02x} at offset {error.start}",
            "prepare the data set again with a text that is",
        ) from None


@contextlib.contextmanager
def _reported(what: str, remedy: str) -> Iterator[None]:
    """Raises a UserError of one line for the library's errors, whose messages are long."""
    try:
        yield
    except UserError:
        raise
    # ImportError: sequences of sequences need TensorFlow.
    except (AssertionError, ImportError, LookupError, NotImplementedError, RuntimeError, ValueError) as error:
        first_line = str(error).strip().split("\n")[0].rstrip(".")
        cause = re.sub(r"^Failed to construct dataset .*?}\": ", "", first_line)
        raise UserError(f"{what}: {cause}", remedy) from None
