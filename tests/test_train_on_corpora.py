"""Every kind of corpus trains a model from the command line, to held-out scores of its own text."""

import json
import pathlib
import runpy

import nltk
import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny

from lm_jax import config as config_module

ROOT = pathlib.Path(__file__).parents[1]


class TinyLines(tfds.core.GeneratorBasedBuilder):
    """Lines of tiny's text, some of them for validation."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": np.int32})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0), "validation": self._generate_examples(1)}

    def _generate_examples(self, seed):
        path = tiny.write_text(pathlib.Path(self.data_dir).parent / f"{seed}.txt", 200 - 150 * seed, seed)
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            yield i, {"text": line, "label": i}


def tsv(directory, monkeypatch):
    lines = tiny.write_text(directory / "text.txt", 200).read_text(encoding="utf-8").splitlines()
    (directory / "a.tsv").write_text(
        "".join(f"{i}\t{line}\n" for i, line in enumerate(lines)), encoding="utf-8"
    )
    return [f"--config.data.corpus=tsv:{directory}/a.tsv#2", "--config.data.separate_documents=true"]


def tensorflow_datasets(directory, monkeypatch):
    tfds.builder("tiny_lines", data_dir=directory, file_format="array_record").download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(directory))
    return [
        "--config.data.corpus=tfds:tiny_lines",
        "--config.data.valid=@validation",
        "--config.data.split=hash:0",
    ]


def natural_language_toolkit(directory, monkeypatch):
    inside = directory / "corpora/inaugural"
    inside.mkdir(parents=True)
    tiny.write_text(inside / "1789-Nobody.txt", 200)
    monkeypatch.setattr(nltk.data, "path", [str(directory)])
    return ["--config.data.corpus=nltk:inaugural", "--config.data.tokenizer=wordpiece-uncased"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [tsv, tensorflow_datasets, natural_language_toolkit])
def test_it_trains_from_the_command_line(make, tmp_path, monkeypatch):
    recipe, config = tmp_path / "recipe.py", tiny.config(tmp_path / "replaced", num_steps=4, sample_tokens=0)
    text = config_module.to_json(config)
    recipe.write_text(f"from lm_jax import config\nget_config = lambda _: config.from_json({text!r})\n")
    main = runpy.run_path(str(ROOT / "train.py"))["main"]
    flags = make(tmp_path, monkeypatch)
    main([f"--config={recipe}", f"--workdir={tmp_path / 'run'}", *flags])
    rows = json.loads((tmp_path / "run/results.json").read_text())
    sources = json.loads((tmp_path / "run/data.json").read_text())["sources"]
    assert rows[0]["documents"] > 5
    assert all(np.isfinite(row["nats"]) for row in rows)
    assert (rows[0]["bits_per_byte"] is None) == (make is natural_language_toolkit)  # which loses white space
    assert sources["train"]
