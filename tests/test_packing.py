"""Several documents in a row of a batch: segments separate them."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from hypothesis import given
from hypothesis import strategies as st

from lm_jax.data import pipeline
from lm_jax.data.batches import Windows, evaluation_batches
from lm_jax.models.gpt import GPT, GPTConfig

END = 0


def stream(lengths):
    """A split of documents whose tokens are their number, from 1 on, with END between them as in a store."""
    tokens, offsets = [END], [1]
    for number, length in enumerate(lengths, 1):
        tokens += [number] * length + [END]
        offsets.append(len(tokens))
    return SimpleNamespace(
        tokens=np.array(tokens), num_tokens=len(tokens) - 1, document_offsets=np.array(offsets)
    )


def documents_of(inputs):
    """The number of beginnings up to each place of a row: what segments should count."""
    return np.cumsum(inputs == END, axis=1) - (inputs[:, :1] == END)


LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=9)


@given(lengths=LENGTHS, length=st.integers(1, 30), step=st.integers(0, 50), seed=st.integers(0, 3))
def test_segments_count_the_documents_that_begin_within_a_row(lengths, length, step, seed):
    windows = Windows(stream(lengths), 4, length, seed, separate_documents=True)
    batch = windows.batch(step)
    assert batch.segments.dtype == np.int32
    assert np.array_equal(batch.segments, documents_of(batch.inputs))
    plain = Windows(stream(lengths), 4, length, seed).batch(step)
    assert plain.segments is None
    assert all(np.array_equal(a, b) for a, b in zip(batch[:3], plain[:3]))
    halves = [windows.batch(step, process, 2).segments for process in (0, 1)]
    assert np.array_equal(np.concatenate(halves), batch.segments)


@given(lengths=LENGTHS, length=st.integers(1, 30))
def test_evaluation_has_the_same_segments(lengths, length):
    for batch in evaluation_batches(stream(lengths), 2, length, separate_documents=True):
        is_real = batch.weights == 1
        assert np.array_equal(batch.segments[is_real], documents_of(batch.inputs)[is_real])
        assert (batch.segments[~is_real] == -1).all()
    assert next(evaluation_batches(stream(lengths), 2, length)).segments is None


def test_documents_are_separated_by_their_offsets_not_by_a_token(tmp_path):
    """A word tokenizer's end also closes the sentences inside a document."""
    (tmp_path / "a.txt").write_text("a b\nc\n\n" * 20)
    config = dataclasses.replace(
        tiny.config(tmp_path / "a.txt").data, documents="paragraph", tokenizer="word", separate_documents=True
    )
    split = pipeline.prepare(config, cache_dir=tmp_path / "cache").splits["train"]
    batch = pipeline.make_source(split, config, 2, 0).batch(0)
    beginnings = [np.flatnonzero(np.diff(row)) for row in batch.segments]
    assert {gap for places in beginnings for gap in np.diff(places).tolist()} == {6}  # a b </s> c </s> </s>


def test_no_position_attends_to_another_document():
    model = GPT(GPTConfig(vocab_size=8, max_length=16, num_layers=1, num_heads=2, d_model=16))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16), jnp.int32))
    hidden = jax.jit(
        lambda tokens, segments: model.apply(params, tokens, segments=segments, method="hidden")[0]
    )
    batch = Windows(stream([3, 4, 5, 6, 2]), 2, 16, 0, separate_documents=True).batch(0)
    before = np.asarray(hidden(batch.inputs, batch.segments))
    for place in range(16):
        changed = batch.inputs.copy()
        changed[:, place] = (changed[:, place] + 1) % 8
        moved = np.any(np.asarray(hidden(changed, batch.segments)) != before, axis=-1)
        is_same = batch.segments == batch.segments[:, place : place + 1]
        assert np.array_equal(moved, is_same & (np.arange(16) >= place))
