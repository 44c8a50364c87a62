"""Data sets of tensorflow-datasets, prepared here by a builder: read without TensorFlow and a network."""

import json
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lm_jax.data import corpora, pipeline, tfds_corpus
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
TRAIN = [f"Review {i}: naïve, é😀.\nSecond line." for i in range(700)]
TEST = ["A test.", "", "Another test."]


class SmallReviews(tfds.core.GeneratorBasedBuilder):
    """Two configs, two splits, five features of which two are texts."""

    VERSION = tfds.core.Version("1.2.3")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="plain"), tfds.core.BuilderConfig(name="loud")]  # noqa: RUF012

    def _info(self):
        features = {
            "text": tfds.features.Text(),
            "title": tfds.features.Text(),
            "stars": np.int32,
            "label": tfds.features.ClassLabel(names=["bad", "good"]),
            "words": tfds.features.Sequence(tfds.features.Text()),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(TRAIN), "test": self._generate_examples(TEST)}

    def _generate_examples(self, texts):
        for i, text in enumerate(texts):
            text = text.upper() if self.builder_config.name == "loud" else text
            yield i, {"text": text, "title": f"T{i}", "stars": i % 5, "label": i % 3 - 1, "words": ["a"]}


class OneField(tfds.core.GeneratorBasedBuilder):
    """A text that is not called so, and is not UTF-8 at one place."""

    VERSION = tfds.core.Version("2.0.0")

    def _info(self):
        features = {"passage": tfds.features.Text(), "id": np.int32}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(["a", "b"]), "bad": self._generate_examples(["a", b"b\xff"])}

    def _generate_examples(self, texts):
        for i, text in enumerate(texts):
            yield i, {"passage": text, "id": i}


class Nested(tfds.core.GeneratorBasedBuilder):
    """Texts in sequences, in features of features, and in sequences of features."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = {
            "turns": tfds.features.Sequence(text),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B"])),
            "source": {"name": text, "page": np.int32, "origin": {"city": text}},
            "answers": tfds.features.Sequence({"said": text, "start": np.int32}),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, turns in enumerate((["Hé", "you\n2"], [], ["one"])):
            yield (
                i,
                {
                    "turns": turns,
                    "tags": [1, 0][: len(turns)],
                    "source": {"name": f"n{i}", "page": i, "origin": {"city": "Rome"}},
                    "answers": [{"said": turn.upper(), "start": i} for turn in turns],
                },
            )


class Captions(tfds.core.GeneratorBasedBuilder):
    """Translations."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.Translation(languages=("en", "de"))
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield from enumerate([{"en": "a dog", "de": "ein Hund"}, {"en": "dogs", "de": "Hunde"}])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    for name in ("small_reviews/plain", "small_reviews/loud", "one_field", "nested", "captions"):
        tfds.builder(name, data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


@pytest.fixture(autouse=True)
def data_dir(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    return prepared


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was tried")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def texts(spec, documents="file"):
    return [document.text for document in corpora.read(spec, documents)]


def test_sequences_of_class_labels_are_lists_of_names():
    tags = [document.fields["tags"] for document in corpora.read("tfds:nested#turns")]
    assert tags == [["B", "O"], ["B"]]  # of the texts that are not empty


def test_examples_are_documents():
    read = corpora.read("tfds:small_reviews")
    assert [d.text for d in read] == TRAIN
    names = [d.name for d in read]
    assert names[0] == "small_reviews-train.array_record-00000-of-00001:1"
    assert len(set(names)) == len(names)
    assert texts("tfds:small_reviews", "line")[:2] == ["Review 0: naïve, é😀.\n", "Second line."]


def test_other_texts_numbers_and_classes_are_fields():
    documents = list(corpora.read("tfds:small_reviews@train[:3]"))
    assert [d.fields for d in documents] == [
        {"title": "T0", "stars": 0},
        {"title": "T1", "stars": 1, "label": "bad"},
        {"title": "T2", "stars": 2, "label": "good"},
    ]
    assert next(iter(corpora.read("tfds:small_reviews#title"))).fields == {"text": TRAIN[0], "stars": 0}
    assert json.dumps(documents[2].fields)


def test_a_spec_chooses_config_version_split_and_field():
    assert texts("tfds:small_reviews/loud:1.2.3@test") == ["A TEST.", "ANOTHER TEST."]
    assert texts("tfds:small_reviews:1.*.*@test#title") == ["T0", "T1", "T2"]
    assert texts("tfds:one_field") == ["a", "b"]


def test_a_slice_of_a_split_has_the_same_documents():
    whole = list(corpora.read("tfds:small_reviews"))
    assert list(corpora.read("tfds:small_reviews@train[300:650]")) == whole[300:650]
    assert list(corpora.read("tfds:small_reviews@train[-10%:]")) == whole[630:]
    both = [d.text for d in corpora.read("tfds:small_reviews@test+train[:1]")]
    assert both == ["A test.", "Another test.", TRAIN[0]]


@pytest.mark.parametrize("num_shards", [1, 3])
def test_shards_are_read_one_after_the_other(tmp_path, monkeypatch, num_shards):
    config = tfds.download.DownloadConfig(num_shards=num_shards)
    builder = tfds.builder("small_reviews", data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(download_config=config)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    told = []
    read = corpora.read("tfds:small_reviews", progress=lambda *arguments: told.append(arguments))
    assert len(read.files) == num_shards
    assert [d.text for d in read] == TRAIN
    assert [done == total for _, done, total in told] == [False] * (num_shards - 1) + [True]


def test_prepare_records_its_source_and_opens_it_again(tmp_path):
    config = DataConfig(
        corpus="tfds:small_reviews@train[:50]",
        valid="@test",
        test="@train[-5:]",
        tokenizer="byte",
        split="hash:0",
    )
    data = pipeline.prepare(config, cache_dir=tmp_path)
    found = {name: [d.text for d in split.documents()] for name, split in data.splits.items()}
    assert found == {"train": TRAIN[:50], "valid": ["A test.", "Another test."], "test": TRAIN[-5:]}
    assert data.provenance["sources"]["valid"] == {
        "dataset": "small_reviews/plain/1.2.3",
        "split": "test",
        "field": "text",
    }
    assert data.provenance["sources"]["train"]["split"] == "train[:50]"
    pipeline.prepare(config, cache_dir=tmp_path)
    assert len(list(tmp_path.glob("texts-*"))) == 1


def test_a_fingerprint_follows_dataset_split_field_and_bytes(data_dir):
    specs = ["small_reviews", "small_reviews/loud", "small_reviews@test", "small_reviews@train[:9]",
             "small_reviews#title"]  # fmt: skip
    found = {corpora.read(f"tfds:{spec}").fingerprint() for spec in specs}
    assert len(found) == len(specs)
    assert corpora.read("tfds:small_reviews:1.2.3").fingerprint() in found
    [path] = data_dir.glob("one_field/*/*train*")
    before, content = corpora.read("tfds:one_field").fingerprint(), path.read_bytes()
    path.write_bytes(content + b"\0")
    assert corpora.read("tfds:one_field").fingerprint() != before
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["imdb_reviews", "lm1b", "tiny_shakespeare", "wiki40b", "glue/cola:2.0.0"])
def test_an_unprepared_data_set_is_an_immediate_error_with_the_command(data_dir, name):
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        corpora.read(f"tfds:{name}")
    assert time.monotonic() - start < 5
    assert f"tfds:{name} is not prepared: there is no {data_dir}/" in str(caught.value)
    assert str(caught.value).endswith(
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\""
    )


def test_the_command_in_the_error_prepares_the_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError) as caught:
        corpora.read("tfds:small_reviews/loud")
    monkeypatch.setattr(
        tfds.core.constants, "DATA_DIR", str(tmp_path)
    )  # a new process takes it from the variable
    exec(caught.value.remedy.partition('-c "')[2].rstrip('"'))
    assert texts("tfds:small_reviews/loud@test") == ["A TEST.", "ANOTHER TEST."]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("imdb_review", "no data set imdb_review in tensorflow-datasets; did you mean tfds:imdb_reviews"),
        ("qqqq", "no data set qqqq .*; set TFDS_DATA_DIR"),
        ("small_reviews/quiet", "tfds:small_reviews/quiet: BuilderConfig quiet not found"),
        ("small_reviews:9.9.9", "cannot be loaded at version 9.9.9"),
        (
            "small_reviews@valid",
            r"tfds:small_reviews@valid: Unknown split 'valid'.*\['train', 'test'\]; name one",
        ),
        ("small_reviews@train[", "Error parsing split"),
        ("small_reviews@test[5:]", "split"),
        ("small_reviews#stars", r"no text in the field 'stars' \(its texts: text, title, words\)"),
        ("one_field@bad", r"-00001, example 2, is not UTF-8: byte 0xff at offset 1"),
        ("huggingface:squad", "names no data set; type tfds:NAME"),
        ("../elsewhere", "names no data set"),
        ("", "no corpus 'tfds:'"),
    ],
)
def test_a_wrong_request_raises_user_error(spec, message):
    with pytest.raises(UserError, match=message) as caught:
        list(corpora.read(f"tfds:{spec}"))
    assert "\n" not in str(caught.value)


def test_another_file_format_raises_user_error(tmp_path, data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    directory = tmp_path / "one_field/2.0.0"
    directory.mkdir(parents=True)
    for path in data_dir.glob("one_field/2.0.0/*"):
        content = path.read_bytes().replace(b'"array_record"', b'"tfrecord"')
        (directory / path.name.replace("array_record", "tfrecord")).write_bytes(content)
    with pytest.raises(
        UserError, match=r"tfds:one_field: .*TFRECORD.* another format, set TFDS_DATA_DIR and run"
    ):
        corpora.read("tfds:one_field")


def test_a_damaged_file_raises_user_error(tmp_path, data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    directory = tmp_path / "one_field/2.0.0"
    directory.mkdir(parents=True)
    for path in data_dir.glob("one_field/2.0.0/*"):
        (directory / path.name).write_bytes(path.read_bytes())
    [path] = directory.glob("*train*")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"train.array_record-00000-of-00001: .*damaged"):
        list(corpora.read("tfds:one_field"))
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*train.array_record-00000-of-00001: No such file"):
        corpora.read("tfds:one_field").fingerprint()


def test_tensorflow_is_never_imported_and_no_code_is_needed(tmp_path, data_dir):
    """Another process, without the builder's class, where importing TensorFlow would end it."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow/__init__.py").write_text("import os; os._exit(77)")
    program = (
        "import json, sys\nfrom lm_jax.data import corpora\n"
        "print(json.dumps([d.text for d in corpora.read('tfds:small_reviews/plain@test')]))\n"
        "assert not [m for m in sys.modules if m.partition('.')[0] == 'tensorflow']"
    )
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "TFDS_DATA_DIR": str(data_dir), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert json.loads(done.stdout) == ["A test.", "Another test."]


def test_sources_for_validation_and_test_say_only_the_split():
    assert corpora.with_kind("@test", "tfds:a/b:1.0.0@train#x") == "tfds:a/b:1.0.0@test#x"
    assert corpora.with_kind("tfds:c", "tfds:a") == "tfds:c"
    assert corpora.with_kind("a.txt", "tfds:a") == "text:a.txt"
    with pytest.raises(UserError, match="names no data set"):
        DataConfig(corpus="tfds:a b").check()
    assert tfds_corpus.parse("a/b-c.d:1.0.*@train[:5%]#x y") == ("a/b-c.d:1.0.*", "train[:5%]", "x y")


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ("turns", ["Hé\nyou\n2", "", "one"]),
        ("source/name", ["n0", "n1", "n2"]),
        ("source/origin/city", ["Rome"] * 3),
        ("answers/said", ["HÉ\nYOU\n2", "", "ONE"]),
    ],
)
def test_texts_in_sequences_and_in_other_features(field, texts):
    files, _ = tfds_corpus.read(f"nested#{field}")
    documents = [document for file in files for document in file.documents()]
    assert [document.text for document in documents] == texts
    others = {"source/name": "n2", "source/page": 2, "source/origin/city": "Rome", "tags": ["B"]}
    others.pop(field, None)
    assert documents[2].fields == others


def test_an_unnamed_field_is_named_by_the_error():
    names = "turns, source/name, source/origin/city, answers/said"
    with pytest.raises(UserError, match=rf"no text in the field 'text' \(its texts: {names}\)"):
        tfds_corpus.read("nested")


def test_translations_are_pairs():
    found = [(d.text, d.fields) for d in corpora.read("tfds:captions#en")]
    assert found == [("a dog", {"de": "ein Hund"}), ("dogs", {"de": "Hunde"})]
