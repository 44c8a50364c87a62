"""The data of a run: the config, and the path from documents to a token store and a source of batches."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lm_jax import files, runtime
from lm_jax.data import cache, corpora, splits, store
from lm_jax.data.batches import Source, Streams, Windows
from lm_jax.data.corpora import Corpus, Progress
from lm_jax.data.documents import NO_FIELDS, Document, Fields
from lm_jax.data.store import Split
from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.text import load as tokenizers
from lm_jax.text.base import Tokenizer

_ORDERS = ("shuffled", "contiguous")
_TEXTS = "texts-"  # begins the name of a text store


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The text, the parts of it that are held out, and how it becomes tokens and batches."""

    corpus: str = (
        "python-docs"  # or python-docstrings, parallel:, text:, jsonl:, tsv:, csv:, tfds:, nltk: ...
    )
    documents: str = "file"  # what one document is: file, line or paragraph
    split: str = (
        "hash:0.05,0.05"  # hash:VALID[,TEST] of whole documents or records, or tail:...: 0.1 or 900words
    )
    valid: str = ""  # another source for validation: a corpus, files of the same kind, @SPLIT of tfds:NAME
    test: str = ""  # another source for the test
    tokenizer: str = "bpe"  # byte, char, word, bpe, bpe-bart, wordpiece, wordpiece-uncased; or a path
    vocab_size: int = 4096  # maximum number of tokens to learn, special ones included; 0: no limit
    min_count: int = 0  # words and characters that are rarer in the training part become <unk>
    sequence_length: int = 128  # tokens in a row of a batch
    order: str = "shuffled"  # shuffled windows, or contiguous streams for models that carry a state
    vary_length: bool = False  # contiguous: lengths vary about sequence_length, and learning rates with them
    separate_documents: bool = False  # attention and state restart where a document begins within a row

    def check(self) -> None:
        """Raises UserError for a value that no run can use."""
        corpora.check(self.corpus, self.documents)
        for source in filter(None, (self.valid, self.test)):
            corpora.check(corpora.with_kind(source, self.corpus), self.documents)
        if not splits.parse(self.split).valid and not self.valid:
            raise UserError(
                f"data.split={self.split!r} has no validation part", "hold one out, or give data.valid"
            )
        if self.order not in _ORDERS:
            raise UserError(f"data.order={self.order!r}", f"choose one of {', '.join(_ORDERS)}")
        if self.order == "contiguous" and self.separate_documents:
            raise UserError(
                "data.order=contiguous carries a state from row to row, across documents",
                "set data.separate_documents=False, or data.order=shuffled",
            )
        if self.vary_length and self.order != "contiguous":
            raise UserError(f"data.vary_length with data.order={self.order}", "set data.order=contiguous")
        for name, least in (("vocab_size", 0), ("min_count", 0), ("sequence_length", 1)):
            if getattr(self, name) < least:
                raise UserError(f"data.{name}={getattr(self, name)}", f"it must be {least} or more")


@dataclasses.dataclass(frozen=True)
class Data:
    """All that training reads.

    Attributes:
        tokenizer: trained on the training part alone, or loaded.
        splits: train, valid, and test where there is one.
        provenance: the identity of the text, for the record: sources, versions, hashes, sizes.
    """

    tokenizer: Tokenizer
    splits: dict[str, Split]
    provenance: dict[str, Any]

    @property
    def classes(self) -> dict[str, list[str]]:
        """The names of the classes of each label field."""
        return classes_of(self.provenance)


def classes_of(provenance: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of the classes of each label field, from `Data.provenance`."""
    return provenance.get("fields", {}).get("classes", {})


def prepare(
    config: DataConfig,
    fields: Fields = NO_FIELDS,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Data:
    """Reads, splits, trains the tokenizer and encodes, unless an earlier call did; then opens the result.

    The cache is keyed by the bytes of the source files (hashed at every start: about a second a gigabyte),
    the split, the fields and the tokenizer's settings.

    Args:
        config: the source and its treatment.
        fields: what the task reads of a document beside its text. The tokenizer is trained on the text fields
            too; with any field a tail begins with a whole document.
        cache_dir: the directory of the cache; by default $LM_JAX_CACHE, else ~/.cache/lm_jax.
        progress: called while sources are read, the tokenizer is trained and texts are encoded.

    Raises:
        UserError: missing or unreadable sources, a part without a document, a document without a field, a
            label that is not in the training part, a tokenizer that cannot be made, or no room or no
            permission for the cache.
    """
    root = files.expand(cache_dir or runtime.cache_dir())
    texts, facts, sources = _prepare_texts(config, fields, root, progress)
    parts = [part for part in splits.PARTS if part in facts.inner("parts").values]

    def write_tokens(directory: Path) -> dict[str, Any]:
        tokenizer = _make_tokenizer(config, fields, texts, progress)
        return store.write_tokens(texts, parts, fields, tokenizer, directory, progress)

    texts_key = texts.name.removeprefix(_TEXTS)
    tokens = root / f"tokens-{cache.key('tokens', texts_key, *_tokenizer_key(config))}"
    cache.build(tokens, write_tokens)
    tokenizer = tokenizers.load(tokens)
    read = {part: Split(part, texts, tokens) for part in parts}
    return Data(tokenizer, read, _provenance(config, fields, sources, facts, tokenizer, read))


class TrainingDocuments(NamedTuple):
    """The documents of the training part of a corpus.

    Attributes:
        sha256: of their bytes, one document after the other.
        read: called with a `Progress` or None, gives them in order.
    """

    sha256: str
    read: Callable[[Progress | None], Iterator[Document]]


def training_documents(
    config: DataConfig,
    fields: Fields = NO_FIELDS,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> TrainingDocuments:
    """The training part that `prepare` makes of a corpus, without tokens. Arguments and errors as there."""
    root = files.expand(cache_dir or runtime.cache_dir())
    texts, facts, _ = _prepare_texts(config, fields, root, progress)
    sha256 = facts.inner("parts").inner("train").take("sha256", str)
    return TrainingDocuments(sha256, functools.partial(store.read_documents, texts, "train"))


def _prepare_texts(
    config: DataConfig, fields: Fields, root: Path, progress: Progress | None
) -> tuple[Path, JsonObject, dict[str, Corpus]]:
    """The directory of the text store, its facts, and the sources under the names of their parts."""
    config.check()
    sources = _sources(config, keeps_empty=any(fields), progress=progress)
    fingerprints = {name: corpus.fingerprint() for name, corpus in sources.items()}
    whole = ["whole records"] if sources["train"].held_out == "record" and config.documents != "file" else []
    texts = root / f"{_TEXTS}{cache.key('texts', config.split, fingerprints, fields, *whole)}"
    facts = cache.build(texts, lambda to: _write_texts(config, fields, sources, to))
    return texts, facts, sources


def _sources(config: DataConfig, keeps_empty: bool, progress: Progress | None) -> dict[str, Corpus]:
    """The corpus under "train", and the sources of validation and test where they have their own."""
    named = {"train": config.corpus, "valid": config.valid, "test": config.test}
    return {
        part: dataclasses.replace(
            corpora.read(corpora.with_kind(source, config.corpus), config.documents, progress),
            keeps_empty=keeps_empty,
        )
        for part, source in named.items()
        if source
    }


def _write_texts(
    config: DataConfig, fields: Fields, sources: dict[str, Corpus], directory: Path
) -> dict[str, Any]:
    """Splits the documents into their parts; by a tail where there are too few for a split by hash."""
    split = config.split
    sha256, parts = _write_split(split, fields, sources, directory)
    if split.startswith("hash:") and _missing(split, sources, parts):
        split = split.replace("hash", "tail", 1)
        sha256, parts = _write_split(split, fields, sources, directory)
    if missing := _missing(split, sources, parts):
        total = sum(facts["documents"] for facts in parts.values())
        raise UserError(
            f"data.split={split!r} gives none of {total} documents in {config.corpus} to {missing[0]}",
            "hold out more (data.split=tail:0.1,0.1), or let data.documents be smaller (line, paragraph)",
        )
    labels = store.write_columns(directory, parts, fields)
    return {"sha256": sha256, "parts": parts, "labels": labels, "split": split}


def _write_split(
    split: str, fields: Fields, sources: dict[str, Corpus], directory: Path
) -> tuple[str, dict[str, dict[str, Any]]]:
    """The SHA-256 of the corpus, and facts of each part that has a document."""
    holdout, digest, main = splits.parse(split), hashlib.sha256(), sources["train"]

    def assigned() -> Iterator[tuple[str, Document]]:
        for part, document in splits.assign(holdout, main, whole=any(fields), units=main.units()):
            digest.update(document.text.encode())
            # The training part includes what the split assigns to a part that has its own source.
            yield ("train" if part in sources else part), document
        for part in ("valid", "test"):
            for document in sources.get(part, ()):
                yield part, document

    parts = store.write_texts(assigned(), fields, directory)
    return digest.hexdigest(), parts


def _missing(split: str, sources: dict[str, Corpus], parts: dict[str, Any]) -> list[str]:
    """The parts without a document that must have one."""
    wanted = {"train", "valid", *sources} | ({"test"} if splits.parse(split).test else set())
    return [part for part in splits.PARTS if part in wanted and part not in parts]


def _make_tokenizer(config: DataConfig, fields: Fields, texts: Path, progress: Progress | None) -> Tokenizer:
    main = store.read_texts(texts, "train", progress, "training the tokenizer")
    others = (store.read_field_texts(texts, "train", field) for field in fields.texts)
    training = itertools.chain(main, *others)
    return tokenizers.train(config.tokenizer, training, config.vocab_size, config.min_count)


def _tokenizer_key(config: DataConfig) -> list[Any]:
    """All that decides the tokenizer, beside the training text."""
    if config.tokenizer in tokenizers.KINDS:
        return [config.tokenizer, config.vocab_size, config.min_count]
    return [tokenizers.load(tokenizers.named_file(config.tokenizer)).fingerprint()]


def _provenance(
    config: DataConfig,
    fields: Fields,
    sources: dict[str, Corpus],
    facts: JsonObject,
    tokenizer: Tokenizer,
    parts: dict[str, Split],
) -> dict[str, Any]:
    names = ("num_documents", "num_bytes", "num_words", "num_tokens", "sha256")
    written = facts.inner("parts")
    classes = facts.take("labels", dict)
    hashes = {part: written.inner(part).take("fields_sha256", str) for part in parts}
    read = {kind: list(asked) for kind, asked in fields._asdict().items()}
    return {
        **{name: getattr(config, name) for name in ("corpus", "documents", "split", "valid", "test")},
        "split": facts.take("split", str, default=config.split),
        "sha256": facts.take("sha256", str),
        **({"fields": read | {"classes": classes, "sha256": hashes}} if any(fields) else {}),
        "sources": {part: corpus.facts for part, corpus in sources.items()},
        "tokenizer": {
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.fingerprint(),
        },
        "splits": {part: {name: getattr(split, name) for name in names} for part, split in parts.items()},
    }


def make_source(split: Split, config: DataConfig, batch_size: int, seed: int) -> Source:
    """Batches for training, in the order that the config names.

    Raises:
        UserError: a text too short for contiguous streams.
    """
    if config.order == "contiguous":
        if config.sequence_length > split.num_tokens // batch_size:
            raise UserError(
                f"train.batch_size={batch_size} streams of a text of {split.num_tokens} tokens are shorter "
                f"than data.sequence_length={config.sequence_length}",
                "make one of them smaller",
            )
        seed_of_lengths = seed if config.vary_length else None
        return Streams(split, batch_size, config.sequence_length, seed_of_lengths)
    return Windows(split, batch_size, config.sequence_length, seed, config.separate_documents)
