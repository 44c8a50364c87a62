"""Models in Hugging Face's form, both ways: a directory with config.json, safetensors and a tokenizer."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import files
from lm_jax.errors import UserError
from lm_jax.models.base import check_sizes
from lm_jax.pretrained import generation, gpt2, marks, weights
from lm_jax.pretrained.base import FORMS, Form, form_of
from lm_jax.tasks.base import Task
from lm_jax.text import load as tokenizers
from lm_jax.text.base import Tokenizer
from lm_jax.text.wordpiece import WordPiece

# Kinds of tokenizers that transformers reads -> its classes. BERT's adds [CLS] and [SEP].
_TOKENIZER_CLASSES = {"bpe": "PreTrainedTokenizerFast", "wordpiece": "BertTokenizer"}
_BACKBONE = "backbone/"  # before the names of parameters of a model with a head
_PADDED_TO = [8 << k for k in range(8)]  # multiples to which vocabularies are padded, such as 50,304
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
        generation: the options of `generate` that its files name, of an encoder-decoder.
    """

    config: Any
    params: Any
    tokenizer: Tokenizer
    task: Task | None = None
    generation: Mapping[str, Any] = MappingProxyType({})


def is_directory(path: pathlib.Path) -> bool:
    """Whether a directory's config.json is in Hugging Face's form."""
    config = path / "config.json"
    values = files.read_json(config) if config.is_file() else None
    return isinstance(values, dict) and ("model_type" in values or values.keys() >= gpt2.FIELDS)


def find(name: str) -> pathlib.Path:
    """The directory that a path names, or the local copy of the model on the hub that `hf:NAME` names.

    A path is never looked up on the hub, and the network is used only for files that this machine does not
    have.

    Raises:
        UserError: no such directory or model, or the hub cannot be reached.
    """
    if name.startswith(HUB):
        return _download(name.removeprefix(HUB))
    path = files.expand(name)
    if path.is_dir():
        return path
    hint = (
        f"check the path, or type {HUB}{name} for a model on the hub"
        if _HUB_NAME.fullmatch(name)
        else "check the path"
    )
    raise UserError(f"there is no directory {name}", hint)


def read(directory: pathlib.Path) -> Pretrained:
    """Opens a directory: config.json, safetensors, tokenizer.json, vocab.txt, or vocab.json and merges.txt.

    A text of a left-to-right model begins and ends with the tokens that the files name (see `marks`). Rows of
    the vocabulary that only pad it to a multiple of a power of two have probability 0.

    Raises:
        UserError: another architecture, missing or damaged files, weights that config.json does not
            describe, or a tokenizer of another vocabulary.
    """
    config, task = read_config(directory)
    tokenizer = _read_tokenizer(directory, is_causal=task is not None and task.adapter == "causal")
    size, rows = tokenizer.vocab_size, config.vocab_size
    if rows != size and rows not in [-(-size // multiple) * multiple for multiple in _PADDED_TO]:
        raise UserError(
            f"the tokenizer in {directory} has {size} tokens, its model {rows}",
            "restore the tokenizer that the model was trained with",
        )
    options = generation.read(directory) if config.adapter == "seq2seq" else {}
    return Pretrained(config, read_params(directory), tokenizer, task, options)


def _read_tokenizer(directory: pathlib.Path, is_causal: bool) -> Tokenizer:
    """The tokenizer; texts of a left-to-right model begin and end with the tokens that its files name."""
    vocabulary = marks.vocabulary(directory)
    if not is_causal or not vocabulary:
        return tokenizers.load(directory)
    begin, ends = found = marks.read(directory, vocabulary)
    tokenizer = tokenizers.load(directory, found.special)
    if begin is not None or ends:
        end_ids = [vocabulary[text] for text in ends] or [tokenizer.end_id]
        begin = ends[0] if begin is None else begin
        tokenizer.set_marks(vocabulary[begin], begin, end_ids)
    return tokenizer


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
    joined = {name: form.join(name, parts, shapes[name]) for name, parts in arrays.items()}
    flat = {name: array.reshape(shapes[name]) for name, array in joined.items()}
    return {"params": flax.traverse_util.unflatten_dict(flat, sep="/")}


def read_config(directory: pathlib.Path) -> tuple[Any, Task | None]:
    """The config of the model in a directory, and the task that it was trained for.

    Raises:
        UserError: another architecture, or a damaged file.
    """
    path, form, values = directory / "config.json", _form(directory), _values(directory)
    if values.get("quantization_config") is not None:
        raise UserError(f"{path} has a quantization_config", "give the weights before they were quantized")
    if values.get("auto_map"):
        raise UserError(f"{path} has an auto_map, which names code of its own", "give another model")
    names = weights.names(directory, form.bare_name)
    config: Any
    config, task = form.read_config(values, names, str(path))
    check_sizes(config, len(names), weights.num_bytes(directory) // 2, str(path))
    return config, task


def _form(directory: pathlib.Path) -> Form:
    kind = _values(directory).get("model_type", "gpt2")  # there was no other type when the field was not
    if isinstance(kind, str) and kind in FORMS.names():
        return FORMS.get(kind)
    known = " or ".join(map(repr, FORMS.names()))
    raise UserError(
        f"{directory / 'config.json'} describes a model of type {kind!r}", f"give one of type {known}"
    )


def _values(directory: pathlib.Path) -> dict[str, Any]:
    return files.JsonObject.read(directory / "config.json").values


def write(directory: pathlib.Path, pretrained: Pretrained, max_shard_bytes: int = 5 * 10**9) -> None:
    """Writes, atomically, a directory that transformers opens with the same logits.

    Rows of the vocabulary beyond the tokenizer's, which pad it, are left out. A model without biases gets
    biases of zero. transformers reads the tokenizer only where it is a BPE or WordPiece.

    Raises:
        UserError: a model without a published form, or a directory that is not empty.
    """
    tokenizer = pretrained.tokenizer
    form = form_of(pretrained.config)
    config = dataclasses.replace(pretrained.config, vocab_size=tokenizer.vocab_size)
    values = form.write_config(config, pretrained.task, tokenizer)
    with files.new_directory(directory) as made:
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


def _their_arrays(form: Form, config: Any, pretrained: Pretrained) -> dict[str, np.ndarray]:
    flat = _flat(config.for_inference().convert(pretrained.params))
    template = form.template(config, pretrained.task)
    shapes = _flat(_abstract_params(template, pretrained.task))
    arrays: dict[str, np.ndarray] = {}
    for ours, theirs in weights.expand(form.rules(template, pretrained.task), config.num_layers).items():
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
    except huggingface_hub.errors.HFValidationError:
        raise UserError(f"{HUB}{name} is not a valid name on the hub", remedy) from None
    except huggingface_hub.errors.LocalEntryNotFoundError:
        pass
    try:
        # One short request first: without a network a download would retry many times.
        huggingface_hub.HfApi().model_info(name, timeout=5)
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES))
    except huggingface_hub.errors.RepositoryNotFoundError:
        raise UserError(f"the hub has no model {name}", remedy) from None
    except Exception as error:  # the HTTP library differs between versions
        raise UserError(f"the hub cannot be reached for {name} ({type(error).__name__})", remedy) from None
