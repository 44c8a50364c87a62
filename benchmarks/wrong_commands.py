"""Wrong command lines of every command, made from tables: what `faults.py --only=commands` and the tests try.

Each must end with exit code 2 and one line, in less than ten seconds, before anything is trained.
"""

import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from wrong_values import (
    ABSURD,
    BAD_RECIPES,
    BAD_VALUES,
    NAMES,
    NO_MODULES,
    NOT_NUMBER,
    NOT_WHOLE,
    OUT_OF_RANGE,
    UNKNOWN,
)

from lm_jax import fields
from lm_jax.config import Config, CountConfig

ROOT = pathlib.Path(__file__).parents[1]


class Case(NamedTuple):
    """A wrong command line.

    Attributes:
        kind: the command and the kind of mistake.
        command: a key of COMMANDS.
        arguments: what follows the command.
    """

    kind: str
    command: str
    arguments: tuple[str, ...]


COMMANDS = {
    "train": "train.py",
    "eval": "eval.py",
    "generate": "lm_jax.generate",
    "export": "lm_jax.export",
    "sweep": "lm_jax.sweep",
    "plan": "lm_jax.plan.__main__",
    "predict": "lm_jax.predict",
    "embed": "lm_jax.embed",
    "noise": "lm_jax.noise",
    "surprisal": "lm_jax.surprisal",
    "audit": "lm_jax.audit.__main__",
}


def load_main(command: str) -> Callable[[list[str]], None]:
    """The function `main(argv)` of a command."""
    name = COMMANDS[command]
    if not name.endswith(".py"):
        return importlib.import_module(name).main
    spec = importlib.util.spec_from_file_location(f"command_{command}", ROOT / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.main


class Files(NamedTuple):
    """What the command lines name.

    Attributes:
        folder: an existing folder, for what is written.
        text: a text.
        gpt: the recipe of a small GPT on it.
        ngram: the recipe of an n-gram model on it.
        bart: the recipe of a small BART on it.
        run: a finished run of `ngram`.
        trained: a finished run of `gpt`.
    """

    folder: pathlib.Path
    text: pathlib.Path
    gpt: pathlib.Path
    ngram: pathlib.Path
    bart: pathlib.Path
    run: pathlib.Path
    trained: pathlib.Path


_GPT = """
from lm_jax.config import Config, OptimizerConfig, TrainConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.gpt import GPTConfig

def get_config(variant=""):
    data = DataConfig(corpus="text:{text}", documents="line", split="hash:0.1,0.1", tokenizer="byte",
                      sequence_length=32)
    train = TrainConfig(num_steps=2, batch_size=4, eval_every=2, checkpoint_every=2, sample_tokens=0)
    model = GPTConfig(num_layers=1, num_heads=2, d_model=16)
    return Config(data=data, model=model, train=train, optimizer=OptimizerConfig(warmup_steps=1))
"""
_BART = """
from lm_jax.config import Config
from lm_jax.data.pipeline import DataConfig
from lm_jax.models.bart import BARTConfig
from lm_jax.tasks.denoising import Denoising

def get_config(variant=""):
    data = DataConfig(corpus="text:{text}", documents="line", split="hash:0.1,0.1", tokenizer="byte",
                      sequence_length=32)
    model = BARTConfig(num_layers=1, num_heads=2, d_model=16)
    return Config(data=data, model=model, task=Denoising(delete=0.2))
"""
_NGRAM = """
from lm_jax.config import CountConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.ngram.smoothing import NGramConfig

def get_config(variant=""):
    data = DataConfig(corpus="text:{text}", documents="line", split="hash:0.1,0.1", tokenizer="word")
    return CountConfig(data=data, model=NGramConfig(order=2, smoothing="witten_bell"), sample_tokens=0)
"""


def make_files(folder: pathlib.Path, run: Callable[[pathlib.Path, pathlib.Path], Any]) -> Files:
    """Writes what the command lines name, and trains the two models.

    Args:
        folder: an empty folder.
        run: trains a recipe in a work directory.
    """
    words = ["the", "a", "model", "language", "data", "reads", "learns", "writes", "old", "new", "text"]
    lines = [" ".join(words[i * j % 11] for j in range(1, 4 + i % 7)) + "\n" for i in range(300)]
    made = Files(
        folder, *(folder / n for n in ("text.txt", "gpt.py", "ngram.py", "bart.py", "ngram", "trained"))
    )
    made.text.write_text("".join(lines), encoding="utf-8")
    for path, recipe in ((made.gpt, _GPT), (made.ngram, _NGRAM), (made.bart, _BART)):
        path.write_text(recipe.format(text=made.text), encoding="utf-8")
    for name, content in BAD_RECIPES.items():
        (folder / f"bad_{name}.py").write_bytes(content)
    (folder / "full").mkdir()
    (folder / "full" / "file").write_text("x")
    (folder / "binary").write_bytes(bytes(range(256)))
    (folder / "empty.txt").write_bytes(b"")
    (folder / "empty.arpa").write_bytes(b"")
    (folder / "a_folder.py").mkdir()
    run(made.ngram, made.run)
    run(made.gpt, made.trained)
    return made


def cases(files: Files) -> Iterator[Case]:
    """All wrong command lines."""
    yield from _wrong_fields(files)
    yield from _wrong_recipes(files)
    yield from _wrong_flags(files)
    yield from _wrong_models(files)
    yield from _wrong_outputs(files)
    yield from _wrong_decoding(files)
    yield from _wrong_grids_and_topologies(files)
    yield from _wrong_processes(files)


def _wrong_fields(files: Files) -> Iterator[Case]:
    new = f"--workdir={files.folder / 'new'}"

    def case(kind: str, recipe: pathlib.Path, *values: str) -> Case:
        given = (f"--config.{value}" for value in values)
        return Case(f"train: {kind}", "train", (f"--config={recipe}", new, *given))

    for recipe, config in ((files.gpt, Config()), (files.ngram, CountConfig())):
        for name, value in fields.flatten(config):
            for text in BAD_VALUES.get(type(value), ()):
                yield case("wrong type of a field", recipe, f"{name}={text}")
        names = {name for name, _ in fields.flatten(config)}
        for name in NAMES:
            if name in names:
                yield case("unknown name", recipe, f"{name}=nonsense")
    for text in OUT_OF_RANGE:
        yield case("field out of range", files.gpt, text)
    for text in ("model.order=0", "model.order=9", "model.order=4000000000", "model.smoothing=x",
                 "model.add_k=0", "model.backoff_weight=2", "model.discount_fallback=9", "seed=-1",
                 "sample_tokens=-1", "sample_tokens=4000000000", "seed=4294967296"):  # fmt: skip
        yield case("field out of range", files.ngram, text)
    for values in ABSURD:
        yield case("absurd size", files.gpt, *values)
    for text in UNKNOWN:
        yield case("unknown field", files.gpt, text)
    yield Case(
        "train: field without a value", "train", (f"--config={files.gpt}", "--config.model.num_layers")
    )


def _wrong_recipes(files: Files) -> Iterator[Case]:
    named = [str(files.folder / f"bad_{name}.py") for name in BAD_RECIPES]
    named += [
        "",
        ".",
        ":",
        ":x",
        "nowhere.py",
        "/etc/passwd",
        "/dev/null",
        str(files.folder),
        str(files.text),
    ]
    named += ["~nouser/x.py", str(files.folder / "a_folder.py"), "configs/gpt.py:nonsense", "configs/gtp.py"]
    named += ["x" * 5000, "[/].py", f"{files.text}/x.py", "configs/gpt", "https://example.com/x.py"]
    for command, rest in (("train", ()), ("sweep", ()), ("plan", ()), ("noise", (f"--text={files.text}",))):
        for name in named:
            yield Case(f"{command}: no recipe", command, (f"--config={name}", *rest))
    imports = [str(files.folder / f"bad_{name}.py") for name in NO_MODULES]
    imports += ["", "nowhere.py", "no_module_of_this_name", "~nouser/x.py", ".", "a..b", "x" * 5000 + ".py"]
    for command in COMMANDS:
        for name in imports:
            rest = (*_right(command, files), f"--import={name}")
            yield Case(f"{command}: --import of no module", command, rest)


def _right(command: str, files: Files) -> tuple[str, ...]:
    """Arguments that would be right."""
    return {
        "train": (f"--config={files.gpt}", f"--workdir={files.folder / 'new'}"),
        "eval": (f"--model={files.run}", f"--out={files.folder / 'out'}"),
        "generate": (f"--model={files.run}",),
        "export": (str(files.run), str(files.folder / "new.arpa")),
        "sweep": (f"--config={files.gpt}", f"--workdir={files.folder / 'sweep'}"),
        "plan": (f"--config={files.gpt}", "--topology=cuda:1"),
        "predict": (f"--model={files.run}", f"--text={files.text}"),
        "embed": (f"--model={files.run}", f"--text={files.text}", "--out=x.npy"),
        "noise": (f"--config={files.bart}", f"--text={files.text}"),
        "surprisal": (f"--model={files.run}", f"--text={files.text}", f"--out={files.folder / 's.tsv'}"),
        "audit": (f"--model={files.run}", "--samples=1"),
    }[command]


def _wrong_flags(files: Files) -> Iterator[Case]:
    once = {
        "train": ("workdir", "config", "coordinator"), "eval": ("out", "split", "step", "documents"),
        "generate": ("model", "step", "forced", "draft"), "export": ("step",), "sweep": ("workdir", "config"),
        "plan": ("config", "topology"), "predict": ("model", "text", "out"), "embed": ("step", "out"),
        "noise": ("config", "text", "row", "step"), "surprisal": ("text", "out", "step"),
        "audit": ("text", "out", "step", "documents"),
    }  # fmt: skip
    for command in COMMANDS:
        right = _right(command, files)
        for wrong in ("--nonsense", "--nonsense=1", "-x", "extra", "--", "-", "--=", "--import", "--help=1",
                      "--conf=x", "[bold]", "\udcff"):  # fmt: skip
            yield Case(
                f"{command}: unknown flag",
                command,
                (*right, wrong, "x") if wrong == "--" else (*right, wrong),
            )
        for flag in once[command]:
            yield Case(f"{command}: flag without a value", command, (*right, f"--{flag}"))
            yield Case(f"{command}: flag given twice", command, (*right, f"--{flag}=line", f"--{flag}=line"))
    yield from _wrong_noises(files)
    for command in ("predict", "embed"):
        yield Case(f"{command}: nothing asked", command, ())
        yield Case(f"{command}: a model of another kind", command, _right(command, files))
    for command in ("eval", "generate", "export"):
        yield Case(f"{command}: nothing asked", command, ())
        for step in ("abc", "-1", "99999", "1e3", "", "nan", "9" * 30, "²", "٣٤"):
            right = tuple(a.replace(str(files.run), str(files.trained)) for a in _right(command, files))
            yield Case(f"{command}: no such step", command, (*right, f"--step={step}"))
    for axis in (
        "data=0",
        "data=-5",
        "data=x",
        "data=",
        "data=999",
        "fsdp=0",
        "tensor=1.5",
        "rows=2",
        "=1",
        "data",
    ):
        for command in ("eval", "generate"):
            yield Case(f"{command}: no such mesh", command, (f"--model={files.trained}", f"--mesh.{axis}"))
    for name in ("nowhere", str(files.folder), str(files.folder / "binary"), "~nouser/x", "x" * 5000,
                 f"jsonl:{files.text}", str(files.folder / "empty.txt")):  # fmt: skip
        right = (f"--model={files.run}", f"--prompt-file={name}")
        yield Case("generate: no prompts", "generate", right)
    yield Case("generate: two sources of prompts", "generate", (*right, "--prompt=a"))
    yield Case("generate: two sources of prompts", "generate", (*right[:1], "--interactive", "--json"))
    yield Case("eval: a part of a text", "eval", (*_right("eval", files), "--text=x", "--split=valid"))
    for text in NOT_WHOLE:
        yield Case("eval: no number", "eval", (*_right("eval", files), f"--stride={text}"))
    yield Case("eval: unknown name", "eval", (*_right("eval", files), "--documents=chapter"))
    for name in ("", "nowhere", str(files.folder), str(files.folder / "binary"), "~nouser/x", "/dev/null",
                 str(files.folder / "empty.txt"), f"{files.text}/x", "x" * 5000):  # fmt: skip
        yield Case("eval: no text", "eval", (*_right("eval", files), f"--text={name}"))


def _wrong_noises(files: Files) -> Iterator[Case]:
    def case(kind: str, *arguments: str) -> Case:
        return Case(f"noise: {kind}", "noise", arguments)

    right, text = f"--config={files.bart}", f"--text={files.text}"
    yield case("nothing asked")
    yield case("no recipe of denoising", f"--config={files.gpt}", text)
    yield case("no recipe of denoising", f"--config={files.ngram}", text)
    for name in ("", "nowhere", str(files.folder), str(files.folder / "binary"), "~nouser/x", "/dev/null",
                 str(files.folder / "empty.txt"), "x" * 5000):  # fmt: skip
        yield case("no text", right, f"--text={name}")
    for field in ("mask=0.3", "infill=0.3", "delete=0", "delete=2", "rotate=-1", "span_mean=0", "permute=x"):
        yield case("no such noise", right, text, f"--config.task.{field}")
    for number in (*NOT_WHOLE, "-1", "99999999"):
        yield case("no such row", right, text, f"--row={number}")
    for number in (*NOT_WHOLE, "-1"):
        yield case("no such step", right, text, f"--step={number}")


def _wrong_models(files: Files) -> Iterator[Case]:
    named = ["", "nowhere", str(files.folder), str(files.text), "/", "/dev/null", "~nouser/x", "/etc/passwd",
             str(files.folder / "empty.arpa"), "nowhere.arpa", str(files.folder / "full"), "hf:", "hf:../x",
             "hf:a b", "x" * 5000, f"{files.text}/x", "[/]", "gpt:2",
             str(files.run / "config.json")]  # fmt: skip
    for name in named:
        yield Case("eval: no model", "eval", (f"--model={name}", f"--out={files.folder / 'out'}"))
        yield Case("generate: no model", "generate", (f"--model={name}",))
        yield Case("generate: no model", "generate", (f"--model={files.run}", f"--draft={name}"))
        yield Case("predict: no model", "predict", (f"--model={name}", f"--text={files.text}"))
        yield Case("embed: no model", "embed", (f"--model={name}", f"--text={files.text}", "--out=x.npy"))
        yield Case("export: no model", "export", (name, str(files.folder / "new.arpa")))
        if name:
            yield Case("train: no model", "train", (f"--config={files.gpt}", f"--config.init_from={name}",
                                                    f"--workdir={files.folder / 'new'}"))  # fmt: skip


def _wrong_outputs(files: Files) -> Iterator[Case]:
    no_folder = (str(files.text), f"{files.text}/x", "/dev/null", "/dev/null/x", "/proc/x", "/proc/self/x/y",
                 "", "x" * 5000, "~nouser/x")  # fmt: skip
    for name in (*no_folder, str(files.folder / "full")):
        for command in ("train", "sweep"):
            if command == "train" or not name.endswith("full"):
                right = _right(command, files)
                yield Case(f"{command}: no work directory", command, (right[0], f"--workdir={name}"))
        yield Case("train: no work directory", "train", (f"--config={files.ngram}", f"--workdir={name}"))
        yield Case("export: cannot be written", "export", (str(files.trained), name))
    for name in no_folder:
        yield Case("eval: cannot be written", "eval", (f"--model={files.run}", f"--out={name}"))
    for name in (*no_folder, str(files.folder), "x.arp", "/dev/full", f"{files.text}/x.arpa", "/proc/x.arpa",
                 f"{'x' * 5000}.arpa"):  # fmt: skip
        yield Case("export: cannot be written", "export", (str(files.run), name))
    yield Case("train: run of another recipe", "train", (f"--config={files.gpt}", f"--workdir={files.run}"))
    yield Case("train: run of another recipe", "train", (f"--config={files.gpt}", "--config.model.d_model=32",
                                                         f"--workdir={files.trained}"))  # fmt: skip


def _wrong_decoding(files: Files) -> Iterator[Case]:
    whole = (
        "top-k",
        "no-repeat-ngram",
        "min-tokens",
        "num-beams",
        "num-drafted",
        "num-samples",
        "seed",
        "max-tokens",
    )
    real = ("temperature", "top-p", "min-p", "repetition-penalty", "frequency-penalty", "presence-penalty",
            "length-penalty")  # fmt: skip

    def case(kind: str, *arguments: str, model: pathlib.Path = files.run) -> Case:
        return Case(f"generate: {kind}", "generate", (f"--model={model}", *arguments))

    for flag in whole:
        for text in NOT_WHOLE:
            yield case("no number", f"--{flag}={text}")
    for flag in real:
        for text in NOT_NUMBER:
            yield case("no number", f"--{flag}={text}")
        for text in ("nan", "inf", "-inf", "1e400"):
            beams = ("--num-beams=2",) if flag == "length-penalty" else ()
            yield case("out of range", f"--{flag}={text}", *beams)
    for text in (
        "temperature=-1", "top-k=-1", "top-p=0", "top-p=1.5", "top-p=-1", "min-p=-1", "min-p=2",
        "repetition-penalty=0", "repetition-penalty=-1", "no-repeat-ngram=-1", "min-tokens=-1", "num-beams=0",
        "num-beams=-4", "num-samples=0", "num-samples=-1", "max-tokens=0", "max-tokens=-7", "seed=-1",
        "seed=4294967296", "seed=18446744073709551616", "num-drafted=4", "length-penalty=1", "early-stopping",
    ):  # fmt: skip
        yield case("out of range", f"--{text}")
    for arguments in (
        ("--num-beams=4", "--top-k=3"), ("--num-beams=4", "--top-p=0.5"), ("--num-beams=4", "--min-p=0.1"),
        ("--num-beams=2", "--num-samples=3"), ("--stop=",), (f"--draft={files.trained}",),
        (f"--draft={files.run}", "--num-drafted=0"), (f"--draft={files.run}", "--num-beams=2"),
    ):  # fmt: skip
        yield case("options that do not fit", *arguments)
    for flag in ("prompt", "stop", "banned", "forced"):
        for text in ("\udcff", "caf\udce9", "\ud800"):
            yield case("not UTF-8", f"--{flag}={text}")
    for model in (files.run, files.trained):
        for text in ("max-tokens=99999999999", "num-samples=99999999999", "num-beams=99999999999",
                     "num-samples=1000000000", "num-beams=100000000", "max-tokens=" + "9" * 30):  # fmt: skip
            yield case("absurd size", f"--{text}", model=model)


def _wrong_grids_and_topologies(files: Files) -> Iterator[Case]:
    right = _right("sweep", files)
    for grid in (
        "",
        "=",
        "=1",
        "model.num_layers",
        "model.num_layers=",
        "model.num_layers=,",
        "nonsense=1,2",
        "model.num_layers=one,two",
        "model.num_layers=1,1",
        "train.seed=nan",
        "model=x",
    ):
        yield Case("sweep: no grid", "sweep", (*right, f"--grid={grid}"))
    twice = ("--grid=model.num_layers=1", "--grid=model.num_layers=2")
    yield Case("sweep: no grid", "sweep", (*right, *twice))
    yield Case("sweep: no grid", "sweep", (*right, twice[0], "--config.model.num_layers=3"))
    for text in (*NOT_WHOLE, "0", "-1", "99999999999", "1000000"):
        yield Case("sweep: no number of seeds", "sweep", (*right, f"--seeds={text}"))
    for text in (
        "cuda:99999999999",
        "cuda:0",
        "cuda:-1",
        "cuda:x",
        "cuda:1.5",
        "cuda:" + "9" * 5000,
        "cuda:²",
        "",
        ":",
        "x",
        "tpu",
        "v5e",
        "v5e:",
        "v5e:0x0",
        "v5e:-1x2",
        "v5e:99999999x99999999",
        "[/]",
        "cuda:8:8",
        "cuda: 8",
        "\udcff",
    ):
        yield Case("plan: no topology", "plan", (f"--config={files.gpt}", f"--topology={text}"))
    yield Case("plan: not trained", "plan", (f"--config={files.ngram}",))
    for values in (*ABSURD[:3], *ABSURD[5:7]):
        given = (f"--config.{value}" for value in values)
        yield Case("plan: absurd size", "plan", (f"--config={files.gpt}", "--topology=cuda:1", *given))


def _wrong_processes(files: Files) -> Iterator[Case]:
    right, here = _right("train", files), "--coordinator=127.0.0.1:1"

    def case(kind: str, *arguments: str) -> Case:
        return Case(f"train: {kind}", "train", (*right, *arguments))

    for host in ("foo", "foo:", ":1", "foo:x", "foo:-1", "foo:99999", "", "foo:1:2x", "[/]:1"):
        yield case("no coordinator", f"--coordinator={host}", "--num_processes=1", "--process_id=0")
    for text in (*NOT_WHOLE, "0", "-1", "99999999999999999999"):
        yield case("no number of processes", here, f"--num_processes={text}", "--process_id=0")
        if text != "0":
            yield case("no process", here, "--num_processes=2", f"--process_id={text}")
    for arguments in (
        (here, "--num_processes=2", "--process_id=2"), ("--num_processes=2",), ("--process_id=1",), (here,),
        ("--distributed",),
    ):  # fmt: skip
        yield case("no process", *arguments)
