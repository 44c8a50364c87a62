"""The documentation: its Python code runs, and command lines name recipes, fields and flags that exist."""

import functools
import pathlib
import re
import shlex
import shutil
import sys
import tomllib
from typing import NamedTuple

import pytest
import tiny
import tiny_runs
import wrong_commands

import lm_jax
from lm_jax import __main__ as console
from lm_jax import config as config_module
from lm_jax import experiment, fields, flags, measure
from lm_jax.errors import UserError
from lm_jax.loggers import LOGGERS
from lm_jax.models.base import MODELS
from lm_jax.tasks.base import TASKS
from lm_jax.training import loop
from lm_jax.training.optimizers import OPTIMIZERS

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

# The tutorial has a test of its own.
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.relative_to(DOCS).parts[0] != "tutorial")
PAGES += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\s*\Z")  # before a block; says why
_INLINE = re.compile(r"`((?:python|lm-jax|pip|pytest) [^`]+)`")
_MISSING = "the following arguments are required"
_MODULES = {module.removeprefix("lm_jax."): name for name, module in console.COMMANDS.items()}


class Block(NamedTuple):
    """A fenced block: its language, its text, the line of its fence, and whether its code is run."""

    language: str
    text: str
    line: int
    is_run: bool


def blocks(page):
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        lines = text.count("\n", 0, found.start()) + 1
        body = "".join(line.removeprefix(found[1]) for line in found[3].splitlines(keepends=True))
        yield Block(found[2], body, lines, not _NOT_RUN.search(text[: found.start()]))


def python_blocks(page):
    return [block for block in blocks(page) if block.language == "python" and block.is_run]


def name_of(page):
    return str(page.relative_to(ROOT))


def save_first_state(trainer, data, workdir, params=None):
    """Stands for `loop.fit`: a checkpoint of the first parameters."""
    with loop._checkpoints(trainer.config.train, workdir) as checkpoints:
        state, _ = loop._start(trainer, checkpoints, params, data.tokenizer)
        loop._save(checkpoints, state)
    return True


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory, tiny_run):
    """Name -> the directory of a finished run, made when it is first asked for."""

    @functools.cache
    def made(name):
        if name == "gpt":
            return tiny_run[1]
        folder = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:  # training and evaluation take most of the time
            patch.setattr(loop, "fit", save_first_state)
            patch.setattr(experiment, "_evaluate", lambda *run: [])
            experiment.run(tiny_runs.RECIPES[name](folder), folder / "run")
        return folder / "run"

    return made


@pytest.mark.parametrize("page", list(filter(python_blocks, PAGES)), ids=name_of)
def test_the_python_code_of_a_page_runs(page, run_directory, tmp_path, monkeypatch):
    """In order, in a directory with the runs that the code names and a folder of texts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "runs").mkdir()
    tiny.write_text(tmp_path / "mine" / "text.txt")
    code = "".join(block.text for block in python_blocks(page))
    for name in ("gpt", *tiny_runs.RECIPES):
        if re.search(rf"\bruns/{name}\b(?!-)", code):
            shutil.copytree(run_directory(name), tmp_path / "runs" / name)
    for registry in (MODELS, TASKS, LOGGERS, OPTIMIZERS):  # other tests see no parts of a page
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    if page == ROOT / "README.md":  # trains a GPT of full size
        monkeypatch.setattr(lm_jax, "train", checked_training, raising=False)
    module = type(sys)("docs_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look up their types
    for block in python_blocks(page):
        code = compile("\n" * block.line + block.text, name_of(page), "exec")
        exec(code, module.__dict__)


def test_code_that_is_not_run_is_python():
    found = [(page, block) for page in PAGES for block in blocks(page) if block.language == "python"]
    for page, block in found:
        compile(block.text, f"{name_of(page)}, line {block.line}", "exec")
    assert sum(block.is_run for _, block in found) > 40
    assert any(not block.is_run for _, block in found)


def checked_training(recipe, **overrides):
    """Stands for `lm_jax.train`: the recipe and its fields are checked, and the tiny run is opened."""
    config = config_module.load(recipe)[1]
    fields.override(config, {fields.full_name(config, name): str(v) for name, v in overrides.items()}).check()
    return lm_jax.load("runs/gpt")


class Parsed(Exception):  # noqa: N818 (it is no error)
    """Raised in place of what a command does after its flags were read."""


def shell_lines(text):
    """The commands of a shell block: lines joined at `\\`, split at && and |, without comments."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.split(line, comments=True)
        starts = [0, *(i + 1 for i, word in enumerate(words) if word in ("&&", "|", ";"))]
        for start, end in zip(starts, [*(s - 1 for s in starts[1:]), len(words)]):
            yield from commands(words[start:end])


def commands(words):
    """The words from the program on: `srun`, settings of variables and the like stand before it."""
    for word in words:
        if word.startswith("--command="):  # of another program, such as ssh
            yield from shell_lines(word.removeprefix("--command="))
            return
    for i, word in enumerate(words):
        if word in ("python", "lm-jax", "pip", "pytest"):
            yield words[i:]
            return


def all_commands():
    """Of each page the words of a command, and whether it is whole: inside a line it may only be named."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shell = [block for block in blocks(page) if block.language in ("", "sh", "console")]
        for block in shell:
            for words in shell_lines(block.text) if block.language or _looks_like_shell(block.text) else ():
                yield page, words, True
        for inline in _INLINE.findall(_FENCE.sub("", text)):
            if "…" not in inline and "..." not in inline:
                for words in shell_lines(inline):
                    yield page, words, False


def _looks_like_shell(text):
    return re.match(r"(python|pip|lm-jax|pytest) ", text) is not None


def complaint(words):
    """What is wrong with a command line; "" if nothing is."""
    program, *rest = words
    if program == "pip":
        extras = {extra for word in rest for extra in re.findall(r"\[([\w,-]+)\]", word)}
        unknown = {name for extra in extras for name in extra.split(",")} - EXTRAS.keys()
        return f"no extra {', '.join(unknown)}" if unknown and "lm_jax" in " ".join(rest) else ""
    if program == "pytest" or rest[:2] == ["-m", "pytest"]:
        paths = [word for word in rest if word.endswith(".py")]
        return "".join(f"no file {path}; " for path in paths if not (ROOT / path).is_file())
    if program == "lm-jax":
        return complaint_of_command(rest[0], rest[1:]) if rest and rest[0] in console.COMMANDS else ""
    if rest[:1] == ["-m"]:
        return complaint_of_module(rest[1], rest[2:])
    if rest[0] in ("train.py", "eval.py"):
        return complaint_of_command(rest[0].removesuffix(".py"), rest[1:])
    return complaint_of_script(rest[0], rest[1:]) if rest[0].endswith(".py") else ""


def complaint_of_module(module, rest):
    if not module.startswith("lm_jax"):
        return ""
    if module == "lm_jax":
        return complaint_of_command(rest[0], rest[1:]) if rest else ""
    if (name := module.removeprefix("lm_jax.")) == "harness":  # has the flags of lm_eval
        return ""
    return complaint_of_command(_MODULES.get(name, name), rest)


def complaint_of_script(path, rest):
    """A script of this repository, whose source must name the flags."""
    if not (ROOT / path).is_file():
        return f"no file {path}" if path.partition("/")[0] in ("benchmarks", "examples") else ""
    source = (ROOT / path).read_text(encoding="utf-8")
    named = [word.partition("=")[0] for word in rest if word.startswith("--")]
    return "".join(f"no flag {name} of {path}; " for name in named if f'"{name}"' not in source)


def complaint_of_command(name, rest):
    """Parses with the command's own parser, and checks the fields of the recipe that it names."""
    if name != "metrics" and name not in wrong_commands.COMMANDS:
        return f"no command {name}"
    main = measure.main if name == "metrics" else wrong_commands.load_main(name)
    try:
        main(list(rest))
    except Parsed as parsed:
        return complaint_of_fields(rest, parsed.args[0])
    except (UserError, SystemExit) as error:
        return str(error)
    return ""


def complaint_of_fields(rest, arguments):
    if getattr(arguments, "config", None) is None:
        return ""
    _, values = flags.split_fields(rest)
    grid = dict(part.partition("=")[::2] for part in getattr(arguments, "grid", ()))
    try:
        config = config_module.load(arguments.config)[1]
        for name, several in grid.items():
            for value in several.split(","):
                fields.override(config, {**values, name: value})
        fields.override(config, values)
    except UserError as error:
        return str(error)
    return ""


@pytest.fixture
def only_parsing(monkeypatch):
    """Every command stops after its flags were read."""
    parse = flags.Parser.parse_args

    def stop(parser, *arguments):
        raise Parsed(parse(parser, *arguments))

    monkeypatch.setattr(flags.Parser, "parse_args", stop)
    monkeypatch.chdir(ROOT)


def test_every_command_line_of_the_documentation_can_be_parsed(only_parsing):
    found, wrong, seen = 0, [], set()
    for page, words, whole in all_commands():
        found += 1
        why = "" if tuple(words) in seen else complaint(words)
        if why and (whole or not why.startswith(_MISSING)):
            wrong.append(f"{name_of(page)}: {shlex.join(words)}: {why}")
        seen.add(tuple(words))
    assert not wrong, "\n".join(wrong)
    assert found > 100


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("python train.py --config=configs/gtp.py", "no recipe configs/gtp.py"),
        ("python train.py --config.model.num_layer=2", "no field model.num_layer"),
        ("srun -n 2 python train.py --distribute", "--distribute"),
        ("lm-jax eval --model=runs/gpt --txt=FILE", "--txt"),
        ("python -m lm_jax.sweep --grid model.num_layers=2,x", "not a whole number"),
        ("python -m lm_jax.generat --model=runs/gpt", "no command generat"),
        ("python -m lm_jax.metrics blue --hypotheses=FILE", "blue"),
        ("python benchmarks/tricks.py --seed=5", "no flag --seed"),
        ("python benchmarks/nothing.py", "no file benchmarks/nothing.py"),
        ("pip install 'lm_jax[gpu]'", "no extra gpu"),
        ("pytest tests/test_nothing.py", "no file tests/test_nothing.py"),
        ("gcloud ssh --command='cd x && python train.py --config=gtp'", "no recipe gtp"),
    ],
)
def test_a_wrong_command_line_would_be_noticed(line, said, only_parsing):
    [words] = shell_lines(line)
    assert said in complaint(words)
