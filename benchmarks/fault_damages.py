"""Damaged files of runs and of the cache: the same numbers, or an error of one line that names the file."""

import dataclasses
import json
import pathlib
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import damage
from fault_runs import Forked, Outcome, write_recipes


class _Survey:
    """A directory that is damaged file by file.

    Attributes:
        kind: of the directory.
        directory: whole.
        names: of the files.
        opened: what must not change, as a function of a copy of the directory.
        repaired: whether files are made again instead of refused.
    """

    def __init__(
        self,
        kind: str,
        directory: pathlib.Path,
        opened: Callable[[pathlib.Path], Any],
        repaired: Callable[[str], bool] = lambda name: False,
        names: Callable[[str], bool] = lambda name: True,
    ):
        from lm_jax import seal

        self.kind, self.directory, self.opened, self.repaired = kind, directory, opened, repaired
        found = {_file_kind(name): name for name in seal.files_in(directory) if names(name)}
        found |= {_file_kind(name): name for name in _seals(directory) if names(name)}
        self.names = {what: name for what, name in found.items() if (directory / name).stat().st_size > 1}

    def outcomes(self, log: pathlib.Path) -> Iterator[Outcome]:
        """Tries every damage of a file of each kind, in a forked process for each file."""
        told, scratch = log.with_suffix(".json"), self.directory.parent / "damaged" / self.directory.name
        for what, name in self.names.items():
            told.write_text("[]")

            def survey(name: str = name) -> None:
                found = damage.survey(self.directory, [name], self.opened, scratch, self.repaired)
                told.write_text(json.dumps(found))

            code, printed = Forked(survey, log, 600).finish()
            kind = f"damaged {what} of {self.kind}"
            if code:
                yield Outcome(kind, f"ended with {code}: {printed[-500:]}")
                shutil.rmtree(scratch, ignore_errors=True)
                continue
            tried, wrong = json.loads(told.read_text())
            yield from (Outcome(kind, line) for line in wrong)
            yield from (Outcome(kind) for _ in range(tried - len(wrong)))


def _seals(directory: pathlib.Path) -> list[str]:
    return [path.relative_to(directory).as_posix() for path in directory.rglob("seal.json")]


def _file_kind(name: str) -> str:
    """The name of a file without numbers and digests: one of each kind is damaged."""
    name = re.sub(r"checkpoints/\d+/", "checkpoints/N/", name)
    name = re.sub(r"(/d|^d)/[0-9a-f]{16,}", r"\1/HASH", name)
    name = re.sub(r"(texts|tokens)-[0-9a-f]+/", r"\1/", name)
    name = re.sub(r"^\w+?-[0-9a-f]{16,}.*", "PROGRAM", name)
    return re.sub(r"(train|valid|test)\.", "PART.", re.sub(r"class-\d+", "class-N", name))


def damages(tries: int, seed: int) -> Iterator[Outcome]:
    """16 to 19 damages of a file of each kind.

    Of a trained, a counted and a labelled run, of one that is resumed, of the cache of texts and tokens, and
    of that of compiled programs.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        code, printed = Forked(lambda: _make(folder, seed), folder / "stderr", 600).finish()
        if code:
            raise RuntimeError(f"the runs were not made: {printed}")
        for survey in _surveys(folder):
            yield from survey.outcomes(folder / "stderr")


def _make(folder: pathlib.Path, seed: int) -> None:
    """The runs, and caches beside them."""
    import jax

    from lm_jax import experiment

    write_recipes(folder, random.Random(seed), steps=6)
    gpt, ngram = _recipe(folder, "gpt"), _recipe(folder, "ngram")
    experiment.run(gpt, folder / "gpt")
    resumed = _resumed_recipe(folder)
    short = dataclasses.replace(resumed, train=dataclasses.replace(resumed.train, num_steps=4))
    experiment.run(short, folder / "stopped")
    experiment.run(ngram, folder / "ngram")
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(["ab", "cd", "ef"], k=6)) for _ in range(60)]
    rows = [{"text": text, "label": "xy"[i % 2]} for i, text in enumerate(texts)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    experiment.run(_labelled(folder), folder / "labelled")
    _prepare(folder)(folder / "cache")
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    _compiled(folder / "programs")


def _recipe(folder: pathlib.Path, name: str) -> Any:
    from lm_jax import config

    return config.load(str(folder / f"{name}.py"))[1]


def _labelled(folder: pathlib.Path) -> Any:
    recipe = _recipe(folder, "ngram")
    data = dataclasses.replace(recipe.data, corpus=f"jsonl:{folder / 'rows.jsonl'}", documents="file")
    return dataclasses.replace(recipe, data=data, label="label", sample_tokens=0)


def _surveys(folder: pathlib.Path) -> Iterator[_Survey]:
    def made_again(name: str) -> bool:
        return name in ("results.json", "sample.txt")

    def in_best(name: str) -> bool:
        return name != ".lock" and (not name.startswith("checkpoints/") or name.startswith("checkpoints/6/"))

    def decides(name: str) -> bool:
        return name.startswith("checkpoints/4/") or name in ("metrics.jsonl", "config.json", "data.json")

    for name, what in (("gpt", "a trained run"), ("ngram", "a counted run"), ("labelled", "a labelled run")):
        recipe = _labelled(folder) if name == "labelled" else _recipe(folder, name)
        yield _Survey(what, folder / name, _opened(recipe), made_again, in_best)
    yield _Survey("a run that is resumed", folder / "stopped", _resumed(folder), names=decides)
    yield _Survey("the cache of texts and tokens", folder / "cache", _prepare(folder), lambda name: True)
    yield _Survey("the cache of programs", folder / "programs", _compiled, lambda name: True)


def _opened(recipe: Any) -> Callable[[pathlib.Path], Any]:
    """What train.py and eval.py tell of a finished run."""

    def opened(path: pathlib.Path) -> Any:
        import lm_jax
        from lm_jax import experiment
        from lm_jax.evaluation import texts
        from lm_jax.progress import read_metrics

        text, lines = texts.choose(str(path), None, "line"), read_metrics(path / "metrics.jsonl")
        rows = [dataclasses.replace(row, model="") for row in experiment.run(recipe, path)]
        model: Any = lm_jax.load(path)
        documents = [document.text for document in text.documents]
        if hasattr(model, "label"):
            return [one.probabilities.tolist() for one in model.label(documents)], text, lines, rows
        nats = [float(scored.log_probs.sum()) for scored in model.score(documents)]
        return nats, text, model.step, lines, rows

    return opened


def _resumed(folder: pathlib.Path) -> Callable[[pathlib.Path], Any]:
    """What a stopped run gives that is continued, in a copy."""

    def resumed(path: pathlib.Path) -> Any:
        from lm_jax import experiment
        from lm_jax.progress import read_metrics

        with tempfile.TemporaryDirectory(dir=folder) as name:
            copy = shutil.copytree(path, pathlib.Path(name) / path.name)
            rows = [
                dataclasses.replace(row, model="") for row in experiment.run(_resumed_recipe(folder), copy)
            ]
            timed = ("tokens_per_second", "input_wait")
            lines = read_metrics(copy / "metrics.jsonl")
            return rows, [{k: v for k, v in line.items() if k not in timed} for line in lines]

    return resumed


def _resumed_recipe(folder: pathlib.Path) -> Any:
    """A recipe that may continue a run of fewer steps."""
    recipe = _recipe(folder, "gpt")
    return dataclasses.replace(
        recipe,
        train=dataclasses.replace(recipe.train, sample_tokens=0),
        optimizer=dataclasses.replace(recipe.optimizer, schedule="constant"),
    )


def _prepare(folder: pathlib.Path) -> Callable[[pathlib.Path], Any]:
    """All that is read of a cache."""

    def prepared(root: pathlib.Path) -> Any:
        from lm_jax.data import pipeline
        from lm_jax.data.documents import Fields

        config = dataclasses.replace(_labelled(folder).data, split="hash:0.2,0.2")
        data = pipeline.prepare(config, Fields(labels=("label",)), cache_dir=root)
        read = {
            name: (split.tokens.tolist(), split.labels("label").tolist(), list(split.documents()))
            for name, split in data.splits.items()
        }
        return data.provenance, read

    return prepared


def _compiled(programs: pathlib.Path) -> Any:
    """What a program computes that is read from a cache of programs, or compiled again."""
    import jax
    import jax.numpy as jnp
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(programs))
    jax.clear_caches()
    return jax.jit(lambda x: jnp.sin(x).sum())(jnp.arange(100.0)).tolist()
