"""ELMo as AllenNLP published it: `options.json` and the weights of bilm-tf in HDF5, both ways.

A directory holds one file whose name ends in `options.json` and one whose name ends in `weights.hdf5`.
The weights hold the characters, the convolutions, and both directions; there is no softmax in them.
"""

import pathlib
from typing import Any

import numpy as np

from lm_jax import files
from lm_jax.errors import UserError
from lm_jax.models.elmo import ELMoConfig
from lm_jax.pretrained.values import Values
from lm_jax.text.characters import NUM_CHARACTERS

_OPTIONS, _WEIGHTS = "options.json", "weights.hdf5"
_PICKLED = (".pt", ".pth", ".pkl", ".bin")
_ACTIVATIONS: dict[str, str] = {"relu": "relu", "tanh": "tanh"}
_LSTM = "RNN_{}/RNN/MultiRNNCell/Cell{}/LSTMCell"
_OUR_GATES = (0, 2, 1, 3)  # theirs: i, g, f, o; ours: i, f, g, o; the permutation is its own inverse


def is_directory(path: pathlib.Path) -> bool:
    """Whether a directory has options of an ELMo."""
    return path.is_dir() and any(path.glob(f"*{_OPTIONS}"))


def check_path(path: pathlib.Path) -> None:
    """Refuses single files of weights.

    Raises:
        UserError: a pickled file, or HDF5 without its directory.
    """
    if path.suffix in _PICKLED:
        raise UserError(
            f"{path} is a pickled file, which runs code when it is opened",
            f"give a directory with {_OPTIONS} and {_WEIGHTS}, or with config.json and safetensors",
        )
    if path.suffix in (".hdf5", ".h5"):
        raise UserError(f"{path} is a file of weights", f"give its directory, with {_OPTIONS} in it")


def read(directory: pathlib.Path) -> tuple[ELMoConfig, Any]:
    """The config and the variables of a published ELMo.

    Raises:
        UserError: a missing or damaged file, a pickled one, options that are not supported or disagree with
            the weights, or an array that is missing.
    """
    config = read_options(files.read_json(_only(directory, _OPTIONS)), str(_only(directory, _OPTIONS)))
    path = _only(directory, _WEIGHTS)
    arrays = _read_arrays(path)
    params: dict[str, Any] = {}
    for name, shape in _shapes(config).items():
        if name not in arrays:
            raise UserError(f"{path} has no array {name}", "restore the file, or correct the options")
        if arrays[name].shape != shape:
            raise UserError(
                f"{name} in {path} has the shape {arrays[name].shape}, and by the options {shape}",
                "give the options that belong to the weights",
            )
    for place, value in _ours(config, arrays).items():
        *parents, leaf = place.split("/")
        inner = params
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = np.ascontiguousarray(value, np.float32)
    return config, {"params": params}


def write(directory: pathlib.Path, config: ELMoConfig, variables: Any) -> None:
    """Writes, atomically, options.json and weights.hdf5, which `read` and AllenNLP open.

    Raises:
        UserError: words with vectors of their own, or a directory that is not empty.
    """
    module = h5py()
    if not config.spells:
        raise UserError(
            "an ELMo whose words have vectors of their own has no published form", "export one of characters"
        )
    with files.new_directory(directory) as made:
        files.write_json(made / _OPTIONS, write_options(config))
        with module.File(made / _WEIGHTS, "w") as file:
            for name, value in _theirs(config, variables["params"]).items():
                file[name] = np.asarray(value, np.float32)


def h5py() -> Any:
    """The module h5py; raises UserError where it is not installed."""
    try:
        import h5py as module  # type: ignore[import-untyped]
    except ImportError:
        raise UserError("reading and writing HDF5 needs h5py", "pip install 'lm_jax[hdf5]'") from None
    return module


def read_options(options: Any, source: str) -> ELMoConfig:
    """The config that options.json describes.

    Args:
        options: the values of the file.
        source: its name, for errors.

    Raises:
        UserError: a field is missing, malformed or not supported.
    """
    if not isinstance(options, dict):
        raise UserError(f"{source} is not a JSON object", "restore the file")
    cnn, lstm = _part(options, "char_cnn", source), _part(options, "lstm", source)
    embedding = _part(options["char_cnn"], "embedding", source)
    if (rows := cnn.size("n_characters")) not in (NUM_CHARACTERS - 1, NUM_CHARACTERS):
        raise UserError(f"n_characters={rows} in {source}", f"only {NUM_CHARACTERS} is supported")
    filters = options["char_cnn"].get("filters")
    if not isinstance(filters, list) or not all(
        isinstance(f, list) and len(f) == 2 and all(type(n) is int for n in f) for f in filters
    ):
        raise UserError(f"filters in {source} are not pairs of a width and a number", "restore the file")
    config = ELMoConfig(
        d_model=lstm.size("projection_dim"),
        hidden=lstm.size("dim"),
        num_layers=lstm.size("n_layers"),
        cell_clip=lstm.number("cell_clip", 0.0),
        projection_clip=lstm.number("proj_clip", 0.0),
        residual=lstm.boolean("use_skip_connections", False),
        character_dim=embedding.size("dim"),
        filters=tuple((width, number) for width, number in filters),
        num_highways=cnn.integer("n_highway", 0),
        activation=cnn.choice("activation", _ACTIVATIONS, "relu"),
        word_length=cnn.size("max_characters_per_token"),
    )
    config.check()
    return config


def write_options(config: ELMoConfig) -> dict[str, Any]:
    """The values of options.json."""
    return {
        "lstm": {
            "use_skip_connections": config.residual,
            "projection_dim": config.d_model,
            "cell_clip": config.cell_clip or None,
            "proj_clip": config.projection_clip or None,
            "dim": config.hidden,
            "n_layers": config.num_layers,
        },
        "char_cnn": {
            "activation": config.activation,
            "filters": [list(pair) for pair in config.filters],
            "n_highway": config.num_highways,
            "embedding": {"dim": config.character_dim},
            "n_characters": NUM_CHARACTERS,
            "max_characters_per_token": config.word_length,
        },
    }


def _part(values: dict[str, Any], name: str, source: str) -> Values:
    inner = values.get(name)
    if not isinstance(inner, dict):
        raise UserError(f"{source} has no part {name}", "restore the file")
    return Values({key: value for key, value in inner.items() if value is not None}, source)


def _only(directory: pathlib.Path, ending: str) -> pathlib.Path:
    """The one file of a directory whose name has this ending."""
    found = sorted(directory.glob(f"*{ending}"))
    if not found and (pickled := [p for p in sorted(directory.iterdir()) if p.suffix in _PICKLED]):
        check_path(pickled[0])
    if len(found) != 1:
        raise UserError(f"{directory} has {len(found)} files *{ending}", "keep one model in a directory")
    return found[0]


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    module = h5py()
    arrays: dict[str, np.ndarray] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, module.Dataset) and item.dtype.kind == "f":
            arrays[name] = item[()]

    try:
        with module.File(path, "r") as file:
            file.visititems(keep)
    except OSError as error:
        raise UserError(f"{path} is not a readable HDF5 file ({error})", "restore the file") from None
    return arrays


def _shapes(config: ELMoConfig) -> dict[str, tuple[int, ...]]:
    """The published names of all arrays -> their shapes."""
    num, P, H = config.num_filters, config.d_model, config.hidden
    shapes: dict[str, tuple[int, ...]] = {"char_embed": (NUM_CHARACTERS - 1, config.character_dim)}
    for i, (width, number) in enumerate(config.filters):
        shapes |= {f"CNN/W_cnn_{i}": (1, width, config.character_dim, number), f"CNN/b_cnn_{i}": (number,)}
    for i in range(config.num_highways):
        for part in ("carry", "transform"):
            shapes |= {f"CNN_high_{i}/W_{part}": (num, num), f"CNN_high_{i}/b_{part}": (num,)}
    if num != P:
        shapes |= {"CNN_proj/W_proj": (num, P), "CNN_proj/b_proj": (P,)}
    for direction in range(2):
        for i in range(config.num_layers):
            cell = _LSTM.format(direction, i)
            shapes |= {f"{cell}/W_0": (2 * P, 4 * H), f"{cell}/B": (4 * H,), f"{cell}/W_P_0": (H, P)}
    return shapes


def _names(config: ELMoConfig) -> dict[str, str]:
    """Our places -> the published names, of the arrays that are the same but for a shape."""
    names: dict[str, str] = {}
    for i in range(len(config.filters)):
        names |= {f"filters_{i}/kernel": f"CNN/W_cnn_{i}", f"filters_{i}/bias": f"CNN/b_cnn_{i}"}
    for i in range(config.num_highways):
        for ours, theirs in (("gate", "carry"), ("transform", "transform")):
            names[f"highway_{i}/{ours}/kernel"] = f"CNN_high_{i}/W_{theirs}"
            names[f"highway_{i}/{ours}/bias"] = f"CNN_high_{i}/b_{theirs}"
    if config.num_filters != config.d_model:
        names |= {"projection/kernel": "CNN_proj/W_proj", "projection/bias": "CNN_proj/b_proj"}
    names = {f"encoder/{ours}": theirs for ours, theirs in names.items()}
    for ours, _, cell in _cells(config):
        names[f"{ours}/projection"] = f"{cell}/W_P_0"
    return names


def _cells(config: ELMoConfig) -> list[tuple[str, int, str]]:
    """(our place, the layer's number, the published name) of each LSTM."""
    return [
        (f"{direction}_{i}", i, _LSTM.format(number, i))
        for number, direction in enumerate(("forward", "backward"))
        for i in range(config.num_layers)
    ]


def _ours(config: ELMoConfig, theirs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our places -> our arrays."""
    made = {ours: theirs[name] for ours, name in _names(config).items()}
    made = {ours: value[0] if value.ndim == 4 else value for ours, value in made.items()}
    table = theirs["char_embed"]
    made["encoder/characters/embedding"] = np.concatenate([np.zeros_like(table[:1]), table])
    for ours, _, cell in _cells(config):
        kernel = _reorder(theirs[f"{cell}/W_0"])
        made[f"{ours}/input"], made[f"{ours}/recurrent"] = np.split(kernel, 2)
        made[f"{ours}/bias"] = _reorder(theirs[f"{cell}/B"]) + _forget(config)
    return made


def _theirs(config: ELMoConfig, params: Any) -> dict[str, np.ndarray]:
    """The published names -> arrays."""

    def at(place: str) -> np.ndarray:
        inner = params
        for part in place.split("/"):
            inner = inner[part]
        return np.asarray(inner)

    made = {name: at(ours) for ours, name in _names(config).items()}
    made = {name: value[None] if value.ndim == 3 else value for name, value in made.items()}
    made["char_embed"] = at("encoder/characters/embedding")[1:]
    for ours, _, cell in _cells(config):
        made[f"{cell}/W_0"] = _reorder(np.concatenate([at(f"{ours}/input"), at(f"{ours}/recurrent")]))
        made[f"{cell}/B"] = _reorder(at(f"{ours}/bias") - _forget(config))
    return made


def _reorder(x: np.ndarray) -> np.ndarray:
    """The gates, side by side in the last axis, in the other order."""
    gates = np.split(x, 4, axis=-1)
    return np.concatenate([gates[i] for i in _OUR_GATES], axis=-1)


def _forget(config: ELMoConfig) -> np.ndarray:
    """What bilm-tf adds to the forget gate's bias when it runs, in our order of gates."""
    return np.repeat(np.array([0, 1, 0, 0], np.float32), config.hidden)
