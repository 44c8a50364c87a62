"""From documents to batches: what is stored, what is built again, and what a step reads."""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import os
import resource
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_jax.batch import Batch
from lm_jax.data import pipeline, python_docs, store
from lm_jax.data.pipeline import DataConfig, Streams, Windows, evaluation_batches, prefetch
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
    data = pipeline.prepare(dataclasses.replace(config, tokenizer=tokenizer), cache)
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
    data = pipeline.prepare(dataclasses.replace(config, tokenizer="word", vocab_size=0), cache)
    train = " ".join(d.text for d in data.splits["train"].documents()).split()
    assert sorted(data.tokenizer.words) == sorted(set(train))
    assert (data.splits["test"].tokens == data.tokenizer.unknown_id).any()


def test_provenance_names_the_text(config, cache):
    whole = hashlib.sha256("".join(PARAGRAPHS).encode()).hexdigest()
    for split in ("hash:0.2,0.2", "tail:0.15", "tail:33chars,10chars"):
        provenance = pipeline.prepare(dataclasses.replace(config, split=split), cache).provenance
        assert provenance["sha256"] == whole
        assert provenance["sources"] == {"train": {}}
        assert (provenance["corpus"], provenance["split"]) == (config.corpus, split)
        assert sum(facts["num_bytes"] for facts in provenance["splits"].values()) == len(
            "".join(PARAGRAPHS).encode()
        )


def test_other_sources_replace_parts_and_leave_the_others_alone(config, cache, tmp_path):
    (tmp_path / "other.txt").write_text("Another text.\n\nOf two paragraphs.")
    plain = pipeline.prepare(config, cache).splits
    for part, kept in (("valid", "test"), ("test", "valid")):
        for source in (f"{tmp_path}/other.txt", f"text:{tmp_path}/other.txt"):
            found = pipeline.prepare(dataclasses.replace(config, **{part: source}), cache).splits
            assert [d.text for d in found[part].documents()] == ["Another text.\n\n", "Of two paragraphs."]
            assert found[kept].sha256 == plain[kept].sha256
            assert found["train"].num_documents + found[kept].num_documents == len(PARAGRAPHS)
    both = dataclasses.replace(
        config, valid=f"{tmp_path}/other.txt", test=f"{tmp_path}/other.txt", split="hash:0"
    )
    assert pipeline.prepare(both, cache).splits["train"].num_documents == len(PARAGRAPHS)


def test_no_test_part_where_none_is_held_out(config, cache):
    assert set(pipeline.prepare(dataclasses.replace(config, split="tail:0.1"), cache).splits) == {
        "train",
        "valid",
    }


def test_large_vocabularies_are_stored_whole(tmp_path, cache):
    (tmp_path / "a.txt").write_text(" ".join(f"w{i}" for i in range(70_000)))
    config = DataConfig(corpus=f"text:{tmp_path}/a.txt", split="tail:10words", tokenizer="word", vocab_size=0)
    tokens = pipeline.prepare(config, cache).splits["train"].tokens
    assert tokens.dtype == np.uint32
    assert len(set(tokens.tolist())) == 69_991


def test_what_was_built_is_opened(config, cache, monkeypatch):
    first = pipeline.prepare(config, cache)
    monkeypatch.setattr(store, "write_texts", None)
    monkeypatch.setattr(store, "write_tokens", None)
    second = pipeline.prepare(config, cache)
    assert second.provenance == first.provenance
    assert np.array_equal(second.splits["train"].tokens, first.splits["train"].tokens)


def test_python_docs_are_not_parsed_twice(cache, monkeypatch):
    config = DataConfig(tokenizer="byte")
    first = pipeline.prepare(config, cache)
    assert first.provenance["sources"] == {"train": {"python_version": python_docs.VERSION}}
    assert {"train", "valid", "test"} == set(first.splits)
    monkeypatch.setattr(python_docs, "documentation", None)
    assert pipeline.prepare(config, cache).provenance == first.provenance


@pytest.mark.parametrize(
    "change",
    [{"split": "hash:0.3,0.2"}, {"documents": "line"}, {"tokenizer": "byte"}, {"vocab_size": 290}],
)
def test_another_setting_is_another_store(config, cache, change):
    first = pipeline.prepare(config, cache)
    second = pipeline.prepare(dataclasses.replace(config, **change), cache)
    assert len(first.splits["train"].tokens) != len(second.splits["train"].tokens)
    texts = 2 if {"split", "documents"} & change.keys() else 1
    assert (len(list(cache.glob("texts-*"))), len(list(cache.glob("tokens-*")))) == (texts, 2)


def test_a_changed_file_is_read_again_even_with_its_old_date(config, cache, tmp_path):
    path = tmp_path / "text.txt"
    pipeline.prepare(config, cache)
    status = path.stat()
    text = path.read_text(encoding="utf-8").replace("Paragraph 7 ", "Paragraph X ")
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    data = pipeline.prepare(config, cache)
    assert any("Paragraph X " in d.text for s in data.splits.values() for d in s.documents())


def test_a_loaded_tokenizer_is_known_by_its_content(config, cache, tmp_path):
    first = pipeline.prepare(config, cache)
    first.tokenizer.save(tmp_path / "tok")
    loaded = dataclasses.replace(config, tokenizer=str(tmp_path / "tok"), split="hash:0.3,0.2")
    second = pipeline.prepare(loaded, cache)
    assert second.tokenizer.fingerprint() == first.tokenizer.fingerprint()
    pipeline.prepare(dataclasses.replace(config, tokenizer="byte"), cache).tokenizer.save(tmp_path / "tok")
    assert pipeline.prepare(loaded, cache).tokenizer.kind == "byte"


def test_a_damaged_store_is_built_again(config, cache):
    expected = pipeline.prepare(config, cache).splits["valid"].tokens.tolist()
    path = next(cache.glob("tokens-*")) / "valid.tokens"
    path.write_bytes(path.read_bytes()[:-2])
    assert pipeline.prepare(config, cache).splits["valid"].tokens.tolist() == expected
    (next(cache.glob("texts-*")) / "facts.json").write_text("{")
    assert pipeline.prepare(config, cache).splits["valid"].tokens.tolist() == expected
    assert not list(cache.glob(".*"))


def test_a_failure_leaves_nothing_and_the_next_run_begins_anew(config, cache, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write_tokens", fail)
    with pytest.raises(KeyboardInterrupt):
        pipeline.prepare(config, cache)
    assert not [*cache.glob("tokens-*"), *cache.glob(".*")]
    monkeypatch.undo()
    assert pipeline.prepare(config, cache).splits["train"].num_tokens > 0


def test_several_at_once_build_the_same_store(config, cache):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: pipeline.prepare(config, cache), range(4)))
    assert len({tuple(data.splits["train"].tokens.tolist()) for data in found}) == 1
    assert len(list(cache.iterdir())) == 2


def test_a_store_that_another_process_finished_first_is_taken(cache):
    def fill(directory):
        store.build(cache / "one", lambda other: (other / "a").write_text("first") and {"n": 1})
        (directory / "a").write_text("second")
        return {"n": 1}

    store.build(cache / "one", fill)
    assert (cache / "one/a").read_text() == "first"
    assert [path.name for path in cache.iterdir()] == ["one"]


def test_no_room_is_a_users_mistake(config, cache):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*: File too large; .* LM_JAX_CACHE"):
            pipeline.prepare(config, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(cache.iterdir()) == []


def test_no_place_is_a_users_mistake(config, tmp_path, monkeypatch):
    monkeypatch.setenv("LM_JAX_CACHE", str(tmp_path / "text.txt"))
    with pytest.raises(UserError, match=r"cannot write .*text.txt: .*; .* LM_JAX_CACHE"):
        pipeline.prepare(config)
    monkeypatch.setenv("LM_JAX_CACHE", str(tmp_path / "elsewhere"))
    pipeline.prepare(config)
    assert (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": "file"}, r"none of 1 documents .* to valid.*; hold out a tail"),
        ({"split": "hash:0.2,0.0000001"}, "none of 60 documents .* to test"),
        ({"split": "hash:0"}, "no validation part; hold one out, or give data.valid"),
        ({"split": "thirds"}, "is no split"),
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
def test_a_wrong_request_is_a_users_mistake_and_leaves_nothing(config, cache, change, message):
    with pytest.raises(UserError, match=message):
        pipeline.prepare(dataclasses.replace(config, **change), cache)
    assert not [*cache.glob("tokens-*"), *cache.glob(".*")]


def test_progress_is_told(config, cache):
    told = []
    pipeline.prepare(config, cache, lambda *arguments: told.append(arguments))
    assert {d.split()[0] for d, _, _ in told} == {"reading", "training", "encoding"}
    assert all(0 <= done <= total for _, done, total in told)


def circle(num_tokens):
    """A split whose tokens are their places; the last is the first, as end tokens are."""
    return SimpleNamespace(tokens=np.arange(num_tokens + 1) % num_tokens, num_tokens=num_tokens)


SIZES = st.tuples(st.integers(1, 200), st.integers(1, 7), st.integers(1, 9))


@given(sizes=SIZES, step=st.integers(0, 1000), seed=st.integers(0, 3))
def test_batches_are_functions_of_the_step_that_any_number_of_processes_shares(sizes, step, seed):
    num_tokens, batch_size, length = sizes
    for make in (lambda: Windows(circle(num_tokens), 6 * batch_size, length, seed),
                 lambda: Streams(circle(num_tokens), 6 * batch_size, length)):  # fmt: skip
        whole = make().batch(step)
        assert whole.inputs.shape == whole.targets.shape == whole.weights.shape == (6 * batch_size, length)
        assert [a.dtype for a in whole[:3]] == [np.int32, np.int32, np.float32]
        assert whole.weights.all()
        assert whole.segments is None
        assert np.array_equal(whole.targets, (whole.inputs + 1) % num_tokens)
        other = make()
        other.batch(step + 1)
        for count in (2, 3):
            shares = [other.batch(step, process, count) for process in range(count)]
            assert np.array_equal(np.concatenate([s.inputs for s in shares]), whole.inputs)
            assert np.array_equal(np.concatenate([s.targets for s in shares]), whole.targets)


@given(sizes=SIZES, seed=st.integers(0, 3))
def test_every_epoch_of_windows_scores_each_token_at_most_once(sizes, seed):
    num_tokens, batch_size, length = sizes
    windows = Windows(circle(num_tokens), batch_size, length, seed)
    num_windows = max(1, num_tokens // length)
    rows = np.concatenate([windows.batch(s).targets for s in range(-(-3 * num_windows // batch_size))])
    for epoch in range(3):
        seen = rows[epoch * num_windows : (epoch + 1) * num_windows].ravel()
        if num_tokens >= length:
            assert len(set(seen.tolist())) == len(seen) > num_tokens - length
        else:
            assert set(seen.tolist()) == set(range(num_tokens))
    assert windows.steps_per_epoch == -(-num_windows // batch_size)


def test_epochs_and_seeds_differ_in_order_and_in_edges():
    windows = [Windows(circle(1000), 10, 10, seed) for seed in (0, 1)]
    epochs = [w.batch(s).inputs[:, 0] for w in windows for s in (0, 10)]
    assert len({tuple(e) for e in epochs}) == 4
    assert len({tuple(e % 10) for e in epochs}) > 1
    assert all(len(set(e % 10)) == 1 for e in epochs)


@given(sizes=SIZES)
def test_streams_go_on_and_meet_where_the_next_one_began(sizes):
    num_tokens, batch_size, length = sizes
    streams = Streams(circle(num_tokens), batch_size, length)
    batches = [streams.batch(step) for step in range(streams.steps_per_epoch + 2)]
    for before, after in itertools.pairwise(batches):
        assert np.array_equal(before.targets[:, -1], after.inputs[:, 0])
    epoch = np.concatenate([b.targets for b in batches[: streams.steps_per_epoch]], axis=1)
    assert set(epoch.ravel().tolist()) == set(range(num_tokens))
    assert batches[0].inputs[0, 0] == 0


@given(sizes=SIZES, processes=st.integers(1, 3))
def test_evaluation_scores_every_token_once(sizes, processes):
    num_tokens, batch_size, length = sizes
    batch_size *= processes
    split = SimpleNamespace(tokens=np.arange(num_tokens + 1), num_tokens=num_tokens)
    shares = [list(evaluation_batches(split, batch_size, length, p, processes)) for p in range(processes)]
    batches = [
        Batch(*(np.concatenate(arrays) for arrays in zip(*(b[:3] for b in group)))) for group in zip(*shares)
    ]
    assert all(b.inputs.shape == (batch_size, length) for b in batches)
    scored = np.concatenate([b.targets[b.weights == 1] for b in batches])
    assert sorted(scored.tolist()) == list(range(1, num_tokens + 1))
    assert sum(b.weights.sum() for b in batches) == num_tokens
    for b in batches:
        assert np.array_equal((b.inputs + 1)[b.weights == 1], b.targets[b.weights == 1])
    for before, after in itertools.pairwise(batches):
        is_real = after.weights[:, 0] == 1
        assert np.array_equal(before.targets[is_real, -1], after.inputs[is_real, 0])
    assert len(batches) == -(-num_tokens // (batch_size * length))


def test_a_batch_that_cannot_be_shared_is_a_users_mistake():
    for make in (
        lambda: Windows(circle(9), 3, 2, 0).batch(0, 0, 2),
        lambda: Streams(circle(9), 3, 2).batch(0, 0, 2),
        lambda: list(evaluation_batches(circle(9), 3, 2, 0, 2)),
    ):
        with pytest.raises(
            UserError, match=r"batch_size=3 cannot be shared evenly by 2 .*; make it a multiple of 2"
        ):
            make()


def test_the_config_names_the_source(config, cache):
    split = pipeline.prepare(config, cache).splits["train"]
    assert isinstance(pipeline.make_source(split, config, 4, 0), Windows)
    contiguous = pipeline.make_source(split, dataclasses.replace(config, order="contiguous"), 4, 0)
    assert contiguous.batch(0).inputs[0].tolist() == split.tokens[:8].tolist()


def test_every_row_of_a_window_is_a_piece_of_the_stream(config, cache):
    split = pipeline.prepare(config, cache).splits["train"]
    windows = Windows(split, 2, 5, seed=3)
    stream = np.concatenate([split.tokens, split.tokens[1:]]).astype(np.int32)
    rows = np.lib.stride_tricks.sliding_window_view(stream, 6)
    for step in range(2 * windows.steps_per_epoch):
        batch = windows.batch(step)
        for row in np.concatenate([batch.inputs, batch.targets[:, -1:]], axis=1):
            assert (rows == row).all(axis=1).any()


def test_prefetch_gives_the_batches_of_the_steps_in_order():
    windows = Windows(circle(100), 2, 5, 0)
    with prefetch(windows, 3, 20) as batches:
        for step, batch in enumerate(batches, 3):
            assert np.array_equal(batch.inputs, windows.batch(step).inputs)
    assert step == 19
    assert list(prefetch(lambda step: step * step, 2, 5, depth=1)) == [4, 9, 16]
    assert list(prefetch(lambda step: step, 5, 5)) == []


def test_prefetch_runs_ahead_no_further_than_asked():
    made, consumed = [], threading.Event()

    def make(step):
        made.append(step)
        consumed.set()
        return step

    with prefetch(make, 0, 100, depth=3) as batches:
        assert next(batches) == 0
        consumed.clear()
        while consumed.wait(0.2):
            consumed.clear()
        assert made == [0, 1, 2, 3, 4]  # one consumed, three in the queue, one waiting for room


def test_prefetch_raises_what_the_thread_raised_after_what_came_before():
    def make(step):
        if step == 2:
            raise UserError("no batch 2")
        return step

    batches = prefetch(make, 0, 9)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(UserError, match="no batch 2"):
        next(batches)
    assert list(batches) == []


def test_prefetch_ends_its_thread_when_closed():
    before = threading.active_count()
    with prefetch(lambda step: step, 0, 10**9) as batches:
        assert next(batches) == 0
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert list(batches) == []
    batches.close()


def test_prefetch_measures_how_long_the_consumer_waited():
    with prefetch(lambda step: time.sleep(0.05), 0, 4, depth=1) as slow:
        list(slow)
    assert 0.1 < slow.waited_seconds < 5
    with prefetch(lambda step: step, 0, 3) as fast:
        time.sleep(0.2)
        list(fast)
    assert fast.waited_seconds < 0.1
