"""The documentation: its Python code runs, and command lines name recipes, fields and flags that exist."""

import functools
import pathlib
import re
import shlex
import shutil
import sys
from typing import NamedTuple

import pytest
import tiny
import tiny_runs
from command_lines import MISSING, complaint, only_parsing, shell_lines

import lm_jax
from lm_jax import config as config_module
from lm_jax import experiment, fields
from lm_jax.loggers import LOGGERS
from lm_jax.models.base import MODELS
from lm_jax.tasks.base import TASKS
from lm_jax.training import loop
from lm_jax.training.optimizers import OPTIMIZERS

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"

# The tutorial has a test of its own.
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.relative_to(DOCS).parts[0] != "tutorial")
PAGES += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\s*\Z")  # before a block; says why
_INLINE = re.compile(r"`((?:python|lm-jax|pip|pytest) [^`]+)`")


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


def test_every_command_line_of_the_documentation_can_be_parsed():
    found, wrong, seen = 0, [], set()
    with only_parsing():
        for page, words, whole in all_commands():
            found += 1
            why = "" if tuple(words) in seen else complaint(words)
            if why and (whole or not why.startswith(MISSING)):
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
        ("python train.py --config.model.position=relative", "choose learned or rope or none"),
        ("lm-jax evaluate --model=runs/gpt", "no command evaluate"),
        ("pip install 'lm_jax[gpu]'", "no extra gpu"),
        ("pytest tests/test_nothing.py", "no file tests/test_nothing.py"),
        ("gcloud ssh --command='cd x && python train.py --config=gtp'", "no recipe gtp"),
    ],
)
def test_a_wrong_command_line_would_be_noticed(line, said):
    [words] = shell_lines(line)
    with only_parsing():
        assert said in complaint(words)
