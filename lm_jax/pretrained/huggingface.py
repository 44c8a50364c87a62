"""Models in Hugging Face's form, both ways: a directory with config.json, safetensors and a tokenizer."""

import dataclasses
import pathlib
import re
import shutil
import tempfile
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import files
from lm_jax.errors import UserError
from lm_jax.pretrained import weights
from lm_jax.pretrained.base import FORMS, Form
from lm_jax.tasks.base import Task
from lm_jax.text import load as tokenizers
from lm_jax.text.base import Tokenizer
from lm_jax.text.wordpiece import WordPiece

# Kinds of tokenizers that transformers reads -> its classes. BERT's adds [CLS] and [SEP].
_TOKENIZER_CLASSES = {"bpe": "PreTrainedTokenizerFast", "wordpiece": "BertTokenizer"}
_BACKBONE = "backbone/"  # before the names of parameters of a model with a head
HUB = "hf:"  # before the name of a model on the hub
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = ["*.json", "*.safetensors", "merges.txt", "vocab.txt"]


class Pretrained(NamedTuple):
    """A published model.

    Attributes:
        config: its shape.
        params: its variables, float32.
        tokenizer: from text to ids.
        task: the task that it was trained for; None: a model without a head.
    """

    config: Any
    params: Any
    tokenizer: Tokenizer
    task: Task | None = None


def is_directory(path: pathlib.Path) -> bool:
    """Whether a directory's config.json is in Hugging Face's form."""
    config = path / "config.json"
    return config.is_file() and "model_type" in files.read_json(config)


def find(name: str) -> pathlib.Path:
    """The directory that a path names, or the local copy of the model on the hub that `hf:NAME` names.

    A path is never looked up on the hub, and the network is used only for files that this machine does not
    have.

    Raises:
        UserError: no such directory or model, or the hub cannot be reached.
    """
    if name.startswith(HUB):
        return _download(name.removeprefix(HUB))
    path = pathlib.Path(name).expanduser()
    if path.is_dir():
        return path
    hint = (
        f"check the path, or type {HUB}{name} for a model on the hub"
        if _HUB_NAME.fullmatch(name)
        else "check the path"
    )
    raise UserError(f"there is no directory {name}", hint)


def read(directory: pathlib.Path) -> Pretrained:
    """Opens a directory: config.json, safetensors, and tokenizer.json or vocab.json with merges.txt.

    Raises:
        UserError: another architecture, missing or damaged files, weights that config.json does not
            describe, or a tokenizer of another vocabulary.
    """
    config, task = read_config(directory)
    tokenizer = tokenizers.load(directory)
    if tokenizer.vocab_size != config.vocab_size:
        raise UserError(
            f"the tokenizer in {directory} has {tokenizer.vocab_size} tokens, its model {config.vocab_size}",
            "restore the tokenizer that the model was trained with",
        )
    return Pretrained(config, read_params(directory), tokenizer, task)


def read_params(directory: pathlib.Path) -> Any:
    """The variables of the model in a directory, float32; errors as for `read`."""
    config, task = read_config(directory)
    form = _form(directory)
    names = weights.expand(form.rules(config, task), config.num_layers)
    shapes = {name: leaf.shape for name, leaf in _flat(_abstract_params(config, task)).items()}
    arrays = weights.read(
        directory,
        names,
        {name: form.their_shapes(name, shape) for name, shape in shapes.items()},
        form.ignored(config, task),
        form.copies(config, task),
        form.bare_name,
    )
    flat = {name: form.join(name, parts).reshape(shapes[name]) for name, parts in arrays.items()}
    return {"params": flax.traverse_util.unflatten_dict(flat, sep="/")}


def read_config(directory: pathlib.Path) -> tuple[Any, Task | None]:
    """The config of the model in a directory, and the task that it was trained for.

    Raises:
        UserError: another architecture, or a damaged file.
    """
    path, form = directory / "config.json", _form(directory)
    return form.read_config(files.read_json(path), weights.names(directory, form.bare_name), str(path))


def _form(directory: pathlib.Path) -> Form:
    path = directory / "config.json"
    kind = files.read_json(path).get("model_type")
    try:
        return FORMS.get(kind)
    except UserError:
        known = " or ".join(map(repr, FORMS.names()))
        raise UserError(f"{path} describes a model of type {kind!r}", f"give one of type {known}") from None


def write(directory: pathlib.Path, pretrained: Pretrained, max_shard_bytes: int = 5 * 10**9) -> None:
    """Writes, atomically, a directory that transformers opens with the same logits.

    Rows of the vocabulary beyond the tokenizer's, which pad it, are left out. A model without biases gets
    biases of zero. transformers reads the tokenizer only where it is a BPE or WordPiece.

    Raises:
        UserError: a model that is not a GPT-2, or a directory that is not empty.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists", "give a new directory")
    tokenizer = pretrained.tokenizer
    if not pretrained.config.published_as:
        raise UserError(
            f"a {pretrained.config.family} model has no published form", "export a model of another family"
        )
    form = FORMS.get(pretrained.config.published_as)
    config = dataclasses.replace(pretrained.config, vocab_size=tokenizer.vocab_size)
    values = form.write_config(config, pretrained.task, tokenizer)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as temporary:
        made = pathlib.Path(temporary, "model")
        made.mkdir()
        weights.write(made, _their_arrays(form, config, pretrained), max_shard_bytes)
        tokenizer.save(made)
        if tokenizer.kind in _TOKENIZER_CLASSES:
            special = {f"{name}_token": tokenizer.special_text(name) for name in tokenizer.special_ids}
            files.write_json(
                made / "tokenizer_config.json",
                {
                    "tokenizer_class": _TOKENIZER_CLASSES[tokenizer.kind],
                    "model_max_length": config.max_length,
                    **({"do_lower_case": tokenizer.lowercase} if isinstance(tokenizer, WordPiece) else {}),
                    **special,
                },
            )
        files.write_json(made / "config.json", values)
        if directory.exists():
            directory.rmdir()
        shutil.move(made, directory)


def _their_arrays(form: Form, config: Any, pretrained: Pretrained) -> dict[str, np.ndarray]:
    flat = _flat(config.for_inference().convert(pretrained.params))
    shapes = _flat(_abstract_params(form.template(config), pretrained.task))
    arrays: dict[str, np.ndarray] = {}
    for ours, theirs in weights.expand(form.rules(config, pretrained.task), config.num_layers).items():
        array = np.asarray(flat[ours] if ours in flat else np.zeros(shapes[ours].shape), np.float32)
        array = array[: config.vocab_size] if ours.removeprefix(_BACKBONE) in form.by_token else array
        names = [form.full_name(name, pretrained.task) for name in theirs]
        arrays |= zip(names, form.split(ours, array), strict=True)
    return arrays


def _flat(variables: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(variables["params"], sep="/")


def _abstract_params(config: Any, task: Task | None) -> Any:
    inference = config.for_inference()
    module = inference.make() if task is None else task.make(inference)
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), jnp.int32))


def _download(name: str) -> pathlib.Path:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{HUB}{name} needs huggingface_hub", "type pip install 'lm_jax[hub]', or give a directory"
        ) from None
    remedy = "check the name, or copy the model's directory to this machine and give its path"
    if not _HUB_NAME.fullmatch(name):
        raise UserError(f"{HUB}{name} is not a valid name on the hub", remedy)
    try:
        return pathlib.Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except huggingface_hub.errors.LocalEntryNotFoundError:
        pass
    try:
        # One short request first: without a network a download would retry many times.
        huggingface_hub.HfApi().model_info(name, timeout=5)
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES))
    except (huggingface_hub.errors.RepositoryNotFoundError, huggingface_hub.errors.HFValidationError):
        raise UserError(f"the hub has no model {name}", remedy) from None
    except Exception as error:  # the HTTP library differs between versions
        raise UserError(f"the hub cannot be reached for {name} ({type(error).__name__})", remedy) from None
