"""What `fuzz.py` reads: a reader for each kind of file."""

import bz2
import dataclasses
import gzip
import json
import lzma
import pathlib
import random
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lm_jax import config as config_module
from lm_jax import fields, seal
from lm_jax.config import Config, CountConfig
from lm_jax.data import corpora, provenance
from lm_jax.data.documents import NO_FIELDS, Fields
from lm_jax.data.store import Split
from lm_jax.errors import UserError
from lm_jax.evaluation.row import read_rows
from lm_jax.evaluation.texts import lines_or_corpus, read_held_out
from lm_jax.language_models import load as language_models
from lm_jax.language_models.ngram_classes import ClassModels
from lm_jax.models.bert import BERTConfig
from lm_jax.ngram import arpa
from lm_jax.ngram.model import NGramModel
from lm_jax.pretrained import huggingface, marks, weights
from lm_jax.progress import read_metrics
from lm_jax.text import load as tokenizers

TOTAL = 200_000
Read = Callable[[pathlib.Path], Any]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A file and what reads it.

    Attributes:
        name: of the reader.
        directory: good files; workers change copies.
        file: the one that is changed, relative to the directory.
        read: reads it, given the directory; raises only UserError.
        share: how many of `TOTAL` inputs.
        after: what is done to the changed content: compression, a new digest.
        seal: "none" beside it, "kept" as it was, or made to fit "again".
    """

    name: str
    directory: pathlib.Path
    file: str
    read: Read
    share: int
    after: Callable[[bytes, random.Random], bytes] = lambda data, draw: data
    seal: str = "none"

    def prepare(self, scratch: pathlib.Path) -> None:
        """Makes the copy that a worker changes."""
        shutil.copytree(self.directory, scratch)
        if self.seal == "none" and pathlib.PurePath(self.file).name != seal.FILE:
            (scratch / self.file).with_name(seal.FILE).unlink(missing_ok=True)

    def write(self, scratch: pathlib.Path, data: bytes) -> None:
        """Puts a changed content into the copy."""
        (scratch / self.file).write_bytes(data)
        if self.seal == "again":
            where = self._sealed_directory()
            good = seal.read(self.directory / where)
            assert good is not None
            seal.write_whole(scratch / where, good.states, good.facts)

    def _sealed_directory(self) -> pathlib.PurePath:
        """The directory whose seal has the file."""
        parents = pathlib.PurePath(self.file).parents
        return next(p for p in parents if (self.directory / p / seal.FILE).is_file())


def readers(folder: pathlib.Path) -> Iterator[Reader]:
    """All readers of the files that `fuzz_files.make` wrote."""
    if (folder / "gpt").exists():
        yield from _of_runs(folder)
        yield from _of_published(folder)
    yield from _of_ngrams(folder)
    yield from _of_tokenizers(folder)
    yield from _of_corpora(folder)
    for part in ("texts", "tokens"):
        where = f"{part}/{seal.FILE}"
        yield Reader(f"cache: {part}", folder / "store", where, _read_store, 3_000, _with_digest)
    config = [Config(), CountConfig(), Config(model=BERTConfig())]
    names = [f"{name}={value}" for one in config for name, value in fields.flatten(one)]
    (folder / "fields").mkdir(exist_ok=True)
    (folder / "fields" / "line").write_text("\n".join(names))
    yield Reader("field of a command line", folder / "fields", "line", _read_fields, 14_000, _one_line)


def _of_runs(folder: pathlib.Path) -> Iterator[Reader]:
    def config(path: pathlib.Path) -> None:
        config_module.read(path)
        config_module.RunParts(path)

    for run, share in (("gpt", 12_000), ("ngram", 4_000)):
        yield Reader(f"config.json, {run}", folder / run, "config.json", config, share)
    for name, read, share in (
        ("config.json", language_models.load, 600),
        ("data.json", provenance.read, 10_000),
        ("results.json", lambda path: read_rows(path / "results.json"), 12_000),
        ("metrics.jsonl", lambda path: read_metrics(path / "metrics.jsonl"), 8_000),
        ("test.jsonl", lambda path: read_held_out(path, "test"), 12_000),
    ):
        yield Reader(f"{name}, run", folder / "gpt", name, read, share)
        yield Reader(f"{name}, run, sealed again", folder / "gpt", name, read, share // 10, seal="again")
    yield Reader("seal.json", folder / "ngram", seal.FILE, seal.check, 6_000)
    yield Reader("seal.json, with its digest", folder / "ngram", seal.FILE, seal.check, 6_000, _with_digest)
    inside = [path.relative_to(folder / "gpt") for path in (folder / "gpt" / "checkpoints" / "2").rglob("*")]
    kept = [name for name in inside if (folder / "gpt" / name).is_file() and "rest" not in name.parts]
    for name in map(str, sorted(kept)):
        what = f"checkpoint: {re.sub('/d/.*', '/d/*', name.partition('/2/')[2])}"
        load = language_models.load
        if name.endswith(seal.FILE):
            yield Reader(what, folder / "gpt", name, load, 300, _with_digest, "kept")
            continue
        yield Reader(what, folder / "gpt", name, load, 100, seal="kept")
        if "/params/" in name or "/metrics/" in name:
            yield Reader(f"{what}, sealed again", folder / "gpt", name, load, 100, seal="again")


def _read_store(path: pathlib.Path) -> None:
    split = Split("train", path / "texts", path / "tokens")
    assert len(split.labels("label")) == len(split.numbers("n")) == len(list(split.documents()))
    split.label_names("label")
    assert split.tokens.max() < split.tokenizer.vocab_size


def _with_digest(data: bytes, draw: random.Random) -> bytes:
    """Half of the time a seal with a digest that fits."""
    try:
        values = json.loads(data)
        if isinstance(values, dict) and draw.random() < 0.5:
            content = {name: value for name, value in values.items() if name != "sha256"}
            return json.dumps({**content, "sha256": seal._own_digest(content)}).encode()
    except (ValueError, RecursionError):
        pass
    return data


def _of_ngrams(folder: pathlib.Path) -> Iterator[Reader]:
    def read_model(path: pathlib.Path) -> None:
        model = NGramModel.load(path / "model.ngram")
        _use(model)

    def read_classes(path: pathlib.Path) -> None:
        ClassModels.load(path)
        model: Any = language_models.load(path)
        for labelled in model.label(["the old data", "reads"]):
            assert np.isfinite(labelled.probabilities).all()

    yield Reader("model.ngram", folder / "ngram", "model.ngram", read_model, 14_000)
    yield Reader(
        "model.ngram, sealed again", folder / "ngram", "model.ngram", _load_ngram, 1_000, seal="again"
    )
    yield Reader("classes.json", folder / "classes", "classes.json", read_classes, 1_500)
    yield Reader("class-0.ngram", folder / "classes", "class-0.ngram", read_classes, 500)
    read = lambda path: _use(arpa.read(path / "model.arpa"))  # noqa: E731
    yield Reader("ARPA", folder / "arpa", "model.arpa", read, 12_000)
    yield Reader("ARPA, opened", folder / "arpa", "model.arpa", _load_arpa, 1_000)
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        for name, after in (("", _packed(pack)), (" changed", _changed_when_packed(pack))):
            what = f"ARPA in{name} {pack.__module__.lstrip('_')}"
            yield Reader(what, folder / "arpa", "model.arpa", read, 1_000, after)


def _use(model: NGramModel) -> None:
    """Scores and predicts: no number is NaN."""
    words = np.arange(len(model.vocabulary.words), dtype=np.int32)[:50]
    stream = np.concatenate([[1], words[3:], [2, 1], words[:2:-1], [2]]).astype(np.int32)
    assert not np.isnan(model.score(stream).log_probs).any()
    assert not np.isnan(model.next_distribution(stream[:4])).any()


def _load_ngram(path: pathlib.Path) -> None:
    model: Any = language_models.load(path)
    assert not np.isnan(model.score(["the old data", "reads"])[0].log_probs).any()


def _load_arpa(path: pathlib.Path) -> None:
    model: Any = language_models.load(path / "model.arpa")
    assert not np.isnan(model.score(["the old data", "reads"])[0].log_probs).any()


def _packed(pack: Callable[[bytes], bytes]) -> Callable[[bytes, random.Random], bytes]:
    return lambda data, draw: pack(data)


def _changed_when_packed(pack: Callable[[bytes], bytes]) -> Callable[[bytes, random.Random], bytes]:
    def change(data: bytes, draw: random.Random) -> bytes:
        packed = bytearray(pack(data))
        for _ in range(draw.choice((1, 1, 3))):
            packed[draw.randrange(len(packed))] ^= 1 << draw.randrange(8)
        return bytes(packed[: draw.choice((len(packed), draw.randrange(len(packed)), len(packed)))])

    return change


def _of_tokenizers(folder: pathlib.Path) -> Iterator[Reader]:
    def read(path: pathlib.Path) -> None:
        tokenizer = tokenizers.load(path)
        tokenizer.encode("the old café reads <pad>\n\U0001f600 x")
        tokenizer.decode(tokenizer.encode_ids(["data"])[0])

    for kind, name, share in (
        ("word", "tokenizer.json", 4_000), ("char", "tokenizer.json", 4_000),
        ("byte", "tokenizer.json", 2_000), ("bpe", "tokenizer.json", 5_000),
        ("wordpiece", "tokenizer.json", 5_000), ("gpt2", "vocab.json", 3_000),
        ("gpt2", "merges.txt", 3_000), ("gpt2", "added_tokens.json", 2_000), ("bert", "vocab.txt", 4_000),
        ("bert", "tokenizer_config.json", 3_000),
    ):  # fmt: skip
        yield Reader(f"tokenizer: {kind} {name}", folder / "tokenizers" / kind, name, read, share)


def _of_published(folder: pathlib.Path) -> Iterator[Reader]:
    for family in ("gpt2", "bert"):
        yield Reader(f"{family}: config.json", folder / family, "config.json", huggingface.read_config, 7_000)
        yield Reader(f"{family}: config.json, all", folder / family, "config.json", huggingface.read, 500)
        yield Reader(f"{family}: weights", folder / family, weights.FILE, _read_weights, 5_000)
        yield Reader(f"{family}: index", folder / f"{family}-shards", weights.INDEX, _read_weights, 3_000)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"):
        yield Reader(f"gpt2: marks in {name}", folder / "gpt2", name, _read_marks, 2_500)
    yield Reader("gpt2: tokenizer.json", folder / "gpt2", "tokenizer.json", _read_marks, 1_500)


def _read_marks(path: pathlib.Path) -> None:
    marks.read(path, marks.vocabulary(path))
    huggingface._read_tokenizer(path, is_causal=True)


def _read_weights(path: pathlib.Path) -> None:
    """The arrays under their own names, with the shapes they have."""
    with weights._opened(path) as tensors:
        shapes = {name: [tuple(tensors[name].get_slice(name).get_shape())] for name in tensors}
    weights.read(path, {name: [name] for name in shapes}, shapes)


def _of_corpora(folder: pathlib.Path) -> Iterator[Reader]:
    def reader(spec: str, file: str) -> Read:
        def read(path: pathlib.Path) -> None:
            for cut in ("file", "line"):
                documents = list(corpora.read(spec.format(path / file), cut))
            fields_ = Fields(labels=("label",), numbers=("n",)) if "jsonl" in spec else NO_FIELDS
            for document in documents:
                fields_.select(document)
                document.text.encode()
            if spec == "text:{}":
                lines_or_corpus(str(path / file))

        return read

    for spec, file, share in (
        ("text:{}", "text.txt", 4_000), ("text:{}", "utf16.txt", 3_000), ("jsonl:{}", "rows.jsonl", 9_000),
        ("tsv:{}#text", "table.tsv", 5_000), ("csv:{}#text", "table.csv", 6_000),
        ("labelled:{}", "labelled.txt", 4_000), ("conll:{}", "tags.conll", 5_000),
        ("parallel:{0},{0}", "text.txt", 3_000),
    ):  # fmt: skip
        what = f"corpus: {spec.partition(':')[0]}"
        what += " of UTF-16" if "utf16" in file else ""
        yield Reader(what, folder / "texts", file, reader(spec, file), share)
    for pack in _packers():
        name = pack.__module__.lstrip("_")
        read = reader("text:{}", "text.txt")
        yield Reader(f"corpus: text in {name}", folder / "texts", "text.txt", read, 600, _packed(pack))
        changed = _changed_when_packed(pack)
        yield Reader(f"corpus: text in changed {name}", folder / "texts", "text.txt", read, 1_400, changed)


def _packers() -> list[Callable[[bytes], bytes]]:
    found: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress]
    try:
        import zstandard

        def zstd(data: bytes) -> bytes:
            return zstandard.ZstdCompressor().compress(data)

        zstd.__module__ = "zstandard"
        found.append(zstd)
    except ImportError:
        pass
    return found


def _one_line(data: bytes, draw: random.Random) -> bytes:
    return draw.choice(data.split(b"\n"))


def _read_fields(path: pathlib.Path) -> None:
    """Sets one field, as the command line does."""
    name, _, value = (path / "line").read_bytes().decode(errors="surrogateescape").partition("=")
    for config in (Config(), CountConfig(), Config(model=BERTConfig())):
        try:
            made = fields.override(config, {name: value})
            fields.check(made)
            made.check()
        except UserError:
            if config == Config(model=BERTConfig()):
                raise
