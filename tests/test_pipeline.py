"""From documents to batches: the stored texts, fields and tokens, when they are rebuilt, and the sources."""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import resource

import numpy as np
import pytest

from lm_jax.data import pipeline, python_docs, store
from lm_jax.data.batches import Windows
from lm_jax.data.cache import build
from lm_jax.data.documents import Document, Fields
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError

PARAGRAPHS = [f"Paragraph {i} of a naïve text.\nIt has {i * i} lines 😀.\n\n" for i in range(60)]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(PARAGRAPHS), encoding="utf-8")
    return DataConfig(
        corpus=f"text:{path}", documents="paragraph", split="hash:0.2,0.2", vocab_size=300, sequence_length=8
    )


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.mark.parametrize("tokenizer", ["byte", "char", "word", "bpe", "wordpiece"])
def test_a_split_is_its_documents_between_end_tokens(config, cache, tokenizer):
    data = pipeline.prepare(dataclasses.replace(config, tokenizer=tokenizer), cache_dir=cache)
    assert sorted(d.text for s in data.splits.values() for d in s.documents()) == sorted(PARAGRAPHS)
    for name, split in data.splits.items():
        documents = list(split.documents())
        end = data.tokenizer.end_id
        encoded = data.tokenizer.encode_batch([d.text for d in documents])
        expected = [end] + [i for e in encoded for i in [*e.ids.tolist(), end]]
        assert split.tokens.tolist() == expected
        assert split.tokens.dtype == np.uint16
        assert split.end_id == end
        first, last = split.document_offsets[1:3]
        assert split.tokens[first : last - 1].tolist() == encoded[1].ids.tolist()
        assert len(split.document_offsets) == split.num_documents + 1 == len(documents) + 1
        assert split.num_tokens == len(expected) - 1
        text = "".join(d.text for d in documents).encode()
        assert (split.num_bytes, split.num_words) == (len(text), len(text.split()))
        facts = data.provenance["splits"][name]
        assert facts["sha256"] == split.sha256 == hashlib.sha256(text).hexdigest()
        assert facts["num_tokens"] == split.num_tokens


def test_the_tokenizer_learns_from_the_training_part_alone(config, cache):
    data = pipeline.prepare(dataclasses.replace(config, tokenizer="word", vocab_size=0), cache_dir=cache)
    train = " ".join(d.text for d in data.splits["train"].documents()).split()
    assert sorted(data.tokenizer.words) == sorted(set(train))
    assert (data.splits["test"].tokens == data.tokenizer.unknown_id).any()


def test_provenance_names_the_text(config, cache):
    whole = hashlib.sha256("".join(PARAGRAPHS).encode()).hexdigest()
    for split in ("hash:0.2,0.2", "tail:0.15", "tail:33chars,10chars"):
        provenance = pipeline.prepare(dataclasses.replace(config, split=split), cache_dir=cache).provenance
        assert provenance["sha256"] == whole
        assert provenance["sources"] == {"train": {}}
        assert (provenance["corpus"], provenance["split"]) == (config.corpus, split)
        assert sum(facts["num_bytes"] for facts in provenance["splits"].values()) == len(
            "".join(PARAGRAPHS).encode()
        )


def test_other_sources_replace_parts_and_leave_the_others_alone(config, cache, tmp_path):
    (tmp_path / "other.txt").write_text("Another text.\n\nOf two paragraphs.")
    plain = pipeline.prepare(config, cache_dir=cache).splits
    for part, kept in (("valid", "test"), ("test", "valid")):
        for source in (f"{tmp_path}/other.txt", f"text:{tmp_path}/other.txt"):
            found = pipeline.prepare(dataclasses.replace(config, **{part: source}), cache_dir=cache).splits
            assert [d.text for d in found[part].documents()] == ["Another text.\n\n", "Of two paragraphs."]
            assert found[kept].sha256 == plain[kept].sha256
            assert found["train"].num_documents + found[kept].num_documents == len(PARAGRAPHS)
    both = dataclasses.replace(
        config, valid=f"{tmp_path}/other.txt", test=f"{tmp_path}/other.txt", split="hash:0"
    )
    assert pipeline.prepare(both, cache_dir=cache).splits["train"].num_documents == len(PARAGRAPHS)


def test_no_test_part_where_none_is_held_out(config, cache):
    assert set(pipeline.prepare(dataclasses.replace(config, split="tail:0.1"), cache_dir=cache).splits) == {
        "train",
        "valid",
    }


def test_large_vocabularies_are_stored_whole(tmp_path, cache):
    (tmp_path / "a.txt").write_text(" ".join(f"w{i}" for i in range(70_000)))
    config = DataConfig(corpus=f"text:{tmp_path}/a.txt", split="tail:10words", tokenizer="word", vocab_size=0)
    tokens = pipeline.prepare(config, cache_dir=cache).splits["train"].tokens
    assert tokens.dtype == np.uint32
    assert len(set(tokens.tolist())) == 69_991


def test_an_existing_store_is_opened_and_not_built_again(config, cache, monkeypatch):
    first = pipeline.prepare(config, cache_dir=cache)
    monkeypatch.setattr(store, "write_texts", None)
    monkeypatch.setattr(store, "write_tokens", None)
    second = pipeline.prepare(config, cache_dir=cache)
    assert second.provenance == first.provenance
    assert np.array_equal(second.splits["train"].tokens, first.splits["train"].tokens)


@pytest.mark.slow
def test_python_docs_are_not_parsed_twice(cache, monkeypatch):
    config = DataConfig(tokenizer="byte")
    first = pipeline.prepare(config, cache_dir=cache)
    assert first.provenance["sources"] == {"train": {"python_version": python_docs.VERSION}}
    assert {"train", "valid", "test"} == set(first.splits)
    monkeypatch.setattr(python_docs, "documentation", None)
    assert pipeline.prepare(config, cache_dir=cache).provenance == first.provenance


@pytest.mark.parametrize(
    "change",
    [{"split": "hash:0.3,0.2"}, {"documents": "line"}, {"tokenizer": "byte"}, {"vocab_size": 290}],
)
def test_another_setting_is_another_store(config, cache, change):
    first = pipeline.prepare(config, cache_dir=cache)
    second = pipeline.prepare(dataclasses.replace(config, **change), cache_dir=cache)
    assert len(first.splits["train"].tokens) != len(second.splits["train"].tokens)
    texts = 2 if {"split", "documents"} & change.keys() else 1
    assert (len(list(cache.glob("texts-*"))), len(list(cache.glob("tokens-*")))) == (texts, 2)


def test_a_changed_file_is_read_again_even_with_its_old_date(config, cache, tmp_path):
    path = tmp_path / "text.txt"
    pipeline.prepare(config, cache_dir=cache)
    status = path.stat()
    text = path.read_text(encoding="utf-8").replace("Paragraph 7 ", "Paragraph X ")
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    data = pipeline.prepare(config, cache_dir=cache)
    assert any("Paragraph X " in d.text for s in data.splits.values() for d in s.documents())


def test_a_loaded_tokenizer_is_known_by_its_content(config, cache, tmp_path):
    first = pipeline.prepare(config, cache_dir=cache)
    first.tokenizer.save(tmp_path / "tok")
    loaded = dataclasses.replace(config, tokenizer=str(tmp_path / "tok"), split="hash:0.3,0.2")
    second = pipeline.prepare(loaded, cache_dir=cache)
    assert second.tokenizer.fingerprint() == first.tokenizer.fingerprint()
    pipeline.prepare(dataclasses.replace(config, tokenizer="byte"), cache_dir=cache).tokenizer.save(
        tmp_path / "tok"
    )
    assert pipeline.prepare(loaded, cache_dir=cache).tokenizer.kind == "byte"


def test_a_damaged_store_is_built_again(config, cache):
    expected = pipeline.prepare(config, cache_dir=cache).splits["valid"].tokens.tolist()
    path = next(cache.glob("tokens-*")) / "valid.tokens"
    path.write_bytes(path.read_bytes()[:-2])
    assert pipeline.prepare(config, cache_dir=cache).splits["valid"].tokens.tolist() == expected
    (next(cache.glob("texts-*")) / "facts.json").write_text("{")
    assert pipeline.prepare(config, cache_dir=cache).splits["valid"].tokens.tolist() == expected
    assert not list(cache.glob(".*"))


def test_a_failed_build_leaves_no_file_and_is_repeated(config, cache, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write_tokens", fail)
    with pytest.raises(KeyboardInterrupt):
        pipeline.prepare(config, cache_dir=cache)
    assert not [*cache.glob("tokens-*"), *cache.glob(".*")]
    monkeypatch.undo()
    assert pipeline.prepare(config, cache_dir=cache).splits["train"].num_tokens > 0


def test_concurrent_builds_give_the_same_store(config, cache):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: pipeline.prepare(config, cache_dir=cache), range(4)))
    assert len({tuple(data.splits["train"].tokens.tolist()) for data in found}) == 1
    assert len(list(cache.iterdir())) == 2


def test_a_store_that_another_process_finished_first_is_taken(cache):
    def fill(directory):
        build(cache / "one", lambda other: (other / "a").write_text("first") and {"n": 1})
        (directory / "a").write_text("second")
        return {"n": 1}

    build(cache / "one", fill)
    assert (cache / "one/a").read_text() == "first"
    assert [path.name for path in cache.iterdir()] == ["one"]


def test_a_full_disk_raises_user_error(config, cache):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*: File too large; .* LM_JAX_CACHE"):
            pipeline.prepare(config, cache_dir=cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(cache.iterdir()) == []


def test_an_unusable_cache_directory_raises_user_error(config, tmp_path, monkeypatch):
    monkeypatch.setenv("LM_JAX_CACHE", str(tmp_path / "text.txt"))
    with pytest.raises(UserError, match=r"cannot write .*text.txt: .*; .* LM_JAX_CACHE"):
        pipeline.prepare(config)
    monkeypatch.setenv("LM_JAX_CACHE", str(tmp_path / "elsewhere"))
    pipeline.prepare(config)
    assert (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "hash:0"}, "no validation part; hold one out, or give data.valid"),
        ({"split": "thirds"}, "is not a split"),
        ({"corpus": "text:/no/such/file"}, "no file /no/such/file"),
        ({"valid": "/no/such/file"}, "no file /no/such/file"),
        ({"documents": "page"}, "choose one of file"),
        ({"order": "random"}, "choose one of shuffled, contiguous"),
        (
            {"order": "contiguous", "separate_documents": True},
            "carries a state .*; set data.separate_documents",
        ),
        ({"sequence_length": 0}, "data.sequence_length=0; it must be 1 or more"),
        ({"vocab_size": -1}, "data.vocab_size=-1"),
        ({"min_count": -1}, "data.min_count=-1"),
        ({"tokenizer": "words"}, "did you mean word"),
        ({"vocab_size": 100}, "too small for byte-level BPE"),
    ],
)
def test_a_wrong_request_raises_user_error_and_leaves_nothing(config, cache, change, message):
    with pytest.raises(UserError, match=message):
        pipeline.prepare(dataclasses.replace(config, **change), cache_dir=cache)
    assert not [*cache.glob("tokens-*"), *cache.glob(".*")]


def test_lines_of_a_record_stay_in_one_part(cache, tmp_path):
    path = tmp_path / "records.jsonl"
    texts = [f"{i} first\n{i} second\n{i} third\n" for i in range(60)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = DataConfig(f"jsonl:{path}", documents="line", split="hash:0.3,0.3", tokenizer="byte")
    parts = pipeline.prepare(config, cache_dir=cache).splits
    places = [
        (document.text.split()[0], name) for name, part in parts.items() for document in part.documents()
    ]
    assert len(places) == 180
    assert len(set(places)) == 60
    assert {name for _, name in places} == {"train", "valid", "test"}
    whole = pipeline.prepare(dataclasses.replace(config, documents="file"), cache_dir=cache).splits
    for name, part in parts.items():
        assert part.num_bytes == whole[name].num_bytes


def test_too_few_documents_for_a_hash_are_split_by_a_tail(config, cache):
    """One document, or those of which a hash gives none to a part, end in the held-out parts."""
    one = dataclasses.replace(config, documents="file", split="hash:0.2,0.1")
    data = pipeline.prepare(one, cache_dir=cache)
    assert data.provenance["split"] == "tail:0.2,0.1"
    texts = {part: "".join(d.text for d in split.documents()) for part, split in data.splits.items()}
    whole = pathlib.Path(config.corpus.removeprefix("text:")).read_text(encoding="utf-8")
    assert texts["train"] + texts["valid"] + texts["test"] == whole
    assert abs(len(texts["valid"]) - 0.2 * len(whole)) <= 1
    again = dataclasses.replace(one, split="tail:0.2,0.1")
    asked = pipeline.prepare(again, cache_dir=cache)
    assert [s.sha256 for s in asked.splits.values()] == [s.sha256 for s in data.splits.values()]
    assert pipeline.prepare(config, cache_dir=cache).provenance["split"] == config.split


def test_progress_is_reported(config, cache):
    calls = []
    pipeline.prepare(config, cache_dir=cache, progress=lambda *arguments: calls.append(arguments))
    assert {d.split()[0] for d, _, _ in calls} == {"reading", "training", "encoding"}
    assert all(0 <= done <= total for _, done, total in calls)


def test_the_config_selects_the_source(config, cache):
    split = pipeline.prepare(config, cache_dir=cache).splits["train"]
    assert isinstance(pipeline.make_source(split, config, 4, 0), Windows)
    contiguous = pipeline.make_source(split, dataclasses.replace(config, order="contiguous"), 4, 0)
    assert contiguous.batch(0).inputs[0].tolist() == split.tokens[:8].tolist()


def test_every_row_of_a_window_is_a_piece_of_the_stream(config, cache):
    split = pipeline.prepare(config, cache_dir=cache).splits["train"]
    windows = Windows(split, 2, 5, seed=3)
    stream = np.concatenate([split.tokens, split.tokens[1:]]).astype(np.int32)
    rows = np.lib.stride_tricks.sliding_window_view(stream, 6)
    for step in range(2 * windows.steps_per_epoch):
        batch = windows.batch(step)
        for row in np.concatenate([batch.inputs, batch.targets[:, -1:]], axis=1):
            assert (rows == row).all(axis=1).any()


RECORDS = [
    {"text": f"Text {i} é.", "other/text": "b " * (1 + i % 3), "label": "xyz"[i % 3], "score": i / 4, "n": i}
    for i in range(40)
]
FIELDS = Fields(texts=("other/text",), labels=("label", "n2"), numbers=("score",))


@pytest.fixture
def records(tmp_path):
    """A config whose documents have fields, and the way to write them."""

    def write(documents, name="records.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(document) + "\n" for document in documents))
        return f"jsonl:{path}"

    return write


def with_labels(records):
    return [record | {"n2": record["n"] % 2} for record in records]


def test_a_split_has_the_fields_that_are_asked_for(records, cache):
    config = DataConfig(corpus=records(with_labels(RECORDS)), split="tail:0.3", vocab_size=300)
    data = pipeline.prepare(config, FIELDS, cache)
    seen = []
    for name, split in data.splits.items():
        documents = list(split.documents())
        wanted = [RECORDS[int(d.text.split()[1])] for d in documents]
        stream = split.field_tokens("other/text")
        assert split.label_names("label") == ["x", "y", "z"]
        assert split.label_names("n2") == ["0", "1"]
        assert split.labels("label").tolist() == ["xyz".index(r["label"]) for r in wanted]
        assert split.labels("n2").tolist() == [r["n"] % 2 for r in wanted]
        assert (split.labels("label").dtype, split.numbers("score").dtype) == (np.int32, np.float64)
        assert split.numbers("score").tolist() == [r["score"] for r in wanted]
        for index, record in enumerate(wanted):
            expected = {k: record[k] for k in ("other/text", "label", "score")} | {"n2": record["n"] % 2}
            assert documents[index] == Document(f"records.jsonl:{record['n'] + 1}", record["text"], expected)
            assert Document(**json.loads(json.dumps(documents[index]._asdict()))) == documents[index]
            assert data.tokenizer.decode(stream.document(index)) == record["other/text"]
            assert data.tokenizer.decode(split.stream.document(index)) == record["text"]
        assert stream.lengths.tolist() == [len(stream.document(i)) for i in range(len(wanted))]
        assert stream.tokens[stream.offsets - 1].tolist() == [split.end_id] * (len(wanted) + 1)
        seen += wanted
        assert data.provenance["splits"][name]["num_documents"] == len(wanted)
    assert seen == RECORDS
    again = pipeline.prepare(config, FIELDS, cache)
    assert again.provenance == data.provenance == json.loads(json.dumps(data.provenance))
    assert data.provenance["fields"]["classes"] == {"label": ["x", "y", "z"], "n2": ["0", "1"]}


def test_fields_that_are_not_asked_for_change_nothing(records, cache):
    config = DataConfig(corpus=records(RECORDS), vocab_size=300)
    first = pipeline.prepare(config, cache_dir=cache)
    assert records([{"text": record["text"]} for record in RECORDS]) == config.corpus
    second = pipeline.prepare(config, cache_dir=cache)
    assert second.provenance == first.provenance
    assert "fields" not in first.provenance
    for name, split in first.splits.items():
        assert split.tokens.tolist() == second.splits[name].tokens.tolist()
        assert all(document.fields == {} for document in split.documents())


def test_the_tokenizer_learns_from_further_texts_too(records, cache):
    corpus = records([{"text": "a", "target": f"b{i}"} for i in range(9)])
    config = DataConfig(corpus=corpus, split="tail:2chars", tokenizer="word", vocab_size=0)
    words = pipeline.prepare(config, Fields(texts=("target",)), cache).tokenizer.words
    assert sorted(words) == ["a", *(f"b{i}" for i in range(7))]


def test_other_fields_of_one_text_are_another_store(records, cache):
    config = DataConfig(corpus=records(RECORDS), vocab_size=300)
    first = pipeline.prepare(config, Fields(labels=("label",)), cache).provenance
    changed = [r | {"label": "xyz"[(r["n"] + 1) % 3]} for r in RECORDS]
    assert records(changed) == config.corpus
    second = pipeline.prepare(config, Fields(labels=("label",)), cache).provenance
    assert first["sha256"] == second["sha256"]
    assert first["fields"] != second["fields"]


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        (
            {},
            Fields(labels=("class",)),
            r"records.jsonl:1 has no field 'class' \(its fields: other/text, label",
        ),
        ({"label": ""}, Fields(labels=("label",)), "records.jsonl:40 has no label in the field 'label'"),
        (
            {"label": "w"},
            Fields(labels=("label",)),
            r"records.jsonl:40 of the valid part has the label 'w' .* no training document has .*x, y, z\)",
        ),
        ({"label": "w"}, Fields(numbers=("label",)), "records.jsonl:1 has no finite number in the field"),
        ({"score": None}, Fields(numbers=("score",)), "records.jsonl:40 has no field 'score'"),
        ({"score": float("nan")}, Fields(numbers=("score",)), "records.jsonl:40 has no finite number"),
        ({"other/text": 3}, Fields(texts=("other/text",)), "records.jsonl:40 has no text in the field"),
    ],
)
def test_a_document_without_a_usable_field_raises_user_error(records, cache, change, fields, message):
    config = DataConfig(corpus=records([*RECORDS[:-1], RECORDS[-1] | change]), split="tail:0.1")
    with pytest.raises(UserError, match=message):
        pipeline.prepare(config, fields, cache)
    assert not list(cache.glob("tokens-*"))
