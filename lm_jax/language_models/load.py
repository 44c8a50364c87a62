"""Opening trained and published models: `lm_jax.load`."""

import pathlib
from typing import Any

import jax

from lm_jax import files, seal
from lm_jax.checkpoint import CHECKPOINTS, Checkpoints
from lm_jax.config import FILE, RunParts
from lm_jax.data import provenance
from lm_jax.data.pipeline import classes_of
from lm_jax.errors import UserError
from lm_jax.language_models import finite
from lm_jax.language_models.base import LanguageModel
from lm_jax.language_models.bilm import BiLM
from lm_jax.language_models.mixtures import parts
from lm_jax.language_models.ngram import NGramLanguageModel
from lm_jax.language_models.ngram_classes import ClassModels, NGramClassifier
from lm_jax.language_models.trained import Trained
from lm_jax.models.base import ModelConfig, check_sizes
from lm_jax.ngram import arpa
from lm_jax.ngram.model import NGramModel
from lm_jax.ngram.spelling import Speller
from lm_jax.ngram.vocabulary import SPECIALS
from lm_jax.parallel.sharding import MeshConfig, by_name, fit_mesh
from lm_jax.pretrained import allennlp, huggingface
from lm_jax.progress import say
from lm_jax.registry import Registry
from lm_jax.text import load as tokenizers
from lm_jax.text.simple import WordTokenizer

_TOKENIZER = "tokenizer"  # in a run directory
SPELLING = "spelling"  # in a run directory whose tokens are words
NGRAM_FILE = "model.ngram"  # an n-gram model in its run directory

# A task's `adapter` -> what makes a language model of a `Trained`.
ADAPTERS: Registry[Any] = Registry(
    "adapter",
    {
        "bidirectional": "lm_jax.language_models.bilm:BidirectionalLanguageModel",
        "causal": "lm_jax.language_models.causal:CausalLanguageModel",
        "classifier": "lm_jax.language_models.labels:Classifier",
        "encoder": "lm_jax.language_models.encoder:EncoderLanguageModel",
        "masked": "lm_jax.language_models.masked:MaskedLanguageModel",
        "seq2seq": "lm_jax.language_models.seq2seq:open_model",
        "regressor": "lm_jax.language_models.labels:Regressor",
        "tagger": "lm_jax.language_models.labels:Tagger",
    },
)


def load(
    path: str | pathlib.Path,
    step: str = "best",
    mesh: MeshConfig | None = None,
    *,
    bos: bool = True,
    eos: bool = True,
) -> LanguageModel:
    """Opens a run directory, an ARPA file, a published model, or a mixture.

    Args:
        path: what `train.py` wrote; or an ARPA file, compressed or not, whose words are separated by white
            space; or a directory in Hugging Face's form (config.json, safetensors, a tokenizer), or in
            AllenNLP's (options.json, weights.hdf5), an ELMo; or `hf:NAME`, a name on its hub; or a mixture,
            mixture-N.json of eval.py --mix. A path is never looked up on the hub.
        step: "best" (lowest validation loss), "latest", or a step's number; other models have no steps.
        mesh: how the devices of this process share the parameters and the rows; None: the recipe's mesh,
            fitted to the devices.
        bos: False: an n-gram model scores the first word of a sentence without `<s>` before it. An ARPA file
            may then lack `<s>`. Of n-gram models only.
        eos: False: an n-gram model does not score `</s>`, which an ARPA file may then lack.

    Raises:
        UserError: not a model, a damaged model or one with a parameter that is not finite, no such
            checkpoint, too few devices for the mesh, or `bos` or `eos` of a model that is not of n-grams.
    """
    file = None if str(path).startswith(huggingface.HUB) else files.expand(path)
    if file is not None and file.is_file():
        allennlp.check_path(file)
    model: LanguageModel
    if file is not None and allennlp.is_directory(file):
        config, params = allennlp.read(file)
        finite.check(params, str(path))
        model = BiLM(config, params)
    elif file is not None and parts.is_file(file):
        model = parts.read(file, lambda component: load(component, step, mesh))
    elif file is not None and _is_file(file):
        model = _load_arpa(file, bos, eos)
    else:
        model = _load(path, step, mesh)
    if isinstance(model, NGramLanguageModel):
        model.bos, model.eos = bos, eos
    elif not (bos and eos):
        raise UserError(
            f"bos={bos}, eos={eos} of a {model.family} model, which always scores both",
            "leave them out: they are options of n-gram models",
        )
    return model


def _is_file(path: pathlib.Path) -> bool:
    """Whether a path is a file, or has the name of an ARPA file that is missing."""
    if path.exists():
        return path.is_file()
    return str(path).lower().endswith((".arpa", ".lm", ".arpa.gz", ".lm.gz"))


def _load(path: str | pathlib.Path, step: str, mesh: MeshConfig | None) -> LanguageModel:
    directory = find(path)
    if huggingface.is_directory(directory):
        return _load_pretrained(directory, mesh)
    return _load_run(directory, step, mesh)


def steps_of(path: str | pathlib.Path, which: str) -> list[str]:
    """The checkpoints that "all", or steps with commas between them, name: arguments for `load`.

    Args:
        path: as for `load`.
        which: one checkpoint, as for `load`, or several.

    Returns:
        The steps in order; `which` itself if it names one, and "best" of a model without checkpoints.

    Raises:
        UserError: there is no such checkpoint.
    """
    if which != "all" and "," not in which:
        return [which]
    directory = None if str(path).startswith(huggingface.HUB) else files.expand(path)
    if directory is None or not (directory / FILE).is_file() or not (directory / CHECKPOINTS).is_dir():
        return ["best"]
    with Checkpoints(directory, read_only=True) as checkpoints:
        there = checkpoints.all_steps()
        chosen = there if which == "all" else [checkpoints.choose(step) for step in which.split(",")]
    return list(map(str, sorted(set(chosen))))


def read_model_config(path: str | pathlib.Path) -> Any:
    """The config of the model that `load` would open, the part `model` of a recipe, with its sizes.

    Errors as for `load`.
    """
    if not str(path).startswith(huggingface.HUB) and allennlp.is_directory(files.expand(path)):
        return allennlp.read(files.expand(path))[0]
    directory = find(path)
    if huggingface.is_directory(directory):
        return huggingface.read_config(directory)[0]
    run = RunParts(directory)
    if run.task is None:
        return run.model
    tokenizer = tokenizers.load(directory / _TOKENIZER)
    return run.model.resolved(tokenizer.vocab_size, run.data.sequence_length)


def tokenizer_path(path: str | pathlib.Path) -> pathlib.Path:
    """The path of the tokenizer of a run or of a published model. Errors as for `load`."""
    directory = find(path)
    return directory if huggingface.is_directory(directory) else directory / _TOKENIZER


def find(path: str | pathlib.Path) -> pathlib.Path:
    """The directory that a path or `hf:NAME` names.

    Raises:
        UserError: it does not exist, holds no model, or a run's config, tokenizer or data.json is damaged.
    """
    directory = huggingface.find(str(path))
    if not (directory / FILE).is_file():
        raise UserError(
            f"{path} is not a run directory (no {FILE} in it)",
            "give the --workdir of a train.py run, an ARPA file, a directory in Hugging Face's "
            "form, or hf:NAME",
        )
    seal.check(directory, FILE, _TOKENIZER, SPELLING, provenance.FILE)
    return directory


def _load_run(path: pathlib.Path, step: str, mesh: MeshConfig | None) -> LanguageModel:
    if not (path / seal.FILE).is_file():
        say(f"{path} has no {seal.FILE}, as runs of earlier versions: damaged files in it are not noticed")
    run = RunParts(path)
    tokenizer = tokenizers.load(path / _TOKENIZER)
    data_facts = provenance.read(path)
    if tokenizer.fingerprint() != data_facts["tokenizer"]["sha256"]:
        raise UserError(
            f"{path / _TOKENIZER} is not the tokenizer that the model was trained with",
            "restore it; its vocabulary must match the model's",
        )
    speller = Speller.load(path / SPELLING) if (path / SPELLING).is_dir() else None
    if run.label:
        return NGramClassifier(ClassModels.load(path), tokenizer, run.data.documents)
    if run.task is None:
        seal.check(path, NGRAM_FILE)
        model = NGramModel.load(path / NGRAM_FILE)
        return NGramLanguageModel(model, tokenizer, run.data.documents, speller=speller)
    config: ModelConfig = run.model.resolved(tokenizer.vocab_size, run.data.sequence_length)
    task = run.task.resolved(classes_of(data_facts))
    devices = fit_mesh(run.mesh if mesh is None else mesh, exact=mesh is not None)
    with Checkpoints(path, read_only=True) as checkpoints:
        chosen = checkpoints.choose(step)
        check_sizes(config, *checkpoints.sizes(chosen), str(path / FILE))
        if run.format_version == 1:
            params = config.convert_from_format_1(checkpoints.read_params(chosen))
        else:
            shapes = _abstract_params(task, config, run.data.sequence_length)
            params = checkpoints.restore_params(chosen, _placed(shapes, devices))
    finite.check(params, str(path))
    fast = config.for_inference()
    params = fast.convert(params)
    params = jax.device_put(params, by_name(devices, params))
    length = run.data.sequence_length
    trained = Trained(
        fast, task.make(fast), params, tokenizer, task, run.data.documents, chosen, devices, length, speller
    )
    return ADAPTERS.get(task.adapter)(trained)


def _load_pretrained(directory: pathlib.Path, mesh: MeshConfig | None) -> LanguageModel:
    model, params, tokenizer, task, options = huggingface.read(directory)
    finite.check(params, str(directory))
    model = model.resolved(tokenizer.vocab_size, model.context_length)
    devices = fit_mesh(mesh or MeshConfig(), exact=True)
    params = jax.device_put(params, by_name(devices, params))
    module = model.make() if task is None else task.make(model)
    adapter = ADAPTERS.get(model.adapter if task is None else task.adapter)
    return adapter(Trained(model, module, params, tokenizer, task, mesh=devices, generation=options))


def _abstract_params(task: Any, config: ModelConfig, length: int) -> Any:
    """The shapes of the parameters that a task trains."""
    module = task.make(config)
    return jax.eval_shape(lambda: task.init(module, jax.random.key(0), length))


def _placed(shapes: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shapes with their shardings on a mesh, to restore into."""
    return jax.tree.map(
        lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, by_name(mesh, shapes)
    )


def _load_arpa(path: pathlib.Path, bos: bool, eos: bool) -> NGramLanguageModel:
    model = arpa.read(path, bos=bos, eos=eos)
    words = [word.decode(errors="surrogateescape") for word in model.vocabulary.words[len(SPECIALS) :]]
    return NGramLanguageModel(model, WordTokenizer(words))
