"""What a recipe needs at the least, compared with this machine before any text is read.

All numbers are lower bounds by arithmetic: a recipe that is refused cannot run, and one that is accepted may
still be too large.
"""

import jax

from lm_jax import memory
from lm_jax.config import Config
from lm_jax.errors import UserError
from lm_jax.models.base import ModelConfig
from lm_jax.parallel.sharding import check_batch, make_mesh
from lm_jax.text.simple import ByteTokenizer

# Arrays of the parameters' size that an optimizer keeps; others keep none that is sure.
_MOMENTS = {"adamw": 2, "lion": 1, "adagrad": 1, "muon": 1}
_BYTES = 4  # of a parameter, a token or a weight
_BATCH_ARRAYS = 3  # inputs, targets and weights
_PREPARED = 3  # batches that the host holds: one in use, two prepared ahead
_MOST_LAYERS = 2000
_MOST_PARAMETERS = 10**15  # the largest models have a thousandth of it
_REMEDIES = {
    "parameters": "make the model smaller, or raise mesh.fsdp or mesh.tensor on more devices",
    "batch": "lower train.batch_size or data.sequence_length",
    "activations": "lower train.batch_size or data.sequence_length, or raise train.accumulation",
}


def check_shape(config: Config) -> None:
    """Checks that the model can be traced and compiled, on whatever machine.

    Raises:
        UserError: too many layers, or more parameters than any machine can hold.
    """
    model = config.model
    # Scanned layers are written out one by one where the model is evaluated.
    num_layers = getattr(model, "num_layers", 0)
    if num_layers > _MOST_LAYERS:
        raise UserError(
            f"model.num_layers={num_layers} would take hours to compile",
            f"set at most {_MOST_LAYERS:,} layers",
        )
    size = _resolved(config).size(config.data.sequence_length)
    if size is not None and size.parameters > _MOST_PARAMETERS:
        raise UserError(
            f"a model of {size.parameters:.1e} parameters, {memory.in_words(_BYTES * size.parameters)}",
            "make it smaller",
        )


def check(config: Config) -> None:
    """Checks that the devices and the memory of this machine can hold a recipe's training.

    Args:
        config: the recipe; where it is not resolved, the smallest vocabulary that it can have is assumed.

    Raises:
        UserError: too few devices, a batch that does not divide among them, or too little memory, with the
            estimate.
    """
    mesh = make_mesh(config.mesh)
    check_batch(mesh, config.train.batch_size, config.train.accumulation)
    sizes = device_bytes(config, **mesh.shape)
    needed, limit = sum(sizes.values()), memory.total()
    if mesh.devices.flat[0].platform == "cpu":  # one memory for all devices
        needed *= len(mesh.local_devices)
    else:
        limit = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit", needed)
    parts = ", ".join(f"{part} {memory.in_words(size)}" for part, size in sizes.items())
    remedy = _REMEDIES[max(sizes, key=lambda part: sizes[part])]
    memory.check(needed, f"training ({parts})", remedy, total=limit)
    rows = config.train.batch_size // jax.process_count()
    prepared = _PREPARED * rows * config.data.sequence_length * _BATCH_ARRAYS * _BYTES
    memory.check(prepared, "preparing batches", _REMEDIES["batch"], total=memory.total())


def device_bytes(config: Config, data: int, fsdp: int, tensor: int) -> dict[str, int]:
    """The bytes that each device needs at the least, by purpose.

    Args:
        config: the recipe.
        data: devices on each axis of the mesh.
        fsdp: the same.
        tensor: the same.
    """
    length, train = config.data.sequence_length, config.train
    tokens = train.batch_size * length // (data * fsdp)
    sizes = {"batch": tokens * _BATCH_ARRAYS * _BYTES}
    model = _resolved(config)
    if (size := model.size(length)) is not None:
        copies = 2 + _MOMENTS.get(config.optimizer.name, 0) + (train.average != "none")
        sizes["parameters"] = copies * size.parameters * _BYTES // (fsdp * tensor)
        at_once = tokens // train.accumulation
        width = 2 if getattr(model, "dtype", "") == "bfloat16" else _BYTES
        chunk = min(getattr(config.task, "chunk_length", 0) or length, length)
        logits = at_once * chunk // length * model.vocab_size // tensor
        sizes["activations"] = (at_once * size.kept + logits) * width
    return sizes


def _resolved(config: Config) -> ModelConfig:
    """The model's config, with the smallest vocabulary that it can have where that is not known yet."""
    least = ByteTokenizer().vocab_size if config.data.tokenizer == "byte" else 1
    return config.model.resolved(config.model.vocab_size or least, config.data.sequence_length)
